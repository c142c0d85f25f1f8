"""One forward pass over a very long sequence, layer by layer and tile by tile, with no KV cache.

A transformers decoder runs all layers on all rows at once, or keeps the keys and values of every
layer. Here all rows go through layer 0, then all through layer 1, and so on, and within a layer in
tiles of some thousand rows. Alive at any time are

    hidden      [T, H]            the rows between two layers, updated in place
    k, v        [1, Hk, T, D]     of the present layer only
    one tile    [tile, ...]       inside the unmodified transformers layer

A registered attention function writes the tile's keys and values into the layer's buffer and
attends to [the tile itself, causal | all earlier keys]; the two parts merge by log-sum-exp. In the
last layer only the rows that are asked for run to the end; the others stop after their keys and
values.

T tokens, H hidden size, Hk key/value heads, D head size, L layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from vniah.errors import ModelError
from vniah.forward.attention import KeyBlock, attend

TILE_SIZE = 2048

# Decoders whose forward pass is: embed, layers, norm, head, and nothing besides.
SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")

# Must not contain "flash": transformers builds masks for such names, and none for unknown ones.
_ATTENTION_NAME = "vniah_walk"

_ONE_WALK = Lock()


class _KeysValuesDone(Exception):
    """Not an error: leaves the last layer once a tile's keys and values are in the buffer."""


@dataclass
class _Tile:
    """What the attention function has to know of the rows that it is called for.

    Attributes:
        k: the layer's buffer, ``[1, Hk, T, D]``.
        v: the layer's buffer, ``[1, Hk, T, D]``.
        start: the first row.
        stop: one past the last row.
        is_read: False where only keys and values are wanted.
        is_stored: whether the attention function has been here; it sets this.
    """

    k: Tensor
    v: Tensor
    start: int
    stop: int
    is_read: bool
    is_stored: bool = False


@torch.inference_mode()
def walk(
    decoder: Any,
    hidden: Tensor,
    position_ids: Tensor,
    *,
    num_rows: int,
    tile_size: int = TILE_SIZE,
) -> Tensor:
    """The last ``num_rows`` rows after the final norm, ``[num_rows, H]``.

    Args:
        decoder: a transformers causal language model, e.g. ``Qwen2ForCausalLM``: anything with
            its ``model`` and ``lm_head``.
        hidden: input embeddings ``[T, H]`` in the decoder's dtype; overwritten.
        position_ids: ``[T]``; none of the supported decoders has three rows of them.
        num_rows: how many rows to read, at the end of the sequence.
        tile_size: rows that go through a layer at once; changes memory and speed, not the result.

    Raises:
        ModelError: the decoder does something that the walk cannot do exactly.
    """
    num_tokens = hidden.shape[0]
    assert 1 <= num_rows <= num_tokens and tile_size >= 1
    refuse_unsupported(decoder, num_tokens)
    if tuple(position_ids.shape) != (num_tokens,):
        raise ModelError(
            f"the decoder needs one position for each of {num_tokens} tokens, "
            f"got position_ids of shape {tuple(position_ids.shape)}"
        )
    body = decoder.model
    cos, sin = body.rotary_emb(hidden[None], position_ids[None])
    k, v = _layer_buffers(body, hidden)
    rows = hidden[None]
    with _walk_attention(body):
        for index, layer in enumerate(body.layers):
            is_last = index == len(body.layers) - 1
            for start, stop in _tiles(num_tokens, num_rows, tile_size):
                is_read = not is_last or start >= num_tokens - num_rows
                tile = _Tile(k, v, start, stop, is_read)
                with suppress(_KeysValuesDone):
                    rows[:, start:stop] = layer(
                        rows[:, start:stop],
                        position_embeddings=(cos[:, start:stop], sin[:, start:stop]),
                        attention_mask=None,
                        position_ids=None,
                        use_cache=False,
                        vniah_tile=tile,
                    )
                if not tile.is_stored:
                    raise ModelError(
                        f"layer {index} of the decoder attends in a way of its own, past the "
                        "forward pass; give the model an answer_logits method instead"
                    )
    return body.norm(hidden[num_tokens - num_rows :])  # type: ignore[no-any-return]


