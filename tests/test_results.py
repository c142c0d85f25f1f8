import json
import re
from dataclasses import replace
from fractions import Fraction

import pytest
from runs import PUBLISHED_DIR, cell, make_manifest, make_run, make_sample, write_run

from vniah.analysis.labels import unit_notes
from vniah.analysis.sentences import format_summary
from vniah.analysis.statistics.summary import summarize
from vniah.analysis.table_formats import format_results
from vniah.errors import ResultsError, RunMismatchError
from vniah.files import write_json
from vniah.grid import Cell, Grid
from vniah.results import (
    MANIFEST_NAME,
    SAMPLES_NAME,
    ControlScore,
    RunFolder,
    SampleResult,
    grid_record,
    load_results,
    read_grid,
)


@pytest.mark.parametrize(
    "depth", ["0", "1", "0.3", "0.05", "1/3", "0.1234567890123456789", "0.0000001"]
)
def test_sample_reads_back_as_it_was(depth):
    sample = make_sample(
        cell(16, depth), 3, prediction="se\u2028ven\x85\n", logprob=-0.5, rank=1, seconds=0.25
    )
    assert SampleResult.from_json(sample.to_json()) == sample


def test_sample_depth_is_a_number_that_says_the_decimal():
    assert json.loads(make_sample(cell(8, "0.3"), 0).to_json())["depth"] == 0.3
    assert json.loads(make_sample(cell(8, "1/3"), 0).to_json())["depth"] == "1/3"


def test_values_that_results_do_not_know_are_fields_of_the_task():
    line = json.dumps({**json.loads(make_sample(cell(8, "0"), 0).to_json()), "mood": "good"})
    found = SampleResult.from_json(line)
    assert found.fields == {"needle_index": 0, "needle_id": "needle-0", "mood": "good"}


def test_sample_refuses_a_logprob_that_is_not_a_number():
    with pytest.raises(ValueError, match="not JSON compliant"):
        make_sample(cell(8, "0"), 0, logprob=float("nan")).to_json()


def test_line_of_version_0_1_gets_the_id_that_its_sample_has_now():
    record = json.loads(make_sample(cell(8, "0.25"), 3).to_json())
    del record["sample_id"]
    assert SampleResult.from_json(json.dumps(record)) == make_sample(cell(8, "0.25"), 3)


def broken(**changes):
    record = {**json.loads(make_sample(cell(8, "0"), 0).to_json()), **changes}
    return json.dumps({name: value for name, value in record.items() if value != "drop"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2]", "the content must be an object in braces"),
        ("nonsense", "Expecting value"),
        ("", "Expecting value"),
        (broken(depth="drop"), "the field 'depth' is missing"),
        (broken(question="drop"), "question"),
        (broken(num_frames="8"), "num_frames must be a whole number, got '8'"),
        (broken(num_frames=True), "num_frames must be a whole number, got True"),
        (broken(correct="yes"), "correct must be true or false or null, got 'yes'"),
        (broken(correct=1), "correct must be true or false or null, got 1"),
        (
            broken(sample_id="8/0.5/needle-0"),
            "sample_id is '8/0.5/needle-0', and its cell is '8/0/'",
        ),
        (broken(sample_id=7), "sample_id must be text, got 7"),
        (broken(control="no-needle"), "and its control is 'no-needle'"),
        (broken(correct=None), "correct is None and error is None"),
        (broken(error="oh"), "correct is True and error is 'oh'"),
        (broken(logprob="x"), "logprob must be a number or null, got 'x'"),
        (broken(logprob=float("nan")), "NaN is not a number of JSON"),
        (broken(logprob=0.5), "logprob must be a number <= 0.0, got 0.5"),
        (broken(num_frames="drop"), "the field 'num_frames' is missing"),
        (broken(depth=25), "depth must be between 0 and 1, got 25"),
        (broken(depth="1/0"), "which divides by 0"),
        (broken(depth=None), "depth must be a number or text, got None"),
        (broken(predicted_ids=None), "predicted_ids must be a list, got None"),
    ],
)
def test_load_results_when_a_line_is_not_a_sample(tmp_path, line, message):
    directory = write_run(tmp_path / "run")
    with (directory / SAMPLES_NAME).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(
        ResultsError, match=f"{SAMPLES_NAME}, line 61, is not a sample: .*{message}"
    ):
        load_results(directory)


