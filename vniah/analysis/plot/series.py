"""The numbers that lines along the lengths show, and what they are of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from typing import TYPE_CHECKING, Literal

import numpy as np

from vniah.analysis.plot.table import CORRECT
from vniah.analysis.statistics.effective import pending_lengths
from vniah.analysis.statistics.estimates import NeedleEstimate
from vniah.analysis.statistics.intervals import Interval, require_confidence
from vniah.analysis.statistics.means import score_interval
from vniah.analysis.statistics.medians import cluster_medians, median_interval
from vniah.analysis.statistics.table import SampleIndex, SampleTable, index_samples
from vniah.analysis.statistics.verification import corrected_estimates
from vniah.analysis.table_rows import all_cells, partly_measured_lengths
from vniah.errors import InputError
from vniah.results import CellScore, Results, SampleResult
from vniah.results.measures import value_of

if TYPE_CHECKING:
    from vniah.analysis.statistics.table import Floats, Mask

Estimand = Literal["needles", "depths"]
"""What intervals are about: needles like these, or the same needles at other depths."""


@dataclass(frozen=True, eq=False)
class Series:
    """A line along the lengths.

    Attributes:
        lengths: every number of frames, or tokens, that was planned or measured, ascending.
        values: ``[num_lengths]``: the score of these needles on this film, in [0, 1], or the median
            of a measure; NaN where no sample could be run.
        low: ``[num_lengths]``, the lower ends of the intervals; NaN where there is none.
        high: the upper ends.
        is_whole: ``[num_lengths]``: whether every planned sample of the length is in its value.
        estimand: what the intervals are about, where there are any.
        num_clusters: number of needles, or depths, that the intervals are over.
    """

    lengths: tuple[int, ...]
    values: "Floats"
    low: "Floats"
    high: "Floats"
    is_whole: "Mask"
    estimand: Estimand
    num_clusters: int = 0

    @property
    def has_value(self) -> bool:
        """True if any length has a value."""
        return bool((~np.isnan(self.values)).any())

    @property
    def has_interval(self) -> bool:
        """True if any length has an interval."""
        return bool((~np.isnan(self.low)).any())

    def without_intervals(self, values: "Floats") -> "Series":
        """Other values at the same lengths, without intervals."""
        nothing = np.full(len(self.lengths), np.nan)
        return replace(self, values=values, low=nothing, high=nothing)


def length_series(
    results: Results,
    value: str = CORRECT,
    *,
    confidence: float = 0.95,
    index: SampleIndex | None = None,
) -> Series:
    """The value at each length.

    Of scores it is the mean over the cells, with the intervals of `length_estimates`; where samples
    do not say which needle they are about, they are for the same needles at other depths
    (`score_interval` over the depths). Of an approximate run they are those of means that exactly
    computed samples correct, where there are such. Of measures it is the median over needles, each
    with its median over the depths, with `median_interval`; or over the depths in place of the
    needles. A published table has no intervals, nor have the measures of an approximate run.

    Args:
        results: a run or a published table.
        value: ``"correct"``, or a number of the samples, as `Results.measure`.
        confidence: of the intervals.
        index: the samples of the run, if it is there already.

    Raises:
        InputError: there are no cells, or the confidence is not between 0 and 1.
        ResultsError: no sample has a number of the name ``value``.
    """
    require_confidence(confidence)
    get_point = _score_point if is_score(results, value) else _median_point
    columns: dict[int, list[CellScore]] = {}
    for found in all_cells(results):
        columns.setdefault(found.cell.num_frames, []).append(found)
    if not columns:
        raise InputError(f"{results.path} has no cells, so there is no line to draw")
    lengths = tuple(columns)
    if results.published:
        scores = np.array([_mean(cells) for cells in columns.values()])
        nothing = np.full(len(lengths), nan)
        return Series(lengths, scores, nothing, nothing, ~np.isnan(scores), "needles")
    table = (index or index_samples(results)).table(partial(_number, value))
    pending = pending_lengths(results)
    without_mean = partly_measured_lengths(results)
    corrected: Mapping[int, NeedleEstimate] = {}
    if results.is_approximate and get_point is _score_point and value == CORRECT:
        _, corrected = corrected_estimates(results, confidence=confidence)
    points, is_whole = [], []
    for length, cells in columns.items():
        part = table.at_length(length)
        has_value = bool(len(part.values)) and length not in without_mean
        point = get_point(part, results, confidence) if has_value else _Point()
        if length in corrected and has_value:
            point = replace(point, interval=corrected[length].interval)
        points.append(replace(point, interval=None) if results.stopped_early else point)
        num_samples = sum((found.num_samples or 0) + found.num_errors for found in cells)
        has_all_cells = all(found.num_samples or found.num_errors for found in cells)
        is_whole.append(len(part.values) == num_samples and has_all_cells and length not in pending)
    return Series(
        lengths,
        np.array([point.value for point in points]),
        np.array([np.nan if point.interval is None else point.interval.low for point in points]),
        np.array([np.nan if point.interval is None else point.interval.high for point in points]),
        np.array(is_whole),
        "needles" if table.knows_needles else "depths",
        max(point.num for point in points),
    )


@dataclass(frozen=True)
class _Point:
    """A value, its interval, and the number of needles or depths that the interval is over."""

    value: float = nan
    interval: Interval | None = None
    num: int = 0


def _score_point(part: SampleTable, results: Results, confidence: float) -> _Point:
    values = part.needle_values() if part.knows_needles else part.row_values(results.row_of)
    if results.is_approximate:
        return _Point(part.mean, None, len(values))
    return _Point(part.mean, score_interval(values, confidence=confidence), len(values))


def _median_point(part: SampleTable, results: Results, confidence: float) -> _Point:
    if part.knows_needles:
        values = cluster_medians(part.needle, part.values)
    else:
        rows = [results.row_of(cell) for cell in part.cells]
        places = np.array([sorted(set(rows)).index(row) for row in rows], dtype=np.intp)
        values = cluster_medians(places[part.cell], part.values)
    if results.is_approximate:
        return _Point(float(np.median(values)), None, len(values))
    interval = median_interval(values, confidence=confidence)
    return _Point(float(np.median(values)), interval, len(values))


def _number(value: str, sample: SampleResult) -> float | None:
    """What is averaged of a sample; None if it could not be run, or has no such number."""
    if sample.correct is None:
        return None
    number = sample.correct if value == CORRECT else value_of(sample, value)
    return None if number is None else float(number)


def _mean(cells: Sequence[CellScore]) -> float:
    scores = [found.score for found in cells if found.score is not None]
    return sum(scores) / len(scores) if scores else nan


def is_score(results: Results, value: str) -> bool:
    """Whether a value is a share of samples, whose mean is drawn; else its median is."""
    return value == CORRECT or results.measure(value).is_share
