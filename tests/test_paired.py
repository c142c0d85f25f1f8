"""Tests of two runs on the same samples."""

import itertools

import numpy as np
import pytest
from runs import make_run
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from vniah.analysis.statistics.means import difference_interval
from vniah.analysis.statistics.paired import (
    adjust_holm,
    cell_changes,
    difference_of,
    mcnemar_p_values,
    paired_difference,
    paired_table,
    sign_flip_p_value,
)
from vniah.errors import CannotCompareError


def test_exact_mcnemar_is_that_of_statsmodels():
    for fallen, risen in itertools.product(range(6), repeat=2):
        expected = mcnemar([[3, fallen], [risen, 4]], exact=True).pvalue if fallen + risen else 1.0
        assert mcnemar_p_values(fallen, risen) == pytest.approx(expected)
        less = mcnemar_p_values(fallen, risen, alternative="less")
        assert less == pytest.approx(binom.cdf(risen, fallen + risen, 0.5))
        assert mcnemar_p_values(risen, fallen, alternative="greater") == pytest.approx(less)


def test_exact_mcnemar_alarms_at_most_as_often_as_it_says():
    """Of n pairs that differ, as many fell as rose but for chance; the rate is exact."""
    for num in range(1, 60):
        fallen = np.arange(num + 1)
        for alternative in ("two-sided", "less"):
            p_values = mcnemar_p_values(fallen, num - fallen, alternative=alternative)
            assert binom.pmf(fallen, num, 0.5)[p_values < 0.05].sum() <= 0.05


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_sign_flips_are_all_sign_changes(alternative):
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(0.3, 1, 7), 1)
    means = [np.mean(values * signs) for signs in itertools.product((1, -1), repeat=7)]
    at_most = np.mean(np.array(means) <= values.mean() + 1e-12)
    at_least = np.mean(np.array(means) >= values.mean() - 1e-12)
    expected = {"less": at_most, "greater": at_least}
    expected["two-sided"] = min(1, 2 * min(at_most, at_least))
    found = sign_flip_p_value(values, alternative=alternative)
    assert found == pytest.approx(expected[alternative])
    assert sign_flip_p_value([*values, 0.0, 0.0], alternative=alternative) == pytest.approx(found)


def test_sign_flips_of_nothing_and_of_one_needle():
    assert sign_flip_p_value([0.0] * 5) == 1
    assert sign_flip_p_value([-1.0]) == 1
    assert sign_flip_p_value([-1.0], alternative="less") == 0.5
    assert sign_flip_p_value([-1.0], alternative="greater") == 1


def test_sign_flips_of_many_needles_are_drawn_always_the_same():
    values = np.linspace(-1, 2, 40)
    assert sign_flip_p_value(values) == sign_flip_p_value(values) < 0.01


@pytest.mark.parametrize("num_needles", [5, 8])
def test_sign_flips_alarm_at_most_as_often_as_they_say(num_needles):
    """Two runs of one model with needles of different difficulty: chance differences of scores."""
    rng = np.random.default_rng(1)
    chances = rng.beta(2, 1, (400, num_needles, 1))
    first, second = (rng.random((400, num_needles, 6)) < chances for _ in range(2))
    values = second.mean(axis=2) - first.mean(axis=2)
    alarms = np.mean([sign_flip_p_value(row) <= 0.05 for row in values])
    assert alarms <= 0.06, "0.05 but for the 400 draws"
    assert num_needles > 5 or alarms == 0, "5 needles have 32 sign changes"


def test_holm_keeps_the_rate_of_any_false_alarm():
    assert adjust_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert list(adjust_holm([])) == []
    rng = np.random.default_rng(2)
    for p_values in rng.random((5, 36)).round(2) ** 4:
        expected = multipletests(p_values, method="holm")[1]
        assert adjust_holm(p_values) == pytest.approx(expected)
    any_alarm = [(adjust_holm(rng.random(36)) < 0.05).any() for _ in range(1000)]
    assert np.mean(any_alarm) <= 0.06


def test_difference_of_two_runs():
    before = make_run(outcome=lambda c, k: k < 8)
    after = make_run(outcome=lambda c, k: k < 5 or (k == 9 and c.num_frames == 16))
    found = paired_difference(before, after)
    assert found.estimate == pytest.approx(after.average - before.average) == -0.25
    assert found.num_needles == 10 and found.num_pairs == 60
    assert (found.num_fallen, found.num_risen) == (18, 3)
    values = [0] * 5 + [-1] * 3 + [0, 0.5]
    expected = difference_interval(values)
    assert found.interval.low == pytest.approx(expected.low) and found.interval.high > 0
    assert found.p_value == pytest.approx(sign_flip_p_value(values))
    less = paired_difference(before, after, alternative="less")
    assert less.p_value == pytest.approx(found.p_value / 2)
    at_16 = difference_of(paired_table(before, after).at_length(16))
    assert at_16.num_pairs == 30 and at_16.estimate == pytest.approx(-0.2)


def test_difference_of_a_run_and_itself():
    run = make_run(outcome=lambda c, k: k < 8)
    found = paired_difference(run, run)
    assert (found.estimate, found.p_value, found.num_fallen) == (0, 1, 0)
    assert found.interval.low == -found.interval.high < -0.2, "ten needles do not show equality"


def test_difference_leaves_out_what_one_of_the_runs_lacks():
    before = make_run(outcome=lambda c, k: "oh" if k == 0 else None if k == 1 else True)
    after = make_run(outcome=lambda c, k: "oh" if k == 2 else k == 3)
    found = paired_difference(before, after)
    assert found.num_needles == 7 and found.num_pairs == 42 and found.num_fallen == 36
    with pytest.raises(CannotCompareError, match="no sample has a score in both runs/tiny and"):
        paired_difference(before, make_run("100"))


def test_changes_of_cells():
    before = make_run("8,16", "0,1", outcome=lambda c, k: True)
    after = make_run("8,16", "0,1", outcome=lambda c, k: c.num_frames == 8 or k < 2 or not c.depth)
    frame = cell_changes(before, after)
    assert frame.to_dict("list") == {
        "num_frames": [8, 8, 16, 16],
        "depth": [0.0, 1.0, 0.0, 1.0],
        "num_pairs": [10] * 4,
        "num_fallen": [0, 0, 0, 8],
        "num_risen": [0] * 4,
        "difference": [0, 0, 0, -0.8],
        "p_value": [1, 1, 1, pytest.approx(2 * 0.5**8)],
        "adjusted": [1, 1, 1, pytest.approx(8 * 0.5**8)],
    }
