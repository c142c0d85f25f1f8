"""Several needles in one video, each asked for by its own question: are all of them retrieved?

After the tasks "multi-keys" and "multi-queries" of Hsieh et al. 2024, "RULER: What's the Real
Context Size of Your Long-Context Language Models?" (arXiv 2404.06654), appendix B: several needles
stand in the context, each is queried, and the score is the share that is retrieved. RULER asks for
all of them in one prompt; here each question is a sample, so that the answers are read one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vniah.grid import Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.scoring import Reading, Score, score_accepted
from vniah.tasks.base import Sample
from vniah.tasks.drawing import shuffled
from vniah.tasks.groups import (
    GROUP_INSERTION,
    GROUP_LABELS,
    Listed,
    group_indices,
    parse_spacings,
    require_depths,
    windows,
)
from vniah.tasks.parsing import Option, whole_numbers
from vniah.tasks.placement import NeedleLook, insert_needles


class RetrieveAll:
    """The task ``retrieve-all``: groups of needles, with the question of each.

    There are as many groups as needles: each is a run of ``num_needles`` needles in the order of
    the set, which goes on from its beginning. A group is shown in an order that is drawn from a
    hash of its cell, and stands where `vniah.tasks.groups.group_indices` places it: ``depth`` is
    the depth of the group. The score of a cell is the share of needles that are retrieved (recall);
    besides, the share of groups of which all needles are retrieved is reported.

    Args:
        num_needles: needles in a group: whole numbers from 2, such as ``"2,4"``; by default 3.
        spacing: haystack frames between neighbours, or percent of the haystack: such as
            ``"20,10%"``; by default 10 %.
        needle_frames: as `NeedleLook.frames`.
        needle_style: as `NeedleLook.style`.

    Raises:
        TaskError: an option is invalid.
    """

    name = "retrieve-all"
    axes = ("num_frames", "depth")
    controls = ("no-needle", "option-rotation", "blind", "other-needle")
    insertion = GROUP_INSERTION
    facets = ("num_needles", "spacing")
    all_of = "group"
    labels: Mapping[str, str] = {
        **GROUP_LABELS,
        "num_needles": "Needles in a group",
        "spacing": "Spacing",
        "group": "Needles of a group",
    }

    def __init__(
        self,
        num_needles: Option | Sequence[int] = "3",
        spacing: Listed = "10%",
        needle_frames: Option = None,
        needle_style: Option = None,
    ) -> None:
        self._counts = whole_numbers(num_needles, "num_needles", at_least=2, at_most=1000)
        self._spacings = parse_spacings(spacing, "spacing")
        self._look = NeedleLook.parse(needle_frames, needle_style)
        self.settings: Mapping[str, Any] = {
            "num_needles": list(self._counts),
            "spacing": [one.value for one in self._spacings],
            **self._look.settings,
        }

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: Haystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: group by group in each cell.

        Raises:
            TaskError: the set has too few needles, a haystack is too short for a group, or the grid
                has positions.
        """
        require_depths(grid, self.name)
        plan = [
            (count, spacing, number, group)
            for count in self._counts
            for spacing in self._spacings
            for number, group in enumerate(windows(needles.needles, count, "num_needles"))
        ]
        for cell in grid.cells:
            for count, spacing, number, group in plan:
                name = f"k{count}-s{spacing.value}-g{number}"
                shown = shuffled(group, self.name, cell.prefix, name)
                indices = group_indices(cell, count, spacing, self.name)
                places = list(zip(shown, indices, strict=True))
                frames = insert_needles(cell.num_frames, places, self._look)
                for needle, index in places:
                    yield Sample(
                        sample_id=f"{cell.prefix}{needle.needle_id}/{name}",
                        cell=cell,
                        shown=frames,
                        question=needle.question,
                        candidates=needle.answers,
                        choices=needle.choices,
                        fields={
                            "needle_id": needle.needle_id,
                            "asked_index": index,
                            "num_needles": count,
                            "spacing": spacing.value,
                            "group": name,
                            "needle_ids": [one.needle_id for one in shown],
                            "needle_indices": list(indices),
                        },
                    )

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the model gives an accepted answer."""
        return score_accepted(sample.candidates, readings, sample.choices)
