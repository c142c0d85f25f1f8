"""One forward pass over a very long sequence, layer by layer and tile by tile, with no KV cache.

A transformers decoder runs all layers on all rows at once, or keeps the keys and values of every
layer. Here all rows go through layer 0, then all through layer 1, and so on, and within a layer in
tiles of some thousand rows. Alive at any time are

    hidden      [T, H]            the rows between two layers, updated in place
    k, v        [1, Hk, T, D]     of the present layer only (`vniah.forward.kv_cache`)
    one tile    [tile, ...]       inside the unmodified transformers layer

A registered attention function puts the tile's keys and values into the layer's buffer and attends
to [the tile itself, causal | all earlier keys]; the two parts merge by log-sum-exp.

A pass may go on from a prefix whose keys and values are stored, and may store its own. What is read
are suffixes: short groups of rows, each of which sees its own part of the pass. They go through the
layer together, after the main rows; in the last layer the main rows stop after their keys and
values.

T tokens, H hidden size, Hq and Hk heads of queries and of keys/values, D head size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from vniah.errors import ModelError
from vniah.forward.attention import Kernel, KeyBlock, attend
from vniah.forward.decoders import (
    attention_set_to,
    depends_on_length,
    forget_longer_sequences,
    heads_of,
    refuse_positions,
    refuse_unsupported,
)
from vniah.forward.kernels import choose_kernel
from vniah.forward.kv_cache import Kept, LayerKeys, Layout, Span
from vniah.forward.ring import Ring
from vniah.forward.suffixes import Rows, SuffixAttention, SuffixRows, suffix_groups

TILE_SIZE = 2048

# Must not contain "flash": transformers builds masks for such names, and none for unknown ones.
_ATTENTION_NAME = "vniah_walk"

# Rows whose angles are computed at once, in fp32.
ROPE_BLOCK = 16384
_ONE_WALK = Lock()  # which attention function layers call is a setting of the decoder's


class _KeysValuesDone(Exception):
    """Not an error: leaves the layer once a tile's keys and values are in the buffer."""


@torch.inference_mode()
def walk(
    decoder: Any,
    hidden: Tensor,
    position_ids: Tensor,
    suffixes: Sequence[SuffixRows],
    *,
    past: Sequence[Kept] = (),
    keep: Kept | None = None,
    tile_size: int = TILE_SIZE,
    kernel: Kernel | None = None,
    ring: Ring | None = None,
    deepen: Callable[[int, Tensor], None] | None = None,
) -> list[Tensor]:
    """One pass; gives the logits that are read, ``[num_rows, vocabulary]`` fp32 for each suffix.

    Args:
        decoder: a transformers causal language model, e.g. ``Qwen2ForCausalLM``: anything with
            its ``model`` and ``lm_head``.
        hidden: input embeddings ``[T, H]`` of the main rows in the decoder's dtype; overwritten.
            With a ring, those of this rank (`Ring.layout`).
        position_ids: of all main rows, ``[T]``, or ``[3, T]`` for M-RoPE.
        suffixes: what is read. One only, and no past, where RoPE depends on the length of the
            sequence. Kernel calls are fewest where those that see the same keys follow one another.
        past: keys and values of everything before the main rows, parents first.
        keep: where to store this pass's own.
        tile_size: rows that go through a layer at once; changes memory and speed, not the result.
        kernel: computes the attention; by default the fastest that is right on the device.
        ring: the processes that run this pass together.
        deepen: called behind every layer with its number and ``hidden``, may add to it in place
            (DeepStack). Suffixes carry their own.

    Raises:
        ModelError: the decoder does something that the walk cannot do exactly.
    """
    assert tile_size >= 1
    body = decoder.model
    start = past[-1].stop if past else 0
    stop = start + position_ids.shape[-1]
    assert all(suffix.fits(stop) for suffix in suffixes)
    assert not depends_on_length(body) or (not past and keep is None and len(suffixes) == 1)
    refuse_unsupported(decoder, max([stop, *(suffix.length for suffix in suffixes)]))
    refuse_positions(decoder, position_ids, stop - start)

    main = Layout.whole(start, stop) if ring is None else ring.layout(start, stop)
    rank = 0 if ring is None else ring.rank
    assert len(hidden) == main.num_rows(rank)
    kernel = kernel or choose_kernel(hidden.device, hidden.dtype, heads_of(body))
    keys = LayerKeys(body, past, main, rank=rank, like=hidden)
    angles, suffix_angles = _rotate(body, hidden, position_ids, start, main.spans[rank], suffixes)
    rows = Rows(hidden, angles)
    whole = None if ring is None or not ring.takes_whole(keys) else _WholeShare(ring, keys)
    groups = list(suffix_groups(suffixes, suffix_angles, tile_size))
    tiles = list(_tiles(main, rank, tile_size))
    AttentionInterface.register(_ATTENTION_NAME, _attention)
    with _ONE_WALK, attention_set_to(body, _ATTENTION_NAME):
        for index, layer in enumerate(body.layers):
            is_last = index == len(body.layers) - 1
            keys.load(index)
            if ring is not None or is_last:  # no rank attends before all of them have their keys
                for tile in tiles:
                    _run(
                        layer,
                        index,
                        rows,
                        _MainTile(keys, tile, kernel, ring, whole, attends=False),
                    )
            if not is_last:
                if whole is not None:
                    whole.attend()
                for tile in tiles:
                    _run(
                        layer, index, rows, _MainTile(keys, tile, kernel, ring, whole, attends=True)
                    )
            if keep is not None:
                keys.save(index, keep)
            for group in groups:
                _run(layer, index, group.rows, SuffixAttention(keys, group, kernel, ring))
                group.add_deepstack(index)
            if deepen is not None and not is_last:
                deepen(index, hidden)
    return [logits for group in groups for logits in group.read(decoder)]


