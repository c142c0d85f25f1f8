"""The forward pass against the model's own: the same logits by every way that a sweep may go?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from vniah.embeddings.cache import FrameStore
from vniah.engines.base import CheckReport, require_logits, trial_sample
from vniah.engines.inputs import (
    DecoderInputs,
    SequenceCheck,
    compose_candidates,
    size_of_frame,
)
from vniah.engines.planning import Plan, make_plan
from vniah.errors import CheckError, ModelError
from vniah.forward.attention import Kernel
from vniah.forward.decoders import attention_set_to, reset_dynamic_rope
from vniah.forward.inputs import deepstack_rows
from vniah.forward.kv_cache import KVLocation
from vniah.forward.ring import Ring
from vniah.forward.runner import BranchRunner
from vniah.models.quantization import rounds_rows
from vniah.needles import Needle, NeedleSet
from vniah.protocol import DecoderModel, TokenSequence, VisionLanguageModel


@torch.inference_mode()
def plain_logits(model: DecoderModel, sequence: TokenSequence, store: FrameStore) -> Tensor:
    """Answer logits by the decoder's own forward, ``[len(answer_ids), vocabulary]`` fp32 on CPU."""
    read = DecoderInputs(model, [sequence], store)
    positions = read.positions(0)
    reset_dynamic_rope(model.decoder.model)
    num_tokens, num_rows = positions.shape[-1], len(sequence.answer_ids)
    hidden = read.embed(sequence.input_pieces, 0, num_tokens)
    inputs: dict[str, Any] = {
        "inputs_embeds": hidden[None],
        "position_ids": positions[None] if positions.ndim == 1 else positions[:, None],
        # without it transformers takes gaps in the positions for packed sequences
        "attention_mask": torch.ones(1, num_tokens, device=hidden.device, dtype=torch.long),
        "use_cache": False,
    }
    deep = deepstack_rows(read, sequence.input_pieces, hidden)
    if deep is not None:
        is_frame = read.is_frame(sequence.input_pieces)
        inputs["visual_pos_masks"] = is_frame[None]
        inputs["deepstack_visual_embeds"] = [rows[is_frame] for rows in deep]
    if callable(model.decoder):
        if "logits_to_keep" in signature(model.decoder.forward).parameters:
            inputs["logits_to_keep"] = num_rows
        logits = model.decoder(**inputs).logits[0, -num_rows:]
    else:  # two parts that make up one
        rows = model.decoder.model(**inputs).last_hidden_state[0, -num_rows:]
        logits = model.decoder.lm_head(rows)
    moved: Tensor = logits.float().cpu()
    return moved


# Largest difference of a logit that rounding may explain, as a share of the largest logit: random
# decoders of 24 layers reach 0.006 in fp16 and 0.06 in bf16.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.015, torch.bfloat16: 0.08}

# The root mean square of all differences tells more. It may be so many times what the model's own
# forward changes by when another kernel attends, and this share of the tolerance in any case.
_NOISE_FACTOR = 4

_LEAST_SHARE = 1 / 64

# Rounded to 8 bits, a row depends on the rows of its call (`vniah.models.quantization`). Another
# kernel leaves these calls alone and chunks do not, so that share is larger: tiny random families
# reach 0.1.
_LEAST_SHARE_IN_8_BITS = 1 / 4

# In half precision rounding sends a row to another expert where two are nearly as good, and its
# logits change by any amount. So what all rows change by together has to tell.
_MOST_OF_EXPERTS = 1.0

_LEAST_SHARE_OF_EXPERTS = 1 / 2

_TINY = torch.finfo(torch.float32).tiny

# Haystack frames of the two cells of the check, and the needle's place in both.
_LENGTHS = (4, 9)
NUM_TRIAL_FRAMES = max(_LENGTHS)
"""Haystack frames of the longest trial sequence."""


_NEEDLE_INDEX = 2

# Tiles of the check are so small that even its shortest sequence has so many.
_NUM_TILES = 4


