"""Runs on text judged anew; their samples given to others, and the answers that come back."""

import json

import pytest
from test_format_schema import require_described
from text_models import save_language_model

from vniah import convert_results, import_answers
from vniah.cli import main
from vniah.errors import InputError, ResultsError, RunMismatchError
from vniah.grid import Grid
from vniah.haystacks.text import open_text
from vniah.models.loading import load_folder
from vniah.models.tokenizers import open_counter
from vniah.needles.numbers import number_needles
from vniah.results import load_run
from vniah.sweep.exchange.texts import export_texts
from vniah.sweep.rescoring.rescoring import rescore
from vniah.sweep.run import run_sweep

GRID = Grid.parse("400", "0,1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def counter(folder):
    return open_counter(str(folder))


def export_to(output, counter, **options):
    settings = {
        "needles": number_needles(2),
        "grid": GRID,
        "task_options": {"distractors": "0,2"},
        **options,
    }
    return export_texts(
        open_text(num_tokens=400),
        settings.pop("needles"),
        settings.pop("grid"),
        tokenizer=counter,
        output=output,
        **settings,
    )


@pytest.fixture(scope="module")
def exported(counter, tmp_path_factory):
    path = tmp_path_factory.mktemp("exports") / "out"
    assert export_to(path, counter).num_written == 12
    return path


def rows_of(exported):
    return [json.loads(line) for line in (exported / "metadata.jsonl").read_text().splitlines()]


def answers_of(exported, say):
    return {row["sample_id"]: say(row) for row in rows_of(exported)}


@pytest.fixture(scope="module")
def imported(exported, tmp_path_factory):
    """A model that gives the number, a sentence around it, nothing, or the distractor's."""
    said = iter(["{}", "The number is {}, I think.", "", "1234567, no, {}"] * 4)
    path = tmp_path_factory.mktemp("runs") / "run"
    answers = answers_of(exported, lambda row: next(said).format(row["answer"]))
    import_answers(answers, export=exported, model_name="somebody", output=path)
    return path


def test_an_export_has_the_prompts_of_a_run(exported, folder, counter, tmp_path):
    rows = rows_of(exported)
    model = load_folder(folder, name="tiny")
    results = run_sweep(
        model,
        open_text(num_tokens=400),
        number_needles(2),
        GRID,
        output=tmp_path / "run",
        task="niah",
        task_options={"distractors": "0,2"},
        progress=False,
    )
    lines = {line.sample_id: line for line in (*results.samples, *results.control_samples)}
    assert lines.keys() == {row["sample_id"] for row in rows} and len(rows) == 12
    for row in rows:
        line, num_tokens = lines[row["sample_id"]], len(counter.token_ends(row["prompt"]))
        assert row["prompt"].endswith(row["question"]) and row["num_tokens"] == 400
        assert line.answer == row["answer"] and row["accepted"] == [row["answer"]]
        if row["control"] is None:
            assert num_tokens == row["fields"]["context_tokens"] == 400
            assert row["prompt"].count(f"Singapore number is: {row['answer']}.") == 1
        assert "file_name" not in row and "num_frames" not in row and "inserted" not in row
    assert not (exported / "videos").exists()


def test_answers_to_texts_become_a_run(imported, exported):
    results = load_run(imported)
    require_described(imported)
    assert results.is_complete and results.axis == "tokens"
    right = [line.correct for line in (*results.samples, *results.control_samples)]
    assert right.count(True) == 6  # of four answers the first two: the first number counts
    model = results.manifest["model"]
    assert (model["answers"], model["tokenizer"]) == ("imported", "tiny")
    assert "videos" not in model and "frame_rate" not in results.manifest["protocol"]


def test_an_export_of_texts_goes_on_and_refuses_another(exported, counter, tmp_path):
    before = (exported / "plan.jsonl").read_bytes()
    assert export_to(exported, counter).num_written == 0
    assert (exported / "plan.jsonl").read_bytes() == before
    with pytest.raises(RunMismatchError, match="holds an export with grid"):
        export_to(exported, counter, grid=Grid.parse("300", "0,1"))
    other = open_counter(str(save_language_model(tmp_path / "other", "words")))
    with pytest.raises(RunMismatchError, match=r"holds an export"):
        export_to(exported, other)
    with pytest.raises(InputError, match="the task vniah shows frames"):
        export_to(tmp_path / "out", counter, task="vniah", task_options={})


@pytest.mark.parametrize(
    ("count", "complaint"),
    [
        (lambda n: n + 37, None),  # a chat template
        (lambda n: None, None),
        (lambda n: min(n, 350) + 37, "the server cuts texts, or its model has another tokenizer"),
        (lambda n: 2 * n, "prompt_tokens is 800 where the tokenizer tiny counts 400"),
    ],
    ids=["template", "not counted", "cut", "another tokenizer"],
)
def test_tokens_that_hosts_count_are_those_of_the_prompts(count, complaint, counter, tmp_path):
    grid, needles = Grid.parse("300,400", "0"), number_needles(1)
    options = {"needles": needles, "task_options": {}, "controls": "none"}
    export_to(tmp_path / "out", counter, grid=grid, **options)
    lines = [
        {"sample_id": r["sample_id"], "prediction": "7", "prompt_tokens": count(r["num_tokens"])}
        for r in rows_of(tmp_path / "out")
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    given = {"export": tmp_path / "out", "model_name": "m", "output": tmp_path / "run"}
    if complaint is None:
        assert import_answers(path, **given).num_done == 2
        return
    with pytest.raises(ResultsError, match=complaint):
        import_answers(path, **given)
    assert not (tmp_path / "run").exists()


# --- judged anew ---------------------------------------------------------------------------------


def lines_of(folder):
    lines = map(json.loads, (folder / "samples.jsonl").read_bytes().splitlines())
    return {line["sample_id"]: line for line in lines}


def test_the_rule_of_a_run_on_text_gives_its_outcomes(imported, tmp_path):
    found = rescore(imported, output=tmp_path / "again")
    assert found.changes == () and found.results.is_complete
    assert lines_of(tmp_path / "again") == lines_of(imported)


def test_runs_on_text_are_judged_by_other_rules(imported, exported, tmp_path):
    exact = rescore(imported, output=tmp_path / "exact", answer_rules="exact")
    assert len(exact.to(False)) + len(exact.to(False, is_control=True)) == 3
    inside = rescore(imported, output=tmp_path / "in", answer_rules="contains", export=exported)
    assert len(inside.to(True)) + len(inside.to(True, is_control=True)) == 3
    before, after = lines_of(imported), lines_of(tmp_path / "in")
    for name, line in before.items():
        assert {**after[name], "correct": None} == {**line, "correct": None}
        assert "context_tokens" not in line or line["context_tokens"] == 400


def test_several_numbers_are_judged_by_the_rule_of_their_task(counter, tmp_path):
    path = tmp_path / "out"
    options = {"kind": "multi-value", "number": 3}
    export_to(path, counter, task="niah-multi", task_options=options, controls="none")
    answers = answers_of(path, lambda row: " ".join(reversed(row["answer"].split(", "))))
    run = tmp_path / "run"
    results = import_answers(answers, export=path, model_name="m", output=run)
    assert results.average == 1
    assert rescore(run, output=tmp_path / "again").changes == ()
    assert lines_of(tmp_path / "again") == lines_of(run)
    with pytest.raises(InputError, match="niah-multi reads texts by a rule of its own"):
        rescore(run, output=tmp_path / "other", answer_rules="contains")


def test_a_run_of_other_needles_is_not_judged(imported, tmp_path):
    with pytest.raises(InputError, match="these are not the needles of"):
        rescore(imported, output=tmp_path / "again", needles=number_needles(2, seed=3))


def test_a_run_on_text_is_converted(imported, tmp_path):
    convert_results(load_run(imported), "inspect", output=tmp_path / "log.json")
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["eval"]["metadata"]["cells"][0] == {
        "num_tokens": 400,
        "depth": 0.0,
        **{k: log["eval"]["metadata"]["cells"][0][k] for k in ("score", "num_samples")},
        "num_errors": 0,
    }


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_pictures")
def test_the_command_line_exports_texts_and_takes_answers(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--task", "niah", "--tokens", "300", "--depths", "0.5", "--output", "out"]
    assert main(["export", *options]) == 2
    assert "give --tokenizer, a folder or a hub id with the tokeni" in capsys.readouterr().err
    options += ["--tokenizer", str(folder)]
    assert main(["export", *options, "--frame-size", "64x64"]) == 2
    assert "are for videos, and the task niah shows text" in capsys.readouterr().err
    assert main(["export", *options[2:], "--task", "vniah"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert main(["export", "--frames", "4", "--tokenizer", str(folder), "--output", "out"]) == 2
    assert "--tokenizer counts the tokens of texts" in capsys.readouterr().err
    assert main(["export", *options]) == 0
    assert "\nexport: 10 samples, " in capsys.readouterr().out
    lines = [{**row, "prediction": row["answer"]} for row in rows_of(tmp_path / "out")]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = ["import", "answers.jsonl", "--export", "out", "--model-name", "m"]
    assert main([*command, "--output", "run"]) == 0
    assert "tokens" in capsys.readouterr().out and (tmp_path / "run" / "heatmap.png").is_file()
    assert main(["rescore", "run", "--answer-rules", "exact", "--output", "again"]) == 0
    assert "samples: 0 became right, 0 became wrong, 5 as before" in capsys.readouterr().out