@torch.inference_mode()
def answer_logits(
    decoder: Any,
    hidden: Tensor,
    position_ids: Tensor,
    *,
    num_rows: int,
    tile_size: int = TILE_SIZE,
    kernel: Kernel | None = None,
    deep: Tensor | None = None,
) -> Tensor:
    """Logits of the last rows of one sequence, ``[num_rows, vocabulary]`` fp32.

    Args:
        decoder: as `walk`.
        hidden: input embeddings of the whole sequence, ``[T, H]``; overwritten.
        position_ids: ``[T]``, or ``[3, T]``.
        num_rows: how many rows to read, at its end.
        tile_size: as `walk`.
        kernel: as `walk`.
        deep: what is added to all rows behind each of the first layers, ``[layers, T, H]``.
    """
    start = len(hidden) - num_rows
    assert num_rows >= 1 and start >= 0
    refuse_positions(decoder, position_ids, len(hidden))
    suffix = SuffixRows(
        (Span(0, start),),
        hidden[start:],
        position_ids[..., start:],
        num_rows,
        None if deep is None else deep[:, start:],
    )

    def deepen(layer: int, rows: Tensor) -> None:
        if deep is not None and layer < len(deep):
            rows += deep[layer, :start]

    (logits,) = walk(
        decoder,
        hidden[:start],
        position_ids[..., :start],
        [suffix],
        tile_size=tile_size,
        kernel=kernel,
        deepen=deepen,
    )
    return logits


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


def _run(layer: Any, index: int, rows: Rows, attention: "_MainTile | SuffixAttention") -> None:
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
        kernel: computes it.
        ring: the other processes, if there are any.
        whole: where a ring wants the queries of all tiles together.
        attends: False where only keys and values are wanted.
        was_called: whether the layer has called it.
    """

    keys: LayerKeys
    tile: _Tile
    kernel: Kernel
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
            return self.ring.attend(
                q, k, v, self.tile.start, self.keys, kernel=self.kernel, scale=scale
            )
        before = [KeyBlock(*part) for part in self.keys.between(0, self.tile.start)]
        own = KeyBlock(k, v, is_causal=True)
        return attend(q, [own, *before], kernel=self.kernel, scale=scale)


def _rotate(
    body: Any,
    hidden: Tensor,
    position_ids: Tensor,
    start: int,
    spans: Sequence[Span],
    suffixes: Sequence[SuffixRows],
) -> tuple[Tensor, Tensor]:
    """RoPE's cos and sin of this process's main rows and of all suffixes: ``[2, 1, n, D]`` each."""
    rotary = body.rotary_emb
    forget_longer_sequences(body)
    num_main, device = position_ids.shape[-1], hidden.device
    positions = torch.cat([position_ids, *(suffix.position_ids for suffix in suffixes)], -1).to(
        device
    )
    own = [torch.arange(*span, device=device) - start for span in spans]
    rows = torch.cat(own).clamp(max=max(0, num_main - 1))  # of padding, those of the last
    # The last position goes with every block: some kinds of RoPE look at the largest of a call.
    last = positions.view(-1, positions.shape[-1]).amax(0).argmax()

    def angles(columns: Tensor) -> Tensor:
        part = positions[..., torch.cat([columns, last[None]])]
        shaped = part[None] if part.ndim == 1 else part[:, None]
        return torch.stack(rotary(hidden[None], shaped))[:, :, :-1]

    of_suffixes = angles(torch.arange(num_main, positions.shape[-1], device=device))
    of_main = of_suffixes.new_empty(2, 1, len(rows), of_suffixes.shape[-1])
    for first in range(0, len(rows), ROPE_BLOCK):
        block = slice(first, first + ROPE_BLOCK)
        of_main[:, :, block] = angles(rows[block])
    return of_main, of_suffixes


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    vniah_attention: _MainTile | SuffixAttention,
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
