"""Lines that can be told apart in print, their axis of lengths, and a legend beside the data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from vniah.analysis.labels import LENGTH_LABELS
from vniah.analysis.plot.axes import SpacedLocator, count_labels
from vniah.analysis.plot.series import Series
from vniah.analysis.plot.style import INK, LABEL_SIZE, SMALL_SIZE, TICK_SIZE, write_label
from vniah.analysis.plot.typesetting import Fonts, text_width
from vniah.errors import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Counts = NDArray[np.intp]

LINE_COLORS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#56B4E9", "#D55E00", "#CC79A7")
"""Safe for colour-blind readers; neighbours also differ in grey. Source: M. Okabe and K. Ito,
"Color Universal Design" (2008), without their yellow, which is too light for lines on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))

MOST_LINES = len(LINE_COLORS) * len(DASHES)
"""More lines would have the same look as others."""

GRID_COLOR = "#e8e8e8"

_MARK_LINES = 6

_LOG_FROM = 16.0  # places that span more than this factor are on a logarithmic axis
_POINTS_PER_INCH = 72.0
_BELOW_LABEL = 12.0  # points: the pads of ticks and label, and the space above the legend
_HANDLE, _BETWEEN = 4.0, 1.2  # of a legend, in sizes of its letters
MARK_SIZE = 4.5  # points
_LINE_WIDTH = 1.5
_EDGE = 0.4  # of a band, in widths of its line
_WIDER = (1.0, 2.6)  # points, of lines and marks, for each line that is drawn over them
_MOST_WIDER = 3  # times


@dataclass(frozen=True)
class LineStyle:
    """The look of one of several lines: each differs from the others in more than its colour.

    Attributes:
        color: of the line, its marks and its band.
        dashes: as matplotlib's ``linestyle``.
        marker: as matplotlib's ``marker``.
        width: of the line, in points.
    """

    color: str
    dashes: Any
    marker: str
    width: float = _LINE_WIDTH


def line_style(place: int) -> LineStyle:
    """The look of the line at a place, from 0 to `MOST_LINES` - 1; no two are the same."""
    return LineStyle(
        LINE_COLORS[place % len(LINE_COLORS)],
        DASHES[place % len(DASHES)],
        MARKERS[place % len(MARKERS)],
    )


def num_over(series: Sequence[Series]) -> list["Counts"]:
    """How many later lines have the same value at the same length, and so lie over a mark.

    Returns:
        For each line ``[num_lengths]``.
    """
    seen: Counter[tuple[int, float]] = Counter()
    found = []
    for one in reversed(series):
        places = list(zip(one.lengths, np.round(one.values, 6).tolist(), strict=True))
        found.append(np.array([seen[place] for place in places]))
        seen.update(places)
    return found[::-1]


def mark_sizes(over: "Counts") -> "Floats":
    """The sizes of marks, in points, over which so many others lie."""
    return MARK_SIZE + _WIDER[1] * np.minimum(over, _MOST_WIDER)


def draw_line(
    ax: Axes, series: Series, style: LineStyle, *, label: str = "", over: "Counts | None" = None
) -> Line2D:
    """Draws values with their band, and a mark at each, which is hollow where samples are missing.

    Args:
        ax: where to draw.
        series: the numbers. Where there is no value, the line is interrupted.
        style: the look.
        label: for the legend.
        over: ``[num_lengths]``, how many lines are drawn over each mark, as `num_over` counts them:
            it is larger there, and the line wider if that is most of its length, so that all are
            seen.

    Returns:
        The line, for the legend.
    """
    look: dict[str, Any] = {"color": style.color, "clip_on": False}
    places = np.array(series.lengths, dtype=np.float64)
    is_known = ~np.isnan(series.values)
    over = np.zeros(len(places), dtype=np.intp) if over is None else np.where(is_known, over, 0)
    # Lines that share most of it.
    between = int(np.median(np.minimum(over[:-1], over[1:]))) if len(over) > 1 else 0
    (line,) = ax.plot(
        places,
        series.values,
        linestyle=style.dashes,
        linewidth=style.width + _WIDER[0] * min(between, _MOST_WIDER),
        marker=style.marker,
        markersize=MARK_SIZE,
        label=label,
        zorder=3,
        **look,
    )
    sizes, is_marked = mark_sizes(over), is_known & ~(series.is_whole & (over == 0))
    looks = zip(sizes[is_marked].tolist(), series.is_whole[is_marked].tolist(), strict=True)
    for size, is_whole in sorted(set(looks)):
        those = is_marked & (sizes == size) & (series.is_whole == is_whole)
        ax.plot(
            places[those],
            series.values[those],
            linestyle="none",
            marker=style.marker,
            markersize=size,
            markerfacecolor=style.color if is_whole else "white",
            zorder=3,
            **look,
        )
    if series.has_interval:
        _draw_band(ax, places, series, style)
    return line


def _draw_band(ax: Axes, places: "Floats", series: Series, style: LineStyle) -> None:
    """Draws the intervals: a band, or bars at a point alone, whose band has no width."""
    low, high = series.low, series.high
    is_known = ~np.isnan(low)
    ax.fill_between(
        places, low, high, where=is_known, color=style.color, alpha=0.15, linewidth=0, zorder=1
    )
    for ends in (low, high):
        ax.plot(
            places,
            ends,
            color=style.color,
            linestyle=style.dashes,
            linewidth=_EDGE * style.width,
            alpha=0.7,
            zorder=2,
        )
    around = np.pad(is_known, 1)
    is_alone = is_known & ~around[:-2] & ~around[2:]
    if is_alone.any():
        ax.errorbar(
            places[is_alone],
            series.values[is_alone],
            yerr=[
                (series.values - low).clip(0)[is_alone],
                (high - series.values).clip(0)[is_alone],
            ],
            color=style.color,
            linestyle="none",
            elinewidth=1.0,
            capsize=3.0,
            zorder=2,
        )


