"""How often intervals hold the truth, in simulated runs whose truth is known.

Each simulated needle is easier or harder than others by a normal effect, with the share `icc` of
the variance, and each place in the grid by a fixed one: the score falls with the length, and in the
middle. An outcome is right if the sum of both is above the noise (a probit model), so the mean over
all needles of such a kind is known exactly.
"""

from fractions import Fraction

import numpy as np
import pytest
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import binom

from vniah.analysis.statistics.depth import depth_effects
from vniah.analysis.statistics.effective import range_of_lengths
from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.statistics.means import (
    difference_interval,
    score_interval,
    t_interval,
    unseen_share,
    with_unseen_changes,
)
from vniah.analysis.statistics.paired import difference_of
from vniah.analysis.statistics.table import SampleTable
from vniah.grid import Cell

NUM_RUNS = 4000  # the error of a simulated coverage of 0.95 is 0.003
LENGTHS, DEPTHS = 5, 4
PLACES = (np.linspace(0.6, -0.6, LENGTHS)[:, None] - 0.3 * (np.arange(DEPTHS) % 3 > 0)).ravel()


def simulate(mean, num_needles, icc, *, places=PLACES, num_runs=NUM_RUNS, seed=0):
    """``[num_runs, num_needles]`` scores of needles, and the score of all needles like them."""
    rng = np.random.default_rng(seed)
    effects = rng.standard_normal((num_runs, num_needles, 1)) * np.sqrt(icc)
    levels = ndtri(mean) + places
    return outcomes(rng, levels + effects, icc).mean(axis=2), float(ndtr(levels).mean())


def outcomes(rng, levels, icc):
    """Which samples are right, given their levels without the noise."""
    noise = rng.standard_normal(levels.shape, dtype=np.float32)
    return noise * np.float32(np.sqrt(1 - icc)) < levels.astype(np.float32)


