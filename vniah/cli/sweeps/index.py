"""What a sweep writes besides its runs: ``sweep.json``, which names them all."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from vniah.cli.outcomes import failed_samples
from vniah.cli.sweeps.members import Member, Plan
from vniah.errors import ResultsError
from vniah.files import write_json
from vniah.options.rope import scaling_text
from vniah.schema import read_json

if TYPE_CHECKING:
    from vniah.analysis.statistics.estimates import NeedleEstimate
    from vniah.results import Results

INDEX_NAME = "sweep.json"

FORMAT_VERSION = 1

COMPLETE = "complete"
"""The state of a run without errors."""


class _Run(TypedDict):
    name: str
    state: str


class _Index(TypedDict):
    format_version: int
    runs: list[_Run]


class Index:
    """The file ``sweep.json`` in a sweep's folder, written anew whenever a run has ended.

    Args:
        folder: of the sweep. Records that an earlier start wrote of runs that this one has not come
            to are kept.
        config: the file that describes the sweep, if there is one.
        keeps_all: whether runs that are not added are kept as well.
    """

    def __init__(self, folder: Path, config: Path | None, *, keeps_all: bool = False) -> None:
        self.path = folder / INDEX_NAME
        self._config = config
        self._earlier = self._read()
        self._records = dict(self._earlier) if keeps_all else {}

    def add(self, plan: Plan) -> None:
        """Adds the runs of a plan, as an earlier start left them or as not run yet."""
        for member in plan.members:
            record = self._earlier.get(member.name)
            self._records[member.name] = record or {**_about(member), "state": "not run"}

    def record(self, name: str) -> Mapping[str, Any]:
        """What is known of a run."""
        return self._records[name]

    def has_ended(self, member: Member, results: "Results", **more: Any) -> None:
        """Records what a run gave, and more about it."""
        is_whole = results.average is not None and not failed_samples(results)
        record = {**_about(member), "state": COMPLETE if is_whole else "errors"}
        self._records[member.name] = {**record, **_numbers(results), **more}

    def has_failed(self, member: Member, error: str) -> None:
        """Records why a run could not be made, or not to its end."""
        self._records[member.name] = {**_about(member), "state": "failed", "error": error}

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        record = {
            "format_version": FORMAT_VERSION,
            "config": None if self._config is None else str(self._config),
            "runs": list(self._records.values()),
        }
        write_json(self.path, record)

    def _read(self) -> dict[str, Mapping[str, Any]]:
        """The records of an earlier start; none if they cannot be read, as the runs have it all."""
        try:
            content = read_json(self.path, _Index, ResultsError)
        except ResultsError:
            return {}
        if content["format_version"] != FORMAT_VERSION:
            return {}
        return {str(run["name"]): dict(run) for run in content["runs"]}


def _about(member: Member) -> dict[str, Any]:
    scaling = member.rope.scaling
    return {
        "name": member.name,
        "folder": member.name,
        **dict(member.parts),
        "rope_theta": member.rope.theta,
        "rope_scaling": None if scaling is None else scaling_text(scaling),
    }


def _numbers(results: "Results") -> dict[str, Any]:
    from vniah.analysis.statistics.summary import summarize

    summary = summarize(results)
    like_these, length = summary.needles_like_these, summary.effective_length
    interval = None if like_these is None else like_these.interval
    return {
        **({} if results.approximation is None else _approximation(results, like_these)),
        **({} if summary.effect is None else {"intervention": summary.effect.record()}),
        "average": results.average,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "num_cells": results.num_scored_cells,
        "num_planned_cells": results.num_planned_cells,
        "num_errors": len(failed_samples(results)),
        "effective_length": {
            "num_frames": length.num_frames,
            "low": length.low,
            "high": length.high,
            "threshold": length.threshold,
        },
    }


def _approximation(results: "Results", like_these: "NeedleEstimate | None") -> dict[str, Any]:
    assert results.approximation is not None, "the results are approximate"
    return {
        "approximate": True,
        "approximation": results.approximation.record(),
        "corrected_average": None if like_these is None else like_these.mean,
    }
