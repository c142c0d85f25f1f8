"""Answers judged anew: the same rules give the same outcomes, other rules what they say."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from needle_sets import FRAME_TASKS
from planted_models import write_haystack, write_needles
from runs import PUBLISHED_DIR, make_manifest, make_sample, write_run

from vniah import export_samples, import_answers, load_results
from vniah.answers import TEXT_RULES
from vniah.answers.rules import match_beginning, match_exactly, match_inside
from vniah.cli import main
from vniah.errors import InputError, ResultsError, RunMismatchError
from vniah.files import hash_file
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.needles import NeedleSet, load_needles
from vniah.results import RunFolder, SampleResult, format_schema
from vniah.scoring import GeneratedText, LogitsScore, Reading
from vniah.sweep.outcomes import result_of
from vniah.sweep.rescoring.rescoring import Rescoring, rescore
from vniah.tasks import load_task
from vniah.tasks.controls import plan_samples
from vniah.tasks.details import details_of

pytestmark = pytest.mark.usefixtures("quick_pictures")

RESULTS = Path(__file__).resolve().parents[1] / "results"
BASELINE = RESULTS / "reference-long"
BASELINES = sorted(path.parent.name for path in RESULTS.glob("*/manifest.json"))
HOSTILE = "<b>\u202e\x1b[2J 針 \udcff"
GENERATED = "generated text"

Say = Callable[[Any], str | None]


@pytest.fixture(scope="module")
def cards() -> NeedleSet:
    return load_needles("cards").select(["card-red-7", "sign-star-blue"])


@pytest.fixture(scope="module")
def four() -> NeedleSet:
    """Four needles of which one leads to another, for all tasks."""
    whole = load_needles("cards")
    first = next(needle for needle in whole if needle.bridge is not None)
    names = dict.fromkeys((first.needle_id, *whole.ids))
    return whole.select([*names][:4])


@pytest.fixture(scope="module")
def lettered(tmp_path_factory) -> NeedleSet:
    """Four cards with a digit, and four whose animal is asked for by its letter."""
    return load_needles(write_needles(tmp_path_factory.mktemp("needles") / "set"))


def write_answers(
    folder: Path,
    needles: NeedleSet,
    say: Say,
    *,
    task: str = "vniah",
    options: Any = None,
    controls: str = "none",
    frames: str = "40",
    has_logits: bool = False,
) -> Path:
    """A run of a model that writes what a rule says; None is an error."""
    loaded, grid = load_task(task, options), Grid.parse(frames, "0.4")
    samples = plan_samples(loaded, grid, needles, None, controls)
    manifest = make_manifest(grid, task=task, protocol__criterion=GENERATED)
    manifest |= {
        "controls": list(dict.fromkeys(s.control for s in samples if s.control)),
        "sample_ids": " ".join(sample.sample_id for sample in samples),
        "needles": {"name": needles.name, "sha256": needles.sha256, "ids": list(needles.ids)},
        **({"task_details": details} if (details := details_of(loaded)) else {}),
    }
    run = RunFolder(folder, manifest)
    with run.open():
        for sample in samples:
            text = say(sample)
            said = None if text is None else GeneratedText(text, (3, 4) if has_logits else ())
            scores = [
                LogitsScore((k,), k == 0, -0.5 - k, 1 + k, 1.0 - k)
                for k in range(len(sample.candidates))
            ]
            readings = (
                tuple(Reading(0.25, (k,), one, "7", said) for k, one in enumerate(scores))
                if has_logits
                else (Reading(0.25, generated=said),)
            )
            run.append(result_of(loaded, sample, "no memory" if text is None else readings))
    return folder


def lines_of(folder: Path) -> dict[str, dict]:
    lines = map(json.loads, (folder / "samples.jsonl").read_bytes().splitlines())
    return {line["sample_id"]: line for line in lines}


def outcomes(found: Rescoring) -> dict[str, bool | None]:
    return {line.sample_id: line.correct for line in found.results.samples}


@pytest.mark.parametrize("name", BASELINES)
def test_rule_of_a_stored_run_gives_its_outcomes(name, tmp_path):
    earlier = load_results(RESULTS / name)
    found = rescore(RESULTS / name, output=tmp_path / "run")
    assert found.changes == () and found.num_errors == found.num_open == 0
    assert found.results.samples == earlier.samples
    assert found.results.control_samples == earlier.control_samples
    assert found.results.is_complete and found.results.average == earlier.average


@pytest.mark.parametrize("has_logits", [False, True])
@pytest.mark.parametrize("task", FRAME_TASKS)
def test_rule_of_a_run_gives_its_outcomes_in_every_task(task, has_logits, tmp_path, four):
    texts = itertools.cycle(
        ("{}", "I see {}", None, "The answer is {}.", "<think>?</think>{}", "", HOSTILE)
    )

    def say(sample):
        text = next(texts)
        return None if text is None else text.format(sample.answer)

    folder = write_answers(
        *(tmp_path / "run", four, say), task=task, controls="all", has_logits=has_logits
    )
    found = rescore(folder, output=tmp_path / "again")
    assert found.changes == ()
    assert lines_of(tmp_path / "again") == lines_of(folder)
    assert {line["correct"] for line in lines_of(folder).values()} >= {True, False, None}


def test_new_run_says_what_it_was_made_from(tmp_path, cards):
    folder = write_answers(tmp_path / "run", cards, lambda sample: f"I see {sample.answer}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = rescore(folder, output=tmp_path / "new", answer_rules="contains", accept={"7": ["VII"]})
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_bytes())
    assert manifest["derived"] == {
        "from": "run",
        "samples_sha256": hash_file(folder / "samples.jsonl"),
        "manifest_sha256": hash_file(folder / "manifest.json"),
        "answer_rules": "contains",
        "accepted": {"7": ["VII"]},
    }
    expected = "generated text, by the rule contains, accepting also 7 = VII"
    assert manifest["protocol"]["criterion"] == found.criterion == expected
    assert manifest["notes"] == [
        f"the answers of run were judged anew, without the model: {expected}"
    ]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for file, content in (
        ("manifest", [manifest]),
        ("samples", lines_of(tmp_path / "new").values()),
    ):
        validator = Draft202012Validator(format_schema(file))
        assert [error.message for one in content for error in validator.iter_errors(one)] == []
    assert load_results(tmp_path / "new").average == 1.0


def test_rules_of_texts_judge_what_was_written(tmp_path, cards):
    texts = {"card-red-7": "7, as it is red", "sign-star-blue": "It is a blue star"}
    folder = write_answers(
        tmp_path / "run", cards, lambda sample: texts[sample.fields["needle_id"]]
    )
    assert load_results(folder).average == 0
    expected = {
        "whole": [False, False],
        "exact": [False, False],
        "begins": [True, False],
        "contains": [True, True],
    }
    assert {*expected} == {*TEXT_RULES}
    for name, right in expected.items():
        found = rescore(folder, output=tmp_path / name, answer_rules=name)
        assert [*outcomes(found).values()] == right
        assert len(found.to(True)) == sum(right) and found.to(False) == ()


@pytest.mark.parametrize(
    ("rule", "text", "answers", "choices", "expected"),
    [
        (match_exactly, " yellow\n", ["yellow"], None, "yellow"),
        (match_exactly, "Yellow", ["yellow"], None, None),
        (match_exactly, "yellow.", ["yellow"], None, None),
        (match_exactly, "B", ["B"], ["Cat", "Dog"], "B"),
        (match_exactly, "", ["7"], None, None),
        (match_beginning, "7 or 8", ["7"], None, "7"),
        (match_beginning, "70", ["7"], None, None),
        (match_beginning, "The yellow one, I think", ["yellow", "yellow one"], None, "yellow one"),
        (match_beginning, "I see 7", ["7"], None, None),
        (match_beginning, "<think>3?</think>7 it is", ["7"], None, "7"),
        (match_beginning, "<think>7 it is", ["7"], None, None),
        (match_beginning, "B. It barks", ["B"], ["Cat", "Dog"], "B"),
        (match_beginning, "A. It barks", ["B"], ["Cat", "Dog"], None),
        (match_beginning, "Dog, since it barks", ["B"], ["Cat", "Dog"], "B"),
        (match_beginning, "A dog, since it barks", ["B"], ["Cat", "Dog"], "B"),
        (match_inside, "I see a 7 on it", ["7"], None, "7"),
        (match_inside, "I see 17 on it", ["7"], None, None),
        (match_inside, "It says -7 there", ["7"], None, None),
        (match_inside, "I see a dog there", ["B"], ["Cat", "Dog"], "B"),
        (match_inside, "a dog and no cat", ["B"], ["Cat", "Dog"], None),
        (match_inside, "Cat", ["B"], ["Cat", "Dog"], None),
        (match_inside, "on it: ＹＥＬＬＯＷ!", ["yellow"], None, "yellow"),
        (match_inside, "答えは 針 です", ["針"], None, "針"),
        (match_inside, "x" * 30_000 + " 7", ["7"], None, None),
    ],
)
def test_rule_of_texts(rule, text, answers, choices, expected):
    assert rule(text, answers, choices) == expected


def test_further_answers_are_accepted_for_the_answer_they_stand_for(tmp_path, cards):
    folder = write_answers(tmp_path / "run", cards, lambda sample: "Answer: seven")
    found = rescore(folder, output=tmp_path / "new", accept={"7": ["seven", "VII"]})
    assert outcomes(found) == {"40/0.4/card-red-7": True, "40/0.4/sign-star-blue": False}
    with pytest.raises(InputError, match="no sample accepts the answer '8'"):
        rescore(folder, output=tmp_path / "other", accept={"8": ["eight"]})


def test_needle_set_may_accept_more_than_before_and_not_ask_something_else(tmp_path):
    def needles(name, **changes):
        folder = tmp_path / name
        write_needles(folder, letters=False)
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_bytes().splitlines()]
        rows[0] |= changes
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    run = write_answers(tmp_path / "run", load_needles(needles("old")), lambda sample: "seven")
    with pytest.raises(InputError, match="not where it lies: give --needles"):
        rescore(run, output=tmp_path / "new")
    more = needles("more", accepted=["seven"])
    found = rescore(run, output=tmp_path / "new", needles=more)
    assert [*outcomes(found).values()] == [True, False, False, False]
    other = needles("other", question="Which digit is it?")
    with pytest.raises(InputError, match=r"question of '40/0.4/card-7' is .* give the needles"):
        rescore(run, output=tmp_path / "other-run", needles=other)
    assert not (tmp_path / "other-run").exists()


def test_rule_of_ones_own(tmp_path, cards, monkeypatch):
    (tmp_path / "own_rules.py").write_text(
        "def shouted():\n"
        "    return lambda text, answers, choices: next(\n"
        "        (a for a in answers if text == a.upper() + '!'), None)\n"
        "def failing():\n"
        "    return lambda text, answers, choices: 1 / 0\n"
        "def yes():\n"
        "    return lambda text, answers, choices: True\n"
        "def nothing():\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = write_answers(tmp_path / "run", cards, lambda sample: "BLUE!")
    found = rescore(folder, output=tmp_path / "new", answer_rules="own_rules:shouted")
    assert outcomes(found) == {"40/0.4/card-red-7": False, "40/0.4/sign-star-blue": True}
    assert found.criterion == "generated text, by the rule own_rules:shouted"
    for name, message in (
        ("failing", "own_rules:failing failed: ZeroDivisionError: division by zero, at the sample"),
        ("yes", "gave True, which is no accepted answer and not None"),
        ("nothing", "own_rules:nothing gave 3; it must return a function"),
        ("missing", "own_rules has no 'missing'"),
    ):
        with pytest.raises(InputError, match=message):
            rescore(folder, output=tmp_path / name, answer_rules=f"own_rules:{name}")
        assert not (tmp_path / name).exists()


def test_task_with_a_rule_of_its_own_for_texts_is_named(tmp_path, cards):
    folder = write_answers(tmp_path / "run", cards, lambda sample: "5", task="localization")
    with pytest.raises(InputError, match="localization reads texts by a rule of its own"):
        rescore(folder, output=tmp_path / "new", answer_rules="contains")
    assert not (tmp_path / "new").exists()


def test_argmax_beside_generated_text_is_a_rule(tmp_path, cards):
    folder = write_answers(tmp_path / "run", cards, lambda sample: "none", has_logits=True)
    found = rescore(folder, output=tmp_path / "new", answer_rules="argmax")
    assert [*outcomes(found).values()] == [True, True]
    assert found.criterion == load_results(BASELINE).manifest["protocol"]["criterion"]
    options = write_answers(
        tmp_path / "count", cards, lambda sample: "none", task="count", has_logits=True
    )
    found = rescore(options, output=tmp_path / "counted", answer_rules="argmax")
    assert found.criterion == "the most probable of the options"
    assert {*outcomes(found).values()} == {True, False}
    chat = write_answers(tmp_path / "chat", cards, lambda sample: "none")
    with pytest.raises(InputError, match="argmax cannot be applied to the sample"):
        rescore(chat, output=tmp_path / "other", answer_rules="argmax")
    with pytest.raises(InputError, match="needs a rank, and the sample"):
        rescore(chat, output=tmp_path / "other", answer_rules="rank:2")


@pytest.mark.parametrize(
    ("rule", "right"),
    [
        ("rank:1", [0]),
        ("rank:3", [0, 1]),
        ("margin:0", [0]),
        ("margin:-1.5", [0, 1]),
        ("probability:0.5", [0]),
        ("probability:1", []),
        ("argmax", [0]),
    ],
)
def test_rules_of_numbers(rule, right, tmp_path):
    grid = Grid.parse("8", "0")
    (place,) = grid.cells
    run = RunFolder(tmp_path / "run", make_manifest(grid, num_needles=4))
    numbers = [(1, 2.0, -0.25), (2, -1.5, -1.0), (9, -4.0, -6.0)]
    with run.open():
        for k, (rank, margin, logprob) in enumerate(numbers):
            values = {"rank": rank, "margin": margin, "logprob": logprob}
            run.append(make_sample(place, k, rank == 1, **values))
        run.append(make_sample(place, 3, "no memory"))
    found = rescore(tmp_path / "run", output=tmp_path / "new", answer_rules=rule)
    assert outcomes(found) == {f"8/0/needle-{k}": k in right if k < 3 else None for k in range(4)}
    assert found.num_errors == 1
    again = load_results(tmp_path / "new")  # lines that contradict their rank would be refused
    assert again.samples == found.results.samples


@pytest.mark.parametrize(
    "rule", ["rank:0", "rank", "rank:x", "probability:0", "probability:2", "margin:inf", "rank:nan"]
)
def test_rule_without_its_number_is_refused(rule, tmp_path):
    with pytest.raises(InputError, match=r"needs a number such as|no answer rule 'rank'"):
        rescore(BASELINE, output=tmp_path / "new", answer_rules=rule)


def test_question_is_right_in_every_order_of_its_options_or_wrong(tmp_path, lettered):
    def say(sample):
        if sample.choices is None:
            return sample.answer
        animal = sample.fields["needle_id"]
        if animal == "card-fox" and sample.sample_id.endswith("/2/option-rotation"):
            return None
        return "C" if animal == "card-cat" else sample.answer

    folder = write_answers(tmp_path / "run", lettered, say, controls="option-rotation")
    found = rescore(folder, output=tmp_path / "new", answer_rules="circular")
    expected = {f"40/0.4/card-{name}": True for name in ("7", "3", "9", "4", "dog", "owl")}
    expected |= {"40/0.4/card-cat": False, "40/0.4/card-fox": None}
    assert outcomes(found) == expected
    (failed,) = found.to(None)
    assert "40/0.4/card-fox/2/option-rotation could not be run: no memory" in failed.after.error
    assert found.results.control_samples == found.earlier.control_samples
    with pytest.raises(InputError, match="asked with their options in other orders"):
        rescore(BASELINE, output=tmp_path / "other", answer_rules="circular")


def test_order_that_was_not_asked_yet_leaves_a_question_open(tmp_path, lettered):
    folder = write_answers(
        *(tmp_path / "run", lettered, lambda sample: sample.answer), controls="option-rotation"
    )
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b"card-owl/3/option-rotation" not in line]
    assert len(kept) == len(lines) - 1
    (folder / "samples.jsonl").write_bytes(b"".join(kept))
    found = rescore(folder, output=tmp_path / "new", answer_rules="circular")
    assert found.num_open == 1 and "40/0.4/card-owl" not in outcomes(found)
    assert not found.results.is_complete


def test_answers_of_an_export_are_judged_by_its_plan(tmp_path, lettered):
    haystack = open_haystack(write_haystack(tmp_path / "film", 2))
    export_samples(
        *(haystack, lettered, Grid.parse("2", "0.5")),
        output=tmp_path / "export",
        controls="none",
        progress=False,
    )
    rows = (tmp_path / "export" / "metadata.jsonl").read_bytes().splitlines()
    answers = {row["sample_id"]: f"{row['answer']}, I think" for row in map(json.loads, rows)}
    import_answers(answers, export=tmp_path / "export", model_name="m", output=tmp_path / "run")
    found = rescore(
        *(tmp_path / "run",),
        output=tmp_path / "new",
        answer_rules="begins",
        export=tmp_path / "export",
    )
    assert found.earlier.average == 0 and found.results.average == 1
    assert found.results.manifest["model"] == found.earlier.manifest["model"]


def test_unfinished_run_with_errors_keeps_both(tmp_path, cards):
    def say(sample):
        return None if "star" in sample.sample_id else "I see 7"

    folder = write_answers(tmp_path / "run", cards, say, frames="8,16")
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    found = rescore(folder, output=tmp_path / "new", answer_rules="contains")
    assert (found.num_lines, found.num_errors, len(found.to(True))) == (3, 1, 2)
    assert found.results.num_done == 3 and not found.results.is_complete


def test_run_of_errors_only_has_errors_only(tmp_path, cards):
    folder = write_answers(tmp_path / "run", cards, lambda sample: None)
    found = rescore(folder, output=tmp_path / "new", answer_rules="contains")
    assert found.num_errors == 2 and found.results.average is None and found.changes == ()


def test_what_cannot_be_judged_is_refused_and_nothing_is_written(tmp_path, cards):
    folder = write_answers(tmp_path / "run", cards, lambda sample: "7")
    empty = write_run(tmp_path / "empty", outcome=lambda cell, k: None)
    ranks = write_answers(tmp_path / "ranks", cards, lambda sample: "7")
    (ranks / "samples.rank-0001.jsonl").write_bytes(b"")
    own = tmp_path / "own"
    grid = Grid.parse("8", "0")
    run = RunFolder(own, make_manifest(grid, task="mine", protocol__criterion=GENERATED))
    with run.open():
        run.append(make_sample(grid.cells[0], 0, task="mine"))
    for source, options, error, message in (
        (PUBLISHED_DIR / "longva-7b_vniah.json", {}, InputError, "a table without samples"),
        (tmp_path / "none", {}, ResultsError, "no results at"),
        (empty, {}, ResultsError, "has no samples yet"),
        (ranks, {}, ResultsError, "several processes write to"),
        (own, {}, InputError, "does not come with vniah: give --task"),
        (
            BASELINE,
            {"answer_rules": "exact"},
            InputError,
            "the rule exact is for",
        ),
        (BASELINE, {"accept": {"7": ["x"]}}, InputError, "argmax reads no text"),
        (folder, {"task": "count"}, InputError, "the task count is not the one of"),
        (folder, {"output": folder, "overwrite": True}, ResultsError, "is, or lies in, the folder"),
        (folder, {"output": folder / "new"}, ResultsError, "is, or lies in, the folder"),
    ):
        with pytest.raises(error, match=message):
            rescore(source, **{"output": tmp_path / "new", **options})
        assert not (tmp_path / "new").exists() and not (folder / "new").exists()


def test_control_of_somebody_else_is_named(tmp_path, cards):
    folder = write_answers(tmp_path / "run", cards, lambda sample: "7")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["controls"] = ["mine"]
    manifest["sample_ids"] += " 40/-/card-red-7/mine"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    line = SampleResult(
        *("40/-/card-red-7/mine", "vniah", None, "q", "a", "mine"),
        fields={"num_frames": 40, "needle_id": "card-red-7"},
        prediction="7",
        correct=False,
    )
    with (folder / "samples.jsonl").open("a") as file:
        file.write(line.to_json() + "\n")
    with pytest.raises(InputError, match="as the control 'mine' does not come with vniah"):
        rescore(folder, output=tmp_path / "new", answer_rules="contains")


def test_output_of_another_run_is_refused_and_that_of_the_same_is_taken_up(tmp_path, cards):
    folder = write_answers(tmp_path / "run", cards, lambda sample: "I see 7")
    first = rescore(folder, output=tmp_path / "new", answer_rules="contains")
    content = (tmp_path / "new" / "samples.jsonl").read_bytes()
    again = rescore(folder, output=tmp_path / "new", answer_rules="contains")
    assert again.changes == first.changes
    assert (tmp_path / "new" / "samples.jsonl").read_bytes() == content
    with pytest.raises(RunMismatchError, match="answer_rules = 'contains'"):
        rescore(folder, output=tmp_path / "new", answer_rules="begins")
    found = rescore(folder, output=tmp_path / "new", answer_rules="begins", overwrite=True)
    assert found.changes == ()


def test_command_says_what_changed_in_each_direction(tmp_path, cards, capsys):
    folder = write_answers(
        *(tmp_path / "run", cards),
        lambda sample: sample.answer.upper() if "blue" in sample.sample_id else "it says seven ",
        frames="8,16",
        controls="no-needle",
    )
    arguments = ["rescore", str(folder), "--output", str(tmp_path / "new"), "--list", "1"]
    capsys.readouterr()
    assert main([*arguments, "--answer-rules", "exact", "--accept", "7=it says seven"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "tiny, judged by: generated text, by the rule exact, accepting also 7 = it says seven",
        "samples: 2 became right, 2 became wrong, 0 as before",
        "  became right: 8/0.4/card-red-7, answer '7', prediction 'it says seven '",
        "  became right: 1 more",
        "  became wrong: 8/0.4/sign-star-blue, answer 'blue', prediction 'BLUE'",
        "  became wrong: 1 more",
        "controls: 2 became right, 2 became wrong, 0 as before",
        "  became right: 8/-/card-red-7/no-needle, answer '7', prediction 'it says seven '",
        "  became right: 1 more",
        "  became wrong: 8/-/sign-star-blue/no-needle, answer 'blue', prediction 'BLUE'",
        "  became wrong: 1 more",
        "average: 0.5000 before, 0.5000 now, over 2 cells",
        f"results: {tmp_path / 'new'}",
    ]


def test_command_escapes_hostile_text_and_refuses_in_one_line(tmp_path, cards, capsys):
    folder = write_answers(tmp_path / "run", cards, lambda sample: f"{HOSTILE} {sample.answer}")
    arguments = ["rescore", str(folder), "--output", str(tmp_path / "new")]
    assert main([*arguments, "--answer-rules", "contains"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and "針" in out
    for more in (["--accept", "7"], ["--answer-rules", "x"], ["--task-option", "a=b"]):
        assert main([*arguments, *more]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_run_that_grows_while_it_is_read_is_refused(tmp_path, cards, monkeypatch):
    folder = write_answers(tmp_path / "run", cards, lambda sample: "7")

    def load_and_grow(path):
        found = load_results(path)
        with (folder / "samples.jsonl").open("ab") as file:
            file.write(b"{")
        return found

    monkeypatch.setattr("vniah.sweep.rescoring.rescoring.load_results", load_and_grow)
    with pytest.raises(ResultsError, match="grew while it was read"):
        rescore(folder, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()
