"""Full attention: every row sees all rows before it. All keys and values are kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from vniah.forward.attention import (
    Heads,
    Kernel,
    KeyBlock,
    KeysValuesDone,
    PartialResult,
    attend,
    attend_block,
)
from vniah.forward.kinds.base import (
    AloneCall,
    AttentionCall,
    Chunk,
    LayerCall,
    LayerKind,
    LayerMemory,
    PassSize,
    PassTokens,
    chunks_of,
)
from vniah.forward.kinds.images import attend_in_images
from vniah.forward.kv_cache import KeyValueCache, LayerKeyValues, Layout, Span, Stored
from vniah.forward.ring import Ring
from vniah.forward.slabs import Slab
from vniah.forward.suffixes import SuffixGroup


@dataclass(frozen=True)
class FullAttention(LayerKind):
    """Full attention.

    Attributes:
        num_heads: Hq.
        num_kv_heads: Hk.
        head_dim: D.
        sees_images: whether the rows of an image see one another, also those after them.
        counts_tokens: whether the layer asks how many tokens came before its rows (Llama 4 scales
            queries by it).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    sees_images: bool = False
    counts_tokens: bool = False

    @property
    def name(self) -> str:
        """As `LayerKind.name`."""
        return "full attention" + (", images see themselves" if self.sees_images else "")

    @property
    def heads(self) -> Heads:
        """As `LayerKind.heads`."""
        return Heads(self.num_heads, self.num_kv_heads, self.head_dim)

    @property
    def runs_in_ring(self) -> bool:
        """Unless images see themselves, which the border between two processes may cut."""
        return not self.sees_images

    @property
    def can_splice(self) -> bool:
        """As `LayerKind.can_splice`."""
        return not self.sees_images

    def open(self, tokens: PassTokens) -> LayerMemory:
        """As `LayerKind.open`."""
        sizes = [(self.num_kv_heads, self.head_dim)] * 2
        keys = LayerKeyValues(sizes, tokens.past, tokens.main, rank=tokens.rank, like=tokens.like)
        return FullMemory(self, keys, tokens)

    def stored(self, layout: Layout, rank: int, ends: tuple[int, ...]) -> tuple[Stored, ...]:
        """Keys and values of all tokens, ``[1, Hk, rows, D]`` each."""
        return (Stored((1, self.num_kv_heads, layout.num_rows(rank), self.head_dim)),) * 2

    def alone(self) -> LayerCall:
        """As `LayerKind.alone`."""
        return AloneCall(slice(None), _TokenCount(0) if self.counts_tokens else None)

    def held_bytes(self, size: PassSize, itemsize: int) -> int:
        """Keys and values of all tokens."""
        return size.stop * 2 * self.num_kv_heads * self.head_dim * itemsize


class FullMemory(LayerMemory):
    """Keys and values of all tokens of the present layer.

    Args:
        kind: what the layers are.
        keys: holds them.
        tokens: the pass.
    """

    def __init__(self, kind: FullAttention, keys: LayerKeyValues, tokens: PassTokens) -> None:
        self._kind = kind
        self._keys = keys
        self._tokens = tokens
        self._chunks = chunks_of(tokens, sees_images=kind.sees_images)
        ring = tokens.ring
        self._whole = (
            None if ring is None or not ring.takes_whole(keys) else _WholeShare(ring, keys)
        )

    def load(self, index: int, layer: Any) -> None:
        """As `LayerMemory.load`."""
        self._keys.load(index)

    def main_calls(self, *, finishes: bool) -> Iterator[LayerCall]:
        """As `LayerMemory.main_calls`."""
        if self._tokens.ring is not None or not finishes:
            # No rank attends before all have their keys.
            yield from (self._call(chunk, attends=False) for chunk in self._chunks)
        if finishes:
            if self._whole is not None:
                self._whole.attend()
            yield from (self._call(chunk, attends=True) for chunk in self._chunks)

    def save(self, index: int, cache: KeyValueCache) -> None:
        """As `LayerMemory.save`."""
        self._keys.save(index, cache)

    def keys_between(self, start: int, stop: int) -> Iterator[Tensor]:
        """As `LayerMemory.keys_between`."""
        return (k for k, _ in self._keys.between(start, stop))

    def suffix_calls(self, group: SuffixGroup | Slab, *, is_last: bool) -> Iterator[LayerCall]:
        """As `LayerMemory.suffix_calls`; one call, or two for rows that are spliced in."""
        kernel, ring = self._tokens.kernel, self._tokens.ring
        if isinstance(group, Slab):
            assert ring is None, "rows are not spliced into a trunk that several processes hold"
            yield from group.attentions(self._keys, kernel, is_last=is_last)
        else:
            images = group.images if self._kind.sees_images else ()
            past = None
            if self._kind.counts_tokens:
                starts = [
                    torch.full((len(suffix.hidden),), suffix.start - row)
                    for suffix, row in zip(group.suffixes, group.firsts, strict=True)
                ]
                past = _TokenCount(torch.cat(starts).to(self._tokens.like.device))
            yield SuffixCall(self._keys, group, kernel, ring, images=images, past=past)

    def _call(self, chunk: Chunk, *, attends: bool) -> "ChunkCall":
        past = _TokenCount(chunk.start) if self._kind.counts_tokens else None
        return ChunkCall(self._keys, chunk, self._tokens, self._whole, attends=attends, past=past)


