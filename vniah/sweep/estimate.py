"""Estimates the memory, the operations and the time of a sweep before anything runs.

No frame is decoded or encoded: the passes of a sweep depend on which frames are equal and on how
many tokens each has, not on what they show. Texts are read and cut into tokens, as for the sweep,
and the pictures of the videos of a question set are counted.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from vniah.embeddings.shown import frames_shown
from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine, require_decoder
from vniah.engines.inputs import (
    compose_candidates,
    require_can_read,
    require_encoder,
    size_of_frame,
)
from vniah.engines.planning import Plan, SampleSequences, make_plan
from vniah.errors import InputError, ModelError
from vniah.forward.costs import DecoderShape, Flops
from vniah.forward.decoders import sliding_window
from vniah.forward.devices import USABLE, free_bytes
from vniah.forward.kernels import find_kernel
from vniah.forward.kv_cache import KVLocation
from vniah.forward.memory import MIN_CHUNK_SIZE, fit_chunk_size, fit_kv_location
from vniah.forward.prefix_tree import Branch, Suffix, cost_of
from vniah.grid import Grid
from vniah.haystacks.library import VideoLibrary
from vniah.haystacks.text import TextHaystack
from vniah.needles import NeedleSet
from vniah.protocol import (
    AnyModel,
    DecoderModel,
    Frames,
    FrameSegment,
    LanguageModel,
    TokenSequence,
)
from vniah.sweep.samples import askable_samples, read_text
from vniah.sweep.throughput import Rates, measure_rates
from vniah.tasks import Sample, Task, load_task
from vniah.tasks.controls import ChosenControls
from vniah.tasks.parsing import Option
from vniah.tasks.placement import haystack_frames

RING_SIZES = (2, 4, 8)

_COUNTED_FRAMES = (32, 64)
_NEEDLE = FrameSegment("needle", 0)
_MOST_FRAMES = 1 << 40


@dataclass(frozen=True)
class Memory:
    """The memory of the largest pass, in bytes, per rank.

    Attributes:
        weights: the decoder's weights on the device; they are loaded already.
        hidden: the rows between two layers, and what belongs to them.
        keys_values: the keys and values of one layer.
        chunk: the largest tensors of a chunk inside a layer.
        chunk_size: number of rows of a chunk.
        store: the keys and values of all layers that are stored for later passes.
        kv_location: where they will be stored.
        device: the device that computes.
        free: the free memory of the device, now.
        host_weights: weights of layers in host memory; 0 where all weights are on the device.
    """

    weights: int
    hidden: int
    keys_values: int
    chunk: int
    chunk_size: int
    store: int
    kv_location: KVLocation
    device: str
    free: int
    host_weights: int = 0

    @property
    def needed(self) -> int:
        """The memory needed on the device, besides the weights."""
        on_device = self.store if self.kv_location == "device" else 0
        return self.hidden + self.keys_values + self.chunk + on_device

    @property
    def fits(self) -> bool:
        """Whether it is at most the share of the free memory that a run may use."""
        return self.needed <= self.free * USABLE


@dataclass(frozen=True)
class Work:
    """The work of a sweep, per rank.

    Attributes:
        num_passes: number of forward passes.
        num_tokens: number of rows that go through the layers, on all ranks.
        flops: number of operations.
        seconds: how long the operations take at the measured rates; or how long it takes to fetch
            the layers' weights for every pass, if that is longer, as both happen at the same time.
    """

    num_passes: int
    num_tokens: int
    flops: Flops
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take.

    Attributes:
        model_name: the model's name.
        dtype: the dtype of its weights and of everything that is computed.
        num_samples: number of samples, controls included.
        max_tokens: number of tokens of the longest sequence.
        tokens_per_frame: the average, with the text that the model puts around each frame; None for
            a task of text.
        num_ranks: number of processes that run a pass together.
        rates: the rates by which the times are computed.
        memory: the memory of the largest pass, with what is stored for later passes.
        shared: the work where common prefixes are computed once.
        alone: the work where every sample runs by itself.
        shown: what is shown of the videos of a question set; None for other haystacks.
        max_frames: by the number of such devices that run a pass together, how many haystack frames
            fit into their free memory; for a task of text how many tokens of a prompt.
        notes: remarks, such as why nothing is shared.
    """

    model_name: str
    dtype: str
    num_samples: int
    max_tokens: int
    tokens_per_frame: float | None
    num_ranks: int
    rates: Rates
    memory: Memory
    shared: Work
    alone: Work
    max_frames: dict[int, int]
    notes: tuple[str, ...]
    shown: "ShownOfVideos | None" = None


