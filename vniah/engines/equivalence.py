"""Compares every way in which a sweep may run a sequence with the model's own forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vniah.embeddings.cache import FrameStore
from vniah.engines.agreement import Agreement, RoundingLimit, compare_logits, plain_logits
from vniah.engines.base import (
    CheckReport,
    require_logits,
    shows_text,
    trial_sample,
    trial_text,
)
from vniah.engines.inputs import (
    DecoderInputs,
    SequenceCheck,
    compose_candidates,
    size_of_frame,
)
from vniah.engines.planning import Plan, make_plan
from vniah.errors import CheckError, ModelError
from vniah.forward.attention import Kernel
from vniah.forward.kv_cache import KVLocation
from vniah.forward.ring import Ring
from vniah.forward.runner import BranchRunner
from vniah.needles import Needle, NeedleSet
from vniah.protocol import (
    DecoderModel,
    Frames,
    HasDecoder,
    LanguageModel,
    TokenSequence,
    VisionLanguageModel,
)
from vniah.tasks.base import Sample

# The numbers of haystack frames in the two cells of the check, and the needle's index in both.
_LENGTHS = (4, 9)
# The same for texts, each of which has some twenty tokens.
_TEXT_LENGTHS = (2, 5)
NUM_TRIAL_FRAMES = max(_LENGTHS)
"""Number of haystack frames of the longest trial sequence."""

_NEEDLE_INDEX = 2

# Chunks of the check are so small that even its shortest sequence has this many.
_NUM_CHUNKS = 4


def check_forward(
    model: HasDecoder,
    sequences: Sequence[TokenSequence],
    store: FrameStore,
    *,
    kernel: Kernel | None = None,
    kv_location: KVLocation | None = None,
    ring: Ring | None = None,
) -> tuple[Agreement, ...]:
    """Runs short sequences by the plain forward pass, and in every way that a sweep may use.

    Args:
        model: the model whose decoder is run.
        sequences: short sequences; some have a common prefix, so that there is something to share.
        store: holds their frames.
        kernel: computes the attention; by default the fastest that is correct on the device.
        kv_location: where the sweep stores keys and values.
        ring: the processes that run a pass together, if there are several.

    Raises:
        ModelError: the decoder cannot be run at all.
    """
    check = SequenceCheck(model)
    for sequence in sequences:
        check.require_readable(sequence)
    plain = [plain_logits(model, sequence, store) for sequence in sequences]
    if not all(logits.isfinite().any(-1).all() and not logits.isnan().any() for logits in plain):
        raise ModelError(
            f"the logits of {model.name} hold NaN even in its own forward pass; try --dtype "
            "float32 or bfloat16"
        )
    limit = RoundingLimit.of(model, sequences, store, plain)
    ways = {
        "prefill": _Way(share=False),
        "tree": _Way(kv_location=kv_location),
        "suffixes": _Way(has_suffixes=True, kv_location=kv_location),
    }
    if ring is not None:
        ways[f"ring of {ring.size}"] = _Way(kv_location=kv_location, ring=ring)
        ways[f"suffixes in a ring of {ring.size}"] = _Way(
            has_suffixes=True, kv_location=kv_location, ring=ring
        )
    return tuple(
        compare_logits(name, plain, _run(model, sequences, store, way, kernel), limit)
        for name, way in ways.items()
    )


@dataclass(frozen=True)
class _Way:
    """One of the ways in which a sweep may run a sequence."""

    share: bool = True
    has_suffixes: bool = False
    kv_location: KVLocation | None = None
    ring: Ring | None = None

    def max_suffix_tokens(self, lengths: Sequence[int]) -> int:
        """A limit so low that suffixes follow several places of a common trunk."""
        return max(lengths) // 2 if self.has_suffixes else 0

    def chunk_size(self, lengths: Sequence[int]) -> int:
        """Rows of a chunk: a pass has several chunks, but all suffixes are in one."""
        return sum(lengths) if self.has_suffixes else max(1, min(lengths) // _NUM_CHUNKS)


def trial_sequences(
    model: DecoderModel | LanguageModel, needles: NeedleSet, num_frames: int
) -> list[TokenSequence]:
    """Two needles in two short cells, at the same place, and both questions without a needle.

    Their passes share prefixes, and suffixes of several lengths follow the same token. The needles
    are those with the longest answers, so that answers of several tokens are tried if there are
    any.

    Args:
        model: composes the sequences.
        needles: pictures, questions and answers.
        num_frames: number of available haystack frames; it does not matter for needles of text,
            of which texts take their place.
    """
    is_text = shows_text(needles)
    if is_text:
        lengths = list(_TEXT_LENGTHS)
    else:
        lengths = list(dict.fromkeys(min(length, num_frames) for length in _LENGTHS))

    def compose(needle: Needle, length: int, *, is_shown: bool = True) -> TokenSequence:
        index = min(_NEEDLE_INDEX, length) if is_shown else None
        if is_text:
            sample = trial_text(needles, needle, length=length, index=index)
        else:
            sample = trial_sample(needle, num_frames=length, needle_index=index)
        return compose_candidates(model, sample)[0]

    def num_rows(needle: Needle) -> int:
        return len(compose(needle, lengths[0]).answer_ids)

    some = sorted(needles, key=num_rows, reverse=True)[:2]
    shown = [compose(needle, length) for length in lengths for needle in some]
    plain = [compose(needle, length, is_shown=False) for length in lengths for needle in some]
    return [*shown, *plain]


def shortened_sequences(
    model: DecoderModel | LanguageModel, samples: Sequence[Sample]
) -> list[TokenSequence]:
    """The first frames of some samples with their questions, for a task that has no needles.

    Args:
        model: composes the sequences.
        samples: all samples of a run; two about the same frames are taken where there are some.

    Raises:
        ModelError: no sample of the test shows a frame.
    """
    tests = [sample for sample in samples if sample.control is None and sample.shown]
    if not tests:
        raise ModelError("no sample shows a frame, so that nothing can be compared")
    first = tests[0]
    some = [sample for sample in tests if sample.shown == first.shown][:2]
    lengths = dict.fromkeys(min(length, first.num_shown) for length in _LENGTHS)
    cut = [
        replace(sample, shown=Frames.of(sample.shown)[:length].spans)
        for length in lengths
        for sample in some
    ]
    return [compose_candidates(model, sample)[0] for sample in cut]


def require_agreement(agreements: Sequence[Agreement], name: str) -> None:
    """Raises `CheckError` if one of the ways gives other logits than the model's own pass."""
    for agreement in agreements:
        if not agreement.passed:
            raise CheckError(
                f"the forward pass does not give what {name} itself gives: "
                f"{agreement.sentence()}. Nothing was measured; give the model a method "
                "answer_logits in place of decoder, and it runs its own forward pass"
            )


