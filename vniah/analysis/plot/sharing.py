"""Labels of axes that several panels have in common are written once."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_BLANK = " "  # takes the room of a label, in which the shared one is placed


@dataclass(frozen=True)
class SharedLabel:
    """The label of the horizontal axes, which is written once, in the middle of all panels.

    Attributes:
        text: what it says.
        room: the blank label of one panel, at whose height it stands.
    """

    text: str
    room: Text


def share_labels(
    axes: Sequence[Axes], num_columns: int, rows: Sequence[Hashable | None]
) -> SharedLabel | None:
    """Takes from several panels the labels and the tick labels that can be written once.

    Args:
        axes: one for each panel, from left to right and from the top down.
        num_columns: number of panels in a row.
        rows: for each panel what stands along its vertical axis; where all have the same, only the
            leftmost show it. None is never the same.

    Returns:
        The label that is to be written when the panels have their places (`place_label`); None if
        there is none.
    """
    inner = [ax for k, ax in enumerate(axes) if k % num_columns]
    if rows[0] is not None and len(set(rows)) == 1:
        for ax in inner:
            ax.tick_params(labelleft=False)
    if len({ax.get_ylabel() for ax in axes}) == 1:
        for ax in inner:
            ax.set_ylabel("")
    if len({ax.get_xlabel() for ax in axes}) > 1:
        return None
    last = (len(axes) - 1) // num_columns * num_columns
    for ax in axes[:last]:
        ax.set_xlabel("")
    lowest = [ax.xaxis.label for ax in axes[last:]]
    if num_columns == 1:
        return None
    text = lowest[0].get_text()
    for label in lowest:
        label.set_text(_BLANK)
    return SharedLabel(text, lowest[0])


def place_label(figure: Figure, axes: Sequence[Axes], shared: SharedLabel) -> None:
    """Writes the shared label in the middle of the panels, where each would have had its own."""
    whole = Bbox.union([ax.get_window_extent() for ax in axes])
    box = shared.room.get_window_extent()
    middle = ((whole.x0 + whole.x1) / 2, (box.y0 + box.y1) / 2)
    x, y = figure.transFigure.inverted().transform(middle)
    figure.text(
        x,
        y,
        shared.text,
        horizontalalignment="center",
        verticalalignment="center",
        fontproperties=shared.room.get_fontproperties(),
        color=shared.room.get_color(),
        parse_math=False,
    )
