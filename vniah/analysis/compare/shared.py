"""The cells that two runs have in common, and which of them changed: for pictures."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING

from vniah.analysis.compare.changes import CellChange
from vniah.analysis.compare.findings import changes_of
from vniah.analysis.compare.pairing import (
    Pair,
    has_other_needles,
    require_equally_exact,
    require_same_measure,
)
from vniah.analysis.compare.rules import Rules
from vniah.analysis.compare.significance import tests_of
from vniah.errors import CannotCompareError, InputError
from vniah.grid import Cell
from vniah.results import CellScore, Results

if TYPE_CHECKING:
    from vniah.analysis.statistics.paired import PairedDifference


@dataclass(frozen=True)
class SharedCells:
    """Two runs held against each other where both have a score.

    Attributes:
        before: the first run, with the samples that are compared and no others.
        after: the second run, likewise.
        is_paired: whether both have the same samples; else they have other needles.
        changes: every cell that is compared, by number of frames, then depth; p-values as those of
            `vniah.compare`.
        only_before: cells of which only the first run has a score.
        only_after: cells of which only the second run has a score.
        num_left_out: number of samples with a score that are not compared, because the other run
            has no score of them; 0 for runs with other needles and for tables.
    """

    before: Results
    after: Results
    is_paired: bool
    changes: tuple[CellChange, ...]
    only_before: frozenset[Cell]
    only_after: frozenset[Cell]
    num_left_out: int = 0

    def significant(self, level: float = 0.05) -> frozenset[Cell]:
        """The cells that changed significantly: any is by chance in at most this share of pictures.

        The p-values are one-sided, with Holm's correction for all cells; each direction has half of
        the level.

        Raises:
            InputError: the level is not above 0 and below 1.
        """
        _require_level(level)
        return frozenset(
            change.cell
            for change in self.changes
            if change.p_value is not None and change.p_value <= level / 2
        )

    def can_be_significant(self, level: float = 0.05) -> bool:
        """Whether a change of any cell could be significant, given the numbers of samples.

        Raises:
            InputError: the level is not above 0 and below 1.
        """
        _require_level(level)
        least = [
            0.5**change.num_after
            if self.is_paired
            else 1 / comb(change.num_before + change.num_after, change.num_after)
            for change in self.changes
            if change.num_before is not None and change.num_after is not None
        ]
        return bool(least) and min(least) * len(self.changes) <= level / 2

    def difference(self, *, confidence: float = 0.95) -> "PairedDifference | None":
        """The mean difference, with its interval for needles like these.

        None for runs with other needles and for published tables.
        """
        if not (self.is_paired and self.before.manifest):
            return None
        from vniah.analysis.statistics.paired import paired_difference

        return paired_difference(self.before, self.after, confidence=confidence)

    @property
    def mean_change(self) -> float:
        """The mean over the compared cells of the second score minus the first."""
        return float(-sum(change.drop for change in self.changes) / len(self.changes))


def compare_shared_cells(
    before: Results, after: Results, *, allow_approximate: bool = False
) -> SharedCells:
    """Compares two runs, or two published tables, in the cells of which both have a score.

    In contrast to `vniah.compare`, runs may have other cells, be incomplete, and have errors: runs
    with the same needles are compared on the samples of which both have a score. The tests are
    those of `vniah.compare`.

    Args:
        before: the first run.
        after: the second run.
        allow_approximate: as the rule of `vniah.compare`.

    Raises:
        CannotCompareError: they do not measure the same thing, and the message names the field and
            both values; or they have no cell in common.
    """
    is_paired = not has_other_needles(before, after, Rules())
    require_same_measure(before, after, is_paired=is_paired, can_unpair=False)
    if not allow_approximate:
        require_equally_exact(before, after)
    scored = [_scores(results) for results in (before, after)]
    num_left_out = 0
    if before.manifest and is_paired:
        ids = [
            {s.sample_id for s in run.samples if s.correct is not None} for run in (before, after)
        ]
        num_left_out = len(ids[0] ^ ids[1])
        old, new = (_with_samples(run, ids[0] & ids[1]) for run in (before, after))
    else:
        both = scored[0].keys() & scored[1].keys()
        old, new = (_with_cells(run, both) for run in (before, after))
    cells = _scores(old), _scores(new)
    if not cells[0]:
        raise CannotCompareError(
            f"{before.path} and {after.path} have no {'sample' if is_paired else 'cell'} with a "
            "score in common: give two runs of the same task, grid and needles"
        )
    pairs = tuple((cells[0][cell], cells[1][cell]) for cell in sorted(cells[0]))
    pair = Pair(old, new, new, is_paired, pairs, num_left_out, 0, 0)
    return SharedCells(
        old,
        new,
        is_paired,
        changes_of(pair, tests_of(pair)),
        frozenset(scored[0].keys() - cells[0].keys()),
        frozenset(scored[1].keys() - cells[0].keys()),
        num_left_out,
    )


def _scores(results: Results) -> Mapping[Cell, CellScore]:
    return {found.cell: found for found in results.cells if found.score is not None}


def _with_samples(results: Results, ids: Collection[str]) -> Results:
    """The results with these samples only."""
    samples = tuple(sample for sample in results.samples if sample.sample_id in ids)
    return replace(results, samples=samples)


def _with_cells(results: Results, cells: Collection[Cell]) -> Results:
    """The results with the scores of these cells only."""
    samples = (s for s in results.samples if s.cell in cells and s.correct is not None)
    published = (found for found in results.published if found.cell in cells)
    return replace(results, samples=tuple(samples), published=tuple(published))


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"the level must be above 0 and below 1, got {level}: write 0.05")
