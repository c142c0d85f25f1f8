"""Tables for a page: turned so that they are rather long than wide."""

from dataclasses import dataclass

from vniah.analysis.table_layouts import Layout

_MOST_ASIDE = 3
"""So many columns are narrow enough whatever stands in them."""


@dataclass(frozen=True)
class PageTable:
    """A table of a page.

    Attributes:
        caption: what it has.
        head: rows of headings, each as long as a row of the body.
        body: the other rows; each begins with its own headings.
        num_names: the number of these.
        notes: what belongs below it.
    """

    caption: str
    head: tuple[tuple[str, ...], ...]
    body: tuple[tuple[str, ...], ...]
    num_names: int
    notes: tuple[str, ...]


def page_table(
    layout: Layout, caption: str, *, num_names: int = 1, turns: bool = True
) -> PageTable:
    """The table of a layout; one with more columns than rows has these as its rows.

    A page scrolls down, and what is beyond its right edge is not seen. So a few results at many
    lengths have a row for each length.

    Args:
        layout: has headings in its first row, and in the first columns of the others.
        caption: what it has.
        num_names: the number of these columns.
        turns: whether rows and columns may change places.
    """
    rows = layout.rows
    num_values = len(rows[0]) - num_names
    if not turns or num_values <= max(_MOST_ASIDE, len(rows) - 1):
        return PageTable(caption, rows[:1], rows[1:], num_names, layout.notes)
    turned = tuple(zip(*rows, strict=True))
    return PageTable(caption, turned[:num_names], turned[num_names:], 1, layout.notes)
