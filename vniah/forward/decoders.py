"""Which decoders the forward pass runs exactly; all others are refused, never approximated."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vniah.errors import ModelError

# Decoders whose forward pass is: embed, layers, norm, head, and nothing besides.
ONE_ROW_OF_POSITIONS = (
    *("llama", "mistral", "qwen2", "qwen3"),
    *("gemma3_text", "gemma4_text", "cohere", "cohere2", "exaone4", "ministral3", "gpt_oss"),
    *("llama4_text", "deepseek_v3", "mistral4", "nemotron_h", "lfm2", "lfm3"),
)
# These may add features of a frame to its rows after their first layers (DeepStack).
DEEPSTACK_MODEL_TYPES = ("qwen3_vl_text", "qwen3_vl_moe_text", "qwen3_omni_moe_text")
THREE_ROWS_OF_POSITIONS = (
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    *DEEPSTACK_MODEL_TYPES,
    *("glm4v_text", "qwen3_5_text", "qwen3_5_moe_text"),
    *("qwen2_5_omni_text", "glm4v_moe_text"),
)
SUPPORTED_MODEL_TYPES = (*ONE_ROW_OF_POSITIONS, *THREE_ROWS_OF_POSITIONS)

# Decoders whose RoPE rotates the first half of a head's numbers with the second.
ROTATING_HALVES = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text"),
    *("qwen3_vl_text", "qwen3_vl_moe_text"),
)
# These multiply their logits by ``logit_scale``.
_SCALED_LOGITS = ("cohere", "cohere2")
# What a config may ask for that is left out here, and the value with which it asks for nothing.
_LEFT_OUT: Mapping[str, Any] = {
    "attn_logit_softcapping": None,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
}
# What of this the forward pass computes for some decoders.
_KNOWN_OF: Mapping[str, tuple[str, ...]] = {
    "gemma4_text": ("hidden_size_per_layer_input", "num_kv_shared_layers"),
}

# Kinds of RoPE whose frequencies depend on the length of the whole sequence.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


# What layers call their attention.
ATTENTION_PARTS = ("self_attn", "mixer")

# What a decoder has, and how each part may be called.
_PARTS = (
    ("model.config",),
    ("model.embed_tokens", "model.embeddings"),
    ("model.layers",),
    ("model.norm", "model.norm_f", "model.embedding_norm"),
    ("lm_head",),
)


def require_known_decoder(decoder: Any) -> None:
    """Raises `ModelError` unless the forward pass knows the decoder and all of its parts."""
    model_type = getattr(getattr(decoder, "config", None), "model_type", None)
    for paths in _PARTS:
        if _part(decoder, paths) is None:
            raise ModelError(
                f"the decoder, {model_type or type(decoder).__name__}, has no {paths[0]}; give the "
                "model a causal language model of transformers, or an answer_logits method instead"
            )
    model_type = decoder.model.config.model_type
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise ModelError(
            f"the forward pass knows the decoders {', '.join(SUPPORTED_MODEL_TYPES)}, "
            f"got model_type {model_type!r}; give the model an answer_logits method instead"
        )


def _part(decoder: Any, paths: Sequence[str]) -> Any:
    """The part at the first of some paths where there is one; None if there is none."""
    for path in paths:
        part = decoder
        for name in path.split("."):
            part = getattr(part, name, None)
        if part is not None:
            return part
    return None


def embedding_of(decoder: Any) -> Any:
    """The embedding of a decoder's tokens, a module with the weight ``[vocabulary, H]``."""
    return _part(decoder, _PARTS[1])


def require_supported(decoder: Any) -> None:
    """Raises `ModelError` if the decoder computes anything that the forward pass leaves out.

    What its layers compute is known from `vniah.forward.kinds.choosing`; this is all else.
    """
    require_known_decoder(decoder)
    if decoder.model.training:
        raise ModelError("the decoder is in training mode, where dropout is on; call its eval()")
    config = decoder.model.config
    for name, neutral in _LEFT_OUT.items():
        value = getattr(config, name, None)
        if value and value != neutral and name not in _KNOWN_OF.get(config.model_type, ()):
            raise ModelError(
                f"the decoder {config.model_type} has {name} = {value} in its config.json, which "
                "the forward pass leaves out; give the model an answer_logits method instead"
            )
    if getattr(config, "use_bidirectional_attention", None) not in (None, False, "vision"):
        raise ModelError(
            "the decoder attends in both directions, and the forward pass only to earlier tokens; "
            "give the model an answer_logits method instead"
        )


