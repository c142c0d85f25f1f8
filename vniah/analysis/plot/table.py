"""The numbers that a heatmap shows, and what is said of them in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from textwrap import fill

import numpy as np
import numpy.typing as npt

from vniah.errors import counted, printable
from vniah.grid import Cell
from vniah.results import CellScore, Results, facet_values
from vniah.results.facets import label_of, value_label

_TITLE_WIDTH = 42  # letters, of the text below a name


@dataclass(frozen=True)
class Table:
    """The numbers that are drawn.

    Attributes:
        frames: one number of frames for each column, ascending.
        rows: one depth, or one position, for each row, ascending from the top down.
        scores: [len(rows), len(frames)], in [0, 1]; NaN where there is no score.
        caption: how many samples stand behind a cell; empty if that is not known.
        has_positions: whether rows are positions, so that depths differ from column to column.
    """

    frames: tuple[int, ...]
    rows: tuple[Fraction, ...]
    scores: npt.NDArray[np.float64]
    caption: str
    has_positions: bool


def resolve(results: Results) -> Table:
    """The table of all cells that have a sample, and of those in the run's grid."""
    grid = results.grid

    def place(cell: Cell) -> tuple[Fraction, int]:
        return results.row_of(cell), cell.num_frames

    scores = {place(found.cell): found.score for found in results.cells}
    places = scores.keys() | {place(cell) for cell in (() if grid is None else grid.cells)}
    frames = sorted({num_frames for _, num_frames in places})
    rows = sorted({row for row, _ in places})
    values = np.full((len(rows), len(frames)), np.nan)
    for k, row in enumerate(rows):
        for column, num_frames in enumerate(frames):
            score = scores.get((row, num_frames))
            if score is not None:
                values[k, column] = score
    caption = "\n".join(filter(None, (_caption(results, results.cells), _averaged_over(results))))
    return Table(tuple(frames), tuple(rows), values, caption, results.has_positions)


def _caption(results: Results, scores: Sequence[CellScore]) -> str:
    counts = [score.num_samples for score in scores if score.num_samples]
    parts = []
    if counts:
        low, high = min(counts), max(counts)
        parts.append(f"n = {low:,} per cell" if low == high else f"n = {low:,}-{high:,} per cell")
    if num_errors := sum(score.num_errors for score in scores):
        parts.append(counted(num_errors, "error"))
    if not results.is_complete:
        parts.append(f"{results.num_done:,} of {results.num_planned:,} samples")
    return ", ".join(parts)


def _averaged_over(results: Results) -> str:
    """The facets that a cell is the mean over, if any has several values; else empty."""
    texts = [
        f"{label_of(results, name)}: {', '.join(map(value_label, values))}"
        for name, values in facet_values(results).items()
    ]
    if not texts:
        return ""
    texts[0] = f"mean over {texts[0]}"
    return "\n".join(fill(printable(text), _TITLE_WIDTH) for text in texts)


def default_title(results: Results, remark: str = "") -> str:
    """The name of the results and their average; below the name part and remark, if any."""
    name, average = printable(results.short_name), results.average
    remark = ", ".join(filter(None, (printable(results.part), remark)))
    if average is None:
        return f"{name}\n{fill(remark, _TITLE_WIDTH)}" if remark else name
    of_average = f"(average {average:.4f})"
    if results.num_scored_cells != results.num_planned_cells:
        of_average = f"(average {average:.4f} over {results.coverage})"
        return f"{name}\n{fill(f'{remark} {of_average}'.strip(), _TITLE_WIDTH)}"
    if not remark:
        return f"{name} {of_average}"
    return f"{name}\n{fill(f'{remark} {of_average}', _TITLE_WIDTH)}"
