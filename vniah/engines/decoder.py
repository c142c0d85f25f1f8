"""The engine of models with a decoder: the passes of one tree read all samples."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from vniah.embeddings.encode import EncodedFrames
from vniah.embeddings.oddness import oddness_record
from vniah.engines.agreement import Agreement
from vniah.engines.base import (
    ARGMAX,
    GENERATED,
    CheckReport,
    EngineOptions,
    OnFramesReady,
    Outcome,
    decode_by_passes,
    find_refusal,
    put_into_words,
    read_candidate,
    repeat_pictures,
    shown_in_tests,
    shows_text,
    trial_directory,
)
from vniah.engines.equivalence import (
    NUM_TRIAL_FRAMES,
    check_forward,
    examine_forward,
    require_agreement,
    shortened_sequences,
    trial_sequences,
)
from vniah.engines.inputs import (
    DecoderInputs,
    SequenceCheck,
    compose_candidates,
    decoder_logits,
    positions_of,
    require_encoder,
    size_of_frame,
)
from vniah.engines.planning import Batch, Plan, SampleSequences, can_continue, make_plan
from vniah.engines.watching import NeedleWatch
from vniah.errors import InputError, ModelError, first_line
from vniah.forward.attention import Kernel
from vniah.forward.greedy import GreedyDecoder
from vniah.forward.kernels import find_kernel
from vniah.forward.kinds.choosing import heads_of, require_can_ring
from vniah.forward.kv_cache import KVLocation
from vniah.forward.prefix_tree import Branch, kept_whole
from vniah.forward.ring import Ring, find_zigzag
from vniah.forward.runner import BranchRunner, Pass, SuffixLogits
from vniah.haystacks.frames import AnyHaystack
from vniah.needles import NeedleSet
from vniah.options import Decoding
from vniah.protocol import DecoderModel, FrameSpan, LanguageModel, TokenSequence
from vniah.scoring import GeneratedText
from vniah.tasks.base import Sample


@dataclass(frozen=True)
class _Latest:
    """The root that was run last.

    Attributes:
        root: its number.
        is_decoded: whether answers were generated after its own suffixes, if any are generated.
        result: what it gave.
    """

    root: int
    is_decoded: bool
    result: Pass


class DecoderEngine:
    """Reads all samples by the passes of one tree; a batch is a branch of it.

    A sample is one sequence for each of its candidate answers. These sequences share the whole
    prompt, so they are suffixes of one pass.

    Args:
        model: a model with a decoder, which reads frames or text.
        options: how samples are run.
        decoding: has the model also generate an answer to every sample.
        kv_location: where keys and values are stored; by default the fastest location with room.
        on_note: called with a line of text when memory runs out and the run is changed; by default
            the logger ``vniah`` warns with it.
    """

    def __init__(
        self,
        model: DecoderModel | LanguageModel,
        options: EngineOptions,
        decoding: Decoding | None = None,
        *,
        kv_location: KVLocation | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self._model = model
        self._options = options
        self.decoding = decoding
        self.criterion = ARGMAX if decoding is None else GENERATED
        self.notes: list[str] = []
        self._frames: EncodedFrames | None = None
        self._needles: NeedleSet | None = None
        self._trial: Sequence[TokenSequence] | None = None
        self._samples: Sequence[Sample] = ()
        self._sequences = SampleSequences()
        self._batches: list[Batch] = []
        self._refused: Mapping[int, str] = {}
        self._description: dict[str, Any] = {}
        self._roots: tuple[Branch, ...] = ()
        self._latest: _Latest | None = None
        self._watch: NeedleWatch | None = None
        self._skips_suffixes = False
        group, like = options.group, model.decoder.lm_head.weight
        if group is not None:
            require_can_ring(model.decoder.model)
        if options.trace_attention and group is not None:
            raise InputError(
                f"--trace-attention cannot be combined with --context-parallel {group.size()}, "
                "where no process sees all keys; remove one of the two options"
            )
        self._ring = None if group is None else make_ring(group, like)
        self._kernel = find_kernel(
            options.attention, like.device, like.dtype, heads_of(model.decoder.model)
        )
        self._kv_location = kv_location
        self._on_note = on_note or logging.getLogger("vniah").warning

    def prepare(
        self,
        haystack: AnyHaystack | None,
        needles: NeedleSet,
        num_frames: int,
        *,
        shown: Iterable[FrameSpan] = (),
        cache: Path | None = None,
        on_progress: OnFramesReady | None = None,
    ) -> None:
        """As `vniah.engines.base.Engine.prepare`: encodes what is not encoded yet.

        Where no frame is shown, or nothing but planned, the haystack may be None.
        """
        self._needles = needles
        if haystack is None or not num_frames:
            self._frames = EncodedFrames.none()
            return
        self._frames = EncodedFrames.of(
            require_encoder(self._model),
            haystack,
            needles,
            num_frames,
            shown=shown,
            cache=cache,
            on_progress=on_progress,
        )
        self.notes += self._frames.notes

    def plan(self, samples: Sequence[Sample], is_pending: Sequence[bool]) -> int:
        """As `vniah.engines.base.Engine.plan`; the most expensive roots come first.

        The tree is that of all samples, whether or not they are still to be run. So a resumed sweep
        computes the remaining samples exactly as one that was never stopped.
        """
        all_sequences = SampleSequences()
        self._samples, self._sequences, self._latest = samples, all_sequences, None
        if self._options.trace_attention:
            self._watch = NeedleWatch(self._model, samples, all_sequences)
        vars(self).pop("_runner", None)  # which reads the sequences of an earlier plan
        for sample in samples:
            all_sequences.add(compose_candidates(self._model, sample))
        plan = make_plan(
            self._model,
            all_sequences.sequences,
            share=self._options.share == "tree",
            groups=all_sequences.groups,
            num_last=None if self._watch is None else self._watch.num_rows,
        )
        refused = {all_sequences.owners[index]: why for index, why in plan.refused.items()}
        self._refused = {number: why for number, why in refused.items() if is_pending[number]}
        all_sequences.is_pending = [is_pending[n] and n not in refused for n in range(len(samples))]
        branches = plan.branches
        if self._continues_prompts():
            branches = kept_whole(branches)
        self._roots = tuple(sorted(branches, key=self._cost, reverse=True))
        self._batches = all_sequences.batches(self._roots, self._cost)
        self._description = self._describe_plan(plan)
        return len(self._batches) + bool(self._refused)

    @property
    def description(self) -> Mapping[str, Any]:
        """How the planned samples are run: `describe` without what it measures of needles."""
        return self._description

    @property
    def kernel(self) -> Kernel:
        """What computes the attention."""
        return self._kernel

    @property
    def frames(self) -> EncodedFrames:
        """The encoded frames and pictures; `prepare` comes first."""
        assert self._frames is not None, "prepare comes first"
        return self._frames

    @property
    def planned_flops(self) -> int | None:
        """As `vniah.engines.base.Engine.planned_flops`."""
        found = self._description.get("flops")
        return None if found is None else int(found)

    def _describe_plan(self, plan: Plan) -> dict[str, Any]:
        """How the samples are run, for the manifest."""
        shape = self._runner.shape
        description: dict[str, Any] = {
            "share": "none" if plan.note else self._options.share,
            **({"not_shared_because": plan.note} if plan.note else {}),
            "context_parallel": 1 if self._ring is None else self._ring.size,
            "passes": sum(1 for root in self._roots for _ in root.passes()),
            "flops": shape.flops_of(plan.branches).total,
            "flops_not_shared": shape.flops_of(plan.alone).total,
        }
        if self._roots:
            chunk_size, location = self._runner.choose(self._roots)
            description |= {"tile_size": chunk_size, "attention": self._runner.kernel.name}
            if any(root.keeps_any for root in self._roots):
                description |= {"keys_and_values_on": location}
            if shape.host_weight_bytes:
                description |= {"layer_weights_on": "host"}
            if shape.num_weight_ranks > 1:
                description |= {"layer_weights_shared_by": shape.num_weight_ranks}
        return description

    def run(self, batch: int) -> Iterator[tuple[Sample, Outcome]]:
        """As `vniah.engines.base.Engine.run`."""
        if batch == len(self._batches):
            for number, reason in self._refused.items():
                yield self._samples[number], reason
            return
        for number, rows in self._sequences.gather(self._run(self._batches[batch])):
            yield self._samples[number], self._read(number, rows)

    def describe(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.describe`."""
        assert self._frames is not None, "prepare comes first"
        return {**self.description, **oddness_record(self._frames, shown_in_tests(self._samples))}

    def check(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.check`: compares with the model's own forward pass."""
        found = self.compare()
        require_agreement(found, self._model.name)
        return {agreement.way: dict(agreement.record()) for agreement in found}

    def compare(self) -> Sequence[Agreement]:
        """Each way in which sequences are run, compared with the model's own forward pass.

        Raises:
            ModelError: the decoder cannot be run at all.
        """
        return check_forward(
            self._model,
            self.trial_sequences(),
            self.frames.store,
            kernel=self._kernel,
            kv_location=self._description.get("keys_and_values_on"),
            ring=self._ring,
        )

    def trial_sequences(self) -> Sequence[TokenSequence]:
        """Short sequences, on which the forward pass is tried; called after `plan`."""
        if self._trial is not None:
            return self._trial
        assert self._frames is not None and self._needles is not None, "prepare comes first"
        if len(self._needles):
            return trial_sequences(self._model, self._needles, self._frames.num_frames)
        return shortened_sequences(self._model, self._samples)

    @property
    def longest_sequence(self) -> TokenSequence | None:
        """The longest sequence that is planned; None where nothing is."""
        size = size_of_frame(self._model)
        return max(self._sequences.sequences, key=lambda one: one.num_tokens(size), default=None)

    def trial_logits(self) -> torch.Tensor:
        """The answer logits of the first of them, ``[num_rows, vocabulary]``."""
        return decoder_logits(self._model, self.trial_sequences()[0], self.frames.store)

    def take_frames(self, frames: EncodedFrames, trial: Sequence[TokenSequence]) -> None:
        """Takes what is encoded already, and what to try the forward pass on, in place of
        `prepare`.
        """
        self._frames, self._trial = frames, trial

    def release(self) -> None:
        """Frees the keys and values of the pass that was run last."""
        self._latest = None

    def why_not_without_frames(self, sample: Sample) -> str | None:
        """As `vniah.engines.base.Engine.why_not_without_frames`: the prompt is composed."""

        def compose() -> None:
            for sequence in compose_candidates(self._model, sample):
                SequenceCheck(self._model).require_readable(sequence)
                positions_of(self._model, sequence)

        return find_refusal(self._model, compose)

    def examine(
        self, needles: NeedleSet, *, cache: Path | None, on_prepared: Callable[[], None]
    ) -> CheckReport:
        """As `vniah.engines.base.Engine.examine`: compares with the model's own forward pass."""
        own = trial_directory(cache)
        if shows_text(needles):
            self._needles, self._frames = needles, EncodedFrames.none()
        else:
            self.prepare(repeat_pictures(needles), needles, NUM_TRIAL_FRAMES, cache=own)
        on_prepared()
        assert self._frames is not None
        sequences = trial_sequences(self._model, needles, NUM_TRIAL_FRAMES)
        return examine_forward(
            self._model, sequences, self._frames.store, kernel=self._kernel, ring=self._ring
        )

    @cached_property
    def _runner(self) -> BranchRunner:
        return self._make_runner(self._sequences.sequences, self._ring, self._watch)

    def _make_runner(
        self,
        sequences: Sequence[TokenSequence],
        ring: Ring | None,
        watch: NeedleWatch | None = None,
    ) -> BranchRunner:
        assert self._frames is not None, "prepare comes first"
        decoder = self._model.decoder
        inputs = DecoderInputs(self._model, sequences, self._frames.store)
        greedy = None
        if self.decoding is not None:
            greedy = GreedyDecoder(
                decoder,
                inputs,
                is_wanted=lambda k: self._sequences.is_read(k) and not self._skips_suffixes,
                decoding=self.decoding,
                kernel=self._kernel,
                ring=ring,
            )
        return BranchRunner(
            decoder,
            inputs,
            kernel=self._kernel,
            ring=ring,
            kv_location=self._kv_location,
            scratch_dir=self._options.scratch_dir,
            on_note=self._on_note,
            greedy=greedy,
            watched=None if watch is None else watch.watched,
        )

    def _continues_prompts(self) -> bool:
        """Whether generated tokens follow the stored prompts, instead of a whole pass for each."""
        if self.decoding is None:
            return False
        if all(
            can_continue(
                self._model,
                self._sequences.first(number),
                self.decoding.limit(self._sequences.num_needed(number)),
            )
            for number, is_pending in enumerate(self._sequences.is_pending)
            if is_pending
        ):
            return True
        if self._ring is not None:
            raise InputError(
                f"--scorer generate cannot be combined with --context-parallel {self._ring.size} "
                f"for {self._model.name}: tokens cannot follow its stored prompts, so each token "
                "takes a whole pass; remove one of the two options"
            )
        return False

    def _run(self, batch: Batch) -> Iterator[SuffixLogits]:
        """Runs a batch; gives the logits of its suffixes."""
        for number in batch.roots:
            root, reads_root = self._roots[number], batch.branch is None
            latest = self._latest
            if latest is None or latest.root != number or reads_root > latest.is_decoded:
                self._latest = latest = None  # frees its memory before the next root is run
                self._skips_suffixes = not reads_root
                result = self._runner.run(root)
                self._skips_suffixes = False
                is_decoded = reads_root or self.decoding is None
                self._latest = latest = _Latest(number, is_decoded, result)
            if batch.branch is None:
                yield from latest.result.read
            else:
                yield from self._runner.run_child(root, latest.result, batch.branch)

    def _read(self, number: int, rows: Mapping[int, SuffixLogits]) -> Outcome:
        """The outcome of a sample; ``rows`` holds the logits of each of its sequences."""
        for found in rows.values():
            if found.logits is None:
                return found.error or "no logits"
        watch = self._watch
        try:
            generated, seconds = self._generate(number, rows)
            return tuple(
                read_candidate(
                    self._model,
                    self._sequences.sequences[index],
                    cast("torch.Tensor", found.logits),
                    seconds=found.seconds + seconds / len(rows),
                    generated=generated,
                    attention=None if watch is None else watch.attention(index, found),
                )
                for index, found in sorted(rows.items())
            )
        except ModelError as error:
            return first_line(error)

    def _generate(
        self, number: int, rows: Mapping[int, SuffixLogits]
    ) -> tuple[GeneratedText | None, float]:
        """What the model wrote for a sample, and the seconds that this took besides its passes."""
        if self.decoding is None:
            return None, 0.0
        tokens, started = rows[self._sequences.members[number][0]].generated, time.perf_counter()
        if isinstance(tokens, str):
            raise ModelError(tokens)
        seconds = 0.0
        if tokens is None:
            tokens = decode_by_passes(
                self._read_alone,
                self._sequences.first(number),
                self.decoding,
                num_needed=self._sequences.num_needed(number),
            )
            seconds = time.perf_counter() - started
        return put_into_words(self._model, tokens, self.decoding), seconds

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


def make_ring(group: Any, like: torch.Tensor) -> Ring:
    """The ring over a process group; it uses ring_flash_attn where its kernels run.

    Args:
        group: a process group of torch.distributed.
        like: has the dtype and the device of the tensors that are passed around the ring.
    """
    is_half = like.dtype in (torch.float16, torch.bfloat16)
    return Ring(group, zigzag=find_zigzag() if like.is_cuda and is_half else None)
