"""Pages of text as pictures: black on white, with the same pixels on every machine.

The font is the bitmap that comes with Pillow, each of its pixels enlarged to a square, so that no
version of a font engine decides a pixel. On a page of 816 x 1056 pixels, letter at 96 per inch, its
letters are 22 pixels high.
"""

import textwrap

from PIL import Image, ImageDraw, ImageFont

from vniah.errors import InputError

_LETTER = (6, 11)  # width and height of a letter of the font
_LEADING = 14  # from line to line
_LETTERS_ACROSS = 66  # about so many fit into the width of a page
_MARGIN = 12  # the part of the width that each margin takes
_SMALLEST = 72  # pixels, of the width


def draw_page(text: str, size: tuple[int, int], *, sentence: str = "") -> Image.Image:
    """A page that is full of a text, with a sentence as a paragraph of its own in its middle.

    Args:
        text: plain text in ASCII; what does not fit is left out, and so is what is missing.
        size: width and height in pixels.
        sentence: plain text in ASCII; none if it is empty.

    Returns:
        A picture of mode ``RGB``.

    Raises:
        InputError: the page is too small for the sentence, or Pillow too old for the font.
    """
    across, down = _letters(size)
    middle = textwrap.wrap(sentence, across)
    around = [""] if middle else []
    room = down - len(middle) - 2 * len(around)
    if room < 0 or size[0] < _SMALLEST:
        raise InputError(
            f"a page of {size[0]} x {size[1]} pixels is too small for the sentence "
            f"{sentence!r}: it takes {len(middle) + 2} lines of {across} letters; choose a larger "
            "page"
        )
    parts = text[: (across + 1) * down].split("\n\n")
    lines = [line for part in parts for line in (*textwrap.wrap(part, across), "")][:room]
    ends = [place for place, line in enumerate(lines) if not line]  # of paragraphs
    above = min(ends or [len(lines) // 2], key=lambda place: abs(place - len(lines) // 2))
    return _draw([*lines[:above], *around, *middle, *around, *lines[above:]], size)


def _scale(size: tuple[int, int]) -> int:
    """How many pixels a pixel of the font is wide and high."""
    return max(1, round(size[0] / (_LETTERS_ACROSS * _LETTER[0])))


def _letters(size: tuple[int, int]) -> tuple[int, int]:
    """How many letters fit into a line, and how many lines into the page."""
    margin, scale = size[0] // _MARGIN, _scale(size)
    across = (size[0] - 2 * margin) // (_LETTER[0] * scale)
    return max(across, 1), max((size[1] - 2 * margin) // (_LEADING * scale), 0)


def _draw(lines: list[str], size: tuple[int, int]) -> Image.Image:
    load = getattr(ImageFont, "load_default_imagefont", None)
    if load is None:
        raise InputError("pages of text need Pillow 11.1 or newer: pip install --upgrade pillow")
    scale, margin = _scale(size), size[0] // _MARGIN
    small = Image.new("1", (size[0] // scale, size[1] // scale), 1)
    pen, font = ImageDraw.Draw(small), load()
    for number, line in enumerate(lines):
        pen.text((margin // scale, margin // scale + number * _LEADING), line, fill=0, font=font)
    page = Image.new("RGB", size, (255, 255, 255))
    enlarged = small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)
    page.paste(enlarged.convert("RGB"), (0, 0))
    return page
