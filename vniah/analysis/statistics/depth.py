"""Whether the score depends on where in the haystack the needle is."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.statistics.means import difference_interval
from vniah.analysis.statistics.paired import adjust_holm, sign_flip_p_value
from vniah.analysis.statistics.table import SampleTable
from vniah.errors import counted

if TYPE_CHECKING:
    from vniah.analysis.statistics.table import Floats, Indices

SIGNIFICANT = 0.05

_ROUNDING = 1e-9


@dataclass(frozen=True)
class DepthEffect:
    """How the score changes with depth, lengths being equal.

    Attributes:
        name: ``"middle"`` or ``"trend"``.
        estimate: of ``"trend"``, the slope: the score at depth 1 minus that at depth 0 along a
            straight line. Of ``"middle"``, the score in the middle third of the haystack minus that
            in the first or in the last third, whichever is closer.
        interval: that of needles like these.
        p_value: of the test that there is no such effect, over the needles, corrected for both
            effects being tested.
        num_needles: number of needles.
    """

    name: Literal["middle", "trend"]
    estimate: float
    interval: Interval
    p_value: float
    num_needles: int

    @property
    def is_significant(self) -> bool:
        """Whether such an effect would come by chance in fewer than one of 20 runs."""
        return self.p_value < SIGNIFICANT

    @property
    def text(self) -> str:
        """The effect in one sentence; it is for those that are significant."""
        size, falls = f"{abs(self.estimate):.2f}", self.estimate < 0
        tested = f"(p = {_p_text(self.p_value)}, {counted(self.num_needles, 'needle')})"
        if self.name == "trend":
            where = "lower" if falls else "higher"
            return f"depth: the score is {size} {where} at the end than at the beginning {tested}"
        return (
            f"depth: {'needles are lost in the middle: ' * falls}the score in the middle third of "
            f"the haystack is {size} {'lower' if falls else 'higher'} than in the first and in the "
            f"last third, or more {tested}"
        )


def depth_effects(table: SampleTable, *, confidence: float = 0.95) -> tuple[DepthEffect, ...]:
    """The effects of depth on the score, tested over needles.

    ``"trend"`` is the slope of the score on depth, for each needle a straight line with a level of
    its own at every length. ``"middle"`` compares thirds of the haystack, and is significant only
    if the middle third differs from both others in the same direction, so that needles that are
    found only at the end are not taken for lost in the middle.

    The values of needles are independent, so each is tested by turning their signs around: if there
    is no effect, each needle's value might as well have the other sign (`sign_flip_p_value`). With
    fewer than six needles nothing is significant. The p-values of both effects are corrected by
    Holm's procedure.

    Args:
        table: the samples of a run.
        confidence: of the intervals, which are `difference_interval` of the needles' values.

    Returns:
        Those that can be told: no ``"middle"`` where a third has no depths, nothing with one depth,
        nor with fewer than two needles.
    """
    if not table.knows_needles or len(table.needles) < 2:
        return ()
    effects = [_middle(table, confidence), _trend(table, confidence)]
    found = [effect for effect in effects if effect is not None]
    adjusted = adjust_holm([effect.p_value for effect in found])
    return tuple(
        replace(effect, p_value=float(p)) for effect, p in zip(found, adjusted, strict=True)
    )


def _middle(table: SampleTable, confidence: float) -> DepthEffect | None:
    """The middle third against both others; its p-value is the larger one of the two tests."""
    depths = _depths(table)
    thirds = np.where(depths < 1 / 3, 0, np.where(depths <= 2 / 3, 1, 2))
    to_first = _contrasts(table, thirds, 0)
    to_last = _contrasts(table, thirds, 2)
    if min(len(to_first), len(to_last)) < 2:
        return None
    means = [float(values.mean()) for values in (to_first, to_last)]
    closer = to_first if abs(means[0]) <= abs(means[1]) else to_last
    agree = means[0] * means[1] > 0
    p_values = [sign_flip_p_value(values) for values in (to_first, to_last)]
    return DepthEffect(
        "middle",
        round(float(closer.mean()), 12),
        difference_interval(closer, confidence=confidence),
        max(p_values) if agree else 1.0,
        len(closer),
    )


def _contrasts(table: SampleTable, thirds: "Indices", other: int) -> "Floats":
    """For each needle the score in the middle third minus that in another, a mean over lengths."""
    lengths = np.unique(table.num_frames, return_inverse=True)[1]
    num = lengths.max() + 1
    # One place for each needle, length and third.
    places = (table.needle * num + lengths[table.cell]) * 3 + thirds[table.cell]
    shape = (len(table.needles), num, 3)
    counts = np.bincount(places, minlength=np.prod(shape)).reshape(shape)
    sums = np.bincount(places, table.values, int(np.prod(shape))).reshape(shape)
    both = (counts[..., 1] > 0) & (counts[..., other] > 0)
    means = sums / counts.clip(min=1)
    differences = np.where(both, means[..., 1] - means[..., other], 0.0).sum(axis=1)
    has_any = both.any(axis=1)
    found: Floats = differences[has_any] / both.sum(axis=1)[has_any]
    return found


def _trend(table: SampleTable, confidence: float) -> DepthEffect | None:
    """The slope on depth, within lengths."""
    depths, lengths = _depths(table), table.num_frames
    slopes, largest = [], 0.0
    for needle in range(len(table.needles)):
        mask = table.needle == needle
        places = table.cell[mask]
        centered = _centered(depths[places], lengths[places])
        square = float(centered @ centered)
        if square > _ROUNDING:
            weights = centered / square
            slopes.append(float(weights @ table.values[mask]))
            largest = max(largest, float(weights.clip(min=0).sum()))
    if len(slopes) < 2:
        return None
    # Scores in [0, 1] allow slopes up to the largest, which makes them differences in [-1, 1].
    scaled = difference_interval(np.array(slopes) / largest, confidence=confidence)
    return DepthEffect(
        "trend",
        round(float(np.mean(slopes)), 12),
        Interval(scaled.low * largest, scaled.high * largest),
        sign_flip_p_value(slopes),
        len(slopes),
    )


def _depths(table: SampleTable) -> "Floats":
    return np.array([float(cell.depth) for cell in table.cells])


def _centered(values: "Floats", groups: "Indices") -> "Floats":
    """Values minus the means of their groups."""
    _, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    found: Floats = values - (np.bincount(places, values) / sizes)[places]
    return found


def _p_text(p_value: float) -> str:
    return "0.001 or less" if p_value <= 0.001 else f"{p_value:.2g}"
