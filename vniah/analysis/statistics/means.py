"""Intervals of means over needles.

A needle's value is the mean over its samples. Needles are independent of one another; the samples
of one needle are not.
"""

from collections.abc import Callable, Sequence
from math import hypot, inf, sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri, stdtrit

from vniah.analysis.statistics.intervals import Interval, require_confidence, wilson_interval
from vniah.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = Sequence[float] | NDArray[np.float64]

FEW_NEEDLES = 10
"""From fewer needles no spread is taken at its word (`score_interval`)."""

_DIGITS = 9  # needles with equal outcomes have equal values but for rounding
_MOST_NEEDLES = 1_000_000


def score_interval(values: "Values", *, confidence: float = 0.95) -> Interval:
    """The interval of a mean score of needles like these, from the scores of some of them.

    It is the t-interval over the needles' scores in Wilson's form: the spread of the needles gives
    the number n of independent samples that would know as much, ``n = m (1 - m) / (s^2 / J)`` with
    the mean m, the standard deviation s and J needles, and the interval is Wilson's with n samples
    and the quantile of t with J - 1 degrees of freedom. In the middle of [0, 1] it is the
    t-interval ``m +- t s / sqrt(J)``; near 0 and 1, where few needles differ and the t-interval is
    much too narrow, it is longer on the side of the middle. Source: N. Dean and M. Pagano,
    "Evaluating Confidence Interval Methods for Binomial Proportions in Clustered Surveys", Journal
    of Survey Statistics and Methodology 3 (2015).

    Needles that all have the same score have no spread, which does not mean that all others are
    like them. So where at least half of the needles have the same score, or there are fewer than
    ten, the interval also reaches as far as Wilson's with one sample for each needle. That one does
    not need their spread: scores in [0, 1] with the mean m have at most the variance ``m (1 - m)``.
    If every score is 0 or 1, it is that interval and nothing else.

    Few needles may all be alike although a share of others like them is never found. So no interval
    of J needles reaches further than those of J needles that are all found, or all missed: its low
    end is at most ``J / (J + z^2)``, its high end at least ``z^2 / (J + z^2)``, with the normal
    quantile z. What is assumed beyond that is that the needles' spread tells of all others: that
    no rare kind of needle, which these do not show, is much harder or easier than the rest.

    Args:
        values: the score of each needle, in [0, 1].
        confidence: how often such an interval holds the mean of all needles like these.

    Raises:
        InputError: there is no value, or the confidence is not between 0 and 1.
    """
    values = _values(values, confidence)
    mean = _score(values)
    by_needles = wilson_interval(mean * len(values), len(values), confidence=confidence)
    if len(values) == 1 or set(np.round(values, _DIGITS)) <= {0.0, 1.0}:
        return by_needles
    num_known = _num_independent(values, mean)
    interval = _wilson_form(mean, num_known, _quantile(len(values), confidence))
    if _is_spread_unknown(values):
        interval = interval.hull(by_needles)
    return _within_reach(interval, len(values), confidence)


def unseen_share(num_needles: int, confidence: float = 0.95) -> float:
    """The share of needles that so many of them may all have missed: ``z^2 / (J + z^2)``.

    It is the end of Wilson's interval of none of J needles, with the normal quantile z.
    """
    square = float(ndtri((1 + confidence) / 2)) ** 2
    return square / (num_needles + square)


def with_unseen_changes(
    interval: Interval, *, rise: float, fall: float, num_needles: int, confidence: float = 0.95
) -> Interval:
    """An interval of a difference, with what a share of needles that none was drawn of may add.

    Runs that hardly differ on a few needles do not show that they hardly differ on others: a share
    of needles (`unseen_share`) may be lost, or gained, wholly. So no interval is shorter on either
    side than that share of samples falling, or rising, would have it. A side that is beyond 0
    already, which shows a change, is left as it is.

    Args:
        interval: that of the mean difference, such as `difference_interval`.
        rise: the share of samples that rose, in [0, 1].
        fall: the share of samples that fell, in [0, 1].
        num_needles: how many needles it is from.
        confidence: of the interval.
    """
    share = unseen_share(num_needles, confidence)
    low = min(interval.low, rise - share) if interval.low <= 0 else interval.low
    high = max(interval.high, share - fall) if interval.high >= 0 else interval.high
    return Interval(low, high)


def difference_interval(values: "Values", *, confidence: float = 0.95) -> Interval:
    """The interval of a mean difference of two scores of the same needles.

    It is the t-interval over the needles' differences. Where at least half of the needles have the
    same difference, mostly none, or there are fewer than ten, it also reaches as far as an interval
    that does not need their spread: Wilson's of the mean rise and of the mean fall, each with one
    sample for each needle, put together by squares. Source of the latter: R. G. Newcombe, "Improved
    confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17 (1998).

    Args:
        values: the difference of each needle, in [-1, 1].
        confidence: how often such an interval holds the mean of all needles like these.

    Raises:
        InputError: there is no value, or the confidence is not between 0 and 1.
    """
    values = _values(values, confidence)
    mean, num = float(values.mean()), len(values)
    interval = t_interval(values, confidence=confidence) if num > 1 else Interval(mean, mean)
    if _is_spread_unknown(values):
        rise = min(1.0, float(values.clip(min=0).mean()))
        fall = min(1.0, float((-values).clip(min=0).mean()))
        of_rise = wilson_interval(rise * num, num, confidence=confidence)
        of_fall = wilson_interval(fall * num, num, confidence=confidence)
        low = mean - hypot(rise - of_rise.low, of_fall.high - fall)
        high = mean + hypot(of_rise.high - rise, fall - of_fall.low)
        interval = interval.hull(Interval(low, high))
    return Interval(max(-1.0, interval.low), min(1.0, interval.high))


