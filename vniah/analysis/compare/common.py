"""The cells that two runs have in common, where an adaptive run has only some."""

from collections.abc import Collection
from dataclasses import replace

from vniah.errors import CannotCompareError
from vniah.grid import Cell
from vniah.results import Results
from vniah.results.measured import measured_cells


def cells_in_common(before: Results, after: Results) -> tuple[Results, Results, int]:
    """Both runs with the cells that both measured, if one of them is adaptive; else as they are.

    Returns:
        The baseline, the candidate, and the number of measured cells of the baseline that are left
        out.

    Raises:
        CannotCompareError: they have no measured cell in common.
    """
    if not (before.is_adaptive or after.is_adaptive):
        return before, after, 0
    own, others = measured_cells(before), measured_cells(after)
    if not own & others:
        raise CannotCompareError(
            f"{before.path} and {after.path} have no measured cell in common; run the candidate on "
            "the grid of the baseline, or both without --adaptive"
        )
    return inside(before, own & others), inside(after, own & others), len(own - others)


def require_whole(results: Results, rule: str, num_frames: int | None = None) -> None:
    """Requires an average to be over all that was planned, for a rule that compares it.

    Args:
        results: the candidate.
        rule: the name of the rule.
        num_frames: the number of frames of the average; None for the whole grid.

    Raises:
        CannotCompareError: an adaptive run has not measured all of it.
    """
    if not results.is_adaptive:
        return
    known = measured_cells(results)
    grid = results.grid
    cells = () if grid is None else grid.cells
    wanted = [cell for cell in cells if num_frames in (None, cell.num_frames)]
    if missing := sum(cell not in known for cell in wanted):
        raise CannotCompareError(
            f"{rule} asks for an average over {len(wanted):,} cells, and the candidate "
            f"{results.path}, an adaptive run, lacks {missing:,} of them; the same command without "
            "--adaptive measures them"
        )


def inside(results: Results, cells: Collection[Cell]) -> Results:
    """The results with the samples of some cells only."""
    if all(found.cell in cells for found in results.cells):
        return results
    samples = (sample for sample in results.samples if sample.cell in cells)
    return replace(results, samples=tuple(samples))
