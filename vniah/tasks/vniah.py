"""V-NIAH: one needle frame in a long video, and the question that only it answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vniah.grid import Cell, Grid
from vniah.needles import Needle, NeedleSet
from vniah.protocol import FrameSegment

TASK_NAME = "vniah"


@dataclass(frozen=True)
class Question:
    """One needle in one cell.

    Attributes:
        cell: how many frames, how deep.
        needle: what is inserted and asked.
    """

    cell: Cell
    needle: Needle

    def insert(self, haystack: Sequence[FrameSegment], needle: FrameSegment) -> list[FrameSegment]:
        """The frames shown: ``cell.num_frames`` of the haystack with the needle among them.

        The needle is inserted and replaces nothing, so there is one more than ``num_frames``.
        """
        index = self.cell.needle_index
        return [*haystack[:index], needle, *haystack[index : self.cell.num_frames]]


def questions(grid: Grid, needles: NeedleSet) -> Iterator[Question]:
    """Everything that a sweep asks, cell by cell, short haystacks first."""
    for cell in grid.cells:
        for needle in needles:
            yield Question(cell, needle)
