"""Tests of two runs on the same samples, and of differences over needles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.statistics.means import difference_interval, with_unseen_changes
from vniah.analysis.statistics.table import SampleTable, sample_table
from vniah.errors import CannotCompareError
from vniah.results import Results

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from vniah.analysis.statistics.table import Floats

Alternative = Literal["two-sided", "less", "greater"]
"""What a test is against: any difference, a fall (``"less"``), or a rise (``"greater"``)."""

NUM_RANDOM = 9999
"""How many rearrangements are drawn where there are too many to take all."""

SEED = 20240624
"""With which they are drawn, always the same."""


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two runs on the samples that both could run.

    Attributes:
        estimate: the mean of the cells' differences, the second run minus the first: that of these
            needles on this film.
        interval: the interval of the difference for needles like these (`difference_interval` over
            the needles' differences, `with_unseen_changes`); None if the samples do not say which
            needle they are about.
        p_value: of the test that needles like these make no difference, by turning around the
            needles' differences (`sign_flip_p_value`); None likewise.
        num_needles: number of needles.
        num_pairs: number of samples that both runs have a score of.
        num_fallen: number of these that the first run has right and the second wrong.
        num_risen: number of these that the first run has wrong and the second right.
    """

    estimate: float
    interval: Interval | None
    p_value: float | None
    num_needles: int
    num_pairs: int
    num_fallen: int
    num_risen: int


def paired_table(before: Results, after: Results) -> SampleTable:
    """The samples that both runs have a score of; their values are -1 (fallen), 0 and 1 (risen)."""
    earlier = {sample.sample_id: sample.correct for sample in before.samples}

    def change(sample_id: str, correct: bool | None) -> float | None:
        old = earlier.get(sample_id)
        return None if old is None or correct is None else float(correct) - float(old)

    return sample_table(after, lambda sample: change(sample.sample_id, sample.correct))


def paired_difference(
    before: Results,
    after: Results,
    *,
    confidence: float = 0.95,
    alternative: Alternative = "two-sided",
) -> PairedDifference:
    """How much a run differs from another on the same samples.

    Args:
        before: the first run.
        after: the second run, with the same sample ids.
        confidence: of the interval.
        alternative: what the p-value is against.

    Raises:
        CannotCompareError: no sample has a score in both runs.
        InputError: the confidence is not between 0 and 1.
    """
    return difference_of(
        _require_pairs(paired_table(before, after), before, after),
        confidence=confidence,
        alternative=alternative,
    )


def difference_of(
    table: SampleTable, *, confidence: float = 0.95, alternative: Alternative = "two-sided"
) -> PairedDifference:
    """The same of a table of pairs with at least one, such as ``table.at_length(512)``."""
    values = table.needle_values() if table.knows_needles else None
    interval = None
    if values is not None:
        rise, fall = (
            replace(table, values=(sign * table.values).clip(min=0)).mean for sign in (1, -1)
        )
        interval = with_unseen_changes(
            difference_interval(values, confidence=confidence),
            rise=rise,
            fall=fall,
            num_needles=len(values),
            confidence=confidence,
        )
    return PairedDifference(
        table.mean,
        interval,
        None if values is None else sign_flip_p_value(values, alternative=alternative),
        0 if values is None else len(values),
        len(table.values),
        int((table.values < 0).sum()),
        int((table.values > 0).sum()),
    )


