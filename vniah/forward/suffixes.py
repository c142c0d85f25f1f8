"""Suffixes: short groups of rows that are read, each of which sees its own part of a pass.

A suffix is the end of a sequence: its question and answer. Hundreds of them may belong to one pass.
They go through each layer together, and attend in few kernel calls: suffixes of one length attend
to themselves in one call, and all suffixes that see the same span of keys attend to it in one call.

    keys of the pass   0 ......... 40 ......... 70 ......... 100
    suffix a           |-----------|                              spans (0, 40)
    suffix b           |-----------------------------------------| spans (0, 100)
    suffix c           |-----------|             |---------------| spans (0, 40), (70, 100)
    calls               a, b, c      b            b, c

Hq and Hk heads of queries and of keys/values, D head size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from vniah.forward.attention import Kernel, KeyBlock, attend_block, merge
from vniah.forward.kv_cache import LayerKeyValues, Span
from vniah.forward.ring import Ring


@dataclass(frozen=True)
class SuffixRows:
    """The rows of one suffix.

    Attributes:
        spans: the tokens of the pass and of its past that all rows attend to, ascending and
            disjoint. Besides, every row attends to the rows of the suffix up to itself.
        hidden: input embeddings ``[n, H]``.
        position_ids: ``[n]``, or ``[3, n]`` for M-RoPE.
        num_rows: how many rows are read, at the end of the suffix.
        deepstack: what is added to the first m rows after each of the first layers,
            ``[layers, m, H]``.
    """

    spans: tuple[Span, ...]
    hidden: Tensor
    position_ids: Tensor
    num_rows: int
    deepstack: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens that the last row attends to: those of the spans, and the suffix itself."""
        return sum(span.num_tokens for span in self.spans) + len(self.hidden)

    def fits(self, stop: int) -> bool:
        """Whether its spans are ascending, disjoint, and end at ``stop`` at the latest."""
        borders = [0, *(border for span in self.spans for border in span), stop]
        return all(one <= other for one, other in pairwise(borders))


@dataclass
class Rows:
    """Rows on their way through the layers, ``[n, H]``, and their RoPE: ``[2, 1, n, D]``."""

    hidden: Tensor
    angles: Tensor


@dataclass
class SuffixGroup:
    """Some suffixes whose rows go through the layers together.

    Attributes:
        suffixes: in the order of their rows.
        rows: of all of them.
        shared: spans of keys, and which of the rows attend to all of a span (`shared_spans`).
    """

    suffixes: Sequence[SuffixRows]
    rows: Rows
    shared: Sequence[tuple[Span, slice | Tensor]]

    @classmethod
    def of(cls, suffixes: Sequence[SuffixRows], angles: Tensor) -> "SuffixGroup":
        """A group of its own copies of the rows; ``angles`` are ``[2, 1, n, D]``."""
        hidden = torch.cat([suffix.hidden for suffix in suffixes])
        firsts = list(accumulate((len(suffix.hidden) for suffix in suffixes), initial=0))
        shared = [
            (span, _rows_of(viewers, firsts, hidden.device))
            for span, viewers in shared_spans([suffix.spans for suffix in suffixes])
        ]
        return cls(suffixes, Rows(hidden, angles), shared)

    def attentions(
        self, keys: LayerKeyValues, kernel: Kernel, ring: Ring | None, *, is_last: bool
    ) -> tuple["SuffixAttention"]:
        """What the rows of the group attend to in the present layer, in one call of it."""
        return (SuffixAttention(keys, self, kernel, ring),)

    def add_deepstack(self, layer: int) -> None:
        """Adds what DeepStack adds to the rows after a layer."""
        row = 0
        for suffix in self.suffixes:
            added = suffix.deepstack
            if added is not None and layer < len(added):
                self.rows.hidden[row : row + added.shape[1]] += added[layer]
            row += len(suffix.hidden)

    def read(self, decoder: Any) -> Iterator[Tensor]:
        """The logits of every suffix, ``[num_rows, vocabulary]`` fp32."""
        stop = 0
        for suffix in self.suffixes:
            stop += len(suffix.hidden)
            rows = self.rows.hidden[stop - suffix.num_rows : stop]
            yield decoder.lm_head(decoder.model.norm(rows)).float()


def suffix_groups(
    suffixes: Sequence[SuffixRows], angles: Tensor, max_rows: int
) -> Iterator[SuffixGroup]:
    """Consecutive suffixes with up to ``max_rows`` rows together, or one with more.

    Args:
        suffixes: all suffixes of a pass.
        angles: RoPE of all their rows, ``[2, 1, n, D]``.
        max_rows: the most rows of a group.
    """
    first = row = 0
    while first < len(suffixes):
        last, num_rows = first + 1, len(suffixes[first].hidden)
        while last < len(suffixes) and num_rows + len(suffixes[last].hidden) <= max_rows:
            num_rows += len(suffixes[last].hidden)
            last += 1
        yield SuffixGroup.of(suffixes[first:last], angles[:, :, row : row + num_rows])
        first, row = last, row + num_rows


