"""Runs of which some samples have not been run yet: nothing is said as if they had been."""

import csv
import io
import json

import pytest
from runs import cell, make_run, write_run

import vniah
from vniah.analysis.plot.captions import caption
from vniah.analysis.retention import retention
from vniah.analysis.sentences import format_average, format_summary
from vniah.analysis.table_formats import format_results
from vniah.analysis.table_notes import gaps
from vniah.analysis.table_rows import table_rows
from vniah.analysis.verdict import verdict
from vniah.results import load_results

SAID = "15 of 60 samples have been run"


def some(c, k):
    """Three of ten needles are run in every cell but one, and there none."""
    return True if k < 3 and c != cell(16, "1") else None


@pytest.fixture
def unfinished():
    return make_run(outcome=some)


def test_pending_samples_are_those_of_the_plan_without_a_line(unfinished):
    assert unfinished.progress == SAID and unfinished.num_pending == 45
    assert unfinished.pending_by_cell[cell(8, "0.5")] == 7
    assert unfinished.pending_by_cell[cell(16, "1")] == 10
    whole = make_run(outcome=lambda c, k: "timeout" if k == 0 else True)
    assert (whole.progress, whole.num_pending, whole.pending_by_cell) == ("", 0, {})


def test_depths_that_are_no_decimals_have_pending_samples():
    run = make_run("8", positions="0,1,3", outcome=lambda c, k: None if k else True)
    assert set(run.pending_by_cell.values()) == {9} and run.num_pending == 27


@pytest.mark.parametrize("kind", ["lengths", "cells", "needles"])
@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
def test_every_table_says_how_much_was_run(unfinished, kind, style):
    assert SAID in format_results([unfinished], kind, style)
    others = format_results([unfinished, make_run()], kind, style)
    assert others.count(SAID) == 1


def test_tables_in_numbers_have_what_is_pending(unfinished):
    (row, *_) = csv.DictReader(io.StringIO(format_results([unfinished], "lengths", "csv")))
    assert (row["num_pending"], row["num_planned_samples"]) == ("45", "60")
    found = json.loads(format_results([unfinished], "cells", "json"))
    (result,) = found["results"]
    assert (result["num_pending"], result["num_planned_samples"]) == (45, 60)
    assert result["effective_length"]["num_left_out"] == 2
    assert [row["num_pending"] for row in found["rows"]] == [7, 7, 7, 7, 7, 10]
    needles = table_rows([unfinished], "needles")
    assert [(row["needle"], row["num_pending"]) for row in needles] == [
        (f"needle-{k}", 1) for k in range(3)
    ]
    frame = vniah.table(unfinished)
    assert list(frame["num_pending"]) == [45, 21, 24]


def test_the_average_is_over_cells_of_which_samples_are_pending(unfinished):
    text = format_average(unfinished)
    assert "5 of 6 cells, 5 of them without the samples that have not been run yet" in text
    errors = make_run(outcome=lambda c, k: "oh" if k == 0 else True if k < 5 else None)
    both = "6 cells, 6 of them without the samples that could not be run or have not been run yet"
    assert both in format_average(errors)
    assert (
        "at 8 frames the mean is over 3 of 3 cells, without 3 samples that could not be run and 15 "
        "that have not been run yet"
    ) in gaps(errors)


def test_the_effective_length_names_the_lengths_that_it_leaves_out():
    run = make_run("8,16,24", outcome=lambda c, k: None if c.num_frames == 16 and k == 9 else True)
    found = vniah.summarize(run).effective_length
    assert found.left_out == (16,) and found.measured == (8, 24)
    text = "without 16 frames, where not all samples have been run"
    assert found.text.endswith(text)
    assert f"the effective length is {text}" in format_results([run], "lengths", "text")
    many = make_run(",".join(map(str, range(8, 15))), outcome=lambda c, k: k == 0 or None)
    assert "without 7 lengths from 8 to 14 frames" in vniah.summarize(many).effective_length.text


def test_all_answers_are_right_only_of_lengths_that_are_whole(unfinished):
    margins = {"outcome": lambda c, k: None if c.num_frames == 16 and k == 9 else True}
    run = make_run(**margins)
    for sample in run.samples:
        object.__setattr__(sample, "margin", 2.0)
    found = vniah.summarize(run).margin
    assert found.lengths == (8,) and not found.is_whole
    assert "at 8 frames all answers are right" in found.text
    for sample in unfinished.samples:
        object.__setattr__(sample, "margin", 2.0)
    assert vniah.summarize(unfinished).margin is None
    assert not any("right" in line for line in format_summary(unfinished))
    assert format_summary(unfinished)[1].startswith(SAID)


def test_points_of_retention_count_what_is_pending(unfinished):
    frame = retention(unfinished)
    assert frame["num_pending"].sum() == 45
    assert frame.query("num_samples == 0")["accuracy"].isna().all()


def test_the_verdict_and_the_table_of_controls_say_what_is_pending():
    whole = make_run(controls=["no-needle"])
    ids = [*(one.sample_id for one in whole.samples), "8/-/needle-0/no-needle"]
    run = make_run(controls=["no-needle"], outcome=some, sample_ids=" ".join(ids))
    said = "15 of 60 samples of the test and 0 of 1 of its controls have been run"
    assert said in verdict(run).text
    assert said in caption(run) and said == gaps(run)[0]
    line = "the control no-needle lacks 1 of 1 sample, which has not been run yet"
    assert line in gaps(run)


def test_a_run_whose_last_line_was_cut_says_that_a_sample_is_pending(tmp_path):
    folder = write_run(tmp_path / "run")
    path = folder / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run = load_results(folder)
    assert run.progress == "59 of 60 samples have been run"
    assert "at 16 frames the mean is over 3 of 3 cells, without 1 that has not been run yet" in (
        format_results([run], "cells", "text")
    )
