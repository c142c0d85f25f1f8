"""The rounds of an adaptive sweep: which samples are run next, by the results that are there.

A round is some cells of the grid, with their controls. The next one follows from the results of all
rounds before it, and from nothing else: not from cells that happen to have results, nor from when
the sweep was stopped. So every process of a job chooses the same, and so does a later start.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vniah.analysis.statistics.effective import find_effective_length
from vniah.analysis.statistics.partial import LengthBounds, partial_lengths
from vniah.engines.base import Engine
from vniah.errors import InputError
from vniah.grid import Cell
from vniah.options.precision import Precision
from vniah.results import Results
from vniah.results.manifests import ADAPTIVE_KEY
from vniah.sweep.search import next_cells
from vniah.tasks import Sample

THRESHOLD = 0.9
"""The score that is looked for, as in `vniah.summarize`."""


class Rounds:
    """The rounds of a sweep.

    Controls without a cell come with the first cell of their length, and those that show no
    haystack with the first round.

    Args:
        samples: all samples of the sweep, controls included.
        precision: of the effective length.
        guess: as `next_cells`.

    Attributes:
        chosen: the samples of each round so far.
    """

    def __init__(
        self, samples: Sequence[Sample], precision: Precision, guess: int | None = None
    ) -> None:
        self.chosen: list[tuple[Sample, ...]] = []
        self._precision = precision
        self._guess = guess
        self._cells: set[Cell] = set()
        self._waiting = list(samples)

    def next(self, results: Results) -> tuple[Sample, ...]:
        """The samples of the next round; none if the effective length is known well enough.

        Args:
            results: at least those of all rounds so far.
        """
        lengths = partial_lengths(results, among=self._cells)
        bounds = LengthBounds(lengths, threshold=THRESHOLD)
        cells = next_cells(bounds, self._precision, self._guess)
        self._cells |= set(cells)
        found, self._waiting = due_samples(self._waiting, self._cells)
        if found:
            self.chosen.append(found)
        return found

    def next_to_run(self, results: Results) -> tuple[Sample, ...]:
        """The same of the next round in which a sample has no score yet."""
        scored = scored_ids(results)
        while samples := self.next(results):
            if any(sample.sample_id not in scored for sample in samples):
                return samples
        return ()

    def count_flops(self, engine: Engine) -> int:
        """The operations of all rounds so far, whichever start ran them."""
        total = 0
        for samples in self.chosen:
            engine.plan(samples, [False] * len(samples))
            total += engine.planned_flops or 0
        return total

    @property
    def settings(self) -> dict[str, Any]:
        """What the manifest says of the sweep from its beginning on."""
        record = {"precision": str(self._precision), "threshold": THRESHOLD}
        return {ADAPTIVE_KEY: record if self._guess is None else {**record, "guess": self._guess}}

    def record_of_end(
        self, results: Results, engine: Engine, flops_of_grid: int | None
    ) -> dict[str, Any]:
        """What the manifest says of the sweep when it has ended.

        Args:
            results: of all rounds.
            engine: that ran them.
            flops_of_grid: the operations of the whole grid, if known.
        """
        record = {**self.settings[ADAPTIVE_KEY], "rounds": len(self.chosen)}
        if flops_of_grid is not None:
            record |= {"flops": self.count_flops(engine), "flops_of_grid": flops_of_grid}
        return {ADAPTIVE_KEY: record}

    def in_words(self, record: Mapping[str, Any], results: Results) -> str:
        """What the sweep took, in one line."""
        return in_words(record[ADAPTIVE_KEY], len(self._cells), results.num_planned_cells)


def guess_of(results: Results, axis: str) -> int:
    """Where an adaptive sweep begins to search: the effective length of another run, 0 for none.

    Args:
        results: a run, exact or approximate, of any model, or a published table.
        axis: what the lengths of the sweep count, as `Results.axis`.

    Raises:
        InputError: the run has no effective length, or its lengths count something else.
    """
    found = find_effective_length(results, threshold=THRESHOLD)
    if not found.measured or results.axis != axis:
        reason = "no length is complete"
        if found.measured:
            reason = f"its lengths count {results.axis}, and those of this sweep {axis}"
        raise InputError(f"{results.path} does not say where to begin the search: {reason}")
    return found.num_frames or 0


def due_samples(
    waiting: Sequence[Sample], cells: Collection[Cell]
) -> tuple[tuple[Sample, ...], list[Sample]]:
    """The samples of some cells, with the controls that come with them, and all others."""
    measured = {cell.num_frames for cell in cells}
    found: list[Sample] = []
    others: list[Sample] = []
    for sample in waiting:
        is_due = sample.cell in cells or (
            sample.cell is None and (sample.num_frames is None or sample.num_frames in measured)
        )
        (found if is_due else others).append(sample)
    return tuple(found), others


def scored_ids(results: Results) -> frozenset[str]:
    """The ids of all samples that have a score, controls included."""
    lines = (*results.samples, *results.control_samples)
    return frozenset(line.sample_id for line in lines if line.error is None)


def in_words(record: Mapping[str, Any], num_cells: int, num_planned: int) -> str:
    """What an adaptive sweep took, in one line, from its record in the manifest."""
    text = f"measured {num_cells:,} of {num_planned:,} cells in {record['rounds']:,} rounds"
    if "flops" in record and record["flops_of_grid"]:
        share = record["flops"] / record["flops_of_grid"]
        text += f", with {share:.0%} of the operations of the whole grid"
    return f"{text}; the same command without --adaptive measures the rest"
