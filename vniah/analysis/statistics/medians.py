"""Medians over needles, of numbers that are not scores, such as errors in seconds."""

from math import ceil, log2
from typing import TYPE_CHECKING

import numpy as np

from vniah.analysis.statistics.intervals import Interval, require_confidence
from vniah.errors import InputError

if TYPE_CHECKING:
    from vniah.analysis.statistics.table import Floats, Indices


def cluster_medians(clusters: "Indices", values: "Floats") -> "Floats":
    """``[num_clusters]``: the median of the values of each cluster, such as a needle, by number."""
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-2))[1:]
    found: Floats = np.array([np.median(part) for part in np.split(values[order], starts)])
    return found


def median_interval(values: "Floats", *, confidence: float = 0.95) -> Interval | None:
    """The interval of the median of needles like these, from a number of each of some needles.

    Its ends are two of the numbers: those between which the median lies with at least this
    confidence, whatever the distribution (the sign test, inverted). Source: W. J. Conover,
    "Practical Nonparametric Statistics" (1999), section 3.2.

    Args:
        values: ``[num_needles]``, finite.
        confidence: how often such an interval holds the median, at least.

    Returns:
        None if there are too few needles: even the smallest and the largest number are no such
        interval (`num_needles_of_median`).

    Raises:
        InputError: there is no value, or the confidence is not between 0 and 1.
    """
    require_confidence(confidence)
    if not len(values):
        raise InputError("a median takes at least 1 value, got 0")
    if len(values) < num_needles_of_median(confidence):
        return None
    from scipy.stats import quantile_test

    found = quantile_test(np.asarray(values, np.float64), p=0.5).confidence_interval(confidence)
    return Interval(float(found.low), float(found.high))


def num_needles_of_median(confidence: float = 0.95) -> int:
    """The fewest needles of which a median has an interval.

    >>> num_needles_of_median(0.95)
    6
    """
    return ceil(1 - log2(1 - confidence))
