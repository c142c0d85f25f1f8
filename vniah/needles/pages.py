"""Numbers on pages: needles that are pictures of a page of prose, in which a number is told.

The numbers and the sentence are those of the needles of text (`vniah.needles.numbers`), which Zhang
et al. 2024, section 9, insert into a book; here they are read by eye.
"""

import re

from vniah.errors import InputError, NeedleError, short_repr
from vniah.haystacks.page_text import draw_page
from vniah.haystacks.prose import write_prose
from vniah.needles.numbers import CITY, needle_text, number_needles
from vniah.needles.records import Needle
from vniah.needles.sets import NeedleSet

PAGES = "pages"
"""The name of the set; ``pages:20`` has twenty needles, ``pages:20:7`` others from a seed, and
``pages:20:7:794x1123`` is drawn on pages of that size."""

QUESTION = (
    f"Find the page with the special magic {CITY} number. What is that number?\n"
    "Answer the question with the number only."
)

_DEFAULT_COUNT = 5
_DEFAULT_SIZE = (816, 1056)  # letter, at 96 pixels per inch
_MOST_SIDE = 8192
_NAME = re.compile(rf"{PAGES}(?::([^:]*))?(?::([^:]*))?(?::([^:]*))?")
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_PROSE_SEED = 1_000_000  # not that of the generated haystack of text
_LONGEST_PAGE = 30_000  # characters, more than fit on a page


def page_needles(
    count: int = _DEFAULT_COUNT, *, seed: int = 0, size: tuple[int, int] = _DEFAULT_SIZE
) -> NeedleSet:
    """A set of pages, each of which tells another number.

    Args:
        count: how many; the first of them are the same whatever the count.
        seed: another seed gives other numbers, and other prose around them.
        size: width and height of the pages in pixels.

    Raises:
        NeedleError: ``count`` or ``seed`` is out of range, or the pages are too small or too large.
    """
    if not all(1 <= side <= _MOST_SIDE for side in size):
        raise NeedleError(
            f"a page is from 1x1 to {_MOST_SIDE}x{_MOST_SIDE} pixels, got {size[0]}x{size[1]}."
        )
    found = []
    for place, of_text in enumerate(number_needles(count, seed=seed)):
        prose = write_prose(_LONGEST_PAGE, seed=_PROSE_SEED + 10_000 * seed + place)
        sentence = needle_text(CITY, int(of_text.answer)).strip()
        try:
            page = draw_page(prose, size, sentence=sentence)
        except InputError as error:
            raise NeedleError(str(error)) from error
        found.append(Needle(of_text.needle_id, QUESTION, of_text.answer, None, page))
    name = f"{PAGES}:{count}:{seed}:{size[0]}x{size[1]}"
    return NeedleSet(name, name, tuple(found))


def read_pages(source: str) -> NeedleSet | None:
    """The set that a name such as ``pages``, ``pages:20`` or ``pages:5:0:794x1123`` stands for.

    Returns:
        None if it is no such name.

    Raises:
        NeedleError: what stands behind a colon cannot be read, or is out of range.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        return None
    numbers = [match[1] or str(_DEFAULT_COUNT), match[2] or "0"]
    size = _SIZE.fullmatch(match[3] or "{}x{}".format(*_DEFAULT_SIZE))
    if size is None or not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
        raise NeedleError(
            f"a set of pages is named {PAGES}, {PAGES}:COUNT, {PAGES}:COUNT:SEED or "
            f"{PAGES}:COUNT:SEED:WIDTHxHEIGHT, got {short_repr(source)}."
        )
    count, seed = map(int, numbers)
    return page_needles(count, seed=seed, size=(int(size[1]), int(size[2])))


def is_without_size(source: str) -> bool:
    """True for the name of such a set that does not say the size of its pages."""
    match = _NAME.fullmatch(source)
    return match is not None and match[3] is None


def name_with_size(source: str, size: tuple[int, int]) -> str:
    """The name of a set for which `is_without_size` holds, with the size of its pages."""
    match = _NAME.fullmatch(source)
    assert match is not None, "it is the name of such a set"
    numbers = f"{match[1] or _DEFAULT_COUNT}:{match[2] or 0}"
    return f"{PAGES}:{numbers}:{size[0]}x{size[1]}"