def test_load_results_when_a_line_is_not_utf8(tmp_path):
    directory = write_run(tmp_path / "run")
    path = directory / SAMPLES_NAME
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    with pytest.raises(ResultsError, match=r"line 61, is not a sample: the line .* 'utf-8' codec"):
        load_results(directory)


def test_load_results_of_a_run(tmp_path):
    directory = write_run(tmp_path / "run", outcome=lambda c, k: k < 10 - c.num_frames // 8)
    results = load_results(str(directory))
    assert results.name == "tiny"
    assert results.path == directory
    assert results.axis == "frames"
    assert results.tokens_per_frame == 4
    assert results.num_planned == 60
    assert results.is_complete
    assert results.average == pytest.approx(0.85)
    assert [score.cell for score in results.cells] == list(Grid.parse("8,16", "0,0.5,1").cells)
    assert {(score.num_correct, score.num_samples) for score in results.cells} == {
        (9, 10),
        (8, 10),
    }


def test_load_results_when_there_are_no_samples_yet(tmp_path):
    directory = write_run(tmp_path / "run", outcome=lambda c, k: None)
    (directory / SAMPLES_NAME).unlink()
    results = load_results(directory)
    assert (results.cells, results.average, results.is_complete) == ((), None, False)


def test_cells_leave_errors_out_of_the_mean():
    results = make_run(
        "8", "0,1", outcome=lambda c, k: "out of memory" if k < 4 or c.depth else k < 7
    )
    first, second = results.cells
    assert (first.score, first.num_correct, first.num_samples, first.num_errors) == (0.5, 3, 6, 4)
    assert (second.score, second.num_samples, second.num_errors) == (None, 0, 10)
    assert results.average == 0.5
    assert results.is_complete


def test_cells_leave_controls_out():
    run = make_run("8", "0", num_needles=2)
    control = replace(
        run.samples[0],
        sample_id="8/-/needle-0/no-needle",
        cell=None,
        control="no-needle",
        correct=False,
        fields={"num_frames": 8, "needle_id": "needle-0"},
    )
    results = replace(run, samples=run.samples[:1], control_samples=(control,))
    assert results.average == 1.0
    assert results.controls == (ControlScore("no-needle", 8, num_samples=1, num_correct=0),)
    assert not results.is_complete


# --- writing -------------------------------------------------------------------------------------


def test_run_folder_writes_the_manifest_before_any_sample(tmp_path):
    manifest = make_manifest(Grid.parse("8", "0,0.3"))
    directory = tmp_path / "a" / "run"
    folder = RunFolder(directory, manifest)
    assert not directory.exists(), "making one must not write"
    with folder.open(["frame 7 is damaged"]):
        written = json.loads((directory / MANIFEST_NAME).read_text())
        assert written == {**manifest, "notes": ["frame 7 is damaged"]}
        assert (directory / SAMPLES_NAME).read_bytes() == b""


def test_run_folder_flushes_every_line(tmp_path):
    folder = RunFolder(tmp_path, make_manifest(Grid.parse("8", "0")))
    with folder.open():
        for k in range(3):
            folder.append(make_sample(cell(8, "0"), k))
            assert len((tmp_path / SAMPLES_NAME).read_text().splitlines()) == k + 1
    assert folder.results().samples == load_results(tmp_path).samples


def test_run_folder_goes_on_where_it_stopped(tmp_path):
    directory = write_run(tmp_path / "run", outcome=lambda c, k: None if c.num_frames > 8 else True)
    manifest = make_manifest(Grid.parse("8,16", "0,0.5,1"))
    folder = RunFolder(directory, manifest)
    with folder.open():
        assert len(folder.samples) == 30
        for c in Grid.parse("16", "0,0.5,1").cells:
            for k in range(10):
                folder.append(make_sample(c, k))
    whole = write_run(tmp_path / "whole")
    assert (directory / SAMPLES_NAME).read_bytes() == (whole / SAMPLES_NAME).read_bytes()


@pytest.mark.parametrize("num_bytes_cut", [1, 2, 30, 200])
def test_run_folder_when_the_last_line_was_cut(tmp_path, num_bytes_cut):
    directory = write_run(tmp_path / "run")
    path = directory / SAMPLES_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-num_bytes_cut])
    assert len(load_results(directory).samples) == 59
    assert path.read_bytes() == whole[:-num_bytes_cut], "reading must not change the folder"
    folder = RunFolder(directory, make_manifest(Grid.parse("8,16", "0,0.5,1")))
    with folder.open():
        assert len(folder.samples) == 59
        folder.append(make_sample(cell(16, "1"), 9))
    assert path.read_bytes() == whole


