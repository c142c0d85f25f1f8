"""How sure a model is where all of its answers are right."""

from dataclasses import dataclass
from functools import partial
from math import log2
from typing import TYPE_CHECKING, Literal

import numpy as np

from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.statistics.means import t_interval
from vniah.analysis.statistics.table import SampleIndex, SampleTable, index_samples
from vniah.errors import counted
from vniah.results import Axis, Results, SampleResult

if TYPE_CHECKING:
    from vniah.analysis.statistics.table import Floats

_LABELS = {
    "margin": "margin of the answer to the best other one",
    "logprob": "log-probability of the answer",
}


@dataclass(frozen=True)
class MarginTrend:
    """How sure a model is at the lengths where all answers are right, and how that changes.

    Attributes:
        name: ``"margin"``, or ``"logprob"`` where the samples have no margin.
        lengths: the lengths at which every sample is right, ascending.
        means: the mean at each of them, over cells.
        slope: the change with each doubling of the length; None with one length or one needle.
        interval: the interval of the slope for needles like these, a t-interval over the slopes of
            the needles; None without a slope.
        num_needles: number of needles behind the slope.
        is_whole: whether these are all lengths of the run.
        confidence: of the interval.
        axis: what the lengths count.
        unit: what stands in the place of needles, as `Results.cluster`.
    """

    name: Literal["margin", "logprob"]
    lengths: tuple[int, ...]
    means: tuple[float, ...]
    slope: float | None
    interval: Interval | None
    num_needles: int
    is_whole: bool
    confidence: float = 0.95
    axis: Axis = "frames"
    unit: str = "needle"

    @property
    def text(self) -> str:
        """How sure the model is, in one sentence."""
        unit = self.axis.removesuffix("s")
        where = "all answers are right" if self.is_whole else _up_to(self.lengths, unit)
        first, last = counted(self.lengths[0], unit), counted(self.lengths[-1], unit)
        text = f"{where}; the mean {_LABELS[self.name]} is {_number(self.means[0])} at {first}"
        if len(self.lengths) > 1:
            text += f" and {_number(self.means[-1])} at {last}"
        if self.slope is None or self.interval is None:
            return text
        low, high = _number(self.interval.low), _number(self.interval.high)
        return (
            f"{text}: {self.slope:+.3g} with each doubling ({low} to {high} with {self.unit}s "
            f"like these, {percent_of(self.confidence)}, {counted(self.num_needles, self.unit)})"
        )


def margin_trend(
    results: Results, *, confidence: float = 0.95, index: SampleIndex | None = None
) -> MarginTrend | None:
    """How sure a model is where its accuracy is 1 and says no more.

    Args:
        results: a run.
        confidence: of the interval.
        index: the samples of the run, if it is there already.

    Returns:
        None if there is no length at which all samples are right, or if these have neither a margin
        nor a log-probability, as those of chat models.

    Raises:
        InputError: the confidence is not between 0 and 1.
    """
    lengths = _saturated_lengths(results)
    if not lengths:
        return None
    index = index or index_samples(results)
    names: tuple[Literal["margin", "logprob"], ...] = ("margin", "logprob")
    for name in names:
        table = index.table(partial(_number_of, name, lengths))
        if len(table.values) and table.lengths == tuple(sorted(lengths)):
            return _trend(name, table, results, confidence)
    return None


def _trend(
    name: Literal["margin", "logprob"], table: SampleTable, results: Results, confidence: float
) -> MarginTrend:
    lengths = table.lengths
    means = tuple(table.at_length(length).mean for length in lengths)
    slopes = _slopes(table) if table.knows_needles and len(lengths) > 1 else None
    is_known = slopes is not None and len(slopes) > 1
    return MarginTrend(
        name,
        lengths,
        means,
        float(slopes.mean()) if slopes is not None and is_known else None,
        t_interval(slopes, confidence=confidence) if slopes is not None and is_known else None,
        0 if slopes is None else len(slopes),
        len(lengths) == _num_lengths(results),
        confidence,
        results.axis,
        results.cluster,
    )


def _slopes(table: SampleTable) -> "Floats":
    """``[num_needles]``: each needle's slope on the logarithm of the length, over its lengths."""
    doublings = np.array([log2(cell.num_frames) for cell in table.cells])[table.cell]
    slopes = []
    for needle in range(len(table.needles)):
        mask = table.needle == needle
        x, y = doublings[mask], table.values[mask]
        deviations = x - x.mean() if len(x) else x
        square = float(deviations @ deviations)
        if square > 0:
            slopes.append(float(deviations @ y) / square)
    return np.array(slopes)


def _saturated_lengths(results: Results) -> frozenset[int]:
    """The lengths at which all samples have been run, and all are right."""
    is_right = {cell.num_frames: False for cell in results.pending_by_cell}
    for sample in results.samples:
        if sample.cell is not None:
            length = sample.cell.num_frames
            is_right[length] = is_right.get(length, True) and sample.correct is True
    return frozenset(length for length, right in is_right.items() if right)


def _num_lengths(results: Results) -> int:
    """How many lengths the run has, those that are not run yet included."""
    cells = {*(found.cell for found in results.cells), *results.pending_by_cell}
    return len({cell.num_frames for cell in cells})


def _number_of(name: str, lengths: frozenset[int], sample: SampleResult) -> float | None:
    is_inside = sample.cell is not None and sample.cell.num_frames in lengths
    value: float | None = getattr(sample, name) if is_inside else None
    return value


def _up_to(lengths: tuple[int, ...], unit: str) -> str:
    if len(lengths) == 1:
        return f"at {counted(lengths[0], unit)} all answers are right"
    named = (
        ", ".join(f"{length:,}" for length in lengths[:-1])
        if len(lengths) <= 4
        else (f"{lengths[0]:,}, ...")
    )
    return f"at {named} and {counted(lengths[-1], unit)} all answers are right"


def _number(value: float) -> str:
    return f"{value:.3g}"
