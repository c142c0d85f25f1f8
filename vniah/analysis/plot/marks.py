"""What stands on the cells of a heatmap: hatches where samples have errors, and numbers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, to_hex
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, DrawingArea, HPacker, OffsetBox, TextArea, VPacker
from matplotlib.patches import Rectangle

from vniah.analysis.palettes import letters_on
from vniah.analysis.plot.style import BLANK, FAINT, INK, SMALL_SIZE
from vniah.analysis.plot.table import Corners, Place, Table
from vniah.analysis.plot.typesetting import SANS, text_width

_LOG = logging.getLogger("vniah")

FAILED_HATCH, PARTIAL_HATCH = "xxxxx", "////"
_FAILED_COLOR, _HATCH_COLOR = "#efefef", "#8a8a8a"

_NUMBER_SIZES = (7.5, 7.0, 6.5, 6.0)  # points, of letters; the largest that fits is taken
_NUMBER_PAD = 0.8  # points, around a number, which has the colour of its cell
_NUMBER_MARGIN = 2 * _NUMBER_PAD + 1.4  # points, left free in a cell beside a number
_LINE_HEIGHT = 1.15  # of a number, in sizes of its letters

_KEY_SIZE = (11.0, 7.0)  # points, of a sample in the legend
_POINTS_PER_INCH = 72.0


def hatch_errors(ax: Axes, table: Table, colors: Colormap) -> None:
    """Hatches the cells in which samples could not be run: all of them, or some.

    Args:
        ax: with the cells on it.
        table: the numbers.
        colors: of the cells, on which the hatch has to be seen.
    """
    if not (table.failed | table.partial).any():
        return
    corners: dict[tuple[str, str, str], list[Corners]] = {}
    for place in table.places():
        if table.failed[place.row, place.column]:
            kind = (FAILED_HATCH, _FAILED_COLOR, _HATCH_COLOR)
        elif table.partial[place.row, place.column]:
            kind = (PARTIAL_HATCH, "none", _letters_on(colors, table.share(place)))
        else:
            continue
        corners.setdefault(kind, []).append(place.corners)
    for (hatch, face, color), cells in corners.items():
        ax.add_collection(
            PolyCollection(cells, facecolors=face, edgecolors=color, linewidths=0.0, hatch=hatch),
            autolim=False,
        )


def add_legend(ax: Axes, table: Table, *, has_training_length: bool = False) -> Artist | None:
    """Says below the axes what hatched and blank cells are, if there are any.

    Args:
        ax: with the cells on it.
        table: the numbers.
        has_training_length: whether it also has to name the dotted line.

    Returns:
        The legend; None if there is nothing to say.
    """
    is_blank = [
        isnan(table.values[place.row, place.column]) and not table.failed[place.row, place.column]
        for place in table.places()
    ]
    rows: list[Artist] = []
    if has_training_length:
        line = Line2D([1, _KEY_SIZE[0]], [_KEY_SIZE[1] / 2] * 2, linestyle=":", color=INK)
        rows.append(_entry(line, "training length"))
    if table.failed.any():
        rows.append(_entry(_sample(FAILED_HATCH, _FAILED_COLOR, _HATCH_COLOR), "errors only"))
    if table.partial.any():
        sample = _sample(PARTIAL_HATCH, BLANK, INK)
        rows.append(_entry(sample, "some errors"))
    if any(is_blank):
        what = "not measured" if table.is_score else "no value"
        rows.append(_entry(_sample("", BLANK, _HATCH_COLOR), what))
    if not rows:
        return None
    legend = AnnotationBbox(
        VPacker(children=rows, pad=0, sep=2),
        (0, 0),
        xybox=(0, -4),
        xycoords=("axes fraction", ax.xaxis.label),
        boxcoords="offset points",
        box_alignment=(0, 1),
        pad=0,
        frameon=False,
        annotation_clip=False,
    )
    ax.add_artist(legend)
    return legend


def _sample(hatch: str, face: str, color: str) -> Rectangle:
    return Rectangle(
        (0, 0), *_KEY_SIZE, facecolor=face, edgecolor=color, hatch=hatch, linewidth=0.5
    )


def _entry(artist: Artist, text: str) -> OffsetBox:
    """A line of the legend: what is seen, and what it means."""
    area = DrawingArea(*_KEY_SIZE)
    area.add_artist(artist)
    words = TextArea(text, textprops={"fontsize": SMALL_SIZE, "color": FAINT})
    return HPacker(children=[area, words], align="center", pad=0, sep=4)


def write_numbers(axes: Sequence[Axes], tables: Sequence[Table], colors: Colormap) -> int:
    """Writes the values into the cells, as the present size of the axes allows.

    All have letters of one size, of at least 6 points, which the longest value decides. If one of
    the maps has no room for them, none has numbers: a map without any would look as if it had no
    values. They are black or white, as can be read on the cell's colour.

    Args:
        axes: with the cells of a map on each.
        tables: the numbers of each.
        colors: of the cells.

    Returns:
        The number of values that are left out because their cells are too small.
    """
    maps = [_Numbers.of(ax, table) for ax, table in zip(axes, tables, strict=True)]
    maps = [one for one in maps if one.texts]
    sizes = [one.size for one in maps]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return sum(len(one.texts) for one in maps)
    return sum(one.write(min(known), colors) for one in maps)


@dataclass(frozen=True)
class _Numbers:
    """The values of one map, at the present size of its axes.

    Attributes:
        ax: with the cells on it.
        table: the numbers.
        texts: what is written at each place.
        width: of all cells, in points.
        heights: of each cell, in points.
    """

    ax: Axes
    table: Table
    texts: Mapping[Place, str]
    width: float
    heights: Mapping[Place, float]

    @classmethod
    def of(cls, ax: Axes, table: Table) -> "_Numbers":
        """Those of a table whose cells are on the axes."""
        texts = {
            place: short_number(value, is_share=table.limits == (0.0, 1.0))
            for place in table.places()
            if not isnan(value := float(table.values[place.row, place.column]))
        }
        points = _POINTS_PER_INCH / ax.figure.dpi
        width = ax.bbox.width * points / max(1, len(table.frames))
        scale = ax.bbox.height * points / abs(ax.get_ylim()[0] - ax.get_ylim()[1])
        heights = {place: (place.bottom - place.top) * scale for place in texts}
        return cls(ax, table, texts, width, heights)

    @property
    def size(self) -> float | None:
        """The largest size of letters at which the texts fit into a cell; None if none is."""
        for size in _NUMBER_SIZES:
            style = FontProperties(family=SANS, size=size)
            widest = max(text_width(text, style) for text in set(self.texts.values()))
            is_high = size * _LINE_HEIGHT <= max(self.heights.values())
            if widest + _NUMBER_MARGIN <= self.width and is_high:
                return size
        return None

    def write(self, size: float, colors: Colormap) -> int:
        """Writes them; gives the number of values whose cells are not high enough."""
        fitting = [p for p in self.texts if self.heights[p] >= size * _LINE_HEIGHT]
        for place in fitting:
            _write_number(self.ax, place, self.texts[place], self.table.share(place), size, colors)
        return len(self.texts) - len(fitting)


def _write_number(
    ax: Axes, place: Place, text: str, share: float, size: float, colors: Colormap
) -> None:
    ax.text(
        place.column + 0.5,
        (place.top + place.bottom) / 2,
        text,
        fontsize=size,
        color=_letters_on(colors, share),
        bbox={"facecolor": colors(share), "linewidth": 0, "pad": _NUMBER_PAD},  # over hatches
        horizontalalignment="center",
        verticalalignment="center_baseline",
        clip_on=True,
    )


def tell_left_out(num_left_out: int) -> None:
    """Logs one line if values are left out because their cells are too small."""
    if num_left_out:
        _LOG.warning(
            f"{num_left_out:,} cells are too small for a number in letters of "
            f"{_NUMBER_SIZES[-1]:g} points, and have none; a wider picture has more room"
        )


def _letters_on(colors: Colormap, share: float) -> str:
    """The colour that can be read on the colour of a share; dark where a cell has none."""
    return INK if isnan(share) else letters_on(to_hex(colors(share)))


def short_number(value: float, *, is_share: bool) -> str:
    """A value for a cell: ``".8"``, ``".25"`` or ``"1"`` for a share, else three digits.

    What is not 0 or 1 is not shown as if it were.

    >>> short_number(0.8, is_share=True), short_number(0.998, is_share=True)
    ('.8', '<1')
    """
    if not is_share:
        return _without_zero(f"{value:.3g}")
    text = f"{value:.2f}"
    if text == "1.00":
        return "1" if value == 1 else "<1"
    if text == "0.00":
        return "0" if value == 0 else ">0"
    return _without_zero(text.rstrip("0"))


def _without_zero(text: str) -> str:
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
