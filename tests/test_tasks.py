"""Tasks, controls and the seam between them and the sweep."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from vniah.cli import main
from vniah.errors import InputError, TaskError
from vniah.grid import Cell, Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.protocol import HAYSTACK, Frames, FrameSpan, needle_source
from vniah.results import load_results
from vniah.scoring import GeneratedText, LogitsScore, Reading, Score, score_options
from vniah.sweep.run import run_sweep
from vniah.tasks import Sample, haystack_frames, insert_needle, load_task
from vniah.tasks.base import reads_of, require_distinct
from vniah.tasks.controls import choose_controls, plan_samples
from vniah.tasks.controls.no_needle import NoNeedle
from vniah.tasks.vniah import VisualNeedle

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def needles(needle_folder):
    return load_needles(needle_folder)


# --- placement -----------------------------------------------------------------------------------


@pytest.mark.parametrize("needle_index", [0, 1, 4, 5])
def test_needle_is_inserted_and_replaces_nothing(needle_index):
    frames = list(Frames(insert_needle(5, needle_index, "a")))
    needle = frames.pop(needle_index)
    assert (needle.source, needle.index) == (needle_source("a"), 0)
    assert [(frame.source, frame.index) for frame in frames] == [(HAYSTACK, k) for k in range(5)]


def test_samples_are_the_same_whatever_else_the_grid_holds(needles):
    def planned(frames, depths):
        samples = plan_samples(VisualNeedle(), Grid.parse(frames, depths), needles, None)
        return {sample.sample_id: sample for sample in samples}

    few, many = planned("8", "0.5"), planned("4,8,16", "0:1:0.25")
    assert few.keys() < many.keys()
    assert all(many[sample_id] == sample for sample_id, sample in few.items())


def test_ids_name_cell_needle_and_control(needles):
    grid = Grid.parse("8,16", "0,0.25")
    samples = plan_samples(VisualNeedle(), grid, needles, None, "no-needle,blind")
    ids = [sample.sample_id for sample in samples]
    assert ids[:4] == ["8/0/a", "8/0/b", "8/0/c", "8/0.25/a"]
    assert ids[12:18] == [f"{n}/-/{k}/no-needle" for n in (8, 16) for k in "abc"]
    assert ids[18:] == [f"-/-/{k}/blind" for k in "abc"]


# --- controls ------------------------------------------------------------------------------------


def test_no_needle_asks_each_question_on_the_plain_haystack_once_a_length(needles):
    samples = list(VisualNeedle().samples(Grid.parse("4,8", "0,0.5,1"), needles, None))
    controls = list(NoNeedle().samples(samples, needles))
    assert [(c.num_frames, c.fields["needle_id"]) for c in controls] == [
        (n, needle.needle_id) for n in (4, 8) for needle in needles
    ]
    for control in controls:
        assert control.shown == haystack_frames(control.num_frames)
        assert (control.cell, control.control) == (None, "no-needle")
    assert {c.question for c in controls} == {needle.question for needle in needles}


def test_no_needle_is_asked_once_where_depths_are_no_decimals(needles):
    samples = VisualNeedle().samples(Grid.parse("3,7", positions="0:3:1"), needles, None)
    ids = [control.sample_id for control in NoNeedle().samples(list(samples), needles)]
    assert ids == [f"{n}/-/{needle}/no-needle" for n in (3, 7) for needle in "abc"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("default", ("no-needle", "option-rotation", "blind", "other-needle")),
        ("all", ("no-needle", "option-rotation", "blind", "other-needle", "shuffled")),
        ("none", ()),
        ("no-needle", ("no-needle",)),
        ("blind, no-needle", ("blind", "no-needle")),
        ([], ()),
    ],
)
def test_controls_are_chosen_by_name(asked, expected):
    assert tuple(c.name for c in choose_controls(VisualNeedle(), asked)) == expected
    assert choose_controls(object(), "default") == ()


def test_unknown_control_is_refused():
    with pytest.raises(
        InputError, match=r"no control .blond.; use none, default, all or no-needle"
    ):
        choose_controls(VisualNeedle(), "no-needle,blond")


# --- what is refused -----------------------------------------------------------------------------


def sample(sample_id="8/0.5/a", **changes):
    fields = {
        "cell": Cell(8, Fraction(1, 2)),
        "shown": (),
        "question": "?",
        "candidates": ("1",),
        **changes,
    }
    return Sample(sample_id, **fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_id": "8/0.5/a b"}, "must have no white space and not be empty, got '8/0.5/a b'"),
        ({"sample_id": ""}, "must have no white space and not be empty, got ''"),
        ({"sample_id": "8/0/a"}, "'8/0/a' must begin with .*: '8/0.5/'"),
        ({"cell": None}, "must begin with .*: '-/-/'"),
        ({"cell": None, "fields": {"num_frames": 8}}, "must begin with .*: '8/-/'"),
        ({"candidates": ()}, "8/0.5/a has no candidate answer"),
        ({"candidates": "12"}, "candidates of the sample 8/0.5/a is '12'"),
        ({"candidates": ["1"]}, r"candidates of the sample 8/0.5/a is \['1'\]"),
        ({"shown": ("haystack",)}, "shown of the sample"),
        ({"cell": (8, 0.5)}, "cell of the sample"),
        ({"fields": None}, "fields of the sample"),
        ({"fields": {"rank": 5}}, "has a field 'rank', which results have themselves"),
        ({"fields": {"num_frames": 9}}, "has a field 'num_frames'"),
        ({"fields": {"x": Fraction(1, 2)}}, "the field 'x' of .* is Fraction"),
        ({"fields": {"x": float("nan")}}, "the field 'x' of .* is nan"),
        ({"control": "blind"}, "must end with its name: '/blind'"),
    ],
)
def test_sample_that_cannot_be_asked_is_refused(changes, message):
    with pytest.raises(TaskError, match=message):
        sample(**changes)


def test_samples_with_one_id_are_refused():
    with pytest.raises(TaskError, match=r"two samples have the sample_id '8/0\.5/a'"):
        require_distinct([sample(), sample()])
    with pytest.raises(TaskError, match="no sample for this grid"):
        require_distinct([])


class NoTask:
    name = "nothing"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("niah2", "there is no task 'niah2'; use vniah, .*, or package.module:factory"),
        ("test_tasks:nobody", "test_tasks has no 'nobody'"),
        ("no_such_module:task", "'no_such_module' cannot be imported"),
        ("test_tasks:NoTask", "is not a task: it has no axes and no samples and no score"),
        (NoTask(), "NoTask is not a task"),
    ],
)
def test_task_that_is_none_is_refused(source, message):
    with pytest.raises(TaskError, match=message):
        load_task(source)


class Plain:
    """A task that says nothing of what it reads."""

    name, axes = "plain", ("num_frames", "depth")

    def samples(self, grid, needles, haystack):
        return iter(())

    def score(self, sample, readings):
        raise NotImplementedError


class OfText(Plain):
    axes = ("num_tokens", "depth")


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("vniah", "frames"),
        ("niah", "text"),
        ("vqa", "questions"),
        (Plain(), "frames"),
        (OfText(), "text"),
    ],
)
def test_task_says_what_it_reads(task, expected):
    assert reads_of(load_task(task)) == expected


@pytest.mark.parametrize(
    ("task", "reads", "message"),
    [
        (Plain, "films", "reads of the task plain must be one of frames, text, questions, got 'f"),
        (Plain, None, "must be one of frames, text, questions, got None"),
        (Plain, "text", "the task plain reads text, and the first of its axes is 'num_frames'"),
        (OfText, "frames", "the task plain reads frames, and the first of its axes is 'num_tok"),
    ],
)
def test_task_that_contradicts_its_axes_is_refused(task, reads, message):
    own = type("Own", (task,), {"reads": reads})
    with pytest.raises(TaskError, match=message):
        load_task(own())


# --- scores of options ---------------------------------------------------------------------------


def reading(logprob):
    return Reading(0.5, (7,), LogitsScore((1,), False, logprob, 3, -1.0))


@pytest.mark.parametrize(
    ("logprobs", "prediction", "rank", "margin"),
    [((-1.0, -2.0, -3.0), "a", 2, -1.0), ((-2.0, -1.0, -3.0), "b", 1, 1.0)],
)
def test_likeliest_option_is_the_choice(logprobs, prediction, rank, margin):
    score = score_options(("a", "b", "c"), [reading(logprob) for logprob in logprobs], "b")
    assert (score.prediction, score.correct) == (prediction, prediction == "b")
    assert (score.logprob, score.rank, score.margin) == (logprobs[1], rank, margin)
    assert score.seconds == 1.5


@pytest.mark.parametrize(("words", "correct"), [("cat", False), ("The dog.", True), ("B", True)])
def test_option_that_a_chat_model_names_is_its_choice(words, correct):
    said = Reading(1.0, generated=GeneratedText(words))
    score = score_options(("cat", "dog"), [said], "dog")
    assert score.correct == correct and score.num_options == 2


# --- a task from outside -------------------------------------------------------------------------


@pytest.mark.usefixtures("film", "quick_pictures")
def test_task_of_the_docs_runs_by_its_name(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(# which_half.py\n.*?)```", (DOCS / "tasks.md").read_text(), re.S)
    (tmp_path / "which_half.py").write_text(code[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["run", "--task", "which_half:WhichHalf", "--frames", "8", "--depths", "0,1"]
    assert main([*words, "--output", "halves"]) == 0
    shown = capsys.readouterr().out
    assert "2 cells x 10 needles" in shown and "no-needle" in shown
    assert "guessing gets 5.0 of" in shown and "card-blue-5/answer" not in shown
    results = load_results("halves")
    lines = (*results.samples, *results.control_samples)
    assert {line.fields["num_options"] for line in lines} == {2} and results.chance == 0.5
    assert results.manifest["task"] == "which-half" and results.is_complete
    assert {(s.cell.depth, s.answer) for s in results.samples} == {(0, "1"), (1, "2")}
    assert results.manifest["protocol"]["criterion"] == "the likeliest of two options"
    by_answer = {answer: set() for answer in "12"}
    for found in results.control_samples:
        by_answer[found.answer].add(found.needle_id)
    assert by_answer["1"] == by_answer["2"] == set(results.manifest["needles"]["ids"])
    for found in results.samples:
        assert found.correct == (found.prediction == found.answer) == (found.margin > 0)
    assert main([*words, "--output", "halves"]) == 0, "it goes on"
    assert "nothing to do" in capsys.readouterr().out


class TwoNeedles(VisualNeedle):
    """Shows another needle before the one that is asked for."""

    name = "two"
    controls = ()

    def samples(self, grid, needles, haystack):
        for one in super().samples(grid, needles, haystack):
            first = FrameSpan(needle_source(needles.ids[0]), 0, 1)
            yield Sample(
                one.sample_id,
                one.cell,
                shown=(first, *one.shown),
                question=one.question,
                candidates=one.candidates,
                fields=one.fields,
            )


def test_task_may_show_any_frames(checkpoint, image_folder, needles, tmp_path):
    model, haystack = load_model(checkpoint, device="cpu"), open_haystack(image_folder)
    runs = [
        run_sweep(
            model,
            haystack,
            needles,
            Grid.parse("3,7", "0,1"),
            output=tmp_path / share,
            task=TwoNeedles(),
            share=share,
            progress=False,
        )
        for share in ("tree", "none")
    ]
    for one, other in zip(runs[0].samples, runs[1].samples, strict=True):
        assert one.sample_id == other.sample_id and one.predicted_ids == other.predicted_ids
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
    assert not runs[0].controls


class Odd(VisualNeedle):
    """Does one thing wrong."""

    name = "odd"
    controls = ()

    def __init__(self, shown=None, scored=None):
        super().__init__()
        self.shown, self.scored = shown, scored

    def samples(self, grid, needles, haystack):
        for sample in super().samples(grid, needles, haystack):
            yield sample if self.shown is None else replace(sample, shown=(self.shown,))

    def score(self, sample, readings):
        return super().score(sample, readings) if self.scored is None else self.scored()


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (FrameSpan(needle_source("a"), 0, 3), "shows frames 0 to 2 of 'needles/a', which has 1"),
        (FrameSpan(needle_source("zzz"), 0, 1), "of 'needles/zzz', which has 0"),
        (FrameSpan(HAYSTACK, 0, 9), "shows frames 0 to 8 of 'haystack', which has 8"),
        (FrameSpan(HAYSTACK, -3, 2), "shows frames -3 to 1"),
    ],
)
def test_frames_that_there_are_not_are_refused(needles, shown, message):
    with pytest.raises(TaskError, match=message):
        plan_samples(Odd(shown), Grid.parse("8", "0"), needles, None)


@pytest.mark.parametrize("index", [-1, 9])
def test_needle_outside_of_the_haystack_is_refused(index):
    with pytest.raises(TaskError, match=f"between 0 and the number of frames, 8, got {index}"):
        insert_needle(8, index, "a")


class Raises(VisualNeedle):
    def samples(self, grid, needles, haystack):
        raise KeyError("oh")


class Yields(VisualNeedle):
    def samples(self, grid, needles, haystack):
        yield "a sample"


class WithoutCell(VisualNeedle):
    def samples(self, grid, needles, haystack):
        yield Sample("-/-/a", None, haystack_frames(4), "?", ("1",))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Raises(), "of the task vniah failed: KeyError: 'oh'"),
        (Yields(), "gave 'a sample'; it must give Samples"),
        (WithoutCell(), "the sample -/-/a has no cell"),
    ],
)
def test_samples_that_fail_are_one_line(needles, task, message):
    with pytest.raises(TaskError, match=message):
        plan_samples(task, Grid.parse("8", "0"), needles, None)


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        (lambda: 1 / 0, "score() of the task odd failed: ZeroDivisionError: division by zero"),
        (lambda: None, "score() of the task odd gave None, not a Score"),
        (
            lambda: Score("x", (), True, float("nan"), 1, 0.5, 1.0),
            "score() of the task odd gave a number that is not finite",
        ),
        (lambda: Score("x", (), 0.5, 0.0, 1, 0.5, 1.0), "score() of the task odd gave Score"),
    ],
)
def test_score_that_fails_is_the_error_of_its_sample(
    checkpoint, image_folder, needles, tmp_path, scored, message
):
    results = run_sweep(
        load_model(checkpoint, device="cpu"),
        open_haystack(image_folder),
        needles,
        Grid.parse("3", "0"),
        output=tmp_path,
        task=Odd(scored=scored),
        progress=False,
    )
    assert len(results.samples) == 3
    assert all(sample.error.startswith(message) for sample in results.samples)


def test_control_whose_name_would_mean_two_things_is_refused(needles):
    one, other = (
        replace(sample, question=question)
        for sample, question in zip(
            VisualNeedle().samples(Grid.parse("8", "0,1"), needles.select("a"), None),
            ("Which?", "Where?"),
            strict=True,
        )
    )
    with pytest.raises(TaskError, match="cannot name the sample 8/1/a: another one"):
        list(NoNeedle().samples([one, other], needles))
