"""The cells of a sweep: numbers of frames x depths or positions, in exact arithmetic."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from math import floor

from vniah.errors import InputError, short_repr

Number = int | float | str | Decimal | Fraction

_LOG = logging.getLogger("vniah")

MAX_FRAMES = 1_000_000
MAX_CELLS = 1_000_000
_MAX_VALUES = 100_000
_MAX_EXPONENT = 100  # Fraction(Decimal("1e999999999")) would write out all its digits
_MAX_DIGITS = 200
_RATIO = re.compile(r"([0-9]{1,100})/([0-9]{1,100})")


def as_depth(value: Number) -> Fraction:
    """A depth as the exact fraction of its decimal digits.

    >>> as_depth(0.3)
    Fraction(3, 10)
    """
    depth = _exact(value, "depth")
    if not 0 <= depth <= 1:
        given = format_depth(depth)
        hint = f": write {format_depth(depth / 100)}, not {given}" if 2 <= depth <= 100 else ""
        raise InputError(f"depth must be between 0 and 1, got {given}. Depth is a fraction{hint}.")
    return depth


def read_depth(value: float | str) -> Fraction:
    """The exact depth that a file holds: a number, its digits, or a ratio such as ``"1/3"``.

    Raises:
        InputError: it is none of these, or not in [0, 1].
    """
    ratio = _RATIO.fullmatch(value) if isinstance(value, str) else None
    if ratio is None:
        return as_depth(value)
    if int(ratio[2]) == 0:
        raise InputError(f"depth must be between 0 and 1, got {value!r}, which divides by 0")
    return as_depth(Fraction(int(ratio[1]), int(ratio[2])))


def needle_index(num_frames: int, depth: Fraction) -> int:
    """The number of haystack frames before the needle: floor(depth x num_frames).

    With 0 the needle is before the first haystack frame, with ``num_frames`` after the last.
    """
    return floor(depth * num_frames)


def format_depth(depth: Fraction) -> str:
    """The depth as the shortest decimal, e.g. ``"0.25"``; a fraction such as 1/3 as ``"1/3"``."""
    denominator = depth.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    if denominator != 1:
        return str(depth)
    with localcontext(prec=_MAX_DIGITS):
        return format((Decimal(depth.numerator) / Decimal(depth.denominator)).normalize(), "f")


@dataclass(frozen=True, order=True)
class Cell:
    """One square of the heatmap.

    Attributes:
        num_frames: number of haystack frames; with the needle the model sees one more.
        depth: where the needle is inserted, an exact fraction in [0, 1].
    """

    num_frames: int
    depth: Fraction

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Kept, as a fraction takes long to hash, and the many samples of a cell share it."""
        return hash((self.num_frames, self.depth))

    @cached_property
    def needle_index(self) -> int:
        """floor(depth x num_frames): the number of haystack frames before the needle."""
        return needle_index(self.num_frames, self.depth)

    @cached_property
    def prefix(self) -> str:
        """The beginning of the ids of its samples, as `place_prefix` gives it."""
        return place_prefix(self.num_frames, self.depth)


