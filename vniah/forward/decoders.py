"""Which decoders the forward pass runs exactly; all others are refused, never approximated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from vniah.errors import ModelError
from vniah.forward.attention import Heads

# Decoders whose forward pass is: embed, layers, norm, head, and nothing besides.
ONE_ROW_OF_POSITIONS = ("llama", "mistral", "qwen2", "qwen3")
# These may add features of a frame to its rows after their first layers (DeepStack).
DEEPSTACK_MODEL_TYPES = ("qwen3_vl_text", "qwen3_vl_moe_text", "qwen3_omni_moe_text")
THREE_ROWS_OF_POSITIONS = (
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    *DEEPSTACK_MODEL_TYPES,
    "qwen2_5_omni_text",
    "glm4v_text",
    "glm4v_moe_text",
)
SUPPORTED_MODEL_TYPES = (*ONE_ROW_OF_POSITIONS, *THREE_ROWS_OF_POSITIONS)

# Kinds of RoPE whose frequencies depend on the length of the whole sequence.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


_PARTS = ("model.config", "model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb")


def require_known_decoder(decoder: Any) -> None:
    """Raises `ModelError` unless the forward pass knows the decoder and all of its parts."""
    model_type = getattr(getattr(decoder, "config", None), "model_type", None)
    for path in (*_PARTS, "lm_head"):
        part = decoder
        for name in path.split("."):
            part = getattr(part, name, None)
        if part is None:
            raise ModelError(
                f"the decoder, {model_type or type(decoder).__name__}, has no {path}; give the "
                "model a causal language model of transformers, or an answer_logits method instead"
            )
    model_type = decoder.model.config.model_type
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise ModelError(
            f"the forward pass knows the decoders {', '.join(SUPPORTED_MODEL_TYPES)}, "
            f"got model_type {model_type!r}; give the model an answer_logits method instead"
        )


def require_supported(decoder: Any, num_tokens: int) -> None:
    """Raises `ModelError` if the decoder computes anything that the forward pass leaves out.

    Args:
        decoder: a transformers causal language model.
        num_tokens: tokens of the longest sequence that it is to read.
    """
    require_known_decoder(decoder)
    if decoder.model.training:
        raise ModelError("the decoder is in training mode, where dropout is on; call its eval()")
    config = decoder.model.config
    is_causal = all(getattr(layer.self_attn, "is_causal", True) for layer in decoder.model.layers)
    if getattr(config, "use_bidirectional_attention", None) or not is_causal:
        raise ModelError(
            "the decoder attends in both directions, and the forward pass only to earlier tokens; "
            "give the model an answer_logits method instead"
        )
    window = sliding_window(config)
    if window is not None and window < num_tokens:
        raise ModelError(
            f"the decoder has a sliding window of {window} tokens, the sequence has {num_tokens}: "
            "it cannot see the whole haystack; set sliding_window to null in its config.json "
            "if it was trained without one"
        )


def heads_of(body: Any) -> Heads:
    """How many attention heads a decoder's stack of layers has, and their size."""
    config = body.config
    return Heads(
        config.num_attention_heads, config.num_key_value_heads, body.layers[0].self_attn.head_dim
    )


def sliding_window(config: Any) -> int | None:
    """The number of tokens to which a row attends; None if it attends to all before it."""
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and "sliding_attention" not in layer_types:
        return None
    return window


@contextmanager
def attention_set_to(body: Any, name: str) -> Iterator[None]:
    """Has the decoder's layers call another attention function of transformers inside the block.

    Args:
        body: the decoder's stack of layers.
        name: of the attention function.
    """
    configs = {id(c): c for c in (body.config, *(layer.self_attn.config for layer in body.layers))}
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
    return any(kind in str(body.rotary_emb.rope_type) for kind in LENGTH_DEPENDENT_ROPE)


def reset_dynamic_rope(body: Any) -> None:
    """Sets dynamic RoPE back to its first frequencies; a longer sequence may have changed them."""
    rotary = body.rotary_emb
    if "dynamic" in str(rotary.rope_type):
        rotary.inv_freq = rotary.original_inv_freq
        rotary.max_seq_len_cached = rotary.original_max_seq_len


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
