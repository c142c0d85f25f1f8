"""What runs say about needles like these: sentences, degenerate runs, the Python interface."""

import itertools
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from runs import make_manifest, make_run, make_sample, write_run

import vniah
from vniah.analysis.sentences import format_summary
from vniah.analysis.statistics.depth import depth_effects
from vniah.analysis.statistics.effective import find_effective_length, range_of_lengths
from vniah.analysis.statistics.estimates import cell_intervals, estimate_of
from vniah.analysis.statistics.intervals import Interval, wilson_interval
from vniah.analysis.statistics.margins import margin_trend
from vniah.analysis.statistics.means import (
    difference_interval,
    num_needles_needed,
    score_interval,
    t_interval,
)
from vniah.analysis.statistics.table import cluster_values, sample_table
from vniah.cli.display import format_table
from vniah.errors import InputError, ResultsError
from vniah.grid import Cell, Grid
from vniah.results import CellScore, Results, load_results

HALF = Fraction(1, 2)


def with_fields(results, **changes):
    """The run with other values in its samples; a function gets the sample."""
    samples = tuple(
        replace(sample, **{name: change(sample) for name, change in changes.items()})
        for sample in results.samples
    )
    return replace(results, samples=samples)


# --- intervals -----------------------------------------------------------------------------------


def test_score_interval_is_the_t_interval_in_the_middle_of_a_small_spread():
    values = 0.5 + 0.01 * np.arange(-10, 11)
    by_t, found = t_interval(values), score_interval(values)
    assert (found.low, found.high) == pytest.approx((by_t.low, by_t.high), abs=2e-4)


def test_score_interval_of_equal_scores_is_as_wide_as_the_number_of_needles_says():
    """A t-interval would have no width."""
    assert score_interval([1.0] * 10) == wilson_interval(10, 10)
    assert score_interval([0.0] * 20) == wilson_interval(0, 20)
    assert score_interval([0.5] * 10) == wilson_interval(5, 10)
    assert score_interval([0.1 + 0.2] * 7 + [0.3] * 6) == wilson_interval(0.3 * 13, 13), "rounding"
    assert score_interval([0.25]) == wilson_interval(0.25, 1)


def test_score_interval_of_one_sample_for_each_needle_is_wilsons():
    assert score_interval([1.0] * 6 + [0.0] * 4) == wilson_interval(6, 10)


def test_score_interval_when_most_needles_are_equal_reaches_as_far_as_wilsons():
    found, bound = score_interval([1.0] * 9 + [0.9]), wilson_interval(9.9, 10)
    assert (found.low, found.high) == pytest.approx((bound.low, bound.high), abs=0.02)


def test_difference_interval_of_runs_that_do_not_differ():
    found = difference_interval([0.0] * 10)
    assert found.high == -found.low == pytest.approx(wilson_interval(0, 10).high)
    one = difference_interval([-1.0])
    assert one.low == -1 and one.high > -1


