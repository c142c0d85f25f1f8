"""The labels along axes: exact, and as many as fit. Imported only when something is drawn."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from matplotlib.axis import Axis
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedFormatter, FixedLocator

from vniah.analysis.plot.style import TICK_SIZE
from vniah.analysis.plot.typesetting import SANS, Fonts, text_width
from vniah.grid import format_depth

Floats = npt.NDArray[np.float64]

_POINTS_PER_INCH = 72.0
_MAX_DEPTH_DIGITS = 6
_TICK_GAP = 4.0  # points between labels of ticks, at least
_SAME_GAP = 0.03  # by which gaps that look the same differ at most, of their mean
_COARSER = 3  # times the least step between labels, so that both ends have one


def depth_label(depth: Fraction) -> str:
    """The depth as in tables, with at most six digits after the point; 1/3 stays a fraction."""
    text = format_depth(depth)
    if len(text.partition(".")[2]) <= _MAX_DEPTH_DIGITS:
        return text
    return f"{float(depth):.{_MAX_DEPTH_DIGITS}f}".rstrip("0").rstrip(".")


def count_labels(counts: Sequence[int]) -> tuple[str, ...]:
    """Counts as in tables, never rounded: 200, 1,250, 32,000."""
    return tuple(f"{count:,}" for count in counts)


def evenly_thinned(places: range, fit: Callable[[int, int], bool]) -> range:
    """Which of evenly spaced places have a label: every one, or every second, third, ... one.

    The last place always has one. The first has one if there is a step, not much larger than the
    least one with which labels fit, that leads from it to the last place and leaves a label between
    them: else the first gap would differ from the others.

    Args:
        places: their numbers.
        fit: whether labels at two places, of which the first is the smaller, stay apart.
    """
    last = len(places) - 1

    def thinned(step: int) -> range:
        return places[last % step :: step]

    def is_possible(step: int) -> bool:
        return all(fit(one, other) for one, other in pairwise(thinned(step)))

    least = next(filter(is_possible, range(1, len(places) + 1)), 1)
    most = _COARSER * least if 2 * least > last else min(_COARSER * least, last // 2)
    both_ends = (k for k in range(least, most + 1) if last % k == 0 and is_possible(k))
    return thinned(next(both_ends, least))


class ThinnedLocator(FixedLocator):
    """Ticks at every place, or at every second, third, ... place, so that the labels fit.

    The places are evenly spaced, and those with a label are, too (`evenly_thinned`).

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

        def fit(one: int, other: int) -> bool:
            """Whether labels at two places stay apart, where each place has ``room`` points."""
            return (self._lengths[one] + self._lengths[other]) / 2 <= (other - one) * room

        return [self._places[k] for k in evenly_thinned(range(len(self._places)), fit)]


class SpacedLocator(FixedLocator):
    """Ticks at as many of some places as have room for their labels at the axis's present size.

    Evenly spaced places keep an even step (`evenly_thinned`), whether or not the first place, such
    as 0 on a logarithmic axis, is apart from the others. Of other places the last always has one,
    and so has the first where both fit; then those go first that matter more.

    Args:
        places: in the axis's units, ascending.
        labels: the text at each.
        weights: how much each matters.
    """

    def __init__(
        self, places: Sequence[float], labels: Sequence[str], weights: Sequence[float]
    ) -> None:
        super().__init__(list(places))
        self._places = list(places)
        style = Fonts.covering(labels).style(TICK_SIZE)
        self._widths = [text_width(label, style) + _TICK_GAP for label in labels]
        last = len(places) - 1
        between = sorted(range(1, last), key=lambda k: (-weights[k], -k))
        self._order = list(dict.fromkeys([last, 0, *between])) if places else []

    def __call__(self) -> list[float]:
        """The places that get a label."""
        assert isinstance(self.axis, Axis)
        if not self._places:
            return []
        ax = self.axis.axes
        points = np.column_stack((self._places, np.full(len(self._places), ax.get_ylim()[0])))
        scale = _POINTS_PER_INCH / ax.figure.dpi
        at = ax.transData.transform(points)[:, 0] * scale

        def fit(one: int, other: int) -> bool:
            return bool(abs(at[one] - at[other]) >= (self._widths[one] + self._widths[other]) / 2)

        return [self._places[k] for k in self._kept(at, fit)]

    def _kept(self, at: Floats, fit: Callable[[int, int], bool]) -> list[int]:
        """Which places have a label, ascending, where they are ``at`` these points."""
        if _is_even(at):
            return list(evenly_thinned(range(len(at)), fit))
        if len(at) > 3 and _is_even(at[1:]):
            kept = list(evenly_thinned(range(1, len(at)), fit))
            return [0, *kept] if fit(0, kept[0]) else kept
        kept = []
        for k in self._order:
            if all(fit(k, other) for other in kept):
                kept.append(k)
        return sorted(kept)


def _is_even(at: Floats) -> bool:
    """Whether there are gaps between places, and all look the same."""
    gaps = np.diff(at)
    return len(gaps) > 0 and float(np.ptp(gaps)) <= _SAME_GAP * abs(float(gaps.mean()))


class ColumnFormatter(FixedFormatter):
    """The label of the column or row at which a tick stands, whichever ticks are drawn."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label at x; empty outside of the columns or rows."""
        k = int(x)
        return str(self.seq[k]) if 0 <= k < len(self.seq) else ""
