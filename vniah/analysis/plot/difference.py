"""The map of what changed between two runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isnan

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter

from vniah.analysis.compare.pairing import about_approximate
from vniah.analysis.compare.shared import SharedCells, compare_shared_cells
from vniah.analysis.labels import like_these, result_labels, these, unit_notes
from vniah.analysis.palettes import CHANGE_COLORS
from vniah.analysis.plot.colorbar import style_colorbar
from vniah.analysis.plot.heatmaps import label_axes
from vniah.analysis.plot.style import COLORBAR, INK, write_caption, write_title
from vniah.analysis.plot.table import Place, Table
from vniah.analysis.plot.typesetting import tell_of_missing
from vniah.errors import InputError, counted, printable
from vniah.grid import Cell
from vniah.results import AnyResults, Results, one_result

Mask = npt.NDArray[np.bool_]

_LABEL = "Change of accuracy"
_LEAST_LIMIT = 0.2  # of the colours, so that small changes are not drawn as large ones
_DOT_COLOR = "#a0a0a0"
_LINE_WIDTH = 0.8
_MAX_LINED_CELLS = 40  # with more cells side by side there are no white lines between them
_DARK = 0.6  # of the limit, from where a white sign is seen better than a black one
_HALF_SIGN = 0.2  # of a sign, in cells
_FRAME_INSET = 0.06  # in cells


@dataclass(frozen=True)
class Difference:
    """What is drawn of two runs.

    Attributes:
        shared: the comparison.
        table: the changes of the cells, second minus first, and where only one run has a score.
        only_one: [len(rows), len(frames)], where only one of the two has a score.
        framed: [len(rows), len(frames)], where the change is significant.
    """

    shared: SharedCells
    table: Table
    only_one: Mask
    framed: Mask


@tell_of_missing()
def difference_map(
    before: AnyResults,
    after: AnyResults,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    level: float = 0.05,
    limit: float | None = None,
    colorbar: bool = True,
    caption: bool = True,
    allow_approximate: bool = False,
) -> Axes:
    """Draws how the score of every cell changed onto ``ax`` and gives it back.

    A cell shows the second score minus the first: blue with a plus where it rose, orange with a
    minus where it fell. Rises and falls of the same size have the same lightness, so that in grey
    the signs tell them apart. Runs with the same needles are compared on the samples of which both
    have a score. Cells that changed significantly have a frame: by the tests of `vniah.compare`,
    with Holm's correction for all cells. Cells of which only one run has a score are dotted, and
    those of which neither has one are blank. Never saves, shows or sizes a figure.

    Args:
        before: the first run, or published table, or its path.
        after: the second.
        ax: where to draw; by default the current axes of pyplot.
        title: the text above the axes; by default both names. ``""`` for none.
        level: how often any frame is drawn by chance at most.
        limit: the change at the ends of the colours, in (0, 1]; by default the largest one, rounded
            up to a tenth, and at least 0.2.
        colorbar: whether to draw a colour bar beside the axes.
        caption: whether to write below the axes the mean change, and what is marked.
        allow_approximate: as the rule of `vniah.compare`; the title says what is approximate.

    Raises:
        CannotCompareError: the two do not measure the same thing, or have no cell in common.
        InputError: the level or the limit is out of range.
    """
    before, after = one_result(before), one_result(after)
    found = resolve_difference(
        before, after, level=level, limit=limit, allow_approximate=allow_approximate
    )
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    return draw_difference(
        ax, found, before, after, title=title, colorbar=colorbar, caption=caption
    )


def resolve_difference(
    before: Results,
    after: Results,
    *,
    level: float = 0.05,
    limit: float | None = None,
    allow_approximate: bool = False,
) -> Difference:
    """The numbers of `difference_map`.

    Raises:
        CannotCompareError: as `difference_map`.
        InputError: as `difference_map`.
    """
    if limit is not None and not 0 < limit <= 1:
        raise InputError(f"the limit of a change must be above 0 and at most 1, got {limit}")
    shared = compare_shared_cells(before, after, allow_approximate=allow_approximate)
    marked = shared.significant(level)
    has_positions = before.has_positions and after.has_positions

    def row_of(cell: Cell) -> Fraction:
        return Fraction(cell.needle_index) if has_positions else cell.depth

    grids = [run.grid for run in (before, after)]
    planned = {cell for grid in grids if grid is not None for cell in grid.cells}
    cells = planned | {found.cell for run in (before, after) for found in run.cells}
    frames = tuple(sorted({cell.num_frames for cell in cells}))
    rows = tuple(sorted({row_of(cell) for cell in cells}))
    columns = {num_frames: column for column, num_frames in enumerate(frames)}
    places = {row: k for k, row in enumerate(rows)}
    values = np.full((len(rows), len(frames)), np.nan)
    only_one, framed = np.zeros(values.shape, bool), np.zeros(values.shape, bool)
    for change in shared.changes:
        place = places[row_of(change.cell)], columns[change.cell.num_frames]
        values[place] = float(-change.drop)
        framed[place] = change.cell in marked
    for cell in shared.only_before | shared.only_after:
        only_one[places[row_of(cell)], columns[cell.num_frames]] = True
    largest = float(np.nanmax(np.abs(values)))
    limit = limit or max(_LEAST_LIMIT, ceil(round(largest * 10, 9)) / 10)
    nowhere = np.zeros(values.shape, bool)
    caption = "\n".join(_about(shared, level, framed, has_signs=_has_signs(values)))
    table = Table(
        frames,
        rows,
        values,
        failed=nowhere,
        partial=nowhere,
        limits=(-limit, limit),
        label=_LABEL,
        caption=caption,
        has_positions=has_positions,
        is_score=False,
    )
    return Difference(shared, table, only_one, framed)


def draw_difference(
    ax: Axes,
    found: Difference,
    before: Results,
    after: Results,
    *,
    title: str | None = None,
    colorbar: bool = True,
    caption: bool = True,
) -> Axes:
    """Draws the numbers of `resolve_difference`; arguments as `difference_map`."""
    table = found.table
    places = list(table.places())
    cells = _draw_cells(ax, table, places)
    has_signs = _has_signs(table.values)
    (_draw_signs if has_signs else _stripe_falls)(ax, table, places)
    _draw_frames(ax, [p for p in places if found.framed[p.row, p.column]], is_small=not has_signs)
    _hatch(ax, [p for p in places if found.only_one[p.row, p.column]], "....", _DOT_COLOR)
    label_axes(ax, table, axis=before.axis, depth=before.details.get("labels", {}).get("depth"))
    if not before.has_depths:
        ax.yaxis.set_visible(False)
    if colorbar:
        bar = ax.figure.colorbar(cells, ax=ax, format=FuncFormatter(_signed), **COLORBAR)
        style_colorbar(bar, table)
    if caption:
        write_caption(ax, table.caption)
    names = [printable(name) for name in result_labels([before, after])]
    if title is None:  # the names say which of them is approximate, and how
        write_title(ax, f"{names[1]}\nminus {names[0]}", num_names=2)
    else:
        mark = about_approximate(before, after)
        write_title(ax, "\n".join(filter(None, (title, mark))))
    return ax


def _has_signs(values: npt.NDArray[np.float64]) -> bool:
    """Whether cells are large enough for a sign and for lines between them."""
    return bool(max(values.shape) <= _MAX_LINED_CELLS)


def _draw_cells(ax: Axes, table: Table, places: Sequence[Place]) -> Collection:
    known = [p for p in places if not isnan(table.values[p.row, p.column])]
    cells = PolyCollection(
        [place.corners for place in known],
        array=np.array([table.values[place.row, place.column] for place in known]),
        cmap=LinearSegmentedColormap.from_list("vniah-change", CHANGE_COLORS),
        norm=Normalize(*table.limits),
        edgecolors="white",
        linewidths=_LINE_WIDTH if _has_signs(table.values) else 0.0,
        antialiaseds=_has_signs(table.values),
    )
    ax.add_collection(cells, autolim=False)
    bottom = 1.0 if table.has_positions else float(len(table.rows))
    ax.set(xlim=(0, len(table.frames)), ylim=(bottom, 0))
    return cells


def _draw_signs(ax: Axes, table: Table, places: Sequence[Place]) -> None:
    """A plus in every cell that rose, and a minus in every cell that fell."""
    lines, colors = [], []
    for place in places:
        value = table.values[place.row, place.column]
        if isnan(value) or value == 0:
            continue
        x, y = place.column + 0.5, (place.top + place.bottom) / 2
        height = (place.bottom - place.top) * _HALF_SIGN
        strokes = [((x - _HALF_SIGN, y), (x + _HALF_SIGN, y))]
        if value > 0:
            strokes.append(((x, y - height), (x, y + height)))
        lines += strokes
        is_dark = abs(value) > _DARK * table.limits[1]
        colors += ["white" if is_dark else INK] * len(strokes)
    ax.add_collection(LineCollection(lines, colors=colors, linewidths=1.2), autolim=False)


def _stripe_falls(ax: Axes, table: Table, places: Sequence[Place]) -> None:
    """Stripes on all cells that fell, where cells are too small for signs."""
    fallen = [place for place in places if table.values[place.row, place.column] < 0]
    _hatch(ax, fallen, "/////", INK)


def _hatch(ax: Axes, places: Sequence[Place], hatch: str, color: str) -> None:
    """Hatches cells, all as one shape: a hatch for each of ten thousand takes many seconds."""
    if places:
        corners = np.array([place.corners for place in places])
        shape = Path.make_compound_path_from_polys(corners)
        ax.add_patch(PathPatch(shape, facecolor="none", edgecolor=color, linewidth=0, hatch=hatch))


def _draw_frames(ax: Axes, places: Sequence[Place], *, is_small: bool) -> None:
    corners = []
    for place in places:
        inset = _FRAME_INSET * (place.bottom - place.top)
        left, right = place.column + _FRAME_INSET, place.column + 1 - _FRAME_INSET
        top, bottom = place.top + inset, place.bottom - inset
        corners.append(((left, top), (right, top), (right, bottom), (left, bottom)))
    frames = PolyCollection(
        corners, facecolors="none", edgecolors="black", linewidths=0.6 if is_small else 1.6
    )
    ax.add_collection(frames, autolim=False)


def _signed(value: float, _: object = None) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:+g}".replace("-", "\u2212")


def _about(shared: SharedCells, level: float, framed: Mask, *, has_signs: bool) -> Iterator[str]:
    """The sentences of the caption."""
    mean = f"mean change {shared.mean_change:+.3f} over {counted(len(shared.changes), 'cell')}"
    difference = shared.difference()
    if difference is None:
        yield f"{mean}; {'other needles' if shared.before.manifest else 'published tables'}"
    elif difference.interval is None:
        yield f"{mean}, {these(shared.before)}; samples share {shared.before.cluster}s"
    else:
        is_approximate = shared.before.is_approximate or shared.after.is_approximate
        approximate = "of approximate scores, " * is_approximate
        ends = difference.interval.text(around=shared.mean_change, signed=True)
        yield (
            f"{mean}, {these(shared.before)}; {like_these([shared.before])}: {ends} "
            f"({approximate}95 %, {counted(difference.num_needles, shared.before.cluster)})"
        )
    signs = "plus: rose, minus: fell" if has_signs else "striped: fell"
    if any(change.drop == 0 for change in shared.changes):
        signs += ", light grey: no change"
    yield f"{signs}; {_about_frames(shared, level, int(framed.sum()))}"
    if shared.only_before or shared.only_after:
        counts = f"{len(shared.only_before):,} and {len(shared.only_after):,}"
        yield f"dotted: cells of which only the first or only the second has a score ({counts})"
    if shared.num_left_out:
        samples = counted(shared.num_left_out, "sample")
        yield f"{samples} left out, of which only one run has a score"
    yield from unit_notes([shared.before, shared.after])


def _about_frames(shared: SharedCells, level: float, num_framed: int) -> str:
    num_cells = counted(len(shared.changes), "cell")
    if not shared.before.manifest:
        return "not tested, as published tables have no samples"
    if all(change.p_value is None for change in shared.changes if change.drop):
        unchanged = not any(change.drop for change in shared.changes)
        return "no cell changed" if unchanged else "not tested, as samples share needles"
    test = "McNemar" if shared.is_paired else "Fisher"
    how = f"exact {test} test, Holm over {num_cells}"
    if num_framed:
        return f"framed: p at most {level / 2:g} in its direction ({how})"
    if not shared.can_be_significant(level):
        most = max(change.num_after or 0 for change in shared.changes)
        return f"with {counted(most, 'sample')} a cell no change can be significant ({how})"
    return f"no cell has p at most {level / 2:g} in its direction ({how})"
