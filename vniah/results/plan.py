"""The plan of a run as its manifest holds it: the grid, and the ids of all samples."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from vniah.grid import Cell, Grid, as_depth, format_depth, place_prefix


def planned_ids(manifest: Mapping[str, Any]) -> dict[str, int]:
    """The ``sample_id`` of every sample of a run, with its place in the plan.

    A manifest of version 1 does not list them: its run has every needle in every cell.
    """
    if "sample_ids" in manifest:
        ids = str(manifest["sample_ids"]).split()
    else:
        cells = read_grid(manifest["grid"]).cells
        ids = [cell_sample_id(cell, n) for cell in cells for n in manifest["needles"]["ids"]]
    return {sample_id: place for place, sample_id in enumerate(ids)}


def cell_sample_id(cell: Cell, needle_id: str) -> str:
    """The ``sample_id`` of a needle in a cell: ``"600/0.2/red-7"``."""
    return place_prefix(cell.num_frames, cell.depth) + needle_id


def grid_record(grid: Grid) -> dict[str, Any]:
    """The grid as the manifest holds it."""
    frames = list(grid.frames)
    if grid.positions:
        return {"frames": frames, "positions": list(grid.positions)}
    return {"frames": frames, "depths": [json_depth(depth) for depth in grid.depths]}


def read_grid(record: Mapping[str, Any]) -> Grid:
    """The grid that a manifest holds.

    Raises:
        ValueError: it has both depths and positions, neither, or invalid values.
        ArithmeticError: the denominator of a depth is 0.
    """
    depths = [read_depth(depth) for depth in record.get("depths", ())]
    return Grid.of(record["frames"], depths, positions=record.get("positions", ()))


def read_depth(value: float | str) -> Fraction:
    """The exact depth that a manifest or a line of samples holds.

    Raises:
        ValueError: it is not a number, or not in [0, 1].
        ArithmeticError: its denominator is 0.
    """
    return as_depth(Fraction(str(value)))


def json_depth(depth: Fraction) -> float | str:
    """The depth as a JSON number, or as text such as "1/3" where no decimal equals it."""
    text = format_depth(depth)
    if "/" in text or Fraction(str(float(text))) != depth:
        return text
    return float(text)
