"""The labels along a heatmap: exact, and as many as fit. Imported only when something is drawn."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator

from vniah.grid import format_depth

TICK_SIZE = 9.0  # points

_POINTS_PER_INCH = 72.0
_MAX_DEPTH_DIGITS = 4


def depth_label(depth: Fraction) -> str:
    """The depth in percent, with at most four digits after the point; 1/3 stays a fraction."""
    text = format_depth(depth * 100)
    if "/" in text:
        return format_depth(depth)
    return text + "%" if len(text.partition(".")[2]) <= _MAX_DEPTH_DIGITS else _rounded(depth)


def _rounded(depth: Fraction) -> str:
    return f"{float(depth * 100):.{_MAX_DEPTH_DIGITS}f}".rstrip("0").rstrip(".") + "%"


def count_labels(counts: Sequence[int], *, axis: str) -> tuple[str, ...]:
    """Counts as in the published plots: 200, 800, 1.0K, 3.0K; token counts as 32K.

    Counts are never rounded: 1,250 stays as it is.
    """

    def label(count: int) -> str:
        if axis == "tokens" and count % 1000 == 0:
            return f"{count // 1000:,}K"
        if count >= 1000 and count % 100 == 0:
            return f"{count / 1000:,.1f}K"
        return f"{count:,}" if count >= 10_000 else str(count)

    return tuple(label(count) for count in counts)


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
        longest = max((len(label) for label in labels), default=1)
        # A digit is about 0.64 of the font size wide. One more digit keeps neighbours apart.
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