def test_run_folder_when_it_was_cut_inside_a_character(tmp_path):
    manifest = make_manifest(Grid.parse("8", "0"), num_needles=2)
    folder = RunFolder(tmp_path, manifest)
    with folder.open():
        folder.append(make_sample(cell(8, "0"), 0, prediction="针"))
        folder.append(make_sample(cell(8, "0"), 1, prediction="针"))
    path = tmp_path / SAMPLES_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rfind("针".encode()) + 1])
    assert [sample.prediction for sample in load_results(tmp_path).samples] == ["针"]
    assert len(RunFolder(tmp_path, manifest).samples) == 1


def test_run_folder_keeps_any_character_of_a_prediction(tmp_path):
    said = "line\u2028separator\u2029next\x85line\x0b\x0c\x1c\r\n"
    manifest = make_manifest(Grid.parse("8", "0"), num_needles=1)
    folder = RunFolder(tmp_path, manifest)
    with folder.open():
        folder.append(make_sample(cell(8, "0"), 0, prediction=said))
    assert load_results(tmp_path).samples[0].prediction == said
    assert len(RunFolder(tmp_path, manifest).samples) == 1


def test_run_folder_takes_the_later_line_when_a_sample_was_tried_again(tmp_path):
    manifest = make_manifest(Grid.parse("8", "0"), num_needles=1)
    folder = RunFolder(tmp_path, manifest)
    with folder.open():
        folder.append(make_sample(cell(8, "0"), 0, "out of memory"))
        folder.append(make_sample(cell(8, "0"), 0, True))
    results = load_results(tmp_path)
    assert (results.average, results.cells[0].num_errors) == (1.0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"haystack__sha256": "cc"}, "haystack.sha256 = 'aaaa.*this one has 'cc'"),
        ({"haystack__sampling": "longva"}, "haystack.sampling = 'clock', this one has 'longva'"),
        ({"needles__ids": ["x"]}, "needles.ids"),
        ({"model__revision": "2"}, "model.revision = '1', this one has '2'"),
        ({"model__rope_theta": 1e6}, "without model.rope_theta, this one has 1000000.0"),
        ({"task": "niah"}, "task = 'vniah', this one has 'niah'"),
        ({"grid__depths": [0.5]}, r"grid.depths = \[0.0\]"),
    ],
)
def test_run_folder_when_the_settings_differ_names_the_field(tmp_path, change, message):
    grid = Grid.parse("8", "0")
    with RunFolder(tmp_path, make_manifest(grid)).open():
        pass
    before = (tmp_path / MANIFEST_NAME).read_bytes()
    with pytest.raises(RunMismatchError, match=message):
        RunFolder(tmp_path, make_manifest(grid, **change))
    assert (tmp_path / MANIFEST_NAME).read_bytes() == before


def test_run_folder_when_only_the_environment_differs_keeps_the_first(tmp_path):
    grid = Grid.parse("8", "0")
    with RunFolder(tmp_path, make_manifest(grid)).open():
        pass
    folder = RunFolder(tmp_path, make_manifest(grid, environment={"python": "3.12"}))
    assert folder.manifest["environment"] == {"python": "3.11"}


def test_run_folder_overwrite_starts_anew(tmp_path):
    directory = write_run(tmp_path / "run")
    manifest = make_manifest(Grid.parse("8", "0"), model__name="other")
    folder = RunFolder(directory, manifest, overwrite=True)
    assert folder.samples == {}
    assert len(load_results(directory).samples) == 60, "nothing is removed before it is opened"
    with folder.open():
        assert load_results(directory).name == "other"
        assert load_results(directory).samples == ()


