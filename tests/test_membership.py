"""Lines that do not belong to a run, or contradict themselves."""

import json
from dataclasses import replace

import pytest
from runs import cell, make_grid, make_manifest, make_sample, write_run

from vniah.errors import ResultsError, RunMismatchError
from vniah.grid import Cell, place_prefix
from vniah.results import (
    MANIFEST_NAME,
    SAMPLES_NAME,
    RunFolder,
    SampleResult,
    contradiction,
    load_results,
)


@pytest.fixture
def directory(tmp_path):
    """Two needles at 8 and 16 frames, in the depths 0 and 0.5."""
    return write_run(tmp_path / "run", "8,16", "0,0.5", num_needles=2)


def change_line(directory, number, **changes):
    """Changes fields of a line; "drop" removes one."""
    path = directory / SAMPLES_NAME
    lines = path.read_text().splitlines()
    record = {**json.loads(lines[number - 1]), **changes}
    record = {name: value for name, value in record.items() if value != "drop"}
    path.write_text(
        "".join(f"{line}\n" for line in (*lines[: number - 1], json.dumps(record), *lines[number:]))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"needle_index": 1}, "needle_index is 1, and the length 8 at depth 0.5 has 4"),
        ({"needle_index": 4.0}, "needle_index is 4.0, and"),
        ({"needle_index": "4"}, "needle_index is '4', and"),
        ({"needle_index": None}, "needle_index is None, and"),
        ({"needle_index": "drop"}, "needle_index is 'missing', and"),
        ({"needle_index": "drop", "needle_idx": 4}, "needle_index is 'missing', and"),
        ({"needle_id": "needle-1"}, "needle_id is 'needle-1', and sample_id names 'needle-0'"),
        ({"needle_id": "drop", "needle": "needle-0"}, "needle_id is 'missing', and sample_id"),
        (
            {"question": "Which colour has the card?"},
            "'Which colour has the card.' as the question",
        ),
        ({"answer": "3"}, "'3' as the question or answer of a needle for which .* has '7'"),
        ({"error": "out of memory"}, "correct is True and error is 'out of memory'"),
        ({"rank": 2}, "correct is True, and rank is 2"),
        ({"rank": 1, "correct": False}, "correct is False, and rank is 1"),
        ({"rank": 3, "argmax_correct": True}, "argmax_correct is True, and rank is 3"),
        ({"rank": 1, "correct": None, "error": "no"}, "rank is 1 and error is 'no'"),
        ({"correct": None}, "correct is None and error is None"),
        ({"correct": "drop", "is_correct": True}, "the field 'correct' is missing"),
        ({"error": "drop", "failure": None}, "the field 'error' is missing"),
        ({"margin": "drop", "margins": 1.5}, "the field 'margin' is missing"),
        ({"rank": 0}, "rank must be .*, got 0"),
        ({"depth": "1e999999999"}, "depth must be numbers, got '1e999999999'"),
        ({"depth": "1/" + "9" * 5000}, "depth must be"),
        ({"question": "q" * 2**24}, "has more than 16,777,216 bytes"),
        ({"answer": {"a": [[[[0]]]]}}, "answer must be text"),
    ],
)
def test_line_that_contradicts_itself_is_named(directory, changes, message):
    change_line(directory, 3, **changes)
    with pytest.raises(ResultsError, match=f"{SAMPLES_NAME}, line [35],? .*{message}"):
        load_results(directory)


def test_sample_that_is_right_in_one_line_and_wrong_in_another_is_refused(directory):
    path = directory / SAMPLES_NAME
    first = path.read_text().splitlines()[0]
    other = json.dumps(json.loads(first) | {"correct": False, "rank": None})
    with path.open("a") as file:
        file.write(f"{first}\n")
    assert load_results(directory).is_complete, "the same result twice is one"
    with path.open("a") as file:
        file.write(f"{other}\n")
    with pytest.raises(ResultsError, match=r"line 10, holds the sample '8/0/needle-0' twice, once"):
        load_results(directory)


