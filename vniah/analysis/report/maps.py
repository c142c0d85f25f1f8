"""The map of a run as a table with coloured cells, which needs no script."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from vniah.analysis.palettes import MEASURE_COLORS, SAFE_COLORS, color_at, letters_on
from vniah.analysis.table_rows import all_cells, length_rows
from vniah.grid import Cell, format_depth
from vniah.results import Results

_STEPS = 100
_MOST_NUMBERS = 26
"""With more columns or rows there are no numbers in the cells, and not every label."""

_MOST_LABELS = 20
_MOST_LARGE = 8
_LONGEST_DEPTH = 6


@dataclass(frozen=True)
class Square:
    """A place of a map.

    Attributes:
        text: what stands in it; empty where there can be no cell.
        style: names of classes.
        remark: what else is said of it to those who cannot see it.
        place: the number of its cell, in the order of the cells of `Map`; None where there is none.
    """

    text: str
    style: str
    remark: str = ""
    place: int | None = None


@dataclass(frozen=True)
class Map:
    """The cells of a run: rows downwards, numbers of frames to the right.

    Attributes:
        corner: what the rows are: depths or positions.
        columns: labels of the columns.
        rows: labels of the rows, with the squares beside each.
        footer: the mean of each column, with the same squares.
        caption: what is shown.
        is_dense: whether squares are too small for numbers.
        is_wide: whether these have the width of a number, as there are few columns of many rows.
        is_roomy: whether there are so few columns that squares can be large.
        num_steps: every how manieth column, and row, has a label that is seen.
        has_errors: whether cells are without samples that could not be run.
        key: the classes of the colours, and the numbers at their ends.
    """

    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Square, ...]], ...]
    footer: tuple[Square, ...]
    caption: str
    is_dense: bool
    is_wide: bool
    is_roomy: bool
    num_steps: tuple[int, int]
    has_errors: bool
    key: tuple[str, str, str]


def score_map(results: Results, caption: str) -> Map:
    """The map of the scores of a run or of a published table."""
    cells = all_cells(results)
    squares = {}
    for place, found in enumerate(cells):
        remark = ""
        style = _style("s", found.score)
        if found.num_errors:
            remark = f"{found.num_errors:,} not run"
            style += " partial"
        text = "." if found.score is None else f"{found.score:.2f}"
        squares[found.cell] = Square(text, style, remark, place)
    means = {
        row["num_frames"]: Square(f"{row['score']:.2f}", _style("s", row["score"]))
        for row in length_rows(results)[1:]
        if row["score"] is not None
    }
    return _map(results, squares, means, caption, ("s", "0", "1"))


def measure_map(results: Results, name: str) -> Map:
    """The map of the means of a measure, such as an error in seconds."""
    measure = results.measure(name)
    means = {found.cell: found.mean for found in measure.cells}
    known = [mean for mean in means.values() if mean is not None]
    low, high = (0.0, 1.0) if measure.is_share else (min((0.0, *known)), max((0.0, *known)))
    span = high - low or 1.0
    places = {found.cell: place for place, found in enumerate(all_cells(results))}

    def square(mean: float | None, place: int | None = None) -> Square:
        share = None if mean is None else (mean - low) / span
        return Square(_short(mean), _style("m", share), place=place)

    squares = {cell: square(means.get(cell), place) for cell, place in places.items()}
    footer = {length: square(mean) for length, mean in _means(means, results).items()}
    caption = f"{measure.label}{', approximate' * results.is_approximate}"
    return _map(results, squares, footer, caption, ("m", _short(low), _short(high)))


def map_colors() -> str:
    """The style sheet of the colours of squares: ``s0`` to ``s100`` for scores, ``m`` likewise.

    Letters are black or white, whichever differs more from the colour.
    """
    rules = []
    for name, colors in (("s", SAFE_COLORS), ("m", MEASURE_COLORS)):
        for step in range(_STEPS + 1):
            color = color_at(colors, step / _STEPS)
            rules.append(f".{name}{step}{{background:{color};color:{letters_on(color)}}}")
    return "\n".join(rules)


def _map(
    results: Results,
    squares: Mapping[Cell, Square],
    footer: Mapping[int, Square],
    caption: str,
    key: tuple[str, str, str],
) -> Map:
    counts = sorted({cell.num_frames for cell in squares})
    levels = sorted({results.row_of(cell) for cell in squares})
    by_place = {(cell.num_frames, results.row_of(cell)): square for cell, square in squares.items()}
    has_positions = results.has_positions
    none, beyond = Square(".", "none", "not measured"), Square("", "beyond")
    rows = []
    for level in levels:
        line = [
            by_place.get((count, level), beyond if has_positions and level > count else none)
            for count in counts
        ]
        label = f"{int(level):,}" if has_positions else _depth_label(level)
        rows.append((label, tuple(line)))
    empty = Square(".", "none")
    columns = tuple(f"{count:,}" for count in counts)
    is_dense = max(len(counts), len(levels)) > _MOST_NUMBERS
    return Map(
        corner="position" if has_positions else "depth",
        columns=columns,
        rows=tuple(rows),
        footer=tuple(footer.get(count, empty) for count in counts),
        caption=caption,
        is_dense=is_dense,
        is_wide=is_dense and len(counts) <= _MOST_NUMBERS,
        is_roomy=max(len(counts), len(levels)) <= _MOST_LARGE,
        num_steps=(_thinned(len(counts), max(map(len, columns), default=0)), _thinned(len(levels))),
        has_errors=any(square.remark for square in squares.values()),
        key=key,
    )


def _depth_label(depth: Fraction) -> str:
    """The depth as in tables, with at most four digits after the point."""
    text = format_depth(depth)
    return text if len(text) <= _LONGEST_DEPTH else f"{float(depth):.4f}".rstrip("0").rstrip(".")


def _thinned(number: int, num_characters: int = 0) -> int:
    """Every how manieth label is seen; a small square is about as wide as a character."""
    if number <= _MOST_NUMBERS:
        return 1
    return max(-(-number // _MOST_LABELS), num_characters + 1 if num_characters else 1)


def _style(name: str, share: float | None) -> str:
    return "none" if share is None else f"{name}{round(_STEPS * min(max(share, 0.0), 1.0))}"


def _means(values: Mapping[Cell, float | None], results: Results) -> dict[int, float]:
    """The mean of each column that has one; in an adaptive run, of those that are whole."""
    columns: dict[int, list[float | None]] = {}
    for found in all_cells(results):
        columns.setdefault(found.cell.num_frames, []).append(values.get(found.cell))
    means = {}
    for count, column in columns.items():
        known = [value for value in column if value is not None]
        if known and (len(known) == len(column) or not results.is_adaptive):
            means[count] = sum(known) / len(known)
    return means


def _short(value: float | None) -> str:
    return "." if value is None else f"{value:.3g}"