def test_run_folder_when_the_manifest_is_gone(tmp_path):
    directory = write_run(tmp_path / "run")
    (directory / MANIFEST_NAME).unlink()
    manifest = make_manifest(Grid.parse("8", "0"))
    with pytest.raises(ResultsError, match=r"samples.jsonl but no manifest.json.*--overwrite"):
        RunFolder(directory, manifest)


def test_run_folder_when_the_output_is_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ResultsError, match="is a file; the output of a run must be a folder"):
        RunFolder(tmp_path / "out", make_manifest(Grid.parse("8", "0")))
    assert (tmp_path / "out").read_text() == "mine"


def test_write_json_leaves_nothing_beside_it(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Nadel 针"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "Nadel 针"}


def test_grid_record_holds_decimals():
    record = grid_record(Grid.parse("8,16", "0:1:0.3"))
    assert record == {"frames": [8, 16], "depths": [0.0, 0.3, 0.6, 0.9, 1.0]}


def test_grid_record_holds_positions_in_place_of_depths():
    assert grid_record(Grid.parse("8,16", positions="0:16:8")) == {
        "frames": [8, 16],
        "positions": [0, 8, 16],
    }


@pytest.mark.parametrize(
    "grid",
    [
        Grid.parse("3,7,16", "0,0.3,1"),
        Grid.of([3, 7], [Fraction(1, 3)]),
        Grid.parse("3,7,16", positions="0,1,3,16"),
    ],
)
def test_read_grid_gives_what_was_recorded(grid):
    assert read_grid(json.loads(json.dumps(grid_record(grid)))) == grid


def test_load_results_of_a_run_with_positions(tmp_path):
    directory = write_run(tmp_path / "run", "3,7,16", positions="0,1,3,5,16", num_needles=2)
    results = load_results(directory)
    assert results.grid == Grid.parse("3,7,16", positions="0,1,3,5,16")
    assert results.num_planned == len(results.samples) == 2 * (3 + 4 + 5)
    assert results.is_complete
    assert [score.cell for score in results.cells] == list(results.grid.cells)
    indices = {n: [c.needle_index for c in results.grid.cells if c.num_frames == n] for n in (3, 7)}
    assert indices == {3: [0, 1, 3], 7: [0, 1, 3, 5]}
    assert cell(7, "3/7") in {sample.cell for sample in results.samples}
    assert not replace(results, samples=results.samples[1:]).is_complete


def test_run_folder_with_positions_goes_on_and_refuses_others(tmp_path):
    directory = write_run(
        tmp_path / "run",
        "3,7",
        positions="0,1,3",
        outcome=lambda c, k: True if c.num_frames == 3 else None,
    )
    folder = RunFolder(directory, make_manifest(Grid.parse("3,7", positions="0,1,3")))
    assert len(folder.samples) == 30
    assert folder.results().num_done == 30
    with pytest.raises(RunMismatchError, match=r"grid.positions = \[0, 1, 3\], this one has \[0\]"):
        RunFolder(directory, make_manifest(Grid.parse("3,7", positions="0")))
    with pytest.raises(RunMismatchError, match=r"without grid.depths, this one has \[0.0\]"):
        RunFolder(directory, make_manifest(Grid.parse("3,7", "0")))


# --- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", "cannot be read as JSON"),
        ('{"format_version": 1, "model": {"na', "cannot be read as JSON"),
        ("[]", r"the content must be an object in braces, got \[\]"),
        ('{"format_version": 3}', "format_version 3; this vniah reads 1 and 2"),
        ('{"format_version": true}', "format_version True; this vniah reads 1 and 2"),
        ('{"format_version": 2}', "the field 'model' is missing"),
        ('{"format_version": 1}', "the field 'model' is missing"),
        ('{"format_version": 1, "model": null}', "model must be an object in braces, got None"),
        ('{"format_version": 1, "model": "m"}', "model must be an object in braces, got 'm'"),
        ('{"format_version": 1, "model": {"name": "m"}}', "the field 'haystack' is missing"),
        ('{"format_version": 1, "format_version": 2}', "the key 'format_version' is given twice"),
    ],
)
def test_load_results_when_the_manifest_is_not_one(tmp_path, manifest, message):
    (tmp_path / MANIFEST_NAME).write_text(manifest)
    with pytest.raises(ResultsError, match=message):
        load_results(tmp_path)


