"""How two ways of computing logits differ, and how much of it rounding may explain."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from vniah.embeddings.cache import FrameStore
from vniah.engines.inputs import DecoderInputs
from vniah.forward.decoders import (
    attention_set_to,
    head_logits,
    num_chosen_experts,
    reset_dynamic_rope,
)
from vniah.forward.hooks import forced_window
from vniah.forward.inputs import deepstack_rows
from vniah.forward.kinds.choosing import attention_of
from vniah.forward.kv_cache import Span
from vniah.models.quantization import rounds_rows
from vniah.protocol import HasDecoder, TokenSequence

# The largest difference of a logit that rounding may explain, as a share of the largest logit:
# random decoders of 24 layers reach 0.006 in fp16 and 0.06 in bf16.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.015, torch.bfloat16: 0.08}

# The root mean square of all differences is the sharper test. It may be this many times the change
# of the model's own logits under another attention kernel, and in any case this share of the
# tolerance.
_NOISE_FACTOR = 4

_LEAST_SHARE = 1 / 64

# Rounded to 8 bits, a row depends on the other rows of its call (`vniah.models.quantization`).
# Another kernel does not change these calls, but chunks do, so this share is larger: tiny random
# families reach 0.1.
_LEAST_SHARE_IN_8_BITS = 1 / 4

# In half precision, rounding sends a row to another expert where two are nearly as good, and its
# logits may change by any amount. So the check relies on the root mean square over all rows.
_MOST_OF_EXPERTS = 1.0

_LEAST_SHARE_OF_EXPERTS = 1 / 2

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Agreement:
    """How one way of computing logits agrees with the plain forward pass.

    Attributes:
        way: its name, e.g. ``"prefill"``, ``"tree"``, ``"suffixes"`` or ``"ring of 2"``.
        max_difference: largest difference of two logits.
        rms_difference: root mean square of all differences.
        max_logit: the largest logit of the plain forward pass, by magnitude.
        num_rows: number of answer positions that were compared.
        num_equal: number of positions with the same argmax.
        num_ties: number of other positions whose two best logits differ by at most twice
            ``max_difference``.
        max_allowed: the largest ``max_difference`` that passes.
        rms_allowed: the largest ``rms_difference`` that passes.
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
        """Whether rounding explains all differences."""
        return (
            isfinite(self.max_difference)
            and self.max_difference <= self.max_allowed
            and self.rms_difference <= self.rms_allowed
            and self.num_equal + self.num_ties == self.num_rows
        )

    def sentence(self) -> str:
        """The comparison in one sentence."""
        return (
            f"{self.way}: logits differ by {self.rms_difference:.1e} "
            f"({self.rms_allowed:.1e} allowed), at most by {self.max_difference:.1e} "
            f"({self.max_allowed:.1e} allowed); argmax equal in {self.num_equal} of "
            f"{self.num_rows} rows" + (f", {self.num_ties} ties" if self.num_ties else "")
        )

    def record(self) -> Mapping[str, Any]:
        """The comparison for the manifest."""
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


@dataclass(frozen=True)
class RoundingLimit:
    """How much of a difference rounding may explain, as shares of the largest logit.

    Attributes:
        of_max: for the largest difference of two logits.
        of_rms: for the root mean square of all differences.
    """

    of_max: float
    of_rms: float

    @classmethod
    def of(
        cls,
        model: HasDecoder,
        sequences: Sequence[TokenSequence],
        store: FrameStore,
        plain: Sequence[Tensor],
    ) -> "RoundingLimit":
        """The limit, from how much ``plain`` changes under another attention kernel."""
        body = model.decoder.model
        dtype = model.decoder.lm_head.weight.dtype
        tolerance = TOLERANCES.get(dtype, TOLERANCES[torch.float32])
        least = _LEAST_SHARE
        if rounds_rows(body.layers):  # to 8 bits, as many as bfloat16 has
            tolerance = max(tolerance, TOLERANCES[torch.bfloat16])
            least = _LEAST_SHARE_IN_8_BITS
        of_max = tolerance
        if dtype != torch.float32 and num_chosen_experts(body.config):
            of_max, least = _MOST_OF_EXPERTS, _LEAST_SHARE_OF_EXPERTS
        if any(hasattr(attention_of(layer), "sinks") for layer in body.layers):
            # Another kernel of transformers may leave the sinks out, which is no rounding.
            return cls(of_max, min(tolerance, _NOISE_FACTOR * least * tolerance))
        other = "sdpa" if body.config._attn_implementation == "eager" else "eager"
        try:
            with attention_set_to(body, other):
                again = [plain_logits(model, sequence, store) for sequence in sequences]
        except (RuntimeError, ValueError, LookupError, ImportError, NotImplementedError):
            return cls(of_max, tolerance)
        one = torch.cat(list(plain))
        noise = _rms(one - torch.cat(again)) / max(float(one.abs().max()), _TINY)
        return cls(of_max, min(tolerance, max(least * tolerance, _NOISE_FACTOR * noise)))


