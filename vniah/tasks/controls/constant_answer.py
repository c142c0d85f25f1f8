"""Questions with a fixed set of answers in words, such as parts of a video: is one always given?

Option rotation moves letters, and these questions have none. But the test asks the same question of
videos in which different answers are right. So a model that follows what is shown gives different
answers, and one that gives the same in all of them does not.
"""

from collections import Counter
from collections.abc import Iterable

from vniah.answers.option_lines import find_option_lines
from vniah.errors import counted, short_repr
from vniah.tasks.controls.base import Row, asked_text
from vniah.tasks.controls.guessing import chance_of, is_unlikely, tail_of

_ALWAYS = 0.9

_Asked = tuple[str, tuple[str, ...]]


def has_own_options(row: Row) -> bool:
    """Whether the task says how many answers there are, and the question lists none of them."""
    return "num_options" in row.fields and find_option_lines(row.question) is None


def prior_in_words(own: Iterable[Row]) -> str | None:
    """The answer that most questions have without a needle; None if no answer has most."""
    answers = _usual_answers(own)
    answer, count = _most_frequent(answers.values())
    if answer is None or 2 * count <= len(answers):
        return None
    return f"the answer to {count} of {counted(len(answers), 'question')} is {_named(answer)}"


def constant_answer(tests: Iterable[Row], own: Iterable[Row]) -> str | None:
    """The verdict "always answers 10": given without a needle, and with one where it is wrong.

    Counted are the questions of the test for which different answers are right, without the samples
    for which this answer is right. It is given in most of these samples of so many questions that
    guesses explain it with a probability of at most 0.01, times the number of answers, and of at
    least (1 + 1/k) / 2 of the questions, halfway between a guess and always.

    Args:
        tests: the results of the test.
        own: those without a needle.

    Returns:
        None if that cannot be said; "mostly" below nine of ten.
    """
    answer, _ = _most_frequent(_usual_answers(own).values())
    if answer is None:
        return None
    rows = [row for row in tests if row.correct is not None and has_own_options(row)]
    right = {row.answer for row in rows if row.correct and _said(row) == answer} | {answer}
    answers_of: dict[_Asked, set[str]] = {}
    for row in rows:
        answers_of.setdefault(asked_text(row), set()).add(row.answer)
    elsewhere = [
        row for row in rows if row.answer not in right and len(answers_of[asked_text(row)]) > 1
    ]
    given = _usual_answers(elsewhere)
    if not given:
        return None
    chances = [chance_of(row) for row in {asked_text(row): row for row in elsewhere}.values()]
    num_given = sum(said == answer for said in given.values())
    probability = tail_of(num_given, chances) / min(chances)
    share = num_given / len(given)
    if share < (1 + max(chances)) / 2 or not is_unlikely(probability):
        return None
    return f"{'always' if share >= _ALWAYS else 'mostly'} answers {_named(answer)}"


def _usual_answers(rows: Iterable[Row]) -> dict[_Asked, str | None]:
    """For each question what is said in more than half of its samples; None where nothing is."""
    said: dict[_Asked, list[str | None]] = {}
    for row in rows:
        if row.correct is not None and has_own_options(row):
            said.setdefault(asked_text(row), []).append(_said(row))
    found: dict[_Asked, str | None] = {}
    for question, answers in said.items():
        answer, count = _most_frequent(answers)
        found[question] = answer if 2 * count > len(answers) else None
    return found


def _most_frequent(answers: Iterable[str | None]) -> tuple[str | None, int]:
    known = Counter(answer for answer in answers if answer is not None)
    return known.most_common(1)[0] if known else (None, 0)


def _named(answer: str) -> str:
    return answer if answer.isalnum() else short_repr(answer)


def _said(row: Row) -> str | None:
    return None if row.prediction is None else row.prediction.strip()
