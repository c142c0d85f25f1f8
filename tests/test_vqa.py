"""The task vqa: which pictures are shown, what is encoded, how it is scored, and whole runs."""

import json
import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from decoder_models import DecoderStandIn
from question_sets import (
    SaysNumbers,
    SeesNumbers,
    make_model,
    row,
    write_clip,
    write_lines,
    write_set,
)
from test_format_schema import require_described
from test_prefill import build_decoder
from videos import read_number

from vniah.analysis.sentences import format_summary
from vniah.analysis.table_rows import table
from vniah.analysis.verdict import verdict
from vniah.cli import main
from vniah.errors import InputError, RunMismatchError, TaskError, VideoDamagedError
from vniah.grid import Grid
from vniah.haystacks.library import LibraryVideo, uniform_pictures
from vniah.needles import NeedleSet
from vniah.protocol import Frames, FrameSpan
from vniah.results import facet_results, load_run
from vniah.scoring import GeneratedText, LogitsScore, Reading
from vniah.show.prompt import composed_prompt
from vniah.show.sample import show_sample
from vniah.sweep.run import run_sweep
from vniah.tasks import load_task
from vniah.tasks.controls import plan_samples
from vniah.tasks.vqa import drawn
from vniah.tasks.vqa.opening import open_questions

GRID = Grid.of([1, 4, 14], [0])
NO_NEEDLES = NeedleSet.none()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def asked(folder):
    return open_questions(folder)


def samples_of(asked, *, grid=GRID, controls="none", **options):
    return plan_samples(load_task("vqa", options), grid, NO_NEEDLES, asked, controls)


def pictures_of(sample, asked) -> list[tuple[int, int]]:
    return [asked.locate(frame.index) for frame in Frames.of(sample.shown)]


@pytest.mark.parametrize("num_pictures", [1, 2, 5, 12, 40, 1000, 107_892])
@pytest.mark.parametrize("num_frames", [1, 2, 8, 16, 32, 64, 128, 384])
def test_pictures_are_spread_evenly(num_pictures, num_frames):
    found = uniform_pictures(num_pictures, num_frames)
    last = num_pictures - 1
    assert len(found) == num_frames and found[0] == 0
    assert num_frames == 1 or found[-1] == last
    for place, ordinal in enumerate(found):  # as exact as 64 bits are
        exact = Fraction(place * last, max(1, num_frames - 1))
        assert 0 <= exact - ordinal < 1 or exact - ordinal == 1
    steps = {after - before for before, after in pairwise(found)}
    assert num_frames < 3 or max(steps) - min(steps) <= 2


def test_samples_show_pictures_of_one_video_in_order(asked):
    samples = samples_of(asked)
    assert [sample.sample_id for sample in samples[:5]] == [
        f"1/0/{name}" for name in ("first", "middle", "never", "last", "late")
    ]
    assert len(samples) == 15
    for sample in samples:
        video = asked.videos[[v.name for v in asked.videos].index(sample.fields["video"])]
        shown = pictures_of(sample, asked)
        assert {number for number, _ in shown} == {asked.videos.index(video)}
        expected = uniform_pictures(video.num_pictures, sample.cell.num_frames)
        assert [ordinal for _, ordinal in shown] == list(expected)
        assert sample.num_shown == sample.cell.num_frames
        assert sample.fields["num_pictures"] == len(set(expected))
    by_video = {(s.cell, s.fields["video"]): s.shown for s in samples}
    assert all(by_video[s.cell, s.fields["video"]] is s.shown for s in samples)


def test_question_is_asked_with_letters_or_in_words(asked):
    first = samples_of(asked)[0]
    lines = "Which number is shown?\nA. 90\nB. 91\nC. 0\nD. 93\n"
    assert first.question == (
        f"{lines}Answer with the option's letter from the given choices directly."
    )
    assert (first.candidates, first.answer) == (("A", "B", "C", "D"), "C")
    assert first.choices == ("90", "91", "0", "93")
    in_words = samples_of(asked, answers="words")[0]
    assert (in_words.question, in_words.choices) == ("Which number is shown?", None)
    assert (in_words.candidates, in_words.answer) == (("90", "91", "0", "93"), "0")