def test_load_results_when_there_is_nothing(tmp_path):
    with pytest.raises(
        ResultsError, match=r"no results at .*nowhere: give a run folder, or the JSON file"
    ):
        load_results(tmp_path / "nowhere")
    with pytest.raises(ResultsError, match=r"has no manifest.json: it is not the folder of a run"):
        load_results(tmp_path)


# --- published tables ----------------------------------------------------------------------------


VISUAL_LENGTHS = range(200, 3001, 200)  # those of LongVA
PAIR_LENGTHS = range(200, 5801, 400)  # those of VideoRoPE, which counts pairs of frames
TEXT_LENGTHS = range(32_000, 512_001, 32_000)
PUBLISHED = {
    "llama3-8b-extend_niah_distractor3": (TEXT_LENGTHS, 0.90568),
    "llava-next-video-7b-32k_theta1e6_vniah": (VISUAL_LENGTHS, 0.14667),
    "llava-next-video-7b-32k_theta1e8_vniah": (VISUAL_LENGTHS, 0.28444),
    "longva-7b_vniah": (VISUAL_LENGTHS, 0.90889),
    "qwen2-7b-224k_niah_distractor0": (TEXT_LENGTHS, 0.99773),
    "qwen2-7b-224k_niah_distractor3": (TEXT_LENGTHS, 0.93523),
    "qwen2-7b-224k_niah_distractor5": (TEXT_LENGTHS, 0.92045),
    "qwen2-vl_m_rope_vniah": (PAIR_LENGTHS, 0.78667),
    "qwen2-vl_t_scale2_change_freq_vniah": (PAIR_LENGTHS, 0.91111),
    "qwen2-vl_time_rope_vniah": (PAIR_LENGTHS, 0.29333),
    "qwen2-vl_vanilla_rope_vniah": (PAIR_LENGTHS, 0.31778),
}


@pytest.mark.parametrize(("name", "expected"), PUBLISHED.items())
def test_load_results_of_a_published_table(name, expected):
    results, (lengths, average) = load_results(PUBLISHED_DIR / f"{name}.json"), expected
    is_text = lengths == TEXT_LENGTHS
    depths = [Fraction(k, 10 if is_text else 5) for k in range(11 if is_text else 6)]
    assert (results.name, results.axis) == (name, "tokens" if is_text else "frames")
    assert [score.cell for score in results.cells] == [Cell(n, d) for n in lengths for d in depths]
    assert round(results.average, 5) == average
    assert {round(5 * score.score, 9) % 1 for score in results.cells} == {0}
    assert results.is_complete
    assert (results.num_planned, results.samples) == (None, ())
    assert results.tokens_per_frame == (72 if name.startswith("qwen2-vl") else None)
    assert {score.num_samples for score in results.cells} == {None}
    assert results.unit == (2 if lengths == PAIR_LENGTHS else 1)


def test_a_unit_of_several_frames_is_said_with_every_length(tmp_path):
    entries = [entry(Score=score) for score in (1.0,)] + [entry(**{"Num. Frame": 300, "Score": 0})]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps({"unit": {"num_frames": 2, "source": "a page"}, "table": entries}))
    table = load_results(path)
    assert [found.cell.num_frames for found in table.cells] == [400, 600]
    said = "published in units of 2 frames: 600 frames here are 300 there"
    assert summarize(table).effective_length.num_frames == 400
    assert format_summary(table)[-1] == said
    for kind in ("lengths", "cells"):
        for style in ("text", "markdown", "latex"):
            text = format_results([table], kind, style)
            assert said in text and "600" in text
    record = json.loads(format_results([table], "lengths", "json"))
    assert record["results"][0]["unit"] == 2
    assert [row["num_frames"] for row in record["rows"]] == [None, 400, 600]
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(entries))
    assert not unit_notes([load_results(plain)])
    assert unit_notes([load_results(plain), table]) == [f"pairs: {said}"]


