"""One forward pass over a very long sequence, layer by layer and tile by tile, with no KV cache.

A transformers decoder runs all layers on all rows at once, or keeps the keys and values of every
layer. Here all rows go through layer 0, then all through layer 1, and so on, and within a layer in
tiles of some thousand rows. Alive at any time are

    hidden      [T, H]            the rows between two layers, updated in place
    k, v        [1, Hk, T, D]     of the present layer only (`vniah.forward.keys`)
    one tile    [tile, ...]       inside the unmodified transformers layer

A registered attention function puts the tile's keys and values into the layer's buffer and attends
to [the tile itself, causal | all earlier keys]; the two parts merge by log-sum-exp.

A pass may go on from a prefix whose keys and values are stored, and may store its own. What is read
are leaves: short groups of rows, each behind its own prefix of the pass. They go through the layer
together, after the main rows; in the last layer the main rows stop after their keys and values.

T tokens, H hidden size, Hq and Hk heads of queries and of keys/values, D head size, R leaf rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from vniah.errors import ModelError
from vniah.forward.attention import KeyBlock, attend, attend_block, merge
from vniah.forward.keys import Kept, LayerKeys, Layout, Span
from vniah.forward.ring import Ring

TILE_SIZE = 2048

# Decoders whose forward pass is: embed, layers, norm, head, and nothing besides.
ONE_ROW_OF_POSITIONS = ("llama", "mistral", "qwen2", "qwen3")
THREE_ROWS_OF_POSITIONS = ("qwen2_vl_text", "qwen2_5_vl_text")
SUPPORTED_MODEL_TYPES = (*ONE_ROW_OF_POSITIONS, *THREE_ROWS_OF_POSITIONS)

# Kinds of RoPE whose frequencies depend on the length of the whole sequence.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")

# Must not contain "flash": transformers builds masks for such names, and none for unknown ones.
_ATTENTION_NAME = "vniah_walk"

_ROPE_BLOCK = 16384
_ONE_WALK = Lock()


class _KeysValuesDone(Exception):
    """Not an error: leaves the layer once a tile's keys and values are in the buffer."""


@dataclass(frozen=True)
class LeafRows:
    """Rows that are read, at the end of a sequence.

    Attributes:
        start: tokens before the first of them.
        hidden: input embeddings ``[n, H]``.
        position_ids: ``[n]``, or ``[3, n]``.
        num_rows: so many rows are read, at their end.
    """

    start: int
    hidden: Tensor
    position_ids: Tensor
    num_rows: int


@torch.inference_mode()
def walk(
    decoder: Any,
    hidden: Tensor,
    position_ids: Tensor,
    leaves: Sequence[LeafRows],
    *,
    past: Sequence[Kept] = (),
    keep: Kept | None = None,
    tile_size: int = TILE_SIZE,
    ring: Ring | None = None,
) -> list[Tensor]:
    """One pass; gives the logits that are read, ``[num_rows, vocabulary]`` fp32 for each leaf.

    Args:
        decoder: a transformers causal language model, e.g. ``Qwen2ForCausalLM``: anything with
            its ``model`` and ``lm_head``.
        hidden: input embeddings ``[T, H]`` of the main rows in the decoder's dtype; overwritten.
            With a ring, those of this rank (`Ring.share`).
        position_ids: of all main rows, ``[T]``, or ``[3, T]`` for M-RoPE.
        leaves: what is read; all start between the past's end and the main rows' end.
        past: keys and values of everything before the main rows, parents first.
        keep: where to store this pass's own.
        tile_size: rows that go through a layer at once; changes memory and speed, not the result.
        ring: the processes that run this pass together.

    Raises:
        ModelError: the decoder does something that the walk cannot do exactly.
    """
    assert tile_size >= 1
    body = decoder.model
    start = past[-1].stop if past else 0
    stop = start + position_ids.shape[-1]
    assert all(start <= leaf.start <= stop for leaf in leaves)
    refuse_unsupported(decoder, max([stop, *(leaf.start + len(leaf.hidden) for leaf in leaves)]))
    refuse_positions(decoder, position_ids, stop - start)

    main = Layout.whole(start, stop) if ring is None else ring.layout(start, stop)
    rank = 0 if ring is None else ring.rank
    assert len(hidden) == main.num_rows(rank)
    keys = LayerKeys(body, past, main, rank=rank, like=hidden)
    angles, leaf_angles = _rotate(body, hidden, position_ids, start, main.spans[rank], leaves)
    rows = _Rows(hidden, angles)
    whole = None if ring is None or not ring.takes_whole(keys) else _WholeShare(ring, keys)
    groups = list(_groups(leaves, leaf_angles, tile_size))
    tiles = list(_tiles(main, rank, tile_size))
    with _walk_attention(body):
        for index, layer in enumerate(body.layers):
            is_last = index == len(body.layers) - 1
            keys.load(index)
            if ring is not None or is_last:  # no rank attends before all of them have their keys
                for tile in tiles:
                    _run(layer, index, rows, _MainTile(keys, tile, ring, whole, attends=False))
            if not is_last:
                if whole is not None:
                    whole.attend()
                for tile in tiles:
                    _run(layer, index, rows, _MainTile(keys, tile, ring, whole, attends=True))
            if keep is not None:
                keys.save(index, keep)
            for group in groups:
                _run(layer, index, group.rows, _LeafAttention(keys, group.leaves, ring))
    return [logits for group in groups for logits in group.read(decoder)]