def test_line_with_a_field_twice_is_refused(directory):
    path = directory / SAMPLES_NAME
    path.write_text(
        path.read_text().replace('"correct": true', '"correct": false, "correct": true')
    )
    with pytest.raises(ResultsError, match=r"line 1, .* the key 'correct' is given twice"):
        load_results(directory)


def test_line_with_a_number_that_nothing_can_hold_is_refused(directory):
    path = directory / SAMPLES_NAME
    path.write_text(
        path.read_text().replace('"predicted_ids": [7]', f'"predicted_ids": [{"9" * 5000}]')
    )
    with pytest.raises(ResultsError, match=r"line 1, .* cannot be read as JSON"):
        load_results(directory)


def test_new_fields_of_a_later_version_are_kept(directory):
    change_line(directory, 3, mood="good")
    assert load_results(directory).samples[2].fields["mood"] == "good"


def test_tasks_may_have_fields_of_their_own(tmp_path):
    """Lines of somebody's task, such as the one of docs/tasks.md, have answers that differ."""
    manifest = make_manifest(make_grid("8", "0,1"), num_needles=1, task="which-half")
    folder = RunFolder(tmp_path, manifest)
    samples = [
        make_sample(cell(8, "0"), 0, task="which-half", answer="1", rank=1, correct=False),
        make_sample(cell(8, "1"), 0, task="which-half", answer="2", fields={"colour": None}),
    ]
    with folder.open():
        for sample in samples:
            folder.append(sample)
    assert load_results(tmp_path).samples == tuple(samples)


def test_task_that_asks_the_question_of_a_needle_is_held_to_it(tmp_path):
    """As vniah is, also in manifests from before these said it of a task."""
    manifest = make_manifest(make_grid("8", "0,1"), num_needles=1, task="mine")
    details = {"asks_needles": True}
    samples = [make_sample(cell(8, depth), 0, task="mine", rank=1) for depth in ("0", "1")]
    folder = RunFolder(tmp_path, {**manifest, "task_details": details})
    with folder.open():
        for sample in samples:
            folder.append(sample)
    assert load_results(tmp_path).is_complete
    change_line(tmp_path, 2, answer="8")
    with pytest.raises(ResultsError, match="'8' as the question or answer of a needle"):
        load_results(tmp_path)
    with pytest.raises(RunMismatchError, match=r"task_details\.asks_needles = True"):
        RunFolder(tmp_path, {**manifest, "task_details": {"asks_needles": False}})


def test_run_goes_on_whose_manifest_lacks_what_is_known_of_its_task(directory):
    earlier = json.loads((directory / MANIFEST_NAME).read_text())
    assert "task_details" not in earlier
    assert load_results(directory).details == {"asks_needles": True}
    now = {**earlier, "task_details": {"asks_needles": True}}
    folder = RunFolder(directory, now)
    assert len(folder.samples) == 8
    with folder.open():
        pass
    assert json.loads((directory / MANIFEST_NAME).read_text()) == earlier


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, None),
        ({"needle_id": "both"}, "needle_id is 'both', and sample_id names 'red'"),
        ({"needle_id": "red", "needle_index": 2}, None),
        ({"needle_index": 3}, "needle_index is 3, and the length 4 at depth 0.5 has 2"),
        ({"needle_index": True}, "needle_index is True, and"),
    ],
)
def test_contradiction_in_the_fields_of_another_task(fields, found):
    place = Cell(4, cell(4, "0.5").depth)
    sample = SampleResult(
        place_prefix(4, place.depth) + "red", "mine", place, "?", "7", fields=fields
    )
    said = contradiction(sample, {"red", "blue"})
    assert (said is None) == (found is None) and (found or "") in (said or "")
    elsewhere = replace(sample, sample_id=f"{place.prefix}red-and-blue")
    if "needle_index" not in fields:
        assert contradiction(elsewhere, {"red", "blue"}) is None


