"""Runs a sweep: every sample once, with one flushed line for each, and resumes where it stopped."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from vniah.analysis.compare.early import require_can_stop_early
from vniah.analysis.compare.pairing import load
from vniah.engines.base import GENERATED, EngineOptions
from vniah.engines.choosing import choose_applied, choose_engine
from vniah.engines.inputs import require_can_read
from vniah.engines.interventions import Changes
from vniah.errors import InputError, counted
from vniah.files import cache_dir, slug
from vniah.grid import Grid
from vniah.haystacks.frames import AnyHaystack, unit_of
from vniah.needles import NeedleSet
from vniah.options import Scorer, Share
from vniah.options.precision import Precision
from vniah.paths import user_path
from vniah.protocol import AnyModel
from vniah.results import Results, RunFolder, load_run
from vniah.sweep.adaptive import Rounds, guess_of
from vniah.sweep.apply import choose_intervention
from vniah.sweep.approximate import (
    choose_approximation,
    record_verification,
    require_can_approximate,
)
from vniah.sweep.batches import Batches, writing
from vniah.sweep.earlier import keep_earlier_controls, keep_earlier_length
from vniah.sweep.launchers import require_known_launcher
from vniah.sweep.manifest import make_manifest, run_key
from vniah.sweep.mesh import Mesh
from vniah.sweep.outcomes import require_needles_shown, require_readable
from vniah.sweep.planned import describe_forward
from vniah.sweep.progress import Bars, OnProgress
from vniah.sweep.replies import warn_of_unreadable
from vniah.sweep.samples import askable_samples, read_text
from vniah.sweep.search import require_depths
from vniah.sweep.stopping import EarlyRounds
from vniah.sweep.windows import WindowSearch
from vniah.tasks import Task, load_task
from vniah.tasks.controls import ChosenControls, Control, choose_controls
from vniah.tasks.controls.applied import Applied
from vniah.tasks.controls.exact import Exact
from vniah.tasks.parsing import Option

_LOG = logging.getLogger("vniah")

_MAX_IN_FOLDER_NAME = 60  # characters, each of up to four bytes


def run_sweep(
    model: AnyModel,
    haystack: AnyHaystack,
    needles: NeedleSet,
    grid: Grid,
    *,
    output: str | Path,
    task: str | Task = "vniah",
    task_options: Mapping[str, Option] | None = None,
    controls: ChosenControls = "default",
    cache: str | Path | None = None,
    overwrite: bool = False,
    share: Share = "tree",
    attention: str = "auto",
    scorer: Scorer = "argmax",
    max_new_tokens: int | None = None,
    adaptive: Precision | None = None,
    stop_early: Results | str | Path | None = None,
    window: int | None = None,
    verify: int | None = None,
    screen: Results | str | Path | None = None,
    apply: str | Callable[[Changes], object] | None = None,
    trace_attention: bool = False,
    mesh: Mesh | None = None,
    progress: bool = True,
    on_progress: OnProgress | None = None,
) -> Results:
    """Measures every cell of the grid with every needle.

    Encodes what is not encoded yet, checks the forward pass against the model's own on two short
    cells, then runs the samples, and writes each result to ``output`` as soon as it is there.
    Started again on the same folder it runs only what is missing, with any number of processes.

    Args:
        model: of any of the three levels of `vniah.protocol`.
        haystack: at least ``grid.max_frames`` frames long; for a task of text, a `TextHaystack` of
            at least so many tokens.
        needles: what is inserted, with its questions and answers.
        grid: numbers of frames, or of tokens for a task of text; and depths or positions.
        output: the run's folder; on a file system that all processes share.
        task: one of `vniah.tasks.TASKS`, ``"package.module:factory"``, or a task.
        task_options: keyword arguments for the task of that name, as `vniah.tasks.load_task`.
        controls: ``"default"`` for those of the task, ``"none"``, ``"all"``; or controls: names of
            `vniah.tasks.controls.CONTROLS`, ``"package.module:factory"``, or objects.
        cache: folder for the haystack's embeddings; by default one under the user's cache.
        overwrite: discard what the folder holds instead of resuming the run.
        share: ``"tree"`` computes common prefixes of samples once, ``"none"`` runs every sample by
            itself; the numbers are the same. ``"one-pass"`` shares haystack states among all
            needles, which is approximate (`vniah.sweep.approximate`).
        attention: name of the attention kernel, as in `vniah.options`; ``"auto"`` is the fastest
            that is correct on the model's device.
        scorer: ``"argmax"`` judges the argmax at every position of the answer, ``"generate"`` the
            text of greedy decoding, and records the argmax as well. Chat models always generate.
        max_new_tokens: greedy decoding ends after this many tokens at the latest, but not before it
            has as many as the longest accepted answer; by default after 32, or after as many as the
            model's attribute ``max_new_tokens`` says.
        adaptive: measure only the cells that it takes to know the effective length this precisely
            (`vniah.sweep.adaptive`); by default all.
        stop_early: a complete run with the same needles, at least 11, or its path. The sweep ends
            as soon as it is significantly worse (`vniah.analysis.compare.compare_early`); without
            it, the next start measures the rest.
        window: of an approximate run: how many frames, or tokens of text, behind each needle are
            computed with it in sight; by default 1 frame, or 32 tokens.
        verify: of an approximate run: how many branches are drawn and run exactly as well; by
            default 12.
        screen: of an adaptive run: another run, or its path, whose effective length says where to
            begin to search, such as an approximate one.
        apply: a function that changes the model (`vniah.engines.interventions`), or its name,
            ``"package.module:function"``. Each sample of the test is then run twice, without it
            and with it.
        trace_attention: also keep how much attention every layer and head pays to the needle
            (`vniah.results.attention`), and whether the needle was seen.
        mesh: the processes of the job (`vniah.sweep.mesh.open_mesh`); by default only this one.
        progress: whether to show progress bars on stderr, or in the notebook.
        on_progress: called in place of the bars as work is done, and before the first sample; with
            several processes on the leader only.

    Raises:
        RunMismatchError: the folder holds a run with other settings.
        HaystackTooShortError: the haystack is shorter than the grid needs.
        InputError: an option is invalid, or the attention kernel does not run here.
        TaskError: there is no such task, or its samples are invalid.
        CheckError: the forward pass gives other logits than the model's own.
        CannotCompareError: the baseline of ``stop_early`` cannot be compared with the sweep, or has
            too few needles for that; nothing is measured then.
    """
    folder = user_path(output, "the output")
    options = SweepOptions(
        task,
        task_options,
        controls,
        cache,
        share,
        attention,
        scorer,
        max_new_tokens,
        adaptive,
        None if stop_early is None else load(stop_early, "baseline"),
        window,
        verify,
        None if screen is None else load(screen, "screen"),
        apply,
        trace_attention,
    )
    sweep = Sweep(model, haystack, needles, grid, options, mesh=mesh)
    return sweep.run(folder, overwrite=overwrite, progress=progress, on_progress=on_progress)


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is run; the attributes are the arguments of `run_sweep`."""

    task: str | Task = "vniah"
    task_options: Mapping[str, Option] | None = None
    controls: ChosenControls = "default"
    cache: str | Path | None = None
    share: Share = "tree"
    attention: str = "auto"
    scorer: Scorer = "argmax"
    max_new_tokens: int | None = None
    adaptive: Precision | None = None
    stop_early: Results | None = None
    window: int | None = None
    verify: int | None = None
    screen: Results | None = None
    apply: str | Callable[[Changes], object] | None = None
    trace_attention: bool = False