@torch.inference_mode()
def answer_logits(
    decoder: Any,
    hidden: Tensor,
    position_ids: Tensor,
    *,
    num_rows: int,
    tile_size: int = TILE_SIZE,
) -> Tensor:
    """Logits of the last rows of one sequence, ``[num_rows, vocabulary]`` fp32.

    Args:
        decoder: as `walk`.
        hidden: input embeddings of the whole sequence, ``[T, H]``; overwritten.
        position_ids: ``[T]``, or ``[3, T]``.
        num_rows: how many rows to read, at its end.
        tile_size: as `walk`.
    """
    start = len(hidden) - num_rows
    assert num_rows >= 1 and start >= 0
    refuse_positions(decoder, position_ids, len(hidden))
    leaf = LeafRows(start, hidden[start:], position_ids[..., start:], num_rows)
    (logits,) = walk(
        decoder, hidden[:start], position_ids[..., :start], [leaf], tile_size=tile_size
    )
    return logits


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


def sliding_window(config: Any) -> int | None:
    """How far back the decoder sees, if not to the beginning."""
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and "sliding_attention" not in layer_types:
        return None
    return window


def depends_on_length(body: Any) -> bool:
    """Whether RoPE turns a token by an angle that depends on what follows it."""
    return any(kind in str(body.rotary_emb.rope_type) for kind in LENGTH_DEPENDENT_ROPE)


def refuse_positions(decoder: Any, position_ids: Tensor, num_tokens: int) -> None:
    """Raises `ModelError` unless there is a position, or three where M-RoPE is, for each token."""
    model_type = decoder.model.config.model_type
    shapes = [(num_tokens,), (3, num_tokens)]
    if model_type not in THREE_ROWS_OF_POSITIONS:
        shapes.pop()
    if tuple(position_ids.shape) not in shapes:
        raise ModelError(
            f"the decoder {model_type} needs one position for each of {num_tokens} tokens, "
            f"position_ids of shape {' or '.join(map(str, shapes))}, "
            f"got {tuple(position_ids.shape)}"
        )


@dataclass
class _Rows:
    """Rows on their way through the layers, ``[n, H]``, and their RoPE: ``[2, 1, n, D]``."""

    hidden: Tensor
    angles: Tensor


@dataclass
class _Group:
    """Some leaves whose rows go through the layers together."""

    leaves: Sequence[LeafRows]
    rows: _Rows

    def read(self, decoder: Any) -> Iterator[Tensor]:
        """Every leaf's logits."""
        stop = 0
        for leaf in self.leaves:
            stop += len(leaf.hidden)
            rows = self.rows.hidden[stop - leaf.num_rows : stop]
            yield decoder.lm_head(decoder.model.norm(rows)).float()


def _groups(leaves: Sequence[LeafRows], angles: Tensor, most: int) -> Iterator[_Group]:
    """Consecutive leaves with up to ``most`` rows together, or one with more."""
    first = row = 0
    while first < len(leaves):
        last, num_rows = first + 1, len(leaves[first].hidden)
        while last < len(leaves) and num_rows + len(leaves[last].hidden) <= most:
            num_rows += len(leaves[last].hidden)
            last += 1
        hidden = torch.cat([leaf.hidden for leaf in leaves[first:last]])
        yield _Group(leaves[first:last], _Rows(hidden, angles[:, :, row : row + num_rows]))
        first, row = last, row + num_rows


