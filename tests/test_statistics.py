from fractions import Fraction
from math import sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vniah.analysis.statistics import effective_length, exact_score, wilson_interval
from vniah.errors import InputError
from vniah.grid import Cell
from vniah.results import CellScore


def cell_score(num_frames, depth, num_correct, num_samples=10):
    score = num_correct / num_samples if num_samples else None
    return CellScore(Cell(num_frames, Fraction(str(depth))), score, num_samples, num_correct)


def published_score(num_frames, depth, score):
    return CellScore(Cell(num_frames, Fraction(str(depth))), score, None)


# Newcombe (1998), "Two-sided confidence intervals for the single proportion", Table I, method 3.
@pytest.mark.parametrize(
    ("num_correct", "num_samples", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_agrees_with_published_values(num_correct, num_samples, low, high):
    interval = wilson_interval(num_correct, num_samples)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 2000), st.data(), st.floats(0.01, 0.999))
def test_wilson_interval_ends_solve_the_score_equation(num_samples, data, confidence):
    num_correct = data.draw(st.integers(0, num_samples))
    interval = wilson_interval(num_correct, num_samples, confidence=confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_correct / num_samples
    assert 0 <= interval.low <= share <= interval.high <= 1
    for end in (interval.low, interval.high):
        assert abs(share - end) == pytest.approx(z * sqrt(end * (1 - end) / num_samples), abs=1e-7)


def test_wilson_interval_is_exact_where_all_or_nothing_is_right():
    assert wilson_interval(0, 7).low == 0.0
    assert wilson_interval(7, 7).high == 1.0
    assert wilson_interval(7, 7).low == pytest.approx(1 - wilson_interval(0, 7).high)


@pytest.mark.parametrize(
    ("arguments", "confidence", "message"),
    [
        ((0, 0), 0.95, "num_samples must be at least 1, got 0"),
        ((11, 10), 0.95, "between 0 and num_samples = 10, got 11"),
        ((-1, 10), 0.95, "between 0 and num_samples = 10, got -1"),
        ((1, 10), 1.0, "both excluded, got 1.0"),
        ((1, 10), 95, "got 95: write 0.95"),
        ((1, 10), float("nan"), "got nan"),
    ],
)
def test_wilson_interval_when_the_input_cannot_be_meant(arguments, confidence, message):
    with pytest.raises(InputError, match=message):
        wilson_interval(*arguments, confidence=confidence)


@pytest.mark.parametrize(
    ("score", "exact"),
    [
        (cell_score(1, 0, 1, 3), Fraction(1, 3)),
        (published_score(1, 0, 0.8999999999999999), Fraction(9, 10)),
        (published_score(1, 0, 1 / 3), Fraction(1, 3)),
        (published_score(1, 0, 0), 0),
        (cell_score(1, 0, 0, 0), None),
    ],
)
def test_exact_score(score, exact):
    assert exact_score(score) == exact


def test_effective_length_when_scores_fall_with_length():
    cells = [cell_score(n, d, right) for n, right in ((8, 10), (16, 9), (32, 3)) for d in (0, 1)]
    assert effective_length(reversed(cells)) == 16
    assert effective_length(cells, threshold=1) == 8
    assert effective_length(cells, threshold=0.25) == 32


def test_effective_length_when_a_shorter_length_fails():
    cells = [cell_score(8, 0, 10), cell_score(16, 0, 5), cell_score(32, 0, 10)]
    assert effective_length(cells) == 8
    assert effective_length(cells[1:]) is None


def test_effective_length_is_a_mean_over_depths():
    cells = [cell_score(8, 0, 10), cell_score(8, 0.5, 8)]
    assert effective_length(cells, threshold=0.9) == 8
    assert effective_length(cells, threshold=0.91) is None


def test_effective_length_when_floats_would_round_below_the_threshold():
    scores = (0.7, 0.8, 0.9)  # their float sum is 2.4000000000000004; that of 0.8, 0.9, 0.7 is 2.4
    for order in (scores, scores[1:] + scores[:1], scores[::-1]):
        cells = [published_score(8, k / 4, score) for k, score in enumerate(order)]
        assert effective_length(cells, threshold=0.8) == 8
    assert sum([0.1] * 10) / 10 < 0.1
    tenths = [published_score(8, k / 10, 0.1) for k in range(10)]
    assert effective_length(tenths, threshold=0.1) == 8


def test_effective_length_when_cells_have_no_score():
    cells = [cell_score(8, 0, 10), cell_score(8, 1, 0, 0), cell_score(16, 0, 0, 0)]
    assert effective_length([*cells, cell_score(32, 0, 10)]) == 32
    assert effective_length(cells[2:]) is None
    assert effective_length([]) is None


@pytest.mark.parametrize("threshold", [-0.1, 90, float("nan")])
def test_effective_length_when_the_threshold_cannot_be_meant(threshold):
    with pytest.raises(InputError, match=f"between 0 and 1, got {threshold}: write 0.9"):
        effective_length([], threshold=threshold)


def test_effective_length_counts_samples_that_could_not_be_run_as_wrong():
    def failed(num_frames, right, scored, errors):
        score = right / scored if scored else None
        return CellScore(Cell(num_frames, Fraction(0)), score, scored, right, errors)

    assert effective_length([failed(8, 9, 9, 1), failed(16, 8, 8, 2)]) == 8
    assert (
        effective_length([cell_score(8, 0, 10), failed(16, 0, 0, 10), cell_score(32, 0, 10)]) == 8
    )
    assert effective_length([failed(8, 10, 10, 0)]) == 8