def wilson(mean, num, z):
    center = (mean + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z * np.sqrt(mean * (1 - mean) / num + (z / num) ** 2 / 4) / (1 + z**2 / num)
    return center - half, center + half


def score_intervals(scores):
    """`score_interval` of many runs at once, written again."""
    num = scores.shape[1]
    mean, variance = scores.mean(axis=1), scores.var(axis=1, ddof=1) / num
    with np.errstate(divide="ignore"):
        known = np.where(variance > 1e-18, mean * (1 - mean) / np.maximum(variance, 1e-18), 1e18)
    low, high = wilson(mean, np.maximum(known, 1), stdtrit(num - 1, 0.975))
    bound_low, bound_high = wilson(mean, num, ndtri(0.975))
    ordered = np.sort(scores, axis=1)
    half = (num + 1) // 2  # at least half are equal if two that are half apart are
    starts = ordered[:, : num - half + 1]
    is_wide = np.isclose(starts, ordered[:, half - 1 :]).any(axis=1) | (num < 10)
    is_binary = np.isin(scores, (0, 1)).all(axis=1)
    low = np.where(is_binary, bound_low, np.where(is_wide, np.minimum(low, bound_low), low))
    high = np.where(is_binary, bound_high, np.where(is_wide, np.maximum(high, bound_high), high))
    best, worst = wilson(1.0, num, ndtri(0.975))[0], wilson(0.0, num, ndtri(0.975))[1]
    return low.clip(0, best), high.clip(worst, 1)


def difference_intervals(values):
    """`difference_interval` of many runs at once, written again."""
    num = values.shape[1]
    mean = values.mean(axis=1)
    half = stdtrit(num - 1, 0.975) * values.std(axis=1, ddof=1) / np.sqrt(num)
    rise, fall = values.clip(min=0).mean(axis=1), (-values).clip(min=0).mean(axis=1)
    (rise_low, rise_high), (fall_low, fall_high) = (
        wilson(share, num, ndtri(0.975)) for share in (rise, fall)
    )
    ordered = np.sort(values, axis=1)
    middle = (num + 1) // 2
    is_wide = np.isclose(ordered[:, : num - middle + 1], ordered[:, middle - 1 :]).any(axis=1)
    is_wide |= num < 10
    low = mean - np.where(
        is_wide, np.maximum(half, np.hypot(rise - rise_low, fall_high - fall)), half
    )
    high = mean + np.where(
        is_wide, np.maximum(half, np.hypot(rise_high - rise, fall - fall_low)), half
    )
    return low.clip(-1), high.clip(max=1)


def coverage(intervals, truth):
    low, high = intervals
    return float(np.mean((low <= truth + 1e-12) & (truth <= high + 1e-12)))


@pytest.mark.parametrize("num_needles", [5, 10, 21])
@pytest.mark.parametrize("mean", [0.5, 0.9, 0.99, 1.0])
def test_intervals_of_many_runs_are_those_of_each(num_needles, mean):
    scores, _ = simulate(mean, num_needles, 0.3, num_runs=20, seed=1)
    low, high = score_intervals(scores)
    for k, values in enumerate(scores):
        found = score_interval(values)
        assert (found.low, found.high) == pytest.approx((low[k], high[k]), abs=1e-9)
    changes = scores[:10] - scores[10:]
    low, high = difference_intervals(changes)
    for k, values in enumerate(changes):
        found = difference_interval(values)
        assert (found.low, found.high) == pytest.approx((low[k], high[k]), abs=1e-9)


@pytest.mark.parametrize("num_needles", [10, 20, 50])
@pytest.mark.parametrize("icc", [0.0, 0.1, 0.5])
def test_scores_of_all_needles_are_in_95_of_100_intervals(num_needles, icc):
    for mean in (0.35, 0.65):
        scores, truth = simulate(mean, num_needles, icc)
        assert 0.94 <= coverage(score_intervals(scores), truth) <= 0.965


@pytest.mark.parametrize("num_needles", [10, 20, 50])
@pytest.mark.parametrize("icc", [0.0, 0.1, 0.5])
def test_near_1_the_intervals_are_rather_too_wide(num_needles, icc):
    scores, truth = simulate(0.95, num_needles, icc)
    assert 0.935 <= coverage(score_intervals(scores), truth) <= 0.99


def test_a_plain_t_interval_is_too_narrow_near_1():
    scores, truth = simulate(0.95, 10, 0.5)
    mean, half = scores.mean(axis=1), scores.std(axis=1, ddof=1) / np.sqrt(10)
    half *= stdtrit(9, 0.975)
    assert coverage((mean - half, mean + half), truth) < 0.9


def test_few_needles_have_intervals_that_are_too_wide():
    for mean in (0.5, 0.8, 0.95):
        for icc in (0.0, 0.5):
            scores, truth = simulate(mean, 5, icc)
            low, high = score_intervals(scores)
            assert coverage((low, high), truth) > 0.97
            assert (high - low).min() > 0.4


@pytest.mark.parametrize("num_needles", [5, 10, 20, 50])
def test_needles_that_are_found_everywhere_or_nowhere(num_needles):
    """The largest spread. Wilson's coverage goes up and down around 0.95 with the share."""
    shares = np.linspace(0.5, 0.99, 99)
    num_found = np.arange(num_needles + 1)
    scores = (np.arange(num_needles) < num_found[:, None]).astype(float)
    low, high = score_intervals(scores)
    holds = (low <= shares[:, None]) & (shares[:, None] <= high)
    found = (holds * binom.pmf(num_found, num_needles, shares[:, None])).sum(axis=1)
    assert 0.945 < found.mean() < 0.97
    assert found.min() > 0.83


def mixture(share, others, num_needles, num_cells, num_runs=NUM_RUNS):
    """``[num_runs, num_needles]`` scores, of which a share of needles is never found."""
    rng = np.random.default_rng(11)
    chances = np.where(rng.random((num_runs, num_needles)) < share, 0.0, others)
    return rng.binomial(num_cells, chances) / num_cells


@pytest.mark.parametrize("num_cells", [36, 360])
@pytest.mark.parametrize(("share", "others"), [(0.1, 0.97), (0.1, 0.9), (0.05, 0.97), (0.02, 0.95)])
def test_needles_of_a_rare_kind_that_is_never_found(share, others, num_cells):
    """Few needles may all be of the other kind, and claim no more than if all were found."""
    for num_needles in (5, 10, 20):
        scores = mixture(share, others, num_needles, num_cells)
        # The reach of twenty needles is 0.839, and the score of all is 0.81.
        least = 0.85 if (num_needles, share, others) == (20, 0.1, 0.9) else 0.94
        assert coverage(score_intervals(scores), (1 - share) * others) >= least


def test_at_middling_scores_a_rare_kind_of_needle_is_not_in_the_interval():
    """That there is none is what the interval assumes there; docs/statistics.md says so."""
    scores = mixture(0.1, 0.5, 10, 90)
    assert coverage(score_intervals(scores), 0.45) < 0.85


@pytest.mark.parametrize("num_needles", [5, 10, 21, 50])
def test_no_run_claims_more_than_one_in_which_all_needles_are_found(num_needles):
    best = score_interval([1.0] * num_needles)
    assert best.low == pytest.approx(num_needles / (num_needles + ndtri(0.975) ** 2))
    assert unseen_share(num_needles) == pytest.approx(1 - best.low)
    rng = np.random.default_rng(12)
    for chance in (0.9, 0.975, 0.99):
        values = rng.binomial(84, chance, num_needles) / 84
        found, mirrored = score_interval(values), score_interval(1 - values)
        assert found.low <= best.low + 1e-12
        assert mirrored.high == pytest.approx(1 - found.low)
    assert (num_needles >= 35) == (best.low >= 0.9), "what an effective length takes"


def test_a_wilson_interval_over_all_samples_is_too_narrow():
    """As if each sample were of a needle of its own."""
    scores, truth = simulate(0.65, 10, 0.5)
    bounds = wilson(scores.mean(axis=1), 10 * LENGTHS * DEPTHS, ndtri(0.975))
    assert coverage(bounds, truth) < 0.65


@pytest.mark.parametrize("num_needles", [10, 20, 50])
@pytest.mark.parametrize(("icc", "change"), [(0.0, 0.0), (0.3, 0.0), (0.3, -0.1)])
def test_differences_of_two_runs_are_in_95_of_100_intervals(num_needles, icc, change):
    """The needles are the same in both runs, and half of their effects as well."""
    rng = np.random.default_rng(4)
    shared = rng.standard_normal((NUM_RUNS, num_needles, 1)) * np.sqrt(icc / 2)
    runs, truths = [], []
    for mean in (0.6, 0.6 + change):
        own = rng.standard_normal(shared.shape) * np.sqrt(icc / 2)
        levels = ndtri(mean) + PLACES
        runs.append(outcomes(rng, levels + shared + own, icc).mean(axis=2))
        truths.append(float(ndtr(levels).mean()))
    found = coverage(difference_intervals(runs[1] - runs[0]), truths[1] - truths[0])
    assert 0.94 <= found <= 0.965


def paired_runs(num_needles, mean, lost=0.0, num_runs=300):
    """``[num_runs, num_needles, num_places]`` changes, some of chance, and the mean of all."""
    rng = np.random.default_rng(13)
    levels = np.broadcast_to(ndtri(mean) + PLACES, (num_runs, num_needles, len(PLACES)))
    noise = rng.standard_normal((2, *levels.shape))
    noise[1] = np.where(rng.random(levels.shape) < 0.7, noise[0], noise[1])
    before, after = noise < levels
    after &= rng.random((num_runs, num_needles, 1)) >= lost
    return after.astype(float) - before, -lost * float(ndtr(levels[0, 0]).mean())


@pytest.mark.parametrize("num_needles", [10, 20])
def test_few_needles_do_not_show_that_no_needle_is_lost(num_needles):
    for lost in (0.0, 0.05, 0.1):
        changes, truth = paired_runs(num_needles, 0.5, lost)
        plain = [difference_interval(run.mean(axis=1)) for run in changes]
        found = [
            with_unseen_changes(
                interval,
                rise=float((run > 0).mean()),
                fall=float((run < 0).mean()),
                num_needles=num_needles,
            )
            for interval, run in zip(plain, changes, strict=True)
        ]
        whole = difference_of(table_of(changes[0].reshape(-1, LENGTHS, DEPTHS))).interval
        assert (whole.low, whole.high) == pytest.approx((found[0].low, found[0].high))
        assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.94
        if lost == 0.1:
            assert np.mean([one.low <= truth <= one.high for one in plain]) < 0.93


def test_a_change_that_is_shown_stays_shown():
    interval = Interval(-0.2, -0.05)
    found = with_unseen_changes(interval, rise=0.02, fall=0.1, num_needles=10)
    assert found.high == interval.high and found.low == pytest.approx(0.02 - unseen_share(10))
    many = with_unseen_changes(Interval(-0.1, 0.1), rise=0.3, fall=0.3, num_needles=20)
    assert many == Interval(-0.1, 0.1), "most of what can change has changed"


def test_differences_of_few_needles_have_intervals_that_are_too_wide():
    first, _ = simulate(0.6, 5, 0.3, seed=5)
    second, _ = simulate(0.6, 5, 0.3, seed=6)
    assert coverage(difference_intervals(second - first), 0.0) > 0.98


@pytest.mark.parametrize("num_needles", [5, 10, 20, 50])
@pytest.mark.parametrize("icc", [0.0, 0.3])
def test_effective_lengths_are_in_their_intervals(num_needles, icc):
    """The lengths' scores are 0.99 to 0.6, and 0.9 is passed between the third and the fourth."""
    rng = np.random.default_rng(7)
    levels = ndtri(np.repeat([0.99, 0.96, 0.92, 0.85, 0.6], 4))
    effects = rng.standard_normal((NUM_RUNS // 4, num_needles, 1)) * np.sqrt(icc)
    right = outcomes(rng, levels + effects, icc).reshape(-1, num_needles, 5, 4).mean(axis=3)
    ends = [score_intervals(right[:, :, length]) for length in range(5)]
    is_low, is_high = [], []
    for run in range(len(right)):
        intervals = [Interval(low[run], high[run]) for low, high in ends]
        low, high = range_of_lengths([1, 2, 3, 4, 5], intervals, intervals, threshold=0.9)
        is_low.append((low or 0) <= 3)
        is_high.append((high or 0) >= 3)
    assert min(np.mean(is_low), np.mean(is_high)) >= 0.965, "0.975 in either direction, nearly"
    assert np.mean(np.logical_and(is_low, is_high)) >= 0.945


def table_of(right):
    """``[num_needles, num_lengths, num_depths]`` of outcomes as a table."""
    num_needles, num_lengths, num_depths = right.shape
    cells = [
        Cell(8 * 2**k, Fraction(depth, num_depths - 1))
        for k in range(num_lengths)
        for depth in range(num_depths)
    ]
    places = np.tile(np.arange(len(cells)), num_needles)
    needles = np.repeat(np.arange(num_needles), len(cells))
    names = tuple(f"needle-{k:02}" for k in range(num_needles))
    return SampleTable(tuple(cells), names, places, needles, right.ravel().astype(float))


@pytest.mark.parametrize("has_effect", [False, True])
def test_depth_effects_are_found_and_rarely_by_chance(has_effect):
    """Needles and lengths differ; the middle is worse by 0.4, or depth makes no difference."""
    rng = np.random.default_rng(8)
    num_runs, num_needles = (30, 10) if has_effect else (150, 7)
    levels = np.broadcast_to(np.array([[1.0], [0.0]]), (2, 6)).copy()
    levels[:, 2:4] -= 1.4 * has_effect
    effects = rng.standard_normal((num_runs, num_needles, 1, 1)) * np.sqrt(0.3)
    right = outcomes(rng, levels + effects, 0.3)
    found = [depth_effects(table_of(run)) for run in right]
    middle = np.mean([effects[0].is_significant for effects in found])
    any_effect = np.mean([any(one.is_significant for one in effects) for effects in found])
    if has_effect:
        assert middle > 0.8 and np.mean([effects[0].estimate for effects in found]) < -0.25
    else:
        assert any_effect <= 0.06 and middle <= 0.03


def test_slopes_of_margins_are_in_95_of_100_intervals():
    rng = np.random.default_rng(9)
    for num_needles in (5, 10, 20, 50):
        slopes = rng.normal(-0.2, 0.3, (NUM_RUNS, num_needles, 1))
        doublings = np.arange(5) - 2
        margins = 5 + slopes * doublings + rng.normal(0, 1, (NUM_RUNS, num_needles, 5))
        found = margins @ doublings / 10
        mean, half = found.mean(axis=1), found.std(axis=1, ddof=1) / np.sqrt(num_needles)
        half *= stdtrit(num_needles - 1, 0.975)
        one = t_interval(found[0])
        assert (one.low, one.high) == pytest.approx((mean[0] - half[0], mean[0] + half[0]))
        assert 0.94 <= coverage((mean - half, mean + half), -0.2) <= 0.96
