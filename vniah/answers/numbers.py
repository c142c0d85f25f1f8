"""Numbers in what a model wrote, for tasks whose answers are numbers of so many digits."""

import re
from collections.abc import Sequence

from vniah.answers.folding import visible
from vniah.answers.wrappers import final_text

# Digits in one, or in groups of three as people write them: 5,746,211.
_NUMBER = re.compile(r"[0-9]{1,3}(?:[,\u00a0\u202f\u2009 ][0-9]{3})+(?![0-9])|[0-9]+")
_MOST_CHARACTERS = 20_000


def numbers_in(text: str, *, num_digits: int) -> tuple[str, ...]:
    """The numbers of so many digits in a text, without reasoning before it, in their order.

    >>> numbers_in("The numbers are 5,746,211 and **1234567**, not 12.", num_digits=7)
    ('5746211', '1234567')
    """
    said = final_text(visible(text[:_MOST_CHARACTERS]))
    found = (re.sub(r"[^0-9]", "", match[0]) for match in _NUMBER.finditer(said))
    return tuple(number for number in found if len(number) == num_digits)


def match_first_number(
    text: str, answers: Sequence[str], choices: Sequence[str] | None = None
) -> str | None:
    """The accepted answer that is the first number of its length in a text.

    A model that continues a prompt goes on writing behind the number, and one that chats may repeat
    the question before it; in both the first number of that length is its answer. It is called as
    `vniah.answers.match_answer`.

    >>> match_first_number("The special magic number is: 5746211. The next", ["5746211"])
    '5746211'
    """
    for answer in answers:
        if numbers_in(text, num_digits=len(answer))[:1] == (answer,):
            return answer
    return None
