"""How large the axes of a figure are: exactly, with whatever room their labels take."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from vniah.analysis.plot.style import fit_texts, title_pad
from vniah.errors import InputError

Floats = npt.NDArray[np.float64]

_MOST_PASSES = 8  # of the layout: texts are wrapped, which changes the room for the axes
_WRAPPING_PASSES = 4  # afterwards lines stay as they are, else two layouts could alternate
_EXACT = 0.005  # inches
_MOST_TRIES, _GROWTH = 6, 1.4  # of a layout for which the figure is too small
_BAR = 0.1  # inches, the thickness of a bar that panels share
_TALLEST = 1.5  # axes in a figure of a fixed width, in widths
_LEAST_HEIGHT = 0.85  # inches, of such axes


@dataclass(frozen=True)
class Sizes:
    """The sizes of all axes of a figure.

    Attributes:
        widths: [num_columns], of each column of axes, in inches.
        heights: [num_rows], of each row of axes, in inches.
        shapes: for each row the largest height of its axes by their width.
        is_kept: for each row whether it has this height in a figure of any width.
    """

    widths: Floats
    heights: Floats
    shapes: Floats
    is_kept: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls, sizes: Sequence[tuple[float, float]], num_columns: int, is_kept: Sequence[bool] = ()
    ) -> "Sizes":
        """Those of axes with the given widths and heights, with so many in a row.

        Args:
            sizes: width and height of each of the axes.
            num_columns: how many stand in a row.
            is_kept: for each of the axes whether it keeps its height; by default none does.
        """
        starts = range(0, len(sizes), num_columns)
        rows = [sizes[k : k + num_columns] for k in starts]
        return cls(
            np.array(
                [max(width for width, _ in sizes[k::num_columns]) for k in range(num_columns)]
            ),
            np.array([max(height for _, height in row) for row in rows]),
            np.array([max(height / width for width, height in row) for row in rows]),
            np.array([any(is_kept[k : k + num_columns]) for k in starts]),
        )

    def fixed(self, room: float) -> "Sizes":
        """The sizes where all columns together have this many inches."""
        widths = self.widths * room / self.widths.sum()
        heights = np.clip(self.shapes * widths.max(), _LEAST_HEIGHT, _TALLEST * widths.max())
        heights = np.where(self.is_kept, self.heights, heights)
        return Sizes(widths, heights, self.shapes, self.is_kept)


@dataclass(frozen=True)
class Layout:
    """A figure whose axes are to be given their places.

    Attributes:
        figure: the figure.
        spec: its rows and columns; the last of one of them is that of the bar.
        axes: those of the panels.
        bar: the axes of what the panels share; None if there is no such thing.
        is_upright: whether the bar is a column.
    """

    figure: Figure
    spec: GridSpec
    axes: Sequence[Axes]
    bar: Axes | None
    is_upright: bool

    def measure(self, num_columns: int) -> tuple[Floats, Floats]:
        """The widths of the columns and the heights of the rows in inches, the bar included."""
        boxes = [ax.get_position() for ax in self.axes]
        widths = [box.width for box in boxes[:num_columns]]
        heights = [box.height for box in boxes[::num_columns]]
        if self.bar is not None and self.is_upright:
            widths.append(self.bar.get_position().width)
        elif self.bar is not None:
            heights.append(self.bar.get_position().height)
        size = self.figure.get_size_inches()
        return np.array(widths) * size[0], np.array(heights) * size[1]

    def with_bar(self, sizes: Sizes) -> tuple[Floats, Floats]:
        """The widths and heights that are wanted, the bar included."""
        if self.bar is None:
            return sizes.widths, sizes.heights
        if self.is_upright:
            return np.append(sizes.widths, _BAR), sizes.heights
        return sizes.widths, np.append(sizes.heights, _BAR)


def arrange(layout: Layout, sizes: Sizes, *, is_fixed: bool) -> None:
    """Makes the figure so large, and its texts so wide, that the axes have their sizes.

    A figure of a fixed width keeps it. The positions are final afterwards.

    Raises:
        InputError: the labels have no room in the width.
    """
    figure, num_columns = layout.figure, len(sizes.widths)
    _wrap_to_axes(layout, num_columns, is_fixed=is_fixed)
    for number in range(_MOST_PASSES):
        _execute(figure, is_fixed=is_fixed)
        widths, heights = layout.measure(num_columns)
        if is_fixed:
            has_bar_column = len(widths) > num_columns
            sizes = sizes.fixed(widths.sum() - _BAR * has_bar_column)
        wanted_widths, wanted_heights = layout.with_bar(sizes)
        errors = np.concatenate([wanted_widths - widths, wanted_heights - heights])
        before = [text.get_text() for ax in layout.axes for text in (ax.title, *ax.texts)]
        if number < _WRAPPING_PASSES:
            _fit_rows(layout.axes, num_columns)
        after = [text.get_text() for ax in layout.axes for text in (ax.title, *ax.texts)]
        if np.abs(errors).max() < _EXACT and before == after:
            break
        layout.spec.set_width_ratios(wanted_widths.tolist())
        layout.spec.set_height_ratios(wanted_heights.tolist())
        size = figure.get_size_inches()
        growth = 0.0 if is_fixed else (wanted_widths - widths).sum()
        figure.set_size_inches(size[0] + growth, size[1] + (wanted_heights - heights).sum())
    else:
        _execute(figure, is_fixed=is_fixed)
    figure.set_layout_engine("none")


def _wrap_to_axes(layout: Layout, num_columns: int, *, is_fixed: bool) -> None:
    """Wraps texts to the width that labels leave to the axes, before the texts take part in it.

    A caption that is wider than its axes would make them narrower still.
    """
    texts = [text for ax in layout.axes for text in ax.texts]
    for text in texts:
        text.set_in_layout(False)
    _execute(layout.figure, is_fixed=is_fixed)
    _fit_rows(layout.axes, num_columns)
    for text in texts:
        text.set_in_layout(True)


def _execute(figure: Figure, *, is_fixed: bool) -> None:
    """Gives the axes places with room for their labels, in a larger figure if this one has none."""
    engine = figure.get_layout_engine()
    assert engine is not None
    for _ in range(_MOST_TRIES):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "constrained_layout not applied", UserWarning)
            try:
                return engine.execute(figure)
            except UserWarning:
                width, height = figure.get_size_inches()
                figure.set_size_inches(width if is_fixed else _GROWTH * width, _GROWTH * height)
    raise InputError(
        f"the labels of the picture have no room in a width of {figure.get_size_inches()[0]:.3g} "
        "inches; make it wider, or put fewer panels into a row"
    )


def _fit_rows(axes: Sequence[Axes], num_columns: int) -> None:
    """Wraps titles and captions to the width of their axes; titles of a row begin at one height."""
    for k in range(0, len(axes), num_columns):
        row = axes[k : k + num_columns]
        pad, num_lines = max(map(title_pad, row)), max(map(fit_texts, row))
        for ax in row:
            fit_texts(ax, num_title_lines=num_lines, title_pad=pad)
