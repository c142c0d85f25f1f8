"""Tables as lines of text."""

import textwrap
from collections.abc import Callable, Sequence

_GAP = "  "


def format_columns(
    rows: Sequence[Sequence[str]],
    *,
    justify: Callable[[str, int], str] = str.rjust,
    width: int | None = None,
) -> str:
    """Rows of cells in columns that are as wide as their widest cell.

    Args:
        rows: all with equally many cells; the first may be a heading.
        justify: fills a cell up to its column's width, such as `str.ljust`.
        width: the most characters of a line, as far as the words in the cells allow it: the widest
            columns are made narrower, and their cells go on in further lines. By default every
            row is one line.
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if width is not None:
        _narrow(widths, columns, width - len(_GAP) * (len(columns) - 1))
    lines = []
    for row in rows:
        cells = [_wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = (cell[number] if number < len(cell) else "" for cell in cells)
            lines.append(_GAP.join(map(justify, parts, widths)).rstrip())
    return "\n".join(lines)


def _narrow(widths: list[int], columns: Sequence[Sequence[str]], total: int) -> None:
    """Takes characters from the widest columns until they fit, but never breaks a word."""
    least = [
        max(len(word) for cell in column for word in ("", *cell.split())) for column in columns
    ]
    while sum(widths) > total:
        wide = [index for index, size in enumerate(widths) if size > least[index]]
        if not wide:
            return
        widths[max(wide, key=lambda index: widths[index])] -= 1


def _wrap(cell: str, size: int) -> list[str]:
    if len(cell) <= size:
        return [cell]
    return textwrap.wrap(cell, size, break_long_words=False, break_on_hyphens=False)
