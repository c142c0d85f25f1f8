"""The numbers that a heatmap shows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vniah.analysis.plot.captions import CORRECT, caption, default_title, reference_title
from vniah.grid import Cell
from vniah.results import CellScore, Measure, Results

__all__ = ["CORRECT", "Place", "Table", "default_title", "reference_title", "resolve"]


Corners = tuple[tuple[float, float], ...]


class Place(NamedTuple):
    """Where a cell stands in the table, and on the axes.

    Attributes:
        row: its row.
        column: its column; on the axes it reaches from there to the next whole number.
        top: its upper edge, in the units of the vertical axis.
        bottom: its lower edge.
    """

    row: int
    column: int
    top: float
    bottom: float

    @property
    def corners(self) -> Corners:
        """Its four corners on the axes."""
        left, right = self.column, self.column + 1
        return ((left, self.top), (right, self.top), (right, self.bottom), (left, self.bottom))


@dataclass(frozen=True)
class Table:
    """The numbers that are drawn.

    Attributes:
        frames: one number of frames for each column, ascending.
        rows: one depth, or one position, for each row, ascending from the top down.
        values: [len(rows), len(frames)], the scores in [0, 1], or the means of a measure; NaN where
            there is none.
        failed: [len(rows), len(frames)], where no sample could be run: there are errors only.
        partial: [len(rows), len(frames)], where samples are left out that could not be run.
        limits: the values at both ends of the colours.
        label: what the values are, in words.
        caption: how many samples stand behind a cell; empty if that is not known.
        has_positions: whether rows are positions, so that depths differ from column to column.
        is_score: whether the values are scores, which have colours of their own.
        chance: the score that a guess has; None if that is not known.
    """

    frames: tuple[int, ...]
    rows: tuple[Fraction, ...]
    values: npt.NDArray[np.float64]
    failed: npt.NDArray[np.bool_]
    partial: npt.NDArray[np.bool_]
    limits: tuple[float, float]
    label: str
    caption: str
    has_positions: bool
    is_score: bool = True
    chance: float | None = None

    def share(self, place: Place) -> float:
        """Where the value at a place is between both ends of the colours, in [0, 1], or NaN."""
        low, high = self.limits
        return float((self.values[place.row, place.column] - low) / (high - low))

    def places(self) -> Iterator[Place]:
        """Where the cells stand: in rows of equal height, or around their depths.

        A position that a column's videos are too short for has no cell there.
        """
        for column, num_frames in enumerate(self.frames):
            if self.has_positions:
                depths = [row / num_frames for row in self.rows if row <= num_frames]
                spans = _spans(depths)
            else:
                spans = [(float(row), row + 1.0) for row in range(len(self.rows))]
            for row, (top, bottom) in enumerate(spans):
                yield Place(row, column, top, bottom)


def resolve(results: Results, value: str = CORRECT) -> Table:
    """The table of all cells that have a sample, and of those in the run's grid.

    Args:
        results: a run, or a published table.
        value: the score, or the name of a measure, as `Results.measure`.
    """
    if value == CORRECT:
        scores = {found.cell: found.score for found in results.cells}
        return _table(
            results,
            scores,
            limits=(0.0, 1.0),
            label="Accuracy",
            caption=caption(results),
            chance=results.chance,
        )
    measure = results.measure(value)
    return _table(
        results,
        {found.cell: found.mean for found in measure.cells},
        limits=_limits(measure),
        label=measure.label,
        caption=caption(results, measure),
        is_score=False,
    )


def resolve_reference(results: Results, value: str) -> Table | None:
    """The table of the measure that a measure is compared with, on the same scale; None if none."""
    measure = None if value == CORRECT else results.measure(value)
    if measure is None or measure.reference is None:
        return None
    found = {cell.cell: cell.mean for cell in measure.reference.cells}
    table = resolve(results, value)
    return replace(table, values=_values(results, found, table.frames, table.rows), caption="")


def _table(
    results: Results,
    values: Mapping[Cell, float | None],
    *,
    limits: tuple[float, float],
    label: str,
    caption: str,
    is_score: bool = True,
    chance: float | None = None,
) -> Table:
    """The columns, the rows, and what stands at their places."""
    grid = results.grid
    cells = values.keys() | set(() if grid is None else grid.cells)
    frames = tuple(sorted({cell.num_frames for cell in cells}))
    rows = tuple(sorted({results.row_of(cell) for cell in cells}))

    def where(counts: bool, found: CellScore) -> bool:
        return found.num_errors > 0 and (found.score is None) == counts

    failed, partial = (
        _values(results, {s.cell: float(where(is_all, s)) for s in results.cells}, frames, rows) > 0
        for is_all in (True, False)
    )
    return Table(
        frames,
        rows,
        _values(results, values, frames, rows),
        failed,
        partial,
        limits,
        label,
        caption,
        results.has_positions,
        is_score,
        chance,
    )


def _values(
    results: Results,
    found: Mapping[Cell, float | None],
    frames: tuple[int, ...],
    rows: tuple[Fraction, ...],
) -> npt.NDArray[np.float64]:
    """[len(rows), len(frames)], the values of cells at their places; NaN where there is none."""
    columns = {num_frames: column for column, num_frames in enumerate(frames)}
    places = {row: k for k, row in enumerate(rows)}
    values = np.full((len(rows), len(frames)), np.nan)
    for cell, value in found.items():
        if value is not None:
            values[places[results.row_of(cell)], columns[cell.num_frames]] = value
    return values


def _limits(measure: Measure) -> tuple[float, float]:
    """The ends of the colours: 0 and 1 for shares, else from 0 to the largest number."""
    if measure.is_share:
        return 0.0, 1.0
    cells = [*measure.cells, *(() if measure.reference is None else measure.reference.cells)]
    means = [found.mean for found in cells if found.mean is not None]
    low, high = min((0.0, *means)), max((0.0, *means))
    return (low, high) if low < high else (low, low + 1)


def _spans(depths: list[Fraction]) -> list[tuple[float, float]]:
    """The upper and lower edge of every cell of a column, in depths.

    Neighbours meet midway. The first cell reaches up to 0 and the last one down to 1, if that is no
    farther away than the neighbour; else they reach half as far as the neighbour, and what was not
    measured stays blank.

    >>> _spans([Fraction(0), Fraction(2, 5), Fraction(4, 5)])
    [(0.0, 0.2), (0.2, 0.6), (0.6, 1.0)]
    """
    first, last = Fraction(0), Fraction(1)
    if len(depths) > 1:
        after, before = depths[1] - depths[0], depths[-1] - depths[-2]
        first = first if depths[0] <= after else depths[0] - after / 2
        last = last if 1 - depths[-1] <= before else depths[-1] + before / 2
    middles = [(above + below) / 2 for above, below in pairwise(depths)]
    return list(pairwise(float(border) for border in (first, *middles, last)))