def test_library_reads_the_pictures_it_names(asked):
    wanted = [0, 3, 11, 12, 13, 51]
    frames = list(asked.frames_at([*wanted, 3]))
    assert [frame.index for frame in frames] == wanted
    assert [read_number(frame.image) for frame in frames] == [0, 3, 11, 0, 1, 39]
    assert [read_number(frame.image) for frame in asked.frames(start=10, stop=14)] == [10, 11, 0, 1]
    assert [asked.locate(index) for index in (0, 11, 12, 51)] == [(0, 0), (0, 11), (1, 0), (1, 39)]
    with pytest.raises(InputError, match=r"0 <= start <= stop <= 52"):
        asked.frames(start=0, stop=53)


def test_video_of_one_picture_shows_it_again_and_again(tmp_path):
    write_clip(tmp_path / "one.mp4", 1)
    write_lines(tmp_path / "questions.jsonl", [row("one", "1", [0, 90], "0")])
    asked = open_questions(tmp_path)
    results = run_sweep(
        *(SeesNumbers(), asked, NO_NEEDLES, Grid.of([1, 4], [0])),
        output=tmp_path / "run",
        task="vqa",
        controls="all",
        progress=False,
    )
    assert [s.correct for s in results.samples] == [True, True]
    assert [s.fields["num_pictures"] for s in results.samples] == [1, 1]
    for sample in samples_of(asked, grid=Grid.of([4], [0])):
        assert pictures_of(sample, asked) == [(0, 0)] * 4


def test_video_that_changed_since_it_was_opened_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 3)
    video = LibraryVideo.of("a", path)
    write_clip(path, 4)
    with pytest.raises(VideoDamagedError, match=r"has 4 pictures, and had 3 when"):
        list(video.pictures([0]))


def test_run_gives_what_the_frames_show_and_is_described(asked, tmp_path):
    model = SeesNumbers()
    results = run_sweep(
        *(model, asked, NO_NEEDLES, GRID), output=tmp_path / "run", task="vqa", progress=False
    )
    right = {s.sample_id for s in results.samples if s.correct}
    assert right == {
        *(f"{n}/0/first" for n in (1, 4, 14)),
        *("1/0/middle", "4/0/middle", "14/0/middle"),  # A is said where nothing is seen
        *("1/0/last", "4/0/last", "14/0/last"),
        "14/0/late",
    }
    assert {s.question for s in results.samples} == {
        s.question for s in results.control_samples if s.control == "blind"
    }
    assert [score.control for score in results.controls] == ["blind"]
    require_described(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "manifest.json").read_bytes())
    assert record["needles"]["ids"] == [] and record["haystack"]["kind"] == "questions"
    assert "np.linspace" in record["protocol"]["frame_rate"]
    short, long = facet_results(results, "duration").values()
    assert (short.part, long.part) == ("Length of the video: short", "Length of the video: long")
    assert short.num_scored_cells == 3
    with pytest.raises(RunMismatchError, match="holds a run with"):
        run_sweep(
            *(model, asked, NO_NEEDLES, GRID),
            output=tmp_path / "run",
            task="vqa",
            task_options={"answers": "words"},
            progress=False,
        )


def test_frame_is_encoded_once_whatever_is_asked_of_its_video(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("VNIAH_CACHE", str(tmp_path / "cache"))

    def encoded(grid, questions, name):
        model = SeesNumbers()
        run_sweep(
            *(model, questions, NO_NEEDLES, grid),
            output=tmp_path / name,
            task="vqa",
            controls=("shuffled",),
            progress=False,
        )
        return model.encoded

    longest = encoded(Grid.of([14], [0]), asked, "one")
    assert longest == [*uniform_pictures(12, 14)[:0], *range(12), *uniform_pictures(40, 14)]
    more = encoded(GRID, asked, "two")
    seen = {*uniform_pictures(40, 14)}
    assert more == [n for n in uniform_pictures(40, 4) if n not in seen]
    assert encoded(GRID, asked, "three") == []
    # Another set with one of the videos, under another name and at another place among them.
    write_clip(tmp_path / "other" / "new.mp4", 2)
    shutil.copy(asked.videos[1].path, tmp_path / "other" / "renamed.mp4")
    rows = [row("new", "1", [0, 90], "0"), row("renamed", "2", [39, 90], "39")]
    write_lines(tmp_path / "other" / "questions.jsonl", rows)
    assert encoded(GRID, open_questions(tmp_path / "other"), "four") == [0, 1]


def test_questions_about_a_video_share_its_frames_and_nothing_changes(asked, tmp_path):
    model = DecoderStandIn(build_decoder("qwen2"))
    runs = {
        share: run_sweep(
            *(model, asked, NO_NEEDLES, Grid.of([64], [0])),
            output=tmp_path / share,
            task="vqa",
            share=share,
            controls="none",
            cache=tmp_path / "cache",
            progress=False,
        )
        for share in ("tree", "none")
    }
    numbers = [{s.sample_id: s.logprob for s in run.samples} for run in runs.values()]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-3) and len(numbers[0]) == 5
    forward = runs["tree"].manifest["environment"]["forward"]
    assert forward["passes"] == 2  # one for each video
    assert forward["flops"] < 0.9 * forward["flops_not_shared"]
    assert forward["check"]["tree"]["argmax_equal"] == forward["check"]["tree"]["rows"] > 0