def test_difference_interval_stays_within_its_bounds():
    found = difference_interval([1.0] * 3 + [-1.0])
    assert -1 <= found.low < found.high == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_interval([]), "at least 1 value, got none"),
        (lambda: score_interval([1.0], confidence=95), "got 95: write 0.95"),
        (lambda: t_interval([1.0]), "at least 2 values, got 1"),
        (lambda: num_needles_needed([1.0], half_width=1), "got 1: write 0.1"),
        (lambda: vniah.summarize(make_run(), half_width=0), "got 0: write 0.1"),
        (lambda: vniah.summarize(make_run(), threshold=90), "got 90: write 0.9"),
        (lambda: vniah.summarize(make_run(), confidence=1), "both excluded, got 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_number_of_needles_that_are_needed():
    assert num_needles_needed([1.0] * 5) == 16
    assert wilson_interval(16, 16).half_width <= 0.1 < wilson_interval(15, 15).half_width
    spread = np.linspace(0.2, 0.8, 12)
    num = num_needles_needed(spread, half_width=0.05)
    for count in (num - 1, num):  # that many needles with the same mean and spread
        scale = np.std(spread, ddof=1) / np.std(grown := np.linspace(0, 1, count), ddof=1)
        interval = score_interval(0.5 + (grown - 0.5) * scale)
        assert (interval.half_width <= 0.05) == (count == num)
    assert num_needles_needed([0.5] * 12, half_width=1e-4) == 1_000_000, "the most that is searched"


def test_a_narrow_claim_from_few_needles_is_refused():
    estimate = estimate_of(np.array([0.5, 0.51, 0.52, 0.49, 0.48]))
    assert not estimate.is_narrow and estimate.interval.half_width > 0.3
    assert estimate.text == (
        "needles like these: 0.17 to 0.83 (95 %); 5 needles are too few to know it to within 0.1, "
        "which takes about 10"
    )
    one = estimate_of(np.array([1.0]))
    assert "1 needle is too few to know it to within 0.1, which takes about 16" in one.text
    many = estimate_of(np.linspace(0.4, 0.6, 12))
    assert many.is_narrow and many.text == "needles like these: 0.46 to 0.54 (95 %, 12 needles)"


# --- needles of a table ---------------------------------------------------------------------------


def test_values_of_needles_with_equally_many_samples_are_their_means():
    rng = np.random.default_rng(0)
    outcomes = rng.integers(0, 2, (4, 7)).astype(float)
    cells, needles = (place.ravel() for place in np.indices(outcomes.shape))
    found = cluster_values(cells, needles, outcomes.ravel())
    assert found == pytest.approx(outcomes.mean(axis=0))


def cr2_variance(cells, needles, values):
    """The variance CR2 of the mean over cells, by matrices, with (I - H)^-1/2 of each needle."""
    design = np.eye(cells.max() + 1)[cells]
    inverse = np.linalg.inv(design.T @ design)
    residuals = values - design @ inverse @ design.T @ values
    middle = np.zeros_like(inverse)
    for needle in np.unique(needles):
        rows = design[needles == needle]
        eigenvalues, vectors = np.linalg.eigh(np.eye(len(rows)) - rows @ inverse @ rows.T)
        root = vectors / np.sqrt(eigenvalues) @ vectors.T
        score = rows.T @ root @ residuals[needles == needle]
        middle += np.outer(score, score)
    weights = np.full(len(inverse), 1 / len(inverse))
    return weights @ inverse @ middle @ inverse @ weights


def test_values_of_needles_with_missing_samples_have_the_variance_cr2():
    rng = np.random.default_rng(1)
    cells, needles = (place.ravel() for place in np.indices((5, 12)))
    kept = rng.random(cells.shape) < 0.8
    cells, needles = cells[kept], needles[kept]
    values = rng.integers(0, 2, cells.shape).astype(float)
    found = cluster_values(cells, needles, values)
    assert found.mean() == pytest.approx(np.mean([values[cells == c].mean() for c in range(5)]))
    assert found.var(ddof=1) / 12 == pytest.approx(cr2_variance(cells, needles, values), rel=0.03)


def test_cells_that_only_one_needle_was_shown_in_still_have_a_spread():
    found = cluster_values(np.arange(4), np.arange(4), np.array([1.0, 0.0, 1.0, 1.0]))
    assert sorted(found) == pytest.approx([0, 1, 1, 1])


def test_samples_that_share_needles_are_not_independent():
    shown = {0: ["a", "b"], 1: ["b", "c"], 2: ["d", "e"], 3: ["e", "d"]}
    run = make_run(num_needles=4)
    pairs = with_fields(run, fields=lambda s: {"needle_ids": shown[int(s.sample_id[-1])]})
    assert len(sample_table(pairs).needles) == 2
    ring = with_fields(run, fields=lambda s: {"needle_ids": ["a", s.sample_id[-1]]})
    assert not sample_table(ring).knows_needles
    summary = vniah.summarize(ring)
    assert summary.needles_like_these.interval is None and summary.depth_effects == ()
    assert summary.lines[0] == (
        "needles like these: nothing can be said, as no two samples are known to show different "
        "needles"
    )
    assert "with needles like these" not in summary.effective_length.text


def test_controls_never_count():
    run = make_run()
    control = replace(run.samples[0], control="no-needle", correct=False)
    assert vniah.summarize(replace(run, control_samples=(control,))) == vniah.summarize(run)


# --- cells ----------------------------------------------------------------------------------------


def test_interval_of_a_cell_is_wilsons_over_its_needles():
    run = make_run("8", "0,1", outcome=lambda c, k: k < 7 or ("oh" if c.depth else False))
    assert cell_intervals(run) == {
        Cell(8, Fraction(0)): wilson_interval(7, 10),
        Cell(8, Fraction(1)): wilson_interval(7, 7),
    }


def test_interval_of_a_cell_with_several_samples_of_a_needle_is_over_needles():
    run = make_run("8", "0", num_needles=12)
    twice = with_fields(run, fields=lambda s: {"needle_id": s.fields["needle_id"][-1]})
    found = cell_intervals(twice)[Cell(8, Fraction(0))]
    assert found == wilson_interval(10, 10), "needles 0 and 10, and 1 and 11, have one name"


# --- effective length -----------------------------------------------------------------------------


def falling(cell, k):
    """All needles up to 16 frames, 17 of 20 at 32, 1 of 20 at 64."""
    return cell.num_frames <= 16 or k % 20 < {32: 17, 64: 1}[cell.num_frames]


@pytest.mark.parametrize(
    ("frames", "last_right", "short"),
    [
        ("1,2", 1, "1 frame"),
        ("1,2", 0, "< 1 frame"),
        ("1,2,4", 2, "2 frames"),
        ("1", 1, ">= 1 frame"),
    ],
)
def test_effective_length_in_short_counts_its_unit(frames, last_right, short):
    run = make_run(frames, "0", num_needles=2, outcome=lambda c, k: c.num_frames <= last_right)
    assert find_effective_length(run).short_with_unit == short


def test_effective_length_of_these_needles_and_of_needles_like_these():
    found = find_effective_length(make_run("8,16,32,64", "0,1", num_needles=40, outcome=falling))
    assert (found.num_frames, found.low, found.high) == (16, 16, 32)
    assert (found.seconds, found.tokens, found.short) == (16, 64, ("16", "16-32"))
    assert found.text == (
        "effective visual context length (score at least 0.9 up to there): with these needles 16 "
        "frames (16 s, 64 tokens); with needles like these 16 to 32 frames (95 %)"
    )


@pytest.mark.parametrize(
    ("outcome", "num_needles", "point", "like_these", "short"),
    [
        (
            lambda c, k: True,
            40,
            "at least 32 frames (32 s, 128 tokens), the longest measured",
            "at least 32 frames (95 %)",
            (">= 32", ">= 32"),
        ),
        (
            lambda c, k: True,
            10,
            "at least 32 frames (32 s, 128 tokens), the longest measured",
            "not known from 10 needles, which takes 35 needles or more (95 %)",
            (">= 32", "."),
        ),
        (
            lambda c, k: False,
            40,
            "below 8 frames (8 s, 32 tokens), the shortest measured",
            "below 8 frames (95 %)",
            ("< 8", "< 8"),
        ),
        (
            lambda c, k: c.num_frames < 32,
            10,
            "16 frames (16 s, 64 tokens)",
            "at most 16 frames (95 %)",
            ("16", "<= 16"),
        ),
        (
            lambda c, k: c.num_frames < 32,
            40,
            "16 frames (16 s, 64 tokens)",
            "the same (95 %)",
            ("16", "16"),
        ),
    ],
)
def test_effective_length_in_words(outcome, num_needles, point, like_these, short):
    run = make_run("8,16,32", "0,1", num_needles=num_needles, outcome=outcome)
    found = find_effective_length(run)
    name = "effective visual context length (score at least 0.9 up to there)"
    assert found.text == f"{name}: with these needles {point}; with needles like these {like_these}"
    assert found.short == short


def test_effective_length_is_not_shown_by_few_needles_at_a_threshold_of_1():
    found = find_effective_length(make_run(), threshold=1)
    assert (found.num_frames, found.low, found.num_needed) == (16, None, None)
    assert found.text.endswith("like these not known from 10 needles (95 %)")


@pytest.mark.parametrize(("num_needles", "outcome"), [(1, True), (1, False), (5, False), (9, True)])
def test_effective_length_claims_nothing_of_needles_like_these_from_few(num_needles, outcome):
    run = make_run("64,128", num_needles=num_needles, outcome=lambda c, k: outcome)
    found = find_effective_length(run)
    assert (found.low, found.high, found.has_interval, found.short[1]) == (None, None, False, ".")
    needles = "1 needle" if num_needles == 1 else f"{num_needles} needles"
    needed = 35 if outcome else 10
    assert found.text.endswith(
        f"with needles like these not known from {needles}, which takes {needed} needles or more "
        "(95 %)"
    )


def test_effective_length_holds_whatever_failed_samples_would_have_given():
    run = make_run("8,16", "0", num_needles=50, outcome=lambda c, k: "oh" if k < 25 else True)
    found = find_effective_length(run)
    assert (found.num_frames, found.low, found.high) == (None, None, 16)
    assert found.text.endswith(
        "; 50 samples at 8 and 16 frames could not be run and count as wrong"
    )


def test_effective_length_of_a_run_that_goes_on_leaves_out_what_is_not_complete():
    run = make_run("8,16", "0,1", outcome=lambda c, k: True if c.num_frames == 8 or k < 3 else None)
    found = find_effective_length(run)
    assert found.measured == (8,) and found.num_frames == 8
    assert found.text.endswith("; without 16 frames, where not all samples have been run")
    begun = make_run("8,16", "0,1", outcome=lambda c, k: True if k < 3 else None)
    assert find_effective_length(begun).text == (
        "effective visual context length (score at least 0.9 up to there): not known, no length is "
        "complete; without 8 and 16 frames, where not all samples have been run"
    )


def test_effective_length_does_not_wait_for_controls():
    run = make_run("8", "0", controls=["no-needle"])
    ids = f"{run.manifest['sample_ids']} 8/-/needle-1/no-needle"
    run = replace(run, manifest={**run.manifest, "sample_ids": ids})
    assert not run.is_complete and find_effective_length(run).measured == (8,)


def test_range_of_lengths_stops_at_the_first_test_that_does_not_reject():
    sure, open_, bad = Interval(0.95, 1), Interval(0.5, 0.95), Interval(0.1, 0.3)
    for kinds in itertools.product((sure, open_, bad), repeat=3):
        low, high = range_of_lengths([1, 2, 3], kinds, kinds, threshold=0.9)
        shown = next((k for k, kind in enumerate(kinds) if kind is not sure), 3)
        excluded = next((k for k, kind in enumerate(kinds[::-1]) if kind is not bad), 3)
        assert (low or 0, high or 0) == (shown, 3 - excluded)


# --- depth ----------------------------------------------------------------------------------------


def effects_of(outcome, depths="0:1:0.2", **options):
    found = depth_effects(sample_table(make_run("8,16", depths, outcome=outcome, **options)))
    return {effect.name: effect for effect in found}


def test_needles_that_are_lost_in_the_middle():
    found = effects_of(lambda c, k: abs(c.depth - HALF) > Fraction(1, 4) or k == 0)
    assert found["middle"].estimate == pytest.approx(-0.9)
    assert found["middle"].is_significant and not found["trend"].is_significant
    assert found["middle"].text == (
        "depth: needles are lost in the middle: the score in the middle third of the haystack is "
        "0.90 lower than in the first and in the last third, or more (p = 0.0078, 10 needles)"
    )


def test_needles_that_are_found_at_the_end_only_are_not_lost_in_the_middle():
    found = effects_of(lambda c, k: c.depth > Fraction(k, 10))
    assert not found["middle"].is_significant and found["middle"].p_value == 1
    assert found["trend"].is_significant and found["trend"].interval.low > 0
    assert found["trend"].text.startswith("depth: the score is 1.")
    end_only = effects_of(lambda c, k: c.depth == 1)
    assert end_only["middle"].p_value == 1 and end_only["trend"].is_significant


def test_depth_effects_that_cannot_be_told():
    assert effects_of(lambda c, k: True, depths="0.5") == {}
    assert set(effects_of(lambda c, k: True, depths="0,1")) == {"trend"}
    assert effects_of(lambda c, k: True, num_needles=1) == {}
    few = effects_of(lambda c, k: c.depth == 1, num_needles=5)
    assert not few["trend"].is_significant, "5 needles have 32 sign changes"
    same = effects_of(lambda c, k: True)
    assert {effect.p_value for effect in same.values()} == {1.0}


# --- margins --------------------------------------------------------------------------------------


def test_margin_where_all_answers_are_right():
    run = make_run("8,16,32", "0,1")
    run = with_fields(
        run, margin=lambda s: 10 - s.cell.num_frames.bit_length() - 0.1 * int(s.sample_id[-1])
    )
    found = margin_trend(run)
    assert found.name == "margin" and found.lengths == (8, 16, 32)
    assert found.slope == pytest.approx(-1) and found.interval.low <= -1 <= found.interval.high
    assert found.text == (
        "all answers are right; the mean margin of the answer to the best other one is 5.55 at 8 "
        "frames and 3.55 at 32 frames: -1 with each doubling (-1 to -1 with needles like these, "
        "95 %, 10 needles)"
    )


def test_margin_where_some_lengths_have_wrong_answers_or_no_margin():
    run = make_run("8,16,32", "0,1", outcome=lambda c, k: c.num_frames < 32 or k > 0)
    assert margin_trend(run) is None, "no log-probabilities"
    found = margin_trend(with_fields(run, logprob=lambda s: -0.5))
    assert found.name == "logprob" and found.lengths == (8, 16)
    assert found.text.startswith(
        "at 8 and 16 frames all answers are right; the mean log-probability of the answer is -0.5 "
    )
    assert margin_trend(make_run(outcome=lambda c, k: False)) is None
    one = margin_trend(with_fields(make_run("8", "0"), margin=lambda s: 2.0))
    assert one.text == (
        "all answers are right; the mean margin of the answer to the best other one is 2 at 8 "
        "frames"
    )


# --- degenerate runs ------------------------------------------------------------------------------

DEGENERATE = {
    "complete": {},
    "one cell": {"frames": "8", "depths": "0"},
    "one needle": {"num_needles": 1},
    "one sample": {"frames": "8", "depths": "0", "num_needles": 1},
    "two needles": {"num_needles": 2, "outcome": lambda c, k: k == 0},
    "errors only": {"outcome": lambda c, k: "oh"},
    "some errors": {"outcome": lambda c, k: "oh" if c.num_frames == 8 or k == 3 else k > 5},
    "one cell of errors": {"outcome": lambda c, k: "oh" if c == Cell(8, Fraction(0)) else True},
    "stopped": {"outcome": lambda c, k: True if c.num_frames == 8 and k < 3 else None},
    "one line": {
        "outcome": lambda c, k: False if (c.num_frames, c.depth, k) == (8, 0, 0) else None
    },
    "no line": {"outcome": lambda c, k: None},
    "all wrong": {"outcome": lambda c, k: False},
    "many lengths": {"frames": "1:20:1", "depths": "0.5", "outcome": lambda c, k: k % 2 == 0},
    "one needle in each cell": {"outcome": lambda c, k: True if k == c.num_frames % 3 else None},
    "positions": {"frames": "4,8", "positions": "0,3,6", "outcome": lambda c, k: k < 5},
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_every_run_has_a_plain_summary(name):
    options = dict(DEGENERATE[name])
    run = make_run(options.pop("frames", "8,16"), options.pop("depths", "0,0.5,1"), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = format_summary(run)
        text = "\n".join((*lines, format_table(run) if run.cells else "", repr(run)))
        frame = vniah.summarize(run).to_pandas()
    assert "nan" not in text and "inf" not in text and "None" not in text
    assert lines[0].startswith("average: ")
    assert ("for these needles on this film" in lines[0]) == (run.average is not None)
    assert len(frame) == (0 if run.average is None else 1 + len(set(frame["num_frames"].dropna())))
    assert frame[["low", "high"]].stack().between(0, 1).all()


def test_summary_of_a_published_table_names_its_estimand():
    depth = Fraction(1, 2)
    cells = tuple(CellScore(Cell(n, depth), score, None) for n, score in ((100, 1.0), (200, 0.5)))
    table = Results("table", Path("table.json"), {}, published=cells)
    assert format_summary(table) == [
        "average: 0.7500 over 2 cells, for these needles on this film",
        "effective visual context length (score at least 0.9 up to there): with these needles 100 "
        "frames",
    ]
    assert vniah.summarize(table).effective_length.seconds is None, (
        "a frame may be a pair of frames"
    )
    text = replace(table, axis="tokens")
    assert format_summary(text) == [
        "average: 0.7500 over 2 cells, for these needles on this text",
        "effective context length (score at least 0.9 up to there): with these needles 100 tokens",
    ]


def test_summary_as_a_table():
    run = make_run("8,16", "0,1", outcome=lambda c, k: c.num_frames == 8 or k < 5)
    summary = vniah.summarize(run)
    frame = summary.to_pandas()
    assert list(frame["num_frames"].fillna(0)) == [0, 8, 16]
    assert list(frame["these_needles"]) == [0.75, 1.0, 0.5]
    assert list(frame["low"]) == pytest.approx(
        [summary.needles_like_these.interval.low, 0.7225, 0.2366], abs=1e-4
    )
    assert set(frame["num_needles"]) == {10} and not frame["is_narrow"].any()
    assert summary.these_needles == run.average == 0.75


def test_other_depths_are_taken_as_a_sample_in_place_of_needles():
    run = make_run("8,16", "0:1:0.1", outcome=lambda c, k: c.depth < HALF)
    summary = vniah.summarize(run)
    bound = wilson_interval(10 * 5 / 11, 10)
    assert summary.needles_like_these.interval.low == pytest.approx(bound.low)
    assert summary.at_other_depths.num_needles == 11
    assert summary.at_other_depths.interval.high == pytest.approx(wilson_interval(5, 11).high)


def test_needles_of_other_names_in_other_cells_count_once_each():
    grid = Grid.parse("8", "0,1")
    manifest = make_manifest(grid)
    samples = tuple(make_sample(c, k, True) for c in grid.cells for k in range(10))
    run = Results("tiny", Path("runs/tiny"), manifest, samples)
    assert vniah.summarize(run).needles_like_these.num_needles == 10


def test_summaries_of_a_folder(tmp_path):
    folder = write_run(tmp_path / "run")
    known = vniah.summarize(load_results(folder))
    assert vniah.summarize(folder) == vniah.summarize(str(folder)) == known
    with pytest.raises(ResultsError, match="nowhere"):
        vniah.summarize(tmp_path / "nowhere")
