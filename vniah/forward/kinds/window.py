"""Sliding windows and chunks: a row sees only the last tokens before it, and only these are kept.

With a window of W tokens the row of token t sees t - W + 1 to t. Kernels know whole blocks of keys
and causal squares. For up to W rows, of the tokens a to b - 1, this makes three parts:

    keys a to b - 1          causal square
    keys b - W to a - 1      whole block: every row sees all of it
    keys a - W + 1 to b - W - 1   row i sees the keys i, i + 1, ...: causal, turned round

More rows go W at a time. With chunks of C tokens (Llama 4), the row of token t sees the tokens of
its own chunk up to itself, from t - t % C on.

Before each token at which a suffix or a later pass goes on, only what these see is kept: W - 1
tokens, or the beginning of a chunk. What is kept does not grow with the length of the sequence.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vniah.forward.attention import (
    Heads,
    Kernel,
    KeyBlock,
    KeysValuesDone,
    PartialResult,
    attend_block,
    attend_later,
)
from vniah.forward.kinds.base import (
    AttentionCall,
    Chunk,
    LayerCall,
    LayerKind,
    LayerMemory,
    PassSize,
    PassTokens,
    causal_pairs,
    chunks_of,
)
from vniah.forward.kinds.images import attend_in_images
from vniah.forward.kv_cache import KeyValueCache, Layout, Span, Stored
from vniah.forward.suffixes import SuffixGroup

# Keys before suffixes that are gathered for one call; of one suffix all.
_GATHERED_KEYS = 16384


@dataclass(frozen=True)
class _Reach(LayerKind):
    """A kind of attention that reaches back only so far.

    Attributes:
        size: W or C, in tokens.
        num_heads: Hq.
        num_kv_heads: Hk.
        head_dim: D.
        sees_images: as `vniah.forward.kinds.full.FullAttention`.
    """

    size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    sees_images: bool = False

    @property
    def heads(self) -> Heads:
        """As `LayerKind.heads`."""
        return Heads(self.num_heads, self.num_kv_heads, self.head_dim)

    def open(self, tokens: PassTokens) -> LayerMemory:
        """As `LayerKind.open`."""
        return _ReachMemory(self, tokens)

    def stored(self, layout: Layout, rank: int, ends: tuple[int, ...]) -> tuple[Stored, ...]:
        """Keys and values that are seen from the ends on, ``[1, Hk, rows, D]`` each."""
        num_rows = sum(span.num_tokens for span in self.seen_from(ends, layout.spans[rank][0]))
        return (Stored((1, self.num_kv_heads, num_rows, self.head_dim)),) * 2

    def held_bytes(self, size: PassSize, itemsize: int) -> int:
        """What is seen from the ends on, and what a chunk of rows sees, with its own keys."""
        ends = sorted({size.start, *size.ends})
        num_held = sum(span.num_tokens for span in self.seen_from(ends, Span(0, size.stop)))
        num_rows = min(size.chunk_size, size.stop - size.start)
        in_chunk = min(self.size - 1, size.stop - num_rows) + num_rows if num_rows else 0
        gathered = min(max(_GATHERED_KEYS, self.size), len(ends) * self.size)
        keys = num_held + max(in_chunk, gathered)
        return keys * 2 * self.num_kv_heads * self.head_dim * itemsize

    @abstractmethod
    def first_seen(self, token: int) -> int:
        """The first token that the row of a token sees; never less for a later token."""

    @abstractmethod
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, start: int, *, kernel: Kernel, scale: float
    ) -> PartialResult:
        """Attention of rows that begin at a token, over all that they see.

        Args:
            q: ``[B, Hq, n, D]``.
            k: ``[B, Hk, m + n, D]``, those of the m tokens before the rows that the first row
                sees, then those of the rows.
            v: the same.
            start: the token, or any other from which so many tokens before it are seen.
            kernel: computes the attention over each block of keys.
            scale: factor on the scores.
        """

    def seen_from(self, ends: Sequence[int], within: Span) -> list[Span]:
        """The tokens that are seen from some tokens on, as far as they lie within a span.

        Args:
            ends: ascending.
            within: a span of tokens.
        """
        found: list[Span] = []
        for end in ends:
            span = Span(min(self.first_seen(end), end), end).clip(*within)
            if not span.num_tokens:
                continue
            if found and span.start <= found[-1].stop:
                found[-1] = Span(found[-1].start, span.stop)
            else:
                found.append(span)
        return found


@dataclass(frozen=True)
class SlidingWindow(_Reach):
    """A sliding window of W tokens (Beltagy et al. 2020, "Longformer", arXiv 2004.05150)."""

    @property
    def name(self) -> str:
        """As `LayerKind.name`."""
        seen = ", images see themselves" if self.sees_images else ""
        return f"sliding window of {self.size:,} tokens{seen}"

    def first_seen(self, token: int) -> int:
        """As `_Reach.first_seen`."""
        return max(0, token - self.size + 1)

    def num_pairs(self, start: int, num_tokens: int) -> int:
        """Every row with up to W tokens."""
        growing = min(num_tokens, max(0, self.size - start))
        return causal_pairs(start, growing) + (num_tokens - growing) * self.size

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, start: int, *, kernel: Kernel, scale: float
    ) -> PartialResult:
        """As `_Reach.attend`; the parts are those of the top of this module."""
        result = PartialResult.none(q)
        before, num_rows = k.shape[2] - q.shape[2], q.shape[2]
        for first in range(0, num_rows, self.size):
            rows = slice(first, min(first + self.size, num_rows))
            a, b = before + rows.start, before + rows.stop
            own = KeyBlock(k[:, :, a:b], v[:, :, a:b], is_causal=True)
            asking = q[:, :, rows]
            result.add(rows, *attend_block(asking, own, kernel=kernel, scale=scale))
            whole, edge = max(0, b - self.size), max(0, a - self.size + 1)
            if whole < a:
                block = KeyBlock(k[:, :, whole:a], v[:, :, whole:a])
                result.add(rows, *attend_block(asking, block, kernel=kernel, scale=scale))
            if edge < whole:
                # Where the sequence begins, the first rows see all of the edge.
                num_first = max(0, self.size - 1 - a)
                keys, values = k[:, :, edge:whole], v[:, :, edge:whole]
                if num_first:
                    of_first = slice(rows.start, rows.start + num_first)
                    block = KeyBlock(keys, values)
                    part = attend_block(q[:, :, of_first], block, kernel=kernel, scale=scale)
                    result.add(of_first, *part)
                later = slice(rows.start + num_first, rows.start + num_first + whole - edge)
                part = attend_later(q[:, :, later], keys, values, kernel=kernel, scale=scale)
                result.add(later, *part)
        return result


@dataclass(frozen=True)
class ChunkedAttention(_Reach):
    """Chunks of C tokens, each of which sees only itself (Llama 4, Meta 2025)."""

    @property
    def name(self) -> str:
        """As `LayerKind.name`."""
        return f"chunks of {self.size:,} tokens"

    def first_seen(self, token: int) -> int:
        """As `_Reach.first_seen`."""
        return token - token % self.size

    def num_pairs(self, start: int, num_tokens: int) -> int:
        """Every row with the tokens of its chunk up to itself."""
        return self._pairs_before(start + num_tokens) - self._pairs_before(start)

    def _pairs_before(self, token: int) -> int:
        """Pairs of all rows before a token."""
        chunks, rest = divmod(token, self.size)
        return chunks * causal_pairs(0, self.size) + causal_pairs(0, rest)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, start: int, *, kernel: Kernel, scale: float
    ) -> PartialResult:
        """As `_Reach.attend`; rows up to the next border of a chunk at a time."""
        result = PartialResult.none(q)
        first, num_rows = 0, q.shape[2]
        before = k.shape[2] - num_rows
        while first < num_rows:
            inside = (start + first) % self.size
            stop = min(num_rows, first + self.size - inside)
            rows, a, b = slice(first, stop), before + first, before + stop
            own = KeyBlock(k[:, :, a:b], v[:, :, a:b], is_causal=True)
            result.add(rows, *attend_block(q[:, :, rows], own, kernel=kernel, scale=scale))
            if inside:
                block = KeyBlock(k[:, :, a - inside : a], v[:, :, a - inside : a])
                result.add(rows, *attend_block(q[:, :, rows], block, kernel=kernel, scale=scale))
            first = stop
        return result


class _ReachMemory(LayerMemory):
    """The keys and values that are seen from the ends of a pass on, and those of the last rows.

    Args:
        kind: says what is seen.
        tokens: the pass.
    """

    def __init__(self, kind: _Reach, tokens: PassTokens) -> None:
        assert tokens.ring is None, "each process would have to hold the window of another"
        self._kind = kind
        self._tokens = tokens
        self._chunks = chunks_of(tokens, sees_images=kind.sees_images)
        main = tokens.main.spans[tokens.rank][0]
        ends = sorted({tokens.start, *tokens.ends})
        self._held = kind.seen_from(ends, Span(0, main.stop))
        num_rows = sum(span.num_tokens for span in self._held)
        shape = (1, kind.num_kv_heads, num_rows, kind.head_dim)
        self._k, self._v = tokens.like.new_empty(shape), tokens.like.new_empty(shape)
        self._recent: tuple[Tensor, Tensor] = (self._k[:, :, :0], self._v[:, :, :0])
        is_stored = torch.zeros(num_rows, dtype=torch.bool)
        for cache in tokens.past:
            for _, here in _overlaps(self._stored_in(cache), self._held, until=cache.stop):
                is_stored[here] = True
        for _, here in _overlaps([Span(0, tokens.start)], self._held):
            assert is_stored[here].all(), "no pass has stored all that is seen"

    def load(self, index: int, layer: Any) -> None:
        for cache in self._tokens.past:
            k, v = cache.store.tensors(index)
            for there, here in _overlaps(self._stored_in(cache), self._held, until=cache.stop):
                self._k[:, :, here], self._v[:, :, here] = k[:, :, there], v[:, :, there]

    def main_calls(self, *, finishes: bool) -> Iterator[LayerCall]:
        self._recent = self._before(self._tokens.start)
        for chunk in self._chunks:
            yield _ReachChunk(self, chunk, attends=finishes)

    def save(self, index: int, cache: KeyValueCache) -> None:
        k, v = cache.store.tensors(index)
        for here, there in _overlaps(self._held, self._stored_in(cache)):
            k[:, :, there], v[:, :, there] = self._k[:, :, here], self._v[:, :, here]

    def first_seen(self, token: int) -> int:
        return self._kind.first_seen(token)

    def keys_between(self, start: int, stop: int) -> Iterator[Tensor]:
        for _, rows in _overlaps([Span(start, stop)], self._held):
            yield self._k[:, :, rows]

    def suffix_calls(self, group: SuffixGroup, *, is_last: bool) -> Iterator[LayerCall]:
        yield _ReachSuffixes(self, group)

    def _stored_in(self, cache: KeyValueCache) -> list[Span]:
        """The spans whose keys and values a cache stores, in the order of its rows."""
        return self._kind.seen_from(cache.ends, cache.layout.spans[0][0])

    def _before(self, token: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens before one that its row sees."""
        wanted = Span(min(self._kind.first_seen(token), token), token)
        row = 0
        for span in self._held:
            if span.start <= wanted.start and wanted.stop <= span.stop:
                rows = slice(row + wanted.start - span.start, row + wanted.stop - span.start)
                return self._k[:, :, rows], self._v[:, :, rows]
            row += span.num_tokens
        assert not wanted.num_tokens, "what is seen from every end is held"
        return self._k[:, :, :0], self._v[:, :, :0]

    def _keep(self, chunk: Chunk, k: Tensor, v: Tensor) -> None:
        """Keeps what is seen of a chunk later on."""
        own = [Span(chunk.start, chunk.stop)]
        for there, here in _overlaps(own, self._held):
            self._k[:, :, here], self._v[:, :, here] = k[:, :, there], v[:, :, there]


