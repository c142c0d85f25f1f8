"""The numbers of results as rows: cells, lengths, needles and controls, with their intervals."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from vniah.analysis.applied import applied_rows
from vniah.analysis.labels import like_these, result_labels
from vniah.analysis.statistics.estimates import (
    NeedleEstimate,
    cell_intervals,
    estimate_table,
    interval_of_samples,
    length_estimates,
)
from vniah.analysis.statistics.intervals import Interval, require_confidence
from vniah.analysis.statistics.means import score_interval
from vniah.analysis.statistics.table import UNKNOWN, index_samples, is_right, sample_table
from vniah.analysis.statistics.verification import corrected_estimates
from vniah.errors import InputError, ResultsError, short_repr, without_surrogates
from vniah.options import TableKind
from vniah.options.approximation import EXACT
from vniah.results import AnyResults, CellScore, Results, SampleResult, several_results
from vniah.results.applied import intervention_of
from vniah.results.once import once
from vniah.results.plan import planned_ids, planned_test_ids

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

ALL_ORDERS = "all orders of the options"
"""The name of the row that has the accuracy over all orders of the options."""

_OF_SAMPLES = (*("num_samples", "num_correct", "num_errors", "num_pending", "num_planned_samples"),)

_REAL = (*("score", "low", "high", "depth", "row", "applied_score", "difference", "p_value"),)
_WHOLE = (
    *("num_frames", "needle_index", *_OF_SAMPLES),
    *("num_needles", "num_needed", "num_cells", "num_planned_cells"),
    *("num_pairs", "num_fallen", "num_risen"),
)


def table(
    results: AnyResults | Sequence[AnyResults],
    kind: TableKind = "lengths",
    *,
    confidence: float = 0.95,
) -> "pd.DataFrame":
    """The numbers of one or several results as a data frame.

    Args:
        results: runs or published tables, or their paths.
        kind: what has a row: ``"lengths"``, each number of frames, after a row for the whole run,
            whose ``num_frames`` is missing; ``"cells"``, each cell, those that are planned and not
            yet run included; ``"needles"``, each needle; ``"controls"``, each control at each
            number of frames; ``"applied"``, what an intervention changes in the whole run, at each
            number of frames, and in each row of the map.
        confidence: of the intervals.

    Returns:
        The columns ``result`` (a name that tells several results apart), ``axis`` (what
        ``num_frames`` counts: ``frames``, or ``tokens`` in a text table), those that name the row,
        ``score`` in [0, 1] of these needles on this film, ``low`` and ``high`` (the interval),
        ``interval_for`` (what it is for), and the numbers behind it, such as ``num_samples``.
        Scores and ends of intervals that are not known are NaN, never 0. Where a result is
        approximate, the column ``approximate`` says which rows are. Then ``low`` and ``high`` are
        of means that exactly computed samples correct, which stand in ``corrected``; other means
        have no interval.
        Rows of ``"applied"`` have ``applied_score``, the ``difference``, which the interval is of,
        and the depth or position in ``row``.
        The intervals of lengths, cells and controls are for needles like these; that of a needle is
        for this needle at other depths.

    Raises:
        ResultsError: results cannot be read, or none of them has such rows.
        InputError: the kind is not known, or the confidence not between 0 and 1.
    """
    import pandas as pd

    runs = several_results(results)
    frame = pd.DataFrame(
        [
            {name: _as_utf8(value) for name, value in row.items()}
            for row in table_rows(runs, kind, confidence=confidence)
        ]
    )
    for name in frame.columns.intersection(list(_WHOLE)):
        frame[name] = frame[name].astype("Int64")
    for name in frame.columns.intersection(list(_REAL)):
        frame[name] = frame[name].astype("float64")
    if "corrected" in frame:
        frame["corrected"] = frame["corrected"].astype("float64")
    if "is_narrow" in frame:
        frame["is_narrow"] = frame["is_narrow"].astype("boolean")
    return frame


def table_rows(runs: Sequence[Results], kind: TableKind, *, confidence: float = 0.95) -> list[Row]:
    """The rows of `table`, with None for what is not known.

    Raises:
        ResultsError: none of the results has such rows.
        InputError: the kind is not known, or the confidence not between 0 and 1.
    """
    require_confidence(confidence)
    if kind not in _ROWS:
        raise InputError(f"kind must be one of {', '.join(_ROWS)}, got {short_repr(kind)}")
    rows = [
        {"result": label, "axis": results.axis, **row}
        for label, results in zip(result_labels(runs), runs, strict=True)
        for row in _ROWS[kind](results, confidence)
    ]
    if any(results.is_approximate for results in runs):
        rows = [{**row, "approximate": row.get("approximate", False)} for row in rows]
    if not rows:
        which = f"the results in {runs[0].path}" if len(runs) == 1 else "these results"
        if kind == "applied" and (names := list(filter(None, map(intervention_of, runs)))):
            raise ResultsError(
                f"{which} hold no sample yet that has a score with {names[0]} and without it; run "
                "the same command again, which goes on"
            )
        raise ResultsError(f"{which} {_LACKING[kind]}")
    return rows


def cell_rows(results: Results, confidence: float = 0.95) -> list[Row]:
    """A row for each cell, by number of frames, then depth."""
    # Those of approximate scores would say nothing of how far these are right.
    intervals = {} if results.is_approximate else cell_intervals(results, confidence=confidence)
    return [
        {
            "num_frames": found.cell.num_frames,
            "depth": float(found.cell.depth),
            **({"needle_index": found.cell.needle_index} if results.has_positions else {}),
            "score": found.score,
            **_ends(intervals.get(found.cell), f"{like_these([results])} in this cell"),
            **_counts([found], results),
            **_mark(results.is_approximate),
        }
        for found in all_cells(results)
    ]


def length_rows(results: Results, confidence: float = 0.95) -> list[Row]:
    """A row for the whole run, then one for each number of frames."""
    cells = all_cells(results)
    if not cells:
        return []
    whole, by_length = _estimates(results, confidence)
    if results.is_selected:
        whole = None
    if results.stopped_early:
        by_length = {}
    columns: dict[int, list[CellScore]] = {}
    for found in cells:
        columns.setdefault(found.cell.num_frames, []).append(found)
    return [
        _length_row(results, None, cells, whole),
        *(
            _length_row(results, length, column, by_length.get(length))
            for length, column in columns.items()
        ),
    ]


def _estimates(
    results: Results, confidence: float
) -> tuple[NeedleEstimate | None, Mapping[int, NeedleEstimate]]:
    """What is said about needles like these: by the whole run, and by each length."""
    if results.is_approximate:
        return corrected_estimates(results, confidence=confidence)
    samples = sample_table(results)
    whole = estimate_table(samples, confidence=confidence) if len(samples.values) else None
    return whole, length_estimates(samples, confidence=confidence)


def needle_rows(results: Results, confidence: float = 0.95) -> list[Row]:
    """A row for each needle whose samples are its own; none where these are not known."""
    index = index_samples(results)
    samples = index.table(is_right)
    # Of a run with errors only the needles are known, too, though none has a score.
    named = samples if len(samples.values) else index.table(lambda _: 0.0)
    if not named.knows_needles:
        return []
    pending = _pending_by_needle(results)
    numbers = {name: number for number, name in enumerate(samples.needles)}
    num_all = np.bincount(index.needle, minlength=len(index.needles))
    rows = []
    for name, total in zip(index.needles, map(int, num_all), strict=True):
        row: Row = {"needle": name, "score": None, **_ends(None)}
        own = samples.where(samples.needle == numbers.get(name, UNKNOWN - 1))
        num_samples = len(own.values)
        if num_samples:
            row["score"] = own.mean
            if results.has_depths and not results.is_approximate:
                over = score_interval(own.row_values(results.row_of), confidence=confidence)
                row |= _ends(over, "this needle at other places")
        row["num_samples"] = num_samples
        row["num_correct"] = int(own.values.sum())
        row["num_errors"] = total - num_samples
        row["num_pending"] = None if pending is None else pending[name]
        rows.append(row | _mark(results.is_approximate))
    return rows


def _pending_by_needle(results: Results) -> "Counter[str] | None":
    """How many samples of each needle have no line yet; None if their ids do not say that."""
    if not results.num_pending:
        return Counter()
    done = {sample.sample_id for sample in results.samples}
    planned = [name for name in planned_test_ids(results.manifest) if name not in done]
    prefixes = [cell.prefix for cell in results.pending_by_cell]
    needles = set(results.manifest.get("needles", {}).get("ids", ()))
    found = Counter(
        sample_id.removeprefix(prefix)
        for sample_id in planned
        for prefix in prefixes
        if sample_id.startswith(prefix)
    )
    return found if found.keys() <= needles and found.total() == results.num_pending else None


def control_rows(results: Results, confidence: float = 0.95) -> list[Row]:
    """A row for each control at each number of frames, in the order of the run.

    The last rows have the accuracy over all orders of the options, the test's own included.
    """
    pending = _pending_by_control(results)
    groups: dict[tuple[str, int | None], list[SampleResult]] = {}
    for sample in results.control_samples:
        groups.setdefault((sample.control or "", sample.num_frames), []).append(sample)
    found_names = {found.control for found in results.controls}
    names = [name for name in results.manifest.get("controls", ()) if name in found_names]
    order = {name: place for place, name in enumerate(dict.fromkeys([*names, *found_names]))}
    rows = [
        {
            "control": found.control,
            "num_frames": found.num_frames,
            "score": found.score,
            **_ends(
                _interval(groups[found.control, found.num_frames], results, confidence),
                like_these([results]),
            ),
            "num_samples": found.num_samples,
            "num_correct": found.num_correct,
            "num_errors": found.num_errors,
            "num_pending": pending[found.control, found.num_frames],
            **_mark(_is_approximate(groups[found.control, found.num_frames])),
        }
        for found in sorted(
            results.controls, key=lambda one: (order[one.control], one.num_frames or inf)
        )
    ]
    return rows + [
        {
            "control": ALL_ORDERS,
            "num_frames": length,
            "score": found.score,
            **_ends(None),
            "num_samples": found.num_samples,
            "num_correct": None,
            "num_errors": None,
            "num_pending": None,
            **_mark(results.is_approximate),
        }
        for length, found in results.debiased_by_length.items()
    ]


def _is_approximate(samples: Iterable[SampleResult]) -> bool:
    """Whether any of the results is: of an approximate run some controls are exact."""
    return any(sample.approximate for sample in samples)


def _mark(is_approximate: bool) -> Row:
    """The column that approximate rows have, and others only beside them."""
    return {"approximate": True} if is_approximate else {}


def _pending_by_control(results: Results) -> "Counter[tuple[str, int | None]]":
    """How many samples of each control have no line yet, at each number of frames."""
    if not results.manifest or results.is_complete or results.is_adaptive:
        return Counter()
    done = {sample.sample_id for sample in results.control_samples}
    controls = set(results.manifest.get("controls", ()))
    found: Counter[tuple[str, int | None]] = Counter()
    for sample_id in planned_ids(results.manifest):
        length, name = sample_id.partition("/")[0], sample_id.rpartition("/")[2]
        if name in controls and sample_id not in done:
            found[name, int(length) if length.isdecimal() else None] += 1
    return found


@once
def all_cells(results: Results) -> tuple[CellScore, ...]:
    """The measured cells, and those of the plan that have no sample yet."""
    measured = {found.cell: found for found in results.cells}
    missing = results.planned_cells - measured.keys()
    everything = {**measured, **{cell: CellScore(cell, None, 0, 0) for cell in missing}}
    return tuple(everything[cell] for cell in sorted(everything))


def partly_measured_lengths(results: Results) -> frozenset[int]:
    """The lengths of an adaptive run of which some cells were not measured.

    They have no mean: scores decided which cells were measured, and others may differ.
    """
    if not results.is_adaptive:
        return frozenset()
    cells = all_cells(results)
    return frozenset(found.cell.num_frames for found in cells if not _is_measured(found))


def _length_row(
    results: Results,
    length: int | None,
    cells: Sequence[CellScore],
    estimate: NeedleEstimate | None,
) -> Row:
    scores = [found.score for found in cells if found.score is not None]
    num_scores = len(scores)
    if results.is_adaptive and length is not None and not all(map(_is_measured, cells)):
        scores, estimate = [], None  # other depths than those that were chosen may differ
    corrected: Row = {"corrected": None if estimate is None else estimate.mean}
    return {
        "num_frames": length,
        "score": sum(scores) / len(scores) if scores else None,
        **(corrected if results.is_approximate else {}),
        **_ends(None if estimate is None else estimate.interval, like_these([results])),
        "num_needles": None if estimate is None else estimate.num_needles,
        "is_narrow": None if estimate is None else estimate.is_narrow,
        "num_needed": None if estimate is None else estimate.num_needed,
        "num_cells": num_scores,
        "num_planned_cells": len(cells),
        **_counts(cells, results),
        **_mark(results.is_approximate),
    }


def _is_measured(found: CellScore) -> bool:
    return found.score is not None or found.num_errors > 0


def _counts(cells: Iterable[CellScore], results: Results) -> Row:
    """Numbers of samples of some cells; None for a published table, which does not say them."""
    if results.published:
        return dict.fromkeys(_OF_SAMPLES)
    cells = list(cells)
    num_run = sum((found.num_samples or 0) + found.num_errors for found in cells)
    num_pending = sum(results.pending_by_cell.get(found.cell, 0) for found in cells)
    return {
        "num_samples": sum(found.num_samples or 0 for found in cells),
        "num_correct": sum(found.num_correct or 0 for found in cells),
        "num_errors": sum(found.num_errors for found in cells),
        "num_pending": num_pending,
        "num_planned_samples": num_run + num_pending,
    }


def _ends(interval: Interval | None, of: str = "needles like these") -> Row:
    """The ends of an interval, and what it is for."""
    if interval is None:
        return {"low": None, "high": None, "interval_for": None}
    return {"low": interval.low, "high": interval.high, "interval_for": of}


def _interval(
    samples: Sequence[SampleResult], results: Results, confidence: float
) -> Interval | None:
    """The interval of a control for needles like these; None if none could be run."""
    done = [sample for sample in samples if sample.correct is not None]
    if not done or _is_approximate(done) or done[0].control == EXACT:
        return None  # the drawn branches are no sample of needles like these
    numbers: dict[str | None, int] = {None: UNKNOWN}
    field = results.details.get("clusters", "needle_id")
    needles = [numbers.setdefault(sample.fields.get(field), len(numbers)) for sample in done]
    right = np.array([bool(sample.correct) for sample in done], float)
    return interval_of_samples(np.array(needles), right, confidence=confidence)


def _as_utf8(value: Any) -> Any:
    return without_surrogates(value) if isinstance(value, str) else value


_ROWS: Mapping[str, Callable[[Results, float], list[Row]]] = {
    "lengths": length_rows,
    "cells": cell_rows,
    "needles": needle_rows,
    "controls": control_rows,
    "applied": applied_rows,
}

_LACKING = {
    "lengths": "have no cells",
    "cells": "have no cells",
    "needles": "do not say how each needle did; give a run whose samples name one needle each",
    "controls": "have no controls; give a run with controls",
    "applied": "have no intervention; give a run with --apply",
}
