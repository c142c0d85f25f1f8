"""The rounds of a sweep that may stop early: as soon as it is worse than a baseline for certain."""

from collections.abc import Mapping, Sequence
from typing import Any

from vniah.analysis.compare.early import EarlyComparison, compare_early
from vniah.analysis.statistics.sequential import parts_of
from vniah.engines.base import Engine
from vniah.errors import counted
from vniah.grid import Cell
from vniah.results import Results
from vniah.results.manifests import STOPPED_KEY
from vniah.sweep.adaptive import due_samples, scored_ids
from vniah.tasks import Sample


class EarlyRounds:
    """The rounds of such a sweep: the parts of the baseline's cells, then what it lacks.

    Every process of a job chooses the same, and so does a later start, for the parts follow from
    the baseline alone. Controls come as in an adaptive sweep.

    Args:
        samples: all samples of the sweep, controls included.
        baseline: a complete run with the same needles.

    Attributes:
        chosen: the samples of each round so far.
    """

    def __init__(self, samples: Sequence[Sample], baseline: Results) -> None:
        self.chosen: list[tuple[Sample, ...]] = []
        self._baseline = baseline
        self._cells: set[Cell] = set()
        self._waiting = list(samples)
        scored = (found.cell for found in baseline.cells if found.score is not None)
        self._parts = list(parts_of(scored))

    def next_to_run(self, results: Results) -> tuple[Sample, ...]:
        """The samples of the next round with one that has no score; none if the sweep may end.

        Args:
            results: of all rounds so far.

        Raises:
            CannotCompareError: the sweep cannot be compared with the baseline.
        """
        if not results.is_complete and self.compare(results).verdict == "regression":
            return ()
        scored = scored_ids(results)
        while samples := self._next():
            if any(sample.sample_id not in scored for sample in samples):
                return samples
        return ()

    def compare(self, results: Results) -> EarlyComparison:
        """What can be said of the sweep so far."""
        return compare_early(self._baseline, results)

    def _next(self) -> tuple[Sample, ...]:
        while self._parts:
            self._cells |= set(self._parts.pop(0))
            found, self._waiting = due_samples(self._waiting, self._cells)
            if found:
                self.chosen.append(found)
                return found
        found, self._waiting = tuple(self._waiting), []
        if found:
            self.chosen.append(found)
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """What the manifest says of the sweep from its beginning on: nothing, until it stops."""
        return {}

    def record_of_end(
        self, results: Results, engine: Engine, flops_of_grid: int | None
    ) -> dict[str, Any]:
        """What the manifest says of a sweep that was stopped; empty if it was not.

        The arguments are those of `vniah.sweep.adaptive.Rounds.record_of_end`.
        """
        if results.is_complete or (early := self.compare(results)).verdict != "regression":
            return {}
        reasons = (finding.text for finding in early.findings if not finding.passed)
        record = {
            "baseline": early.baseline,
            "samples": early.num_done,
            "planned_samples": early.num_planned,
            "reason": "; ".join(reasons),
        }
        return {STOPPED_KEY: record}

    def in_words(self, record: Mapping[str, Any], results: Results) -> str:
        """That the sweep was stopped, in one line."""
        found = record[STOPPED_KEY]
        done = f"{found['samples']:,} of {counted(found['planned_samples'], 'sample')}"
        return (
            f"stopped after {done} of the test: {found['reason']}; the same command without "
            "--stop-early measures the rest"
        )