def shared_spans(seen: Sequence[Sequence[Span]]) -> Iterator[tuple[Span, tuple[int, ...]]]:
    """Splits spans of keys into disjoint ones, each with the numbers of all suffixes that see it.

    >>> list(shared_spans([[Span(0, 4)], [Span(0, 9)], [Span(0, 4), Span(7, 9)]]))
    ... # doctest: +NORMALIZE_WHITESPACE
    [(Span(start=0, stop=4), (0, 1, 2)), (Span(start=4, stop=7), (1,)),
     (Span(start=7, stop=9), (1, 2))]

    Args:
        seen: for each suffix the spans that it sees, ascending and disjoint.
    """
    changes: dict[int, list[int]] = {}
    for number, spans in enumerate(seen):
        for border in (border for span in spans if span.num_tokens for border in span):
            changes.setdefault(border, []).append(number)
    viewers: set[int] = set()
    begun: int | None = None
    for border in sorted(changes):
        before = tuple(sorted(viewers))
        for number in changes[border]:  # twice where one of its spans ends and the next begins
            viewers ^= {number}
        if viewers == set(before):
            continue
        if before and begun is not None:
            yield Span(begun, border), before
        begun = border


def _rows_of(viewers: Sequence[int], firsts: Sequence[int], device: torch.device) -> slice | Tensor:
    """The rows of some suffixes: a slice where they follow one another, else their numbers."""
    first, last = viewers[0], viewers[-1]
    if last - first + 1 == len(viewers):
        return slice(firsts[first], firsts[last + 1])
    rows = [torch.arange(firsts[number], firsts[number + 1]) for number in viewers]
    return torch.cat(rows).to(device)


@dataclass
class SuffixAttention:
    """Attention of a group of suffixes: each to itself and to its own spans of the pass.

    Attributes:
        keys: keys and values of the layer.
        group: the suffixes.
        kernel: computes the attention over each block of keys.
        ring: the other processes, if there are any.
        was_called: whether the layer has called it.
    """

    keys: LayerKeyValues
    group: SuffixGroup
    kernel: Kernel
    ring: Ring | None
    was_called: bool = False

    @property
    def rows(self) -> slice:
        """All rows of the group."""
        return slice(None)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """What the rows attend to, ``[1, Hq, n, D]`` in q's dtype; k and v are their own."""
        self.was_called = True
        out, lse = self._attend_to_themselves(q, k, v, scale)
        if self.ring is None:
            self._attend_to_spans(q, out, lse, scale)
        else:
            part = torch.zeros_like(out), torch.full_like(lse, -torch.inf)
            self._attend_to_spans(q, *part, scale)
            for other in self.ring.gather(*part):
                out, lse = merge(out, lse, *other)
        return out.to(q.dtype)

    def _attend_to_themselves(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Each suffix's rows to one another, equally long ones in one call: fp32 out and lse."""
        out = q.new_empty(q.shape, dtype=torch.float32)
        lse = q.new_empty(q.shape[:-1], dtype=torch.float32)
        row = 0
        for size, alike in groupby(len(suffix.hidden) for suffix in self.group.suffixes):
            num_suffixes = len(list(alike))
            rows = slice(row, row + num_suffixes * size)
            shape = (num_suffixes, size)
            block = KeyBlock(_split(k[:, :, rows], shape), _split(v[:, :, rows], shape), True)
            part, part_lse = attend_block(
                _split(q[:, :, rows], shape), block, kernel=self.kernel, scale=scale
            )
            out[0, :, rows] = part.transpose(0, 1).flatten(1, 2)
            lse[0, :, rows] = part_lse.transpose(0, 1).flatten(1, 2)
            row = rows.stop
        return out, lse

    def _attend_to_spans(self, q: Tensor, out: Tensor, lse: Tensor, scale: float) -> None:
        """Merges what the rows see of the pass and of its past into ``out`` and ``lse``."""
        for span, rows in self.group.shared:
            for k, v in self.keys.between(*span):
                block = KeyBlock(k, v)
                part = attend_block(q[:, :, rows], block, kernel=self.kernel, scale=scale)
                out[:, :, rows], lse[:, :, rows] = merge(out[:, :, rows], lse[:, :, rows], *part)


def _split(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """``[1, heads, suffixes x rows, D]`` as ``[suffixes, heads, rows, D]``."""
    return x[0].view(x.shape[1], *shape, x.shape[3]).transpose(0, 1)
