"""Tables of results as texts in rows and columns, for the terminal and for papers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from vniah.analysis.applied import applied_texts
from vniah.analysis.labels import like_these, result_labels
from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.statistics.summary import summarize
from vniah.analysis.table_notes import (
    about,
    adaptive_note,
    approximate_note,
    average_over,
    corrected_note,
    gaps,
    is_whole,
)
from vniah.analysis.table_rows import (
    ALL_ORDERS,
    Row,
    all_cells,
    cell_rows,
    control_rows,
    length_rows,
    needle_rows,
)
from vniah.analysis.tables import format_columns, place_rows
from vniah.errors import ResultsError, counted
from vniah.options import TableKind
from vniah.results import Results

NO_VALUE = "."
"""Stands where there is no value."""


@dataclass(frozen=True)
class Layout:
    """One table.

    Attributes:
        rows: texts, all rows with equally many; the first is the heading, and the first text of
            each row is its name.
        title: what it is of; empty if that is clear.
        notes: sentences that belong below it.
    """

    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The table in columns, with its notes, without its title."""
        return "\n".join((format_columns(self.rows), *self.notes))


def layouts(
    runs: Sequence[Results], kind: TableKind, *, intervals: bool = False, confidence: float = 0.95
) -> list[Layout]:
    """The tables of one kind of some results; several results side by side where they can be.

    Args:
        runs: the results.
        kind: as in `vniah.analysis.table_rows.table`.
        intervals: whether each score has its interval behind it.
        confidence: of the intervals.
    """
    names = result_labels(runs)
    if kind == "cells":
        return [
            Layout(found.rows, name, (*found.notes, *about(results), *gaps(results)))
            for name, results in zip(names, runs, strict=True)
            for found in [cells_layout(results, intervals=intervals, confidence=confidence)]
        ]
    if kind == "applied":
        texts = [applied_texts(results, confidence) for results in runs]
        named = zip(names, texts, strict=True)
        return [Layout(rows, name, notes) for name, (rows, notes) in named if rows]
    if kind == "needles":
        return [needles_layout(names, runs, confidence=confidence)]
    make = lengths_layout if kind == "lengths" else controls_layout
    found = []
    axes = list(dict.fromkeys(results.axis for results in runs))
    for axis in axes:
        some = [(name, run) for name, run in zip(names, runs, strict=True) if run.axis == axis]
        if kind == "controls" and not any(run.controls for _, run in some):
            continue
        layout = make(*zip(*some, strict=True), intervals=intervals, confidence=confidence)
        notes = [f"{name}: {line}" for name, run in some for line in _notes(run, kind, confidence)]
        title = f"number of {axis}" * (len(axes) > 1)
        found.append(Layout(layout.rows, title, (*layout.notes, *notes)))
    return found


def _notes(results: Results, kind: TableKind, confidence: float) -> list[str]:
    """What has to be said of one result below a table of several."""
    if kind == "controls":
        return gaps(results) if results.controls else ["no controls"]
    return [
        *_claims(results, confidence),
        *about(results),
        *gaps(results),
        *_unfinished(results, confidence),
    ]


def cells_layout(results: Results, *, intervals: bool = False, confidence: float = 0.95) -> Layout:
    """The scores of the cells, depths or positions downwards and frames to the right.

    Below are their means at each number of frames, and the ends of the interval of each mean.
    """
    rows = cell_rows(results, confidence)
    texts = {
        found.cell: _score(row, intervals)
        for found, row in zip(all_cells(results), rows, strict=True)
        if row["score"] is not None
    }
    means = {row["num_frames"]: row for row in length_rows(results, confidence)[1:]}
    known = {n: row for n, row in means.items() if row["score"] is not None}
    footer = {"mean": {length: f"{row['score']:.2f}" for length, row in known.items()}}
    ends = {length: row for length, row in known.items() if row["low"] is not None}
    about_scores = (approximate_note(results),) * results.is_approximate
    if not ends:
        return Layout(place_rows(results, texts, footer), notes=about_scores)
    if results.is_approximate:
        footer["corrected"] = {length: f"{row['corrected']:.2f}" for length, row in ends.items()}
    footer["from"] = {length: f"{row['low']:.2f}" for length, row in ends.items()}
    footer["to"] = {length: f"{row['high']:.2f}" for length, row in ends.items()}
    percent = percent_of(confidence)
    if results.is_approximate:
        note = corrected_note(results, len(known) - len(ends), percent)
        return Layout(place_rows(results, texts, footer), notes=(*about_scores, note))
    like = like_these([results])
    note = f"from, to: the {percent} interval of the mean for {like}"
    inside = f"in parentheses: the {percent} interval of a cell, for {like} in it alone"
    return Layout(place_rows(results, texts, footer), notes=(note, *[inside] * intervals))


