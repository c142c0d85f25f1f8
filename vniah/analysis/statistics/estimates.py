"""Scores of a run, of a length and of a cell, for needles like these."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vniah.analysis.statistics.corrected import Corrected
from vniah.analysis.statistics.intervals import Interval, require_confidence, wilson_interval
from vniah.analysis.statistics.means import (
    FEW_NEEDLES,
    num_needles_needed,
    require_half_width,
    score_interval,
)
from vniah.analysis.statistics.table import (
    UNKNOWN,
    SampleTable,
    cluster_values,
    sample_table,
)
from vniah.errors import counted
from vniah.grid import Cell
from vniah.results import Results

if TYPE_CHECKING:
    from vniah.analysis.statistics.table import Floats, Indices


_DIGITS = 12  # sums of equal scores differ in the digits after these


@dataclass(frozen=True)
class NeedleEstimate:
    """A mean score, and what it says about needles like these.

    Attributes:
        mean: the score of these needles on this film, in [0, 1].
        interval: that of the score of needles like these; None if the samples do not say which
            needle they are about.
        num_needles: number of needles behind it.
        num_needed: the number of such needles whose interval has at most ``half_width``; None
            without an interval, and of an approximate run whose exact samples do not all agree.
        half_width: the half-width of a claim that would be of use.
        confidence: of the interval.
        unit: what stands in the place of needles, as `Results.cluster`.
        num_verified: of an approximate run, how many branches were drawn and computed exactly; they
            correct the mean and its interval. None for an exact run.
    """

    mean: float
    interval: Interval | None
    num_needles: int
    num_needed: int | None
    half_width: float = 0.1
    confidence: float = 0.95
    unit: str = "needle"
    num_verified: int | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether there are enough needles for a claim about needles like these."""
        return (
            self.interval is not None
            and self.num_needles >= FEW_NEEDLES
            and self.interval.half_width <= self.half_width
        )

    @property
    def text(self) -> str:
        """What it says about needles like these, in one sentence."""
        if self.interval is None:
            return (
                f"{self.unit}s like these: nothing can be said, as no two samples are known to "
                f"show different {self.unit}s"
            )
        needles, percent = counted(self.num_needles, self.unit), percent_of(self.confidence)
        found = self.interval.text(around=self.mean)
        like = f"{self.unit}s like these"
        if self.num_verified is not None:
            like += ", corrected by exactly computed samples"
        if self.is_narrow:
            return f"{like}: {found} ({percent}, {needles})"
        return f"{like}: {found} ({percent}); {self.too_few}"

    @property
    def too_few(self) -> str:
        """That the needles do not know the score well enough, and how many it takes."""
        needles = counted(self.num_needles, self.unit)
        needed = max(self.num_needed or 0, self.num_needles + 1)
        if self.num_verified is not None:
            branches = exact_branches(self.num_verified)
            text = f"{needles} and {branches} are too few to know it to within {self.half_width:g}"
            if self.num_needed is None:
                return text
            needed = max(self.num_needed, min(self.num_needles, self.num_verified) + 1)
            return f"{text}, which takes about {needed:,} {self.unit}s with --verify {needed:,}"
        return (
            f"{needles} {'is' if self.num_needles == 1 else 'are'} too few to know it to within "
            f"{self.half_width:g}, which takes about {needed:,}"
        )


def estimate_of(
    values: "Floats", *, confidence: float = 0.95, half_width: float = 0.1
) -> NeedleEstimate:
    """The estimate that the scores of some needles give.

    Args:
        values: ``[num_needles]``, in [0, 1].
        confidence: of the interval.
        half_width: the half-width of a claim that would be of use.

    Raises:
        InputError: there is no value, or one of the others is not between 0 and 1.
    """
    return NeedleEstimate(
        mean=round(float(np.mean(values)), _DIGITS),
        interval=score_interval(values, confidence=confidence),
        num_needles=len(values),
        num_needed=num_needles_needed(values, half_width=half_width, confidence=confidence),
        half_width=half_width,
        confidence=confidence,
    )


def estimate_table(
    table: SampleTable, *, confidence: float = 0.95, half_width: float = 0.1
) -> NeedleEstimate:
    """The estimate of the mean over the cells of a table with at least one sample."""
    if table.knows_needles:
        found = estimate_of(table.needle_values(), confidence=confidence, half_width=half_width)
        return replace(found, unit=table.unit)
    number = len(table.needles)
    return NeedleEstimate(table.mean, None, number, None, half_width, confidence, table.unit)


