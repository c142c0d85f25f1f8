"""The numbers that a heatmap shows, and what is said of them in words."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from textwrap import fill

import numpy as np
import numpy.typing as npt

from vniah.analysis.verdict import controls_caption
from vniah.errors import counted, printable
from vniah.grid import Cell
from vniah.results import Measure, Results, facet_values
from vniah.results.facets import label_of, value_label

CORRECT = "correct"
"""The value that is drawn by default: the share of right samples."""

_TITLE_WIDTH = 42  # letters, of the text below a name


@dataclass(frozen=True)
class Table:
    """The numbers that are drawn.

    Attributes:
        frames: one number of frames for each column, ascending.
        rows: one depth, or one position, for each row, ascending from the top down.
        values: [len(rows), len(frames)], the scores in [0, 1], or the means of a measure; NaN where
            there is none.
        limits: the values at both ends of the colours.
        label: what the values are, in words.
        caption: how many samples stand behind a cell; empty if that is not known.
        has_positions: whether rows are positions, so that depths differ from column to column.
        is_score: whether the values are scores, which have the published colours.
        chance: the score that a guess has; None if that is not known.
    """

    frames: tuple[int, ...]
    rows: tuple[Fraction, ...]
    values: npt.NDArray[np.float64]
    limits: tuple[float, float]
    label: str
    caption: str
    has_positions: bool
    is_score: bool = True
    chance: float | None = None


def resolve(results: Results, value: str = CORRECT) -> Table:
    """The table of all cells that have a sample, and of those in the run's grid.

    Args:
        results: a run, or a published table.
        value: the score, or the name of a measure, as `Results.measure`.
    """
    if value == CORRECT:
        scores = {found.cell: found.score for found in results.cells}
        values = _place(results, scores)
        return Table(
            *values,
            limits=(0.0, 1.0),
            label="Accuracy",
            caption=_captions(results),
            has_positions=results.has_positions,
            chance=results.chance,
        )
    measure = results.measure(value)
    return Table(
        *_place(results, {found.cell: found.mean for found in measure.cells}),
        limits=_limits(measure),
        label=measure.label,
        caption=_captions(results, measure),
        has_positions=results.has_positions,
        is_score=False,
    )


def resolve_reference(results: Results, value: str) -> Table | None:
    """The table of the measure that a measure is compared with, on the same scale; None if none."""
    measure = None if value == CORRECT else results.measure(value)
    if measure is None or measure.reference is None:
        return None
    found = {cell.cell: cell.mean for cell in measure.reference.cells}
    return replace(resolve(results, value), values=_place(results, found)[2], caption="")


def _place(
    results: Results, found: Mapping[Cell, float | None]
) -> tuple[tuple[int, ...], tuple[Fraction, ...], npt.NDArray[np.float64]]:
    """The columns, the rows, and the numbers at their places, as in `Table`."""
    grid = results.grid

    def place(cell: Cell) -> tuple[Fraction, int]:
        return results.row_of(cell), cell.num_frames

    by_place = {place(cell): value for cell, value in found.items()}
    places = by_place.keys() | {place(cell) for cell in (() if grid is None else grid.cells)}
    frames = sorted({num_frames for _, num_frames in places})
    rows = sorted({row for row, _ in places})
    values = np.full((len(rows), len(frames)), np.nan)
    for k, row in enumerate(rows):
        for column, num_frames in enumerate(frames):
            value = by_place.get((row, num_frames))
            if value is not None:
                values[k, column] = value
    return tuple(frames), tuple(rows), values


def _limits(measure: Measure) -> tuple[float, float]:
    """The ends of the colours: 0 and 1 for shares, else from 0 to the largest number."""
    if measure.is_share:
        return 0.0, 1.0
    cells = [*measure.cells, *(() if measure.reference is None else measure.reference.cells)]
    means = [found.mean for found in cells if found.mean is not None]
    low, high = min((0.0, *means)), max((0.0, *means))
    return (low, high) if low < high else (low, low + 1)


def _captions(results: Results, measure: Measure | None = None) -> str:
    """What stands below the axes."""
    return "\n".join(filter(None, (_caption(results, measure), _averaged_over(results))))


def _caption(results: Results, measure: Measure | None) -> str:
    cells = results.cells if measure is None else measure.cells
    counts = [found.num_samples for found in cells if found.num_samples]
    parts = []
    if counts:
        low, high = min(counts), max(counts)
        parts.append(f"n = {low:,} per cell" if low == high else f"n = {low:,}-{high:,} per cell")
    if measure is None and results.chance is not None:
        parts.append(f"a guess is right in {results.chance:.2f}")
    if measure is not None and measure.num_missing:
        parts.append(f"{counted(measure.num_missing, 'sample')} without a value")
    if num_errors := sum(score.num_errors for score in results.cells):
        parts.append(counted(num_errors, "error"))
    if not results.is_complete:
        parts.append(f"{results.num_done:,} of {results.num_planned:,} samples")
    controls = controls_caption(results)
    if measure is not None and controls:
        controls = ("right answers with controls:", *controls)
    return "\n".join([", ".join(parts), *controls]).strip()


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


def default_title(results: Results, remark: str = "", *, value: str = CORRECT) -> str:
    """The name of the results and their average; below the name part and remark, if any."""
    name, average = printable(results.short_name), _average(results, value)
    remark = ", ".join(filter(None, (printable(results.part), remark)))
    if not average:
        return f"{name}\n{fill(remark, _TITLE_WIDTH)}" if remark else name
    if not remark and " over " not in average:
        return f"{name} ({average})"
    return f"{name}\n{fill(f'{remark} ({average})'.strip(), _TITLE_WIDTH)}"


def reference_title(results: Results, value: str) -> str:
    """The name and the average of the measure that a measure is compared with."""
    reference = results.measure(value).reference
    assert reference is not None, "the measure has a reference"
    label = printable(reference.label)
    return label if reference.average is None else f"{label} (mean {reference.average:.3g})"


def _average(results: Results, value: str) -> str:
    """The average in words, and what it is over if that is not the whole grid; empty if none."""
    planned = results.num_planned_cells
    if value == CORRECT:
        text = "" if results.average is None else f"average {results.average:.4f}"
        num_cells, coverage = results.num_scored_cells, results.coverage
    else:
        measure = results.measure(value)
        text = "" if measure.average is None else f"mean {measure.average:.3g}"
        num_cells = sum(found.mean is not None for found in measure.cells)
        coverage = f"{num_cells} of {planned} cells"
    return text if num_cells == planned or not text else f"{text} over {coverage}"