def test_every_published_table_is_listed_with_its_average():
    assert {path.stem for path in PUBLISHED_DIR.iterdir()} == set(PUBLISHED)
    listed = re.findall(
        r"^\| `(.+)\.json` .* (0\.\d+) \|$",
        (PUBLISHED_DIR.parent / "README.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert {name: float(average) for name, average in listed} == {
        name: average for name, (_, average) in PUBLISHED.items()
    }


def test_a_published_table_is_named_by_its_folder(tmp_path):
    path = tmp_path / "some-model" / "all_accuracies.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{"Num. Frame": 200, "Frame Depth": 33.3, "Score": 0.5}]))
    results = load_results(path)
    assert results.name == "some-model"
    assert [(score.cell, score.score) for score in results.cells] == [(cell(200, "0.333"), 0.5)]


def entry(**changes):
    return {"Num. Frame": 200, "Frame Depth": 20.0, "Score": 1.0, **changes}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("[", "cannot be read as JSON"),
        ([], "is not a table of results"),
        ({"Num. Frame": 200}, "is not a table of results"),
        ([1, 2], "is not a table of results"),
        ({"unit": {"num_frames": 2}, "table": []}, "unit: source is missing|source"),
        ({"unit": {"num_frames": 0, "source": "x"}, "table": []}, r"unit.num_frames must be"),
        ({"unit": {"num_frames": 2, "source": "x"}, "table": []}, "is not a table of results"),
        ({"unit": {"num_frames": 2, "source": "x"}}, "table"),
        (
            {
                "unit": {"num_frames": 2, "source": "x"},
                "table": [{"Context Length": 8, "Document Depth": 0.0, "Score": 1}],
            },
            "counts tokens, and its unit says 2 frames: remove the unit",
        ),
        ([entry(**{"Num. Frame": 10**15})], "Num. Frame must be a whole number <= 1000000000000"),
        (
            [entry(Score=1), entry(Score=0)],
            r"entry 1 has the cell of 200 frames, depth 0.2, a second time \(scores 1 and 0\)",
        ),
        ([{"Score": 1.0}], "entry 0 has other fields: expected a run folder, or a list of"),
        (
            [entry(), {"Num. Frame": 400, "Score": 1}],
            "entry 1 has other fields: expected a run folder",
        ),
        ([entry(), entry(Score=None)], "entry 1: Score must be a number, got None"),
        ([entry(Score=100)], "entry 0: Score must be a number <= 1.0, got 100"),
        ([entry(Score=float("nan"))], "cannot be read as JSON: NaN is not a number of JSON"),
        ([entry(**{"Frame Depth": 120})], "entry 0: depth must be between 0 and 1"),
        ([entry(**{"Frame Depth": None})], "entry 0: Frame Depth must be a number, got None"),
        ([entry(**{"Num. Frame": 0})], "entry 0: Num. Frame must be a whole number >= 1, got 0"),
        ([entry(**{"Num. Frame": 1.5})], "got 1.5"),
        ([entry(Score=True)], "got True"),
        ([entry(**{"Num. Frame": "many"})], "entry 0: Num. Frame must be a whole number"),
        ([entry(**{"Num. Frame": float("inf")})], "Infinity is not a number of JSON"),
        (
            [entry(), {"Context Length": 8, "Document Depth": 0.0, "Score": 1}],
            "entry 1 has other fields: expected a run folder",
        ),
    ],
)
def test_load_results_when_a_file_is_no_published_table(tmp_path, rows, message):
    path = tmp_path / "table.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    with pytest.raises(ResultsError, match=message):
        load_results(path)