@dataclass(frozen=True)
class Agreement:
    """One way of computing against the plain forward pass.

    Attributes:
        way: e.g. ``"prefill"``, ``"tree"``, ``"suffixes"`` or ``"ring of 2"``.
        max_difference: largest difference of two logits.
        rms_difference: root mean square of all of them.
        max_logit: the largest logit of the plain forward pass, by magnitude.
        num_rows: answer positions compared.
        num_equal: how many of them have the same argmax.
        num_ties: how many others have two best tokens nearer than the difference.
        max_allowed: what ``max_difference`` may be.
        rms_allowed: what ``rms_difference`` may be.
    """

    way: str
    max_difference: float
    rms_difference: float
    max_logit: float
    num_rows: int
    num_equal: int
    num_ties: int
    max_allowed: float
    rms_allowed: float

    @property
    def passed(self) -> bool:
        """Whether rounding explains all of it."""
        return (
            isfinite(self.max_difference)
            and self.max_difference <= self.max_allowed
            and self.rms_difference <= self.rms_allowed
            and self.num_equal + self.num_ties == self.num_rows
        )

    def sentence(self) -> str:
        """What was found, for a person."""
        return (
            f"{self.way}: logits differ by {self.rms_difference:.1e} "
            f"({self.rms_allowed:.1e} allowed), at most by {self.max_difference:.1e} "
            f"({self.max_allowed:.1e} allowed); argmax equal in {self.num_equal} of "
            f"{self.num_rows} rows" + (f", {self.num_ties} ties" if self.num_ties else "")
        )

    def record(self) -> Mapping[str, Any]:
        """For the manifest."""
        return {
            "max_difference": _short(self.max_difference),
            "max_allowed": _short(self.max_allowed),
            "rms_difference": _short(self.rms_difference),
            "rms_allowed": _short(self.rms_allowed),
            "max_logit": _short(self.max_logit),
            "argmax_equal": self.num_equal,
            "argmax_ties": self.num_ties,
            "rows": self.num_rows,
        }


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def check_forward(
    model: DecoderModel,
    sequences: Sequence[TokenSequence],
    store: FrameStore,
    *,
    kernel: Kernel | None = None,
    kv_location: KVLocation | None = None,
    ring: Ring | None = None,
) -> tuple[Agreement, ...]:
    """Runs short sequences by the plain forward pass, and by all ways that a sweep may go.

    Args:
        model: whose decoder is run.
        sequences: short ones; some with a common prefix, so that there is something to share.
        store: where their frames lie.
        kernel: computes the attention; by default the fastest that is right on the device.
        kv_location: where the sweep keeps keys and values.
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
            f"the logits of {model.name} hold NaN, in its own forward pass as well; try --dtype "
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
        """So few that suffixes hang from several places of a common trunk."""
        return max(lengths) // 2 if self.has_suffixes else 0

    def chunk_size(self, lengths: Sequence[int]) -> int:
        """So small that a pass has several chunks; with suffixes, so large that they go in one."""
        return sum(lengths) if self.has_suffixes else max(1, min(lengths) // _NUM_TILES)


def trial_sequences(
    model: DecoderModel, needles: NeedleSet, num_frames: int
) -> list[TokenSequence]:
    """Two needles in two short cells, at the same place, and both questions without a needle.

    So there is something to share, and suffixes of several lengths hang from one place. The needles
    are those with the longest answers, so that several rows are read where any answer has several.

    Args:
        model: composes the sequences.
        needles: pictures, questions and answers.
        num_frames: haystack frames that there are.
    """
    lengths = list(dict.fromkeys(min(length, num_frames) for length in _LENGTHS))

    def compose(needle: Needle, length: int, *, is_shown: bool = True) -> TokenSequence:
        index = min(_NEEDLE_INDEX, length) if is_shown else None
        sample = trial_sample(needle, num_frames=length, needle_index=index)
        return compose_candidates(model, sample)[0]

    def num_rows(needle: Needle) -> int:
        return len(compose(needle, lengths[0]).answer_ids)

    some = sorted(needles, key=num_rows, reverse=True)[:2]
    shown = [compose(needle, length) for length in lengths for needle in some]
    plain = [compose(needle, length, is_shown=False) for length in lengths for needle in some]
    return [*shown, *plain]


def require_agreement(agreements: Sequence[Agreement], name: str) -> None:
    """Raises `CheckError` if one of the ways gives other numbers than the model's own."""
    for agreement in agreements:
        if not agreement.passed:
            raise CheckError(
                f"the forward pass does not give what {name} itself gives: "
                f"{agreement.sentence()}. Nothing was measured; give the model an answer_logits "
                "method in place of decoder, and it runs its own"
            )


