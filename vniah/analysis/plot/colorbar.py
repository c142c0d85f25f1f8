"""The colours of a heatmap and the bar that explains them."""

from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap

from vniah.analysis.plot.style import (
    BLANK,
    FAINT,
    INK,
    LABEL_SIZE,
    SMALL_SIZE,
    measure_colors,
    score_colors,
    write_label,
)
from vniah.analysis.plot.table import Table
from vniah.options import Palette

_SCORE_TICKS = (0, 0.25, 0.5, 0.75, 1)


def colors_of(table: Table, palette: Palette) -> Colormap:
    """The colours of a table: of scores, or of a measure.

    Raises:
        InputError: there is no such palette.
    """
    scores = score_colors(palette)
    return scores if table.is_score else measure_colors()


def ticks_of(table: Table) -> tuple[float, ...] | None:
    """Where the colour bar has ticks; None lets matplotlib choose."""
    return _SCORE_TICKS if table.limits == (0.0, 1.0) else None


def style_colorbar(bar: Colorbar, table: Table) -> None:
    """Adds the label, and a line at the score of a guess."""
    is_upright = bar.orientation == "vertical"
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=SMALL_SIZE, labelcolor=INK)
    bar.set_label("", fontsize=LABEL_SIZE, color=INK, parse_math=False)
    write_label((bar.ax.yaxis if is_upright else bar.ax.xaxis).label, table.label)
    if table.chance is None:
        return
    draw_line = bar.ax.axhline if is_upright else bar.ax.axvline
    draw_line(table.chance, color=BLANK, linewidth=2.6)  # else it is lost on dark colours
    draw_line(table.chance, color=INK, linestyle=":", linewidth=1.6)
    bar.ax.annotate(
        "a guess",
        xy=(0, table.chance) if is_upright else (table.chance, 1),
        xycoords=bar.ax.get_yaxis_transform() if is_upright else bar.ax.get_xaxis_transform(),
        xytext=(-2, 0) if is_upright else (0, 2),
        textcoords="offset points",
        horizontalalignment="right" if is_upright else "center",
        verticalalignment="center" if is_upright else "bottom",
        fontsize=SMALL_SIZE,
        color=FAINT,
        rotation=90 if is_upright else 0,
        annotation_clip=False,
    )


def share_colorbar(table: Table, bar: Axes, first: Axes, is_upright: bool) -> None:
    """Draws the colour bar of several heatmaps, as that of the first one.

    Args:
        table: the numbers of the first one.
        bar: where to draw.
        first: the axes of the first one.
        is_upright: whether the bar stands beside the heatmaps, or lies below them.
    """
    style_colorbar(
        bar.figure.colorbar(
            first.collections[0],
            cax=bar,
            orientation="vertical" if is_upright else "horizontal",
            ticks=ticks_of(table),
        ),
        table,
    )
