"""Who answers the questions of a sweep, in units that processes can share out among them.

A model with a decoder answers by a tree of passes over all questions; any other model one question
after the other.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from vniah.embeddings import EmbeddingCache, FrameStore
from vniah.errors import InputError, ModelError, first_line
from vniah.forward.attention import attending_by
from vniah.forward.branches import BranchRunner, Pass, Reading, is_out_of_memory
from vniah.forward.costs import DecoderShape
from vniah.forward.kernels import find_kernel
from vniah.forward.keys import Place
from vniah.forward.prefix_tree import Branch
from vniah.forward.ring import Ring, find_zigzag
from vniah.haystacks import Haystack
from vniah.models.protocol import (
    AnyModel,
    ChatModel,
    DecoderModel,
    EncodingModel,
    FrameSegment,
    TokenSequence,
)
from vniah.needles import NeedleSet
from vniah.passes import Embedder, make_plan, positions_of, segment_size
from vniah.scoring import Score, score_answer, score_chat, score_sequence
from vniah.tasks.visual import Question

Share = Literal["tree", "none"]
# Frames of a haystack that is made of a needle set's own pictures, at least.
_SHORTEST = 16

Outcome = Score | str
"""A score, or why there is none."""


class Asker(Protocol):
    """Answers questions, one unit of work at a time."""

    def prepare(self, questions: Sequence[Question], is_wanted: Sequence[bool]) -> int:
        """Takes in all questions of the sweep, and which are still to be asked; once.

        Returns:
            The number of units.
        """

    def ask(self, unit: int) -> Iterator[tuple[Question, Outcome]]:
        """The answers of one unit."""

    def record(self) -> Mapping[str, Any]:
        """How it goes about it, for the manifest; after `prepare`."""


@dataclass(frozen=True)
class Material:
    """What the questions of a sweep are made of: cached frames, by name.

    Attributes:
        store: where all frames lie.
        frames: the haystack's.
        needles: one frame for each needle, by its id.
    """

    store: FrameStore
    frames: Sequence[FrameSegment]
    needles: Mapping[str, FrameSegment]

    @classmethod
    def of(
        cls,
        haystack: Haystack,
        needles: NeedleSet,
        num_frames: int,
        haystack_cache: EmbeddingCache,
        needle_cache: EmbeddingCache,
    ) -> "Material":
        """The first ``num_frames`` frames of a haystack, and a needle set, from their caches."""
        source = f"haystack/{haystack.sha256[:12]}"
        of_needles = {
            n.needle_id: FrameSegment(f"needles/{needles.name}/{n.needle_id}", 0) for n in needles
        }
        places = {source: (haystack_cache, 0)} | {
            segment.source: (needle_cache, index)
            for index, segment in enumerate(of_needles.values())
        }
        frames = [FrameSegment(source, index) for index in range(num_frames)]
        return cls(FrameStore(places), frames, of_needles)

    @classmethod
    def of_needles(cls, needles: NeedleSet, cache: EmbeddingCache) -> "Material":
        """A needle set's own pictures, again and again, as a haystack."""
        source = f"needles/{needles.name}"
        frames = [FrameSegment(source, index) for index in range(len(needles))]
        of_needles = {n.needle_id: frame for n, frame in zip(needles, frames, strict=True)}
        repeats = -(-_SHORTEST // len(needles))
        return cls(FrameStore({source: (cache, 0)}), frames * repeats, of_needles)

    def compose(self, model: EncodingModel, question: Question) -> TokenSequence:
        """What the model reads for a question."""
        needle = question.needle
        shown = question.insert(self.frames, self.needles[needle.needle_id])
        sequence: object = model.compose(shown, needle.question, needle.answer)
        if not isinstance(sequence, TokenSequence):
            raise ModelError(
                f"compose of {model.name} gave {type(sequence).__name__}, not a TokenSequence"
            )
        return sequence


class SingleAsker:
    """Asks one question after the other; each is a unit.

    Args:
        ask: answers one.
    """

    def __init__(self, ask: Callable[[Question], Score]) -> None:
        self._ask = ask
        self._questions: Sequence[Question] = ()

    def prepare(self, questions: Sequence[Question], is_wanted: Sequence[bool]) -> int:
        """As `Asker.prepare`."""
        self._questions = list(compress(questions, is_wanted))
        return len(self._questions)

    def ask(self, unit: int) -> Iterator[tuple[Question, Outcome]]:
        """As `Asker.ask`."""
        question = self._questions[unit]
        try:
            yield question, self._ask(question)
        except ModelError as error:
            yield question, first_line(error)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            yield question, f"out of memory: {first_line(error)}"

    def record(self) -> Mapping[str, Any]:
        """As `Asker.record`."""
        return {"share": "none"}


def ask_model(model: EncodingModel, material: Material) -> SingleAsker:
    """Has a model of the first level run its own forward pass for every question."""
    return SingleAsker(
        lambda question: score_sequence(model, material.compose(model, question), material.store)
    )


def ask_chat(
    model: ChatModel, haystack: Haystack, num_frames: int
) -> tuple[SingleAsker, Sequence[str]]:
    """Shows pictures to a chat model; all frames are read into memory once.

    Returns:
        The asker, and remarks on the haystack.
    """
    notes: list[str] = []
    images = [f.image for f in haystack.frames(stop=num_frames, on_damage=notes.append)]

    def ask(question: Question) -> Score:
        needle, index = question.needle, question.cell.needle_index
        picture = np.array(needle.image)
        shown = [*images[:index], picture, *images[index : question.cell.num_frames]]
        return score_chat(model, shown, needle.question, needle.answer)

    return SingleAsker(ask), notes


@dataclass(frozen=True)
class _Unit:
    """A root of the tree, or one of the branches that go on from it."""

    root: int
    branch: int | None


class TreeAsker:
    """Answers all questions by the passes of one tree; a unit is a branch.

    Args:
        model: whose decoder runs.
        material: what the questions are made of.
        share: whether common prefixes are computed once.
        ring: the processes that run every pass together.
        place: where to keep keys and values; by default where they fit.
        scratch_dir: for those that lie on disk.
        on_note: called with a line when memory runs out and something is changed; by default
            that is a warning of the logger ``vniah``.
    """

    def __init__(
        self,
        model: DecoderModel,
        material: Material,
        *,
        share: Share = "tree",
        ring: Ring | None = None,
        place: Place | None = None,
        scratch_dir: Path | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        if share not in ("tree", "none"):
            raise InputError(f"share must be tree or none, got {share!r}")
        self._model = model
        self._material = material
        self._share = share
        self._questions: Sequence[Question] = ()
        self._is_wanted: Sequence[bool] = ()
        self._sequences: list[TokenSequence] = []
        self._units: list[_Unit] = []
        self._refused: Mapping[int, str] = {}
        self._record: dict[str, Any] = {}
        self._roots: tuple[Branch, ...] = ()
        self._latest: tuple[int, Pass] | None = None
        self._num_ranks = 1 if ring is None else ring.size
        embedder = Embedder(model, material.store)
        self._runner = BranchRunner(
            model.decoder,
            embed=embedder,
            num_deep=embedder.num_deep,
            add_deep=embedder.add_deep,
            size=segment_size(model),
            positions=lambda index: positions_of(model, self._sequences[index]),
            num_rows=lambda index: len(self._sequences[index].answer_ids),
            ring=ring,
            place=place,
            scratch_dir=scratch_dir,
            on_note=on_note or logging.getLogger("vniah").warning,
        )

    def prepare(self, questions: Sequence[Question], is_wanted: Sequence[bool]) -> int:
        """As `Asker.prepare`; units are in the order of their cost, the longest first.

        The tree is that of all questions, whatever is still wanted, so that a sweep that goes on
        computes what is left exactly as one that was never stopped.
        """
        self._questions, self._is_wanted = questions, is_wanted
        self._sequences = [self._material.compose(self._model, q) for q in questions]
        plan = make_plan(self._model, self._sequences, share=self._share == "tree")
        self._refused = {i: reason for i, reason in plan.refused.items() if is_wanted[i]}
        self._roots = tuple(sorted(plan.branches, key=self._cost, reverse=True))
        for number, root in enumerate(self._roots):
            if any(is_wanted[i] for leaf in root.leaves for i in leaf.sequences):
                self._units.append(_Unit(number, None))
            branches = [
                branch
                for branch, behind in enumerate(root.branches)
                if any(is_wanted[i] for i in behind.sequences)
            ]
            branches.sort(key=lambda k, root=root: self._cost(root.branches[k]), reverse=True)  # type: ignore[misc]
            self._units += [_Unit(number, branch) for branch in branches]
        self._record = {
            "share": "none" if plan.note else self._share,
            **({"not_shared_because": plan.note} if plan.note else {}),
            "context_parallel": self._num_ranks,
            "passes": sum(1 for root in self._roots for _ in root.passes()),
            "flops": self._runner.shape.flops_of(plan.branches).total,
            "flops_not_shared": self._runner.shape.flops_of(plan.alone).total,
        }
        if self._roots:
            tile_size, place = self._runner.choose(self._roots)
            self._record |= {"tile_size": tile_size, "attention": self._runner.kernel_name()}
            if any(root.branches for root in self._roots):
                self._record |= {"keys_and_values_on": place}
            if self._runner.shape.host_weight_bytes:
                self._record |= {"layer_weights_on": "host"}
        return len(self._units) + bool(self._refused)

    def ask(self, unit: int) -> Iterator[tuple[Question, Outcome]]:
        """As `Asker.ask`."""
        if unit == len(self._units):
            for index, reason in self._refused.items():
                yield self._questions[index], reason
            return
        work = self._units[unit]
        root = self._roots[work.root]
        if self._latest is None or self._latest[0] != work.root:
            self._latest = None  # before the next one takes its memory
            self._latest = work.root, self._runner.run(root)
        latest = self._latest[1]
        readings: Iterator[Reading] = iter(latest.readings)
        if work.branch is not None:
            readings = self._runner.run_behind(root, latest, work.branch)
        for reading in readings:
            for index in reading.sequences:
                if self._is_wanted[index]:
                    yield self._questions[index], self._score(index, reading)

    def record(self) -> Mapping[str, Any]:
        """As `Asker.record`."""
        return self._record

    def _score(self, index: int, reading: Reading) -> Outcome:
        if reading.logits is None:
            return reading.error or "no logits"
        sequence = self._sequences[index]
        try:
            return score_answer(self._model, sequence, reading.logits, seconds=reading.seconds)
        except ModelError as error:
            return first_line(error)

    def _cost(self, branch: Branch) -> int:
        return self._runner.shape.flops_of([branch]).total


@contextmanager
def attention_by(name: str, model: AnyModel) -> Iterator[None]:
    """Has the kernel of that name compute the attention of all passes inside of the block.

    Args:
        name: one of `vniah.forward.names.ATTENTION_NAMES`.
        model: whose decoder runs.

    Raises:
        InputError: there is no such kernel, it does not run on the model's device, or the model
            runs its own forward pass.
    """
    if not isinstance(model, DecoderModel):
        if name != "auto":
            raise InputError(
                f"attention {name} needs a model with a decoder; {model.name} runs its own forward "
                "pass"
            )
        yield
        return
    weight, shape = model.decoder.lm_head.weight, DecoderShape.of(model.decoder)
    with attending_by(find_kernel(name, weight.device, weight.dtype, **shape.heads)):
        yield


def make_ring(group: Any, like: torch.Tensor) -> Ring:
    """The ring over a process group, by ring_flash_attn where its kernels run.

    Args:
        group: a process group of torch.distributed.
        like: has the dtype and device of what goes round.
    """
    is_half = like.dtype in (torch.float16, torch.bfloat16)
    return Ring(group, zigzag=find_zigzag() if like.is_cuda and is_half else None)
