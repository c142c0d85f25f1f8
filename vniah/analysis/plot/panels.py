"""Figures of one or several panels, as files that are the same everywhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vniah.files import atomic_path

# In inches.
_MARGINS = (1.55, 1.25)
_MAX_WIDTH = 21.0


@dataclass(frozen=True)
class Panel:
    """One of the pictures of a figure.

    Attributes:
        size: width and height of its axes, in inches.
        draw: draws it onto axes.
    """

    size: tuple[float, float]
    draw: Callable[[Axes], object]


def save_panels(panels: Sequence[Panel], path: Path) -> None:
    """Draws panels side by side, in as many rows as they need, into a PNG, PDF or SVG file.

    The file is whole or not there; pyplot and its backend are not touched. The settings of
    matplotlib are its defaults, so that the same panels give the same bytes everywhere.

    Args:
        panels: at least one.
        path: what `vniah.paths.picture_path` returns; missing folders above it are made.
    """
    with own_settings():
        figure = _draw_figure(panels)
        try:
            write_figure(figure, path)
        finally:
            figure.clear()


@contextmanager
def own_settings() -> Iterator[None]:
    """The defaults of matplotlib, whatever the user or the folder chose: one run, one picture."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "vniah", "pdf.fonttype": 42})
        yield


def _draw_figure(panels: Sequence[Panel]) -> Figure:
    """A figure on a canvas of its own."""
    widths, heights = _sizes(panels)
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
        if k < len(panels):
            panels[k].draw(ax)
        else:
            ax.set_axis_off()
    return figure


def _sizes(panels: Sequence[Panel]) -> tuple[list[float], list[float]]:
    """The widths of the columns of axes and the heights of their rows, in inches.

    There are as few rows as `_MAX_WIDTH` allows, with equally many axes in each.
    """
    widths, heights = zip(*(panel.size for panel in panels), strict=True)
    most = max(1, int(_MAX_WIDTH / (max(widths) + _MARGINS[0])))
    num_rows = ceil(len(panels) / most)
    num_columns = ceil(len(panels) / num_rows)
    return (
        [max(widths[k::num_columns]) for k in range(num_columns)],
        [max(heights[k : k + num_columns]) for k in range(0, len(panels), num_columns)],
    )


def write_figure(figure: Figure, path: Path) -> None:
    """Saves the figure; the same picture gives the same bytes.

    Args:
        figure: drawn with `own_settings`, as this is called.
        path: what `vniah.paths.picture_path` returns.
    """
    kind = path.suffix.lower()[1:]
    undated = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=200, metadata=undated)