class _ReachChunk(AttentionCall):
    """A chunk of main rows."""

    def __init__(self, memory: _ReachMemory, chunk: Chunk, *, attends: bool) -> None:
        super().__init__(chunk.rows)
        self._memory, self._chunk, self._attends = memory, chunk, attends

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        memory, chunk = self._memory, self._chunk
        memory._keep(chunk, k, v)
        if not self._attends:
            raise KeysValuesDone
        kind, kernel = memory._kind, memory._tokens.kernel
        seen = [torch.cat(pair, 2) for pair in zip(memory._recent, (k, v), strict=True)]
        result = kind.attend(q, seen[0], seen[1], chunk.start, kernel=kernel, scale=scale)
        num_kept = chunk.stop - min(kind.first_seen(chunk.stop), chunk.stop)
        first = seen[0].shape[2] - num_kept
        memory._recent = (seen[0][:, :, first:], seen[1][:, :, first:])
        found = result.out, result.lse
        return attend_in_images(found, q, k, v, chunk.images, kernel=kernel, scale=scale)


class _ReachSuffixes(AttentionCall):
    """The rows of a group of suffixes; those of one length, with equally many keys, in one call."""

    def __init__(self, memory: _ReachMemory, group: SuffixGroup) -> None:
        super().__init__(slice(None))
        self._memory, self._group = memory, group

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        memory = self._memory
        kind, kernel = memory._kind, memory._tokens.kernel
        alike: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        row = 0
        for suffix in self._group.suffixes:
            size, start = len(suffix.hidden), suffix.start
            alike[size, start - min(kind.first_seen(start), start)].append((row, start))
            row += size
        result = PartialResult.none(q)
        for size, members in _in_batches(alike):
            rows = torch.tensor([row for row, _ in members])[:, None] + torch.arange(size)
            before = [memory._before(start) for _, start in members]
            asking, own_k, own_v = (x[0][:, rows].transpose(0, 1) for x in (q, k, v))
            seen_k = torch.cat([torch.cat([part[0] for part in before]), own_k], 2)
            seen_v = torch.cat([torch.cat([part[1] for part in before]), own_v], 2)
            part = kind.attend(asking, seen_k, seen_v, members[0][1], kernel=kernel, scale=scale)
            flat = rows.flatten().to(q.device)
            result.out[:, :, flat] = part.out.transpose(0, 1).flatten(1, 2)[None]
            result.lse[:, :, flat] = part.lse.transpose(0, 1).flatten(1, 2)[None]
        images = self._group.images if kind.sees_images else ()
        found = result.out, result.lse
        return attend_in_images(found, q, k, v, images, kernel=kernel, scale=scale)


