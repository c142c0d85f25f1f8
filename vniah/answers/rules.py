"""Rules for generated text besides `match_answer`: a stricter one, and two that allow more words.

Published benchmarks judge answers in different ways. These rules make such scores from texts that
are there already (`vniah.sweep.rescoring`); a run is always judged by `match_answer` first.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from vniah.answers.folding import normalize, visible
from vniah.answers.matching import (
    find_option,
    letters_and_words,
    match_answer,
    read_choice,
)
from vniah.answers.wrappers import final_text

MatchRule = Callable[[str, Sequence[str], Sequence[str] | None], str | None]
"""Called as `match_answer`: with a text, the accepted answers, and the options or None. It gives
the accepted answer that the text is, or None."""

# No answer is as long; models that run on write longer texts.
_MOST_CHARACTERS = 20_000

_MARKED_LETTER = re.compile(r"\s*[(\[]?(?P<letter>[A-Z])[)\].:,]")


def match_exactly(
    text: str, answers: Sequence[str], choices: Sequence[str] | None = None
) -> str | None:
    """The accepted answer that a text is letter for letter; white space at its ends is left out.

    >>> match_exactly("Yellow", ["yellow"]) is None
    True
    """
    return next((answer for answer in answers if answer.strip() == text.strip()), None)


def match_beginning(
    text: str, answers: Sequence[str], choices: Sequence[str] | None = None
) -> str | None:
    """The accepted answer that a text is, or begins with as whole words.

    With choices a text may begin with the words of the right option, or with its letter and a mark
    such as ``"B."``.

    >>> match_beginning("7, because it is on the card", ["7"])
    '7'
    """
    return _match(text, answers, choices, lambda words, said: said.startswith(words))


def match_inside(
    text: str, answers: Sequence[str], choices: Sequence[str] | None = None
) -> str | None:
    """The accepted answer that a text is, or holds anywhere as whole words.

    "It is not 7" counts for 7: what stands around an answer is not understood. With choices the
    text must hold the words of the right option and of no other.

    >>> match_inside("I see a 7 on the card.", ["7"])
    '7'
    """
    return _match(text, answers, choices, lambda words, said: words in said)


TEXT_RULES: Mapping[str, MatchRule] = {
    "whole": match_answer,
    "exact": match_exactly,
    "begins": match_beginning,
    "contains": match_inside,
}
"""The rules by their names; ``whole`` is that of every run."""


def _match(
    text: str,
    answers: Sequence[str],
    choices: Sequence[str] | None,
    holds: Callable[[str, str], bool],
) -> str | None:
    """As `match_answer`; where that finds nothing, by the words that a text holds.

    Args:
        text: what a model wrote.
        answers: all that are accepted.
        choices: the options of a multiple-choice question.
        holds: whether words, with a space at both ends, are held by a text with the same.
    """
    if (same := match_answer(text, answers, choices)) is not None:
        return same
    spoken = final_text(visible(text))
    if len(spoken) > _MOST_CHARACTERS:
        return None
    # A capital A at the beginning may be a letter or an article.
    said = [f" {normalize(form)} " for form in (spoken, re.sub(r"^\s*A(?=\s)", "a", spoken))]

    def is_held(words: str) -> bool:
        return any(holds(f" {words} ", form) for form in said)

    if choices is None:
        return max(
            filter(lambda answer: is_held(normalize(answer)), answers), key=len, default=None
        )
    if read_choice(text, choices) is not None:
        return None  # it names another option, and that is all it says
    letters, places_of = letters_and_words(tuple(choices))
    named = {place for words in filter(is_held, places_of) for place in places_of[words]}
    marked = _MARKED_LETTER.match(spoken)
    if marked and marked["letter"] in letters:
        named.add(letters.index(marked["letter"]))
    return answers[0] if named == {find_option(answers[0], choices)} else None
