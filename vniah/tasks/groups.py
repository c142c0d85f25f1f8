"""Where several needles stand together.

Nothing here depends on the order of a loop or on what else a grid holds: places follow from the
cell, the needles and the options of a task, and what looks random is drawn by hash.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor

from vniah.errors import TaskError, short_repr
from vniah.grid import MAX_FRAMES, Cell, Grid
from vniah.needles import Needle, NeedleSet
from vniah.tasks.drawing import draw
from vniah.tasks.parsing import Option, whole_number

GROUP_LABELS: Mapping[str, str] = {"depth": "Depth of the group"}
"""The labels of tasks that place a group by `group_indices`."""

GROUP_INSERTION = (
    "pictures inserted as a group, floor(depth x num_frames outside of it) frames before it, none "
    "replaced"
)
"""What the manifest says of how they are inserted."""

Listed = Option | Sequence[int] | Sequence[str]
"""An option with one value or several: a comma list, a number, or a sequence of values."""


def listed(value: Listed, what: str) -> tuple[str, ...]:
    """The values of an option that takes several, as text.

    Raises:
        TaskError: there is none, or one is given twice.
    """
    parts = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    texts = tuple(text.strip() for part in parts for text in str(part).split(","))
    if not all(texts) or len(set(texts)) < len(texts):
        raise TaskError(
            f"the option {what} must name each value once, and at least one, got "
            f"{short_repr(value)}"
        )
    return texts


@dataclass(frozen=True)
class Spacing:
    """How far apart two neighbours stand.

    Attributes:
        number: haystack frames between them, or percent of all haystack frames.
        is_percent: whether it is percent: then it is rounded down, to at least one frame.
    """

    number: int
    is_percent: bool = False

    @classmethod
    def parse(cls, text: str, what: str, *, words: Sequence[str] = ()) -> "Spacing":
        """The spacing that a text says: ``"200"`` or ``"10%"``.

        Args:
            text: of one spacing.
            what: names the option in messages.
            words: what the option may be besides, for the message.

        Raises:
            TaskError: it is neither.
        """
        is_percent = text.endswith("%")
        most = 100 if is_percent else MAX_FRAMES
        try:
            number = whole_number(text.removesuffix("%"), what, at_least=1, at_most=most)
        except TaskError as error:
            more = "".join(f", or {word}" for word in words)
            raise TaskError(
                f"the option {what} must be a whole number of haystack frames from 1 to "
                f"{MAX_FRAMES:,}, or percent from 1% to 100%{more}; got {short_repr(text)}"
            ) from error
        return cls(number, is_percent)

    @property
    def value(self) -> int | str:
        """As results, settings and ids name it: ``200``, ``"10%"``."""
        return f"{self.number}%" if self.is_percent else self.number

    def in_frames(self, num_frames: int) -> int:
        """The haystack frames between neighbours in a haystack of ``num_frames`` frames."""
        return max(1, self.number * num_frames // 100) if self.is_percent else self.number


def parse_spacings(value: Listed, what: str) -> tuple[Spacing, ...]:
    """The spacings that an option lists, such as ``"10,200"`` or ``"5%"``."""
    return tuple(Spacing.parse(text, what) for text in listed(value, what))


def group_indices(cell: Cell, count: int, spacing: Spacing, task: str) -> tuple[int, ...]:
    """Where the members of a group stand: for each the number of haystack frames before it.

    Neighbours are ``spacing`` apart, in every cell alike. The depth of a group is the share of the
    haystack frames outside of it that come before it: at depth 0 it begins with the video, at depth
    1 it ends with it, at 0.5 it stands in the middle. For a single member this is the depth of
    `vniah.grid.Cell`.

    Args:
        cell: number of frames, and depth of the group.
        count: members, at least 1.
        spacing: haystack frames between neighbours.
        task: its name, for the message.

    Raises:
        TaskError: the haystack is too short for the group.
    """
    step = spacing.in_frames(cell.num_frames)
    width = (count - 1) * step
    if width > cell.num_frames:
        raise TaskError(
            f"{count} pictures of the task {task} that stand {step:,} haystack frames apart need "
            f"{width:,} haystack frames, and the grid has cells of {cell.num_frames:,}: give more "
            "frames, fewer pictures or a smaller distance"
        )
    first = floor(cell.depth * (cell.num_frames - width))
    return tuple(first + number * step for number in range(count))


def require_depths(grid: Grid, task: str) -> None:
    """Raises `TaskError` for a grid of positions, which say where one needle stands."""
    if grid.positions:
        raise TaskError(
            f"the task {task} places several pictures by the depth of their group, and positions "
            "say where one picture stands; give --depths instead of --positions"
        )


def spread_indices(
    num_frames: int, count: int, avoided: Collection[int], *names: object
) -> tuple[int, ...]:
    """Different places all over the haystack, drawn by hash.

    The places that are not taken are cut into ``count`` equal parts, and there is one in each.

    Args:
        num_frames: haystack frames; a place is the number of those before it.
        count: how many, at least 1.
        avoided: places that are taken.
        names: as `draw`.

    Raises:
        TaskError: there are not so many places.
    """
    free = [place for place in range(num_frames + 1) if place not in avoided]
    if len(free) < count:
        raise TaskError(
            f"{num_frames:,} haystack frames have no room for {count} more pictures at places of "
            f"their own: give at least {count + len(set(avoided)) - 1:,} frames, or fewer pictures"
        )
    ends = [part * len(free) // count for part in range(count + 1)]
    return tuple(
        free[start + draw(stop - start, "spread", *names, part)]
        for part, (start, stop) in enumerate(pairwise(ends))
    )


def windows(needles: Sequence[Needle], count: int, what: str) -> Iterator[tuple[Needle, ...]]:
    """Groups of ``count`` needles: as many as there are needles, each of which is in ``count``.

    Each group is a run of needles in the order of the set, which goes on from its beginning.

    Raises:
        TaskError: there are fewer needles than that.
    """
    if count > len(needles):
        raise TaskError(
            f"the option {what} asks for {count} needles, and the needle set has {len(needles)}; "
            "give a smaller number, or another set"
        )
    for start in range(len(needles)):
        yield tuple(needles[(start + step) % len(needles)] for step in range(count))


def require_locators(needles: NeedleSet, task: str) -> None:
    """Raises `TaskError` unless each needle has a phrase of its own that names it in questions."""
    if missing := [needle.needle_id for needle in needles if needle.locator is None]:
        raise TaskError(
            f"the task {task} names needles in its questions, and the needle {missing[0]} of "
            f"{needles.name} has no 'locator': add to its metadata a phrase such as 'the red card'"
        )
    ids_by_locator: dict[str, str] = {}
    for needle in needles:
        other = ids_by_locator.setdefault(str(needle.locator), needle.needle_id)
        if other != needle.needle_id:
            raise TaskError(
                f"the task {task} names needles in its questions, and {other} and "
                f"{needle.needle_id} of {needles.name} have the same locator, "
                f"{short_repr(needle.locator)}; give each one of its own"
            )
