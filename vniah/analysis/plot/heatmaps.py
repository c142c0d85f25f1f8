"""The depth x frames heatmap, in the published look."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import isnan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, Normalize

from vniah.analysis.plot.axes import (
    TICK_SIZE,
    ColumnFormatter,
    ThinnedLocator,
    count_labels,
    depth_label,
)
from vniah.analysis.plot.style import (
    COLORBAR,
    FAINT,
    INK,
    LABEL_SIZE,
    SMALL_SIZE,
    measure_colors,
    score_colors,
    write_caption,
    write_title,
)
from vniah.analysis.plot.table import CORRECT, Table, default_title, resolve
from vniah.errors import printable
from vniah.results import Results

_MAX_LINED_CELLS = 40  # with more cells side by side there are no white lines between them
_LINE_WIDTH = 0.8
_DEPTH_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_SCORE_TICKS = (0, 0.25, 0.5, 0.75, 1)


def heatmap(
    results: Results,
    ax: Axes | None = None,
    *,
    value: str = CORRECT,
    title: str | None = None,
    training_frames: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draws the cells of a run, or of a published table, onto ``ax`` and gives it back.

    Depth increases downwards and the number of frames to the right; colours always span scores of
    0 to 1. Those of a measure are other colours, and span 0 to the largest mean of the measure and
    of its reference, or 0 to 1 for a share. Cells without a value, because they were not measured
    or have only errors, stay blank. If the grid has positions, their depths differ from column to
    column, and so do the heights of the cells. Never saves, shows or sizes a figure.

    Args:
        results: what to draw. A run that is not complete is drawn with its whole grid.
        ax: where to draw; by default the current axes of pyplot.
        value: what is drawn: ``"correct"``, or a measure such as ``"error_seconds"``, as
            `Results.measure`.
        title: the text above the axes; by default the name and the average, ``""`` for none.
        training_frames: where to draw a dotted line, in the units of the horizontal axis: frames,
            or tokens in a published text table. It is placed between the columns by interpolation;
            outside of the columns' range no line is drawn.
        colorbar: whether to draw a colour bar beside the axes.

    Raises:
        ResultsError: no sample has a number of the name ``value``.
    """
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    return draw_table(
        ax,
        resolve(results, value),
        results,
        title=default_title(results, value=value) if title is None else title,
        training_frames=training_frames,
        colorbar=colorbar,
    )


