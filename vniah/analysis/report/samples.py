"""The samples of runs as data for the page's script: columns, and each text once.

So a sample takes some tens of bytes. What is left out, because a page should open in a moment, is
said in a sentence.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vniah.analysis.report.escaping import visible_text
from vniah.analysis.statistics.estimates import cell_intervals
from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.table_rows import all_cells
from vniah.errors import counted
from vniah.grid import Cell, format_depth, place_prefix
from vniah.results import SAMPLES_NAME, Results, SampleResult, asked_name

MOST_SAMPLES = 250_000
"""Of all runs of a report together."""

MOST_TEXT = 8_000_000
"""Characters of all different texts together."""

_LENGTHS = (100_000, 5_000, 1_000, 300, 100, 30)
"""How long a text may be: the first of these with which all texts have room."""

_DIGITS = 6

_WRONG, _RIGHT, _ERROR = 0, 1, 2

_KNOWN_FIELDS = ("needle_id", "num_frames")
"""Fields of samples that have a column of their own."""


class _Texts:
    """Different texts, each with a number; all have as many characters as there is room for."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def column(self, texts: Iterable[str | None]) -> list[int]:
        """The number of each text; -1 for None."""
        numbers, column = self._numbers, list(texts)
        own = {
            text: -1 if text is None else numbers.setdefault(text, len(numbers))
            for text in dict.fromkeys(column)
        }
        return [own[text] for text in column]

    @property
    def longest(self) -> int:
        """The most characters of a text."""
        sizes = Counter(map(len, self._numbers))
        for most in _LENGTHS:
            if sum(min(size, most) * count for size, count in sizes.items()) <= MOST_TEXT:
                return most
        return _LENGTHS[-1]

    def visible(self) -> list[str]:
        most = self.longest
        return [visible_text(text, most) for text in self._numbers]

    @property
    def num_cut(self) -> int:
        """How many texts are not whole."""
        most = self.longest
        return sum(len(text) > most for text in self._numbers)


class SampleData:
    """The samples of all runs of a report.

    Attributes:
        notes: sentences on what is left out.
    """

    def __init__(self, runs: Sequence[Results]) -> None:
        texts = _Texts()
        chosen, self.notes = _choose(runs)
        self._runs = [
            _run_record(results, samples, texts)
            for results, samples in zip(runs, chosen, strict=True)
        ]
        self._texts = texts.visible()
        if texts.num_cut:
            self.notes.append(
                f"{counted(texts.num_cut, 'text')} of more than {texts.longest:,} characters "
                f"{'is' if texts.num_cut == 1 else 'are'} cut here; {SAMPLES_NAME} has them whole"
            )

    def record(
        self, labels: Sequence[str], pictures: Sequence[Mapping[str, str]]
    ) -> dict[str, Any]:
        """The data as JSON values.

        Args:
            labels: a name for each run.
            pictures: for each run, the ids of the page's picture elements by the ids of needles.

        Returns:
            ``texts``, and for each of ``runs`` its ``label`` and ``pictures``; whether it
            ``is_published``, and so has no samples; if so, that it ``is_approximate``; what
            ``axis``, ``row`` and ``predicted`` are called;
            ``places``, a list of ``[id prefix, number of frames, row, needle index]``;
            ``controls``, names; ``cells``, a list of ``[place, score, low, high, number with a
            score, right, errors]``; ``columns`` and ``fields``, by name a list with a value for
            each sample, or the value that all have. ``place``, ``control`` and all that is text
            are numbers of entries in ``places``, ``controls`` and ``texts``, and -1 for none.
        """
        runs = [
            {"label": visible_text(label), "pictures": dict(found), **record}
            for label, found, record in zip(labels, pictures, self._runs, strict=True)
        ]
        return {"texts": self._texts, "runs": runs}


def row_label(results: Results, cell: Cell) -> str:
    """What the row of a map is called that a cell stands in: its depth, or its position."""
    row = results.row_of(cell)
    return f"{int(row):,}" if results.has_positions else format_depth(row)


def _all_samples(results: Results) -> Iterator[SampleResult]:
    yield from results.samples
    yield from results.control_samples


