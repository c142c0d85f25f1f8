"""Segments made of parts are compared part by part, and are cut between parts only.

A thousand frames may be one segment. The prefix tree (`vniah.forward.prefix_tree`) compares
segments part by part and cuts them where sequences part, at the cost of the segments, not of the
parts.
"""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Divisible(Protocol):
    """A segment that is made of parts, between which it can be cut; any other is one part."""

    def num_parts(self) -> int:
        """How many parts it has, at least one."""

    def part(self, index: int) -> Hashable:
        """One part; parts with equal content compare as equal, also those of different segments."""

    def cut(self, start: int, stop: int) -> tuple[Hashable, ...]:
        """Segments that are made of its parts ``start`` to ``stop - 1``."""

    def runs_along(self, index: int, other: Any, other_index: int) -> bool:
        """Whether all parts from ``index`` on equal those of ``other`` from ``other_index`` on.

        The longer of the two may go on. False also means "not known": then parts are compared.
        """


def leading(
    segments: Sequence[Hashable], num_tokens: int, size: Callable[[Hashable], int]
) -> tuple[Hashable, ...]:
    """The first ``num_tokens`` tokens of some segments, which must end between two parts."""
    found: list[Hashable] = []
    missing = num_tokens
    for segment in segments:
        if size(segment) > missing:
            counts = range(num_parts_of(segment))
            last = bisect_right(counts, missing, key=lambda n: _tokens_of(segment, n, size)) - 1
            found += _cut(segment, 0, last)
            missing -= _tokens_of(segment, last, size)
            break
        found.append(segment)
        missing -= size(segment)
    assert missing == 0, "these tokens end inside of a part"
    return tuple(found)


class SegmentParts:
    """Some segments, counted in parts.

    Attributes:
        segments: as given.
        stops: for each, how many parts there are up to its end.
    """

    __slots__ = ("segments", "stops")

    def __init__(self, segments: tuple[Hashable, ...]) -> None:
        self.segments = segments
        self.stops = list(accumulate(map(num_parts_of, segments)))

    def __len__(self) -> int:
        return self.stops[-1] if self.stops else 0

    @property
    def is_plain(self) -> bool:
        """Whether each segment is one part."""
        return len(self) == len(self.segments)

    def place(self, index: int) -> tuple[int, int]:
        """The index of a part's segment, and the index of the part in it."""
        number = bisect_right(self.stops, index)
        return number, index - (self.stops[number - 1] if number else 0)

    def part(self, index: int) -> Hashable:
        """The part with that index, counted over all segments."""
        number, inside = self.place(index)
        return _part(self.segments[number], inside)

    def cut(self, start: int, stop: int) -> tuple[Hashable, ...]:
        """Segments that are made of the parts ``start`` to ``stop - 1``."""
        if self.is_plain:
            return self.segments[start:stop]
        found: list[Hashable] = []
        number, inside = self.place(start)
        while start < stop:
            end = min(stop, self.stops[number])
            found += _cut(self.segments[number], inside, inside + end - start)
            start, inside, number = end, 0, number + 1
        return tuple(found)

    def num_common(self, other: "SegmentParts", start: int) -> int:
        """How many parts, from the first on, equal those of ``other`` from ``start`` on."""
        most = min(len(self), len(other) - start)
        if self.is_plain and other.is_plain:
            for index in range(most):
                one, two = self.segments[index], other.segments[start + index]
                if one is not two and one != two:
                    return index
            return most
        count = number = index = 0
        other_number, other_index = other.place(start)
        while count < most:
            left, other_left = self.stops[number] - count, other.stops[other_number] - start - count
            one, two = self.segments[number], other.segments[other_number]
            num_alike = min(left, other_left)
            if index != other_index or one is not two:
                num_alike = _num_alike(one, index, two, other_index, num_alike)
                if not num_alike:
                    break
            count += num_alike
            number, index = (number + 1, 0) if num_alike == left else (number, index + num_alike)
            is_done = num_alike == other_left
            other_number, other_index = (
                (other_number + 1, 0) if is_done else (other_number, other_index + num_alike)
            )
        return count


@cache
def _is_divisible(kind: type) -> bool:
    return issubclass(kind, Divisible)


def num_parts_of(segment: Any) -> int:
    """How many parts a segment has; one that is not `Divisible` is one part."""
    return segment.num_parts() if _is_divisible(segment.__class__) else 1


def _part(segment: Any, index: int) -> Hashable:
    part: Hashable = segment.part(index) if _is_divisible(segment.__class__) else segment
    return part


def _cut(segment: Any, start: int, stop: int) -> tuple[Hashable, ...]:
    """Segments that are made of a segment's parts ``start`` to ``stop - 1``."""
    if stop - start == num_parts_of(segment):
        return (segment,)
    return tuple(segment.cut(start, stop)) if start < stop else ()


def _tokens_of(segment: Hashable, num_parts: int, size: Callable[[Hashable], int]) -> int:
    """Tokens of its first parts."""
    return sum(map(size, _cut(segment, 0, num_parts)))


def _num_alike(one: Any, index: int, other: Any, other_index: int, most: int) -> int:
    """How many parts two segments surely have in common from two of their parts on."""
    if most > 1 and one.runs_along(index, other, other_index):
        return most
    return int(_part(one, index) == _part(other, other_index))