class Sweep:
    """A planned sweep.

    Args:
        model: as `run_sweep`.
        haystack: as `run_sweep`.
        needles: as `run_sweep`.
        grid: as `run_sweep`.
        options: how it is run.
        mesh: the processes of the job; by default only this one.

    Attributes:
        manifest: everything that is needed to repeat the run, as JSON values.
        approximation: how far it is approximate; None for an exact one.
        intervention: with which each sample of the test is run once more; None for most.
        controls: the controls that were chosen, whether or not they have samples here, and the one
            that verifies an approximate run, or that runs samples with an intervention.
        samples: all samples, controls included.

    Raises:
        InputError: an option is invalid, or there are other processes of which it was told nothing.
        TaskError: there is no such task, or its samples are invalid.
    """

    def __init__(
        self,
        model: AnyModel,
        haystack: AnyHaystack,
        needles: NeedleSet,
        grid: Grid,
        options: SweepOptions | None = None,
        *,
        mesh: Mesh | None = None,
    ) -> None:
        options = options or SweepOptions()
        if mesh is None:
            require_known_launcher()
        self._mesh = Mesh(torch.device("cpu")) if mesh is None else mesh.fresh()
        self._task = load_task(options.task, options.task_options)
        answer_tokens = getattr(self._task, "answer_tokens", None)
        self.intervention = choose_intervention(options)
        self.approximation = choose_approximation(options, self._task)
        how = EngineOptions(
            share=options.share,
            attention=options.attention,
            scorer=options.scorer,
            max_new_tokens=(
                answer_tokens if options.max_new_tokens is None else options.max_new_tokens
            ),
            group=self._mesh.context_group,
            num_processes=self._mesh.size,
            scratch_dir=cache_dir() / "scratch",
            approximation=self.approximation,
            trace_attention=options.trace_attention,
        )
        self._applied = None
        if self.intervention is not None:
            self._applied = choose_applied(model, how, self.intervention)
        self._engine = self._applied or choose_engine(model, how)
        if answer_tokens is not None and self._engine.criterion != GENERATED:
            raise InputError(
                f"the task {self._task.name} judges what a model writes: add --scorer generate"
            )
        more: tuple[Control, ...] = ()
        if self.approximation is not None:
            more = (Exact(self.approximation.verify),)
        elif self.intervention is not None:
            more = (Applied(),)
        self.controls = (*choose_controls(self._task, options.controls), *more)
        haystack = read_text(haystack, model, grid)
        self.samples = askable_samples(
            self._task, grid, needles, haystack, self._engine, options.controls, more=more
        )
        require_can_read(model, self.samples)
        require_readable(self._task, self.samples, needles)
        if self.approximation is not None:
            require_can_approximate(self.samples)
        if options.adaptive is not None:
            require_depths(grid)
            if options.stop_early is not None:
                raise InputError(
                    "an adaptive sweep chooses its cells, and cannot stop early as well: leave out "
                    "one of the two (--adaptive, --stop-early)"
                )
        self._guess: int | None = None
        if options.screen is not None:
            if options.adaptive is None:
                raise InputError(
                    "another run says where an adaptive sweep begins: add --adaptive, or leave out "
                    "--screen"
                )
            self._guess = guess_of(options.screen, f"{unit_of(haystack)}s")
        if options.stop_early is not None:
            require_can_stop_early(options.stop_early)
        self.manifest = make_manifest(
            model,
            haystack,
            needles,
            grid,
            self._engine,
            self._task,
            self.samples,
            self.approximation,
            self.intervention,
            traces_attention=options.trace_attention,
        )
        if options.trace_attention:
            require_needles_shown(self.samples)
        self._model = model
        self._haystack = haystack
        self._needles = needles
        shows_frames = any(sample.text is None for sample in self.samples)
        self._num_frames = grid.max_frames if shows_frames else 0
        self._options = options
        self._report: OnProgress = lambda stage, done, total: None

    @property
    def baseline(self) -> Results | None:
        """What the sweep is compared with while it is going on; None for most."""
        return self._options.stop_early

    @property
    def asked(self) -> str:
        """What is asked in each cell, in words: ``"10 needles"``, or ``"12 questions"``."""
        if len(self._needles):
            return counted(len(self._needles), "needle")
        first = next(sample.cell for sample in self.samples if sample.control is None)
        asked = [one for one in self.samples if one.control is None and one.cell == first]
        return counted(len(asked), "question")

    @property
    def default_output(self) -> Path:
        """The folder for this run: the same for the same settings."""
        key = run_key(self.manifest, self._model, controls=self._options.controls)
        names = [_folder_name(self._model.name), _folder_name(self._task.name)]
        names += [] if self.approximation is None else ["approximate"]
        names += [] if self.intervention is None else [_folder_name(self.intervention.short_name)]
        return Path("results", "-".join((*names, key)))

    def run(
        self,
        output: Path,
        *,
        overwrite: bool = False,
        progress: bool = True,
        on_progress: OnProgress | None = None,
    ) -> Results:
        """Runs the samples that the folder lacks, and returns all results; called once."""
        leads = self._mesh.is_leader
        is_shown = progress and on_progress is None and leads
        with Bars(is_shown, unit=unit_of(self._haystack)) as bars:
            if leads:
                self._report = on_progress or bars.show
            return self._run(output, overwrite=overwrite)

    def _run(self, output: Path, *, overwrite: bool) -> Results:
        mesh, engine = self._mesh, self._engine
        if not mesh.is_leader:
            mesh.wait_for("encoded")
        if not overwrite:
            self._take_up_earlier(output)
        rounds = self._rounds()
        manifest = self.manifest if rounds is None else {**self.manifest, **rounds.settings}
        folder = RunFolder(output, manifest, overwrite=overwrite)
        is_pending = [not folder.has_score(sample.sample_id) for sample in self.samples]
        first = self.samples if rounds is None else rounds.next_to_run(folder.results())
        has_work = bool(first) and any(is_pending)
        if has_work:
            self._prepare()
        if mesh.is_leader:
            mesh.announce("encoded")
        num_batches = engine.plan(self.samples, is_pending) if has_work else 0
        environment = {}
        if num_batches:
            environment["forward"] = describe_forward(
                engine,
                mesh,
                num_samples=len(self.samples),
                num_left=sum(is_pending),
                is_adaptive=self._options.adaptive is not None,
            )
        mesh.barrier()  # all processes have read the folder before anything is written
        if not mesh.is_leader:
            mesh.wait_for("open")
        batches = Batches(
            self._task,
            engine,
            mesh,
            num_samples=len(is_pending),
            num_done=len(is_pending) - sum(is_pending),
            report=self._report,
        )
        undone = nullcontext() if self._applied is None else self._applied.ending()
        with undone, writing(folder, mesh, engine.notes, environment):
            if rounds is None:
                batches.run_batches(folder, num_batches)
                if self.approximation is not None:
                    self._verify(folder, batches.results(folder), is_prepared=has_work)
            elif has_work:
                batches.run_rounds(folder, rounds, first)
            elif mesh.is_leader:  # a kill may have come before this
                folder.record(rounds.record_of_end(folder.results(), engine, None))
        mesh.barrier()  # the leader has merged the files of all processes
        if num_batches and rounds is None:
            self._report("sweep", len(self.samples), len(self.samples))
        if not mesh.is_leader:
            return load_run(output)
        results = folder.results()
        if engine.criterion == GENERATED and (warning := warn_of_unreadable(self.samples, results)):
            _LOG.warning(warning)
        return results

    def _take_up_earlier(self, output: Path) -> None:
        """Where the folder holds a run that began with other defaults, they are those of this."""
        if self._options.max_new_tokens is None:
            self.manifest = keep_earlier_length(self._engine, self.manifest, output)
        if self._options.controls == "default":
            self.samples, self.manifest = keep_earlier_controls(self.samples, self.manifest, output)

    def _rounds(self) -> Rounds | EarlyRounds | None:
        """What chooses the samples by the results so far; None where all are run."""
        if self._options.adaptive is not None:
            return Rounds(self.samples, self._options.adaptive, self._guess)
        if self._options.stop_early is not None:
            return EarlyRounds(self.samples, self._options.stop_early)
        return None

    def _verify(self, folder: RunFolder, results: Results, *, is_prepared: bool) -> None:
        """Records how far an approximate run agrees with its exact samples, and what would do."""
        assert self.approximation is not None
        search = WindowSearch(
            self._engine,
            self._task,
            self.samples,
            self.approximation,
            prepare=None if is_prepared else self._prepare,
            on_progress=self._report,
        )
        record_verification(folder, results, search, leads=self._mesh.is_leader)

    def _prepare(self) -> None:
        """Prepares all pictures that samples show."""
        cache = self._options.cache
        self._engine.prepare(
            self._haystack,
            self._needles,
            self._num_frames,
            shown=chain.from_iterable(sample.shown for sample in self.samples),
            cache=None if cache is None else user_path(cache, "the cache"),
            on_progress=lambda done, total: self._report("encode", done, total),
        )


def _folder_name(name: str) -> str:
    """The name as a part of a folder's name, which file systems take no longer than 255 bytes."""
    return slug(name)[:_MAX_IN_FOLDER_NAME]