@dataclass(frozen=True)
class _Tile:
    """Main rows of this process that go through a layer together.

    Attributes:
        rows: which of them.
        start: tokens before the first.
    """

    rows: slice
    start: int


def _tiles(main: Layout, rank: int, tile_size: int) -> Iterator[_Tile]:
    """All main rows of a rank; none reaches from one of its spans into the next."""
    for span, row in main.located(rank):
        for first in range(0, span.num_tokens, tile_size):
            last = min(first + tile_size, span.num_tokens)
            yield _Tile(slice(row + first, row + last), span.start + first)


def _run(layer: Any, index: int, rows: _Rows, attention: "_MainTile | _LeafAttention") -> None:
    """Takes some rows through a layer, in place."""
    part = attention.rows
    with suppress(_KeysValuesDone):
        rows.hidden[part] = layer(
            rows.hidden[None, part],
            position_embeddings=(rows.angles[0, :, part], rows.angles[1, :, part]),
            attention_mask=None,
            position_ids=None,
            use_cache=False,
            vniah_attention=attention,
        )[0]
    if not attention.was_called:
        raise ModelError(
            f"layer {index} of the decoder attends in a way of its own, past the "
            "forward pass; give the model an answer_logits method instead"
        )


class _WholeShare:
    """The queries of all rows of this rank, then in their place what they attended to.

    For a ring that wants them together.

    Args:
        ring: does the work.
        keys: of the layer.
    """

    def __init__(self, ring: Ring, keys: LayerKeys) -> None:
        self._ring = ring
        self._keys = keys
        self._rows: Tensor | None = None
        self._scale = 0.0

    def put(self, q: Tensor, row: int, scale: float) -> None:
        """Takes in a tile's queries, ``[1, Hq, tile, D]``, from ``row`` on."""
        if self._rows is None:
            self._rows = q.new_empty(1, q.shape[1], self._keys.k.shape[2], q.shape[3])
        self._rows[:, :, row : row + q.shape[2]] = q
        self._scale = scale

    def attend(self) -> None:
        """Puts results in place of queries."""
        assert self._rows is not None
        self._ring.attend_whole(self._rows, self._keys, scale=self._scale)

    def get(self, rows: slice) -> Tensor:
        """The results of a tile."""
        assert self._rows is not None
        return self._rows[:, :, rows]


@dataclass
class _MainTile:
    """Attention of a tile to itself and to everything before.

    Attributes:
        keys: of the layer.
        tile: which rows.
        ring: the other processes, if there are any.
        whole: where a ring wants the queries of all tiles together.
        attends: False where only keys and values are wanted.
        was_called: whether the layer has called it.
    """

    keys: LayerKeys
    tile: _Tile
    ring: Ring | None
    whole: _WholeShare | None
    attends: bool
    was_called: bool = False

    @property
    def rows(self) -> slice:
        return self.tile.rows

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        self.was_called = True
        self.keys.put(self.rows.start, k, v)
        if not self.attends:
            if self.whole is not None:
                self.whole.put(q, self.rows.start, scale)
            raise _KeysValuesDone
        if self.whole is not None:
            return self.whole.get(self.rows)
        if self.ring is not None:
            return self.ring.attend(q, k, v, self.tile.start, self.keys, scale=scale)
        before = [KeyBlock(*part) for part in self.keys.between(0, self.tile.start)]
        return attend(q, [KeyBlock(k, v, is_causal=True), *before], scale=scale)