def _run(
    model: HasDecoder,
    sequences: Sequence[TokenSequence],
    store: FrameStore,
    way: _Way,
    kernel: Kernel | None,
) -> list[Tensor]:
    lengths = [sequence.num_tokens(size_of_frame(model)) for sequence in sequences]
    most = way.max_suffix_tokens(lengths)
    plan = make_plan(model, sequences, share=way.share, max_suffix_tokens=most)
    for reason in plan.refused.values():
        raise ModelError(reason)
    runner = BranchRunner(
        model.decoder,
        DecoderInputs(model, sequences, store),
        kernel=kernel,
        ring=way.ring,
        chunk_size=way.chunk_size(lengths),
        kv_location=way.kv_location,
    )
    logits: dict[int, Tensor] = {}
    for root in plan.branches:
        for reading in runner.run_all(root):
            if reading.logits is None:
                raise ModelError(reading.error or "no logits")
            logits |= dict.fromkeys(reading.sequences, reading.logits)
    return [logits[index] for index in range(len(sequences))]


def examine_forward(
    model: HasDecoder,
    sequences: Sequence[TokenSequence],
    store: FrameStore,
    *,
    kernel: Kernel | None = None,
    ring: Ring | None = None,
) -> CheckReport:
    """Reports what `check_forward` finds, and compares the model's own `answer_logits`, if any.

    Args:
        model: the model whose decoder is run.
        sequences: short sequences, as those of `trial_sequences`.
        store: holds their frames.
        kernel: computes the attention; by default the fastest that is correct on the device.
        ring: the processes that run a pass together, if there are several.
    """
    agreements = check_forward(model, sequences, store, kernel=kernel, ring=ring)
    agreements += _check_own_logits(model, sequences, store)
    lines = [agreement.sentence() for agreement in agreements]
    plan = make_plan(model, sequences, max_suffix_tokens=0)
    passed = all(agreement.passed for agreement in agreements)
    return CheckReport((*lines, _about_sharing(plan), _verdict(passed)), passed)


def _check_own_logits(
    model: HasDecoder, sequences: Sequence[TokenSequence], store: FrameStore
) -> tuple[Agreement, ...]:
    """Compares the model's own `answer_logits`, if it has any, with the plain forward pass."""
    if not isinstance(model, VisionLanguageModel):
        return ()
    plain = [plain_logits(model, sequence, store) for sequence in sequences]
    own = [
        model.answer_logits(sequence, _frames_of(model, sequence, store)) for sequence in sequences
    ]
    for sequence, one, other in zip(sequences, plain, own, strict=True):
        require_logits(model, sequence, other)
        if one.shape != other.shape:
            raise ModelError(
                f"answer_logits of {model.name} gave {other.shape[1]} logits for each token, its "
                f"decoder {one.shape[1]}"
            )
    own = [logits.detach().float().cpu() for logits in own]
    limit = RoundingLimit.of(model, sequences, store, plain)
    return (compare_logits("answer_logits", plain, own, limit),)


def _frames_of(model: VisionLanguageModel, sequence: TokenSequence, store: FrameStore) -> Tensor:
    """The encoded frames of a sequence, ``[num_frames, *frame_shape]``; of text there are none."""
    frames = sequence.frames
    return store.read(frames) if frames else torch.empty(0, *model.frame_shape)


def _about_sharing(plan: Plan) -> str:
    if plan.note is not None:
        return f"sharing: every cell runs by itself, because {plan.note}"
    saved = plan.cost_alone.num_tokens - plan.cost.num_tokens
    if not saved:
        lengths = " and for ".join(map(str, _LENGTHS))
        return (
            f"sharing: possible, but its prompts for {lengths} frames have no common prefix, so "
            "nothing will be shared"
        )
    return f"sharing: {saved:,} of {plan.cost_alone.num_tokens:,} tokens of the check were shared"


def _verdict(passed: bool) -> str:
    if passed:
        return "the forward pass gives what the model gives"
    return (
        "the forward pass does NOT give what the model gives: give the model a method "
        "answer_logits in place of decoder, and it runs its own forward pass"
    )
