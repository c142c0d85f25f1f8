"""The score at lengths of which only some cells were run, and what it says of the effective length.

An adaptive run measures some cells of its grid. A length with a cell that was not run has no score
yet, but bounds: the score that it has at least if all samples of these cells are wrong, and at most
if they are right.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.statistics.lengths import least_score
from vniah.analysis.statistics.means import score_interval
from vniah.analysis.statistics.table import SampleIndex, index_samples
from vniah.grid import Cell
from vniah.results import Results
from vniah.results.measured import measured_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class PartialLength:
    """What is known of the score at a number of frames.

    Attributes:
        num_frames: the number of haystack frames.
        cells: its planned cells, by depth.
        scores: the score of each cell that was run, by cell; what could not be run counts as wrong.
        needles: ``[2, num_needles]``: what each needle adds to the mean of the cells that were run,
            if what could not be run is wrong, and if it is right; None if no needle is known.
    """

    num_frames: int
    cells: tuple[Cell, ...]
    scores: Mapping[Cell, Fraction]
    needles: "Floats | None" = None

    @property
    def is_whole(self) -> bool:
        """Whether all of its cells were run."""
        return len(self.scores) == len(self.cells)

    @cached_property
    def mean(self) -> Fraction | None:
        """The mean of the cells that were run; None without any."""
        return sum(self.scores.values(), Fraction(0)) / len(self.scores) if self.scores else None

    @cached_property
    def least(self) -> Fraction:
        """The score that it has at least, whatever the cells that were not run had given."""
        return sum(self.scores.values(), Fraction(0)) / len(self.cells)

    @cached_property
    def most(self) -> Fraction:
        """The score that it has at most."""
        return self.least + Fraction(len(self.cells) - len(self.scores), len(self.cells))

    def interval(self, confidence: float) -> Interval | None:
        """The interval of its score for needles like these, which holds whatever was not run.

        Its lower end is that if all samples without a score are wrong, its upper end that if they
        are right. None if no needle is known.
        """
        if self.needles is None or not self.scores:
            return None
        share = len(self.scores) / len(self.cells)
        least, most = self.needles[0] * share, self.needles[1] * share + (1 - share)
        low = score_interval(least, confidence=confidence)
        high = low if np.array_equal(least, most) else score_interval(most, confidence=confidence)
        return Interval(low.low, high.high)


@dataclass(frozen=True)
class LengthRange:
    """Where the effective length lies, by the lengths that were measured.

    Attributes:
        at_least: the largest length that is good enough, as all shorter ones are that were
            measured; None if there is none.
        at_most: the largest length of the grid below the first one that is too long; None if the
            shortest is.
        low: the largest length of which it is shown that needles like these are found up to there;
            None if that is shown of no length.
        high: the largest length of the grid below those that are shown to be too long for needles
            like these; None if the shortest is.
    """

    at_least: int | None
    at_most: int | None
    low: int | None
    high: int | None


class LengthBounds:
    """All lengths of a grid, ascending, with what is known of each.

    Args:
        lengths: at least one.
        threshold: the score that is enough, in [0, 1].
        confidence: how often both ends of the interval are right.
    """

    def __init__(
        self, lengths: Iterable[PartialLength], *, threshold: float, confidence: float = 0.95
    ) -> None:
        self.lengths = tuple(lengths)
        self.threshold = threshold
        self._exact = Fraction(str(threshold))
        self._confidence = confidence
        self._intervals: dict[int, Interval | None] = {}

    def is_enough(self, place: int) -> bool:
        """Whether the score is at least the threshold, whatever was not run had given."""
        return self.lengths[place].least >= self._exact

    def is_short_of(self, place: int) -> bool:
        """Whether the score is below the threshold, whatever was not run had given."""
        return self.lengths[place].most < self._exact

    def is_doubtful(self, place: int) -> bool:
        """Whether the cells that were run have a mean below the threshold."""
        mean = self.lengths[place].mean
        return mean is not None and mean < self._exact

    def interval(self, place: int) -> Interval | None:
        """As `PartialLength.interval`."""
        if place not in self._intervals:
            self._intervals[place] = self.lengths[place].interval(self._confidence)
        return self._intervals[place]

    def is_shown_enough(self, place: int) -> bool:
        """Whether that is shown for needles like these."""
        found = self.interval(place)
        return found is not None and found.low >= self.threshold - _ROUNDING

    def is_shown_short(self, place: int) -> bool:
        """Whether it is shown for needles like these that the score is below the threshold."""
        found = self.interval(place)
        return found is not None and found.high < self.threshold - _ROUNDING

    def may_be_shown_short(self, place: int) -> bool:
        """Whether it could be shown if the cells that were not run were like the others."""
        length = self.lengths[place]
        if length.needles is None or length.mean is None:
            return length.mean is None
        alike = [float(length.mean)] * length.needles.shape[1]
        found = score_interval(alike, confidence=self._confidence)
        return found.high < self.threshold - _ROUNDING

    @cached_property
    def can_show_enough(self) -> bool:
        """Whether there are needles enough to show it of any length, if none of them is missed."""
        known = [length.needles.shape[1] for length in self.lengths if length.needles is not None]
        best = score_interval([1.0] * max(known), confidence=self._confidence) if known else None
        return best is not None and best.low >= self.threshold - _ROUNDING

    @cached_property
    def first_short(self) -> int:
        """The place of the first length that is too long; their number if there is none."""
        places = range(len(self.lengths))
        return next(filter(self.is_short_of, places), len(self.lengths))

    def find(self) -> LengthRange:
        """Where the effective length lies.

        A length between two that are good enough counts as good enough if it was not run. Source
        of the order in which lengths are tested: as `find_effective_length`.
        """
        at_least = low = None
        for place in range(self.first_short):
            if self.is_enough(place):
                at_least = place
            elif self.is_doubtful(place):
                break
        for place, length in enumerate(self.lengths):
            if not length.is_whole:
                continue
            if not self.is_shown_enough(place):
                break
            low = place
        high = len(self.lengths) - 1
        for place in reversed(range(len(self.lengths))):
            if self.is_shown_short(place):
                high = place - 1
            elif self.lengths[place].scores and not self._is_skipped(place):
                break
        at_most = self.first_short - 1
        return LengthRange(*(self._frames(place) for place in (at_least, at_most, low, high)))

    def _is_skipped(self, place: int) -> bool:
        """Whether too little was run for a test, of a length that does not seem good enough."""
        return self.is_doubtful(place) and not self.lengths[place].is_whole

    def _frames(self, place: int | None) -> int | None:
        return None if place is None or place < 0 else self.lengths[place].num_frames


def partial_lengths(
    results: Results, *, index: SampleIndex | None = None, among: Collection[Cell] | None = None
) -> tuple[PartialLength, ...]:
    """What is known at each length of a run's grid, ascending.

    A cell of which a planned sample has no line yet counts as not run.

    Args:
        results: a run.
        index: the samples of the run, if it is there already.
        among: the cells whose results may be used; by default all.
    """
    measured = measured_cells(results)
    scores = {
        found.cell: score
        for found in results.cells
        if found.cell in measured and (among is None or found.cell in among)
        if (score := least_score(found)) is not None
    }
    index = index or index_samples(results)
    is_used = np.array([cell in scores for cell in index.cells], dtype=np.bool_)[index.cell]
    tables = [
        index.table(lambda sample: bool(sample.correct)),
        index.table(lambda sample: sample.correct is not False),
    ]
    knows_needles = tables[0].knows_needles
    planned: dict[int, set[Cell]] = {}
    for cell in (*results.planned_cells, *scores):
        planned.setdefault(cell.num_frames, set()).add(cell)
    found = []
    for num_frames, cells in sorted(planned.items()):
        own = {cell: scores[cell] for cell in sorted(cells) if cell in scores}
        needles = None
        if own and knows_needles:
            values = [t.where(is_used).at_length(num_frames).needle_values() for t in tables]
            needles = np.array(values)
        found.append(PartialLength(num_frames, tuple(sorted(cells)), own, needles))
    return tuple(found)
