"""Means of scores of which most were approximated, and some computed exactly as well.

Where all samples have an approximate score, and a random part of them an exact one, the mean of the
exact scores is estimated by the mean of the approximate ones, corrected by the mean difference of
the two where both are known. That is right on average however bad the approximation is. Source:
A. N. Angelopoulos et al., "Prediction-powered inference", Science 382 (2023). There samples are
independent; here needles are, and the intervals are those of this package for needles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from random import Random

from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.statistics.means import difference_interval, score_interval
from vniah.errors import InputError


@dataclass(frozen=True)
class Checked:
    """What is known of one needle.

    Attributes:
        approximate: the mean approximate score of all its samples, in [0, 1].
        differences: for each draw of `draw_groups` that fell on the needle, the mean of exact less
            approximate score of the group that was drawn, in [-1, 1].
    """

    approximate: float
    differences: Sequence[float] = ()


@dataclass(frozen=True)
class Corrected:
    """A corrected mean.

    Attributes:
        mean: the estimate, cut to [0, 1].
        these: its interval for these needles on this film: what was not computed exactly is
            unknown, and nothing else.
        like: its interval for needles like these.
    """

    mean: float
    these: Interval
    like: Interval


def corrected_mean(needles: Sequence[Checked], *, confidence: float = 0.95) -> Corrected:
    """The mean exact score of all samples.

    Both parts have intervals of their own, `score_interval` of the needles' approximate scores and
    `difference_interval` of the differences, which do not take a few draws without a difference for
    a proof that there is none. Their distances from the means are added by squares.

    Args:
        needles: at least one; all have equally many samples.
        confidence: how often such intervals hold what they are of.

    Raises:
        InputError: no sample was computed exactly, or the confidence is not between 0 and 1.
    """
    draws = [difference for needle in needles for difference in needle.differences]
    if not draws:
        raise InputError("a corrected mean takes samples that were computed exactly, got none")
    approximate = [needle.approximate for needle in needles]
    by_needle = [sum(n.differences) / len(n.differences) for n in needles if n.differences]
    base, moved = sum(approximate) / len(approximate), sum(draws) / len(draws)
    these = difference_interval(draws, confidence=confidence)
    spread = score_interval(approximate, confidence=confidence)
    change = difference_interval(by_needle, confidence=confidence)
    middle = sum(by_needle) / len(by_needle)
    low = hypot(base - spread.low, max(middle - change.low, moved - these.low))
    high = hypot(spread.high - base, max(change.high - middle, these.high - moved))
    mean = base + moved
    return Corrected(
        _within(mean),
        Interval(_within(base + these.low), _within(base + these.high)),
        Interval(_within(mean - low), _within(mean + high)),
    )


def draw_groups(sizes: Sequence[Sequence[int]], num_draws: int, random: Random) -> list[list[int]]:
    """Groups of samples to compute exactly, as `corrected_mean` needs them to be drawn.

    Draws go round all needles in a random order, so that no needle has two more than another. Each
    is independent of the others, and takes a group of its needle with a probability proportional to
    the group's samples; so a group may be drawn twice.

    Args:
        sizes: for each needle, the number of samples of each of its groups.
        num_draws: how many are drawn.
        random: draws them.

    Returns:
        For each needle the numbers of its groups, one for each draw.
    """
    order = list(range(len(sizes)))
    random.shuffle(order)
    found: list[list[int]] = [[] for _ in sizes]
    for draw in range(num_draws):
        needle = order[draw % len(order)]
        found[needle] += random.choices(range(len(sizes[needle])), weights=sizes[needle])
    return found


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))
