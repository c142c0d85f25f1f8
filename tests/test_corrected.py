"""Means of approximate scores, corrected by some exact ones."""

from random import Random

import numpy as np
import pytest

from vniah.analysis.statistics.corrected import Checked, Draw, corrected_mean, corrected_part
from vniah.analysis.statistics.means import difference_interval, score_interval
from vniah.errors import InputError
from vniah.tasks.controls.exact import draw_groups

SIZES = (6, 5, 4, 3, 2, 1)
"""Samples of each group of a needle: a branch is read at all lengths behind it."""


def draw_needle(random, accuracy, agreement, bias):
    """Exact and approximate scores of all groups of a needle; groups have good and bad luck."""
    skill = random.beta(6 * accuracy, 6 * (1 - accuracy))
    exact, near = [], []
    for size in SIZES:
        scores = random.random(size) < skill
        is_wrong = random.random() > agreement  # of a whole group, as branches are
        worse = random.random(size) < bias
        exact.append(scores)
        near.append(np.where(worse, False, ~scores) if is_wrong else scores)
    return exact, near


def checked_by(random, drawn, needle):
    exact, near = needle
    differences = [float(exact[group].mean() - near[group].mean()) for group in drawn]
    return Checked(float(np.concatenate(near).mean()), differences)


@pytest.mark.parametrize("num_needles", [5, 50])
@pytest.mark.parametrize("agreement", [0.6, 0.9, 1.0])
@pytest.mark.parametrize("accuracy", [0.5, 0.9])
def test_intervals_hold_what_they_are_of_however_bad_the_approximation(
    num_needles, agreement, accuracy
):
    random, drawing = np.random.default_rng(1), Random(1)
    num_runs, these, like, errors = 60, 0, 0, []
    for _ in range(num_runs):
        needles = [draw_needle(random, accuracy, agreement, 0.7) for _ in range(num_needles)]
        truth = float(np.mean([np.concatenate(exact).mean() for exact, _ in needles]))
        drawn = draw_groups([SIZES] * num_needles, 12, drawing)
        found = corrected_mean(
            [checked_by(random, groups, one) for groups, one in zip(drawn, needles, strict=True)]
        )
        errors.append(found.mean - truth)
        these += found.these.low <= truth <= found.these.high
        like += found.like.low <= accuracy <= found.like.high
        assert found.like.low <= found.mean <= found.like.high
    assert these >= 0.93 * num_runs and like >= 0.93 * num_runs
    assert abs(np.mean(errors)) < 0.04


DEPTHS = np.repeat(np.arange(11), [4, *[1] * 10])
"""The group of each sample: a needle at depth 0 is one branch at all of four lengths, and at other
depths another branch at each. Its first sample has the shortest length, as has every fourth."""

IS_SHORT = np.arange(14) % 4 == 0


@pytest.mark.parametrize("num_needles, num_draws", [(10, 12), (25, 100)])
@pytest.mark.parametrize("agreement", [0.6, 0.9, 1.0])
def test_intervals_of_a_part_hold_what_they_are_of_whatever_the_sizes_of_groups(
    num_needles, num_draws, agreement
):
    random, drawing, num_runs, these, like = np.random.default_rng(3), Random(3), 120, 0, 0
    sizes = np.bincount(DEPTHS)
    for _ in range(num_runs):
        skill = random.beta(3, 3, (num_needles, 1))
        exact = random.random((num_needles, len(DEPTHS))) < skill
        flipped = random.random((num_needles, len(sizes))) > agreement  # whole branches
        near = exact ^ flipped[:, DEPTHS]
        draws = []
        for needle, groups in enumerate(draw_groups([sizes] * num_needles, num_draws, drawing)):
            for group in groups:
                inside = (group == DEPTHS) & IS_SHORT
                if num := inside.sum():
                    change = exact[needle, inside].mean() - near[needle, inside].mean()
                    draws.append(Draw(needle, num / sizes[group], float(change)))
        found = corrected_part(near[:, IS_SHORT].mean(axis=1), draws)
        these += found.these.low <= exact[:, IS_SHORT].mean() <= found.these.high
        like += found.like.low <= 0.5 <= found.like.high
    assert these >= 0.93 * num_runs and like >= 0.93 * num_runs


@pytest.mark.parametrize("rise, fall", [(0.25, 0.25), (0.4, 0.1), (0.3, 0.0)])
def test_many_draws_reach_as_far_as_the_spread_of_their_differences(rise, fall):
    num = 400
    changes = [1.0] * round(rise * num) + [-1.0] * round(fall * num)
    changes += [0.0] * (num - len(changes))
    found = corrected_part([0.4] * 5, [Draw(0, 1.0, change) for change in changes])
    expected = 1.96 * np.std(changes) / num**0.5
    assert found.these.half_width == pytest.approx(expected, rel=0.03)
    assert found.mean == pytest.approx(0.4 + rise - fall)


def test_without_a_difference_the_intervals_are_as_wide_as_the_draws_are_few():
    scores = [0.8, 0.9, 1.0, 0.7, 0.9, 1.0, 0.8, 0.6, 1.0, 0.9, 0.8, 0.9]
    widths = []
    for num_draws in (1, 4, 40):
        found = corrected_mean([Checked(score, [0.0] * num_draws) for score in scores])
        assert found.mean == pytest.approx(sum(scores) / len(scores))
        alone = score_interval(scores)
        assert found.like.low < alone.low and found.like.high >= alone.high
        assert found.these.low < found.mean < found.these.high
        widths.append(found.these.half_width)
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.02


def test_differences_move_the_mean_and_nothing_but_they_is_unknown_of_these_needles():
    draws = [0.5, 0.0, 0.25, 0.25, 0.5, 0.0, 0.25, 0.25, 0.5, 0.0]
    found = corrected_mean([Checked(0.4, draws)])
    expected = difference_interval(draws)
    assert found.mean == pytest.approx(0.65)
    assert found.these.low == pytest.approx(0.4 + expected.low)
    assert found.these.high == pytest.approx(0.4 + expected.high)
    beyond = corrected_mean([Checked(0.9, [0.5]), Checked(1.0, [0.5])])
    assert beyond.mean == 1.0 and beyond.like.high == 1.0


def test_draws_go_round_the_needles_and_follow_the_sizes():
    drawn = draw_groups([SIZES] * 5, 12, Random(0))
    assert sorted(map(len, drawn)) == [2, 2, 2, 3, 3]
    (many,) = draw_groups([(3, 0, 1)], 4000, Random(0))
    assert set(many) == {0, 2} and many.count(0) / 4000 == pytest.approx(0.75, abs=0.03)
    assert draw_groups([SIZES] * 3, 0, Random(0)) == [[], [], []]


def test_nothing_exact_is_refused():
    with pytest.raises(InputError, match="computed exactly, got none"):
        corrected_mean([Checked(0.5), Checked(0.6)])
