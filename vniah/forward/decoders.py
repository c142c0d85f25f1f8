"""Which decoders the walk runs exactly; all others are refused, never approximated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from vniah.errors import ModelError
from vniah.forward.attention import Heads

# Decoders whose forward pass is: embed, layers, norm, head, and nothing besides.
ONE_ROW_OF_POSITIONS = ("llama", "mistral", "qwen2", "qwen3")
# These may add rows of a frame to what their first layers give (DeepStack).
DEEP_MODEL_TYPES = ("qwen3_vl_text", "qwen3_vl_moe_text")
THREE_ROWS_OF_POSITIONS = (
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    *DEEP_MODEL_TYPES,
    "glm4v_text",
)
SUPPORTED_MODEL_TYPES = (*ONE_ROW_OF_POSITIONS, *THREE_ROWS_OF_POSITIONS)

# Kinds of RoPE whose frequencies depend on the length of the whole sequence.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


_PARTS = ("model.config", "model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb")


def refuse_unknown(decoder: Any) -> None:
    """Raises `ModelError` unless the walk knows the parts of the decoder."""
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


def refuse_unsupported(decoder: Any, num_tokens: int) -> None:
    """Raises `ModelError` for what would give wrong numbers silently.

    Args:
        decoder: a transformers causal language model.
        num_tokens: length of the sequence that it is to read.
    """
    refuse_unknown(decoder)
    if decoder.model.training:
        raise ModelError("the decoder is in training mode, where dropout is on; call its eval()")
    config = decoder.model.config
    is_causal = all(getattr(layer.self_attn, "is_causal", True) for layer in decoder.model.layers)
    if getattr(config, "use_bidirectional_attention", None) or not is_causal:
        raise ModelError(
            "the decoder attends in both directions, and the forward pass to what comes before "
            "only; give the model an answer_logits method instead"
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
    """How far back the decoder sees, if not to the beginning."""
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and "sliding_attention" not in layer_types:
        return None
    return window


@contextmanager
def attention_set_to(body: Any, name: str) -> Iterator[None]:
    """Has the decoder's layers call an attention function of transformers, and puts back theirs."""
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
    """Whether RoPE turns a token by an angle that depends on what follows it."""
    return any(kind in str(body.rotary_emb.rope_type) for kind in LENGTH_DEPENDENT_ROPE)


def forget_longer_sequences(body: Any) -> None:
    """Sets dynamic RoPE back: it would go on with what a longer sequence has set."""
    rotary = body.rotary_emb
    if "dynamic" in str(rotary.rope_type):
        rotary.inv_freq = rotary.original_inv_freq
        rotary.max_seq_len_cached = rotary.original_max_seq_len


def refuse_positions(decoder: Any, position_ids: Tensor, num_tokens: int) -> None:
    """Raises `ModelError` unless there is a position, or three where M-RoPE is, for each token."""
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
