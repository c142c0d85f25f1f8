"""The labels along a heatmap: exact, and as many as fit. Imported only when something is drawn."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from matplotlib.axis import Axis
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedFormatter, FixedLocator

from vniah.analysis.plot.style import TICK_SIZE
from vniah.analysis.plot.typesetting import SANS, text_width
from vniah.grid import format_depth

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

    They are counted from the last place, which always has one, and the first has one where both
    fit.

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
        style = FontProperties(family=SANS, size=TICK_SIZE)
        # Along the axis, in points, with the room that keeps neighbours apart.
        self._lengths = [
            text_width(label, style) + 3 if horizontal else TICK_SIZE * 1.3 for label in labels
        ]

    def __call__(self) -> list[float]:
        """The places that get a label at the axis's present size."""
        assert isinstance(self.axis, Axis)
        ax = self.axis.axes
        pixels = ax.bbox.width if self._horizontal else ax.bbox.height
        room = pixels / ax.figure.dpi * _POINTS_PER_INCH / max(1, len(self._places))
        last = len(self._places) - 1

        def fit(one: int, other: int) -> bool:
            """Whether labels at two places stay apart, where each place has ``room`` points."""
            return (self._lengths[one] + self._lengths[other]) / 2 <= (other - one) * room

        kept: list[int] = []
        for step in range(1, last + 2):
            kept = list(range(last, -1, -step))[::-1]
            if all(fit(one, other) for one, other in pairwise(kept)):
                break
        if kept and kept[0] > 0:
            behind = [k for k in kept if fit(0, k)]
            kept = [0, *behind] if behind else kept
        return [self._places[k] for k in kept]


class ColumnFormatter(FixedFormatter):
    """The label of the column or row at which a tick stands, whichever ticks are drawn."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label at x; empty outside of the columns or rows."""
        k = int(x)
        return str(self.seq[k]) if 0 <= k < len(self.seq) else ""
