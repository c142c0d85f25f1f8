"""V-NIAH: one needle frame in a long video, and the question that only it answers.

Zhang et al. 2024, "Long Context Transfer from Language to Vision", section 4.
"""

from collections.abc import Iterator, Sequence

from vniah.grid import Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.scoring import Reading, Score, score_accepted
from vniah.tasks.base import Sample
from vniah.tasks.parsing import Option
from vniah.tasks.placement import NeedleLook, insert_needles


class VisualNeedle:
    """The task ``vniah``: every needle in every cell.

    Args:
        needle_frames: for how many frames a needle is shown, as `NeedleLook.frames`.
        needle_style: as `NeedleLook.style`.
    """

    name = "vniah"
    axes = ("num_frames", "depth")
    controls = ("no-needle", "option-rotation", "blind", "other-needle")
    asks_needles = True

    def __init__(self, needle_frames: Option = None, needle_style: Option = None) -> None:
        self._look = NeedleLook.parse(needle_frames, needle_style)
        self.settings = self._look.settings

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: Haystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: cell by cell, short haystacks first."""
        for cell in grid.cells:
            index = cell.needle_index
            for needle in needles:
                yield Sample(
                    sample_id=cell.prefix + needle.needle_id,
                    cell=cell,
                    shown=insert_needles(cell.num_frames, [(needle, index)], self._look),
                    question=needle.question,
                    candidates=needle.answers,
                    choices=needle.choices,
                    fields={"needle_index": index, "needle_id": needle.needle_id},
                )

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the model gives an accepted answer."""
        return score_accepted(sample.candidates, readings, sample.choices)