def draw_table(
    ax: Axes,
    table: Table,
    results: Results,
    *,
    title: str,
    training_frames: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draws the numbers of a table; arguments as `heatmap`.

    Args:
        ax: where to draw.
        table: the numbers.
        results: where they come from: the axes are labelled as these say.
        title: the text above the axes; empty for none.
        training_frames: where to draw a dotted line; None for no line.
        colorbar: whether to draw a colour bar beside the axes.
    """
    (_draw_columns if table.has_positions else _draw_matrix)(ax, table, colorbar=colorbar)
    _label(ax, table, axis=results.axis, depth=results.details.get("labels", {}).get("depth"))
    if colorbar:
        _style_colorbar(ax, table.label, table.chance)
    position = None if training_frames is None else _column(training_frames, table.frames)
    if position is not None:
        _draw_training_length(ax, position, num_columns=len(table.frames))
    write_title(ax, title, pad=8 if position is None else 17)
    return ax


def _draw_matrix(ax: Axes, table: Table, *, colorbar: bool) -> None:
    """Draws cells of equal size: every column has the same depths."""
    import seaborn  # takes a second, and is needed only where something is drawn

    seaborn.heatmap(
        table.values,
        ax=ax,
        mask=np.isnan(table.values),
        vmin=table.limits[0],
        vmax=table.limits[1],
        cmap=_colors(table),
        cbar=colorbar,
        cbar_kws={"ticks": _ticks(table), **COLORBAR},
        linewidths=_LINE_WIDTH if max(table.values.shape) <= _MAX_LINED_CELLS else 0.0,
        linecolor="white",
        xticklabels=False,
        yticklabels=False,
    )


def _draw_columns(ax: Axes, table: Table, *, colorbar: bool) -> None:
    """Draws cells whose heights differ: every column has depths of its own."""
    corners: list[tuple[tuple[float, float], ...]] = []
    scores: list[float] = []
    widths: list[float] = []
    for k, num_frames in enumerate(table.frames):
        depths = [row / num_frames for row in table.rows if row <= num_frames]
        corners += [((k, a), (k + 1, a), (k + 1, b), (k, b)) for a, b in _spans(depths)]
        scores += table.values[: len(depths), k].tolist()
        densest = max((1 / (below - above) for above, below in pairwise(depths)), default=1)
        is_lined = max(len(table.frames), densest) <= _MAX_LINED_CELLS
        widths += [_LINE_WIDTH if is_lined else 0.0] * len(depths)
    cells = PolyCollection(
        corners,
        array=np.ma.masked_invalid(scores),
        cmap=_colors(table),
        norm=Normalize(*table.limits),
        edgecolors="white",
        linewidths=widths,
        antialiaseds=[width > 0 for width in widths],  # else the background shines through
    )
    ax.add_collection(cells)
    ax.set(xlim=(0, len(table.frames)), ylim=(1, 0))
    if colorbar:
        ax.figure.colorbar(cells, ax=ax, ticks=_ticks(table), **COLORBAR)


def _colors(table: Table) -> Colormap:
    return score_colors() if table.is_score else measure_colors()


def _ticks(table: Table) -> tuple[float, ...] | None:
    """Where the colour bar has ticks; None lets matplotlib choose."""
    return _SCORE_TICKS if table.limits == (0.0, 1.0) else None


def _spans(depths: Sequence[Fraction]) -> list[tuple[float, float]]:
    """The upper and lower edge of every cell of a column, in depths.

    Neighbours meet midway. The first cell reaches up to 0 and the last one down to 1, if that is no
    farther away than the neighbour; else they reach half as far as the neighbour, and what was not
    measured stays blank.

    >>> _spans([Fraction(0), Fraction(2, 5), Fraction(4, 5)])
    [(0.0, 0.2), (0.2, 0.6), (0.6, 1.0)]
    """
    first, last = Fraction(0), Fraction(1)
    if len(depths) > 1:
        after, before = depths[1] - depths[0], depths[-1] - depths[-2]
        first = first if depths[0] <= after else depths[0] - after / 2
        last = last if 1 - depths[-1] <= before else depths[-1] + before / 2
    middles = [(above + below) / 2 for above, below in pairwise(depths)]
    return list(pairwise(float(border) for border in (first, *middles, last)))


def _label(ax: Axes, table: Table, *, axis: str, depth: str | None) -> None:
    counts = count_labels(table.frames)
    ax.xaxis.set_major_locator(ThinnedLocator(counts, horizontal=True))
    ax.xaxis.set_major_formatter(ColumnFormatter(counts))
    if table.has_positions:
        labels = [f"{depth:g}" for depth in _DEPTH_TICKS]
        ax.yaxis.set_major_locator(ThinnedLocator(labels, horizontal=False, places=_DEPTH_TICKS))
        ax.yaxis.set_major_formatter("{x:g}")
    else:
        depths = [depth_label(depth) for depth in table.rows]
        ax.yaxis.set_major_locator(ThinnedLocator(depths, horizontal=False))
        ax.yaxis.set_major_formatter(ColumnFormatter(depths))
    ax.spines[:].set(visible=True, color="#dddddd", linewidth=0.6)  # else blank edges have no end
    ax.tick_params(length=0, labelsize=TICK_SIZE, labelcolor=INK, labelrotation=0)
    xlabel = "Number of frames" if axis == "frames" else "Context length (tokens)"
    ax.set_xlabel(xlabel, fontsize=LABEL_SIZE, color=INK)
    ylabel = printable("Needle depth" if depth is None else depth)
    ax.set_ylabel(ylabel, fontsize=LABEL_SIZE, color=INK, parse_math=False)
    write_caption(ax, table.caption)


def _style_colorbar(ax: Axes, label: str, chance: float | None) -> None:
    """Adds the label, and a line at the score of a guess."""
    bar = ax.collections[0].colorbar
    assert bar is not None
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=SMALL_SIZE, labelcolor=INK)
    bar.set_label(printable(label), fontsize=LABEL_SIZE - 1, color=INK, parse_math=False)
    if chance is not None:
        bar.ax.axhline(chance, color=INK, linestyle=":", linewidth=1.6)
        bar.ax.annotate(
            "a guess",
            xy=(0, chance),
            xycoords=bar.ax.get_yaxis_transform(),
            xytext=(-2, 0),
            textcoords="offset points",
            horizontalalignment="right",
            verticalalignment="center",
            fontsize=SMALL_SIZE,
            color=FAINT,
            rotation=90,
            annotation_clip=False,
        )


def _column(count: float, counts: Sequence[int]) -> float | None:
    """Where a count lies among the columns, whose middles are at 0.5, 1.5, ...; None if outside.

    >>> _column(300, (200, 400, 1000))
    1.0
    """
    if isnan(count) or not counts or not counts[0] <= count <= counts[-1]:
        return None
    middles = [k + 0.5 for k in range(len(counts))]
    return float(np.interp(count, counts, middles))


def _draw_training_length(ax: Axes, position: float, *, num_columns: int) -> None:
    ax.axvline(position, color=INK, linestyle=":", linewidth=1.6)
    share = position / num_columns
    ax.annotate(
        "training length",
        xy=(position, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        horizontalalignment="left" if share < 0.2 else "right" if share > 0.8 else "center",
        verticalalignment="bottom",
        fontsize=SMALL_SIZE,
        color=FAINT,
        annotation_clip=False,
    )
