"""Evidence of a fall while a run is going on: a test that may be looked at again and again.

A comparison that may stop early looks at its cells in parts, all needles at once. At each look the
evidence of a fall is an e-value: a number whose mean is at most 1 where there is no fall.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from vniah.analysis.statistics.falls import by_needle
from vniah.analysis.statistics.table import SampleTable
from vniah.files import hash_text
from vniah.grid import Cell

if TYPE_CHECKING:
    from vniah.analysis.statistics.table import Floats

MOST_PARTS = 10
"""In how many parts the cells of a run are measured at most."""

_STAKES = np.array([0.5, 1.0, 2.0, 4.0, 8.0])


def parts_of(cells: Iterable[Cell]) -> tuple[tuple[Cell, ...], ...]:
    """The cells of a comparison in the parts in which they are measured.

    The order follows from the cells alone and is as good as random: that of hashes of their needle
    positions. Cells with the same position are in one part, since a sweep reads their needle once
    for all lengths.

    Returns:
        Up to ten parts of about the same number of cells.
    """
    groups: dict[int, list[Cell]] = {}
    for cell in sorted(cells):
        groups.setdefault(cell.needle_index, []).append(cell)
    num_cells = sum(map(len, groups.values()))
    num_parts = min(MOST_PARTS, len(groups))
    parts: list[list[Cell]] = [[] for _ in range(num_parts)]
    num_before = 0
    for position in sorted(groups, key=lambda position: hash_text(str(position))):
        parts[num_before * num_parts // num_cells] += groups[position]
        num_before += len(groups[position])
    return tuple(tuple(part) for part in parts if part)


@dataclass(frozen=True)
class EarlyTest:
    """The evidence of a fall of the average at the looks so far.

    Attributes:
        num_looks: how many looks there are before the run is complete, as is known beforehand.
        e_values: the e-value of each look so far.
        num_needles: number of needles.
    """

    num_looks: int
    e_values: tuple[float, ...]
    num_needles: int

    @property
    def evidence(self) -> float:
        """The sum of the e-values so far, divided by the number of all looks.

        It only grows, and its mean is at most 1 after the last look, if there is no fall. So by
        Markov's inequality it reaches ``1 / p`` at any time in at most a share p of such runs,
        however the looks depend on one another. Source: V. Vovk and R. Wang, "E-values:
        calibration, combination and applications", Annals of Statistics 49 (2021), on means of
        e-values.
        """
        return sum(self.e_values) / self.num_looks if self.num_looks else 0.0

    def is_fall(self, level: float) -> bool:
        """Whether there is a fall, with a false alarm at any look in at most this share of runs."""
        return self.evidence * level >= 1

    def can_find(self, level: float) -> bool:
        """Whether a fall could be found before the run is complete with so few needles."""
        most = symmetry_e_value([-1.0] * self.num_needles)
        return self.num_looks > 0 and most * level >= 1


def early_test(table: SampleTable, parts: Sequence[Sequence[Cell]]) -> EarlyTest:
    """The evidence of a fall of the average, at each look whose cells are complete.

    Args:
        table: pairs of samples, whose values are -1 (fallen), 0 and 1 (risen), with known needles:
            those of complete parts.
        parts: the parts of `parts_of` that are complete, and the others; the last part is never
            looked at, as the run is complete then.
    """
    sums, counts = by_needle(table)
    sizes = counts.sum(axis=0)
    differences = sums / sizes.clip(min=1)
    place_of = {cell: place for place, cell in enumerate(table.cells) if sizes[place]}
    e_values = []
    total: Floats = np.zeros(len(table.needles))
    for part in parts[:-1]:
        places = [place_of[cell] for cell in part if cell in place_of]
        if len(places) < len(part):
            break
        total = total + differences[:, places].sum(axis=1)
        e_values.append(symmetry_e_value(total))
    return EarlyTest(max(0, len(parts) - 1), tuple(e_values), len(table.needles))


def symmetry_e_value(values: "Sequence[float] | Floats") -> float:
    """The evidence that the differences of needles are not symmetric about 0, but mostly below.

    If neither run is better, each needle might as well have had the two the other way round: given
    how far its difference d is from 0, its sign is that of a fair coin. Then
    ``exp(-s d) / cosh(s d)`` has the mean 1 for any s, and so have the product over independent
    needles and the mean of such products, here with the stakes s of 0.5, 1, 2, 4 and 8 over the
    root mean square of the differences. No needle multiplies the evidence by more than 2. Source:
    V. Vovk and R. Wang, "Nonparametric e-tests of symmetry", New England Journal of Statistics in
    Data Science 2 (2024); the martingale is that of V. H. de la Pena, "A general class of
    exponential inequalities for martingales and ratios", Annals of Probability 27 (1999).

    Args:
        values: the difference of each needle, over all of its samples.

    Returns:
        At least 0; its mean is 1 if there is no fall.
    """
    array = np.asarray(values, dtype=np.float64)
    size = float(np.sqrt(np.mean(array**2))) if len(array) else 0.0
    if size < 1e-12:
        return 1.0
    staked = _STAKES[:, None] * (array / size)
    logs = -staked - np.logaddexp(staked, -staked) + np.log(2)
    return float(np.exp(logsumexp(logs.sum(axis=1)) - np.log(len(_STAKES))))
