"""Colours, sizes and texts of all pictures."""

from dataclasses import dataclass
from typing import Any, get_args
from weakref import WeakKeyDictionary

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from vniah.analysis.palettes import COLORS, MEASURE_COLORS, SAFE_COLORS
from vniah.analysis.plot.typesetting import NO_BREAK, Fonts, text_width
from vniah.errors import InputError
from vniah.options import Palette

DEFAULT_PALETTE: Palette = "safe"

INK = "#333333"
FAINT = "#666666"
BLANK = "white"

# Sizes of letters in points. They are the same in every picture, however large it is and however
# many panels it has.
TITLE_SIZE = 9.0
LABEL_SIZE = 8.0
TICK_SIZE = 7.5
SMALL_SIZE = 7.0

COLORBAR: dict[str, Any] = {"pad": 0.02, "aspect": 22}

TITLE_PAD = 6.0  # points between a title and what is below it

_POINTS_PER_INCH = 72.0
_LEVELS = 1001  # of a colour map, in which tenths have their exact colours
_NAME_LINES = 2  # of a title, at most
_LONGEST_LABEL = 150.0  # points, of a line of an axis's label
_WIDE_LABELS = 0.25  # of the width of axes
_CAPTION_LINES = 12  # of each paragraph of a caption, at most


@dataclass(frozen=True)
class _Given:
    """A text as it was given, before it was wrapped.

    Attributes:
        paragraphs: its parts, each in lines of its own.
        is_title: whether it is a title.
        num_names: how many paragraphs, from the first on, are names, which are cut in the middle.
        pad: points between a title and the axes.
    """

    paragraphs: tuple[str, ...]
    is_title: bool = False
    num_names: int = 0
    pad: float = 0.0


_GIVEN: WeakKeyDictionary[Text, _Given] = WeakKeyDictionary()


def write_title(ax: Axes, text: str, *, pad: float = TITLE_PAD, num_names: int = 1) -> None:
    """Writes a text above the axes, ``pad`` points away; empty for none.

    Its first lines, ``num_names`` of them, are names: they are cut in the middle where they are
    long. All lines are wrapped to the present width of the axes, as by `fit_texts`.
    """
    if text:
        _place_title(ax, pad)
        paragraphs = tuple(text.split("\n"))
        _GIVEN[ax.title] = _Given(paragraphs, is_title=True, num_names=num_names, pad=pad)
        fit_texts(ax)


def write_caption(ax: Axes, text: str, *, below: Artist | None = None) -> None:
    """Writes a text in small letters below the label of the horizontal axis; empty for none.

    Its lines are wrapped to the present width of the axes.

    Args:
        ax: the axes.
        text: in lines.
        below: something under the label, such as a legend, below which it stands instead.
    """
    if text:
        caption = ax.annotate(
            "",
            xy=(0, 0),
            xycoords=("axes fraction", ax.xaxis.label if below is None else below),
            xytext=(0, -4),
            textcoords="offset points",
            horizontalalignment="left",
            verticalalignment="top",
            fontsize=SMALL_SIZE,
            color=FAINT,
            annotation_clip=False,
            parse_math=False,
        )
        _GIVEN[caption] = _Given(tuple(text.replace(" %", f"{NO_BREAK}%").split("\n")))
        fit_texts(ax)


def write_label(label: Text, text: str) -> None:
    """Writes the label of an axis, which is cut in its middle where it is long."""
    fonts = Fonts.covering([text])
    style = FontProperties(family=fonts.behind(label), size=label.get_fontsize())
    if not text.isascii():
        label.set_fontfamily(style.get_family())
    label.set_text("\n".join(fonts.wrap_name(text, _LONGEST_LABEL, style, most=2)))


def fit_texts(ax: Axes, *, num_title_lines: int = 0, title_pad: float = 0.0) -> int:
    """Wraps the title and the caption anew, to the present width of the axes.

    Where labels beside the axes are wide, as names are, the title has their room, too.

    Args:
        ax: their axes.
        num_title_lines: lines that the title takes at least, so that several begin at one height.
        title_pad: points between the title and the axes, at least.

    Returns:
        The number of lines that the title needs.
    """
    width = ax.bbox.width / ax.figure.dpi * _POINTS_PER_INCH
    num_lines = 0
    for artist in (ax.title, *ax.texts):
        if (given := _GIVEN.get(artist)) is not None:
            beside = _label_room(ax, width) if given.is_title else 0.0
            lines = _wrapped(artist, given, width + beside)
            if given.is_title:
                artist.set_x(0.5 - beside / 2 / width)
                num_lines = len(lines)
                lines += [""] * (num_title_lines - num_lines)
                _place_title(ax, max(given.pad, title_pad))
            artist.set_text("\n".join(lines))
    return num_lines


def _label_room(ax: Axes, width: float) -> float:
    """How many points labels beside the axes take, if that is much of the axes' ``width``."""
    labels = [label for label in ax.get_yticklabels() if label.get_visible()]
    widths = [text_width(label.get_text(), label.get_fontproperties()) for label in labels]
    room = max(widths, default=0.0)
    return room if room > _WIDE_LABELS * width else 0.0


def title_pad(ax: Axes) -> float:
    """How many points above the axes their title is; 0 if they have none."""
    return _GIVEN[ax.title].pad if ax.title in _GIVEN else 0.0


def _wrapped(artist: Text, given: _Given, width: float) -> list[str]:
    """The lines of a text; gives the artist fonts that have its characters."""
    fonts = Fonts.covering(given.paragraphs)
    style = FontProperties(family=fonts.behind(artist), size=artist.get_fontsize())
    artist.set_fontfamily(style.get_family())
    lines: list[str] = []
    for number, paragraph in enumerate(given.paragraphs):
        if number < given.num_names:
            lines += fonts.wrap_name(paragraph, width, style, most=_NAME_LINES)
        else:
            lines += fonts.wrap(paragraph, width, style, most=_CAPTION_LINES, elsewhere="")
    return [line.replace(NO_BREAK, " ") for line in lines]


def _place_title(ax: Axes, pad: float) -> None:
    ax.set_title(ax.title.get_text(), fontsize=TITLE_SIZE, color=INK, pad=pad, parse_math=False)


def score_colors(palette: Palette = DEFAULT_PALETTE) -> LinearSegmentedColormap:
    """The colours of scores from 0 to 1.

    Raises:
        InputError: there is no such palette.
    """
    if palette not in get_args(Palette):
        raise InputError(f"the palette must be {' or '.join(get_args(Palette))}, got {palette!r}")
    colors = COLORS if palette == "published" else SAFE_COLORS
    return LinearSegmentedColormap.from_list(f"vniah-{palette}", colors, N=_LEVELS)


def measure_colors() -> LinearSegmentedColormap:
    """The colours of measures, from small to large.

    They say nothing of good and bad: a large error is bad, a large margin is not.
    """
    return LinearSegmentedColormap.from_list("vniah-measure", MEASURE_COLORS, N=_LEVELS)