def compare_logits(
    way: str, plain: Sequence[Tensor], found: Sequence[Tensor], limit: RoundingLimit
) -> Agreement:
    """Compares the logits of one way with the plain ones, ``[rows, vocabulary]`` each."""
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


@torch.inference_mode()
def plain_logits(model: HasDecoder, sequence: TokenSequence, store: FrameStore) -> Tensor:
    """Answer logits by the decoder's own forward, ``[len(answer_ids), vocabulary]`` fp32 on CPU."""
    own = DecoderInputs(model, [sequence], store)
    positions = own.positions(0)
    reset_dynamic_rope(model.decoder.model)
    num_tokens, num_rows = positions.shape[-1], len(sequence.answer_ids)
    hidden = own.embed(sequence.input_pieces, 0, num_tokens)
    inputs: dict[str, Any] = {
        "inputs_embeds": hidden[None],
        "position_ids": positions[None] if positions.ndim == 1 else positions[:, None],
        # Without a mask, transformers takes gaps in the positions for packed sequences.
        "attention_mask": torch.ones(1, num_tokens, device=hidden.device, dtype=torch.long),
        "use_cache": False,
    }
    deep = deepstack_rows(own, sequence.input_pieces, hidden)
    if deep is not None:
        is_frame = own.is_frame(sequence.input_pieces)
        inputs["visual_pos_masks"] = is_frame[None]
        inputs["deepstack_visual_embeds"] = [rows[is_frame] for rows in deep]
    token_ids = own.token_ids(sequence.input_pieces, 0, num_tokens)
    if token_ids is not None:
        of_ids = token_ids[None].to(hidden.device)
        inputs["per_layer_inputs"] = model.decoder.model.get_per_layer_inputs(of_ids)
    images = own.images(sequence.input_pieces)
    window = forced_window(model.decoder.model)
    if window is not None:
        inputs["attention_mask"] = _mask_of_window(window, hidden)
    if images:
        inputs["attention_mask"] = _masks_with_images(model.decoder.model, images, inputs)
    if callable(model.decoder):
        if "logits_to_keep" in signature(model.decoder.forward).parameters:
            inputs["logits_to_keep"] = num_rows
        logits = model.decoder(**inputs).logits[0, -num_rows:]
    else:  # a body and a head that are not one module
        rows = model.decoder.model(**inputs).last_hidden_state[0, -num_rows:]
        logits = head_logits(model.decoder, rows)
    result: Tensor = logits.float().cpu()
    return result


def _mask_of_window(window: int, hidden: Tensor) -> Tensor:
    """What is added to the scores of each row, ``[1, 1, T, T]``: it sees the last tokens only."""
    place = torch.arange(len(hidden), device=hidden.device)
    distance = place[:, None] - place
    hides = (distance < 0) | (distance >= window)
    mask = torch.zeros(hides.shape, dtype=hidden.dtype, device=hidden.device)
    return mask.masked_fill_(hides, torch.finfo(hidden.dtype).min)[None, None]


def _masks_with_images(
    body: Any, images: Sequence[Span], inputs: dict[str, Any]
) -> Mapping[str, Tensor]:
    """The masks of all kinds of layers, as transformers makes them where images see themselves.

    Args:
        body: the decoder's stack of layers.
        images: the tokens of each image.
        inputs: what the decoder's own forward is called with.
    """
    own_module = sys.modules[type(body).__module__]
    hidden, attention_mask = inputs["inputs_embeds"], inputs["attention_mask"]
    image_of = torch.full_like(attention_mask, -1)
    for number, image in enumerate(images):
        image_of[:, slice(*image)] = number
    found: Mapping[str, Tensor] = own_module.create_masks_for_vision_model(
        config=body.config,
        inputs_embeds=hidden,
        attention_mask=attention_mask,
        past_key_values=None,
        position_ids=inputs["position_ids"],
        block_sequence_ids=image_of,
    )
    return found


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
