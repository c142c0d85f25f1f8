"""The plan of a run as its manifest holds it: the grid, and the ids of all samples."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from typing import Annotated, Any, NotRequired, TypedDict
from weakref import WeakValueDictionary

from msgspec import Meta

from vniah.errors import InputError
from vniah.grid import MAX_FRAMES, Cell, Grid, format_depth, read_depth

_MAX_SAMPLES = 10_000_000

DepthRecord = float | Annotated[str, Meta(max_length=220)]


class GridRecord(TypedDict):
    """The grid in a manifest: numbers of frames, and depths or positions."""

    frames: Annotated[list[Annotated[int, Meta(ge=1, le=MAX_FRAMES)]], Meta(min_length=1)]
    depths: NotRequired[Annotated[list[DepthRecord], Meta(min_length=1)]]
    positions: NotRequired[Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)]]


class Plan(dict[str, int]):
    """The ``sample_id`` of every sample of a run, with its place in the plan; not to be changed.

    Attributes:
        ids: the ids by their places.
    """

    __slots__ = ("__weakref__", "ids")

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = tuple(ids)
        super().__init__(zip(self.ids, range(len(self.ids)), strict=True))


_plans: WeakValueDictionary[str, Plan] = WeakValueDictionary()
"""The plans in use, by their texts in manifests: all that is read of a run shares its plan."""


def planned_ids(manifest: Mapping[str, Any]) -> Plan:
    """The ``sample_id`` of every sample of a run, with its place in the plan.

    A manifest of version 1 does not list them: its run has every needle in every cell.

    Raises:
        InputError: there are more than ten million.
    """
    if "sample_ids" in manifest:
        text = str(manifest["sample_ids"])
        plan = _plans.get(text)
        if plan is None:
            plan = _plans[text] = Plan(text.split())
        return plan
    cells, needles = read_grid(manifest["grid"]).cells, manifest["needles"]["ids"]
    if len(cells) * len(needles) > _MAX_SAMPLES:
        raise InputError(
            f"{len(cells):,} cells with {len(needles):,} needles are more than "
            f"{_MAX_SAMPLES:,} samples"
        )
    return Plan(cell_sample_id(cell, needle_id) for cell in cells for needle_id in needles)


def planned_test_ids(manifest: Mapping[str, Any]) -> list[str]:
    """The ``sample_id`` of every sample of the test itself, without controls, in their order."""
    endings = tuple(f"/{control}" for control in manifest.get("controls", ()))
    return [name for name in planned_ids(manifest) if not name.endswith(endings)]


def planned_cells(manifest: Mapping[str, Any]) -> frozenset[Cell]:
    """The cells of a run's grid that its plan has a sample for."""
    cells = read_grid(manifest["grid"]).cells
    if "sample_ids" not in manifest:
        return frozenset(cells)
    places = {place for sample_id in planned_ids(manifest) for place in _places(sample_id)}
    return frozenset(cell for cell in cells if cell.prefix in places)


def open_places(manifest: Mapping[str, Any], done: Collection[str]) -> frozenset[str]:
    """The beginnings of the ids (`Cell.prefix`) of all cells that lack some sample of the test.

    Args:
        manifest: of a run.
        done: the ids of the samples that have a line.
    """
    return frozenset(
        place
        for sample_id in planned_test_ids(manifest)
        if sample_id not in done
        for place in _places(sample_id)
    )


def pending_cells(manifest: Mapping[str, Any], done: Collection[str]) -> dict[Cell, int]:
    """The cells that lack some sample of the test, with the number of those that they lack.

    Args:
        manifest: of a run.
        done: the ids of the samples that have a line.
    """
    cell_at = {cell.prefix: cell for cell in read_grid(manifest["grid"]).cells}
    return Counter(
        cell_at[place]
        for sample_id in planned_test_ids(manifest)
        if sample_id not in done
        for place in _places(sample_id)
        if place in cell_at
    )


def _places(sample_id: str) -> tuple[str, str]:
    """The beginnings of an id that may be its place; a depth such as 1/3 has a slash itself."""
    parts = sample_id.split("/", 3)
    return "/".join(parts[:2]) + "/", "/".join(parts[:3]) + "/"


def cell_sample_id(cell: Cell, needle_id: str) -> str:
    """The ``sample_id`` of a needle in a cell: ``"600/0.2/red-7"``."""
    return cell.prefix + needle_id


def grid_record(grid: Grid) -> dict[str, Any]:
    """The grid as the manifest holds it."""
    frames = list(grid.frames)
    if grid.positions:
        return {"frames": frames, "positions": list(grid.positions)}
    return {"frames": frames, "depths": [json_depth(depth) for depth in grid.depths]}


def read_grid(record: Mapping[str, Any]) -> Grid:
    """The grid that a manifest holds.

    Raises:
        InputError: it has both depths and positions, neither, or invalid values.
    """
    depths = [read_depth(depth) for depth in record.get("depths", ())]
    return Grid.of(record["frames"], depths, positions=record.get("positions", ()))


def json_depth(depth: Fraction) -> float | str:
    """The depth as a JSON number, or as text such as "1/3" where no decimal equals it."""
    text = format_depth(depth)
    if "/" in text or Fraction(str(float(text))) != depth:
        return text
    return float(text)
