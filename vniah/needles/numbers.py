"""Magic numbers: needles of text, each a city's number of seven digits, drawn from a seed.

Zhang et al. 2024, "Long Context Transfer from Language to Vision", section 9, where the needle's
city is Singapore in every sample; after the "needle in a needlestack" variant of Arize AI (2023).
The words of the needle and of the question are those of the published definition.
"""

import hashlib
import re

from vniah.errors import NeedleError, short_repr
from vniah.needles.records import Needle
from vniah.needles.sets import NeedleSet

NUMBERS = "numbers"
"""The name of the set; ``numbers:20`` has twenty needles, ``numbers:20:7`` others from a seed."""

CITY = "Singapore"
"""The city that is asked for."""

_DEFAULT_COUNT = 5
_MOST = 10_000
_SMALLEST, _LARGEST = 1_000_000, 9_999_999  # seven digits, and the first of them is no zero
_NAME = re.compile(rf"{NUMBERS}(?::([^:]*))?(?::([^:]*))?")


def needle_text(city: str, number: int) -> str:
    """The sentence that is inserted, with the line breaks around it."""
    return f"\nThe special magic {city} number is: {number}.\n"


def question_about(city: str) -> str:
    """The end of the prompt, which the number follows."""
    return (
        f"Based on the content of the book, Question: What is the special magic {city} number? "
        f"Answer: The special magic {city} number is:"
    )


def draw_number(*names: object) -> int:
    """A number of seven digits that depends on nothing but these names."""
    digest = hashlib.blake2b("\n".join(map(str, names)).encode(), digest_size=8).digest()
    return _SMALLEST + int.from_bytes(digest, "big") % (_LARGEST - _SMALLEST + 1)


def number_needles(count: int = _DEFAULT_COUNT, *, seed: int = 0) -> NeedleSet:
    """A set of different numbers, each the answer to the same question.

    Args:
        count: how many; the first of them are the same whatever the count.
        seed: another seed gives other numbers.

    Raises:
        NeedleError: ``count`` is not between 1 and 10,000, or ``seed`` is below 0.
    """
    if not 1 <= count <= _MOST or seed < 0:
        raise NeedleError(
            f"a set of numbers has 1 to {_MOST:,} needles and a seed from 0, got count {count} and "
            f"seed {seed}."
        )
    found: dict[int, None] = {}
    place = 0
    while len(found) < count:
        found.setdefault(draw_number(NUMBERS, seed, place))
        place += 1
    needles = tuple(
        Needle(
            needle_id=f"{CITY.lower()}-{number}",
            question=question_about(CITY),
            answer=str(number),
            choices=None,
            image=None,
            text=needle_text(CITY, number),
        )
        for number in found
    )
    name = f"{NUMBERS}:{count}:{seed}"
    return NeedleSet(name, name, needles)


def read_numbers(source: str) -> NeedleSet | None:
    """The set that a name such as ``numbers``, ``numbers:20`` or ``numbers:20:7`` stands for.

    Returns:
        None if it is no such name.

    Raises:
        NeedleError: what stands behind the colon is no number.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        return None
    values = [match[1] or str(_DEFAULT_COUNT), match[2] or "0"]
    if not all(re.fullmatch(r"[0-9]{1,9}", value) for value in values):
        raise NeedleError(
            f"a set of numbers is named {NUMBERS}, {NUMBERS}:COUNT or {NUMBERS}:COUNT:SEED, got "
            f"{short_repr(source)}."
        )
    return number_needles(int(values[0]), seed=int(values[1]))