class _TokenCount:
    """What a layer takes for its cache if it asks how many tokens came before its rows.

    Args:
        before: that number; for rows of several sequences one for each row, ``[n]``, as if the row
            stood where the layer counts it: its token less its place among the rows.
    """

    def __init__(self, before: int | Tensor) -> None:
        self._before = before

    def get_seq_length(self, layer: int = 0) -> int | Tensor:
        """The number of tokens."""
        return self._before

    def update(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values as they are; the attention function keeps them."""
        return k, v


class _WholeShare:
    """The queries of all rows of this rank, for a ring that takes them in one call.

    After `attend` the results stand in the place of the queries.

    Args:
        ring: computes the attention.
        keys: keys and values of the present layer.
    """

    def __init__(self, ring: Ring, keys: LayerKeyValues) -> None:
        self._ring = ring
        self._keys = keys
        self._rows: Tensor | None = None
        self._scale = 0.0

    def put(self, q: Tensor, row: int, scale: float) -> None:
        """Stores a chunk's queries, ``[1, Hq, chunk, D]``, from ``row`` on."""
        if self._rows is None:
            self._rows = q.new_empty(1, q.shape[1], self._keys.k.shape[2], q.shape[3])
        self._rows[:, :, row : row + q.shape[2]] = q
        self._scale = scale

    def attend(self) -> None:
        """Computes the attention of all rows."""
        assert self._rows is not None
        self._ring.attend_whole(self._rows, self._keys, scale=self._scale)

    def get(self, rows: slice) -> Tensor:
        """The results of a chunk, ``[1, Hq, chunk, D]``."""
        assert self._rows is not None
        return self._rows[:, :, rows]


class ChunkCall(AttentionCall):
    """Attention of a chunk to itself and to everything before it.

    Args:
        keys: keys and values of the present layer.
        chunk: the rows that attend.
        tokens: the pass.
        whole: collects the queries of all chunks, for a ring that takes them in one call.
        attends: False if only the chunk's keys and values are computed.
        past: as `LayerCall`.
    """

    def __init__(
        self,
        keys: LayerKeyValues,
        chunk: Chunk,
        tokens: PassTokens,
        whole: _WholeShare | None,
        *,
        attends: bool,
        past: Any = None,
    ) -> None:
        super().__init__(chunk.rows, past)
        self._keys, self._chunk, self._tokens = keys, chunk, tokens
        self._whole = whole
        self._attends = attends

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
        """As `AttentionCall.attend`."""
        keys, chunk, kernel, ring = self._keys, self._chunk, self._tokens.kernel, self._tokens.ring
        keys.put(chunk.rows.start, k, v)
        if not self._attends:
            if self._whole is not None:
                self._whole.put(q, chunk.rows.start, scale)
            raise KeysValuesDone
        if self._whole is not None:
            return self._whole.get(chunk.rows), None
        if ring is not None:
            return ring.attend(q, k, v, chunk.start, keys, kernel=kernel, scale=scale), None
        before = [KeyBlock(*part) for part in keys.between(0, chunk.start)]
        own = KeyBlock(k, v, is_causal=True)
        found = attend(q, [own, *before], kernel=kernel, scale=scale)
        return attend_in_images(found, q, k, v, chunk.images, kernel=kernel, scale=scale)


class SuffixCall(AttentionCall):
    """Attention of a group of suffixes: each to itself and to its own spans of the pass.

    Args:
        keys: keys and values of the layer.
        group: the suffixes.
        kernel: computes the attention over each block of keys.
        ring: the other processes, if there are any.
        images: where images begin and end among the rows, if these see themselves.
        past: as `LayerCall`.
    """

    def __init__(
        self,
        keys: LayerKeyValues,
        group: SuffixGroup,
        kernel: Kernel,
        ring: Ring | None = None,
        *,
        images: Sequence[Span] = (),
        past: Any = None,
    ) -> None:
        super().__init__(slice(None), past)
        self._keys, self._group, self._kernel, self._ring = keys, group, kernel, ring
        self._images = images

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
        """As `AttentionCall.attend`."""
        result = self._attend_to_themselves(q, k, v, scale)
        if self._ring is None:
            self._attend_to_spans(q, result, scale)
        else:
            part = PartialResult.none(q)
            self._attend_to_spans(q, part, scale)
            for other in self._ring.gather(part.out, part.lse):
                result.add(slice(None), *other)
        found = result.out, result.lse
        kernel = self._kernel
        return attend_in_images(found, q, k, v, self._images, kernel=kernel, scale=scale)

    def _attend_to_themselves(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> PartialResult:
        """Each suffix's rows to one another, equally long ones in one call."""
        result = PartialResult.none(q)
        row = 0
        for size, alike in groupby(len(suffix.hidden) for suffix in self._group.suffixes):
            num_suffixes = len(list(alike))
            rows = slice(row, row + num_suffixes * size)
            shape = (num_suffixes, size)
            block = KeyBlock(_split(k[:, :, rows], shape), _split(v[:, :, rows], shape), True)
            part, part_lse = attend_block(
                _split(q[:, :, rows], shape), block, kernel=self._kernel, scale=scale
            )
            result.out[0, :, rows] = part.transpose(0, 1).flatten(1, 2)
            result.lse[0, :, rows] = part_lse.transpose(0, 1).flatten(1, 2)
            row = rows.stop
        return result

    def _attend_to_spans(self, q: Tensor, result: PartialResult, scale: float) -> None:
        """Merges what the rows see of the pass and of its past into a result."""
        for span, rows in self._group.shared:
            for k, v in self._keys.between(*span):
                block = KeyBlock(k, v)
                part = attend_block(q[:, :, rows], block, kernel=self._kernel, scale=scale)
                result.add(rows, *part)


def _split(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """``[1, heads, suffixes x rows, D]`` as ``[suffixes, heads, rows, D]``."""
    return x[0].view(x.shape[1], *shape, x.shape[3]).transpose(0, 1)
