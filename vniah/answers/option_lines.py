"""The options of a multiple-choice question as its text lists them, and the same in another order.

A question lists its options on lines of their own, each behind its letter, from A on:

    What is the highest number on its face?
    A. 10
    B. 12
    Answer with the option's letter from the given choices directly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vniah.answers.matching import choice_letters, find_option, read_choice

_LINE = re.compile(r"(?P<mark>[ \t]*\(?(?P<letter>[A-Z])[.):][ \t]+)(?P<words>\S.*?)(?P<end>\s*)")
_LETTER_BEFORE = re.compile(r"(?P<start>\W*)(?P<letter>[A-Z])(?P<rest>\W.*)?", re.DOTALL)
_LETTER_BEHIND = re.compile(r"(?P<start>.*\W)(?P<letter>[A-Z])(?P<rest>\W*)", re.DOTALL)


@dataclass(frozen=True)
class OptionLines:
    """A question's text, taken apart at its options.

    Attributes:
        before: the text before the first option's line.
        marks: what stands before the words of each option, e.g. ``"A. "``.
        words: the words of each option.
        ends: what stands behind the words of each option, the line break included.
        after: the text after the last option's line.
    """

    before: str
    marks: tuple[str, ...]
    words: tuple[str, ...]
    ends: tuple[str, ...]
    after: str

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the options: A, B, C and so on."""
        return tuple(chr(ord("A") + place) for place in range(len(self.words)))

    def with_words(self, words: Sequence[str]) -> str:
        """The question with other words behind its letters."""
        lines = zip(self.marks, words, self.ends, strict=True)
        return self.before + "".join(map("".join, lines)) + self.after

    def chosen(self, prediction: str) -> str | None:
        """The letter of the option that a text names, by the rules of `vniah.answers`; or None."""
        place = read_choice(prediction, self.words)
        return None if place is None else self.letters[place]


@lru_cache(maxsize=1 << 12)
def find_option_lines(question: str) -> OptionLines | None:
    r"""The options that a question lists; None if it lists none, or in a form that is not known.

    >>> find_option_lines("Which?\nA. Cat\nB. Dog\n").words
    ('Cat', 'Dog')
    """
    lines = question.splitlines(keepends=True)
    matches = [_LINE.fullmatch(line) for line in lines]
    starts = [place for place, found in enumerate(matches) if found and found["letter"] == "A"]
    if len(starts) != 1:
        return None
    (start,) = starts
    found = []
    for place, match in enumerate(matches[start:]):
        if match is None or match["letter"] != chr(ord("A") + place):
            break
        found.append(match)
    if len(found) < 2 or any(matches[start + len(found) :]):
        return None
    return OptionLines(
        before="".join(lines[:start]),
        marks=tuple(match["mark"] for match in found),
        words=tuple(match["words"] for match in found),
        ends=tuple(match["end"] for match in found),
        after="".join(lines[start + len(found) :]),
    )


@dataclass(frozen=True)
class Rotated:
    """A multiple-choice question with its options in another order.

    Attributes:
        question: its text.
        choices: the options, in the new order.
        candidates: the accepted answers, or all options, as they are named now.
        answer: the right answer, as it is named now.
    """

    question: str
    choices: tuple[str, ...]
    candidates: tuple[str, ...]
    answer: str


def rotate_options(
    question: str,
    choices: Sequence[str],
    candidates: Sequence[str],
    answer: str,
    *,
    steps: int,
) -> Rotated | None:
    """The question with its options moved up by some places; the first follow the last.

    Letters stay where they are, and words move. So a right answer that is a letter becomes another
    letter, one in words stays, and one of both, such as ``"C. 13"``, gets its new letter.

    Args:
        question: lists the options, in the order of ``choices``.
        choices: the options.
        candidates: the accepted answers, or all options.
        answer: the right answer, one of the candidates.
        steps: places, in ``[1, len(choices) - 1]``.

    Returns:
        None if the question does not list its options in a form that is known, or an answer does
        not name one of them.
    """
    lines, plain = find_option_lines(question), _without_letters(choices)
    if lines is None or list(lines.words) != plain:
        return None
    old = find_option(answer, choices)
    named = [find_option(candidate, choices) for candidate in candidates]
    are_options = len(named) > 1 and len(set(named)) == len(named)
    if old is None or not (are_options or set(named) == {old}):
        return None
    num = len(choices)
    new = (old - steps) % num
    words = [lines.words[(place + steps) % num] for place in range(num)]
    own = tuple(
        choice.removesuffix(before) + now
        for choice, before, now in zip(choices, lines.words, words, strict=True)
    )

    def renamed(text: str) -> str:
        return _renamed(text, (lines.letters[old], lines.letters[new]), (choices[old], own[new]))

    found = Rotated(
        lines.with_words(words),
        own,
        tuple(candidates) if are_options else tuple(map(renamed, candidates)),
        renamed(answer),
    )
    is_right = find_option(found.answer, own) == new and (
        found.answer in found.candidates
        if are_options
        else {find_option(text, own) for text in found.candidates} == {new}
    )
    return found if is_right else None


def _without_letters(choices: Sequence[str]) -> list[str]:
    """The words of the options, without letters of their own."""
    letters = choice_letters(choices)
    matches = [_LINE.fullmatch(choice) for choice in choices]
    if all(match and match["letter"] == a for match, a in zip(matches, letters, strict=False)):
        return [match["words"] for match in matches if match]
    return list(choices)


def _renamed(text: str, letters: tuple[str, str], choices: tuple[str, str]) -> str:
    """An answer with its letter, if it has one, replaced; ``(old, new)`` each."""
    if text == choices[0]:
        return choices[1]
    for pattern in (_LETTER_BEFORE, _LETTER_BEHIND):
        match = pattern.fullmatch(text)
        if match and match["letter"] == letters[0]:
            return f"{match['start']}{letters[1]}{match['rest'] or ''}"
    return text
