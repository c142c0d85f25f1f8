"""Figures of one or several panels, as files that are the same everywhere."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import ceil
from numbers import Integral, Real
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from vniah.analysis.plot.arrange import Layout, Sizes, arrange
from vniah.analysis.plot.sharing import place_label, share_labels
from vniah.analysis.plot.typesetting import Fonts, own_settings, tell_of_missing
from vniah.errors import InputError, short_repr
from vniah.files import atomic_path
from vniah.options import PICTURE_WIDTHS, PICTURE_WIDTHS_TEXT

# In inches.
_MARGINS = (0.9, 2.6)  # around axes, for labels and captions, before these are measured
_LEFT = 0.55  # of it for the labels of the vertical axis
_MAX_WIDTH = 15.5  # of a figure, if the user gives none
_LEAST_AXES = 1.15  # in width, with which panels still stand side by side
_PADDING = (0.05, 0.09)  # beside panels, and above and below them
_NARROW = 4.5  # pictures with less than this have what they share below their panels
_DPI = 300  # of pictures that are made of pixels


@dataclass(frozen=True)
class Panel:
    """One of the pictures of a figure.

    Attributes:
        size: width and height of its axes, in inches. In a figure of a given width they are made
            larger or smaller, and keep their proportions as far as labels allow.
        draw: draws it onto axes.
        rows: what stands along the vertical axis; panels side by side that have the same one show
            it once. None for one that is not compared.
        keeps_height: whether the axes have this height in a figure of any width, as where each row
            of them has a name.
    """

    size: tuple[float, float]
    draw: Callable[[Axes], object]
    rows: Hashable | None = None
    keeps_height: bool = False


@tell_of_missing()
def save_panels(
    panels: Sequence[Panel],
    path: Path,
    *,
    width: float | None = None,
    columns: int | None = None,
    share: Callable[[Axes, Axes, bool], object] | None = None,
    finish: Callable[[Sequence[Axes]], object] | None = None,
) -> None:
    """Draws panels side by side, in as many rows as they need, into a PNG, PDF or SVG file.

    Letters have the same size in every figure. Panels with the same label of an axis share it, and
    titles of a row begin at one height.

    The file is whole or not there; pyplot and its backend are not touched. The settings of
    matplotlib are its defaults, so that the same panels give the same bytes everywhere.

    Args:
        panels: at least one.
        path: what `vniah.paths.picture_path` returns; missing folders above it are made.
        width: of the figure in inches, exactly; by default as wide as the axes need.
        columns: number of panels in a row; by default as many as have room.
        share: draws a bar that the panels have in common: onto axes of its own, given those of the
            first panel, and whether it is upright.
        finish: draws, onto the axes of the panels, when they have their sizes, what has to fit,
            such as numbers.

    Raises:
        InputError: the width or the number of columns is out of range.
    """
    require_layout(width, columns)
    with own_settings():
        figure, axes = _draw_figure(panels, width, columns, share)
        try:
            if finish is not None:
                finish(axes)
            write_figure(figure, path, dpi=_exact_dpi(figure))
        finally:
            figure.clear()


def require_layout(width: object, columns: object) -> None:
    """Raises `InputError` if a figure cannot have this width, or this number of columns."""
    least, most = PICTURE_WIDTHS
    if width is not None and not (isinstance(width, Real) and least <= float(width) <= most):
        raise InputError(
            f"the width of a picture must be {PICTURE_WIDTHS_TEXT}, got {_spelled(width)}"
        )
    if columns is not None and not (isinstance(columns, Integral) and int(columns) >= 1):
        raise InputError(f"there must be at least 1 panel in a row, got {short_repr(columns)}")


def _spelled(width: object) -> str:
    return f"{width:g} inches" if isinstance(width, float) else short_repr(width)


def _draw_figure(
    panels: Sequence[Panel],
    width: float | None,
    columns: int | None,
    share: Callable[[Axes, Axes, bool], object] | None,
) -> tuple[Figure, list[Axes]]:
    """A figure on a canvas of its own, and the axes of its panels."""
    num_columns = _num_columns(panels, width, columns)
    num_rows = ceil(len(panels) / num_columns)
    sizes = Sizes.of(
        [panel.size for panel in panels],
        num_columns,
        [panel.keeps_height for panel in panels],
    )
    figure = Figure(
        figsize=(
            width or sizes.widths.sum() + _MARGINS[0] * num_columns,
            sizes.heights.sum() + _MARGINS[1] * num_rows,
        ),
        layout=ConstrainedLayoutEngine(
            w_pad=_PADDING[0], h_pad=_PADDING[1], hspace=0.0, wspace=0.0
        ),
        facecolor="white",
    )
    is_upright = width is None or width >= _NARROW or num_columns == 1
    bar_column, bar_row = (1, 0) if is_upright else (0, 1)
    if share is None:
        bar_column = bar_row = 0
    total = figure.get_size_inches()[0]
    spec = GridSpec(
        num_rows + bar_row,
        num_columns + bar_column,
        figure=figure,
        left=_LEFT / total,  # about where they will be, for texts that are wrapped at once
        right=1 - _PADDING[0] / total,
    )
    drawn = []
    for k, panel in enumerate(panels):
        drawn.append(figure.add_subplot(spec[k // num_columns, k % num_columns]))
        panel.draw(drawn[-1])
    shared = share_labels(drawn, num_columns, [panel.rows for panel in panels])
    bar = None
    if share is not None:
        bar = figure.add_subplot(spec[:, -1] if is_upright else spec[-1, :])
        share(bar, drawn[0], is_upright)
    FigureCanvasAgg(figure)  # only now: seaborn draws the whole figure for each heatmap if it can
    _cover_characters(figure)
    arrange(Layout(figure, spec, drawn, bar, is_upright), sizes, is_fixed=width is not None)
    if shared is not None:
        place_label(figure, drawn, shared)
    return figure, drawn


def _num_columns(panels: Sequence[Panel], width: float | None, columns: int | None) -> int:
    """How many panels stand in a row: as many as have room, and in each row equally many.

    Raises:
        InputError: so many as the user asks for have no room.
    """
    if width is None:
        most = int(_MAX_WIDTH / (max(panel.size[0] for panel in panels) + _MARGINS[0]))
    else:
        is_shared = panels[0].rows is not None and len({panel.rows for panel in panels}) == 1
        once, each = (_LEFT, 0.0) if is_shared else (0.0, _MARGINS[0])
        most = int((width - once) / (_LEAST_AXES + each))
    most = max(1, most)
    if columns is None:
        return ceil(len(panels) / ceil(len(panels) / most))
    columns = min(columns, len(panels))
    if width is not None and columns > most:
        raise InputError(
            f"{columns} panels side by side have no room in a width of {width:.3g} inches; at most "
            f"{most} have"
        )
    return columns


def _cover_characters(figure: Figure) -> None:
    """Gives all texts fonts that have their characters; what no font has becomes an escape."""
    texts = figure.findobj(Text)
    fonts = Fonts.covering(text.get_text() for text in texts)
    for text in texts:
        if not (shown := text.get_text()).isascii():
            text.set_fontfamily(fonts.behind(text))
            text.set_text("\n".join(map(fonts.writable, shown.split("\n"))))


def _exact_dpi(figure: Figure) -> float:
    """A resolution at which the width is a whole number of pixels, so that none is cut off."""
    width = float(figure.get_size_inches()[0])
    return max(1, round(width * _DPI)) / width


def write_figure(figure: Figure, path: Path, *, dpi: float = 200) -> None:
    """Saves the figure; the same picture gives the same bytes.

    Args:
        figure: drawn with `own_settings`, as this is called.
        path: what `vniah.paths.picture_path` returns.
        dpi: pixels per inch, in a PNG file.
    """
    kind = path.suffix.lower()[1:]
    undated = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=undated)