def layer_input_size(config: Any) -> int:
    """Numbers that each layer gets of a token besides its row; 0 for most decoders."""
    return int(getattr(config, "hidden_size_per_layer_input", None) or 0)


def num_chosen_experts(config: Any) -> int | None:
    """By how many experts of a layer a row is computed; None for a decoder without experts.

    The Llama 4 of transformers computes every row by all experts, and multiplies by 0.
    """
    if config.model_type == "llama4_text":
        return int(config.num_local_experts)
    if getattr(config, "enable_moe_block", True) is False:
        return None
    names = ("num_experts_per_tok", "top_k_experts")
    return next((found for name in names if (found := getattr(config, name, None))), None)


def logits_of(decoder: Any, rows: Tensor) -> Tensor:
    """What the decoder predicts after rows behind its last layer, ``[n, H]``.

    Returns:
        ``[n, vocabulary]`` fp32.
    """
    return head_logits(decoder, _part(decoder, _PARTS[3])(rows))


def head_logits(decoder: Any, normed: Tensor) -> Tensor:
    """The same after rows that went through the decoder's last norm."""
    config = decoder.model.config
    logits = decoder.lm_head(normed)
    if config.model_type in _SCALED_LOGITS:
        logits = logits * config.logit_scale
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    found: Tensor = logits.float()
    return found


@contextmanager
def attention_set_to(body: Any, name: str) -> Iterator[None]:
    """Has the decoder's layers call another attention function of transformers inside the block.

    Args:
        body: the decoder's stack of layers.
        name: of the attention function.
    """
    parts = (getattr(layer, name, None) for layer in body.layers for name in ATTENTION_PARTS)
    own = (part.config for part in parts if part is not None and hasattr(part, "config"))
    configs = {id(config): config for config in (body.config, *own)}
    earlier = {key: config._attn_implementation for key, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = name
    try:
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = earlier[key]


def depends_on_length(body: Any) -> bool:
    """True if the angle by which RoPE rotates a token depends on the length of the sequence."""
    rope_type = str(getattr(getattr(body, "rotary_emb", None), "rope_type", None))
    return any(kind in rope_type for kind in LENGTH_DEPENDENT_ROPE)


def reset_dynamic_rope(body: Any) -> None:
    """Sets dynamic RoPE back to its first frequencies; a longer sequence may have changed them."""
    rotary = getattr(body, "rotary_emb", None)
    if rotary is None:
        return
    kinds = rotary.rope_type
    if isinstance(kinds, str):
        if "dynamic" in kinds:
            rotary.inv_freq = rotary.original_inv_freq
            rotary.max_seq_len_cached = rotary.original_max_seq_len
        return
    for layer_type, kind in kinds.items():  # one for each kind of layer
        if "dynamic" in kind:
            setattr(
                rotary, f"{layer_type}_inv_freq", getattr(rotary, f"{layer_type}_original_inv_freq")
            )
            setattr(rotary, f"{layer_type}_max_seq_len_cached", rotary.original_max_seq_len)


def require_positions(decoder: Any, position_ids: Tensor, num_tokens: int) -> None:
    """Raises `ModelError` unless every token has a position, or three if the decoder has M-RoPE."""
    model_type = decoder.model.config.model_type
    shapes = [(num_tokens,), (3, num_tokens)]
    if model_type not in THREE_ROWS_OF_POSITIONS:
        shapes.pop()
    found = tuple(position_ids.shape) if isinstance(position_ids, Tensor) else None
    if found not in shapes:
        raise ModelError(
            f"the decoder {model_type} needs one position for each of {num_tokens} tokens, "
            f"position_ids of shape {' or '.join(map(str, shapes))}, "
            f"got {type(position_ids).__name__ if found is None else found}"
        )