def corrected_estimate(
    table: SampleTable,
    corrected: Corrected,
    *,
    num_verified: int,
    agrees: bool,
    half_width: float,
    confidence: float,
) -> NeedleEstimate:
    """The estimate of a mean that exactly computed samples correct.

    Args:
        table: the approximate values of its samples.
        corrected: the mean, and its intervals.
        num_verified: how many branches were drawn and computed exactly.
        agrees: whether all of their samples agree.
        half_width: the half-width of a claim that would be of use.
        confidence: of the intervals.

    Returns:
        Its ``num_needed`` is that of needles of which as many branches are computed exactly, if all
        of these agree; else it is None.
    """
    require_half_width(half_width)
    values = table.needle_values()
    needed = None
    if agrees:
        needed = num_needles_needed(
            values, half_width=half_width, confidence=confidence, is_corrected=True
        )
    return NeedleEstimate(
        round(corrected.mean, _DIGITS),
        corrected.like,
        len(values),
        needed,
        half_width,
        confidence,
        table.unit,
        num_verified,
    )


def length_estimates(
    table: SampleTable, *, confidence: float = 0.95, half_width: float = 0.1
) -> Mapping[int, NeedleEstimate]:
    """The estimate at each number of frames that has a score; none for a published table.

    Raises:
        InputError: the confidence or the half-width is not between 0 and 1.
    """
    require_confidence(confidence)
    require_half_width(half_width)
    return {
        length: estimate_table(
            table.at_length(length), confidence=confidence, half_width=half_width
        )
        for length in table.lengths
    }


def cell_intervals(results: Results, *, confidence: float = 0.95) -> Mapping[Cell, Interval]:
    """The interval of each cell that has samples, for needles like these in that cell alone.

    Where each sample of a cell is of another needle, that is Wilson's. Where a needle has several,
    it is `score_interval` over the needles. Samples that name no needle are taken as independent.
    A published table has no intervals. Of an approximate run they are of its approximate scores,
    and say nothing of how far these are right; tables, pictures and reports leave them out.

    Raises:
        InputError: the confidence is not between 0 and 1.
    """
    require_confidence(confidence)
    table = sample_table(results)
    order = np.argsort(table.cell, kind="stable")
    starts = np.searchsorted(table.cell[order], np.arange(len(table.cells) + 1))
    known: dict[tuple[int, int], Interval] = {}
    found = {}
    for place, cell in enumerate(table.cells):
        inside = order[starts[place] : starts[place + 1]]
        needles, values = table.needle[inside], table.values[inside]
        key = int(values.sum()), len(values)
        if _has_repeats(needles):
            found[cell] = interval_of_samples(needles, values, confidence=confidence)
        elif key in known:  # many cells have the same score
            found[cell] = known[key]
        else:
            found[cell] = known[key] = wilson_interval(*key, confidence=confidence)
    return found


def interval_of_samples(
    needles: "Indices", values: "Floats", *, confidence: float = 0.95
) -> Interval:
    """The interval of the mean of some samples, for needles like these.

    Args:
        needles: ``[num_samples]``, the number of each sample's needle; `UNKNOWN` for none.
        values: ``[num_samples]``, 1.0 for right and 0.0 for wrong.
        confidence: of the interval.

    Returns:
        `score_interval` over the needles where one of them has several samples; else Wilson's.
    """
    if _has_repeats(needles):
        one_stratum = np.zeros(len(values), dtype=np.intp)
        over = cluster_values(one_stratum, needles, values)
        return score_interval(over, confidence=confidence)
    return wilson_interval(float(values.sum()), len(values), confidence=confidence)


def _has_repeats(needles: "Indices") -> bool:
    return bool((needles != UNKNOWN).all()) and len(np.unique(needles)) < len(needles)


def exact_branches(number: int) -> str:
    """A number of branches that were computed exactly, in words."""
    return f"{number:,} exactly computed branch{'es' * (number != 1)}"


def percent_of(confidence: float) -> str:
    """A confidence for texts: ``"95 %"``."""
    return f"{100 * confidence:g} %"
