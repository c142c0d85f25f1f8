"""The depth x frames heatmap."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection, PolyCollection
from matplotlib.colors import Colormap, Normalize

from vniah.analysis.labels import LENGTH_LABELS
from vniah.analysis.plot.axes import ColumnFormatter, ThinnedLocator, count_labels, depth_label
from vniah.analysis.plot.captions import CORRECT, default_title, own_title
from vniah.analysis.plot.colorbar import colors_of, style_colorbar, ticks_of
from vniah.analysis.plot.marks import add_legend, hatch_errors, tell_left_out, write_numbers
from vniah.analysis.plot.second_axis import (
    SecondLabels,
    add_second_axis,
    require_tokens_given,
    second_labels,
)
from vniah.analysis.plot.style import (
    BLANK,
    COLORBAR,
    DEFAULT_PALETTE,
    FAINT,
    INK,
    LABEL_SIZE,
    SMALL_SIZE,
    TICK_SIZE,
    TITLE_PAD,
    write_caption,
    write_label,
    write_title,
)
from vniah.analysis.plot.table import Table, resolve
from vniah.analysis.plot.typesetting import tell_of_missing
from vniah.options import Palette, SecondAxis
from vniah.results import AnyResults, Results, one_result

_MAX_LINED_CELLS = 40  # with more cells side by side there are no white lines between them
_LINE_WIDTH = 0.8
_DEPTH_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_TRAINING_PAD = 10.0  # points that the words at the training length take above the axes


@dataclass(frozen=True)
class Look:
    """What can be chosen of a heatmap.

    Attributes:
        palette: the colours of scores.
        training_frames: where a dotted line is drawn; None for no line.
        second: the labels above the columns; None for none.
        colorbar: whether the heatmap has a colour bar of its own.
        caption: whether there is a caption.
    """

    palette: Palette = DEFAULT_PALETTE
    training_frames: float | None = None
    second: SecondLabels | None = None
    colorbar: bool = True
    caption: bool = True


@tell_of_missing()
def heatmap(
    results: AnyResults,
    ax: Axes | None = None,
    *,
    value: str = CORRECT,
    title: str | None = None,
    training_frames: float | None = None,
    colorbar: bool = True,
    palette: Palette = DEFAULT_PALETTE,
    annotate: bool = False,
    second_axis: SecondAxis | None = None,
    tokens_per_frame: int | None = None,
    caption: bool = True,
) -> Axes:
    """Draws the cells of a run, or of a published table, onto ``ax`` and gives it back.

    Depth increases downwards and the number of frames to the right; colours always span scores of
    0 to 1. Those of a measure are other colours, and span 0 to the largest mean of the measure and
    of its reference, or 0 to 1 for a share. Cells that were not measured stay blank; those with
    errors are hatched, on grey if they have nothing else, and a legend says so. If the grid has
    positions, their depths differ from column to column, and so do the heights of the cells. Never
    saves, shows or sizes a figure. Texts are wrapped, and numbers fitted, to the size that the
    axes have when this is called; a figure with ``layout="constrained"`` makes room for them.

    Args:
        results: what to draw, or its path. A run that is not complete is drawn with its whole grid.
        ax: where to draw; by default the current axes of pyplot.
        value: what is drawn: ``"correct"``, or a measure such as ``"error_seconds"``, as
            `Results.measure`.
        title: the text above the axes; by default the name and the average, ``""`` for none. That
            results are approximate is said below a title of your own.
        training_frames: where to draw a dotted line, in the units of the horizontal axis: frames,
            or tokens in a published text table. It is placed between the columns by interpolation;
            outside of the columns' range no line is drawn.
        colorbar: whether to draw a colour bar beside the axes.
        palette: the colours of scores: ``"safe"``, for colour-blind readers and in grey, or
            ``"published"``, those of the paper.
        annotate: whether to write the values into the cells. If the cells are too small for letters
            of 6 points there are none, and one line of the log says so.
        second_axis: what is counted above the axes: ``"seconds"`` of video, or visual ``"tokens"``;
            by default nothing.
        tokens_per_frame: for results that do not say it.
        caption: whether to write below the axes how many samples are behind a cell, what the
            average says about needles like these, the effective length, and what the controls say.

    Raises:
        InputError: there is no such palette, nothing is known of the second axis, or several
            results are given, which `vniah.save_heatmaps` takes.
        ResultsError: no sample has a number of the name ``value``.
    """
    results = one_result(results)
    require_tokens_given([results], tokens_per_frame)
    table = resolve(results, value)
    colors = colors_of(table, palette)
    second = None
    if second_axis is not None:
        second = second_labels(results, table.frames, second_axis, tokens_per_frame)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    draw_table(
        ax,
        table,
        results,
        title=default_title(results, value=value) if title is None else own_title(results, title),
        look=Look(palette, training_frames, second, colorbar, caption),
    )
    if annotate:
        tell_left_out(write_numbers([ax], [table], colors))
    return ax


def draw_table(ax: Axes, table: Table, results: Results, *, title: str, look: Look) -> Axes:
    """Draws the numbers of a table.

    Args:
        ax: where to draw.
        table: the numbers.
        results: where they come from: the axes are labelled as these say.
        title: the text above the axes; empty for none.
        look: how.
    """
    colors = colors_of(table, look.palette)
    cells = (_draw_columns if table.has_positions else _draw_matrix)(ax, table, colors)
    hatch_errors(ax, table, colors)
    label_axes(ax, table, axis=results.axis, depth=results.details.get("labels", {}).get("depth"))
    if not results.has_depths:
        ax.yaxis.set_visible(False)
    if look.colorbar:
        bar = ax.figure.colorbar(cells, ax=ax, ticks=ticks_of(table), **COLORBAR)
        style_colorbar(bar, table)
    if look.second is not None:
        add_second_axis(ax, look.second)
    training = look.training_frames
    position = None if training is None else _column(training, table.frames)
    is_named_above = position is not None and look.second is None
    if position is not None:
        ax.axvline(position, color=BLANK, linewidth=2.6)  # else it is lost on dark cells
        ax.axvline(position, color=INK, linestyle=":", linewidth=1.6)
        if is_named_above:
            _name_training_length(ax, position / len(table.frames))
    has_line_in_legend = position is not None and not is_named_above
    legend = add_legend(ax, table, has_training_length=has_line_in_legend)
    if look.caption:
        write_caption(ax, table.caption, below=legend)
    write_title(ax, title, pad=TITLE_PAD + _TRAINING_PAD * is_named_above)
    return ax


def _draw_matrix(ax: Axes, table: Table, colors: Colormap) -> Collection:
    """Draws cells of equal size: every column has the same depths."""
    import seaborn  # takes a second, and is needed only where something is drawn

    seaborn.heatmap(
        table.values,
        ax=ax,
        mask=np.isnan(table.values),
        vmin=table.limits[0],
        vmax=table.limits[1],
        cmap=colors,
        cbar=False,
        linewidths=_LINE_WIDTH if max(table.values.shape) <= _MAX_LINED_CELLS else 0.0,
        linecolor="white",
        xticklabels=False,
        yticklabels=False,
    )
    return ax.collections[0]


def _draw_columns(ax: Axes, table: Table, colors: Colormap) -> Collection:
    """Draws cells whose heights differ: every column has depths of its own."""
    places = list(table.places())
    widths: list[float] = []
    for num_frames in table.frames:
        depths = [row / num_frames for row in table.rows if row <= num_frames]
        densest = max((1 / (below - above) for above, below in pairwise(depths)), default=1)
        is_lined = max(len(table.frames), densest) <= _MAX_LINED_CELLS
        widths += [_LINE_WIDTH if is_lined else 0.0] * len(depths)
    cells = PolyCollection(
        [place.corners for place in places],
        array=np.ma.masked_invalid([table.values[place.row, place.column] for place in places]),
        cmap=colors,
        norm=Normalize(*table.limits),
        edgecolors="white",
        linewidths=widths,
        antialiaseds=[width > 0 for width in widths],  # else the background shines through
    )
    ax.add_collection(cells)
    ax.set(xlim=(0, len(table.frames)), ylim=(1, 0))
    return cells


def label_axes(ax: Axes, table: Table, *, axis: str, depth: str | None) -> None:
    """Writes the numbers of frames and the depths along the axes, and what they are."""
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
    ax.spines[:].set(visible=True, color="#cccccc", linewidth=0.6)  # else blank edges have no end
    ax.tick_params(length=0, labelsize=TICK_SIZE, labelcolor=INK, labelrotation=0)
    ax.set_xlabel(LENGTH_LABELS[axis], fontsize=LABEL_SIZE, color=INK)
    ax.set_ylabel("", fontsize=LABEL_SIZE, color=INK, parse_math=False)
    write_label(ax.yaxis.label, "Needle depth" if depth is None else depth)


def _column(count: float, counts: Sequence[int]) -> float | None:
    """Where a count lies among the columns, whose middles are at 0.5, 1.5, ...; None if outside.

    >>> _column(300, (200, 400, 1000))
    1.0
    """
    if isnan(count) or not counts or not counts[0] <= count <= counts[-1]:
        return None
    middles = [k + 0.5 for k in range(len(counts))]
    return float(np.interp(count, counts, middles))


def _name_training_length(ax: Axes, share: float) -> None:
    """Writes above the axes what the dotted line at this share of their width is."""
    ax.annotate(
        "training length",
        xy=(share, 1),
        xycoords=ax.transAxes,
        xytext=(0, 2),
        textcoords="offset points",
        horizontalalignment="left" if share < 0.2 else "right" if share > 0.8 else "center",
        verticalalignment="bottom",
        fontsize=SMALL_SIZE,
        color=FAINT,
        annotation_clip=False,
    )