def lengths_layout(
    names: Sequence[str],
    runs: Sequence[Results],
    *,
    intervals: bool = False,
    confidence: float = 0.95,
) -> Layout:
    """Results in one line each: the mean over depth at each number of frames, the average over the
    cells, its interval for needles like these, and the effective length.
    """
    names = _named(names, runs)
    found = [length_rows(results, confidence) for results in runs]
    counts = sorted({row["num_frames"] for rows in found for row in rows[1:]})
    # What an average is over is said of all runs as soon as it is not the whole grid in one.
    are_whole = all(map(is_whole, runs))
    percent = percent_of(confidence)
    ending = ["average", percent, "effective length", percent]
    unit = f" ({runs[0].axis})" if runs and runs[0].axis != "frames" else ""
    mean = "mean over depth" if not runs or any(run.has_depths for run in runs) else "mean"
    lines = [[f"{mean}{unit}", *(f"{count:,}" for count in counts), *ending]]
    for name, results, rows in zip(names, runs, found, strict=True):
        texts = {row["num_frames"]: _score(row, intervals) for row in rows}
        has_average = results.average is not None and not results.stopped_early
        average = f"{results.average:.4f}" if has_average else NO_VALUE
        whole: Row = rows[0] if rows else {"low": None}
        interval_of_average = (
            NO_VALUE
            if whole["low"] is None
            else Interval(whole["low"], whole["high"]).text("-", around=results.average)
        )
        summary = summarize(results, confidence=confidence)
        lengths = (
            summary.effective_length.short
            if summary.these_needles is not None
            else (NO_VALUE, NO_VALUE)
        )
        means = [texts.get(count, NO_VALUE) for count in counts]
        lines.append([name, *means, average, interval_of_average, *lengths])
    if not are_whole:
        for line, over in zip(lines, ("over", *map(average_over, runs)), strict=True):
            line.append(over)
    legend = f"{percent}: the interval of what stands before it, for {like_these(runs)}"
    inside = f"in parentheses: the {percent} interval of a mean, for {like_these(runs)}"
    has_ends = intervals and any(row["low"] is not None for rows in found for row in rows)
    below = (
        "effective length: < stands where the score at the shortest length is below 0.9 already, "
        ">= where no length is too long"
    )
    signs = [below] * any("<" in text or ">" in text for line in lines[1:] for text in line[-5:])
    about_runs = [_about_approximate(*one) for one in zip(names, runs, found, strict=True)]
    notes = (legend, *[inside] * has_ends, *signs, *filter(None, about_runs))
    return Layout(tuple(map(tuple, lines)), notes=notes)


def _named(names: Sequence[str], runs: Sequence[Results]) -> list[str]:
    """The names, each of which says it where its run is approximate."""
    return [run.named(name) for name, run in zip(names, runs, strict=True)]


def _about_approximate(name: str, results: Results, rows: Sequence[Row]) -> str:
    """What has to be known of the numbers of an approximate run; empty for an exact one."""
    if not results.is_approximate:
        return ""
    note = f"{name}: {approximate_note(results)}"
    corrected = rows[0]["corrected"] if rows else None
    if corrected is None:
        return note
    return f"{note}; its intervals are of corrected means, the average {corrected:.4f}"