def test_intervals_are_over_videos(asked, tmp_path):
    results = run_sweep(
        *(SeesNumbers(), asked, NO_NEEDLES, Grid.of([4, 14], [0])),
        output=tmp_path / "run",
        task="vqa",
        progress=False,
    )
    frame = table(results)
    assert set(frame["num_needles"]) == {2} and set(frame["interval_for"]) == {"videos like these"}
    # The same scores of two independent videos, not of five independent questions.
    at_four = frame[frame["num_frames"] == 4].iloc[0]
    assert at_four["score"] == pytest.approx(3 / 5)
    assert at_four["low"] < 0.1 and at_four["high"] > 0.9
    text = "\n".join(format_summary(results))
    assert "for these videos" in text and "videos like these: " in text and "needle" not in text
    assert " s, " not in text  # a frame is no second
    controls = table(results, "controls")
    assert set(controls["interval_for"]) == {"videos like these"}


LETTERS = ("A", "B", "C", "D")


def readings(*logprobs: float) -> list[Reading]:
    return [
        Reading(0.5, (place,), LogitsScore((place,), False, logprob, 2, -1.0))
        for place, logprob in enumerate(logprobs)
    ]


@pytest.fixture(scope="module")
def two_right(folder, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("two")
    shutil.copy(folder / "videos" / "a.mp4", tmp_path / "a.mp4")
    rows = [
        row("a", "two", ["cat", "dog", "fox", "owl"], ["B", "D"]),
        row("a", "alike", ["cat", "Cat", "fox"], "fox"),
    ]
    write_lines(tmp_path / "questions.jsonl", rows)
    asked = open_questions(tmp_path)
    return load_task("vqa"), samples_of(asked, grid=Grid.of([2], [0]), controls="all")


@pytest.mark.parametrize(
    ("logprobs", "correct", "logprob", "rank", "margin"),
    [
        ((-1, -2, -3, -4), False, -2, 2, -1),
        ((-2, -1, -3, -4), True, -1, 1, 1),
        ((-2, -3, -4, -1), True, -1, 1, 1),
        ((-3, -1, -4, -2), True, -1, 1, 2),
        ((-3, 0, -4, -2), True, 0, 1, 3),
    ],
)
def test_either_of_two_right_answers_is_right(two_right, logprobs, correct, logprob, rank, margin):
    task, samples = two_right
    for sample in (
        samples[0],
        next(s for s in samples if s.sample_id.endswith("two/answer-B/blind")),
    ):
        score = task.score(sample, readings(*logprobs))
        assert (score.correct, score.logprob, score.rank) == (correct, logprob, rank)
        assert score.margin == margin and score.num_options == 4
        assert sample.fields["right_options"] == ["dog", "owl"]


def test_guess_among_several_right_options_is_exact(asked, tmp_path):
    shutil.copy(asked.videos[0].path, tmp_path / "a.mp4")
    several = [
        row("a", str(number), [0, 90, 91, 92, 100 + number], ["B", "D", "A"])
        for number in range(10)
    ]
    write_lines(tmp_path / "questions.jsonl", [*several, row("a", "one", [90, 91], "90")])
    results = run_sweep(
        *(SeesNumbers(), open_questions(tmp_path), NO_NEEDLES, Grid.of([1], [0])),
        output=tmp_path / "run",
        task="vqa",
        controls=("blind", "option-rotation"),
        progress=False,
    )
    require_described(tmp_path / "run")
    expected = (10 * 3 / 5 + 1 / 2) / 11
    assert results.chance == pytest.approx(expected)
    assert results.debiased.chance == pytest.approx(expected)
    blind, rotation, _ = verdict(results).lines
    assert "11 of 11 questions" in blind and "guessing gets 6.5 of 11" in blind
    assert "guessing gives 0.60" in rotation  # of 52 orders two are those of the last question
    assert "answers without seeing" in verdict(results).text  # A is right in all, 0.6 ** 10 * 0.5


def test_equal_questions_with_other_options_are_counted_each(asked, tmp_path):
    shutil.copy(asked.videos[0].path, tmp_path / "a.mp4")
    several = [row("a", str(number), [0, 20 + number], "0") for number in range(8)]
    again = row("a", "again", [27, 0], "0")  # the same options in another order
    write_lines(tmp_path / "questions.jsonl", [*several, again])
    results = run_sweep(
        *(
            DecoderStandIn(build_decoder("qwen2")),
            open_questions(tmp_path),
            NO_NEEDLES,
            Grid.of([1], [0]),
        ),
        output=tmp_path / "run",
        task="vqa",
        task_options={"answers": "words"},
        controls=("blind",),
        progress=False,
    )
    require_described(tmp_path / "run")
    assert {sample.fields["options"][0] for sample in results.control_samples} == {"0", "27"}
    assert "of 8 different questions" in verdict(results).lines[0]


def test_two_right_answers_stay_right_when_options_move(two_right):
    task, samples = two_right
    for sample in samples:
        if sample.control == "option-rotation" and "right_options" in sample.fields:
            for place, option in enumerate(sample.choices):
                logprobs = [-1.0 if place == other else -2.0 for other in range(4)]
                assert task.score(sample, readings(*logprobs)).correct is (option in ("dog", "owl"))


@pytest.mark.parametrize(
    ("question", "text", "correct"),
    [
        ("two", "B", True),
        ("two", "(D) owl", True),
        ("two", "The answer is dog.", True),
        ("two", "A", False),
        ("two", "fox", False),
        ("alike", "C", True),
        ("alike", "B", False),
        ("alike", "fox", False),  # words cannot tell its options apart, so letters count only
    ],
)
def test_generated_answer_names_an_option(two_right, question, text, correct):
    task, samples = two_right
    sample = next(s for s in samples if s.sample_id == f"2/0/{question}")
    score = task.score(sample, [Reading(0.5, generated=GeneratedText(text))])
    assert score.correct is correct


def test_controls_leave_out_what_has_no_meaning(two_right, asked):
    notes: list[str] = []
    plan_samples(load_task("vqa"), GRID, NO_NEEDLES, asked, "all", on_note=notes.append)
    assert "the control no-needle leaves out all questions: no sample shows a needle" in notes
    _, samples = two_right
    names = {sample.control for sample in samples}
    assert names == {None, "blind", "option-rotation"}
    one = samples_of(asked, grid=Grid.of([1], [0]), controls=("shuffled",))
    assert {sample.control for sample in one} == {None}  # one frame has no other order
    shuffled = samples_of(asked, controls=("shuffled",))
    by_id = {sample.sample_id: sample for sample in shuffled}
    for sample in shuffled:
        if sample.control == "shuffled":
            own = by_id[sample.sample_id.removesuffix("/shuffled")]
            assert sorted(pictures_of(sample, asked)) == pictures_of(own, asked)


def test_model_that_answers_in_words_is_shown_the_same(asked, tmp_path):
    class Chat:
        name, revision = "says-numbers", "1"

        def answer(self, frames, question):
            return SaysNumbers().answer(frames, question)

    results = run_sweep(
        *(Chat(), asked, NO_NEEDLES, Grid.of([4], [0])),
        output=tmp_path / "run",
        task="vqa",
        progress=False,
    )
    assert {s.sample_id for s in results.samples if s.correct} == {
        f"4/0/{name}" for name in ("first", "middle", "last")
    }


@pytest.mark.parametrize(
    ("grid", "haystack", "error", "message"),
    [
        (Grid.of([4], [0, 1]), "asked", TaskError, "inserts nothing, so that a depth"),
        (Grid.of([4], positions=[0]), "asked", TaskError, "inserts nothing"),
        (Grid.of([4], [0]), None, InputError, "no set is opened here"),
    ],
)
def test_depths_and_other_haystacks_are_refused(asked, grid, haystack, error, message):
    with pytest.raises(error, match=message):
        samples_of(asked if haystack else None, grid=grid)


def test_sample_is_shown_with_its_times(asked):
    found = show_sample(None, asked, NO_NEEDLES, GRID, "4/0/late", task="vqa")
    assert "shown: 4 frames: b picture 1, 14, 27, 40 of 40" in found.text
    assert "place: task vqa, 4 frames\n" in found.text
    words = [text.get_text() for text in found.figure.texts]
    assert words.count("1.3 s") == 1 and "3.9 s" in words and "haystack" not in " ".join(words)


def test_prompt_numbers_pictures_within_their_video(asked):
    found = show_sample(SeesNumbers(), asked, NO_NEEDLES, GRID, "4/0/late", task="vqa")
    assert "<1 frame x 1 token: b picture 14 of 40>" in found.text
    assert "haystack" not in found.text
    # Neighbours are one line, also where they are of two videos.
    model = SeesNumbers()
    first = asked.first_frame(1)
    for start, stop, words in (
        (first, first + 3, "3 frames x 1 token: b picture 1-3 of 40"),
        (first - 2, first + 1, "3 frames x 1 token: a picture 11 to b picture 1"),
    ):
        frames = Frames((FrameSpan("haystack", start, stop),))
        prompt = composed_prompt(model, [model.compose(frames, "", "A")], asked)
        assert f"<{words}>" in prompt.text


def run_command(*arguments: object) -> int:
    return main([*map(str, arguments)])


MODEL = ("--model", "tests.question_sets:make_model", "--task", "vqa")


@pytest.mark.usefixtures("quick_pictures")
def test_command_measures_shows_and_prints_tables(folder, tmp_path, capsys):
    assert make_model().name == "sees-numbers"
    run = tmp_path / "run"
    grid = ("--frames", "1,4,14")
    assert run_command("run", *MODEL, "--haystack", folder, *grid, "--output", run) == 0
    out = capsys.readouterr().out
    assert f"3 cells x 5 questions -> {run}" in out
    assert "Length of the video: short" in out and "videos like these" in out
    assert run_command("table", run, "--by", "duration", "--format", "csv") == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
    names = [line[0].strip('"') for line in rows]
    assert len(rows) == 12 and len({*names}) <= 6
    assert run_command("table", run, "--by", "colour") == 2
    assert "has a value of 'colour'; there are" in capsys.readouterr().err
    assert load_run(run).is_complete
    assert run_command("show", run, "4/0/late", "--haystack", folder, "--no-model") == 0
    assert "b picture 1, 14, 27, 40 of 40" in capsys.readouterr().out
    assert run_command("show", run, "--no-model") == 2
    assert "and not where it lies: give --haystack" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--depths", "0.5"), "so that a depth or position has no meaning"),
        (("--positions", "1"), "so that a depth or position has no meaning"),
        (("--needles", "cards"), "the task vqa hides nothing: leave out --needles"),
        (("--tokens", "100"), "the task vqa shows frames: give --frames"),
        (("--sampling", "longva"), "takes pictures evenly from each video; leave them out"),
        (("--haystack", "gone"), "there is no folder gone with questions"),
        (("--task-option", "answers=numbers"), "answers must be one of letters, words"),
        (("--keep-damaged",), "for a question set of your own: add --haystack"),
    ],
)
def test_command_refuses_in_one_line(arguments, message, capsys):
    assert run_command("run", "--task", "vqa", *arguments) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and err.count("\n") == 0


