"""A sweep: every needle in every cell, one flushed line each, going on where it stopped."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from vniah.embeddings.encode import encode_haystack, encode_needles, needle_directory
from vniah.engines.base import Asker, Outcome, choose_decoding
from vniah.engines.decoder import TreeAsker, find_kernel_for, make_ring
from vniah.engines.equivalence import check_forward, check_sequences, require_agreement
from vniah.engines.inputs import Material, require_model
from vniah.engines.per_sample import ask_chat, ask_model
from vniah.engines.server import NO_USAGE, Pictures, ServerAsker
from vniah.errors import InputError
from vniah.files import cache_dir
from vniah.forward.attention import Kernel
from vniah.forward.kv_cache import NAME_OF_LOCATION
from vniah.forward.ring import Ring
from vniah.grid import Grid
from vniah.haystacks.haystack import Haystack
from vniah.models.server.client import ServerModel
from vniah.needles import NeedleSet
from vniah.options import MAX_NEW_TOKENS, Decoding, Scorer, Share
from vniah.protocol import AnyModel, ChatModel, DecoderModel, EncodingModel
from vniah.results import Results, RunFolder, Sample, load_run
from vniah.sweep.manifest import make_manifest
from vniah.sweep.mesh import Mesh
from vniah.tasks.vniah import TASK_NAME, Question, questions

_LOG = logging.getLogger("vniah")

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


def run_sweep(
    model: AnyModel,
    haystack: Haystack,
    needles: NeedleSet,
    grid: Grid,
    *,
    output: str | Path,
    cache: Path | None = None,
    overwrite: bool = False,
    share: Share = "tree",
    attention: str = "auto",
    scorer: Scorer = "argmax",
    max_new_tokens: int = MAX_NEW_TOKENS,
    mesh: Mesh | None = None,
    on_progress: Progress | None = None,
) -> Results:
    """Measures every cell of the grid with every needle.

    Encodes what is not encoded yet, checks the forward pass against the model's own on two short
    cells, then asks, and writes each answer to ``output`` as soon as it is there. Started again on
    the same folder it asks only what is missing, with however many processes.

    Args:
        model: of any of the three levels of `vniah.protocol`.
        haystack: at least ``grid.max_frames`` frames long.
        needles: what is inserted and asked.
        grid: numbers of frames, and depths or positions.
        output: the run's folder; on a file system that all processes share.
        cache: folder for the haystack's embeddings; by default under the user's cache.
        overwrite: throw away what the folder holds instead of going on.
        share: ``"tree"`` computes what several questions begin with once, ``"none"`` runs every
            one by itself; the numbers are the same.
        attention: the kernel that computes it, by its name in `vniah.options`; ``"auto"`` is
            the fastest that is right on the model's device.
        scorer: ``"argmax"`` of the logits at every position of the answer, or ``"generate"``: the
            text of greedy decoding, with the argmax beside it. Chat models always generate.
        max_new_tokens: where greedy decoding ends at the latest; as many tokens as the longest
            accepted answer has are generated in any case.
        mesh: the processes of the job (`vniah.sweep.mesh.open_mesh`); by default this one alone.
        on_progress: called as work is done, and before the first question; with several processes
            on the leader only.

    Raises:
        RunMismatchError: the folder holds a run with other settings.
        HaystackTooShortError: the haystack is shorter than the grid needs.
        InputError: the attention kernel does not run here.
        CheckError: the forward pass gives other numbers than the model's own.
    """
    require_model(model)
    decoding = choose_decoding(model, scorer, max_new_tokens)
    mesh = Mesh(torch.device("cpu")) if mesh is None else mesh.fresh()
    report = on_progress if on_progress and mesh.is_leader else _no_progress
    setup = _Setup(
        model,
        haystack,
        needles,
        grid.max_frames,
        cache,
        share,
        find_kernel_for(model, attention),
        decoding,
        mesh,
        report,
    )
    return _sweep(setup, grid, Path(output), overwrite=overwrite)


def _sweep(setup: "_Setup", grid: Grid, output: Path, *, overwrite: bool) -> Results:
    model, haystack, needles = setup.model, setup.haystack, setup.needles
    mesh, report = setup.mesh, setup.report
    if not mesh.is_leader:
        mesh.wait_for("encoded")
    manifest = make_manifest(model, haystack, needles, grid, setup.decoding)
    folder = RunFolder(output, manifest, overwrite=overwrite)
    asked = list(questions(grid, needles))
    is_wanted = [not _is_done(folder, question) for question in asked]
    if any(is_wanted):
        setup.asker  # noqa: B018  # encodes
    if mesh.is_leader:
        mesh.announce("encoded")
    num_units = setup.asker.prepare(asked, is_wanted) if any(is_wanted) else 0
    environment = {"forward": setup.record()} if num_units else {}
    if mesh.is_leader and "passes" in environment.get("forward", {}):
        _LOG.info(_in_words(environment["forward"], len(asked), sum(is_wanted)))
    mesh.barrier()  # all have read the folder as it was
    if not mesh.is_leader:
        mesh.wait_for("open")
    with _writing(folder, mesh, setup.notes, environment):
        num_done = len(asked) - sum(is_wanted)
        if num_units:
            report("sweep", num_done, len(asked))
        for unit in mesh.claim("units", num_units):
            for question, outcome in setup.asker.ask(unit):
                if mesh.context_rank == 0:
                    folder.append(_sample(question, outcome))
                    report("sweep", num_done + mesh.count("asked", 1), len(asked))
    mesh.barrier()  # the leader has merged
    if num_units:
        report("sweep", len(asked), len(asked))
    return folder.results() if mesh.is_leader else load_run(output)


@contextmanager
def _writing(
    folder: RunFolder, mesh: Mesh, notes: Sequence[str], environment: Mapping[str, Any]
) -> Iterator[None]:
    """The run's folder, open for the first process of every worker; merged at the end."""
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
    """How the forward pass is run, from its record in the manifest."""
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


