"""The depth x frames heatmap, in the published look. Imported only where something is drawn."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isnan
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedFormatter, FixedLocator

from vniah.errors import InputError
from vniah.grid import Cell, format_depth
from vniah.results import CellScore, Results, read_depth

COLORS = ("#F0496E", "#EBB839", "#9ad5b3")

_SUFFIXES = (".png", ".pdf", ".svg")
_INK = "#333333"
_FAINT = "#777777"
_LABEL_SIZE = 10.0  # points
_TICK_SIZE = 9.0
_SMALL_SIZE = 8.0
_POINTS_PER_INCH = 72.0
_MAX_DEPTH_DIGITS = 4

# The figure of `save_heatmaps`, in inches.
_CELL_SIZE = 0.42
_MIN_AXES = (2.4, 1.7)
_MAX_AXES = (7.6, 5.2)
_MARGINS = (1.55, 1.25)
_MAX_WIDTH = 17.0


@dataclass(frozen=True)
class _Table:
    """What is drawn, resolved.

    Attributes:
        frames: one count a column, ascending.
        depths: one a row, ascending, from the top down.
        scores: [num_depths, num_counts], in [0, 1]; NaN where there is none.
        caption: what stands behind a cell; empty if nobody knows.
    """

    frames: tuple[int, ...]
    depths: tuple[Fraction, ...]
    scores: npt.NDArray[np.float64]
    caption: str


def heatmap(
    results: Results,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    training_frames: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draws the cells of a run, or of a published table, onto ``ax`` and gives it back.

    Depth goes down, frames go to the right, and colours are fixed to scores of 0 to 1. Cells that
    were not measured, or have errors only, stay blank. Never saves, shows or sizes a figure.

    Args:
        results: what to draw; a run that is not complete is drawn with the whole of its grid.
        ax: where to draw; by default the current axes of pyplot.
        title: above the axes; by default the name and the average. ``""`` for none.
        training_frames: where to draw a dotted line, in the units of the horizontal axis (frames,
            or tokens in a published text table). It is placed between the columns by
            interpolation. Outside of the columns' counts there is no place for it, and no line.
        colorbar: whether to draw one beside the axes.
    """
    table = _resolve(results)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    seaborn.heatmap(
        table.scores,
        ax=ax,
        mask=np.isnan(table.scores),
        vmin=0.0,
        vmax=1.0,
        cmap=LinearSegmentedColormap.from_list("vniah", COLORS),
        cbar=colorbar,
        cbar_kws={"ticks": (0, 0.25, 0.5, 0.75, 1), "pad": 0.02, "aspect": 22},
        linewidths=0.8 if max(table.scores.shape) <= 40 else 0.0,
        linecolor="white",
        xticklabels=False,
        yticklabels=False,
    )
    _label(ax, table, axis=results.axis)
    if colorbar:
        _style_colorbar(ax)
    position = None if training_frames is None else _column(training_frames, table.frames)
    if position is not None:
        _draw_training_length(ax, position, num_columns=len(table.frames))
    text = _default_title(results) if title is None else title
    if text:
        ax.set_title(
            text,
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
    training_tokens: int | None = None,
    tokens_per_frame: int | None = None,
    titles: Sequence[str] | None = None,
) -> Path:
    """Draws one heatmap per result, side by side, into a PNG, PDF or SVG file.

    The file is whole or not there; pyplot and its backend are left alone.

    Args:
        results: at least one.
        path: its suffix says which kind of file; missing folders above it are made.
        training_tokens: the length that the model was trained at, drawn as a dotted line.
        tokens_per_frame: turns tokens into frames; by default what each run's manifest says.
        titles: one per result, instead of names and averages.

    Raises:
        InputError: another suffix, no results, or nobody knows the tokens of a frame.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"a heatmap cannot be saved as {path.name!r}: use one of {', '.join(_SUFFIXES)}"
        )
    if not results:
        raise InputError("there are no results to draw: give at least one")
    if titles is not None and len(titles) != len(results):
        raise InputError(f"{len(titles)} titles for {len(results)} results: give one for each")
    positions = [
        _training_position(result, training_tokens, tokens_per_frame) for result in results
    ]
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
            title = titles[k] if titles is not None else None
            heatmap(results[k], ax, title=title, training_frames=positions[k])
        else:
            ax.set_axis_off()
    _write(figure, path)
    return path


def _resolve(results: Results) -> _Table:
    """The axes and numbers: every cell that has a sample, and those that a run's grid names."""
    scores = {score.cell: score for score in results.cells}
    grid = results.manifest.get("grid", {"frames": (), "depths": ()})
    planned_depths = {read_depth(depth) for depth in grid["depths"]}
    frames = sorted({cell.num_frames for cell in scores} | set(grid["frames"]))
    depths = sorted({cell.depth for cell in scores} | planned_depths)
    values = np.full((len(depths), len(frames)), np.nan)
    for row, depth in enumerate(depths):
        for column, num_frames in enumerate(frames):
            found = scores.get(Cell(num_frames, depth))
            if found is not None and found.score is not None:
                values[row, column] = found.score
    return _Table(tuple(frames), tuple(depths), values, _caption(results, tuple(scores.values())))


