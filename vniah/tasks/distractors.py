"""V-NIAH-D: one needle, and distractors of its kind elsewhere in the video.

Wei et al. 2025, "VideoRoPE: What Makes for Good Video Rotary Position Embedding?"
(arXiv 2502.05173), section 3 and appendix B.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vniah.errors import InputError, TaskError, short_repr
from vniah.grid import Cell, Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import Distractor, Needle, NeedleSet
from vniah.scoring import Reading, Score, score_accepted
from vniah.tasks.base import Sample
from vniah.tasks.drawing import draw, shuffled
from vniah.tasks.groups import Listed, Spacing, listed, spread_indices
from vniah.tasks.parsing import Option, one_of, whole_number, whole_numbers
from vniah.tasks.placement import NeedleLook, insert_needles

SPREAD = "spread"
NEAR, FAR = "near", "far"

PRESETS: Mapping[str, Mapping[str, str]] = {
    "published": {"distractors": "1", "distance": "200", "similarity": NEAR}
}
_DEFAULTS = {"distractors": "1", "distance": SPREAD, "similarity": NEAR}


@dataclass(frozen=True)
class _Combination:
    """One combination of the options; every cell has each of them.

    Attributes:
        count: how many distractors are shown.
        distance: how far apart needle and distractors are; None for all over the haystack.
        similarity: ``"near"``, ``"far"``, or the rank of the first distractor, from 1.
    """

    count: int
    distance: Spacing | None
    similarity: str | int

    @property
    def name(self) -> str:
        """The end of the ids of its samples: ``"d1-200-near"``."""
        if not self.count:
            return "d0"
        return f"d{self.count}-{self._distance}-{self.similarity}"

    @property
    def fields(self) -> dict[str, Any]:
        """As the results name it; without distractors there is neither distance nor similarity."""
        return {
            "num_distractors": self.count,
            "distance": self._distance if self.count else None,
            "similarity": self.similarity if self.count else None,
        }

    @property
    def _distance(self) -> int | str:
        return SPREAD if self.distance is None else self.distance.value

    def choose(self, needle: Needle) -> tuple[str, ...]:
        """The ids of the distractors that are shown with a needle.

        Raises:
            TaskError: the needle declares fewer.
        """
        declared = needle.distractors
        start = {NEAR: 0, FAR: max(0, len(declared) - self.count)}.get(str(self.similarity))
        first = int(self.similarity) - 1 if start is None else start
        chosen = declared[first : first + self.count]
        if len(chosen) < self.count:
            raise TaskError(
                f"the needle {needle.needle_id} declares {len(declared)} distractors, and "
                f"distractors={self.count} with similarity={self.similarity} needs "
                f"{first + self.count}; list more under 'distractors' in the set's metadata, or "
                "ask for fewer"
            )
        return chosen

    def places(self, cell: Cell, needle_id: str) -> tuple[int, ...]:
        """For each distractor the number of haystack frames before it, the most similar first.

        Raises:
            TaskError: the cell has no room for them.
        """
        index = cell.needle_index
        if self.distance is None:
            names = ("vniah-d", cell.num_frames, index, needle_id, self.count)
            places = spread_indices(cell.num_frames, self.count, (index,), *names)
            return shuffled(places, "distractors", *names)
        step = self.distance.in_frames(cell.num_frames)
        most = index // step + (cell.num_frames - index) // step
        if most < self.count:
            raise TaskError(_no_room(cell, self.count, step, most))
        found: list[int] = []
        ring = 0
        while len(found) < self.count:
            ring += 1
            sides = (index - ring * step, index + ring * step)
            if draw(2, "vniah-d", "side", index, needle_id, ring):
                sides = sides[::-1]
            found += [place for place in sides if 0 <= place <= cell.num_frames]
        return tuple(found[: self.count])


def _no_room(cell: Cell, count: int, step: int, most: int) -> str:
    before = cell.needle_index
    return (
        f"the cell {cell.prefix.rstrip('/')} cannot hold {count} "
        f"distractor{'s' * (count != 1)} {step:,} frames away from the needle and from one "
        f"another: there are {before:,} haystack frames before the needle and "
        f"{cell.num_frames - before:,} after it, room for {most}. Give at least "
        f"{(count + 1) * step:,} frames, or a smaller distance"
    )


class NeedleAmongDistractors:
    """The task ``vniah-d``: every needle in every cell, among distractors of its kind.

    A needle declares its distractors in the metadata of its set. They are inserted like the needle,
    so a sample shows ``num_frames + 1 + num_distractors`` pictures; ``depth`` and ``needle_index``
    count haystack frames only, as in ``vniah``. Every combination of the three options is a sample
    of every cell, so that the map is the mean over all of them, and tables and panels are split by
    what varies (`facets`).

    **Where distractors stand.** With a distance D they stand at multiples of D haystack frames from
    the needle, the most similar ones nearest: first at D, on both sides where both lie in the
    haystack, then at 2 D, and so on. Which side comes first is drawn from a hash of the needle and
    its index. With ``spread`` there is one at a hashed place in each of as many equal parts of
    the haystack, never at the needle's own place. A cell without room for its distractors is an
    error before anything runs; there are never fewer.

    **The published placement** (``preset=published``). The paper inserts "periodically a distractor
    200 frames away from the needle": 200 is about the period, 198.7, of one rotary frequency of
    M-RoPE. The published script inserts one, 200 frames before or after the needle, at random where
    both are possible, and *none* where neither is, as at 100 frames. Here the side is drawn from a
    hash, and a cell that has no room for the distractor is an error: with 400 frames or more every
    depth has room.

    Args:
        distractors: how many are shown: whole numbers, such as ``"0,1,3"``; by default 1.
        distance: haystack frames between the needle and its nearest distractors: numbers, percent
            of the haystack (``"10%"``), or ``"spread"``, the default.
        similarity: which of the declared distractors are shown: ``"near"``, the most similar ones,
            the default; ``"far"``, the least similar ones; or a rank from 1: those from it on.
        preset: ``"published"``, in place of the three options before.
        needle_frames: as `NeedleLook.frames`, for needles and distractors alike.
        needle_style: as `NeedleLook.style`, for needles and distractors alike.

    Raises:
        TaskError: an option is invalid.
    """

    name = "vniah-d"
    axes = ("num_frames", "depth")
    controls = ("no-needle", "option-rotation", "blind", "other-needle")
    facets = ("num_distractors", "distance", "similarity")
    labels: Mapping[str, str] = {
        "num_distractors": "Distractors",
        "distance": "Distance of distractors",
        "similarity": "Similarity of distractors",
    }

    def __init__(
        self,
        distractors: Listed = None,
        distance: Listed = None,
        similarity: Listed = None,
        preset: Option = None,
        needle_frames: Option = None,
        needle_style: Option = None,
    ) -> None:
        given = {"distractors": distractors, "distance": distance, "similarity": similarity}
        given = {name: value for name, value in given.items() if value is not None}
        if preset is not None:
            values: dict[str, Any] = dict(PRESETS[one_of(preset, "preset", tuple(PRESETS))])
            if given:
                raise InputError(
                    f"preset={preset} says what {', '.join(given)} are; leave out the preset or "
                    "these options"
                )
        else:
            values = {**_DEFAULTS, **given}
        counts = whole_numbers(values["distractors"], "distractors", at_most=1000)
        distances = [
            None if text == SPREAD else Spacing.parse(text, "distance", words=[SPREAD])
            for text in listed(values["distance"], "distance")
        ]
        similarities = list(map(_similarity, listed(values["similarity"], "similarity")))
        self._combinations = [
            _Combination(count, distance, similarity)
            for count in counts
            for distance in (distances if count else [None])
            for similarity in (similarities if count else [NEAR])
        ]
        self._look = NeedleLook.parse(needle_frames, needle_style)
        self.settings: Mapping[str, Any] = {
            "distractors": list(counts),
            "distance": [SPREAD if one is None else one.value for one in distances],
            "similarity": similarities,
            **self._look.settings,
        }

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: Haystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: cell by cell, short haystacks first.

        Raises:
            TaskError: a needle declares too few distractors, or a cell has no room for them.
        """
        pictures = needles.pictures
        chosen = [
            (needle, how, [pictures[name] for name in how.choose(needle)])
            for needle in needles
            for how in self._combinations
        ]
        for cell in grid.cells:
            for needle, how, distractors in chosen:
                yield self._sample(cell, needle, how, distractors)

    def _sample(
        self,
        cell: Cell,
        needle: Needle,
        how: _Combination,
        distractors: Sequence[Needle | Distractor],
    ) -> Sample:
        places = how.places(cell, needle.needle_id) if distractors else ()
        shown = [(needle, cell.needle_index), *zip(distractors, places, strict=True)]
        return Sample(
            sample_id=f"{cell.prefix}{needle.needle_id}/{how.name}",
            cell=cell,
            shown=insert_needles(cell.num_frames, shown, self._look),
            question=needle.question,
            candidates=needle.answers,
            choices=needle.choices,
            fields={
                "needle_index": cell.needle_index,
                "needle_id": needle.needle_id,
                **how.fields,
                "distractor_ids": [one.needle_id for one in distractors],
                "distractor_indices": list(places),
            },
        )

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the model gives an accepted answer."""
        return score_accepted(sample.candidates, readings, sample.choices)


def _similarity(text: str) -> str | int:
    if text in (NEAR, FAR):
        return text
    if not text.isdecimal():
        raise TaskError(
            f"the option similarity must be {NEAR}, {FAR} or a rank from 1, got {short_repr(text)}"
        )
    return whole_number(text, "similarity", at_least=1)
