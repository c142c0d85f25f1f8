"""Which picture is frame k: pure arithmetic on time stamps, apart from decoding them.

Time stamps (pts) are whole numbers of ticks of ``time_base`` seconds, in the order in which the
pictures are shown. A schedule lists, for every frame of the haystack, the ordinal of its picture.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TypeVar

from vniah.errors import InputError, short_repr

_MOST_PICTURES_PER_SECOND = 1000

Picture = TypeVar("Picture")


def read_rate(value: int | str | Fraction) -> Fraction:
    """Pictures per second, exactly.

        >>> read_rate("24000/1001"), read_rate("12.5")
        (Fraction(24000, 1001), Fraction(25, 2))

    Raises:
        InputError: the value is no rate, or not more than 0 and at most 1,000.
    """
    # Written out, because a short text such as 1e999999999 may be a number of a billion digits.
    pattern = r"[0-9]{1,9}(\.[0-9]{1,9}|/[0-9]{1,9})?"
    rate = None
    if isinstance(value, Fraction):
        rate = value
    elif re.fullmatch(pattern, str(value)):
        numerator, _, denominator = str(value).partition("/")
        rate = Fraction(numerator) / int(denominator or 1) if int(denominator or 1) else None
    if rate is None or not 0 < rate <= _MOST_PICTURES_PER_SECOND:
        raise InputError(
            "pictures per second must be a number such as 25, 23.976 or 24000/1001, more than 0 "
            f"and at most {_MOST_PICTURES_PER_SECOND:,}, got {short_repr(value)}."
        )
    return rate


def clock_schedule(pts: Sequence[int], *, end: int, time_base: Fraction) -> list[int]:
    """Ordinals of the pictures that are on screen 0, 1, 2, ... seconds after the first.

    Frame k is the last picture with pts <= pts[0] + k seconds. There are as many frames as there
    are whole k with pts[0] + k seconds < end, and at least one. All of it is exact.

        >>> clock_schedule([0, 4, 10, 25], end=30, time_base=Fraction(1, 10))
        [0, 2, 2]

    Args:
        pts: time stamps in ticks, ascending (equal ones may follow one another), not empty.
        end: when the last picture leaves the screen, in ticks.
        time_base: seconds per tick.
    """
    num_frames = max(1, -(-(end - pts[0]) * time_base.numerator // time_base.denominator))
    schedule = []
    ordinal = 0
    for k in range(num_frames):
        # pts are whole, so pts <= first + k / time_base holds exactly when it holds rounded down.
        latest = pts[0] + k * time_base.denominator // time_base.numerator
        ordinal = bisect_right(pts, latest, lo=ordinal) - 1
        schedule.append(ordinal)
    return schedule


def longva_schedule(num_pictures: int, *, average_rate: Fraction | None) -> range:
    """Ordinals of every round(fps)-th picture, as in the published V-NIAH script.

    At 23.976 fps this runs 3.6 s ahead in an hour, and on a variable rate it shows no particular
    second. It is here to reproduce published runs.

    Raises:
        InputError: round(fps) is 0, or the file has no average rate.
    """
    if average_rate is None or average_rate <= 0:
        raise InputError(
            "sampling 'longva' takes every round(fps)-th picture, but the file does not say its "
            "average rate. Use sampling 'clock'."
        )
    stride = round(average_rate)
    if stride == 0:
        raise InputError(
            f"sampling 'longva' takes every round(fps)-th picture, but {float(average_rate):.4g} "
            "fps rounds to 0. Use sampling 'clock'."
        )
    return range(0, num_pictures, stride)


def show_at(
    pictures: Iterable[tuple[int, Picture]], times: Sequence[int]
) -> Iterator[tuple[int, int, Picture]]:
    """For each time the picture on screen: the last one whose pts is not after it.

    A time before the first picture gets the first picture. Holds one picture and reads one ahead;
    pictures that come later than their successors are never shown.

        >>> list(show_at([(0, "a"), (4, "b"), (9, "c")], [0, 5, 6]))
        [(0, 0, 'a'), (1, 4, 'b'), (2, 4, 'b')]

    Args:
        pictures: (pts, picture), in the order in which they are shown.
        times: in ticks, ascending.

    Yields:
        (position in ``times``, pts of the picture, the picture); nothing at all if there are no
        pictures.
    """
    shown: tuple[int, Picture] | None = None
    position = 0
    for pts, picture in pictures:
        if shown is not None and pts < shown[0]:
            continue
        while position < len(times) and times[position] < pts:
            yield (position, *(shown or (pts, picture)))
            position += 1
        if position == len(times):
            return
        shown = (pts, picture)
    if shown is not None:
        for last in range(position, len(times)):
            yield (last, *shown)