def cell_changes(
    before: Results, after: Results, *, alternative: Alternative = "two-sided"
) -> "pd.DataFrame":
    """Each cell of two runs on the same samples, with an exact McNemar test.

    The samples of a cell have to be of different needles, so that they are independent.

    Returns:
        A row for each cell with a pair, ordered by frames, then by depth: ``num_frames``, ``depth``
        (a float), ``num_pairs``, ``num_fallen``, ``num_risen``, ``difference`` (of the scores of
        the pairs, in [-1, 1]), ``p_value``, and ``adjusted``: the p-value corrected by Holm's
        procedure for all cells being tested.

    Raises:
        CannotCompareError: no sample has a score in both runs.
    """
    import pandas as pd

    table = _require_pairs(paired_table(before, after), before, after)
    num = len(table.cells)
    fallen = np.bincount(table.cell, table.values < 0, num).astype(np.intp)
    risen = np.bincount(table.cell, table.values > 0, num).astype(np.intp)
    pairs = np.bincount(table.cell, minlength=num)
    p_values = mcnemar_p_values(fallen, risen, alternative=alternative)
    return pd.DataFrame(
        {
            "num_frames": [cell.num_frames for cell in table.cells],
            "depth": [float(cell.depth) for cell in table.cells],
            "num_pairs": pairs,
            "num_fallen": fallen,
            "num_risen": risen,
            "difference": (risen - fallen) / pairs,
            "p_value": p_values,
            "adjusted": adjust_holm(p_values),
        }
    )


def mcnemar_p_values(
    num_fallen: "ArrayLike", num_risen: "ArrayLike", *, alternative: Alternative = "two-sided"
) -> "Floats":
    """The exact McNemar test: of the pairs that differ, as many fell as rose, up to chance.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12 (1947), with the binomial distribution.

    Args:
        num_fallen: pairs that were right and are wrong, one number or an array.
        num_risen: pairs that were wrong and are right, of the same shape.
        alternative: ``"less"`` is against a fall.

    Returns:
        The p-values; 1 where no pair differs.
    """
    from scipy.stats import binom

    fallen, risen = np.asarray(num_fallen), np.asarray(num_risen)
    if alternative == "two-sided":
        tail = 2 * binom.cdf(np.minimum(fallen, risen), fallen + risen, 0.5)
    else:
        tail = binom.cdf(risen if alternative == "less" else fallen, fallen + risen, 0.5)
    capped: Floats = np.minimum(1.0, tail)
    return capped


def sign_flip_p_value(
    values: "Sequence[float] | Floats", *, alternative: Alternative = "two-sided"
) -> float:
    """The permutation test of a mean of differences, one of each needle.

    If there is no difference, each needle's might as well have the other sign. The p-value is the
    share of all sign changes whose mean is at least as far from 0; where there are more than 9,999,
    as many are drawn, always the same. It is exact if the differences are symmetric about 0 where
    there is none in the mean. Source: R. A. Fisher, "The Design of Experiments" (1935), section 21.

    Args:
        values: the difference of each needle.
        alternative: ``"less"`` is against a mean below 0.
    """
    from scipy.stats import permutation_test

    array = np.asarray(values, dtype=np.float64)
    array = np.round(array[np.abs(array) > 1e-12], 12)  # those without a difference change nothing
    if not len(array):
        return 1.0
    if len(array) == 1:  # scipy takes at least two
        is_as_asked = (array[0] < 0) == (alternative == "less")
        return 0.5 if alternative != "two-sided" and is_as_asked else 1.0
    found = permutation_test(
        (array,),
        lambda sample, axis: sample.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_RANDOM,
        alternative=alternative,
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def adjust_holm(p_values: "Sequence[float] | Floats") -> "Floats":
    """P-values corrected by Holm's procedure for being several.

    Below 0.05 are those that are significant with at most one chance in 20 that any is by accident.
    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
    of Statistics 6 (1979).
    """
    # Not statsmodels' multipletests, which collects garbage in every call: a tenth of a second.
    found = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(found)
    adjusted = np.empty_like(found)
    factors = len(found) - np.arange(len(found))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * found[order]))
    return adjusted


def _require_pairs(table: SampleTable, before: Results, after: Results) -> SampleTable:
    if not len(table.values):
        raise CannotCompareError(
            f"no sample has a score in both {before.path} and {after.path}; run both with the same "
            "task, grid and needles"
        )
    return table
