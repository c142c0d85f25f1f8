"""Runs the samples of a sweep, batch by batch, and writes what comes of each."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from vniah.engines.base import Engine
from vniah.results import Results, RunFolder, load_run
from vniah.sweep.adaptive import Rounds, scored_ids
from vniah.sweep.mesh import Mesh
from vniah.sweep.outcomes import attention_of, result_of
from vniah.sweep.progress import OnProgress
from vniah.sweep.stopping import EarlyRounds
from vniah.tasks import Sample, Task

_LOG = logging.getLogger("vniah")


class Batches:
    """The work of a sweep, which the processes of a job share.

    Args:
        task: judges what the engine gives.
        engine: with a plan of all samples.
        mesh: the processes of the job.
        num_samples: number of samples of the sweep.
        num_done: how many of these have a score already.
        report: called as samples are done.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        mesh: Mesh,
        *,
        num_samples: int,
        num_done: int,
        report: OnProgress,
    ) -> None:
        self._task = task
        self._engine = engine
        self._mesh = mesh
        self._num_samples = num_samples
        self._num_done = num_done
        self._report = report

    def run_batches(self, folder: RunFolder, num_batches: int, *, name: str = "batches") -> None:
        """Runs this worker's share of the engine's batches.

        Args:
            folder: open.
            num_batches: of the engine's plan.
            name: of the batches; once in a sweep.
        """
        mesh, num_samples = self._mesh, self._num_samples
        if num_batches:
            self._report("sweep", self._num_done + mesh.count("done"), num_samples)
        for batch in mesh.claim(name, num_batches):
            for sample, outcome in self._engine.run(batch):
                if mesh.context_rank == 0:
                    result = result_of(self._task, sample, outcome)
                    trace = attention_of(sample, outcome) if result.error is None else None
                    folder.append(result, trace)
                    self._report("sweep", self._num_done + mesh.count("done", 1), num_samples)

    def run_rounds(
        self, folder: RunFolder, rounds: Rounds | EarlyRounds, samples: Sequence[Sample]
    ) -> None:
        """Runs one round after the other, each planned by itself; the engine planned the grid.

        Args:
            folder: open.
            rounds: say what is next.
            samples: the first round.
        """
        engine, of_grid = self._engine, self._engine.planned_flops
        results = self.results(folder)
        while samples:
            scored = scored_ids(results)
            num_batches = engine.plan(samples, [s.sample_id not in scored for s in samples])
            self.run_batches(folder, num_batches, name=f"round-{len(rounds.chosen)}")
            results = self.results(folder)
            samples = rounds.next_to_run(results)
        record = rounds.record_of_end(results, engine, of_grid)
        if record and self._mesh.is_leader:
            folder.record(record)
            _LOG.info(rounds.in_words(record, results))

    def results(self, folder: RunFolder) -> Results:
        """What all processes have written so far; the same in each of them."""
        if self._mesh.size == 1:
            return folder.results()
        self._mesh.barrier()  # all have written
        results = load_run(folder.directory)
        self._mesh.barrier()  # all have read
        return results


@contextmanager
def writing(
    folder: RunFolder, mesh: Mesh, notes: Sequence[str], environment: Mapping[str, Any]
) -> Iterator[None]:
    """Opens the folder in the first process of every worker; at the end their files are merged."""
    opened: AbstractContextManager[None] = nullcontext()
    if mesh.context_rank == 0:
        opened = folder.open(
            notes, environment=environment, rank=mesh.data_rank, num_ranks=mesh.data_size
        )
    with opened:
        if mesh.is_leader:
            mesh.announce("open")
        yield
        if mesh.is_leader:
            mesh.barrier()
            folder.merge()
    if not mesh.is_leader:
        mesh.barrier()  # this process has closed its file
