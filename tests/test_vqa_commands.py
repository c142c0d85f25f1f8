"""Question sets in the commands beside ``vniah run``: estimate, encode, export and import."""

import json
from pathlib import Path

import pytest
from decoder_models import DecoderStandIn
from question_sets import write_set
from test_prefill import build_decoder

from tests.question_sets import make_model
from vniah.cli import main
from vniah.grid import Grid
from vniah.haystacks.library import uniform_pictures
from vniah.needles import NeedleSet
from vniah.sweep.exchange.importing import import_answers
from vniah.sweep.run import run_sweep
from vniah.tasks.vqa.opening import open_questions

MODEL = ("--model", "tests.question_sets:make_model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


def make_decoder() -> DecoderStandIn:
    return DecoderStandIn(build_decoder("qwen2"))


def run_command(*arguments: object) -> int:
    return main([*map(str, arguments)])


@pytest.mark.usefixtures("short_measurements")
def test_an_estimate_counts_pictures_and_samples(folder, capsys):
    model = "tests.test_vqa_commands:make_decoder"
    arguments = ("--task", "vqa", "--haystack", folder, "--frames", "4,14", "--quiet")
    assert run_command("estimate", *arguments, "--model", model) == 0
    out = capsys.readouterr().out
    # Five questions at two lengths, and as many without any frame.
    assert ": 15 samples of up to" in out
    num_pictures = 12 + len({*uniform_pictures(40, 4), *uniform_pictures(40, 14)})
    assert f"they show {num_pictures} different pictures of 2 videos" in out
    assert "frames that fit into the free memory" in out


def test_encoded_pictures_are_those_of_a_run(folder, tmp_path, capsys):
    arguments = (*MODEL, "--task", "vqa", "--haystack", folder, "--frames", "4,14")
    assert run_command("encode", *arguments, "--quiet") == 0
    assert "cache: " in capsys.readouterr().out
    assert run_command("encode", *arguments) == 0
    assert "nothing to do: 28 pictures of 2 videos are already encoded" in capsys.readouterr().out
    model = make_model()
    run_sweep(
        *(model, open_questions(folder), NeedleSet.none(), Grid.of([4, 14], [0])),
        output=tmp_path,
        task="vqa",
        progress=False,
    )
    assert model.encoded == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "niah"), "the task niah shows text, of which nothing is encoded"),
        (("--task", "none"), "there is no task 'none'"),
        (("--task", "vqa", "--haystack", "gone"), "there is no folder gone with questions"),
        (("--task", "vqa", "--sampling", "longva"), "takes pictures evenly from each video"),
    ],
)
def test_encode_refuses_in_one_line_before_a_model_is_loaded(arguments, message, capsys):
    assert run_command("encode", *arguments, "--model", "no.such:model") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_answers_to_an_export_are_a_run(folder, tmp_path, capsys):
    export, run = tmp_path / "export", tmp_path / "run"
    arguments = ("--task", "vqa", "--haystack", folder, "--frames", "4", "--output", export)
    assert run_command("export", *arguments) == 0
    output = capsys.readouterr()
    assert "vqa on set" in output.out + output.err and "1 cell x 5 questions" in output.out
    rows = [json.loads(line) for line in (export / "metadata.jsonl").read_text().splitlines()]
    of_test = {row["sample_id"]: row for row in rows if row["control"] is None}
    assert len(of_test) == 5 and len({row["file_name"] for row in of_test.values()}) == 2
    assert of_test["4/0/late"]["options"] == ["90", "91", "92", "93", "3"]
    lines = [
        json.dumps({"sample_id": name, "prediction": "C" if name == "4/0/late" else row["answer"]})
        for name, row in of_test.items()
    ]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("\n".join(lines))
    results = import_answers(answers, export=export, model_name="somebody", output=run)
    assert [s.sample_id for s in results.samples if not s.correct] == ["4/0/late"]
    assert len(results.samples) == 5
    assert run_command("export", *arguments, "--needles", "cards") == 2
    assert "the task vqa hides nothing" in capsys.readouterr().err


def test_a_sweep_of_question_sets_has_a_report(folder, tmp_path, monkeypatch, capsys):
    from vniah.analysis import plot, report

    needle_sets = []

    def save_report(runs, path, *, needles):
        needle_sets.append(needles)
        return path

    monkeypatch.setattr(plot, "save_heatmaps", lambda results, path, **more: path)
    monkeypatch.setattr(report, "save_report", save_report)
    config = tmp_path / "sweep.toml"
    config.write_text(
        f'task = "vqa"\nhaystack = "{folder}"\nframes = "2"\ncontrols = "none"\n'
        'models = ["tests.question_sets:make_model"]\n[tasks.all]\n[tasks.damaged]\n'
        "keep-damaged = true\n"
    )
    output = tmp_path / "out"
    assert run_command("run", "--config", config, "--output", output, "--quiet") == 0
    assert f"report: {output / 'report.html'}" in capsys.readouterr().out
    assert needle_sets == [[]]
