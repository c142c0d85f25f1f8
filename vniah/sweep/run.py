"""Runs a sweep: every sample once, with one flushed line for each, and resumes where it stopped."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from vniah.analysis.compare.pairing import load
from vniah.engines.base import GENERATED, EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.errors import InputError, ResultsError
from vniah.files import cache_dir, slug
from vniah.forward.kv_cache import NAME_OF_LOCATION
from vniah.grid import Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.options import MAX_NEW_TOKENS, Scorer, Share
from vniah.options.precision import Precision
from vniah.paths import user_path
from vniah.protocol import AnyModel
from vniah.results import MANIFEST_NAME, Results, RunFolder, load_run
from vniah.results.manifests import read_manifest
from vniah.sweep.adaptive import Rounds, scored_ids
from vniah.sweep.launchers import require_known_launcher
from vniah.sweep.manifest import EARLIER_DEFAULT, make_manifest, run_key
from vniah.sweep.mesh import Mesh
from vniah.sweep.outcomes import require_readable, result_of
from vniah.sweep.progress import Bars, OnProgress
from vniah.sweep.replies import warn_of_unreadable
from vniah.sweep.samples import askable_samples, begun_with
from vniah.sweep.search import require_depths
from vniah.sweep.stopping import EarlyRounds
from vniah.tasks import Sample, Task, load_task
from vniah.tasks.controls import ChosenControls, choose_controls
from vniah.tasks.parsing import Option

_LOG = logging.getLogger("vniah")

_OF_THE_PLAN = ("passes", "flops", "flops_not_shared")
_MAX_IN_FOLDER_NAME = 60  # characters, each of up to four bytes


def run_sweep(
    model: AnyModel,
    haystack: Haystack,
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
        haystack: at least ``grid.max_frames`` frames long.
        needles: what is inserted, with its questions and answers.
        grid: numbers of frames, and depths or positions.
        output: the run's folder; on a file system that all processes share.
        task: one of `vniah.tasks.TASKS`, ``"package.module:factory"``, or a task.
        task_options: keyword arguments for the task of that name, as `vniah.tasks.load_task`.
        controls: ``"default"`` for those of the task, ``"none"``, ``"all"``; or controls: names of
            `vniah.tasks.controls.CONTROLS`, ``"package.module:factory"``, or objects.
        cache: folder for the haystack's embeddings; by default one under the user's cache.
        overwrite: discard what the folder holds instead of resuming the run.
        share: ``"tree"`` computes common prefixes of samples once, ``"none"`` runs every sample by
            itself; the numbers are the same.
        attention: name of the attention kernel, as in `vniah.options`; ``"auto"`` is the fastest
            that is correct on the model's device.
        scorer: ``"argmax"`` judges the argmax at every position of the answer, ``"generate"`` the
            text of greedy decoding, and records the argmax as well. Chat models always generate.
        max_new_tokens: greedy decoding ends after this many tokens at the latest, but not before it
            has as many as the longest accepted answer; by default after 32, or after as many as the
            model's attribute ``max_new_tokens`` says.
        adaptive: measure only the cells that it takes to know the effective length this precisely
            (`vniah.sweep.adaptive`); by default all.
        stop_early: a complete run with the same needles, or its path. The sweep ends as soon as it
            is significantly worse (`vniah.analysis.compare.compare_early`); without it, the next
            start measures the rest.
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
        controls: the controls that were chosen, whether or not they have samples here.
        samples: all samples, controls included.

    Raises:
        InputError: an option is invalid, or there are other processes of which it was told nothing.
        TaskError: there is no such task, or its samples are invalid.
    """

    def __init__(
        self,
        model: AnyModel,
        haystack: Haystack,
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
        self._engine = choose_engine(
            model,
            EngineOptions(
                share=options.share,
                attention=options.attention,
                scorer=options.scorer,
                max_new_tokens=options.max_new_tokens,
                group=self._mesh.context_group,
                num_processes=self._mesh.size,
                scratch_dir=cache_dir() / "scratch",
            ),
        )
        self._task = load_task(options.task, options.task_options)
        self.controls = choose_controls(self._task, options.controls)
        self.samples = askable_samples(
            self._task, grid, needles, haystack, self._engine, options.controls
        )
        require_readable(self._task, self.samples, needles)
        if options.adaptive is not None:
            require_depths(grid)
            if options.stop_early is not None:
                raise InputError(
                    "an adaptive sweep chooses its cells, and cannot stop early as well: leave out "
                    "one of the two (--adaptive, --stop-early)"
                )
        self.manifest = make_manifest(
            model, haystack, needles, grid, self._engine, self._task, self.samples
        )
        self._model = model
        self._haystack = haystack
        self._needles = needles
        self._num_frames = grid.max_frames
        self._options = options
        self._num_done = 0
        self._report: OnProgress = lambda stage, done, total: None

    @property
    def baseline(self) -> Results | None:
        """What the sweep is compared with while it is going on; None for most."""
        return self._options.stop_early

    @property
    def default_output(self) -> Path:
        """The folder for this run: the same for the same settings."""
        key = run_key(self.manifest, self._model, controls=self._options.controls)
        names = (_folder_name(self._model.name), _folder_name(self._task.name))
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
        with Bars(progress and on_progress is None and leads) as bars:
            if leads:
                self._report = on_progress or bars.show
            return self._run(output, overwrite=overwrite)

    def _run(self, output: Path, *, overwrite: bool) -> Results:
        mesh, engine = self._mesh, self._engine
        if not mesh.is_leader:
            mesh.wait_for("encoded")
        if not overwrite:
            self._keep_earlier_length(output)
            self._keep_earlier_controls(output)
        manifest = self.manifest
        rounds: Rounds | EarlyRounds | None = None
        if self._options.adaptive is not None:
            rounds = Rounds(self.samples, self._options.adaptive)
        elif self._options.stop_early is not None:
            rounds = EarlyRounds(self.samples, self._options.stop_early)
        if rounds is not None:
            manifest = {**manifest, **rounds.settings}
        folder = RunFolder(output, manifest, overwrite=overwrite)
        is_pending = [not folder.has_score(sample.sample_id) for sample in self.samples]
        first = self.samples if rounds is None else rounds.next_to_run(folder.results())
        has_work = bool(first) and any(is_pending)
        if has_work:
            self._prepare()
        if mesh.is_leader:
            mesh.announce("encoded")
        num_batches = engine.plan(self.samples, is_pending) if has_work else 0
        environment = {"forward": self._describe(sum(is_pending))} if num_batches else {}
        mesh.barrier()  # all processes have read the folder before anything is written
        if not mesh.is_leader:
            mesh.wait_for("open")
        with _writing(folder, mesh, engine.notes, environment):
            self._num_done = len(is_pending) - sum(is_pending)
            if rounds is None:
                self._run_batches(folder, num_batches)
            elif has_work:
                self._run_rounds(folder, rounds, first)
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

    def _keep_earlier_length(self, output: Path) -> None:
        """Takes up a run of an embedded model that began when 32 tokens were everyone's default."""
        decoding, scorer = self._engine.decoding, None
        if decoding is None or self._options.max_new_tokens is not None:
            return
        with suppress(ResultsError):  # there is no run, or one that the folder itself refuses
            scorer = read_manifest(output / MANIFEST_NAME).get("scorer")
        if scorer == {**self.manifest["scorer"], "max_new_tokens": MAX_NEW_TOKENS}:
            self._engine.decoding = replace(decoding, max_new_tokens=MAX_NEW_TOKENS)
            self.manifest = {**self.manifest, "scorer": scorer}

    def _keep_earlier_controls(self, output: Path) -> None:
        """Takes up a run that began when there were fewer default controls, with these."""
        if self._options.controls != "default":
            return
        with suppress(ResultsError):
            earlier = read_manifest(output / MANIFEST_NAME)
            names = earlier.get("controls")
            if names != EARLIER_DEFAULT or names == self.manifest["controls"]:
                return
            samples = begun_with(self.samples, names, earlier["sample_ids"].split())
            if samples is not None:
                ids = " ".join(sample.sample_id for sample in samples)
                self.samples = samples
                self.manifest = {**self.manifest, "controls": names, "sample_ids": ids}
                _LOG.warning(
                    f"this run began with the control {', '.join(names)} alone, and goes on so; "
                    "another --output, or --overwrite, gives it all default controls"
                )

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

    def _describe(self, num_left: int) -> dict[str, Any]:
        """Checks the model, and describes for the manifest how the samples are run."""
        found = self._engine.check()  # which may change how a server is asked
        described = dict(self._engine.describe())
        is_adaptive = self._options.adaptive is not None
        if self._mesh.is_leader and "passes" in described:
            text = _in_words(described, len(self.samples), num_left)
            _LOG.info(f"the whole grid would be {text}" if is_adaptive else text)
        if is_adaptive:  # its rounds have plans of their own
            described = {k: v for k, v in described.items() if k not in _OF_THE_PLAN}
        if found:
            described["check"] = dict(found)
        return {**described, "processes": self._mesh.size}

    def _run_batches(self, folder: RunFolder, num_batches: int, *, name: str = "batches") -> None:
        mesh, num_samples = self._mesh, len(self.samples)
        if num_batches:
            self._report("sweep", self._num_done + mesh.count("done"), num_samples)
        for batch in mesh.claim(name, num_batches):
            for sample, outcome in self._engine.run(batch):
                if mesh.context_rank == 0:
                    folder.append(result_of(self._task, sample, outcome))
                    self._report("sweep", self._num_done + mesh.count("done", 1), num_samples)

    def _run_rounds(
        self, folder: RunFolder, rounds: "Rounds | EarlyRounds", samples: Sequence[Sample]
    ) -> None:
        """Runs one round after the other, each planned by itself; the engine planned the grid."""
        engine, of_grid = self._engine, self._engine.planned_flops
        results = self._results_of_all(folder)
        while samples:
            scored = scored_ids(results)
            num_batches = engine.plan(samples, [s.sample_id not in scored for s in samples])
            self._run_batches(folder, num_batches, name=f"round-{len(rounds.chosen)}")
            results = self._results_of_all(folder)
            samples = rounds.next_to_run(results)
        record = rounds.record_of_end(results, engine, of_grid)
        if record and self._mesh.is_leader:
            folder.record(record)
            _LOG.info(rounds.in_words(record, results))

    def _results_of_all(self, folder: RunFolder) -> Results:
        """What all processes have written so far; the same in each of them."""
        if self._mesh.size == 1:
            return folder.results()
        self._mesh.barrier()  # all have written
        results = load_run(folder.directory)
        self._mesh.barrier()  # all have read
        return results


@contextmanager
def _writing(
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


def _in_words(record: Mapping[str, Any], num_samples: int, num_left: int) -> str:
    """Describes in one line how the forward pass is run, from its record in the manifest."""
    share = record["flops"] / max(1, record["flops_not_shared"])
    why = record.get("not_shared_because")
    place = record.get("keys_and_values_on", "device")
    parts = [
        f"{record['passes']:,} pass{'es' * (record['passes'] != 1)} for {num_samples:,} samples, "
        + (f"with {share:.0%} of the operations of one by one" if share != 1 else "one by one"),
        *([f"nothing is shared, because {why}"] if why else []),
        *([f"{num_left:,} samples are left to do"] if num_left < num_samples else []),
        f"chunks of {record.get('tile_size', 0):,} rows",
        *([f"keys and values kept {NAME_OF_LOCATION[place]}"] if place != "device" else []),
        *(["layers fetched from the host one by one"] if "layer_weights_on" in record else []),
        "logits as by the model's own forward pass",
    ]
    return "; ".join(parts)


def _folder_name(name: str) -> str:
    """The name as a part of a folder's name, which file systems take no longer than 255 bytes."""
    return slug(name)[:_MAX_IN_FOLDER_NAME]
