"""The depth x frames heatmap, in the published look. Imported only when something is drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, isnan
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vniah.analysis.axes import (
    TICK_SIZE,
    ColumnFormatter,
    ThinnedLocator,
    count_labels,
    depth_label,
)
from vniah.analysis.labels import rope_remarks
from vniah.errors import InputError, counted, printable
from vniah.files import atomic_path
from vniah.grid import Cell
from vniah.paths import user_path
from vniah.results import CellScore, Results

COLORS = ("#F0496E", "#EBB839", "#9ad5b3")

_SUFFIXES = (".png", ".pdf", ".svg")
_INK = "#333333"
_FAINT = "#777777"
_LABEL_SIZE = 10.0  # points
_SMALL_SIZE = 8.0
_MAX_LINED_CELLS = 40  # with more cells side by side there are no white lines between them
_LINE_WIDTH = 0.8
_TITLE_WIDTH = 42  # letters, of the text below a name
_DEPTH_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_COLORBAR: dict[str, Any] = {"ticks": (0, 0.25, 0.5, 0.75, 1), "pad": 0.02, "aspect": 22}

# The figure of `save_heatmaps`, in inches.
_CELL_SIZE = 0.46
_MIN_AXES = (2.4, 1.7)
_MAX_AXES = (7.6, 5.2)
_MARGINS = (1.55, 1.25)
_MAX_WIDTH = 21.0


@dataclass(frozen=True)
class _Table:
    """The numbers that are drawn.

    Attributes:
        frames: one number of frames for each column, ascending.
        rows: one depth, or one position, for each row, ascending from the top down.
        scores: [len(rows), len(frames)], in [0, 1]; NaN where there is no score.
        caption: how many samples stand behind a cell; empty if that is not known.
        has_positions: whether rows are positions, so that depths differ from column to column.
    """

    frames: tuple[int, ...]
    rows: tuple[Fraction, ...]
    scores: npt.NDArray[np.float64]
    caption: str
    has_positions: bool


def heatmap(
    results: Results,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    training_frames: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draws the cells of a run, or of a published table, onto ``ax`` and gives it back.

    Depth increases downwards and the number of frames to the right; colours always span scores of
    0 to 1. Cells without a score, because they were not measured or have only errors, stay blank.
    If the grid has positions, their depths differ from column to column, and so do the heights of
    the cells. Never saves, shows or sizes a figure.

    Args:
        results: what to draw. A run that is not complete is drawn with its whole grid.
        ax: where to draw; by default the current axes of pyplot.
        title: the text above the axes; by default the name and the average, ``""`` for none.
        training_frames: where to draw a dotted line, in the units of the horizontal axis: frames,
            or tokens in a published text table. It is placed between the columns by interpolation;
            outside of the columns' range no line is drawn.
        colorbar: whether to draw a colour bar beside the axes.
    """
    table = _resolve(results)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    (_draw_columns if table.has_positions else _draw_matrix)(ax, table, colorbar=colorbar)
    _label(ax, table, axis=results.axis)
    if colorbar:
        _style_colorbar(ax)
    position = None if training_frames is None else _column(training_frames, table.frames)
    if position is not None:
        _draw_training_length(ax, position, num_columns=len(table.frames))
    text = _default_title(results) if title is None else title
    if text:
        ax.set_title(
            "\n".join(map(printable, text.split("\n"))),
            fontsize=_LABEL_SIZE + 1,
            color=_INK,
            pad=8 if position is None else 17,
            parse_math=False,
        )
    return ax


def save_heatmaps(
    results: Sequence[Results],
    path: Path,
    *,
    training_tokens: int | Sequence[int | None] | None = None,
    tokens_per_frame: int | None = None,
    titles: Sequence[str] | None = None,
) -> Path:
    """Draws one heatmap per result, side by side, into a PNG, PDF or SVG file.

    The file is whole or not there; pyplot and its backend are not touched. The settings of
    matplotlib are its defaults, so that a run gives the same picture everywhere.

    Args:
        results: at least one.
        path: the file; its suffix chooses the format, and missing folders above it are made.
        training_tokens: the length at which the model was trained, drawn as a dotted line; or one
            length for each result, None for no line.
        tokens_per_frame: turns tokens into frames; by default what each run's manifest says.
        titles: one for each result; by default its name and average, and its RoPE if results of
            the same name differ in that.

    Raises:
        InputError: the suffix is unknown, there are no results, or the number of tokens of a frame
            is not known.
    """
    path = user_path(path, "a picture")
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"a heatmap cannot be saved as {path.name!r}: use one of {', '.join(_SUFFIXES)}"
        )
    if not results:
        raise InputError("there are no results to draw: give at least one")
    if titles is not None and len(titles) != len(results):
        raise InputError(f"{len(titles)} titles for {len(results)} results: give one for each")
    if titles is None:
        titles = list(map(_default_title, results, rope_remarks(results)))
    positions = [
        _training_position(result, tokens, tokens_per_frame)
        for result, tokens in zip(results, _one_each(training_tokens, len(results)), strict=True)
    ]
    with _own_settings():
        figure = _draw_figure(results, titles, positions)
        _write(figure, path)
    return path


