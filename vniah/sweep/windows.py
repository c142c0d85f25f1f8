"""Tries windows behind needles: at which does one pass over a haystack agree with exact results?

The frames or tokens behind a needle that are computed with it in sight are its window
(`vniah.forward.splices`). A run whose window is too small finds out here which one would do, on the
samples that it has run exactly anyway; a curve over many windows shows that of a model beforehand.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from vniah.analysis.statistics.verification import Pair
from vniah.analysis.windows import WindowCurve, WindowTrial, doubling
from vniah.engines.agreement import TOLERANCES
from vniah.engines.base import Engine, EngineOptions
from vniah.engines.choosing import require_decoder
from vniah.engines.decoder import DecoderEngine
from vniah.engines.inputs import require_can_read
from vniah.engines.one_pass import OnePassEngine
from vniah.errors import InputError, ModelError, counted
from vniah.grid import Grid
from vniah.haystacks.frames import AnyHaystack
from vniah.needles import NeedleSet
from vniah.options.approximation import EXACT, LEAST_AGREEMENT, Approximation
from vniah.protocol import AnyModel, DecoderModel, LanguageModel
from vniah.results import Results, SampleResult
from vniah.sweep.outcomes import require_readable, result_of
from vniah.sweep.progress import OnProgress
from vniah.sweep.samples import askable_samples, hides_needles, read_text
from vniah.tasks import Sample, Task, load_task
from vniah.tasks.base import is_of_text
from vniah.tasks.controls.exact import Exact, agreement_of, branch_of, exact_pairs
from vniah.tasks.parsing import Option

_LOG = logging.getLogger("vniah")


class WindowTrials:
    """Runs samples by one pass at one window after another, each held against an exact result.

    Args:
        engine: prepared; its plans are replaced.
        task: scores the samples.
        samples: what is run.
        exact: the exact result of each, by its id.
        known: pairs of further samples, whose results do not depend on the window.
    """

    def __init__(
        self,
        engine: OnePassEngine,
        task: Task,
        samples: Sequence[Sample],
        exact: Mapping[str, SampleResult],
        known: Sequence[Pair] = (),
    ) -> None:
        self._engine = engine
        self._task = task
        self._samples = samples
        self._exact = exact
        self._known = known

    def at(self, window: int) -> tuple[WindowTrial, tuple[Pair, ...]]:
        """What a window gives, and each sample's result beside the exact one.

        Raises:
            ModelError: a sample could not be run, as where memory runs out.
        """
        self._engine.at_window(window)
        found = run_samples(self._engine, self._task, self._samples)
        pairs = (*((one, self._exact[one.sample_id]) for one in found), *self._known)
        trial = WindowTrial(
            window,
            agreement_of(pairs),
            self._engine.planned_flops,
            sum(bool(one.approximate) for one in found),
        )
        return trial, pairs


def run_samples(engine: Engine, task: Task, samples: Sequence[Sample]) -> list[SampleResult]:
    """The results of all samples, by an engine that is prepared.

    Raises:
        ModelError: a sample could not be run.
    """
    num_batches = engine.plan(samples, [True] * len(samples))
    found = [
        result_of(task, sample, outcome)
        for batch in range(num_batches)
        for sample, outcome in engine.run(batch)
    ]
    for result in found:
        if result.correct is None:
            raise ModelError(f"the sample {result.sample_id} could not be run: {result.error}")
    return found


@dataclass(frozen=True)
class WindowSearch:
    """Finds the window that an approximate run should have had, where its own is too small.

    Windows are tried on the samples that the run has also run exactly, each twice as large as the
    one before, until the outcomes of at least 99 % agree. Each takes a pass over the haystack as
    far as these samples show it, and their rows: all of them together at most two times the exact
    branches, and one pass for each.

    Attributes:
        engine: of the run.
        task: of the run.
        samples: of the run.
        approximation: of the run.
        prepare: prepares the engine, if the run has not.
        on_progress: called as windows are tried.
    """

    engine: Engine
    task: Task
    samples: Sequence[Sample]
    approximation: Approximation
    prepare: Callable[[], None] | None
    on_progress: OnProgress

    def record(self, results: Results) -> dict[str, Any]:
        """What was tried, and the smallest window that is enough, for the manifest.

        Args:
            results: of the run.

        Returns:
            Nothing where the run's own window is enough, or none could be tried.
        """
        copies = [sample for sample in results.control_samples if sample.control == EXACT]
        pairs = exact_pairs(results.samples, copies)
        if not pairs or agreement_of(pairs).share >= LEAST_AGREEMENT:
            return {}
        trials = self._try(pairs)
        if not trials:
            return {}
        last = trials[-1]
        is_found = last.is_enough and last.num_approximate > 0
        return {
            "tried_windows": [trial.record() for trial in trials],
            "enough_window": last.window if is_found else None,
        }

    def _try(self, pairs: Sequence[Pair]) -> list[WindowTrial]:
        """The windows that were tried; the last is enough, or nothing is approximate with it."""
        exact = {one.sample_id: copy for one, copy in pairs if one.approximate}
        samples = [sample for sample in self.samples if sample.sample_id in exact]
        if not samples:
            return []
        engine = self.engine
        assert isinstance(engine, OnePassEngine), "only its runs are approximate"
        if self.prepare is not None:
            self.prepare()
        known = [pair for pair in pairs if not pair[0].approximate]
        trials = WindowTrials(engine, self.task, samples, exact, known)
        whole = max(sample.cell.num_frames for sample in samples if sample.cell is not None)
        own, unit = self.approximation.window, self.approximation.unit
        windows = [*doubling(max(1, 2 * own), whole), whole]
        _LOG.info(
            f"a window of {counted(own, unit[:-1])} is too small: larger ones are tried on the "
            f"{counted(len(samples), 'approximate sample')} of which the exact outcome is known"
        )
        found: list[WindowTrial] = []
        try:
            for number, window in enumerate(windows):
                self.on_progress("windows", number, len(windows))
                found.append(trials.at(window)[0])
                if found[-1].is_enough or not found[-1].num_approximate:
                    break
        except ModelError as error:
            _LOG.warning(f"no larger window could be tried: {error}")
            return []
        finally:
            engine.at_window(own)
            self.on_progress("windows", len(windows), len(windows))
        return found


def measure_windows(
    model: AnyModel,
    haystack: AnyHaystack,
    needles: NeedleSet,
    grid: Grid,
    *,
    windows: Sequence[int] | None = None,
    verify: int,
    task: str | Task = "vniah",
    task_options: Mapping[str, Option] | None = None,
    attention: str = "auto",
    cache: Path | None = None,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> WindowCurve:
    """How agreement and cost of one pass change with the window, on some branches of a grid.

    Branches are drawn as an approximate run draws those that it runs exactly. Their samples are run
    exactly once, by the tree, and by one pass with each window.

    Args:
        model: one with a decoder.
        haystack: as `vniah.sweep.run.run_sweep`.
        needles: as `vniah.sweep.run.run_sweep`.
        grid: as `vniah.sweep.run.run_sweep`.
        windows: frames or tokens behind each needle; by default 0, 1, 2, 4, ... The whole haystack
            is always one of them.
        verify: number of branches that are drawn.
        task: as `vniah.sweep.run.run_sweep`; one that judges the argmax, and has needles.
        task_options: as `vniah.sweep.run.run_sweep`.
        attention: as `vniah.sweep.run.run_sweep`.
        cache: as `vniah.sweep.run.run_sweep`.
        on_progress: called as frames are encoded, and as windows are tried.

    Raises:
        InputError: the model has no decoder, or the task has no needles or judges what is written.
        ModelError: the decoder cannot share states, or a sample could not be run.
        TaskError: there is no such task, or its samples are invalid.
        CheckError: short sequences get other logits than by the model's own forward pass.
    """
    loaded, reader = load_task(task, task_options), require_decoder(model, "check --one-pass")
    if getattr(loaded, "answer_tokens", None) is not None:
        raise InputError(
            f"the task {loaded.name} judges what a model writes, and one pass is read by the "
            "argmax only; give another task"
        )
    unit = Approximation.of(None, verify, is_text=is_of_text(loaded)).unit
    options = EngineOptions(attention=attention, approximation=Approximation(0, verify, unit))
    engine, tree = OnePassEngine(reader, options), DecoderEngine(reader, options)
    haystack = read_text(haystack, reader, grid)
    samples = askable_samples(loaded, grid, needles, haystack, tree, (), more=(Exact(verify),))
    require_can_read(reader, samples)
    require_readable(loaded, samples, needles)
    tests, drawn = _drawn(samples, loaded)
    for one in (tree, engine):
        one.prepare(
            haystack,
            needles,
            0 if unit == "tokens" else grid.max_frames,
            shown=chain.from_iterable(sample.shown for sample in tests),
            cache=cache,
            on_progress=lambda done, total: on_progress("encode", done, total),
        )
    tree.plan(tests, [True] * len(tests))
    costs = tree.describe()
    exact = {one.sample_id: one for one in run_samples(tree, loaded, drawn)}
    flops_of_exact = tree.planned_flops or 0
    trials, found = WindowTrials(engine, loaded, drawn, exact), []
    pairs: tuple[Pair, ...] = ()
    chosen = _with_whole(windows, grid.max_frames)
    for number, window in enumerate(chosen):
        on_progress("windows", number, len(chosen))
        trial, pairs = trials.at(window)
        if not number:
            engine.check()
        engine.plan(tests, [True] * len(tests))
        found.append(replace(trial, flops=engine.planned_flops))
    on_progress("windows", len(chosen), len(chosen))
    return WindowCurve(
        model_name=model.name,
        haystack_name=haystack.name,
        grid=f"{counted(len(grid.cells), 'cell')} x {counted(len(needles), 'needle')}",
        unit=unit,
        num_samples=len(tests),
        num_branches=len({(sample.question, branch_of(sample)) for sample in drawn}),
        num_right=sum(bool(one.correct) for one in exact.values()),
        trials=tuple(found),
        flops_of_tree=costs["flops"],
        flops_alone=costs["flops_not_shared"],
        flops_of_exact=flops_of_exact,
        num_ties=_num_ties(pairs, found[-1].agreement.max_difference),
        max_allowed=_allowed(reader, exact.values()),
    )


def _drawn(samples: Sequence[Sample], task: Task) -> tuple[list[Sample], list[Sample]]:
    """The samples of a test, and those of them whose branches were drawn.

    Raises:
        InputError: the task hides nothing.
    """
    copies = {sample.sample_id for sample in samples if sample.control == EXACT}
    tests = [sample for sample in samples if sample.control is None]
    drawn = [sample for sample in tests if f"{sample.sample_id}/{EXACT}" in copies]
    if not hides_needles(drawn):
        raise InputError(
            f"check --one-pass shares haystack states among needles, and the task {task.name} has "
            "none"
        )
    return tests, drawn


def _with_whole(windows: Sequence[int] | None, whole: int) -> list[int]:
    """Windows, ascending; the last is the whole haystack."""
    given = doubling(0, whole) if windows is None else windows
    return [*sorted({window for window in given if window < whole}), whole]


def _num_ties(pairs: Iterable[Pair], difference: float | None) -> int:
    """Samples with another outcome, of which rounding decides it."""
    return sum(
        one.correct != exact.correct and abs(exact.margin or 0.0) <= 2 * (difference or 0.0)
        for one, exact in pairs
    )


def _allowed(model: DecoderModel | LanguageModel, exact: Iterable[SampleResult]) -> float:
    """How far rounding may move log-probabilities, from how large they are."""
    sizes = [abs(one.logprob) for one in exact if one.logprob is not None and isfinite(one.logprob)]
    dtype = model.decoder.lm_head.weight.dtype
    tolerance = TOLERANCES.get(dtype, TOLERANCES[torch.float32])
    return tolerance * max(1.0, *sizes)