@dataclass(frozen=True)
class RoundingLimit:
    """What rounding may change, as shares of the largest logit."""

    of_max: float
    of_rms: float

    @classmethod
    def of(
        cls,
        model: DecoderModel,
        sequences: Sequence[TokenSequence],
        store: FrameStore,
        plain: Sequence[Tensor],
    ) -> "RoundingLimit":
        """From what changes when another attention kernel computes ``plain``."""
        body = model.decoder.model
        dtype = model.decoder.lm_head.weight.dtype
        tolerance = TOLERANCES.get(dtype, TOLERANCES[torch.float32])
        least = _LEAST_SHARE
        if rounds_rows(body.layers):  # to 8 bits, as many as bfloat16 has
            tolerance = max(tolerance, TOLERANCES[torch.bfloat16])
            least = _LEAST_SHARE_IN_8_BITS
        of_max = tolerance
        if dtype != torch.float32 and getattr(body.config, "num_experts_per_tok", None):
            of_max, least = _MOST_OF_EXPERTS, _LEAST_SHARE_OF_EXPERTS
        other = "sdpa" if body.config._attn_implementation == "eager" else "eager"
        try:
            with attention_set_to(body, other):
                again = [plain_logits(model, sequence, store) for sequence in sequences]
        except (RuntimeError, ValueError, LookupError, ImportError, NotImplementedError):
            return cls(of_max, tolerance)
        one = torch.cat(list(plain))
        noise = _rms(one - torch.cat(again)) / max(float(one.abs().max()), _TINY)
        return cls(of_max, min(tolerance, max(least * tolerance, _NOISE_FACTOR * noise)))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _run(
    model: DecoderModel,
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


def compare_logits(
    way: str, plain: Sequence[Tensor], found: Sequence[Tensor], limit: RoundingLimit
) -> Agreement:
    """How the logits of one way differ from the plain ones, ``[rows, vocabulary]`` each."""
    one, other = torch.cat(list(plain)), torch.cat(list(found))
    difference = float((one - other).abs().max())
    largest = float(one.abs().max())
    is_equal = one.argmax(-1) == other.argmax(-1)
    best = one.topk(min(2, one.shape[1])).values
    is_tie = ~is_equal & (best[:, 0] - best[:, -1] <= 2 * difference)
    return Agreement(
        way=way,
        max_difference=difference if difference == difference else float("inf"),
        rms_difference=_rms(one - other),
        max_logit=largest,
        num_rows=len(one),
        num_equal=int(is_equal.sum()),
        num_ties=int(is_tie.sum()),
        max_allowed=limit.of_max * largest,
        rms_allowed=limit.of_rms * largest,
    )


def examine_forward(
    model: DecoderModel,
    sequences: Sequence[TokenSequence],
    store: FrameStore,
    *,
    kernel: Kernel | None = None,
    ring: Ring | None = None,
) -> CheckReport:
    """What `check_forward` finds, for a person; with the model's own `answer_logits` if it has any.

    Args:
        model: whose decoder is run.
        sequences: short ones, as `trial_sequences` gives them.
        store: where their frames lie.
        kernel: computes the attention; by default the fastest that is right on the device.
        ring: the processes that run a pass together, if there are several.
    """
    agreements = check_forward(model, sequences, store, kernel=kernel, ring=ring)
    agreements += _check_own_logits(model, sequences, store)
    lines = [agreement.sentence() for agreement in agreements]
    plan = make_plan(model, sequences, max_suffix_tokens=0)
    passed = all(agreement.passed for agreement in agreements)
    return CheckReport((*lines, _about_sharing(plan), _verdict(passed)), passed)


def _check_own_logits(
    model: DecoderModel, sequences: Sequence[TokenSequence], store: FrameStore
) -> tuple[Agreement, ...]:
    """A model with `answer_logits` as well says what its decoder and its positions should give."""
    if not isinstance(model, VisionLanguageModel):
        return ()
    plain = [plain_logits(model, sequence, store) for sequence in sequences]
    own = [model.answer_logits(sequence, store.read(sequence.frames)) for sequence in sequences]
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


def _about_sharing(plan: Plan) -> str:
    if plan.note is not None:
        return f"sharing: every cell runs by itself, because {plan.note}"
    saved = plan.cost_alone.num_tokens - plan.cost.num_tokens
    if not saved:
        lengths = " and for ".join(map(str, _LENGTHS))
        return (
            f"sharing: possible, but its prompts for {lengths} frames have no beginning in common, "
            "so that nothing will be shared"
        )
    return f"sharing: {saved:,} of {plan.cost_alone.num_tokens:,} tokens of the check were shared"


def _verdict(passed: bool) -> str:
    return (
        "the forward pass gives what the model gives"
        if passed
        else (
            "the forward pass does NOT give what the model gives: give the model an answer_logits "
            "method in place of decoder, and it runs its own"
        )
    )