@lru_cache(maxsize=1 << 12)
def place_prefix(num_frames: int | None, depth: Fraction | None) -> str:
    """The beginning of a sample's id, with its place on the map: ``"600/0.2/"`` or ``"600/-/"``."""
    frames = "-" if num_frames is None else str(num_frames)
    return f"{frames}/{'-' if depth is None else format_depth(depth)}/"


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep: every number of frames with every depth, or with every position.

    A position is the needle's index, the same in every haystack that is long enough. Its cell has
    the depth position / num_frames; a haystack with fewer frames has no such cell.

    Attributes:
        frames: numbers of haystack frames, each at least 1, ascending.
        depths: exact fractions in [0, 1], ascending; empty where positions are given.
        positions: needle indices, each at least 0, ascending; empty where depths are given. The
            first is at most the smallest number of frames.

    Examples:
        >>> Grid.parse("200:600:200", "0:1:0.5").frames
        (200, 400, 600)
        >>> [cell.needle_index for cell in Grid.of([2, 5], positions=[0, 4]).cells]
        [0, 0, 4]
    """

    frames: tuple[int, ...]
    depths: tuple[Fraction, ...] = ()
    positions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.depths and self.positions:
            raise InputError(
                f"a grid has depths or positions, got both: depths {_listed(self.depths)} and "
                f"positions {_listed(self.positions)}; leave one of them out"
            )
        _require_ascending("frames", self.frames)
        if self.frames[0] < 1:
            raise InputError(f"frames must be at least 1, got {self.frames[0]}")
        if self.frames[-1] > MAX_FRAMES:
            raise InputError(
                f"a length must be at most {MAX_FRAMES:,}, as frames eleven days of video, "
                f"got {self.frames[-1]:,}"
            )
        num_rows = len(self.positions or self.depths)
        if len(self.frames) * num_rows > MAX_CELLS:
            raise InputError(
                f"{len(self.frames):,} lengths with {num_rows:,} depths or positions are more than "
                f"{MAX_CELLS:,} cells; use larger steps"
            )
        if self.positions:
            self._require_positions()
            return
        _require_ascending("depths", self.depths)
        if self.depths[0] < 0 or self.depths[-1] > 1:
            raise InputError(f"depths must be between 0 and 1, got {_listed(self.depths)}")

    def __repr__(self) -> str:
        name, rows = ("positions", self.positions) if self.positions else ("depths", self.depths)
        frames = f"frames {_listed(self.frames)} ({len(self.frames)})"
        return f"<Grid {frames} x {name} {_listed(rows)} ({len(rows)})>"

    def _require_positions(self) -> None:
        _require_ascending("positions", self.positions)
        first, shortest = self.positions[0], self.frames[0]
        if first < 0:
            raise InputError(f"positions must be at least 0, got {first}")
        if first > shortest:
            raise InputError(
                f"no position lies within {shortest:,} frames, got positions from {first:,} on: "
                "add a lower position, or leave out the shorter haystacks"
            )

    @classmethod
    def of(
        cls,
        frames: Iterable[Number],
        depths: Iterable[Number] = (),
        *,
        positions: Iterable[Number] = (),
        unit: str = "frames",
    ) -> "Grid":
        """A grid from plain numbers, in any order: ``Grid.of([200, 400], [0, 0.5, 1])``.

        Args:
            frames: numbers of haystack frames; for a task of text, of tokens.
            depths: fractions in [0, 1].
            positions: needle indices, in place of depths.
            unit: what messages call the lengths.

        Raises:
            InputError: a value is invalid, or there are both depths and positions.
        """
        return cls(
            _whole_numbers(frames, unit, at_least=1),
            tuple(sorted({as_depth(value) for value in depths})),
            _whole_numbers(positions, "positions", at_least=0),
        )

    @classmethod
    def parse(
        cls,
        frames: str,
        depths: str | None = None,
        *,
        positions: str | None = None,
        unit: str = "frames",
    ) -> "Grid":
        """A grid from two texts, frames and one other, each ``start:stop:step`` or a comma list.

        Args:
            frames: numbers of haystack frames; for a task of text, of tokens.
            depths: fractions in [0, 1].
            positions: needle indices, in place of depths.
            unit: what messages call the lengths.

        Raises:
            InputError: a text is neither, a value is out of range, or there are both depths and
                positions.
        """
        return cls.of(
            parse_range(frames, unit),
            () if depths is None else parse_range(depths, "depths"),
            positions=() if positions is None else parse_range(positions, "positions"),
            unit=unit,
        )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, those with few frames first."""
        return tuple(Cell(count, depth) for count in self.frames for depth in self._depths(count))

    def _depths(self, num_frames: int) -> tuple[Fraction, ...]:
        """The depths that are measured in a haystack of ``num_frames`` frames, ascending."""
        if not self.positions:
            return self.depths
        return tuple(Fraction(p, num_frames) for p in self.positions if p <= num_frames)

    @property
    def max_frames(self) -> int:
        """Number of frames of the longest haystack in the grid."""
        return self.frames[-1]


