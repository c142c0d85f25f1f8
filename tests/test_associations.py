"""Needles of text that share no content word with their question, and their samples."""

import re

import pytest
from test_format_schema import require_described
from test_niah import samples_of
from text_models import load_language_model

from vniah.analysis.report.command import command_of
from vniah.errors import TaskError
from vniah.grid import Grid
from vniah.haystacks.prose import write_prose
from vniah.haystacks.text import open_text
from vniah.needles import load_needles
from vniah.scoring import GeneratedText, Reading
from vniah.sweep.run import run_sweep
from vniah.tasks import load_task

NEEDLES = load_needles("associations")
GRID = Grid.parse("300", "0,1")

_FUNCTION_WORDS = {
    *("a", "an", "and", "are", "been", "before", "can", "could", "every", "for", "from", "had"),
    *("has", "have", "in", "is", "it", "near", "never", "not", "of", "on", "or", "that", "the"),
    *("through", "to", "was", "were", "when", "whenever", "which", "who", "whose", "with"),
    *("beneath", "at", "by", "ones"),
}


def stems(text):
    """The content words of a text, without endings such as -s, -ed, -ing and -er."""
    words = re.findall(r"[a-z]+", text.lower())
    content = [word for word in words if word not in _FUNCTION_WORDS]
    return {re.sub(r"(?:ings?|e?s|ed|ers?|e)$", "", word) for word in content}


def test_the_words_of_needles_and_questions_are_told_apart():
    assert stems("Who plays? She has played the game.") >= {"play", "gam"}
    assert stems("visited") & stems("a visit") and not stems("of the") & stems("to the")


@pytest.mark.parametrize("needle", NEEDLES.needles, ids=lambda needle: needle.needle_id)
def test_needle_and_question_share_no_content_word(needle):
    assert not stems(needle.text) & stems(needle.question)
    assert needle.text.count(needle.answer) == 1 and needle.answer not in needle.question
    assert needle.text.startswith("\n") and needle.text.endswith(".\n")
    # Nor does another needle of the set look more like the question.
    for other in NEEDLES:
        assert not stems(other.text) & stems(needle.question)


def test_names_and_questions_are_each_once():
    assert len({needle.answer for needle in NEEDLES}) == len(NEEDLES) == 10
    assert len({needle.question for needle in NEEDLES}) == 10
    prose = write_prose(100_000)
    assert not any(needle.answer in prose for needle in NEEDLES)


def test_distractors_are_the_others_of_the_set():
    task = load_task("niah", {"distractors": "0,3"})
    samples, _ = samples_of("bytes", grid=GRID, needles=NEEDLES, task=task)
    assert len(samples) == 2 * 10 * 2
    texts = {needle.needle_id: needle.text for needle in NEEDLES}
    for sample in samples:
        ids = sample.fields["distractor_ids"]
        assert len(ids) == sample.fields["num_distractors"] == len({*ids})
        assert sample.fields["needle_id"] not in ids
        there = {name for name, text in texts.items() if text in sample.prompt}
        assert there == {sample.fields["needle_id"], *ids}


def test_distractors_do_not_depend_on_which_needles_are_asked_about():
    task = load_task("niah", {"distractors": "3"})
    every, _ = samples_of("words", grid=GRID, needles=NEEDLES, task=task)
    some, _ = samples_of("words", grid=GRID, needles=NEEDLES.select(["casimir"]), task=task)
    by_id = {sample.sample_id: sample.prompt for sample in every}
    assert len(some) == 2
    assert all(by_id[sample.sample_id] == sample.prompt for sample in some)


def test_more_distractors_than_the_set_has_are_refused():
    task = load_task("niah", {"distractors": "10"})
    with pytest.raises(TaskError, match="10 distractors are asked for, and the set of the needle"):
        samples_of("words", grid=GRID, needles=NEEDLES, task=task)


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("Odalys", True),
        ("The character's name is Odalys.", True),
        ("the character's name is **Odalys**", True),
        ("The character's name is not Odalys", False),
        ("Torvald or Odalys", False),
        ("The character's name is", False),
    ],
)
def test_the_name_may_stand_behind_the_end_of_the_prompt(words, right):
    samples, _ = samples_of("words", grid=Grid.parse("300", "0"), needles=NEEDLES)
    (sample,) = (one for one in samples if one.answer == "Odalys")
    reading = Reading(0.1, generated=GeneratedText(words))
    assert load_task("niah").score(sample, (reading,)).correct is right


def test_a_run_of_associations(tmp_path):
    results = run_sweep(
        load_language_model(tmp_path / "model"),
        open_text(num_tokens=300),
        NEEDLES.select(["odalys", "bartolo"]),
        Grid.parse("300", "1"),
        output=tmp_path / "run",
        task="niah",
        task_options={"distractors": "2"},
        progress=False,
    )
    require_described(tmp_path / "run")
    assert all(sample.error is None for sample in results.samples)
    assert len(results.control_samples) == 2
    command = command_of(results.manifest)
    assert "--needles associations --tokens 300" in command.text
    assert not any("needle set" in remark for remark in command.remarks)
