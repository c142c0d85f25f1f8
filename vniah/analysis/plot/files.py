"""Pictures as files: one panel for each result, side by side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vniah.analysis.labels import rope_remarks
from vniah.analysis.plot.heatmaps import heatmap
from vniah.analysis.plot.table import Table, default_title, resolve
from vniah.errors import InputError
from vniah.files import atomic_path
from vniah.paths import user_path
from vniah.results import Results

_SUFFIXES = (".png", ".pdf", ".svg")

# In inches.
_CELL_SIZE = 0.46
_MIN_AXES = (2.4, 1.7)
_MAX_AXES = (7.6, 5.2)
_MARGINS = (1.55, 1.25)
_MAX_WIDTH = 21.0


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
        titles = list(map(default_title, results, rope_remarks(results)))
    positions = [
        _training_position(result, tokens, tokens_per_frame)
        for result, tokens in zip(results, _one_each(training_tokens, len(results)), strict=True)
    ]
    with own_settings():
        figure = _draw_figure(results, titles, positions)
        write_figure(figure, path)
    return path


@contextmanager
def own_settings() -> Iterator[None]:
    """The defaults of matplotlib, whatever the user or the folder chose: one run, one picture."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "vniah", "pdf.fonttype": 42})
        yield


def _draw_figure(
    results: Sequence[Results], titles: Sequence[str], positions: Sequence[float | None]
) -> Figure:
    """A figure with one heatmap per result, on a canvas of its own."""
    widths, heights = panel_sizes([resolve(result) for result in results])
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


def panel_sizes(tables: Sequence[Table]) -> tuple[list[float], list[float]]:
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


def write_figure(figure: Figure, path: Path) -> None:
    """Saves the figure; the same picture gives the same bytes."""
    kind = path.suffix.lower()[1:]
    undated = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=200, metadata=undated)
    finally:
        figure.clear()
