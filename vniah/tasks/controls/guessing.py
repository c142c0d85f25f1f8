"""What guessing gives, and whether a model is above it: exact tests over few questions.

The samples of one question in many cells are nearly one observation: a model that answers C to
everything is right at every length, or at none. So the unit of all tests is the question. A
question counts as right if more than half of its samples are.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vniah.answers.option_lines import find_option_lines
from vniah.errors import counted
from vniah.results.chance import option_chance
from vniah.tasks.controls.base import Row, asked_text, listed, question_name

ALPHA = 0.01
"""A finding is conspicuous only if guessing gives it with at most this probability."""

LEAST_EXCESS = 0.1
"""The share of right questions must be above that of guessing by at least this much."""

_OF_AN_OPEN_QUESTION = 0.1
_OF_A_LETTER = 0.25
_OF_YES_OR_NO = 0.5
_DIGIT = re.compile(r"\d")
_LETTER = re.compile(r"\W*[A-Z]\W*")
_YES_OR_NO = frozenset({"yes", "no", "true", "false"})


@dataclass(frozen=True)
class Asked:
    """One question, over all of its samples.

    Attributes:
        name: what the samples' ids call it, such as the needle's id.
        rows: its samples with a score, at least one.
        is_right: whether more than half of them are right.
        chance: the probability that a guess is right, in [0, 1].
    """

    name: str
    rows: tuple[Row, ...]
    is_right: bool
    chance: float

    @property
    def text(self) -> tuple[str, tuple[str, ...]]:
        """As `vniah.tasks.controls.base.asked_text`."""
        return asked_text(self.rows[0])

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Asked":
        """The question of these samples."""
        return cls(
            question_name(rows[0]),
            tuple(rows),
            is_right=is_most(bool(row.correct) for row in rows),
            chance=max(chance_of(row) for row in rows),
        )


def chance_of(row: Row) -> float:
    """The probability that a guess is right, by what the task or the form of the answer says.

    A task says it in the field ``num_options`` of its samples: one in as many; or several, where it
    says so in ``num_right_options``.
    """
    chance = option_chance(row.fields)
    return guess_chance(row.question, row.answer) if chance is None else float(chance)


def guess_chance(question: str, answer: str) -> float:
    """The probability that a guess is right, in [0, 1].

    One in k where the question lists k options. Else, by the form of the answer: 1/4 for a letter,
    1/2 for yes and no, 10^-d for an answer with d digits, such as a number or a list of numbers,
    and 1/10 for words, as if there were ten that fit, such as colours.

    >>> guess_chance("Read the digit on the card colored red", "7")
    0.1
    """
    if (lines := find_option_lines(question)) is not None:
        return 1 / len(lines.words)
    if _LETTER.fullmatch(answer):
        return _OF_A_LETTER
    if answer.lower() in _YES_OR_NO:
        return _OF_YES_OR_NO
    num_digits = len(_DIGIT.findall(answer))
    return 10.0**-num_digits if num_digits else _OF_AN_OPEN_QUESTION


def tail_of(num_right: int, chances: Sequence[float]) -> float:
    """The probability of at least ``num_right`` successes in independent trials, exactly.

    Where the trials' probabilities differ, it is that of the Poisson binomial distribution.

    >>> tail_of(2, [0.5, 0.5])
    0.25
    """
    of_count = [1.0]  # the probabilities of 0, 1, 2, ... successes in the trials so far
    for chance in chances:
        stays, rises = [*of_count, 0.0], [0.0, *of_count]
        of_count = [a * (1 - chance) + b * chance for a, b in zip(stays, rises, strict=True)]
    return sum(of_count[num_right:])


def count_questions(rows: Iterable[Row]) -> tuple[Asked, ...]:
    """The questions of some results, in their order; those without a score are left out.

    Questions with the same text and the same options are one: without its needle no model can tell
    them apart.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
    for row in rows:
        if row.correct is not None:
            groups.setdefault(asked_text(row), []).append(row)
    return tuple(map(Asked.of, groups.values()))


def is_most(values: Iterable[bool]) -> bool:
    """Whether more than half of some values are true."""
    found = list(values)
    return 2 * sum(found) > len(found)


def is_above_chance(asked: Sequence[Asked]) -> bool:
    """Whether more questions are right than guessing explains.

    That is so if guessing gives as many with a probability of at most `ALPHA`, and their share is
    above that of guessing by at least `LEAST_EXCESS`.
    """
    num_right = sum(one.is_right for one in asked)
    if not asked or num_right - expected_right(asked) < LEAST_EXCESS * len(asked):
        return False
    return is_unlikely(tail_of(num_right, [one.chance for one in asked]))


def is_unlikely(probability: float, *, num_tests: int = 1) -> bool:
    """Whether a probability is at most `ALPHA`, divided by the number of tests (Bonferroni)."""
    return probability <= ALPHA / num_tests * (1 + 1e-9)  # 0.1 * 0.1 is above 0.01


def expected_right(asked: Sequence[Asked]) -> float:
    """The number of questions that guessing answers right on average."""
    return sum(one.chance for one in asked)


def in_words(asked: Sequence[Asked]) -> str:
    """How many of some questions are right, which ones, and what guessing gives.

    They are called different questions where some with the same text and options count as one.
    """
    right = [one.name for one in asked if one.is_right]
    is_joined = any(len({*map(question_name, one.rows)}) > 1 for one in asked)
    return (
        f"{len(right)} of {counted(len(asked), 'different ' * is_joined + 'question')}"
        + (f" ({listed(right)})" if right else "")
        + f"; {guessing_in_words(asked)}"
    )


def guessing_in_words(asked: Sequence[Asked]) -> str:
    """How many guessing gets right; and whether even all of them right would be no finding."""
    best = [replace(one, is_right=True) for one in asked]
    too_few = "" if is_above_chance(best) else ", and they are too few to tell"
    return f"guessing gets {expected_right(asked):.1f} of {len(asked):,}{too_few}"