@dataclass(frozen=True)
class ShownOfVideos:
    """What the samples of a question set show of its videos.

    Attributes:
        num_pictures: different pictures; each is encoded once.
        num_videos: the videos that they are of.
    """

    num_pictures: int
    num_videos: int

    @classmethod
    def of(cls, samples: Iterable[Sample], videos: VideoLibrary) -> "ShownOfVideos":
        """What some samples show."""
        frames = frames_shown(span for sample in samples for span in sample.shown)
        return cls(len(frames), len(videos.by_video(frames)))


def estimate(
    model: AnyModel,
    needles: NeedleSet,
    grid: Grid,
    *,
    haystack: TextHaystack | VideoLibrary | None = None,
    task: str | Task = "vniah",
    task_options: Mapping[str, Option] | None = None,
    controls: ChosenControls = "default",
    num_ranks: int = 1,
    attention: str = "auto",
    rates: Rates | None = None,
) -> Estimate:
    """What a sweep will take on the model's device, and on others like it.

    Args:
        model: one with a decoder; for texts `vniah.models.outline.open_outline` gives one without
            weights.
        needles: what is inserted, with its questions and answers.
        grid: the cells.
        haystack: the text, for a task of text; the videos of a question set for its task. For
            other tasks it is not needed.
        task: as `vniah.sweep.run.run_sweep`.
        task_options: as `vniah.sweep.run.run_sweep`.
        controls: as `vniah.sweep.run.run_sweep`.
        num_ranks: number of processes that run each pass together.
        attention: as `vniah.sweep.run.run_sweep`.
        rates: those of the device; by default they are measured, in two seconds.

    Raises:
        InputError: the model has no decoder or does not read what the task shows, ``num_ranks`` is
            below 1, or the kernel does not run here.
        TaskError: there is no such task, or its samples cannot be made.
        ModelError: no sequence of the grid can be run.
    """
    decodable = require_decoder(model, "estimate")
    if num_ranks < 1:
        raise InputError(f"--context-parallel must be at least 1, got {num_ranks}")
    engine = choose_engine(decodable, EngineOptions(attention=attention))
    loaded = load_task(task, task_options)
    known = None if haystack is None else read_text(haystack, decodable, grid)
    samples = askable_samples(loaded, grid, needles, known, engine, controls)
    require_can_read(decodable, samples)
    if (answer_tokens := getattr(loaded, "answer_tokens", None)) is not None:
        engine.notes.append(f"answers of up to {answer_tokens:,} tokens are generated besides")
    found = _estimate(decodable, needles, samples, num_ranks, attention, rates)
    found = replace(found, notes=(*found.notes, *engine.notes))
    if isinstance(haystack, VideoLibrary):
        shown = ShownOfVideos.of(samples, haystack)
        found = replace(found, notes=(*found.notes, *haystack.notes), shown=shown)
    return found


def _estimate(
    model: DecoderModel | LanguageModel,
    needles: NeedleSet,
    samples: Sequence[Sample],
    num_ranks: int,
    attention: str,
    rates: Rates | None,
) -> Estimate:
    composed = SampleSequences()
    for sample in samples:
        composed.add(compose_candidates(model, sample))
    plan = make_plan(model, composed.sequences, groups=composed.groups)
    refused = {composed.owners[index] for index in plan.refused}
    if all(n in refused for n, sample in enumerate(samples) if sample.control is None):
        reason = next(iter(plan.refused.values()))
        raise ModelError(f"no sample of the grid can be run, the first because {reason}")
    weight, shape = model.decoder.lm_head.weight, DecoderShape.of(model.decoder)
    max_tokens = max(branch.max_tokens for branch in plan.branches)
    kernel = find_kernel(attention, weight.device, weight.dtype, shape.heads)
    if rates is None:
        rates = measure_rates(model, kernel, num_tokens=max_tokens)
    length = _Length.of(model, needles, samples, composed.sequences)
    return Estimate(
        model_name=model.name,
        dtype=str(weight.dtype).removeprefix("torch."),
        num_samples=len(samples),
        max_tokens=max_tokens,
        tokens_per_frame=float(length.per_frame) if length.is_of_frames else None,
        num_ranks=num_ranks,
        rates=rates,
        memory=_memory(shape, plan.branches, composed.sequences, weight.device, num_ranks),
        shared=_work(shape, plan.branches, rates, num_ranks),
        alone=_work(shape, plan.alone, rates, num_ranks),
        max_frames={
            ranks: _most_frames(model, shape, length, num_ranks=ranks)
            for ranks in sorted({1, num_ranks, *RING_SIZES})
        },
        notes=tuple(_notes(plan)),
    )