@dataclass
class _LeafAttention:
    """Attention of many leaves, each to itself and to its own prefix of the pass.

    Leaves are in the order of their prefixes, so that the keys between two of their starts are
    seen by all leaves from the second on: one call for them together.
    """

    keys: LayerKeys
    leaves: Sequence[LeafRows]
    ring: Ring | None
    was_called: bool = False

    @property
    def rows(self) -> slice:
        return slice(None)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        self.was_called = True
        out, lse = self._attend_themselves(q, k, v, scale)
        if self.ring is None:
            self._attend_prefixes(q, out, lse, scale)
        else:
            part = torch.zeros_like(out), torch.full_like(lse, -torch.inf)
            self._attend_prefixes(q, *part, scale)
            for other in self.ring.gather(*part):
                out, lse = merge(out, lse, *other)
        return out.to(q.dtype)

    def _attend_themselves(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Each leaf's rows to one another, equally long ones in one call: fp32 out and lse."""
        out = q.new_empty(q.shape, dtype=torch.float32)
        lse = q.new_empty(q.shape[:-1], dtype=torch.float32)
        row = 0
        for size, alike in groupby(len(leaf.hidden) for leaf in self.leaves):
            num_leaves = len(list(alike))
            rows = slice(row, row + num_leaves * size)
            shape = (num_leaves, size)
            block = KeyBlock(_split(k[:, :, rows], shape), _split(v[:, :, rows], shape), True)
            part, part_lse = attend_block(_split(q[:, :, rows], shape), block, scale=scale)
            out[0, :, rows] = part.transpose(0, 1).flatten(1, 2)
            lse[0, :, rows] = part_lse.transpose(0, 1).flatten(1, 2)
            row = rows.stop
        return out, lse

    def _attend_prefixes(self, q: Tensor, out: Tensor, lse: Tensor, scale: float) -> None:
        """Merges what the leaves see of the pass and of what goes before into ``out``, ``lse``."""
        done = row = 0
        for start, alike in groupby(self.leaves, key=lambda leaf: leaf.start):
            rows = slice(row, None)
            for k, v in self.keys.between(done, start):
                part = attend_block(q[:, :, rows], KeyBlock(k, v), scale=scale)
                out[:, :, rows], lse[:, :, rows] = merge(out[:, :, rows], lse[:, :, rows], *part)
            done, row = start, row + sum(len(leaf.hidden) for leaf in alike)


def _split(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """``[1, heads, leaves x rows, D]`` as ``[leaves, heads, rows, D]``."""
    return x[0].view(x.shape[1], *shape, x.shape[3]).transpose(0, 1)


def _rotate(
    body: Any,
    hidden: Tensor,
    position_ids: Tensor,
    start: int,
    spans: Sequence[Span],
    leaves: Sequence[LeafRows],
) -> tuple[Tensor, Tensor]:
    """RoPE's cos and sin of this process's main rows and of all leaves: ``[2, 1, n, D]`` each."""
    rotary = body.rotary_emb
    if "dynamic" in str(rotary.rope_type):  # it would go on with what a longer sequence has set
        rotary.inv_freq = rotary.original_inv_freq
        rotary.max_seq_len_cached = rotary.original_max_seq_len
    num_main, device = position_ids.shape[-1], hidden.device
    positions = torch.cat([position_ids, *(leaf.position_ids for leaf in leaves)], -1).to(device)
    own = [torch.arange(*span, device=device) - start for span in spans]
    rows = torch.cat(own).clamp(max=max(0, num_main - 1))  # of padding, those of the last
    if depends_on_length(body):
        table = _angles(rotary, hidden, positions)
        return table[:, :, rows], table[:, :, num_main:]
    main = [_angles(rotary, hidden, positions[..., x]) for x in torch.split(rows, _ROPE_BLOCK)]
    return torch.cat(main, dim=2), _angles(rotary, hidden, positions[..., num_main:])


def _angles(rotary: Any, like: Tensor, positions: Tensor) -> Tensor:
    shaped = positions[None] if positions.ndim == 1 else positions[:, None]
    return torch.stack(rotary(like[None], shaped))


@contextmanager
def _walk_attention(body: Any) -> Iterator[None]:
    """Has the decoder's layers call `_attention`, and puts back what they called before.

    That is a setting of the decoder's, so one walk runs at a time.
    """
    AttentionInterface.register(_ATTENTION_NAME, _attention)
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


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    vniah_attention: _MainTile | _LeafAttention,
    scaling: float | None = None,
    softcap: float | None = None,
    **_ignored: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it: ``query`` is ``[1, Hq, n, D]``."""
    assert attention_mask is None and query.shape[0] == 1
    if softcap is not None:
        raise ModelError("soft-capped attention scores are not supported by the forward pass")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return vniah_attention(query, key, value, scale).transpose(1, 2).contiguous(), None
