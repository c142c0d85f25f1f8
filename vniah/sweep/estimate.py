"""Estimates the memory, the operations and the time of a sweep before anything runs.

No frame is decoded or encoded: the passes of a sweep depend on which frames are equal and on how
many tokens each has, not on what they show. Texts are read and cut into tokens, as for the sweep,
and the pictures of the videos of a question set are counted.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine, require_decoder
from vniah.engines.inputs import (
    compose_candidates,
    require_can_read,
    require_encoder,
    size_of_frame,
)
from vniah.engines.planning import Plan, SampleSequences, make_plan
from vniah.errors import InputError, ModelError, first_line
from vniah.forward.devices import USABLE, free_bytes
from vniah.forward.kernels import find_kernel
from vniah.forward.kinds.choosing import kinds_of, require_can_ring
from vniah.forward.memory import MIN_CHUNK_SIZE
from vniah.forward.prefix_tree import Branch, Suffix
from vniah.grid import Grid
from vniah.haystacks.library import VideoLibrary
from vniah.haystacks.text import TextHaystack
from vniah.models.outline import missing_bytes, shape_on
from vniah.needles import NeedleSet
from vniah.options import Share
from vniah.options.approximation import Approximation
from vniah.protocol import (
    AnyModel,
    DecoderModel,
    Frames,
    FrameSegment,
    LanguageModel,
    TokenSequence,
)
from vniah.sweep.estimate_one_pass import estimate_one_pass, require_one_pass
from vniah.sweep.estimated import Estimate, Memory, ShownOfVideos, Work
from vniah.sweep.samples import askable_samples, read_text
from vniah.sweep.throughput import Rates, measure_rates
from vniah.tasks import Sample, Task, load_task
from vniah.tasks.base import is_of_text
from vniah.tasks.controls import ChosenControls
from vniah.tasks.controls.exact import Exact
from vniah.tasks.controls.planning import make_control_samples
from vniah.tasks.parsing import Option
from vniah.tasks.placement import haystack_frames

RING_SIZES = (2, 4, 8)

_COUNTED_FRAMES = (32, 64)
_NEEDLE = FrameSegment("needle", 0)
_MOST_FRAMES = 1 << 40


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
    share: Share = "tree",
    window: int | None = None,
    verify: int | None = None,
    applies: bool = False,
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
        share: how it is to be run. All ways are estimated that are possible; with ``"one-pass"``
            an error says why that way is not, otherwise a note.
        window: as `vniah.sweep.run.run_sweep`, for haystack states that all needles share.
        verify: likewise.
        applies: whether each sample of the test is run once more with an intervention. What that
            changes is not known here, such as fewer tokens of a frame.

    Raises:
        InputError: the model has no decoder or does not read what the task shows, ``num_ranks`` is
            below 1, the kernel does not run here, or an option is invalid.
        TaskError: there is no such task, or its samples cannot be made.
        ModelError: no sequence of the grid can be run.
    """
    decodable = require_decoder(model, "estimate")
    if num_ranks < 1:
        raise InputError(f"--context-parallel must be at least 1, got {num_ranks}")
    if num_ranks > 1:
        require_can_ring(decodable.decoder.model)
    engine = choose_engine(decodable, EngineOptions(attention=attention))
    loaded = load_task(task, task_options)
    known = None if haystack is None else read_text(haystack, decodable, grid)
    samples = askable_samples(loaded, grid, needles, known, engine, controls)
    require_can_read(decodable, samples)
    if (answer_tokens := getattr(loaded, "answer_tokens", None)) is not None:
        engine.notes.append(f"answers of up to {answer_tokens:,} tokens are generated besides")
    found = _estimate(decodable, needles, samples, num_ranks, attention, rates)
    found = replace(found, notes=(*found.notes, *engine.notes), share=share)
    if isinstance(haystack, VideoLibrary):
        shown = ShownOfVideos.of(samples, haystack)
        found = replace(found, notes=(*found.notes, *haystack.notes), shown=shown)
    if applies:
        if share == "one-pass":
            raise InputError("--share one-pass cannot be combined with --apply: leave out one")
        return _twice(found, sum(sample.control is None for sample in samples))
    approximation = Approximation.of(window, verify, is_text=is_of_text(loaded))
    try:
        require_one_pass(loaded, samples, approximation, num_ranks)
        tests = tuple(sample for sample in samples if sample.control is None)
        exact = Exact(approximation.verify)
        copies = make_control_samples(exact, tests, grid, needles, known)
        one_pass = estimate_one_pass(
            decodable, samples, copies, approximation, attention=attention, rates=found.rates
        )
    except (InputError, ModelError) as error:
        if share == "one-pass":
            raise
        return replace(found, notes=(*found.notes, f"not by one pass: {first_line(error)}"))
    return replace(found, one_pass=one_pass)