def scale_lengths(ax: Axes, groups: Sequence[Sequence[int]], *, axis: str) -> None:
    """Makes the horizontal axis one of lengths, with ticks at those that were measured.

    Args:
        ax: the axes.
        groups: numbers of frames, or of tokens, of each of the results, ascending. Where those of
            one result grow by factors, and all span more than a factor of 16, the axis is
            logarithmic.
        axis: what they count, ``"frames"`` or ``"tokens"``.
    """
    lengths = Counter(length for group in groups for length in group)
    places = sorted(lengths)
    if places[-1] > _LOG_FROM * places[0] and any(map(_is_geometric, groups)):
        ax.set_xscale("log", base=2)
    ends = np.array([(places[0], 0.0), (places[-1], 0.0)])
    ax.update_datalim(ends, updatey=False)  # lengths without a value are on the axis, too
    weights = [lengths[place] for place in places]
    ax.xaxis.set_major_locator(SpacedLocator(places, count_labels(places), weights))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.set_xlabel(LENGTH_LABELS[axis], fontsize=LABEL_SIZE, color=INK)


def _is_geometric(lengths: Sequence[int]) -> bool:
    """Whether lengths, ascending, grow by factors, such as doublings, and not by equal steps.

    >>> _is_geometric([32, 64, 128, 256, 512, 1024]), _is_geometric([100, 200, 300, 400, 500])
    (True, False)
    """
    by_factors, by_steps = sqrt(lengths[0] * lengths[-1]), (lengths[0] + lengths[-1]) / 2
    return bool(np.median(lengths) <= sqrt(by_factors * by_steps))


def style_curves(ax: Axes, *, label: str) -> None:
    """The look of axes with lines."""
    ax.grid(color=GRID_COLOR, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=0, labelsize=TICK_SIZE, labelcolor=INK)
    ax.set_ylabel("", fontsize=LABEL_SIZE, color=INK, parse_math=False)
    write_label(ax.yaxis.label, label)


def write_legend(
    ax: Axes, handles: Sequence[Line2D | ErrorbarContainer], *, title: str = ""
) -> Legend:
    """Writes a legend below the label of the horizontal axis, where it covers no data.

    It has as many columns as fit below the axes at their present width.

    Args:
        ax: the axes; their ticks and label have the sizes of `scale_lengths`.
        handles: lines with labels.
        title: the text above; empty for none.
    """
    labels = [str(handle.get_label()) for handle in handles]
    below = (TICK_SIZE + LABEL_SIZE) * 1.2 + _BELOW_LABEL
    shift = ScaledTranslation(0, -below / _POINTS_PER_INCH, ax.figure.dpi_scale_trans)
    legend = ax.legend(
        list(map(_key, handles)),
        labels,
        title=title or None,
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=ax.transAxes + shift,
        ncols=_num_columns(ax, labels),
        borderaxespad=0.0,
        borderpad=0.0,
        frameon=False,
        fontsize=SMALL_SIZE,
        title_fontsize=SMALL_SIZE,
        labelcolor=INK,
        handlelength=_HANDLE - 0.8,
        columnspacing=_BETWEEN,
    )
    legend.get_title().set_color(INK)
    fonts = Fonts.covering(labels)
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_fontfamily(fonts.behind(text))
    return legend


def _key(handle: Line2D | ErrorbarContainer) -> Line2D:
    """A line of the legend: all are of one width, so that their marks are seen."""
    line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
    key = Line2D([], [])
    key.update_from(line)
    key.set_linewidth(_LINE_WIDTH)
    key.set_markersize(MARK_SIZE)
    return key


def legend_room(ax: Axes) -> float:
    """How many points wide a label of the legend can be."""
    return ax.bbox.width / ax.figure.dpi * _POINTS_PER_INCH - _HANDLE * SMALL_SIZE


def wrapped_name(ax: Axes, name: str, mark: str = "") -> str:
    """A name in lines that fit below the axes: two at most, and cut in its middle for that.

    Args:
        ax: the axes.
        name: any text.
        mark: what is a part of it, and is never cut.
    """
    name = printable(name)
    fonts = Fonts.covering([name])
    style, room = fonts.style(SMALL_SIZE), legend_room(ax)
    lines = fonts.wrap_name(name, room, style, most=2)
    if mark not in " ".join(lines):
        lines = fonts.wrap_name(name.replace(f" ({mark})", ""), room, style, most=2)
        lines += fonts.wrap(mark, room, style, most=_MARK_LINES, elsewhere="")
    return "\n".join(lines)


def _num_columns(ax: Axes, labels: Sequence[str]) -> int:
    style = Fonts.covering(labels).style(SMALL_SIZE)
    longest = max(text_width(line, style) for label in labels for line in label.split("\n"))
    handle, between = _HANDLE * SMALL_SIZE, _BETWEEN * SMALL_SIZE
    most = max(1, int((legend_room(ax) + handle + between) / (longest + handle + between)))
    return ceil(len(labels) / ceil(len(labels) / most))
