"""The changes of cells between two runs, and what came of a rule."""

from collections.abc import Collection, Sequence
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


@dataclass(frozen=True)
class Finding:
    """What came of one rule.

    Attributes:
        rule: its name, as in `vniah.analysis.compare.Rules`; of the tests of what these needles
            lost, which belong to ``significance``, ``needles_lost`` and
            ``average_of_these_needles``.
        passed: whether the candidate holds it.
        text: what was found, in a phrase.
        cells: the cells that break it.
        needles: the needles that are lost.
        note: what has to be said below the table of cells; empty if nothing.
    """

    rule: str
    passed: bool
    text: str
    cells: tuple[Cell, ...] = ()
    needles: tuple[str, ...] = ()
    note: str = ""


def mean_scores(changes: Sequence[CellChange]) -> tuple[float, float]:
    """The averages over the compared cells, before and after."""
    return (
        float(mean_of([change.before for change in changes])),
        float(mean_of([change.after for change in changes])),
    )


def cells_of(changes: Sequence[CellChange]) -> tuple[Cell, ...]:
    """The cells that changed."""
    return tuple(change.cell for change in changes)


def mean_of(values: Collection[Fraction]) -> Fraction:
    """The mean of at least one fraction, exact."""
    return sum(values, Fraction()) / len(values)


def exact(value: float) -> Fraction:
    """A threshold as it was written: 0.1 is a tenth."""
    return Fraction(str(value))