@contextmanager
def _own_settings() -> Iterator[None]:
    """The defaults of matplotlib, whatever the user or the folder chose: one run, one picture."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "vniah", "pdf.fonttype": 42})
        yield


def _draw_figure(
    results: Sequence[Results], titles: Sequence[str], positions: Sequence[float | None]
) -> Figure:
    """A figure with one heatmap per result, on a canvas of its own."""
    widths, heights = _panel_sizes([_resolve(result) for result in results])
    figure = Figure(
        figsize=(
            sum(widths) + _MARGINS[0] * len(widths),
            sum(heights) + _MARGINS[1] * len(heights),
        ),
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08),
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(heights), len(widths), width_ratios=widths, height_ratios=heights, squeeze=False
    )
    for k, ax in enumerate(axes.flat):
        if k < len(results):
            heatmap(results[k], ax, title=titles[k], training_frames=positions[k])
        else:
            ax.set_axis_off()
    return figure


def _resolve(results: Results) -> _Table:
    """The table of all cells that have a sample, and of those in the run's grid."""
    grid = results.grid

    def place(cell: Cell) -> tuple[Fraction, int]:
        return results.row_of(cell), cell.num_frames

    scores = {place(found.cell): found.score for found in results.cells}
    places = scores.keys() | {place(cell) for cell in (() if grid is None else grid.cells)}
    frames = sorted({num_frames for _, num_frames in places})
    rows = sorted({row for row, _ in places})
    values = np.full((len(rows), len(frames)), np.nan)
    for k, row in enumerate(rows):
        for column, num_frames in enumerate(frames):
            score = scores.get((row, num_frames))
            if score is not None:
                values[k, column] = score
    caption = _caption(results, results.cells)
    return _Table(tuple(frames), tuple(rows), values, caption, results.has_positions)


def _colors() -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("vniah", COLORS)


def _draw_matrix(ax: Axes, table: _Table, *, colorbar: bool) -> None:
    """Draws cells of equal size: every column has the same depths."""
    import seaborn  # takes a second, and is needed only where something is drawn

    seaborn.heatmap(
        table.scores,
        ax=ax,
        mask=np.isnan(table.scores),
        vmin=0.0,
        vmax=1.0,
        cmap=_colors(),
        cbar=colorbar,
        cbar_kws=_COLORBAR,
        linewidths=_LINE_WIDTH if max(table.scores.shape) <= _MAX_LINED_CELLS else 0.0,
        linecolor="white",
        xticklabels=False,
        yticklabels=False,
    )


def _draw_columns(ax: Axes, table: _Table, *, colorbar: bool) -> None:
    """Draws cells whose heights differ: every column has depths of its own."""
    corners: list[tuple[tuple[float, float], ...]] = []
    scores: list[float] = []
    widths: list[float] = []
    for k, num_frames in enumerate(table.frames):
        depths = [row / num_frames for row in table.rows if row <= num_frames]
        corners += [((k, a), (k + 1, a), (k + 1, b), (k, b)) for a, b in _spans(depths)]
        scores += table.scores[: len(depths), k].tolist()
        densest = max((1 / (below - above) for above, below in pairwise(depths)), default=1)
        is_lined = max(len(table.frames), densest) <= _MAX_LINED_CELLS
        widths += [_LINE_WIDTH if is_lined else 0.0] * len(depths)
    cells = PolyCollection(
        corners,
        array=np.ma.masked_invalid(scores),
        cmap=_colors(),
        norm=Normalize(0.0, 1.0),
        edgecolors="white",
        linewidths=widths,
        antialiaseds=[width > 0 for width in widths],  # else the background shines through
    )
    ax.add_collection(cells)
    ax.set(xlim=(0, len(table.frames)), ylim=(1, 0))
    if colorbar:
        ax.figure.colorbar(cells, ax=ax, **_COLORBAR)


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


def _caption(results: Results, scores: Sequence[CellScore]) -> str:
    counts = [score.num_samples for score in scores if score.num_samples]
    parts = []
    if counts:
        low, high = min(counts), max(counts)
        parts.append(f"n = {low:,} per cell" if low == high else f"n = {low:,}-{high:,} per cell")
    if num_errors := sum(score.num_errors for score in scores):
        parts.append(counted(num_errors, "error"))
    if not results.is_complete:
        parts.append(f"{results.num_done:,} of {results.num_planned:,} samples")
    return ", ".join(parts)