def _twice(found: Estimate, num_tests: int) -> Estimate:
    """The same with an intervention, for whose samples the whole tree is run once more."""
    return replace(
        found,
        num_samples=found.num_samples + num_tests,
        shared=found.shared + found.shared,
        alone=found.alone + found.alone,
        notes=(
            *found.notes,
            f"{num_tests:,} samples are run once more with the intervention, by a tree of the same "
            "size; what its own operations take comes on top",
        ),
    )


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
    weight, shape = model.decoder.lm_head.weight, shape_on(model, num_ranks)
    max_tokens = max(branch.max_tokens for branch in plan.branches)
    kernel = find_kernel(attention, weight.device, weight.dtype, shape.heads)
    if rates is None:
        rates = measure_rates(model, kernel, num_tokens=max_tokens)
    length = _Length.of(model, needles, samples, composed.sequences)
    memory, alone = (
        Memory.of_tree(
            shape,
            branches,
            composed.sequences,
            weight.device,
            num_ranks,
            missing=missing_bytes(model, shape),
        )
        for branches in (plan.branches, plan.alone)
    )
    return Estimate(
        model_name=model.name,
        dtype=str(weight.dtype).removeprefix("torch."),
        num_samples=len(samples),
        max_tokens=max_tokens,
        tokens_per_frame=float(length.per_frame) if length.is_of_frames else None,
        num_ranks=num_ranks,
        rates=rates,
        memory=memory,
        memory_alone=alone,
        shared=Work.of_tree(shape, plan.branches, rates, num_ranks),
        alone=Work.of_tree(shape, plan.alone, rates, num_ranks),
        max_frames={
            ranks: _most_frames(model, length, num_ranks=ranks)
            for ranks in sorted({1, num_ranks, *(RING_SIZES if can_ring(model) else ())})
        },
        one_pass=None,
        notes=tuple(_notes(plan)),
        weight_ranks=shape.num_weight_ranks,
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


def _most_frames(model: DecoderModel | LanguageModel, length: _Length, *, num_ranks: int) -> int:
    """The number of haystack frames of the longest sequence that fits into the free memory; for
    texts the number of tokens of the prompt.
    """
    shape = shape_on(model, num_ranks)
    there = free_bytes(model.decoder.lm_head.weight.device)
    free = int((there - missing_bytes(model, shape)) * USABLE)

    def fits(num_frames: int) -> bool:
        num_tokens = -int(-(length.fixed + num_frames * length.per_frame) // 1)
        start = num_tokens - length.num_read
        branch = Branch(0, (), start, (Suffix(start, (), length.num_read, (0,)),))
        needed = shape.pass_bytes(
            branch, chunk_size=MIN_CHUNK_SIZE, num_ranks=num_ranks, num_read=length.num_read
        )
        return needed <= free

    return bisect_left(range(1, _MOST_FRAMES), True, key=lambda num: not fits(num))


def can_ring(model: DecoderModel | LanguageModel) -> bool:
    """Whether several processes can run a pass of the model together."""
    return all(kind.runs_in_ring for kind in kinds_of(model.decoder.model))


def _notes(plan: Plan) -> list[str]:
    notes = []
    if plan.note:
        notes.append(f"nothing is shared: {plan.note}")
    if plan.refused:
        reason = next(iter(plan.refused.values()))
        notes.append(f"{len(plan.refused)} samples cannot be run, the first because {reason}")
    return notes
