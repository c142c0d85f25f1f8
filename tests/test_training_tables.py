"""The tables of the model cards say what the samples of a run say."""

from dataclasses import replace

import pytest
from runs import make_run

import vniah
from training.recipe import CARDS_DIR, RECIPE
from training.tables import share, table, with_interval
from training.tasks import PLAIN, Measured, control_table, task_table, verdict_table
from training.world import Card
from vniah.results import SampleResult

COUNTS = ",".join(map(str, RECIPE.task_frame_counts))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def as_dicts(markdown):
    head, _, *lines = markdown.splitlines()
    return [dict(zip(cells(head), cells(line), strict=True)) for line in lines]


def test_a_table_of_scores_has_kinds_and_the_key_with_the_lowest_score():
    cards = {
        "needle-0": Card("card", "red", "7"),
        "needle-1": Card("card", "blue", "3"),
        "needle-2": Card("sign", "star", "blue"),
        "needle-3": Card("place", "boat", "82"),
    }
    run = make_run(
        "8,16,32",
        "0.5,1",
        num_needles=4,
        outcome=lambda cell, k: (
            not (cell.num_frames == 16 and k == 1 and cell.depth == 1)
            and not (cell.num_frames == 32 and k < 2)
        ),
    )
    first, second, third = as_dicts(table(run, cards, tokens_per_frame=4))
    assert first["frames (visual tokens)"] == "8 (32)"
    assert first["mean (95 %, n)"] == with_interval([True] * 8)
    assert [first[kind] for kind in ("card", "sign", "place")] == ["1.00", "1.00", "1.00"]
    assert first["lowest key"] == "1.00"
    assert (second["depth 0.5"], second["1"]) == ("1.00", "0.75")
    assert [second[kind] for kind in ("card", "sign", "place")] == ["0.75", "1.00", "1.00"]
    assert second["lowest key"] == "0.50 (card blue)"
    assert third["lowest key"] == "0.00 (2 of 4 keys)"


def measured(num_options=None, **details):
    """A run of a task whose fourth needle is never found, with a measure and two parts."""
    options = {} if num_options is None else {"num_options": num_options}
    run = make_run(
        COUNTS,
        "0.1,0.9",
        num_needles=4,
        outcome=lambda cell, k: k < 3,
        task="timed",
        task_details=details,
    )
    samples = tuple(
        replace(
            sample,
            fields={
                **sample.fields,
                "num_shown": 1 + number % 2,
                "group": f"g{number % 4 // 2}",
                "error_seconds": float(sample.num_frames),
                "guess_seconds": 50.0,
                **options,
            },
        )
        for number, sample in enumerate(run.samples)
    )
    return Measured("timed parts=4", replace(run, samples=samples))


def test_a_task_has_a_row_for_its_score_with_chance_where_options_are_given():
    (row,) = as_dicts(task_table([measured(num_options=4)]))
    assert row["task"] == "`timed parts=4`"
    assert row["measured"] == "right (by chance 0.25)"
    shares = [row[f"{count} frames"] for count in RECIPE.task_frame_counts]
    assert shares == ["0.75"] * len(RECIPE.task_frame_counts)
    many = 8 * len(RECIPE.task_frame_counts)
    assert row["all (95 %, n)"] == with_interval([True] * (many * 3 // 4) + [False] * (many // 4))
    (plain,) = as_dicts(task_table([measured()]))
    assert plain["measured"] == "right"


def test_a_task_has_rows_for_its_parts_groups_and_measures():
    one = measured(
        facets=["num_shown"],
        all_of="group",
        measures=["error_seconds", "guess_seconds"],
        references={"error_seconds": "guess_seconds"},
        labels={"num_shown": "Times shown", "error_seconds": "Error (s)", "guess_seconds": "guess"},
    )
    rows = {row["measured"]: row for row in as_dicts(task_table([one]))}
    assert list(rows) == [
        "right",
        "Times shown: 1",
        "Times shown: 2",
        "all of a group right",
        "Error (s) (guess)",
    ]
    first = f"{RECIPE.task_frame_counts[0]} frames"
    assert rows["Times shown: 1"][first] == "1.00"
    assert rows["Times shown: 2"][first] == "0.50"
    assert rows["all of a group right"][first] == "0.50"
    assert rows["Error (s) (guess)"][first] == f"{RECIPE.task_frame_counts[0]:.2f} (50.00)"


def test_the_answer_of_the_first_hop_is_a_row_of_the_bridged_task():
    (first, *_) = [one for one in vniah.load_needles(CARDS_DIR) if one.bridge is not None]
    run = make_run(COUNTS, "0.1", num_needles=2, outcome=lambda cell, k: False)
    said = [first.answer, first.bridge.answer]
    samples = tuple(
        replace(
            sample,
            prediction=said[number % 2],
            fields={**sample.fields, "needle_ids": [first.bridge.to, first.needle_id]},
        )
        for number, sample in enumerate(run.samples)
    )
    rows = as_dicts(task_table([Measured("bridged", replace(run, samples=samples))]))
    assert [row["measured"] for row in rows] == ["right", "answer of the first hop"]
    assert [row[f"{RECIPE.task_frame_counts[0]} frames"] for row in rows] == ["0.00", "0.50"]


def test_one_answer_for_every_place_is_right_as_often_as_a_guess():
    parts = [int(10 * depth) for depth in RECIPE.part_depths]
    assert parts == list(range(10))


def test_every_task_has_the_verdict_of_its_controls_and_the_plain_one_its_findings():
    bare = measured(num_options=4)
    fields = {"needle_id": "needle-0", "num_options": 4, "num_frames": 8}
    said = [
        SampleResult(
            sample_id=f"8/-/needle-{k}/no-needle",
            task="timed",
            cell=None,
            question=f"When is needle {k} shown?",
            answer="3",
            prediction="3",
            correct=True,
            control="no-needle",
            fields={**fields, "needle_id": f"needle-{k}"},
        )
        for k in range(8)
    ]
    manifest = {**bare.results.manifest, "controls": ["no-needle"]}
    run = replace(bare.results, manifest=manifest, control_samples=tuple(said))
    plain = Measured(PLAIN, run)
    (row,) = as_dicts(control_table([plain]))
    assert row["control"] == "no-needle"
    assert row["finding"].startswith("right without the needle in 8 of 8 questions")
    assert row["conspicuous"] != "nothing"
    (row,) = as_dicts(verdict_table([plain]))
    assert row["task"] == f"`{PLAIN}`"
    assert row["verdict of its controls"].startswith("answers without seeing")
    with pytest.raises(ValueError, match="no controls"):
        verdict_table([bare])


@pytest.mark.parametrize(("right", "expected"), [([True, None], 0.5), ([True, True, False], 2 / 3)])
def test_a_sample_without_a_score_is_not_right(right, expected):
    assert share(right) == pytest.approx(expected)