def test_load_results_of_a_binary_file(tmp_path):
    (tmp_path / "heatmap.png").write_bytes(b"\x89PNG\xff\x00")
    with pytest.raises(ResultsError, match="cannot be read as JSON"):
        load_results(tmp_path / "heatmap.png")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"grid": {"frames": 5, "depths": [0]}}, "grid.frames"),
        ({"grid": {"frames": ["32"], "depths": [0]}}, "grid.frames"),
        ({"grid": {"frames": [32], "depths": None}}, "grid.depths"),
        ({"grid": {"frames": [32], "depths": ["x"]}}, "grid: depth must be numbers, got 'x'"),
        ({"grid": {"frames": [32], "depths": [2]}}, "grid: depth must be between 0 and 1, got 2"),
        ({"grid": {"frames": [32]}}, "grid: depths must name"),
        ({"grid": {"frames": [0], "depths": [0]}}, r"grid.frames\[0\]"),
        ({"grid": {"frames": [32], "positions": None}}, "grid.positions"),
        ({"grid": {"frames": [32], "positions": []}}, "grid.positions"),
        ({"grid": {"frames": [32], "positions": [0.5]}}, "grid.positions"),
        ({"grid": {"frames": [32], "positions": [-1]}}, r"grid.positions\[0\]"),
        ({"grid": {"frames": [32], "positions": [33]}}, "grid:"),
        ({"grid": {"frames": [32], "positions": [0], "depths": [0]}}, "grid:"),
        ({"grid": {"frames": [32], "positions": [0], "depths": None}}, "grid.depths"),
        ({"needles": {"ids": None}}, "needles.ids"),
        ({"needles": {"ids": [1, "a"]}}, "needles.ids"),
        ({"haystack": [1]}, "haystack"),
        ({"protocol": "x"}, "protocol"),
        ({"model": {"name": None}}, "model.name"),
    ],
)
def test_load_results_when_a_field_of_the_manifest_cannot_be_meant(tmp_path, change, name):
    manifest = {**make_manifest(Grid.of([8], [0])), **change}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ResultsError, match=f"manifest.json: (the field ')?{name}"):
        load_results(tmp_path)


def test_load_results_when_json_is_nested_without_end(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ResultsError, match="is nested too deeply to be read as JSON"):
        load_results(tmp_path)


def test_run_is_complete_only_with_the_planned_samples():
    results = make_run("8,16", "0,1")
    assert results.is_complete
    (first, *others) = results.samples
    elsewhere = replace(first, sample_id="32/0/needle-0", cell=cell(32, "0"))
    assert not replace(results, samples=(elsewhere, *others)).is_complete


# --- lines that do not belong --------------------------------------------------------------------


@pytest.mark.parametrize("format_version", [1, 2])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"needle_id": "foreign", "sample_id": "8/0/foreign"}, "the sample '8/0/foreign', which"),
        ({"num_frames": 32, "sample_id": "32/0/needle-0"}, "the sample '32/0/needle-0', which"),
        (
            {"depth": 0.5, "needle_index": 4, "sample_id": "8/0.5/needle-0"},
            "the sample '8/0.5/needle-0', which",
        ),
        ({"task": "niah"}, "the task 'niah', and the run is of 'vniah'"),
    ],
)
def test_line_that_is_not_in_the_plan_is_an_error_that_names_it(
    tmp_path, format_version, changes, message
):
    directory = write_run(tmp_path / "run", "8,16", "0,1")
    if format_version == 1:
        make_version_1(directory)
        changes = {name: value for name, value in changes.items() if name != "sample_id"}
    path = directory / SAMPLES_NAME
    line = {**json.loads(path.read_text().splitlines()[0]), **changes}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(ResultsError, match=f"line 41, holds {message}"):
        load_results(directory)


