"""The change of a cell between two runs."""

from dataclasses import dataclass
from fractions import Fraction

from vniah.grid import Cell


@dataclass(frozen=True)
class CellChange:
    """The scores of one cell in both runs.

    Attributes:
        cell: the cell.
        before: its score in the baseline, exact, in [0, 1].
        after: its score in the candidate, exact, in [0, 1].
        num_before: the number of samples behind `before`; None in a published table, where it is
            not known.
        num_after: the number of samples behind `after`; None in a published table.
        p_value: of the test against a change in this direction, corrected by Holm's procedure for
            all cells; None if nothing changed, or it cannot be tested.
    """

    cell: Cell
    before: Fraction
    after: Fraction
    num_before: int | None
    num_after: int | None
    p_value: float | None = None

    @property
    def drop(self) -> Fraction:
        """How far the score fell; negative if it rose."""
        return self.before - self.after
