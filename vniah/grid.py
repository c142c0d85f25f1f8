"""Which cells a sweep measures: numbers of frames x depths, in exact arithmetic."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import pairwise
from math import floor

from vniah.errors import InputError

Number = int | float | str | Decimal | Fraction

_MAX_VALUES = 100_000
_MAX_EXPONENT = 100  # Fraction(Decimal("1e999999999")) would write out all its digits


def as_depth(value: Number) -> Fraction:
    """A depth as the exact fraction that its decimal digits say.

    >>> as_depth(0.3)
    Fraction(3, 10)
    """
    depth = _exact(value, "depth")
    if not 0 <= depth <= 1:
        given = format_depth(depth)
        hint = f": write {format_depth(depth / 100)}, not {given}" if 2 <= depth <= 100 else ""
        raise InputError(f"depth must be between 0 and 1, got {given}. Depth is a fraction{hint}.")
    return depth


def needle_index(num_frames: int, depth: Fraction) -> int:
    """Where the needle is inserted: floor(depth x num_frames), between 0 and num_frames.

    0 puts it before the first haystack frame, ``num_frames`` after the last.
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
    return format((Decimal(depth.numerator) / Decimal(depth.denominator)).normalize(), "f")


@dataclass(frozen=True, order=True)
class Cell:
    """One square of the heatmap.

    Attributes:
        num_frames: haystack frames; with the needle the model sees one more.
        depth: where the needle is inserted, an exact fraction in [0, 1].
    """

    num_frames: int
    depth: Fraction

    @property
    def needle_index(self) -> int:
        """floor(depth x num_frames): the number of haystack frames before the needle."""
        return needle_index(self.num_frames, self.depth)


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep: every number of frames with every depth.

    Attributes:
        frames: numbers of haystack frames, each at least 1, ascending.
        depths: exact fractions in [0, 1], ascending.

    >>> Grid.parse("200:600:200", "0:1:0.5").frames
    (200, 400, 600)
    """

    frames: tuple[int, ...]
    depths: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        named: dict[str, tuple[int | Fraction, ...]] = {
            "frames": self.frames,
            "depths": self.depths,
        }
        for what, values in named.items():
            if not values:
                raise InputError(f"{what} must name at least one value, got none")
            if any(after <= before for before, after in pairwise(values)):
                raise InputError(
                    f"{what} must be ascending and without repeats, "
                    f"got {', '.join(str(value) for value in values)}"
                )
        if self.frames[0] < 1:
            raise InputError(f"frames must be at least 1, got {self.frames[0]}")
        if self.depths[0] < 0 or self.depths[-1] > 1:
            raise InputError("depths must lie between 0 and 1")

    @classmethod
    def of(cls, frames: Iterable[int], depths: Iterable[Number]) -> "Grid":
        """A grid from plain numbers, in any order: ``Grid.of([200, 400], [0, 0.5, 1])``."""
        counts = []
        for value in frames:
            count = _exact(value, "frames")
            if count.denominator != 1 or count < 1:
                raise InputError(
                    f"frames must be whole numbers of at least 1, got {format_depth(count)}"
                )
            counts.append(int(count))
        exact_depths = (as_depth(value) for value in depths)
        return cls(tuple(sorted(set(counts))), tuple(sorted(set(exact_depths))))

    @classmethod
    def parse(cls, frames: str, depths: str) -> "Grid":
        """A grid from two texts, each ``start:stop:step`` or a comma list.

        Raises:
            InputError: a text is neither, or a value is out of range.
        """
        return cls.of(
            (int(v) if v.denominator == 1 else v for v in parse_range(frames, "frames")),  # type: ignore[misc]
            parse_range(depths, "depths"),
        )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, short sequences first."""
        return tuple(Cell(count, depth) for count in self.frames for depth in self.depths)

    @property
    def max_frames(self) -> int:
        """The longest haystack that the grid needs."""
        return self.frames[-1]


def parse_range(text: str, what: str) -> tuple[Fraction, ...]:
    """The numbers that ``start:stop:step`` or a comma list stands for, exactly.

    Both ends are included: where the steps do not hit ``stop``, it follows the last step, so that
    ``0:1:0.3`` is 0, 0.3, 0.6, 0.9, 1.
    """
    parts = text.split(":")
    if len(parts) == 1:
        return tuple(_exact(part.strip(), what) for part in text.split(","))
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


def _exact(value: Number, what: str) -> Fraction:
    """The number that the decimal digits of ``value`` say; a float by its shortest repr."""
    try:
        if isinstance(value, Fraction):
            return value
        number = Decimal(str(value))
        if number.is_finite() and abs(int(number.as_tuple().exponent)) > _MAX_EXPONENT:
            raise ValueError("out of bounds")
        return Fraction(number)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise InputError(f"{what} must be numbers, got {value!r}") from error


def format_frames(counts: Sequence[int]) -> str:
    """Numbers of frames as people write them, e.g. ``"32, 64, 128"``."""
    return ", ".join(f"{count:,}" for count in counts)