def _in_batches(
    alike: Mapping[tuple[int, int], Sequence[tuple[int, int]]],
) -> Iterator[tuple[int, Sequence[tuple[int, int]]]]:
    """Suffixes of one length that see equally many keys, as many at once as may be gathered.

    Args:
        alike: rows and starts of suffixes, by their length and the number of those keys.

    Yields:
        Their length, with rows and starts.
    """
    for (size, num_before), members in alike.items():
        count = max(1, _GATHERED_KEYS // (num_before + size))
        for first in range(0, len(members), count):
            yield size, members[first : first + count]


def _overlaps(
    spans: Sequence[Span], others: Sequence[Span], *, until: int | None = None
) -> Iterator[tuple[slice, slice]]:
    """The rows of the tokens that two lists of spans have in common: in the one, in the other.

    Args:
        spans: ascending and disjoint; their rows follow one another.
        others: the same.
        until: without the tokens from here on.
    """
    row = 0
    for span in spans:
        other_row = 0
        for other in others:
            common = span.clip(*other)
            if until is not None:
                common = common.clip(0, until)
            if common.num_tokens:
                here = row + common.start - span.start
                there = other_row + common.start - other.start
                size = common.num_tokens
                yield slice(here, here + size), slice(there, there + size)
            other_row += other.num_tokens
        row += span.num_tokens