def make_version_1(directory):
    """Turns a run folder into one of version 0.1, which listed no samples."""
    manifest = json.loads((directory / MANIFEST_NAME).read_text())
    for name in ("axes", "controls", "sample_ids"):
        del manifest[name]
    (directory / MANIFEST_NAME).write_text(json.dumps({**manifest, "format_version": 1}))
    path = directory / SAMPLES_NAME
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        del line["sample_id"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_run_of_version_1_is_read_and_gone_on_with(tmp_path):
    directory = write_run(tmp_path / "run", "8,16", "0,1", outcome=lambda c, k: None if k else True)
    version_2 = load_results(directory)
    make_version_1(directory)
    version_1 = load_results(directory)
    assert version_1.samples == version_2.samples
    assert (version_1.num_done, version_1.num_planned) == (4, 40)

    folder = RunFolder(directory, version_2.manifest)
    assert folder.has_score("8/0/needle-0") and not folder.has_score("8/0/needle-1")
    with folder.open():
        folder.append(make_sample(cell(8, "0"), 1))
    found = load_results(directory)
    assert found.manifest["format_version"] == 2 and len(found.samples) == 5
    assert found.manifest["environment"] == version_2.manifest["environment"]


# --- notebooks -----------------------------------------------------------------------------------


def test_results_as_tables_of_pandas():
    results = make_run(
        "3", positions="0,1", num_needles=2, outcome=lambda c, k: "oh" if k else True
    )
    samples = results.to_pandas()
    assert list(samples["depth"]) == [0.0, 0.0, 1 / 3, 1 / 3]
    assert list(samples["needle_id"]) == ["needle-0", "needle-1"] * 2
    assert list(samples["error"].fillna("")) == ["", "oh"] * 2
    cells = results.to_pandas(cells=True)
    assert cells.to_dict("list") == {
        "num_frames": [3, 3],
        "depth": [0.0, 1 / 3],
        "score": [1.0, 1.0],
        "num_samples": [1, 1],
        "num_correct": [1, 1],
        "num_errors": [1, 1],
    }


def test_published_table_as_a_table_of_pandas():
    results = load_results(PUBLISHED_DIR / "longva-7b_vniah.json")
    assert len(results.to_pandas()) == len(results.cells)


def test_repr_of_results_is_one_short_line():
    results = replace(make_run("8", "0,1"), name="<b>tiny</b>")
    assert "0 of 20 samples" in replace(results, samples=())._repr_html_(), "before the first line"
    assert repr(results) == "<Results <b>tiny</b>: 20 of 20 samples, 2 cells, average 1.0000>"
    shown = results._repr_html_()
    assert "&lt;b&gt;tiny" in shown and "<b>" not in shown and shown.count("1.00</td>") == 2


def test_whole_numbers_that_controls_lack_stay_whole_in_pandas():
    results = make_run("8", "0.5", num_needles=2, outcome=lambda c, k: True if k else "oh")
    control = replace(
        results.samples[1],
        sample_id="8/-/needle-1/no-needle",
        cell=None,
        control="no-needle",
        fields={"num_frames": 8, "needle_id": "needle-1"},
    )
    frame = replace(results, control_samples=(control,)).to_pandas()
    assert str(frame["needle_index"].dtype) == "Int64" and str(frame["correct"].dtype) == "boolean"
    assert list(frame["needle_index"].fillna(-1)) == [4, 4, -1]
    assert frame["correct"].mean() == 1.0
    assert str(results.to_pandas()["needle_index"].dtype) == "int64"


def test_repr_of_a_run_with_positions_shows_positions():
    shown = make_run("3,7", positions="0,2")._repr_html_()
    assert "position" in shown and "<th>2</th>" in shown and "0.2857" not in shown


def test_repr_of_results_with_a_long_or_odd_name():
    results = replace(make_run("8", "0"), name="x" * 200_000 + "\ud800")
    assert len(repr(results)) < 200
    replace(results, name="\ud800")._repr_html_().encode()


def test_cells_of_the_plan_count_in_the_coverage_of_a_run(tmp_path):
    directory = tmp_path / "run"
    write_run(directory, "8,16", "0,1", outcome=lambda c, k: True if c.depth == 0 else None)
    run = load_results(directory)
    assert (run.num_scored_cells, run.num_planned_cells, run.coverage) == (2, 4, "2 of 4 cells")
    thirds = make_run("3", positions="0,1", outcome=lambda c, k: True if c.depth == 0 else None)
    assert thirds.coverage == "1 of 2 cells"
    assert make_run("8", "0").coverage == "1 cell"


@pytest.mark.parametrize("name", ["samples.jsonl", "manifest.json"])
def test_load_results_of_a_file_in_the_folder_of_a_run(tmp_path, name):
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(
        ResultsError, match=f"{name} is a file of a run: give the folder, {tmp_path}"
    ):
        load_results(tmp_path / name)
