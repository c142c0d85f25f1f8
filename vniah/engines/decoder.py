"""The engine of models with a decoder: all samples by the passes of one tree."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vniah.engines.base import Outcome, decode_by_passes
from vniah.engines.inputs import DecoderInputs, Material
from vniah.engines.planning import AskedSequences, Unit, can_go_on, make_plan
from vniah.errors import InputError, ModelError, first_line
from vniah.forward.attention import Kernel
from vniah.forward.decoders import heads_of
from vniah.forward.greedy import GreedyDecoder
from vniah.forward.kernels import find_kernel
from vniah.forward.kv_cache import KVLocation
from vniah.forward.prefix_tree import Branch, kept_whole
from vniah.forward.ring import Ring, find_zigzag
from vniah.forward.runner import BranchRunner, Pass, SuffixLogits
from vniah.options import Decoding, Share
from vniah.protocol import AnyModel, DecoderModel, TokenSequence
from vniah.scoring import Score, best_of, judge_tokens, score_answer
from vniah.tasks.vniah import Question


@dataclass(frozen=True)
class _Latest:
    """The root that was run last, and whether its own leaves were decoded, if any are."""

    root: int
    is_decoded: bool
    result: Pass


class TreeAsker:
    """Answers all questions by the passes of one tree; a unit is a branch.

    A question is a sequence for each of its accepted answers. They have the whole prompt in common,
    and so are leaves of one pass.

    Args:
        model: whose decoder runs.
        material: what the questions are made of.
        share: whether common prefixes are computed once.
        decoding: has the model also generate an answer to every question.
        kernel: computes the attention; by default the fastest that is right on the device.
        ring: the processes that run every pass together.
        kv_location: where to keep keys and values; by default where they fit.
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
        decoding: Decoding | None = None,
        kernel: Kernel | None = None,
        ring: Ring | None = None,
        kv_location: KVLocation | None = None,
        scratch_dir: Path | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        if share not in ("tree", "none"):
            raise InputError(f"share must be tree or none, got {share!r}")
        self._model = model
        self._material = material
        self._share = share
        self._decoding = decoding
        self._questions: Sequence[Question] = ()
        self._asked = AskedSequences()
        self._units: list[Unit] = []
        self._refused: Mapping[int, str] = {}
        self._record: dict[str, Any] = {}
        self._roots: tuple[Branch, ...] = ()
        self._latest: _Latest | None = None
        self._skips_leaves = False
        self._num_ranks = 1 if ring is None else ring.size
        self._kernel = kernel
        self._ring = ring
        self._kv_location = kv_location
        self._scratch_dir = scratch_dir
        self._on_note = on_note or logging.getLogger("vniah").warning
        self._runner = self._make_runner(self._asked.sequences, ring)

    def prepare(self, questions: Sequence[Question], is_wanted: Sequence[bool]) -> int:
        """As `Asker.prepare`; units are in the order of their cost, the longest first.

        The tree is that of all questions, whatever is still wanted, so that a sweep that goes on
        computes what is left exactly as one that was never stopped.
        """
        self._questions, asked = questions, self._asked
        for question in questions:
            asked.add(self._material.compose_all(self._model, question))
        is_tree = self._share == "tree"
        plan = make_plan(self._model, asked.sequences, share=is_tree, groups=asked.groups)
        refused = {asked.owners[index]: reason for index, reason in plan.refused.items()}
        self._refused = {number: why for number, why in refused.items() if is_wanted[number]}
        asked.is_asked = [is_wanted[n] and n not in refused for n in range(len(questions))]
        branches = plan.branches
        if self._goes_on_from_prompts():
            branches = kept_whole(branches)
        self._roots = tuple(sorted(branches, key=self._cost, reverse=True))
        self._units = asked.units(self._roots, self._cost)
        self._record = {
            "share": "none" if plan.note else self._share,
            **({"not_shared_because": plan.note} if plan.note else {}),
            "context_parallel": self._num_ranks,
            "passes": sum(1 for root in self._roots for _ in root.passes()),
            "flops": self._runner.shape.flops_of(plan.branches).total,
            "flops_not_shared": self._runner.shape.flops_of(plan.alone).total,
        }
        if self._roots:
            chunk_size, location = self._runner.choose(self._roots)
            self._record |= {"tile_size": chunk_size, "attention": self._runner.kernel.name}
            if any(root.keeps_any for root in self._roots):
                self._record |= {"keys_and_values_on": location}
            if self._runner.shape.host_weight_bytes:
                self._record |= {"layer_weights_on": "host"}
        return len(self._units) + bool(self._refused)

    def ask(self, unit: int) -> Iterator[tuple[Question, Outcome]]:
        """As `Asker.ask`."""
        if unit == len(self._units):
            for number, reason in self._refused.items():
                yield self._questions[number], reason
            return
        for number, readings in self._asked.gather(self._read(self._units[unit])):
            yield self._questions[number], self._judge(number, readings)

    def record(self) -> Mapping[str, Any]:
        """As `Asker.record`."""
        return self._record

    def _make_runner(self, sequences: Sequence[TokenSequence], ring: Ring | None) -> BranchRunner:
        decoder = self._model.decoder
        inputs = DecoderInputs(self._model, sequences, self._material.store)
        greedy = None
        if self._decoding is not None:
            greedy = GreedyDecoder(
                decoder,
                inputs,
                is_wanted=lambda k: self._asked.is_wanted(k) and not self._skips_leaves,
                decoding=self._decoding,
                kernel=self._kernel,
                ring=ring,
            )
        return BranchRunner(
            decoder,
            inputs,
            kernel=self._kernel,
            ring=ring,
            kv_location=self._kv_location,
            scratch_dir=self._scratch_dir,
            on_note=self._on_note,
            greedy=greedy,
        )

    def _goes_on_from_prompts(self) -> bool:
        """Whether answers are generated behind what passes keep, and not by passes of their own."""
        if self._decoding is None:
            return False
        asked = [number for number, is_asked in enumerate(self._asked.is_asked) if is_asked]
        limits = {number: self._decoding.limit(self._asked.num_needed(number)) for number in asked}
        if all(can_go_on(self._model, self._asked.first(n), limits[n]) for n in asked):
            return True
        if self._ring is not None:
            raise InputError(
                f"--scorer generate cannot be combined with --context-parallel {self._num_ranks} "
                f"for {self._model.name}: nothing can go on from its prompts, so that each token "
                "takes a whole pass"
            )
        return False

    def _read(self, work: Unit) -> Iterator[SuffixLogits]:
        """What the leaves of a unit gave."""
        for number in work.roots:
            root, reads_root = self._roots[number], work.branch is None
            latest = self._latest
            if latest is None or latest.root != number or reads_root > latest.is_decoded:
                self._latest = latest = None  # before the next one takes its memory
                self._skips_leaves = not reads_root
                result = self._runner.run(root)
                self._skips_leaves = False
                is_decoded = reads_root or self._decoding is None
                self._latest = latest = _Latest(number, is_decoded, result)
            if work.branch is None:
                yield from latest.result.read
            else:
                yield from self._runner.run_behind(root, latest.result, work.branch)

    def _judge(self, number: int, readings: Mapping[int, SuffixLogits]) -> Outcome:
        """The outcome of a question from what was read for each of its answers."""
        needle, scores = self._questions[number].needle, []
        for reading in readings.values():
            if reading.logits is None:
                return reading.error or "no logits"
        try:
            for index, reading in sorted(readings.items()):
                assert reading.logits is not None
                sequence, seconds = self._asked.sequences[index], reading.seconds
                scores.append(score_answer(self._model, sequence, reading.logits, seconds=seconds))
            score = best_of(needle.answers, scores)
            if self._decoding is None:
                return score
            return self._judge_generated(number, score, readings[self._asked.members[number][0]])
        except ModelError as error:
            return first_line(error)

    def _judge_generated(self, number: int, score: Score, reading: SuffixLogits) -> Outcome:
        """The score by what was generated behind the prompt, or is now."""
        assert self._decoding is not None
        tokens, started = reading.generated, time.perf_counter()
        accepted_ids = self._asked.accepted_ids(number)
        if isinstance(tokens, str):
            return tokens
        if tokens is None:
            tokens = decode_by_passes(
                self._read_alone,
                self._asked.first(number),
                self._decoding,
                num_needed=self._asked.num_needed(number),
            )
            score = replace(score, seconds=score.seconds + time.perf_counter() - started)
        return judge_tokens(
            self._model,
            self._questions[number].needle,
            score,
            tokens,
            accepted_ids=accepted_ids,
            decoding=self._decoding,
        )

    def _read_alone(self, sequence: TokenSequence) -> torch.Tensor:
        """The answer logits of a sequence by a pass of its own."""
        plan = make_plan(self._model, [sequence], share=False)
        for reason in plan.refused.values():
            raise ModelError(reason)
        runner = self._make_runner([sequence], None)
        (reading,) = runner.run_all(plan.branches[0])
        if reading.logits is None:
            raise ModelError(reading.error or "no logits")
        return reading.logits

    def _cost(self, branch: Branch) -> int:
        return self._runner.shape.flops_of([branch]).total


def find_kernel_for(model: AnyModel, name: str) -> Kernel | None:
    """The attention kernel of a name; None for a model that runs its own forward pass.

    Args:
        model: whose decoder runs.
        name: one of `vniah.options.ATTENTION_NAMES`.

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
        return None
    weight = model.decoder.lm_head.weight
    return find_kernel(name, weight.device, weight.dtype, heads_of(model.decoder.model))


def make_ring(group: Any, like: torch.Tensor) -> Ring:
    """The ring over a process group, by ring_flash_attn where its kernels run.

    Args:
        group: a process group of torch.distributed.
        like: has the dtype and device of what goes round.
    """
    is_half = like.dtype in (torch.float16, torch.bfloat16)
    return Ring(group, zigzag=find_zigzag() if like.is_cuda and is_half else None)
