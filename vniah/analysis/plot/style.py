"""Colours, sizes and texts of all pictures."""

from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from vniah.analysis.palettes import COLORS, MEASURE_COLORS
from vniah.errors import printable

INK = "#333333"
FAINT = "#777777"
LABEL_SIZE = 10.0  # points
SMALL_SIZE = 8.0
COLORBAR: dict[str, Any] = {"pad": 0.02, "aspect": 22}


def write_title(ax: Axes, text: str, *, pad: float = 8) -> None:
    """Writes a text above the axes, ``pad`` points away; empty for none."""
    if text:
        ax.set_title(
            "\n".join(map(printable, text.split("\n"))),
            fontsize=LABEL_SIZE + 1,
            color=INK,
            pad=pad,
            parse_math=False,
        )


def write_caption(ax: Axes, text: str, *, below: Artist | None = None) -> None:
    """Writes a text in small letters below the label of the horizontal axis; empty for none.

    Args:
        ax: the axes.
        text: the caption.
        below: what it stands below in place of the label, such as a legend.
    """
    if text:
        ax.annotate(
            text,
            xy=(0.5, 0),
            xycoords=ax.xaxis.label if below is None else below,
            xytext=(0, -4),
            textcoords="offset points",
            horizontalalignment="center",
            verticalalignment="top",
            fontsize=SMALL_SIZE,
            color=FAINT,
            annotation_clip=False,
            parse_math=False,
        )


def score_colors() -> LinearSegmentedColormap:
    """The colours of scores from 0 to 1."""
    return LinearSegmentedColormap.from_list("vniah", COLORS)


def measure_colors() -> LinearSegmentedColormap:
    """The colours of measures, from small to large.

    They say nothing of good and bad: a large error is bad, a large margin is not.
    """
    return LinearSegmentedColormap.from_list("vniah-measure", MEASURE_COLORS)