def _memory(
    shape: DecoderShape,
    branches: Sequence[Branch],
    sequences: Sequence[TokenSequence],
    device: torch.device,
    num_ranks: int,
) -> Memory:
    free = free_bytes(device)
    usable = int(free * USABLE)
    chunk_size = fit_chunk_size(shape, branches, device, free=usable, num_ranks=num_ranks)
    largest = max(
        (
            shape.pass_parts(
                branch,
                chunk_size=chunk_size,
                num_ranks=num_ranks,
                num_read=sum(
                    len(sequences[suffix.sequences[0]].answer_ids) for suffix in branch.suffixes
                ),
            )
            for root in branches
            for branch in root.passes()
        ),
        key=lambda parts: parts.total,
    )
    store = shape.kept_bytes(branches, num_ranks=num_ranks)
    return Memory(
        weights=shape.weight_bytes,
        hidden=largest.hidden,
        keys_values=largest.keys_values,
        chunk=largest.chunk,
        chunk_size=min(chunk_size, max(branch.max_tokens for branch in branches)),
        store=store,
        kv_location=fit_kv_location(store, device, left=usable - largest.total),
        device=str(device),
        free=free,
        host_weights=shape.host_weight_bytes,
    )


def _work(shape: DecoderShape, branches: Sequence[Branch], rates: Rates, num_ranks: int) -> Work:
    flops = shape.flops_of(branches, num_ranks=num_ranks)
    num_passes = sum(1 for root in branches for _ in root.passes())
    computing = flops.linear / rates.linear + flops.attention / rates.attention
    return Work(
        num_passes=num_passes,
        num_tokens=cost_of(branches).num_tokens,
        flops=flops,
        seconds=max(computing, num_passes * shape.host_weight_bytes / rates.fetching),
    )


@dataclass(frozen=True)
class _Length:
    """How the tokens of a sequence grow with its haystack.

    Attributes:
        fixed: tokens of a sequence without a haystack.
        per_frame: tokens of each haystack frame; 1 for texts, of which a token counts as a frame.
        num_read: rows whose logits are read.
        is_of_frames: whether frames are shown.
    """

    fixed: Fraction
    per_frame: Fraction
    num_read: int
    is_of_frames: bool

    @classmethod
    def of(
        cls,
        model: DecoderModel | LanguageModel,
        needles: NeedleSet,
        samples: Sequence[Sample],
        sequences: Sequence[TokenSequence],
    ) -> "_Length":
        """That of some samples, which all show frames, or all texts.

        Besides haystack frames a sequence holds the first needle and its question; without needles
        it holds the longest question that is asked.
        """
        if samples[0].text is not None:
            num_read = max(len(sequence.answer_ids) for sequence in sequences)
            return cls(Fraction(num_read - 1), Fraction(1), num_read, False)
        reader = require_encoder(model)
        inserted: tuple[FrameSegment, ...] = ()
        if len(needles):
            first = needles.needles[0]
            inserted, question, answer = (_NEEDLE,), first.question, first.answer
        else:
            longest = max(samples, key=lambda sample: len(sample.question))
            question, answer = longest.question, longest.answer

        def sequence_of(num_frames: int) -> TokenSequence:
            shown = Frames.of([*haystack_frames(num_frames), *inserted])
            return reader.compose(shown, question, answer)

        fixed, per_frame = _count_tokens(sequence_of, size_of_frame(model))
        return cls(fixed, per_frame, len(sequence_of(_COUNTED_FRAMES[0]).answer_ids), True)


def _count_tokens(
    sequence_of: Callable[[int], TokenSequence], frame_tokens: int
) -> tuple[Fraction, Fraction]:
    """The tokens of a sequence without haystack frames, and those of each haystack frame."""
    few, many = _COUNTED_FRAMES
    counts = [sequence_of(number).num_tokens(frame_tokens) for number in _COUNTED_FRAMES]
    per_frame = Fraction(counts[1] - counts[0], many - few)
    return counts[0] - few * per_frame, per_frame


def _most_frames(
    model: DecoderModel | LanguageModel, shape: DecoderShape, length: _Length, *, num_ranks: int
) -> int:
    """The number of haystack frames of the longest sequence that fits into the free memory; for
    texts the number of tokens of the prompt.
    """
    free = int(free_bytes(model.decoder.lm_head.weight.device) * USABLE)
    window = sliding_window(model.decoder.model.config)

    def fits(num_frames: int) -> bool:
        num_tokens = -int(-(length.fixed + num_frames * length.per_frame) // 1)
        start = num_tokens - length.num_read
        branch = Branch(0, (), start, (Suffix(start, (), length.num_read, (0,)),))
        needed = shape.pass_bytes(
            branch, chunk_size=MIN_CHUNK_SIZE, num_ranks=num_ranks, num_read=length.num_read
        )
        return needed <= free and (window is None or num_tokens <= window)

    return bisect_left(range(1, _MOST_FRAMES), True, key=lambda num: not fits(num))


def _notes(plan: Plan) -> list[str]:
    notes = []
    if plan.note:
        notes.append(f"nothing is shared: {plan.note}")
    if plan.refused:
        reason = next(iter(plan.refused.values()))
        notes.append(f"{len(plan.refused)} samples cannot be run, the first because {reason}")
    return notes