@torch.inference_mode()
def answer_logits(
    decoder: Any,
    hidden: Tensor,
    position_ids: Tensor,
    *,
    num_rows: int,
    tile_size: int = TILE_SIZE,
) -> Tensor:
    """Logits of the last rows, ``[num_rows, vocabulary]`` fp32; arguments as `walk`."""
    rows = walk(decoder, hidden, position_ids, num_rows=num_rows, tile_size=tile_size)
    return decoder.lm_head(rows).float()  # type: ignore[no-any-return]


def refuse_unsupported(decoder: Any, num_tokens: int) -> None:
    """Raises `ModelError` for what would give wrong numbers silently.

    Args:
        decoder: a transformers causal language model.
        num_tokens: length of the sequence that it is to read.
    """
    if decoder.model.training:
        raise ModelError("the decoder is in training mode, where dropout is on; call its eval()")
    config = decoder.model.config
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        raise ModelError(
            f"the forward pass knows the decoders {', '.join(SUPPORTED_MODEL_TYPES)}, "
            f"got model_type {config.model_type!r}; give the model an answer_logits method instead"
        )
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and "sliding_attention" not in layer_types:
        window = None
    if window is not None and window < num_tokens:
        raise ModelError(
            f"the decoder has a sliding window of {window} tokens, the sequence has {num_tokens}: "
            "it cannot see the whole haystack; set sliding_window to null in its config.json "
            "if it was trained without one"
        )


def _tiles(num_tokens: int, num_rows: int, tile_size: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges that cover the sequence; the rows to be read start a tile of their own."""
    border = num_tokens - num_rows
    for begin, end in ((0, border), (border, num_tokens)):
        for start in range(begin, end, tile_size):
            yield start, min(start + tile_size, end)


def _layer_buffers(body: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Room for one layer's keys and values, ``[1, Hk, T, D]`` each."""
    heads = body.config.num_key_value_heads
    size = body.layers[0].self_attn.head_dim
    shape = (1, heads, hidden.shape[0], size)
    return hidden.new_empty(shape), hidden.new_empty(shape)


@contextmanager
def _walk_attention(body: Any) -> Iterator[None]:
    """Has the decoder's layers call `_tile_attention`, and puts back what they called before.

    That is a setting of the decoder's, so one walk runs at a time.
    """
    AttentionInterface.register(_ATTENTION_NAME, _tile_attention)
    configs = {id(c): c for c in (body.config, *(layer.self_attn.config for layer in body.layers))}
    with _ONE_WALK:
        earlier = {key: config._attn_implementation for key, config in configs.items()}
        for config in configs.values():
            config._attn_implementation = _ATTENTION_NAME
        try:
            yield
        finally:
            for key, config in configs.items():
                config._attn_implementation = earlier[key]


def _tile_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    vniah_tile: _Tile,
    scaling: float | None = None,
    softcap: float | None = None,
    **_ignored: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it: ``query`` is ``[1, Hq, tile, D]``."""
    assert attention_mask is None and query.shape[0] == 1
    if softcap is not None:
        raise ModelError("soft-capped attention scores are not supported by the forward pass")
    tile = vniah_tile
    tile.k[:, :, tile.start : tile.stop] = key
    tile.v[:, :, tile.start : tile.stop] = value
    tile.is_stored = True
    if not tile.is_read:
        raise _KeysValuesDone
    blocks = [KeyBlock(key, value, is_causal=True)]
    if tile.start:
        blocks.append(KeyBlock(tile.k[:, :, : tile.start], tile.v[:, :, : tile.start]))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, blocks, scale=scale).transpose(1, 2).contiguous(), None
