"""What a run holds, in the terms that all harnesses have: scorers, samples, text."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from vniah.errors import InputError, without_surrogates
from vniah.grid import Cell
from vniah.results import MANIFEST_NAME, Results, SampleResult
from vniah.results.plan import planned_ids

CRITERION = "argmax at every position of the answer span"
"""What decides in runs whose manifest does not say it."""


@dataclass(frozen=True)
class Scored:
    """The samples that one mean is over: those of the test, or those of one control.

    Attributes:
        name: the task's name; that of a control is ``"TASK/CONTROL"``.
        control: None for the test itself.
        samples: in the order of the plan.
        num_planned: number of samples that a complete run has.
    """

    name: str
    control: str | None
    samples: tuple[SampleResult, ...]
    num_planned: int

    @property
    def num_scored(self) -> int:
        """Number of samples that have a score."""
        return sum(sample.correct is not None for sample in self.samples)

    @property
    def is_approximate(self) -> bool:
        """True if a sample has approximate results: in such a run some controls are exact."""
        return any(sample.approximate for sample in self.samples)

    @cached_property
    def accuracy(self) -> float | None:
        """The share of right samples among those that have a score; None if none has."""
        right = sum(bool(sample.correct) for sample in self.samples)
        return right / self.num_scored if self.num_scored else None


def require_samples(results: Results) -> None:
    """Raises `InputError` for a published table, which has scores of cells and no samples."""
    if not results.manifest:
        raise InputError(
            f"{results.path} is a published table: it has the scores of cells, and no samples that "
            "could be converted; give the folder of a run"
        )


def task_name(results: Results) -> str:
    """The name of the task."""
    return str(results.manifest.get("task", "vniah"))


def scored_groups(results: Results) -> tuple[Scored, ...]:
    """The test, then each control that is planned or has samples."""
    task, planned = task_name(results), results.num_planned_by_control
    by_control: dict[str, list[SampleResult]] = {name: [] for name in planned}
    for sample in results.control_samples:
        by_control.setdefault(str(sample.control), []).append(sample)
    of_controls = sum(planned.values())
    test = Scored(task, None, results.samples, (results.num_planned or 0) - of_controls)
    return (
        test,
        *(
            Scored(f"{task}/{name}", name, tuple(samples), planned.get(name, len(samples)))
            for name, samples in by_control.items()
        ),
    )


def run_details(results: Results) -> dict[str, Any]:
    """The manifest, without the list of samples, and what the run says as a whole."""
    from vniah.analysis.statistics.summary import summarize

    manifest = {name: value for name, value in results.manifest.items() if name != "sample_ids"}
    summary = summarize(results)
    return {
        "axes": list(results.manifest.get("axes", ("num_frames", "depth"))),
        "criterion": results.manifest["protocol"].get("criterion", CRITERION),
        **_approximation(results),
        "average": results.average,
        "average_is_over": results.coverage,
        "summary": list(summary.lines),
        "cells": [
            {
                **_place_of(found.cell, results),
                "score": found.score,
                "num_samples": found.num_samples,
                "num_errors": found.num_errors,
            }
            for found in results.cells
        ],
        "vniah": importlib.metadata.version("vniah"),
        "manifest": manifest,
    }


def _approximation(results: Results) -> dict[str, Any]:
    """That scores are approximate, and how far; nothing for an exact run."""
    if results.approximation is None:
        return {}
    return {"approximate": True, "approximation": results.approximation.record()}


def _place_of(cell: Cell, results: Results) -> dict[str, Any]:
    """The two axes of the map, and the frame before which the needle is inserted; where it is
    inserted into a text is a matter of each sample.
    """
    if results.axis == "tokens":
        return {"num_tokens": cell.num_frames, "depth": float(cell.depth)}
    return {
        "num_frames": cell.num_frames,
        "depth": float(cell.depth),
        "needle_index": cell.needle_index,
    }


def sample_ids(results: Results) -> list[str]:
    """The ids of all planned samples."""
    return list(planned_ids(results.manifest))


def time_of(results: Results) -> datetime:
    """When the manifest was written; now if there is none on the disk."""
    path = results.path / MANIFEST_NAME
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return datetime.now(UTC)


def as_utf8(value: Any) -> Any:
    """The value with lone surrogates escaped, as other programs refuse them in JSON."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, Mapping):
        return {as_utf8(str(name)): as_utf8(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [as_utf8(item) for item in value]
    return value
