"""Means of scores of which most were approximated, and some computed exactly as well.

Where all samples have an approximate score, and a random part of them an exact one, the mean of the
exact scores is estimated by the mean of the approximate ones, corrected by the mean difference of
the two where both are known. That is right on average however bad the approximation is. Source:
A. N. Angelopoulos et al., "Prediction-powered inference", Science 382 (2023). There samples are
independent; here needles are, and the intervals are those of this package for needles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt

from vniah.analysis.statistics.intervals import Interval, wilson_interval
from vniah.analysis.statistics.means import difference_interval, score_interval
from vniah.errors import InputError


@dataclass(frozen=True)
class Checked:
    """What is known of one needle.

    Attributes:
        approximate: the mean approximate score of all its samples, in [0, 1].
        differences: for each draw (`vniah.tasks.controls.exact.draw_groups`) that fell on the
            needle, the mean of exact less approximate score of the group that was drawn, in
            [-1, 1].
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


@dataclass(frozen=True)
class Draw:
    """What a draw says of a part of all samples, such as those of one length.

    Attributes:
        needle: the number of the needle that it fell on.
        weight: the share of the drawn group that is in the part. So draws of large groups, which
            are likelier, do not count more than those of small ones.
        difference: the mean of exact less approximate score of the group's samples in the part.
    """

    needle: int
    weight: float
    difference: float


def corrected_part(
    approximate: Sequence[float], draws: Sequence[Draw], *, confidence: float = 0.95
) -> Corrected:
    """The mean exact score of a part of all samples.

    The correction is the weighted mean of the draws' differences. Its interval is Wilson's of the
    mean rise and of the mean fall, put together as those of one difference, with as many
    independent samples as the weights leave: the square of their sum by the sum of their squares
    (L. Kish, "Survey Sampling", 1965). For needles like these it has at most as many as different
    needles were drawn.

    Args:
        approximate: the mean approximate score of each needle's samples in the part.
        draws: those of which a sample is in the part; at least one.
        confidence: how often such intervals hold what they are of.

    Raises:
        InputError: there is no draw, or the confidence is not between 0 and 1.
    """
    if not draws:
        raise InputError("a corrected mean takes samples that were computed exactly, got none")
    total = sum(draw.weight for draw in draws)
    num = total**2 / sum(draw.weight**2 for draw in draws)
    rise = sum(draw.weight * max(0.0, draw.difference) for draw in draws) / total
    fall = sum(draw.weight * max(0.0, -draw.difference) for draw in draws) / total
    base, moved = sum(approximate) / len(approximate), rise - fall
    below, above = _reach(rise, fall, num, confidence)
    spread = score_interval(approximate, confidence=confidence)
    num_needles = len({draw.needle for draw in draws})
    like_below, like_above = _reach(rise, fall, min(num, num_needles), confidence)
    mean = base + moved
    return Corrected(
        _within(mean),
        Interval(_within(mean - below), _within(mean + above)),
        Interval(
            _within(mean - hypot(base - spread.low, like_below)),
            _within(mean + hypot(spread.high - base, like_above)),
        ),
    )


def _reach(rise: float, fall: float, num: float, confidence: float) -> tuple[float, float]:
    """How far below and above its mean the interval of a difference reaches.

    What rises does not fall, so the two shares r and f of one sample are correlated, by
    ``-sqrt(r f / (1 - r) / (1 - f))``. Their intervals are put together with that correlation, else
    an interval of many rises and falls would be too short. Source: G. Y. Zou and A. Donner,
    "Construction of confidence limits about effect measures: A general approach", Statistics in
    Medicine 27 (2008).
    """
    rise, fall = min(1.0, rise), min(1.0, fall)
    of_rise = wilson_interval(rise * num, num, confidence=confidence)
    of_fall = wilson_interval(fall * num, num, confidence=confidence)
    others = (1 - rise) * (1 - fall)
    correlation = min(1.0, sqrt(rise * fall / others)) if others > 0 else 0.0

    def together(one: float, other: float) -> float:
        return sqrt(one**2 + other**2 + 2 * correlation * one * other)

    return (
        together(rise - of_rise.low, of_fall.high - fall),
        together(of_rise.high - rise, fall - of_fall.low),
    )


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))