def _caption(results: Results, scores: Sequence[CellScore]) -> str:
    counts = [score.num_samples for score in scores if score.num_samples]
    parts = []
    if counts:
        low, high = min(counts), max(counts)
        parts.append(f"n = {low} per cell" if low == high else f"n = {low}-{high} per cell")
    if num_errors := sum(score.num_errors for score in scores):
        parts.append(f"{num_errors} error" if num_errors == 1 else f"{num_errors} errors")
    if not results.is_complete:
        parts.append(f"{results.num_done} of {results.num_planned} samples")
    return ", ".join(parts)


def _default_title(results: Results) -> str:
    average = results.average
    return results.name if average is None else f"{results.name} (average {average:.4f})"


def _depth_label(depth: Fraction) -> str:
    """The depth in percent, as an exact decimal of up to four digits after the point."""
    text = format_depth(depth * 100)
    if "/" in text:
        return format_depth(depth)
    return text + "%" if len(text.partition(".")[2]) <= _MAX_DEPTH_DIGITS else _rounded(depth)


def _rounded(depth: Fraction) -> str:
    return f"{float(depth * 100):.{_MAX_DEPTH_DIGITS}f}".rstrip("0").rstrip(".") + "%"


def _count_labels(counts: Sequence[int], *, axis: str) -> tuple[str, ...]:
    """Counts as in the published plots: 200, 800, 1.0K, 3.0K; token counts as 32K.

    Never a rounded one: 1,250 stays as it is.
    """

    def label(count: int) -> str:
        if axis == "tokens" and count % 1000 == 0:
            return f"{count // 1000:,}K"
        if count >= 1000 and count % 100 == 0:
            return f"{count / 1000:,.1f}K"
        return f"{count:,}" if count >= 10_000 else str(count)

    return tuple(label(count) for count in counts)


class _ThinnedLocator(FixedLocator):
    """The middle of every column or row, or of every second, third, ... so that labels fit.

    How many fit depends on the size of the axes, which may change after drawing: so it is worked
    out whenever the axis asks.
    """

    def __init__(self, labels: Sequence[str], *, horizontal: bool) -> None:
        self._middles = [k + 0.5 for k in range(len(labels))]
        super().__init__(self._middles)
        self._horizontal = horizontal
        longest = max((len(label) for label in labels), default=1)
        # A digit is about 0.64 of the font size wide; one more keeps neighbours apart.
        self._needed = _TICK_SIZE * (0.64 * (longest + 1) if horizontal else 1.3)

    def __call__(self) -> list[float]:
        assert isinstance(self.axis, Axis)
        ax = self.axis.axes
        pixels = ax.bbox.width if self._horizontal else ax.bbox.height
        points = pixels / ax.figure.dpi * _POINTS_PER_INCH
        step = ceil(self._needed * len(self._middles) / max(points, 1.0))
        return self._middles[:: max(1, step)]


class _ColumnFormatter(FixedFormatter):
    """The label of the column or row that a tick stands at, whichever ticks there are."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        k = int(x)
        return str(self.seq[k]) if 0 <= k < len(self.seq) else ""


def _label(ax: Axes, table: _Table, *, axis: str) -> None:
    counts = _count_labels(table.frames, axis=axis)
    depths = tuple(_depth_label(depth) for depth in table.depths)
    for side, labels in ((ax.xaxis, counts), (ax.yaxis, depths)):
        side.set_major_locator(_ThinnedLocator(labels, horizontal=side is ax.xaxis))
        side.set_major_formatter(_ColumnFormatter(labels))
    ax.spines[:].set(visible=True, color="#dddddd", linewidth=0.6)  # else blank edges have no end
    ax.tick_params(length=0, labelsize=_TICK_SIZE, labelcolor=_INK, labelrotation=0)
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
    """The widths and heights, in inches, of the axes that stand side by side and below each other.

    Square cells as far as the limits go; as many heatmaps in a row as `_MAX_WIDTH` takes.
    """
    widths = [_limit(len(table.frames), 0) for table in tables]
    heights = [_limit(len(table.depths), 1) for table in tables]
    num_columns = min(len(tables), max(1, int(_MAX_WIDTH / (max(widths) + _MARGINS[0]))))
    return (
        [max(widths[k::num_columns]) for k in range(num_columns)],
        [max(heights[k : k + num_columns]) for k in range(0, len(tables), num_columns)],
    )


def _limit(num_cells: int, side: int) -> float:
    return min(max(num_cells * _CELL_SIZE, _MIN_AXES[side]), _MAX_AXES[side])


def _write(figure: Figure, path: Path) -> None:
    """Saves under a temporary name and renames; the same picture gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lower()[1:]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    undated = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    try:
        with matplotlib.rc_context({"svg.hashsalt": "vniah", "pdf.fonttype": 42}):
            figure.savefig(temporary, format=kind, dpi=200, metadata=undated)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        figure.clear()