def parse_range(text: str, what: str) -> tuple[Fraction, ...]:
    """The numbers of ``start:stop:step`` or of a comma list, exactly.

    Both ends are included: where the steps miss ``stop``, it is added at the end, so that
    ``0:1:0.3`` is 0, 0.3, 0.6, 0.9, 1.
    """
    parts = text.split(":")
    if len(parts) == 1:
        return _listed_numbers(text, what)
    if len(parts) != 3:
        raise InputError(f"{what} must be start:stop:step or a comma list, got {text!r}")
    start, stop, step = (_exact(part.strip(), what) for part in parts)
    if step <= 0 or stop < start:
        raise InputError(
            f"{what} must be start:stop:step with step above 0 and stop not below start, "
            f"got {text!r}"
        )
    if (stop - start) / step > _MAX_VALUES:
        raise InputError(
            f"{what} {text!r} names more than {_MAX_VALUES:,} values; use a larger step"
        )
    values = [start + k * step for k in range(floor((stop - start) / step) + 1)]
    if values[-1] != stop:
        values.append(stop)
    return tuple(values)


def _listed_numbers(text: str, what: str) -> tuple[Fraction, ...]:
    """The numbers of a comma list; a note says which of them are given twice."""
    if text.count(",") >= _MAX_VALUES:
        raise InputError(f"{what} names more than {_MAX_VALUES:,} values; name fewer")
    spelling_of: dict[Fraction, str] = {}
    numbers = []
    for part in map(str.strip, text.split(",")):
        numbers.append(number := _exact(part, what))
        if (earlier := spelling_of.setdefault(number, part)) != part:
            _LOG.info("%s: %s and %s are the same number, which counts once", what, earlier, part)
    return tuple(numbers)


def _whole_numbers(values: Iterable[Number], what: str, *, at_least: int) -> tuple[int, ...]:
    """The different values, ascending; each must be a whole number of at least ``at_least``."""
    numbers = set()
    for value in values:
        number = _exact(value, what)
        if number.denominator != 1 or number < at_least:
            raise InputError(
                f"{what} must be whole numbers of at least {at_least}, got {format_depth(number)}"
            )
        numbers.add(int(number))
    return tuple(sorted(numbers))


def _require_ascending(what: str, values: Sequence[int | Fraction]) -> None:
    if not values:
        raise InputError(f"{what} must name at least one value, got none")
    if any(after <= before for before, after in pairwise(values)):
        raise InputError(
            f"{what} must be ascending and without repeats, got {', '.join(map(str, values))}"
        )


def _listed(values: Sequence[int | Fraction]) -> str:
    """The values as a comma list; of many values the middle is left out."""
    texts = [format_depth(Fraction(value)) for value in values]
    return ", ".join(texts if len(texts) <= 4 else (*texts[:2], "...", texts[-1]))


def _exact(value: Number, what: str) -> Fraction:
    """The exact number of the decimal digits of ``value``; a float has those of its repr."""
    try:
        if isinstance(value, Fraction):
            _require_writable(value)
            return value
        text = str(value)
        if len(text) > _MAX_DIGITS:
            raise ValueError("too many digits")
        number = Decimal(text)
        if number.is_finite() and abs(int(number.as_tuple().exponent)) > _MAX_EXPONENT:
            raise ValueError("out of bounds")
        return Fraction(number)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise InputError(f"{what} must be numbers, got {_shortened(value)}") from error


def _require_writable(number: Fraction) -> None:
    """Raises ValueError for a fraction that `read_depth` would not read back."""
    if number.denominator > 10**_MAX_EXPONENT:
        raise ValueError("too many digits")
    text = format_depth(number)
    if "/" not in text and len(text.partition(".")[2]) > _MAX_EXPONENT:
        raise ValueError("too many digits")


def _shortened(value: Number) -> str:
    """The value for a message; Python refuses to write an integer of more than 4,300 digits."""
    if isinstance(value, int) and abs(value) >= 10**_MAX_DIGITS:
        return "an integer of too many digits"
    return short_repr(value)