def _default_title(results: Results, remark: str = "") -> str:
    name, average = printable(results.short_name), results.average
    if average is None:
        return f"{name}\n{fill(remark, _TITLE_WIDTH)}" if remark else name
    of_average = f"(average {average:.4f})"
    if results.num_scored_cells != results.num_planned_cells:
        of_average = f"(average {average:.4f} over {results.coverage})"
        return f"{name}\n{fill(f'{remark} {of_average}'.strip(), _TITLE_WIDTH)}"
    if not remark:
        return f"{name} {of_average}"
    return f"{name}\n{fill(f'{remark} {of_average}', _TITLE_WIDTH)}"


def _label(ax: Axes, table: _Table, *, axis: str) -> None:
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
    ax.tick_params(length=0, labelsize=TICK_SIZE, labelcolor=_INK, labelrotation=0)
    xlabel = "Number of frames" if axis == "frames" else "Context length (tokens)"
    ax.set_xlabel(xlabel, fontsize=_LABEL_SIZE, color=_INK)
    ax.set_ylabel("Needle depth", fontsize=_LABEL_SIZE, color=_INK)
    if table.caption:
        ax.annotate(
            table.caption,
            xy=(0.5, 0),
            xycoords=ax.xaxis.label,
            xytext=(0, -4),
            textcoords="offset points",
            horizontalalignment="center",
            verticalalignment="top",
            fontsize=_SMALL_SIZE,
            color=_FAINT,
            annotation_clip=False,
        )


def _style_colorbar(ax: Axes) -> None:
    bar = ax.collections[0].colorbar
    assert bar is not None
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=_SMALL_SIZE, labelcolor=_INK)
    bar.set_label("Accuracy", fontsize=_LABEL_SIZE - 1, color=_INK)


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
    ax.axvline(position, color=_INK, linestyle=":", linewidth=1.6)
    share = position / num_columns
    ax.annotate(
        "training length",
        xy=(position, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        horizontalalignment="left" if share < 0.2 else "right" if share > 0.8 else "center",
        verticalalignment="bottom",
        fontsize=_SMALL_SIZE,
        color=_FAINT,
        annotation_clip=False,
    )


def _one_each(training_tokens: object, count: int) -> list[Any]:
    """The training length of every result, from one for all of them or a list with one for each."""
    if training_tokens is None or isinstance(training_tokens, (int, np.integer)):
        return [training_tokens] * count
    if isinstance(training_tokens, str) or not isinstance(training_tokens, Sequence):
        raise InputError(
            f"the training length is {training_tokens!r}: give a whole number of tokens, or a list "
            "with one for each result"
        )
    if len(training_tokens) != count:
        raise InputError(
            f"{len(training_tokens)} training lengths for {count} results: give one for each"
        )
    return list(training_tokens)


def _training_position(
    results: Results, training_tokens: int | None, tokens_per_frame: int | None
) -> float | None:
    """The training length in the units of the horizontal axis."""
    if training_tokens is None:
        return None
    if training_tokens < 1:
        raise InputError(f"the training length must be at least 1 token, got {training_tokens}")
    if results.axis == "tokens":
        return float(training_tokens)
    if tokens_per_frame is None:
        tokens_per_frame = results.tokens_per_frame
    if tokens_per_frame is None:
        raise InputError(
            f"{results.path} does not say how many tokens a frame has, so a training length of "
            f"{training_tokens:,} tokens has no place among its frames: give --tokens-per-frame"
        )
    if tokens_per_frame < 1:
        raise InputError(f"tokens per frame must be at least 1, got {tokens_per_frame}")
    return training_tokens / tokens_per_frame


def _panel_sizes(tables: Sequence[_Table]) -> tuple[list[float], list[float]]:
    """The widths of the columns of axes and the heights of their rows, in inches.

    Cells are square within the limits of an axes' size. There are as few rows as `_MAX_WIDTH`
    allows, with equally many axes in each.
    """
    widths = [_limit(len(table.frames), 0) for table in tables]
    heights = [_limit(len(table.rows), 1) for table in tables]
    most = max(1, int(_MAX_WIDTH / (max(widths) + _MARGINS[0])))
    num_rows = ceil(len(tables) / most)
    num_columns = ceil(len(tables) / num_rows)
    return (
        [max(widths[k::num_columns]) for k in range(num_columns)],
        [max(heights[k : k + num_columns]) for k in range(0, len(tables), num_columns)],
    )


def _limit(num_cells: int, side: int) -> float:
    return min(max(num_cells * _CELL_SIZE, _MIN_AXES[side]), _MAX_AXES[side])


def _write(figure: Figure, path: Path) -> None:
    """Saves the figure; the same picture gives the same bytes."""
    kind = path.suffix.lower()[1:]
    undated = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=200, metadata=undated)
    finally:
        figure.clear()
