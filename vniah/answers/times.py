"""Which second, or which of several numbered parts, a generated text names.

As everywhere in `vniah.answers`, all of a text must be the answer, and a text that can be read in
two ways names nothing:

    the second 42       42   42 s   42 seconds   42.0 sec   second 42   at 0:42   00:00:42
    the second 1065     1,065   17:45   0:17:45   17 min 45 s   17 minutes and 45 seconds
    nothing             about 42 s   40-45 s   42 or 43   0:42 to 0:45   0:75   the 42nd second
    part 3 of 10        3   03   3rd   third   part 3   the 3rd part   third tenth   3 of 10   3/10
    nothing             part 3 or 4   11   0   3 of 12   third fifth
"""

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import TypeVar

from vniah.answers.matching import readings_of

T = TypeVar("T")

_MOST_DIGITS = 12
_NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}})+|\d{{1,{_MOST_DIGITS}}})"
_EXACT = rf"{_NUMBER}(?:\.\d{{1,{_MOST_DIGITS}}})?"
_SECONDS = r"(?:s|secs?|seconds?)"
_MINUTES = r"(?:m|mins?|minutes?)"
_HOURS = r"(?:h|hrs?|hours?)"
_LEAD = r"(?:at )?(?:second |timestamp )?"

_PLAIN = re.compile(rf"{_LEAD}(?P<seconds>{_EXACT}) ?{_SECONDS}?")
_CLOCK = re.compile(
    rf"{_LEAD}(?:(?P<hours>\d{{1,4}}):(?=\d\d:))?(?P<minutes>\d{{1,6}}):"
    rf"(?P<seconds>\d\d(?:\.\d{{1,{_MOST_DIGITS}}})?)"
)
_WORDS = re.compile(
    rf"(?:at )?(?:(?P<hours>{_NUMBER}) ?{_HOURS}(?:,? (?:and )?|$))?"
    rf"(?:(?P<minutes>{_NUMBER}) ?{_MINUTES}(?:,? (?:and )?|$))?"
    rf"(?:(?P<seconds>{_EXACT}) ?{_SECONDS})?"
)

_ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)
_FRACTIONS = {
    "half": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "tenth": 10,
    "twelfth": 12,
}
_PART = re.compile(
    rf"(?:(?:part|number|segment|section) )?"
    rf"(?:(?P<number>\d{{1,{_MOST_DIGITS}}})(?:st|nd|rd|th)?|(?P<word>{'|'.join(_ORDINALS)}|last))"
    rf"(?: (?:part|segment|section|(?P<fraction>{'|'.join(_FRACTIONS)})))?"
    rf"(?:(?: of | ?/ ?)(?P<total>\d{{1,{_MOST_DIGITS}}})(?: parts)?)?"
)


def read_second(text: str) -> Fraction | None:
    """The second that a generated text names, counted from the beginning; None if it names none.

    >>> read_second("It is at 1:05.")
    Fraction(65, 1)
    """
    return _only(_seconds(reading) for reading in readings_of(text))


def read_number_in_order(text: str, total: int) -> int | None:
    """Which of ``total`` numbered parts a generated text names, from 1 on; None if it names none.

    >>> read_number_in_order("The answer is: the third part.", 10)
    3
    """
    return _only(_part(reading, total) for reading in readings_of(text))


def _only(found: Iterable[T | None]) -> T | None:
    """The one value that is found; None where there are none or several."""
    values = {value for value in found if value is not None}
    return values.pop() if len(values) == 1 else None


def _seconds(reading: str) -> Fraction | None:
    match = next(
        (found for form in (_PLAIN, _CLOCK, _WORDS) if (found := form.fullmatch(reading))), None
    )
    if match is None:
        return None
    parts = {name: value for name, value in match.groupdict().items() if value is not None}
    hours, minutes, seconds = (
        Fraction(parts.get(name, "0").replace(",", "")) for name in ("hours", "minutes", "seconds")
    )
    if not parts or ("minutes" in parts and seconds >= 60) or ("hours" in parts and minutes >= 60):
        return None
    return 3600 * hours + 60 * minutes + seconds


def _part(reading: str, total: int) -> int | None:
    match = _PART.fullmatch(reading)
    if match is None:
        return None
    said = match["total"] or _FRACTIONS.get(match["fraction"])
    if said is not None and int(said) != total:
        return None
    if match["word"] == "last":
        return total
    number = 1 + _ORDINALS.index(match["word"]) if match["word"] else int(match["number"])
    return number if 1 <= number <= total else None
