"""Bridged needles: the answer of one picture is the key of another, which shows what is asked.

A question of two hops: "Read the digit on the card colored as the sign with a star" is answered by
the blue card where the sign with a star is blue. Neither picture answers it alone. In text, such
chains are the task "variable tracking" of Hsieh et al. 2024, "RULER: What's the Real Context Size
of Your Long-Context Language Models?" (arXiv 2404.06654).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vniah.errors import TaskError
from vniah.grid import Cell, Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import Bridge, Distractor, Needle, NeedleSet
from vniah.scoring import Reading, Score, score_accepted
from vniah.tasks.base import Sample
from vniah.tasks.drawing import shuffled
from vniah.tasks.groups import (
    GROUP_INSERTION,
    GROUP_LABELS,
    Listed,
    Spacing,
    group_indices,
    listed,
    parse_spacings,
    require_depths,
    spread_indices,
)
from vniah.tasks.parsing import Option, one_of, whole_numbers
from vniah.tasks.placement import NeedleLook, insert_needles

_DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class _Asked:
    """A needle with its bridge, and what is shown besides.

    Attributes:
        needle: shows which picture is meant.
        bridge: its bridge.
        target: the picture that shows the answer.
        others: the pictures of other bridges.
    """

    needle: Needle
    bridge: Bridge
    target: Needle | Distractor
    others: tuple[Needle | Distractor, ...]


class Bridged:
    """The task ``bridged``: every needle that has a bridge, with the picture that it leads to.

    The two stand as a group where `vniah.tasks.groups.group_indices` places them, ``distance``
    apart: ``depth`` is the depth of this group, and the fields ``needle_indices`` say where each of
    the two stands. Elsewhere the pictures of other bridges of the set are shown, at hashed places
    all over the haystack; without them a model that reads the only card would be right without
    making any hop. With N others, one that guesses among the cards is right in 1 of N + 1 samples.

    Args:
        distance: haystack frames between the two, or percent of the haystack; by default 10 %.
        direction: ``"forward"`` shows first the needle and then the picture it leads to,
            ``"backward"`` the other way round; by default both.
        others: how many other bridges are shown, each with its two pictures; by default 2.
        needle_frames: as `NeedleLook.frames`, for all pictures.
        needle_style: as `NeedleLook.style`, for all pictures.

    Raises:
        TaskError: an option is invalid.
    """

    name = "bridged"
    num_hops = 2
    axes = ("num_frames", "depth")
    controls = ("no-needle", "blind")
    insertion = GROUP_INSERTION
    facets = ("distance", "direction", "num_others")
    labels: Mapping[str, str] = {
        **GROUP_LABELS,
        "distance": "Distance of the two pictures",
        "direction": "Direction",
        "num_others": "Other bridges",
    }

    def __init__(
        self,
        distance: Listed = "10%",
        direction: Option | Sequence[str] = "forward,backward",
        others: Option | Sequence[int] = "2",
        needle_frames: Option = None,
        needle_style: Option = None,
    ) -> None:
        self._distances = parse_spacings(distance, "distance")
        self._directions = [
            one_of(text, "direction", _DIRECTIONS) for text in listed(direction, "direction")
        ]
        self._others = whole_numbers(others, "others", at_most=1000)
        self._look = NeedleLook.parse(needle_frames, needle_style)
        self.settings: Mapping[str, Any] = {
            "distance": [one.value for one in self._distances],
            "direction": self._directions,
            "others": list(self._others),
            **self._look.settings,
        }

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: Haystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: cell by cell, short haystacks first.

        Raises:
            TaskError: the set has no bridge, or too few others; a haystack is too short; or the
                grid has positions.
        """
        require_depths(grid, self.name)
        plan = [
            (asked, distance, direction)
            for number in self._others
            for asked in _bridges(needles, number)
            for distance in self._distances
            for direction in self._directions
        ]
        for cell in grid.cells:
            for asked, distance, direction in plan:
                yield self._sample(cell, asked, distance, direction)

    def _sample(self, cell: Cell, asked: _Asked, distance: Spacing, direction: str) -> Sample:
        pair: tuple[Needle | Distractor, ...] = (asked.needle, asked.target)
        num_others = len(asked.others) // 2
        name = f"{asked.needle.needle_id}/{distance.value}-{direction}-o{num_others}"
        indices = group_indices(cell, 2, distance, self.name)
        if direction == "backward":
            pair = pair[::-1]
        elsewhere: tuple[int, ...] = ()
        if asked.others:
            elsewhere = spread_indices(
                cell.num_frames, len(asked.others), indices, self.name, cell.prefix, name
            )
        others = shuffled(asked.others, self.name, cell.prefix, name)
        places = [*zip(pair, indices, strict=True), *zip(others, elsewhere, strict=True)]
        return Sample(
            sample_id=f"{cell.prefix}{name}",
            cell=cell,
            shown=insert_needles(cell.num_frames, places, self._look),
            question=asked.bridge.question,
            candidates=asked.bridge.answers,
            choices=asked.bridge.choices,
            asks_for=tuple(one.needle_id for one in pair),
            fields={
                "needle_id": asked.needle.needle_id,
                "distance": distance.value,
                "direction": direction,
                "num_others": num_others,
                "needle_ids": [one.needle_id for one in pair],
                "needle_indices": list(indices),
                "other_ids": [one.needle_id for one in others],
                "other_indices": list(elsewhere),
            },
        )

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the model gives an accepted answer."""
        return score_accepted(sample.candidates, readings, sample.choices)


def _bridges(needles: NeedleSet, num_others: int) -> Iterator[_Asked]:
    """All bridges of a set, each with the pictures of others that lead elsewhere.

    The others are those whose ids come next in the whole set, selected or not, so that a selection
    of its needles shows the same.

    Raises:
        TaskError: there is no bridge, or there are too few others.
    """
    pictures = needles.pictures
    ids = sorted(pictures)
    known = [one for one in map(pictures.get, ids) if isinstance(one, Needle) and one.bridge]
    asked = [needle for needle in needles if needle.bridge is not None]
    if not asked:
        raise TaskError(
            f"no needle of {needles.name} has a 'bridge', a question of two hops, and the task "
            "bridged asks these; add one to the set's metadata, or use --needles cards"
        )
    for needle in asked:
        bridge = needle.bridge
        assert bridge is not None
        start = known.index(needle)
        chosen: list[Needle | Distractor] = []
        taken = {needle.needle_id, bridge.to}
        for other in (*known[start + 1 :], *known[:start]):
            assert other.bridge is not None
            own = {other.needle_id, other.bridge.to}
            if len(chosen) < 2 * num_others and not own & taken:
                chosen += [other, pictures[other.bridge.to]]
                taken |= own
        if len(chosen) < 2 * num_others:
            raise TaskError(
                f"others={num_others} asks for so many other bridges beside that of "
                f"{needle.needle_id}, and {needles.name} has {len(chosen) // 2} that share no "
                "picture with it or with one another; give a smaller number"
            )
        yield _Asked(needle, bridge, pictures[bridge.to], tuple(chosen))
