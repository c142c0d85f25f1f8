"""Questions with options: listed with letters, as published, or answered in their words."""

from collections.abc import Sequence
from dataclasses import dataclass

from vniah.answers import choice_letters
from vniah.scoring import Reading, Score, score_options
from vniah.tasks.base import Sample
from vniah.tasks.parsing import Option, one_of

LETTERS, WORDS = "letters", "words"
CRITERION = "the most probable of the options"

_INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class OptionQuestion:
    """A question with options, as a sample asks it.

    Attributes:
        question: the whole text.
        candidates: what is read for each option: its letter, or its words.
        answer: the candidate of the right option.
        choices: the words of the options where they are listed with letters; else None.
    """

    question: str
    candidates: tuple[str, ...]
    answer: str
    choices: tuple[str, ...] | None


def parse_answers(value: Option) -> str:
    """How options are answered: ``"letters"``, the default, or ``"words"``.

    Raises:
        TaskError: it is something else.
    """
    return LETTERS if value is None else one_of(value, "answers", (LETTERS, WORDS))


def ask_options(
    question: str, options: Sequence[str], right: int, *, answers: str, instruction: str
) -> OptionQuestion:
    """A question with options.

    Args:
        question: without options.
        options: at most 26.
        right: the place of the right one.
        answers: ``"letters"`` lists the options below the question, in the form published with
            V-NIAH and VNBench; ``"words"`` does not list them.
        instruction: says how to answer in words.
    """
    if answers == WORDS:
        return OptionQuestion(f"{question}\n{instruction}", tuple(options), options[right], None)
    letters = choice_letters(options)
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    text = "\n".join([question, *lines, _INSTRUCTION])
    return OptionQuestion(text, letters, letters[right], tuple(options))


def score_choice(sample: Sample, readings: Sequence[Reading]) -> Score:
    """The score of such a question: is the right option the most probable?"""
    return score_options(sample.candidates, readings, sample.answer, choices=sample.choices)
