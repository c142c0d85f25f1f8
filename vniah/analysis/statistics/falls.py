"""Is a run worse than another one, or is it chance? Tests against a fall, for regression gates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, count
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from vniah.analysis.statistics.paired import (
    NUM_RANDOM,
    SEED,
    adjust_holm,
    mcnemar_p_values,
    paired_table,
)
from vniah.analysis.statistics.table import SampleTable, sample_table
from vniah.grid import Cell
from vniah.results import Results

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


_CHUNK = 512  # cells at a time, which takes 40 MB
_ROUNDING = 1e-9


@dataclass(frozen=True)
class CellTest:
    """P-values of a cell, corrected by Holm's procedure for all cells being tested.

    Attributes:
        fall: against a fall.
        rise: against a rise.
    """

    fall: float
    rise: float


@dataclass(frozen=True)
class FallTests:
    """Tests that a run is no worse than another one, for needles like these.

    Attributes:
        is_paired: whether both runs have the same samples; else they have other needles.
        num_needles: number of needles of the run that has fewer.
        least: the smallest p-value that so few needles can give by rearrangement.
        least_average: the smallest that these could, of the average, if everything were lost.
        average: the p-value of the mean over cells.
        worst_cell: the p-value of the largest fall of a cell, among all cells.
        cells: those of each cell.
    """

    is_paired: bool
    num_needles: int
    least: float
    least_average: float
    average: float
    worst_cell: float
    cells: Mapping[Cell, CellTest]

    def can_find(self, level: float) -> bool:
        """Whether a fall could be found with so few needles; else no test says anything."""
        return self.least <= level

    def is_fall(self, level: float) -> bool:
        """Whether one of the three tests finds a fall, each with this level."""
        p_values = self.average, self.worst_cell, *(test.fall for test in self.cells.values())
        return self.can_find(level) and min(p_values) <= level


def num_needed(level: float, *, is_paired: bool) -> int | None:
    """The fewest needles with which a fall could be found, in `FallTests.can_find`.

    Args:
        level: that of each test.
        is_paired: as in `fall_tests`; of runs with other needles, how many each has.

    Returns:
        None if no number is enough, as the rearrangements that are drawn are too few.
    """
    if (NUM_RANDOM + 1) * level < 1:
        return None
    return next(
        num
        for num in count(1)
        if 1 / min(2**num if is_paired else comb(2 * num, num), NUM_RANDOM + 1) <= level
    )


def fall_tests(before: Results, after: Results, *, is_paired: bool = True) -> FallTests | None:
    """Tests the average, the worst cell, and every cell against a fall.

    Of runs on the same samples, the average and the largest fall of a cell are tested by swapping
    both runs for some of the needles, for all cells of a needle at once (a sign-flip permutation
    test, and its maximum over cells), and each cell by McNemar's exact test. Of runs with other
    needles, the needles are dealt anew to the two runs, and each cell is tested by Fisher's exact
    test. No number of cells makes any of them alarm more often. Source of the maximum: P. H.
    Westfall and S. S. Young, "Resampling-Based Multiple Testing" (1993).

    Args:
        before: the earlier run.
        after: the later run, with a score in the same cells.
        is_paired: whether both have the same samples. Then what only one of them has is left out.

    Returns:
        None if the samples do not say which needle they are about.
    """
    if is_paired:
        table = paired_table(before, after)
        return paired_tests(table) if table.knows_needles else None
    tables = sample_table(before), sample_table(after)
    return unpaired_tests(*tables) if all(table.knows_needles for table in tables) else None


def paired_tests(table: SampleTable) -> FallTests:
    """The same of a table of pairs, whose values are -1 (fallen), 0 and 1 (risen)."""
    sums, counts = by_needle(table)
    parts = sums / counts.sum(axis=0)  # what each needle adds to the difference of each cell
    signs = _sign_changes(len(parts))
    average, worst = _rearranged(
        signs @ parts.mean(axis=1), lambda cells: signs @ parts[:, cells], parts.shape[1]
    )
    fallen, risen = (sums < -_ROUNDING).sum(axis=0), (sums > _ROUNDING).sum(axis=0)
    return FallTests(
        True,
        len(parts),
        1 / len(signs),
        1 / len(signs),
        average,
        worst,
        _cell_tests(
            table.cells,
            mcnemar_p_values(fallen, risen, alternative="less"),
            mcnemar_p_values(fallen, risen, alternative="greater"),
        ),
    )


def unpaired_tests(before: SampleTable, after: SampleTable) -> FallTests:
    """The same of two tables with the same cells, whose needles are others."""
    numbers = len(before.needles), len(after.needles)
    first, second = by_needle(before), by_needle(after)
    sums, counts = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    deals = _deals(*numbers)

    weights = deals / numbers[1] - (1 - deals) / numbers[0]

    def differences(values: "Floats", sizes: "Floats") -> "Floats":
        if np.all(sizes == sizes.flat[0]):  # as in most runs: every needle in every cell
            same: Floats = weights @ (values / sizes.flat[0])
            return same
        with np.errstate(divide="ignore", invalid="ignore"):
            later = (deals @ values) / (deals @ sizes)
            earlier = ((1 - deals) @ values) / ((1 - deals) @ sizes)
        found: Floats = np.nan_to_num(later - earlier, nan=0.0)  # a side without any sample
        return found

    needles = np.concatenate((before.needle_values(), after.needle_values()))
    average, worst = _rearranged(
        differences(needles, np.ones(len(needles))),
        lambda cells: differences(sums[:, cells], counts[:, cells]),
        len(before.cells),
    )
    if counts.max() > 1:  # samples of one needle are not independent
        falls, rises = _deal_p_values(differences, sums, counts)
    else:
        falls, rises = _fisher(first, second)
    cells = _cell_tests(before.cells, falls, rises)
    least = 1 / len(deals)
    num_found = int((first[0].sum(axis=1) > _ROUNDING).sum())
    least_average = comb(sum(numbers) - num_found, numbers[1]) / comb(sum(numbers), numbers[1])
    return FallTests(False, min(numbers), least, max(least, least_average), average, worst, cells)


def by_needle(table: SampleTable) -> tuple["Floats", "Floats"]:
    """``[num_needles, num_cells]`` each: the sums of the values, and how many there are."""
    shape = len(table.needles), len(table.cells)
    places = table.needle * shape[1] + table.cell
    size = shape[0] * shape[1]
    sums = np.bincount(places, table.values, size).astype(np.float64).reshape(shape)
    counts: Floats = np.bincount(places, minlength=size).reshape(shape).astype(np.float64)
    return sums, counts


def _rearranged(
    averages: "Floats", cells_of: Callable[[slice], "Floats"], num_cells: int
) -> tuple[float, float]:
    """P-values of the average and of the worst cell; the first rearrangement is what was seen."""
    worst = np.zeros(len(averages))
    for start in range(0, num_cells, _CHUNK):
        np.minimum(worst, cells_of(slice(start, start + _CHUNK)).min(axis=1), out=worst)
    average_p, worst_p = (
        float((values <= values[0] + _ROUNDING).mean()) for values in (averages, worst)
    )
    return average_p, worst_p


def _deal_p_values(
    differences: Callable[["Floats", "Floats"], "Floats"], sums: "Floats", counts: "Floats"
) -> tuple["Floats", "Floats"]:
    falls, rises = [], []
    for start in range(0, sums.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        found = differences(sums[:, part], counts[:, part])
        falls.append((found <= found[0] + _ROUNDING).mean(axis=0))
        rises.append((found >= found[0] - _ROUNDING).mean(axis=0))
    return np.concatenate(falls), np.concatenate(rises)


def _fisher(
    first: tuple["Floats", "Floats"], second: tuple["Floats", "Floats"]
) -> tuple["Floats", "Floats"]:
    from scipy.stats import hypergeom

    (right_before, num_before), (right_after, num_after) = (
        (sums.sum(axis=0).round().astype(int), counts.sum(axis=0).astype(int))
        for sums, counts in (first, second)
    )
    of = num_before + num_after, right_before + right_after, num_after
    return hypergeom.cdf(right_after, *of), hypergeom.sf(right_after - 1, *of)


def _cell_tests(
    cells: tuple[Cell, ...], falls: "Floats", rises: "Floats"
) -> Mapping[Cell, CellTest]:
    pairs = zip(adjust_holm(falls), adjust_holm(rises), strict=True)
    return {
        cell: CellTest(float(fall), float(rise))
        for cell, (fall, rise) in zip(cells, pairs, strict=True)
    }


@lru_cache(maxsize=4)
def _sign_changes(num_needles: int) -> "Floats":
    """``[num_changes, num_needles]`` of 1 and -1: all, or 10,000; the first changes nothing."""
    if 2**num_needles <= NUM_RANDOM:
        bits = np.arange(2**num_needles)[:, None] >> np.arange(num_needles) & 1
    else:
        rng = np.random.default_rng(SEED)
        bits = rng.integers(0, 2, (NUM_RANDOM + 1, num_needles))
        bits[0] = 0
    signs: Floats = 1 - 2 * bits.astype(np.float64)
    return signs


@lru_cache(maxsize=4)
def _deals(num_before: int, num_after: int) -> "Floats":
    """``[num_deals, num_before + num_after]``, 1 for the later run; the first is as it was."""
    num = num_before + num_after
    own = np.arange(num) >= num_before
    if comb(num, num_after) <= NUM_RANDOM:
        every = combinations(reversed(range(num)), num_after)  # begins with the last ones
        deals = np.zeros((comb(num, num_after), num))
        for row, places in zip(deals, every, strict=True):
            row[list(places)] = 1
        return deals
    rng = np.random.default_rng(SEED)
    deals = np.tile(own.astype(np.float64), (NUM_RANDOM + 1, 1))
    deals[1:] = rng.permuted(deals[1:], axis=1)
    return deals