def _choose(runs: Sequence[Results]) -> tuple[list[list[SampleResult]], list[str]]:
    """The samples of each run that the page holds, and sentences on those that it does not.

    Of too many, every cell keeps its first ones, equally many, and so does every control at each
    place.
    """
    everything = [list(_all_samples(results)) for results in runs]
    total = sum(map(len, everything))
    if total <= MOST_SAMPLES:
        return everything, []
    groups = Counter(
        (number, sample.control, sample.num_frames, sample.depth)
        for number, samples in enumerate(everything)
        for sample in samples
    )
    sizes = Counter(groups.values())
    most = 1
    while sum(min(size, most + 1) * count for size, count in sizes.items()) <= MOST_SAMPLES:
        most += 1
    kept = [_first_of_each(samples, most) for samples in everything]
    num_kept = sum(map(len, kept))
    note = (
        f"{num_kept:,} of {total:,} samples are in this page: the first {most:,} of each cell, and "
        "of each control at its place. Scores, maps and tables are over all samples, and "
        f"{SAMPLES_NAME} of each run has the others"
    )
    return kept, [note]


def _first_of_each(samples: Sequence[SampleResult], most: int) -> list[SampleResult]:
    counts: Counter[tuple[object, ...]] = Counter()
    kept = []
    for sample in samples:
        key = (sample.control, sample.num_frames, sample.depth)
        counts[key] += 1
        if counts[key] <= most:
            kept.append(sample)
    return kept


def _run_record(results: Results, samples: Sequence[SampleResult], texts: _Texts) -> dict[str, Any]:
    places: dict[str, int] = {}
    rows: list[list[Any]] = []

    def place(cell: Cell | None, num_frames: int | None = None) -> int:
        prefix = place_prefix(num_frames, None) if cell is None else cell.prefix
        number = places.get(prefix)
        if number is None:
            number = places[prefix] = len(rows)
            if cell is None:
                rows.append([prefix, num_frames, None, None])
            else:
                rows.append([prefix, cell.num_frames, row_label(results, cell), cell.needle_index])
        return number

    intervals = {} if results.is_approximate else cell_intervals(results)
    cells = [
        [
            place(found.cell),
            _number(found.score),
            *_ends(intervals.get(found.cell)),
            *(found.num_samples, found.num_correct, found.num_errors),
        ]
        for found in all_cells(results)
    ]
    controls = list(dict.fromkeys(sample.control for sample in samples if sample.control))
    numbers = {name: number for number, name in enumerate(controls)}
    columns: dict[str, list[Any]] = {
        "place": [place(sample.cell, sample.num_frames) for sample in samples],
        "control": [numbers.get(sample.control or "", -1) for sample in samples],
        "outcome": [_outcome(sample) for sample in samples],
        "name": texts.column(asked_name(sample) for sample in samples),
        "needle": texts.column(_as_text(sample.needle_id) for sample in samples),
        "question": texts.column(sample.question for sample in samples),
        "answer": texts.column(sample.answer for sample in samples),
        "prediction": texts.column(sample.prediction for sample in samples),
        "variant": texts.column(sample.variant for sample in samples),
        "error": texts.column(sample.error for sample in samples),
        "logprob": [_number(sample.logprob) for sample in samples],
        "margin": [_number(sample.margin) for sample in samples],
        "rank": [sample.rank for sample in samples],
    }
    names = dict.fromkeys(name for sample in samples for name in sample.fields)
    fields = {
        name: texts.column(_as_text(sample.fields.get(name)) for sample in samples)
        for name in names
        if name not in _KNOWN_FIELDS
    }
    if results.is_approximate:  # some of its samples are exact
        columns["approximate"] = [bool(one.approximate) for one in samples]
    return {
        "is_published": not results.manifest,
        **({"is_approximate": True} if results.is_approximate else {}),
        "axis": results.axis,
        "row": "position" if results.has_positions else "depth",
        "predicted": _predicted(samples),
        "places": rows,
        "cells": cells,
        "controls": [visible_text(name) for name in controls],
        "num_samples": len(samples),
        "columns": {name: _packed(values) for name, values in columns.items()},
        "fields": {visible_text(name): _packed(values) for name, values in fields.items()},
    }


def _predicted(samples: Sequence[SampleResult]) -> str:
    """What the prediction of a sample is called."""
    if any(sample.has_conditioned_prediction for sample in samples):
        return "argmax, each token given the right ones before it"
    return "predicted"


def _outcome(sample: SampleResult) -> int:
    return _ERROR if sample.correct is None else _RIGHT if sample.correct else _WRONG


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (_number(interval.low), _number(interval.high))


def _packed(values: list[Any]) -> Any:
    """The values, or the one that all have."""
    first = values[0] if values else None
    return first if values.count(first) == len(values) else values


def _as_text(value: Any) -> str | None:
    """A value of a field as it is shown; a list with commas between its items."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(str(_as_text(item)) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> float | None:
    """A number with as many digits as anybody reads."""
    return None if value is None else float(f"{value:.{_DIGITS}g}")