def t_interval(values: "Values", *, confidence: float = 0.95) -> Interval:
    """The t-interval of a mean of numbers that have no bounds, such as margins.

    Raises:
        InputError: there are fewer than two values, or the confidence is not between 0 and 1.
    """
    values = _values(values, confidence)
    if len(values) < 2:
        raise InputError("a t-interval takes at least 2 values, got 1")
    mean = float(values.mean())
    half = _quantile(len(values), confidence) * sqrt(float(values.var(ddof=1)) / len(values))
    return Interval(mean - half, mean + half)


def num_needles_needed(
    values: "Values",
    *,
    half_width: float = 0.1,
    confidence: float = 0.95,
    is_corrected: bool = False,
) -> int:
    """How many needles like these give an interval of a wanted size.

    That is the smallest number, at least ten, whose `score_interval` has at most this half-width if
    their mean and their spread are those of the needles that were measured.

    Args:
        values: the score of each needle.
        half_width: the wanted size.
        confidence: of the interval.
        is_corrected: whether the interval is that of a mean that exactly computed samples correct
            (`vniah.analysis.statistics.corrected`): of as many branches as needles, which all
            agree. What they may have missed adds to the needles' spread by squares.

    Raises:
        InputError: there is no value, or the half-width or the confidence is not between 0 and 1.
    """
    require_half_width(half_width)
    values = _values(values, confidence)
    mean = _score(values)
    per_needle = _num_independent(values, mean) / len(values) if len(values) > 1 else 1.0
    normal = float(ndtri((1 + confidence) / 2))
    needs_bound = len(values) == 1 or _is_saturated(values)

    def is_enough(num: int) -> bool:
        quantile = _quantile(num, confidence)
        interval = _wilson_form(mean, per_needle * num, quantile)
        if needs_bound:
            bound = _wilson_form(mean, num, normal)
            interval = bound if per_needle <= 1 else interval.hull(bound)
        interval = _within_reach(interval, num, confidence)
        if is_corrected:
            missed = unseen_share(num, confidence)
            interval = Interval(
                max(0.0, mean - hypot(mean - interval.low, missed)),
                min(1.0, mean + hypot(interval.high - mean, missed)),
            )
        return interval.half_width <= half_width

    return _first(is_enough, FEW_NEEDLES, _MOST_NEEDLES)


def require_half_width(half_width: float) -> None:
    """Raises `InputError` unless the half-width is between 0 and 1."""
    if not 0 < half_width < 1:
        raise InputError(
            f"half_width must be between 0 and 1, both excluded, got {half_width}: write 0.1"
        )


def _values(values: "Values", confidence: float) -> "NDArray[np.float64]":
    require_confidence(confidence)
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise InputError("a mean takes at least 1 value, got none")
    return array


def _score(values: "NDArray[np.float64]") -> float:
    """The mean of scores, which is 0 or 1 where all of them are, whatever rounding did."""
    return min(1.0, max(0.0, round(float(values.mean()), _DIGITS + 3)))


def _is_spread_unknown(values: "NDArray[np.float64]") -> bool:
    return len(values) < FEW_NEEDLES or _is_saturated(values)


def _is_saturated(values: "NDArray[np.float64]") -> bool:
    """Whether at least half of the values are the same."""
    counts = np.unique(np.round(values, _DIGITS), return_counts=True)[1]
    return bool(2 * counts.max() >= len(values))


def _num_independent(values: "NDArray[np.float64]", mean: float) -> float:
    """The number of independent samples that would know the mean as well as these values."""
    variance = float(values.var(ddof=1)) / len(values)
    if variance < 10.0 ** (-2 * _DIGITS):
        return inf
    return max(1.0, mean * (1 - mean) / variance)


def _wilson_form(mean: float, num: float, quantile: float) -> Interval:
    if num == inf:
        return Interval(mean, mean)
    weight = quantile**2 / num
    center = (mean + weight / 2) / (1 + weight)
    half = sqrt(weight * (mean * (1 - mean) + weight / 4)) / (1 + weight)
    return Interval(max(0.0, center - half), min(1.0, center + half))


def _within_reach(interval: Interval, num_needles: int, confidence: float) -> Interval:
    """The interval, and what needles of a kind that none of these is may add to it."""
    share = unseen_share(num_needles, confidence)
    return Interval(min(interval.low, 1 - share), max(interval.high, share))


def _quantile(num: int, confidence: float) -> float:
    """Of t with num - 1 degrees of freedom, for both sides."""
    return float(stdtrit(num - 1, (1 + confidence) / 2))


def _first(is_enough: Callable[[int], bool], least: int, most: int) -> int:
    """The smallest number that is enough, where all larger ones are; at most ``most``."""
    high = least
    while high < most and not is_enough(high):
        high *= 2
    low, high = max(least, high // 2), min(high, most)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return high
