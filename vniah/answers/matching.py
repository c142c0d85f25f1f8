"""Which answer a generated text is, and which of several options it names.

Needle sets are checked with the same functions as generated texts, so no text is right for an
option that is not the answer's.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from vniah.answers.folding import fold, normalize, visible
from vniah.answers.wrappers import final_text, unwrap

_LETTERED_CHOICE = re.compile(r"\A\(?([A-Z])[.:)]\s")

_LEAD_IN = re.compile(
    r"[\s*_]*(?:"
    r"(?:(?:the|my)\s+)?(?:(?:correct|right|final|best)\s+)?(?:answer|option|choice)"
    r"(?:\s+is\b(?:[\s*_]*+:)?|[\s*_]*+:)"
    r"|it(?:\s+is\b|['’]s\b)"
    r"|(?:option|choice)\s+(?=[(\[*_]*(?-i:[A-Z])\b)"
    r")[\s*_]*(?=\S)",
    re.IGNORECASE,
)
# "The final answer is: **Answer:** Option B" has three; a model that runs on writes no end of them.
_MOST_LEAD_INS = 4
_MOST_WRAPPERS = 8
# No answer is as long; models that run on write longer texts.
_MOST_CHARACTERS = 20_000

_BY_LETTER = re.compile(
    r"[\s*_`'\"]*[(\[]?(?P<letter>[A-Za-z])(?P<mark>[)\].:,*_`'\"]*(?:\s+[-\u2014](?=\s))?)"
    r"(?P<rest>\s.*|)",
    re.DOTALL,
)
_LETTER_BEHIND = re.compile(r"(?P<words>.*\S)\s*[(\[](?P<letter>[A-Z])[)\]]\W*", re.DOTALL)

_NUMBER = re.compile(r"[-+]?[$€£¥]?\.?\d[\d.,:/ ]*\s?\S{0,3}")


def match_answer(
    text: str, answers: Sequence[str], choices: Sequence[str] | None = None
) -> str | None:
    """The accepted answer that a generated text is, by the rules of `vniah.answers`.

    Args:
        text: what a model wrote, all of it.
        answers: all that are accepted; the first of them names an option, if there are choices.
        choices: the options of a multiple-choice question.

    Returns:
        One of ``answers``, or None if the text is none of them.

    >>> match_answer("Answer: the yellow one.", ["yellow one", "yellow"])
    'yellow one'
    >>> match_answer("(B) dog", ["B"], ["Cat", "Dog"])
    'B'
    """
    readings = readings_of(text)
    same = next((answer for answer in answers if normalize(answer) in readings), None)
    if choices is None:
        return same
    named = _named(text, choices)
    if not named:
        return same
    option = find_option(answers[0], choices)
    return (same or answers[0]) if named == {option} else None


def readings_of(text: str) -> set[str]:
    """What a generated text may say, in the form of `normalize`, with and without its wrappers.

    >>> sorted(readings_of("Answer: 0:42"))
    ['0:42', 'answer 0:42']
    """
    return _readings(text).union(*map(_readings, _forms(text)))


def read_choice(text: str, choices: Sequence[str]) -> int | None:
    """The place of the one option that a generated text names; None where it is none or several."""
    named = _named(text, choices)
    return next(iter(named)) if len(named) == 1 else None


def find_option(answer: str, choices: Sequence[str]) -> int | None:
    """The place of the option that a needle's answer is: one of them, its letter, or its words."""
    if answer in choices:
        return list(choices).index(answer)
    letters = choice_letters(choices)
    return letters.index(answer) if answer in letters else read_choice(answer, choices)


@lru_cache(maxsize=1 << 10)
def find_ambiguous(choices: tuple[str, ...]) -> tuple[str, str] | None:
    """An option that a generated text could not name, for the rules cannot tell it from another.

    Args:
        choices: the options of a multiple-choice question.

    Returns:
        The text or the letter of the option, and the other option that the same text could mean (or
        the option itself, if the text contradicts itself); None if there is no such option.

    >>> find_ambiguous(("Cat", "Dog", "the dog"))
    ('Dog', 'the dog')
    """
    letters = choice_letters(choices)
    for index, choice in enumerate(choices):
        forms = [
            text.format(letter)
            for letter in letters[index : index + 1]
            for text in ("{}", "({})", "Answer: {}")  # an option may read like one of these
        ]
        for text in (choice, *forms):
            if (named := _named(text, choices)) != {index}:
                return text, choices[min(named - {index}, default=index)]
    return None


def choice_letters(choices: Sequence[str]) -> tuple[str, ...]:
    """The letter of each option: its own, if all begin with one, else A, B, C, ... (up to Z)."""
    own = [match[1] for match in map(_LETTERED_CHOICE.match, map(visible, choices)) if match]
    if len(own) == len(choices):
        return tuple(own)
    return tuple(chr(ord("A") + index) for index in range(min(len(choices), 26)))


