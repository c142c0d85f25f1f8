"""Small runs with any outcome, for the tests of what reads them."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from vniah.grid import Cell, Grid, place_prefix
from vniah.results import Results, RunFolder, SampleResult, grid_record

PUBLISHED_DIR = Path(__file__).resolve().parent.parent / "results" / "published"

Outcome = Callable[[Cell, int], bool | str | None]


def draw_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures whose axes stand where matplotlib first puts them, with few pixels.

    For tests of commands that draw by the way: to give axes their sizes, and to compress a million
    pixels, takes most of a short run.
    """
    panels = "vniah.analysis.plot.panels"
    monkeypatch.setattr(
        f"{panels}.arrange", lambda layout, *_, **__: layout.figure.set_layout_engine("none")
    )
    monkeypatch.setattr(f"{panels}._DPI", 100)


def make_manifest(grid: Grid, *, num_needles: int = 10, **changes: Any) -> dict[str, Any]:
    """A manifest; ``changes`` replace fields: ``haystack__sha256="other"``."""
    manifest: dict[str, Any] = {
        "format_version": 2,
        "task": "vniah",
        "axes": ["num_frames", "depth"],
        "controls": [],
        "model": {"name": "tiny", "revision": "1", "tokens_per_frame": 4},
        "haystack": {
            "name": "seed-0",
            "sha256": "aa" * 32,
            "sampling": "clock",
            "decoder": "pyav",
            "keep_damaged": False,
        },
        "needles": {
            "name": "cards",
            "sha256": "bb" * 32,
            "ids": [f"needle-{k}" for k in range(num_needles)],
        },
        "grid": grid_record(grid),
        "protocol": {"criterion": "argmax at every position of the answer span"},
        "sample_ids": " ".join(
            f"{place_prefix(c.num_frames, c.depth)}needle-{k}"
            for c in grid.cells
            for k in range(num_needles)
        ),
        "environment": {"python": "3.11"},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            manifest[section] = {**manifest[section], key: value}
        else:
            manifest[section] = value
    return manifest


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """As on a full disk: no file of this process can grow beyond."""
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, earlier[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)


def make_grid(frames: str, depths: str, positions: str | None = None) -> Grid:
    """A grid of positions, if there are any, else of depths."""
    return Grid.parse(frames, None if positions else depths, positions=positions)


def make_sample(cell: Cell, k: int, outcome: bool | str = True, **changes: Any) -> SampleResult:
    """The sample of needle k; a text as outcome is the error it had."""
    error = outcome if isinstance(outcome, str) else None
    fields: dict[str, Any] = {
        "task": "vniah",
        "sample_id": f"{place_prefix(cell.num_frames, cell.depth)}needle-{k}",
        "cell": cell,
        "fields": {"needle_index": cell.needle_index, "needle_id": f"needle-{k}"},
        "question": "Which number is on the card?",
        "answer": "7",
        "prediction": None if error else ("7" if outcome else "3"),
        "predicted_ids": () if error else (7,),
        "correct": None if error else bool(outcome),
        "error": error,
    }
    return SampleResult(**{**fields, **changes})


def write_run(
    directory: Path,
    frames: str = "8,16",
    depths: str = "0,0.5,1",
    *,
    positions: str | None = None,
    num_needles: int = 10,
    outcome: Outcome = lambda cell, k: True,
    **changes: Any,
) -> Path:
    """A run folder; ``outcome(cell, k)`` is right, wrong, an error's text, or None: no line.

    With ``positions`` there are no depths.
    """
    grid = make_grid(frames, depths, positions)
    manifest = make_manifest(grid, num_needles=num_needles, **changes)
    folder = RunFolder(directory, manifest)
    with folder.open():
        for cell in grid.cells:
            for k in range(num_needles):
                found = outcome(cell, k)
                if found is not None:
                    folder.append(make_sample(cell, k, found))
    return directory


def make_run(frames: str = "8,16", depths: str = "0,0.5,1", **options: Any) -> Results:
    """The same in memory: ``positions``, ``num_needles`` and ``outcome`` as in `write_run`."""
    outcome = options.pop("outcome", lambda cell, k: True)
    num_needles = options.pop("num_needles", 10)
    grid = make_grid(frames, depths, options.pop("positions", None))
    manifest = make_manifest(grid, num_needles=num_needles, **options)
    samples = [
        make_sample(cell, k, found)
        for cell in grid.cells
        for k in range(num_needles)
        if (found := outcome(cell, k)) is not None
    ]
    return Results(manifest["model"]["name"], Path("runs/tiny"), manifest, tuple(samples))


def cell(num_frames: int, depth: str) -> Cell:
    """A cell from plain values."""
    return Cell(num_frames, Fraction(depth))
