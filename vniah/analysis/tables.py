"""Tables as lines of text."""

import textwrap
from collections.abc import Callable, Mapping, Sequence

from vniah.errors import printable
from vniah.grid import Cell, format_depth
from vniah.results import Results

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
        width: the most characters of a line, as far as the words in the cells allow it: columns
            are made narrower where that costs the fewest lines, and their cells go on in further
            lines. By default every row is one line.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
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


def format_places(
    results: Results, texts: Mapping[Cell, str], footer: Mapping[str, Mapping[int, str]]
) -> str:
    """The rows of `place_rows` in columns."""
    return format_columns(place_rows(results, texts, footer))


def place_rows(
    results: Results, texts: Mapping[Cell, str], footer: Mapping[str, Mapping[int, str]]
) -> tuple[tuple[str, ...], ...]:
    """Cells as rows of text: depths, or positions, downwards, frames to the right.

    A dot stands where there is no value, nothing where the haystack ends before the position. Cells
    that are planned and not yet run have a place as well.

    Args:
        results: says which cells there are, and whether rows are positions.
        texts: what stands in each cell that has a value.
        footer: further rows by name, each with what stands below the numbers of frames.
    """
    has_positions = results.has_positions
    everything = results.planned_cells.union(found.cell for found in results.cells)
    cells = {(cell.num_frames, results.row_of(cell)): cell for cell in everything}
    counts = sorted({count for count, _ in cells})
    what: str = "position" if has_positions else "depth" if results.has_depths else results.axis
    if results.is_approximate:  # said in the table itself, as only that may be copied
        what += " (approximate)"
    lines = [[what, *(f"{count:,}" for count in counts)]]
    for row in sorted({row for _, row in cells}):
        named = f"{int(row):,}" if has_positions else format_depth(row)
        line = [named if results.has_depths else "all"]
        for count in counts:
            cell = cells.get((count, row))
            text = None if cell is None else texts.get(cell)
            line.append(text or ("" if has_positions and row > count else "."))
        lines.append(line)
    for name, means in footer.items():
        lines.append([name, *(means.get(count, ".") for count in counts)])
    return tuple(map(tuple, lines))


def _narrow(widths: list[int], columns: Sequence[Sequence[str]], total: int) -> None:
    """Takes characters from columns until they fit, but never breaks a word.

    Each is taken from the column that makes the rows grow least, of equals from the widest.
    """
    least = [
        max(len(word) for cell in column for word in ("", *cell.split())) for column in columns
    ]

    def num_lines(widths: Sequence[int]) -> int:
        heights = (
            max(len(_wrap(cell, size)) for cell, size in zip(row, widths, strict=True))
            for row in zip(*columns, strict=True)
        )
        return sum(heights)

    def narrower(index: int) -> tuple[int, int]:
        size = widths[index] - 1
        return num_lines([*widths[:index], size, *widths[index + 1 :]]), -size

    while sum(widths) > total:
        wide = [index for index, size in enumerate(widths) if size > least[index]]
        if not wide:
            return
        widths[min(wide, key=narrower)] -= 1


def _wrap(cell: str, size: int) -> list[str]:
    if len(cell) <= size:
        return [cell]
    return textwrap.wrap(cell, size, break_long_words=False, break_on_hyphens=False)