def test_controls_belong(tmp_path):
    manifest = make_manifest(make_grid("8", "0"), num_needles=1)
    manifest["sample_ids"] += " 8/-/needle-0/no-needle"
    control = replace(
        make_sample(cell(8, "0"), 0),
        sample_id="8/-/needle-0/no-needle",
        cell=None,
        control="no-needle",
        fields={"num_frames": 8, "needle_id": "needle-0"},
    )
    folder = RunFolder(tmp_path, manifest)
    with folder.open():
        folder.append(control)
    assert load_results(tmp_path).control_samples == (control,)
    change_line(tmp_path, 1, needle_id="needle-1")
    with pytest.raises(
        ResultsError, match="needle_id is 'needle-1', and sample_id names 'needle-0'"
    ):
        load_results(tmp_path)


# --- manifests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("environment", "linux", "environment must be an object"),
        ("environment.later_starts", "none", "environment.later_starts must be a list"),
        ("scorer", ["generate"], "scorer must be an object"),
        ("scorer", {"stop_ids": 3}, "scorer.stop_ids must be a list"),
        ("scorer", {"max_new_tokens": "16"}, "scorer.max_new_tokens must be"),
        ("model.rope_theta", "10000", "model.rope_theta must be a number"),
        ("model.rope_theta", -1, "model.rope_theta must be"),
        ("model.rope_scaling", {"type": "yarn"}, "model.rope_scaling must be text"),
        ("model.tokens_per_frame", "144", "model.tokens_per_frame must be"),
        ("model.tokens_per_frame", 0, "model.tokens_per_frame must be"),
        ("model.name", ["a"], "model.name must be text"),
        ("notes", "one note", "notes must be a list"),
        ("sample_ids", ["8/0/needle-0"], "sample_ids must be text"),
        ("grid.depths", ["1e999999999"], "grid: depth must be numbers"),
        ("grid.depths", ["1/0"], "grid: depth must be .* divides by 0"),
        ("grid.depths", ["0." + "1" * 5000], r"grid.depths\[0\] must be"),
        ("grid.frames", [10**9], r"grid.frames\[0\] must be"),
        ("grid.frames", list(range(1, 20_001)), None),
        ("needles.ids", "needle-0", "needles.ids must be a list"),
    ],
)
def test_manifest_with_a_value_of_another_type_is_refused_by_name(tmp_path, path, value, message):
    manifest = make_manifest(make_grid("8", "0"), num_needles=1)
    section, _, key = path.partition(".")
    if key:
        manifest[section] = {**manifest[section], key: value}
    else:
        manifest[section] = value
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest))
    if message is None:
        assert load_results(tmp_path).num_done == 0
        return
    with pytest.raises(ResultsError, match=f"{MANIFEST_NAME}: .*{message}"):
        load_results(tmp_path)


def test_manifest_of_more_cells_than_can_be_measured_is_refused_at_once(tmp_path):
    grid = {"frames": list(range(1, 2001)), "depths": [k / 2000 for k in range(2001)]}
    manifest = {**make_manifest(make_grid("8", "0")), "grid": grid, "format_version": 1}
    del manifest["sample_ids"]
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ResultsError, match="grid: 2,000 lengths with 2,001 depths"):
        load_results(tmp_path)
    manifest["grid"] = {"frames": list(range(1, 10_001)), "depths": [0]}
    manifest["needles"] = {"ids": [f"n{k}" for k in range(2000)]}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ResultsError, match="10,000 cells with 2,000 needles are more than"):
        load_results(tmp_path)


def test_table_of_more_places_than_can_be_shown_is_refused(tmp_path):
    rows = [{"Num. Frame": k + 1, "Frame Depth": k / 50, "Score": 1} for k in range(4000)]
    (tmp_path / "table.json").write_text(json.dumps(rows))
    with pytest.raises(ResultsError, match="4,000 numbers of frames and 4,000 depths"):
        load_results(tmp_path / "table.json")