def _no_progress(stage: str, done: int, total: int) -> None:
    pass


@dataclass
class _Setup:
    """What is made ready before the first question."""

    model: AnyModel
    haystack: Haystack
    needles: NeedleSet
    num_frames: int
    cache: Path | None
    share: Share
    kernel: Kernel | None
    decoding: Decoding | None
    mesh: Mesh
    report: Progress

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        if self.mesh.context_size > 1 and not isinstance(self.model, DecoderModel):
            raise InputError(
                f"--context-parallel {self.mesh.context_size} needs a model with a decoder; "
                f"{self.model.name} runs its own forward pass"
            )
        if self.mesh.size > 1 and isinstance(self.model, ServerModel):
            raise InputError(
                f"a server is asked by one process, this job has {self.mesh.size}; start it "
                "without torchrun, with --concurrency"
            )

    @cached_property
    def asker(self) -> Asker:
        """Who answers; encodes what is not encoded yet."""
        if isinstance(self.model, DecoderModel):
            return TreeAsker(
                self.model,
                self.material,
                share=self.share,
                decoding=self.decoding,
                kernel=self.kernel,
                ring=self.ring,
                scratch_dir=cache_dir() / "scratch",
            )
        if isinstance(self.model, EncodingModel):
            return ask_model(self.model, self.material, self.decoding)
        if isinstance(self.model, ServerModel):
            return self._ask_server(self.model)
        assert isinstance(self.model, ChatModel)
        asker, notes = ask_chat(self.model, self.haystack, self.num_frames)
        self.notes += notes
        return asker

    def _ask_server(self, model: ServerModel) -> ServerAsker:
        pictures = Pictures.of(
            model,
            self.haystack,
            self.needles,
            self.num_frames,
            on_damage=self.notes.append,
            on_progress=lambda done, total: self.report("encode", done, total),
        )
        return ServerAsker(model, pictures, self.needles)

    @cached_property
    def material(self) -> Material:
        """All frames, encoded."""
        assert isinstance(self.model, EncodingModel)
        frames = encode_haystack(
            self.model,
            self.haystack,
            self.num_frames,
            directory=self.cache,
            on_progress=lambda done, total: self.report("encode", done, total),
        )
        own = needle_directory(self.cache, self.needles)
        needles = encode_needles(self.model, self.needles, directory=own)
        self.notes += frames.notes()
        return Material.of(self.haystack, self.needles, self.num_frames, frames, needles)

    @cached_property
    def ring(self) -> Ring | None:
        """The processes that run one pass together."""
        if self.mesh.context_group is None:
            return None
        assert isinstance(self.model, DecoderModel)
        return make_ring(self.mesh.context_group, self.model.decoder.lm_head.weight)

    def record(self) -> dict[str, Any]:
        """How the forward pass is run, for the manifest; runs the self-check."""
        record = dict(self.asker.record())
        if isinstance(self.model, DecoderModel):
            sequences = check_sequences(self.model, self.material, self.needles)
            store = self.material.store
            place = record.get("keys_and_values_on")
            differences = check_forward(
                self.model, sequences, store, kernel=self.kernel, kv_location=place, ring=self.ring
            )
            require_agreement(differences, self.model.name)
            record["check"] = {d.way: dict(d.record()) for d in differences}
        if isinstance(self.asker, ServerAsker):
            found = self.asker.check()
            record = {**self.asker.record(), "check": dict(found.record())}
            if found.growth is None:
                self.notes.append(NO_USAGE)
        return {**record, "processes": self.mesh.size}


def _sample(question: Question, outcome: Outcome) -> Sample:
    """One line of the results."""
    cell, needle = question.cell, question.needle
    asked = Sample(
        task=TASK_NAME,
        num_frames=cell.num_frames,
        depth=cell.depth,
        needle_index=cell.needle_index,
        needle_id=needle.needle_id,
        question=needle.question,
        answer=needle.answer,
    )
    if isinstance(outcome, str):
        return replace(asked, error=outcome)
    return replace(asked, **vars(outcome))


def _is_done(folder: RunFolder, question: Question) -> bool:
    """Whether there is a score; what ended in an error is tried again."""
    cell, needle_id = question.cell, question.needle.needle_id
    sample = folder.samples.get((TASK_NAME, cell.num_frames, cell.depth, needle_id, None))
    return sample is not None and sample.error is None
