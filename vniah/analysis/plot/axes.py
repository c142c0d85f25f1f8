"""The labels along a heatmap: exact, and as many as fit. Imported only when something is drawn."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator

from vniah.grid import format_depth

TICK_SIZE = 9.0  # points

_POINTS_PER_INCH = 72.0
_MAX_DEPTH_DIGITS = 6


def depth_label(depth: Fraction) -> str:
    """The depth as in tables, with at most six digits after the point; 1/3 stays a fraction."""
    text = format_depth(depth)
    if len(text.partition(".")[2]) <= _MAX_DEPTH_DIGITS:
        return text
    return f"{float(depth):.{_MAX_DEPTH_DIGITS}f}".rstrip("0").rstrip(".")


def count_labels(counts: Sequence[int]) -> tuple[str, ...]:
    """Counts as in tables, never rounded: 200, 1,250, 32,000."""
    return tuple(f"{count:,}" for count in counts)


class ThinnedLocator(FixedLocator):
    """Ticks at every place, or at every second, third, ... place, so that the labels fit.

    How many labels fit depends on the size of the axes, which may change after drawing. So it is
    computed whenever the axis asks for its ticks.

    Args:
        labels: the texts at the places.
        horizontal: whether the labels stand side by side.
        places: in the axis's units; by default the middles of its columns or rows.
    """

    def __init__(
        self, labels: Sequence[str], *, horizontal: bool, places: Sequence[float] | None = None
    ) -> None:
        self._places = [k + 0.5 for k in range(len(labels))] if places is None else list(places)
        super().__init__(self._places)
        self._horizontal = horizontal
        longest = max((len(label) - label.count(",") / 2 for label in labels), default=1)
        # A digit is about 0.64 of the font size wide, a comma half as much. One more digit keeps
        # neighbours apart.
        self._needed = TICK_SIZE * (0.64 * (longest + 1) if horizontal else 1.3)

    def __call__(self) -> list[float]:
        """The places that get a label at the axis's present size."""
        assert isinstance(self.axis, Axis)
        ax = self.axis.axes
        pixels = ax.bbox.width if self._horizontal else ax.bbox.height
        points = pixels / ax.figure.dpi * _POINTS_PER_INCH
        step = ceil(self._needed * len(self._places) / max(points, 1.0))
        return self._places[:: max(1, step)]


class ColumnFormatter(FixedFormatter):
    """The label of the column or row at which a tick stands, whichever ticks are drawn."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label at x; empty outside of the columns or rows."""
        k = int(x)
        return str(self.seq[k]) if 0 <= k < len(self.seq) else ""