def is_readable(text: str, answers: Sequence[str], choices: Sequence[str] | None = None) -> bool:
    """Whether a generated text has the form of an answer, be it right or wrong.

    With choices it names one of them. Where all accepted answers are numbers, it is one as well.
    Otherwise it has at most three words more than the longest accepted answer, and in both cases at
    most twice as many characters and twelve.

    Args:
        text: what a model wrote, all of it.
        answers: all that are accepted.
        choices: the options of a multiple-choice question.
    """
    if match_answer(text, answers, choices) is not None:
        return True
    if choices is not None:
        return read_choice(text, choices) is not None
    expected = [normalize(answer) for answer in answers]
    most_words = 3 + max(len(answer.split()) for answer in expected)
    most_characters = 12 + 2 * max(map(len, expected))
    are_numbers = all(map(_NUMBER.fullmatch, expected))
    return any(
        0 < len(reading) <= most_characters
        and len(reading.split()) <= most_words
        and bool(_NUMBER.fullmatch(reading) if are_numbers else re.search(r"\w", reading))
        for reading in map(normalize, _forms(text))
    )


def has_fixed_form(answers: Sequence[str], choices: Sequence[str] | None = None) -> bool:
    """Whether a text of another form is no answer: options are asked for, or a number.

    Of other questions nothing tells a wrong answer from a text that is none: both are words.
    """
    return choices is not None or all(_NUMBER.fullmatch(normalize(answer)) for answer in answers)


def _named(text: str, choices: Sequence[str]) -> set[int]:
    """The places of all options that a text can mean; none where it contradicts itself."""
    found = _said_in(text, choices)  # an option may itself look like a wrapper: "<s>"
    for form in _forms(text):
        options = _options_of(form, choices)
        if options is None:
            return set()
        found |= options
    return found


def _forms(text: str) -> Iterator[str]:
    """What a model says without wrappers, and what is left each time "Answer:" is taken off."""
    text = final_text(visible(text)).strip()
    if len(text) > _MOST_CHARACTERS:
        return
    num_lead_ins = num_wrappers = 0
    while True:
        while num_wrappers < _MOST_WRAPPERS and (inner := unwrap(text)) is not None:
            text, num_wrappers = inner, num_wrappers + 1
        yield text
        match = _LEAD_IN.match(text)
        if match is None or num_lead_ins == _MOST_LEAD_INS:
            return
        text, num_lead_ins = text[match.end() :], num_lead_ins + 1


def _readings(form: str) -> set[str]:
    """All that a text may be once what does not count is gone."""
    if len(form) > _MOST_CHARACTERS:
        return set()
    article = re.sub(r"^\s*A(?=\s)", "a", form)
    return {normalize(form), normalize(article), fold(form, drops_articles=False)} - {""}


def _options_of(form: str, choices: Sequence[str]) -> set[int] | None:
    """Places of the options that a text can be; None if its letter and its words contradict."""
    letters, _ = letters_and_words(tuple(choices))
    found = _said_in(form, choices)
    if match := _BY_LETTER.fullmatch(form):
        option = _index_of(match["letter"], letters)
        if option is not None:
            if not match["rest"].strip() or option in _said_in(match["rest"], choices):
                found.add(option)
            elif match["mark"] and option not in found:
                return None
    if match := _LETTER_BEHIND.fullmatch(form):
        option = _index_of(match["letter"], letters)
        if option is not None and option in _said_in(match["words"], choices):
            found.add(option)
    return found


def _said_in(text: str, choices: Sequence[str]) -> set[int]:
    """The places of the options whose words a text is."""
    _, options_by_words = letters_and_words(tuple(choices))
    return {place for reading in _readings(text) for place in options_by_words.get(reading, ())}


@lru_cache(maxsize=1 << 10)
def letters_and_words(choices: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, set[int]]]:
    """The letter of each option; and what the options are called, without letters of their own."""
    plain = [visible(choice) for choice in choices]
    matches = [_LETTERED_CHOICE.match(choice) for choice in plain]
    if all(matches):
        plain = [
            choice[match.end() :] for choice, match in zip(plain, matches, strict=True) if match
        ]
    options_by_words: dict[str, set[int]] = {}
    for index, choice in enumerate(plain):
        for form in (choice, *_forms(choice)):
            for reading in _readings(form):
                options_by_words.setdefault(reading, set()).add(index)
    return choice_letters(choices), options_by_words


def _index_of(letter: str, letters: Sequence[str]) -> int | None:
    """Where a letter, small or capital, stands among those of the options."""
    return letters.index(letter.upper()) if letter.upper() in letters else None