def needles_layout(
    names: Sequence[str], runs: Sequence[Results], *, confidence: float = 0.95
) -> Layout:
    """A row for each needle, with its score in each result and the interval of that.

    Raises:
        ResultsError: none of the results says how each needle did.
    """
    names = _named(names, runs)
    found = [{row["needle"]: row for row in needle_rows(run, confidence)} for run in runs]
    needles = sorted({needle for rows in found for needle in rows})
    if not needles:
        raise ResultsError("these results do not say how each needle did")
    of = " or ".join(dict.fromkeys(run.cluster for run in runs))
    lines = [(of, *names)]
    for needle in needles:
        texts = [_score(rows[needle], True) if needle in rows else NO_VALUE for rows in found]
        lines.append((needle, *texts))
    has_ends = any(row["low"] is not None for rows in found for row in rows.values())
    percent = percent_of(confidence)
    notes = [f"in parentheses: the {percent} interval for this needle at other places"] * has_ends
    for name, run, rows in zip(names, runs, found, strict=True):
        if run.is_approximate:
            notes.append(f"{name}: {approximate_note(run)}")
        if run.progress:
            notes.append(f"{name}: {run.progress}")
        if not rows:
            notes.append(f"{name} does not say how each {of} did")
            continue
        sizes = sorted({row["num_samples"] for row in rows.values()})
        many = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        if sizes == [0]:
            notes.append(f"{name}: none of {counted(len(rows), run.cluster)} has a score")
        else:
            samples = "sample" if sizes == [1] else "samples"
            notes.append(f"{name}: {many} {samples} of each {run.cluster}")
        if run.is_adaptive:
            notes.append(f"{name}: {adaptive_note(run)}")
        if num_errors := sum(row["num_errors"] for row in rows.values()):
            notes.append(f"{name}: without {counted(num_errors, 'sample')} that could not be run")
    return Layout(tuple(lines), notes=tuple(notes))


def controls_layout(
    names: Sequence[str],
    runs: Sequence[Results],
    *,
    intervals: bool = False,
    confidence: float = 0.95,
) -> Layout:
    """The share of right answers of each control at each number of frames; ``-`` is of those that
    show nothing.

    Of several results, those of one control stand below one another.
    """
    names = _named(names, runs)
    found = [control_rows(results, confidence) for results in runs]
    everything = [row for rows in found for row in rows]
    counts = sorted({row["num_frames"] for row in everything}, key=lambda n: n or inf)
    has_names = len(runs) > 1
    heading = ["control", *(["result"] if has_names else [])]
    lines = [[*heading, *(f"{count:,}" if count else "-" for count in counts)]]
    controls = list(dict.fromkeys(row["control"] for row in everything))
    controls.sort(key=lambda name: name == ALL_ORDERS)
    for control in controls:
        for name, rows in zip(names, found, strict=True):
            texts = {
                row["num_frames"]: _score(row, intervals)
                for row in rows
                if row["control"] == control
            }
            if texts:
                is_approximate = any(
                    row.get("approximate", False) for row in rows if row["control"] == control
                )
                said = f"{control}{' (approximate)' * is_approximate}"
                line = [said, *([name] if has_names else [])]
                lines.append([*line, *(texts.get(count, "") for count in counts)])
    percent = percent_of(confidence)
    note = f"in parentheses: the {percent} interval, for {like_these(runs)}"
    return Layout(tuple(map(tuple, lines)), notes=(note,) * intervals)


def _claims(results: Results, confidence: float) -> list[str]:
    """What a run says about needles like these, if its needles are too few for a claim."""
    found = summarize(results, confidence=confidence).needles_like_these
    return [] if found is None or found.is_narrow else [found.text]


def _unfinished(results: Results, confidence: float) -> list[str]:
    """At which lengths the effective length could not look yet, and how errors count in it."""
    found = summarize(results, confidence=confidence).effective_length
    without = [f"the effective length is {found.without}"] if found.without else []
    errors = [f"for the effective length {found.about_errors}"] if found.about_errors else []
    return without + errors


def _score(row: Mapping[str, object], intervals: bool) -> str:
    """A score with two digits, with its interval if there is one and it is wanted."""
    score, low, high = row["score"], row["low"], row["high"]
    if not isinstance(score, float):
        return NO_VALUE
    if not intervals or low is None:
        return f"{score:.2f}"
    assert isinstance(low, float) and isinstance(high, float)
    return f"{score:.2f} ({Interval(low, high).text()})"