def test_missing_video_is_refused_or_left_out(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / "videos" / "b.mp4").unlink()
    arguments = ("run", *MODEL, "--haystack", tmp_path / "set", "--frames", "4", "--quiet")
    assert run_command(*arguments, "--output", tmp_path / "run") == 2
    assert "the video 'b' of 2 questions is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    results = run_sweep(
        *(SeesNumbers(), open_questions(tmp_path / "set", keep_damaged=True), NO_NEEDLES),
        Grid.of([4], [0]),
        output=tmp_path / "run",
        task="vqa",
        progress=False,
    )
    assert len(results.samples) == 3
    results = load_run(tmp_path / "run")
    (note,) = results.manifest["notes"]
    assert "3 questions can be asked; left out: the video 'b'" in note


def test_drawn_set_is_drawn_once_and_the_same_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "SECONDS", {"short": 10})
    steps: list[tuple[int, int]] = []
    found = drawn.drawn_questions(tmp_path / "one", on_progress=lambda *step: steps.append(step))
    assert steps[-1] == (20, 20)
    assert len(found.videos) == 2 and len(found.questions) == 4 and found.answers == "words"
    assert {video.num_pictures for video in found.videos} == {20}
    steps.clear()
    again = drawn.drawn_questions(tmp_path / "one", on_progress=lambda *step: steps.append(step))
    assert not steps
    other = drawn.drawn_questions(tmp_path / "two")
    assert found.identity() == again.identity() == other.identity()
    for question in found.questions:
        assert len(question.options) == 4 == len({*question.options})
        assert all(len(option) == 1 and option.isdecimal() for option in question.options)
