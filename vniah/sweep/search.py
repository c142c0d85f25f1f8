"""Which cells an adaptive sweep measures next: pure functions of what is known already.

Lengths are tried from the shortest on, each about twice as long as the one before, at three depths.
Behind the last that looks good enough the search halves the ratio of the lengths until the
effective length is known to the wanted precision. Where an earlier or an approximate run gives a
guess, the search begins there: after the shortest length come the guess and the next longer one,
which is all if the guess is right; a wrong guess costs what was measured there. The length that is
found is then measured at all depths, and what is too long only as far as it takes to be sure of it.
Where it matters, depths are added between those whose scores differ most.

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


def next_cells(
    bounds: LengthBounds, precision: Precision, guess: int | None = None
) -> tuple[Cell, ...]:
    """The cells to be measured next; none if the effective length is known well enough.

    The choice depends on what is known alone, so a sweep that was killed goes on as if it had not
    been.

    Args:
        bounds: what is known of all lengths of the grid.
        precision: of the effective length.
        guess: what the effective length may be; None where nothing is known of it.
    """
    if cells := _climb(bounds, guess):
        return cells
    for stage in (_narrow, _confirm, _show_low, _show_high):
        if cells := stage(bounds, precision):
            return cells
    return ()


def coarse_places(lengths: Sequence[int], guess: int | None = None) -> tuple[int, ...]:
    """The places of the lengths that are tried first: each at least twice the one before.

    The shortest and the longest are always among them. With a guess, the longest length up to it
    and the next one follow the shortest.

    >>> coarse_places([200, 400, 600, 800, 1000])
    (0, 1, 3, 4)
    >>> coarse_places([200, 400, 600, 800, 1000], 600)
    (0, 2, 3, 4)
    """
    places = [0]
    if guess is not None:
        at = sum(length <= guess for length in lengths) - 1
        places += [place for place in (at, at + 1) if 0 < place < len(lengths)]
    for place, length in enumerate(lengths):
        if length >= _RATIO * lengths[places[-1]]:
            places.append(place)
    return tuple(dict.fromkeys((*places, len(lengths) - 1)))


def _climb(bounds: LengthBounds, guess: int | None) -> tuple[Cell, ...]:
    """Tries longer and longer lengths at late depths, up to the first one that looks too long."""
    for place in coarse_places([length.num_frames for length in bounds.lengths], guess):
        judged = _judge(bounds, place)
        if judged is False:
            break
        if judged is None and (cells := _add_depths(bounds.lengths[place])):
            return cells
    return ()


def _narrow(bounds: LengthBounds, precision: Precision) -> tuple[Cell, ...]:
    """Tries lengths between the last that looks good enough and the first that looks too long."""
    last, first = _last_good(bounds), _first_bad(bounds)
    if last < 0:
        return ()
    if cells := _first_depth(bounds, last):
        return cells
    lengths = [length.num_frames for length in bounds.lengths]
    if precision.is_enough(lengths[last], lengths[first - 1]):
        return ()
    middle = lengths[last] * lengths[min(first, len(lengths) - 1)]  # the square of the mean
    between = range(last + 1, first)
    nearest = min(between, key=lambda place: _distance(lengths[place], middle))
    return _add_depths(bounds.lengths[nearest])


def _confirm(bounds: LengthBounds, precision: Precision) -> tuple[Cell, ...]:
    """Measures the length that was found at all depths, and then makes sure of the one above it."""
    last, first = _last_good(bounds), _first_bad(bounds)
    if last >= 0 and (cells := _missing(bounds.lengths[last])):
        return cells
    if first < len(bounds.lengths) and not bounds.is_short_of(first):
        return _add_depths(bounds.lengths[first])
    return ()


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


def _first_bad(bounds: LengthBounds) -> int:
    """The place of the first length that looks too long; the number of lengths if none does."""
    places = range(len(bounds.lengths))
    return next((place for place in places if _judge(bounds, place) is False), len(places))


def _last_good(bounds: LengthBounds) -> int:
    """The place of the longest length that looks good enough, before one too long; -1 if none."""
    places = reversed(range(_first_bad(bounds)))
    return next((place for place in places if _judge(bounds, place)), -1)


def _judge(bounds: LengthBounds, place: int) -> bool | None:
    """Whether a length is, or looks, good enough; None if more depths have to be measured.

    It looks too long if its late depths of the coarse grid were run and the mean is too low. It
    looks good enough if they were run and no cell has a score that is too low.
    """
    if bounds.is_enough(place):
        return True
    if bounds.is_short_of(place):
        return False
    length = bounds.lengths[place]
    if not all(cell in length.scores for cell in _late_cells(length)):
        return None
    if bounds.is_doubtful(place):
        return False
    return True if min(length.scores.values()) >= Fraction(str(bounds.threshold)) else None


def _first_depth(bounds: LengthBounds, place: int) -> tuple[Cell, ...]:
    """The first depth of a length, if it was not measured and is not known to be good enough."""
    first = bounds.lengths[place].cells[0]
    is_known = bounds.is_enough(place) or first in bounds.lengths[place].scores
    return () if is_known else (first,)


def _is_begun(length: PartialLength) -> bool:
    return all(cell in length.scores for cell in _coarse_cells(length))


def _add_depths(length: PartialLength) -> tuple[Cell, ...]:
    """The next depths of a length: first the late ones of the coarse grid, then between others."""
    if cells := tuple(cell for cell in _late_cells(length) if cell not in length.scores):
        return cells
    if length.cells[0] not in length.scores:
        return (length.cells[0],)
    gaps = list(_gaps(length))
    return (max(gaps, key=lambda gap: gap[0])[1],) if gaps else ()


def _coarse_cells(length: PartialLength) -> tuple[Cell, ...]:
    """Its first, its middle and its last cell."""
    last = len(length.cells) - 1
    return tuple(length.cells[place] for place in dict.fromkeys((0, (last + 1) // 2, last)))


def _late_cells(length: PartialLength) -> tuple[Cell, ...]:
    """The same without the first, unless it is the only one."""
    return _coarse_cells(length)[1:] or length.cells


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
