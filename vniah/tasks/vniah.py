"""V-NIAH: one needle frame in a long video, and the question that only it answers.

Zhang et al. 2024, "Long Context Transfer from Language to Vision", section 4.
"""

from collections.abc import Iterator, Sequence

from vniah.grid import Grid, place_prefix
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.scoring import Reading, Score, score_accepted
from vniah.tasks.base import Sample, insert_needle


class VisualNeedle:
    """The task ``vniah``: every needle in every cell."""

    name = "vniah"
    axes = ("num_frames", "depth")
    controls = ("no-needle",)

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: Haystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: cell by cell, short haystacks first."""
        for cell in grid.cells:
            place, index = place_prefix(cell.num_frames, cell.depth), cell.needle_index
            for needle in needles:
                yield Sample(
                    sample_id=place + needle.needle_id,
                    cell=cell,
                    shown=insert_needle(cell.num_frames, index, needle.needle_id),
                    question=needle.question,
                    candidates=needle.answers,
                    choices=needle.choices,
                    fields={"needle_index": index, "needle_id": needle.needle_id},
                )

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the model gives an accepted answer."""
        return score_accepted(sample.candidates, readings, sample.choices)
