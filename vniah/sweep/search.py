"""Which cells an adaptive sweep measures next: pure functions of what is known already.

Lengths are tried from the shortest on, each about twice as long as the one before, at three depths.
Behind the last that looks good enough the search halves the ratio of the lengths until the
effective length is known to the wanted precision. The length that is found is then measured at all
depths, and what is too long only as far as it takes to be sure of it. Where it matters, depths are
added between those whose scores differ most.

Costs grow at least with the length, so short lengths come first, and late depths before early ones:
behind the needle the haystack is read once more for every needle.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

from vniah.analysis.statistics.partial import LengthBounds, PartialLength
from vniah.errors import InputError
from vniah.grid import Cell, Grid
from vniah.options.precision import Precision

_RATIO = 2  # of a length that is tried to the one before


def require_depths(grid: Grid) -> None:
    """Raises `InputError` for a grid that an adaptive sweep would not make cheaper."""
    if grid.positions:
        raise InputError(
            "--adaptive cannot be combined with --positions: all lengths share the passes behind a "
            "position, so the whole grid costs little more than its longest haystack; give "
            "--depths, or leave --adaptive out"
        )


def next_cells(bounds: LengthBounds, precision: Precision) -> tuple[Cell, ...]:
    """The cells to be measured next; none if the effective length is known well enough.

    The choice depends on what is known alone, so a sweep that was killed goes on as if it had not
    been.

    Args:
        bounds: what is known of all lengths of the grid.
        precision: of the effective length.
    """
    for stage in (_climb, _narrow, _confirm, _show_low, _show_high):
        if cells := stage(bounds, precision):
            return cells
    return ()


def coarse_places(lengths: Sequence[int]) -> tuple[int, ...]:
    """The places of the lengths that are tried first: each at least twice the one before.

    The longest is always one of them.

    >>> coarse_places([200, 400, 600, 800, 1000])
    (0, 1, 3, 4)
    """
    places = [0]
    for place, length in enumerate(lengths):
        if length >= _RATIO * lengths[places[-1]]:
            places.append(place)
    return tuple(dict.fromkeys((*places, len(lengths) - 1)))


def _climb(bounds: LengthBounds, precision: Precision) -> tuple[Cell, ...]:
    """Tries longer and longer lengths, up to the first one that is too long."""
    for place in _coarse(bounds):
        if place >= bounds.first_short:
            break
        if cells := _examine(bounds, place):
            return cells
    return ()


def _narrow(bounds: LengthBounds, precision: Precision) -> tuple[Cell, ...]:
    """Tries lengths between the last that looks good enough and the first that is too long."""
    last, first = _last_good(bounds), bounds.first_short
    if last < 0:
        return ()
    lengths = [length.num_frames for length in bounds.lengths]
    if precision.is_enough(lengths[last], lengths[first - 1]):
        return ()
    middle = lengths[last] * lengths[min(first, len(lengths) - 1)]  # the square of the mean
    between = range(last + 1, first)
    nearest = min(between, key=lambda place: _distance(lengths[place], middle))
    return _examine(bounds, nearest)


def _confirm(bounds: LengthBounds, precision: Precision) -> tuple[Cell, ...]:
    """Measures the length that was found at all depths."""
    last = _last_good(bounds)
    return _missing(bounds.lengths[last]) if last >= 0 else ()


def _show_low(bounds: LengthBounds, precision: Precision) -> tuple[Cell, ...]:
    """Looks for a length of which it is shown that needles like these are found up to there."""
    last = _last_good(bounds)
    if last < 0 or not bounds.can_show_enough or bounds.is_shown_enough(last):
        return ()
    for place in reversed([place for place in _coarse(bounds) if place < last]):
        if cells := _missing(bounds.lengths[place]):
            return cells
        if bounds.is_shown_enough(place):
            return ()
    return ()


def _show_high(bounds: LengthBounds, precision: Precision) -> tuple[Cell, ...]:
    """Looks for a length of which it is shown that it is too long for needles like these."""
    first = bounds.first_short
    if first == len(bounds.lengths) or bounds.interval(first) is None:
        return ()
    tried = [first, *(place for place in _coarse(bounds) if place > first)]
    for place in tried:
        if bounds.is_shown_short(place):
            return ()
        cells = _add_depths(bounds.lengths[place])
        if cells and (not _is_begun(bounds.lengths[place]) or bounds.may_be_shown_short(place)):
            return cells
    return ()


def _coarse(bounds: LengthBounds) -> tuple[int, ...]:
    return coarse_places([length.num_frames for length in bounds.lengths])


def _last_good(bounds: LengthBounds) -> int:
    """The place of the longest length that looks good enough, before one too long; -1 if none."""
    places = reversed(range(bounds.first_short))
    return next((p for p in places if bounds.is_enough(p) or _looks_good(bounds, p)), -1)


def _looks_good(bounds: LengthBounds, place: int) -> bool:
    """Whether all depths of the coarse grid were run, and no cell has a score that is too low."""
    length = bounds.lengths[place]
    return _is_begun(length) and min(length.scores.values()) >= Fraction(str(bounds.threshold))


def _is_begun(length: PartialLength) -> bool:
    return all(cell in length.scores for cell in _coarse_cells(length))


def _examine(bounds: LengthBounds, place: int) -> tuple[Cell, ...]:
    """The next cells at a length; none once it looks good enough, or is known to be too long."""
    is_known = bounds.is_enough(place) or bounds.is_short_of(place)
    if is_known or _looks_good(bounds, place):
        return ()
    return _add_depths(bounds.lengths[place])


def _add_depths(length: PartialLength) -> tuple[Cell, ...]:
    """The next depths of a length: first the late ones of the coarse grid, then between others."""
    first, *later = _coarse_cells(length)
    if cells := tuple(cell for cell in later if cell not in length.scores):
        return cells
    if first not in length.scores:
        return (first,)
    gaps = list(_gaps(length))
    return (max(gaps, key=lambda gap: gap[0])[1],) if gaps else ()


def _coarse_cells(length: PartialLength) -> tuple[Cell, ...]:
    """Its first, its middle and its last cell."""
    last = len(length.cells) - 1
    return tuple(length.cells[place] for place in dict.fromkeys((0, (last + 1) // 2, last)))


def _gaps(length: PartialLength) -> Iterator[tuple[tuple[Fraction, int, Fraction], Cell]]:
    """The cells in the middle between two that were run, each with its rank: where scores differ
    most, in the widest gap, as late as can be.
    """
    places = [place for place, cell in enumerate(length.cells) if cell in length.scores]
    for above, below in pairwise(places):
        if below - above > 1:
            one, other = (length.scores[length.cells[place]] for place in (above, below))
            cell = length.cells[(above + below + 1) // 2]
            yield (abs(one - other), below - above, cell.depth), cell


def _missing(length: PartialLength) -> tuple[Cell, ...]:
    return tuple(cell for cell in length.cells if cell not in length.scores)


def _distance(length: int, square: int) -> Fraction:
    """How far a length is from the geometric mean whose square is given, as a ratio."""
    ratio = Fraction(length * length, square)
    return max(ratio, 1 / ratio)
