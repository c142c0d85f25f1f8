"""How much attention the last rows of a sequence pay to watched tokens, in every layer and head.

The attention mass of some keys S, in the softmax of a row over all keys that it sees, is

    sum of exp(score) over S / sum of exp(score) over all keys = exp(lse(S) - lse(all))

where lse is the log-sum-exp of the scores. A pass computes lse(all) anyway (`vniah.forward.
attention`), with attention sinks in it. So only the scores of these rows with the watched keys are
computed besides, and nothing but the masses is kept. Keys that a row does not see, such as those
before a sliding window, are not in S. The rows are in suffixes, and see no row after them.

R rows, Hq and Hk heads of queries and of keys, D head size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from vniah.forward.kinds.base import LayerMemory, SeesAttention
from vniah.forward.kv_cache import Span
from vniah.forward.suffixes import SuffixGroup

_MOST_SCORES = 1 << 24  # that are in memory at once


@dataclass(frozen=True)
class _Part:
    """Watched tokens that follow one another, and the rows whose attention to them is computed.

    Attributes:
        group: which of the groups of its sequence they belong to.
        span: the tokens, counted from the beginning of the sequence.
        first_row: the row of the first of them in the group; None if all are before the suffixes.
        places: which of all such rows of the group they are.
        tokens: of these rows.
        on_device: the same, ``[R]``.
    """

    group: int
    span: Span
    first_row: int | None
    places: Tensor
    tokens: tuple[int, ...]
    on_device: Tensor


class _Seen(NamedTuple):
    """The first tokens that the rows of a part see in a layer: the least, and all of them."""

    least: int
    by_row: Tensor

    @classmethod
    def by(cls, part: _Part, memory: LayerMemory) -> "_Seen":
        firsts = [memory.first_seen(token) for token in part.tokens]
        return cls(min(firsts), torch.tensor(firsts, device=part.places.device))


class Watch:
    """The attention mass of watched tokens, for a group of suffixes, layer by layer.

    Args:
        group: the suffixes; those without watched tokens are left out.
        num_layers: of the decoder.
    """

    def __init__(self, group: SuffixGroup, num_layers: int) -> None:
        device = group.rows.hidden.device
        before: dict[tuple[int, Span], list[tuple[int, int]]] = {}
        own: list[tuple[int, Span, int, list[tuple[int, int]]]] = []
        rows: list[int] = []
        self._counts: list[tuple[int, int]] = []  # of each suffix: groups, rows
        self._num_groups = max(len(suffix.watched.groups) for suffix in group.suffixes)
        for suffix, first in zip(group.suffixes, group.firsts, strict=True):
            num_rows = suffix.watched.num_rows if suffix.watched.groups else 0
            assert num_rows <= len(suffix.hidden)
            self._counts.append((len(suffix.watched.groups), num_rows))
            if not num_rows:
                continue
            offset = len(suffix.hidden) - num_rows
            read = [(len(rows) + n, suffix.start + offset + n) for n in range(num_rows)]
            rows += range(first + offset, first + len(suffix.hidden))
            for number, spans in enumerate(suffix.watched.groups):
                for span in spans:
                    in_front = span.clip(0, suffix.start)
                    inside = span.clip(suffix.start, span.stop)
                    if in_front.num_tokens:
                        before.setdefault((number, in_front), []).extend(read)
                    if inside.num_tokens:
                        own.append((number, inside, first + inside.start - suffix.start, read))
        self._rows = torch.tensor(rows, device=device)

        def part(
            number: int, span: Span, first_row: int | None, read: Sequence[tuple[int, int]]
        ) -> _Part:
            places, tokens = zip(*read, strict=True)
            moved = (torch.tensor(numbers, device=device) for numbers in (places, tokens))
            return _Part(number, span, first_row, next(moved), tokens, next(moved))

        self._parts = [part(*key, None, read) for key, read in before.items()]
        self._parts += [part(*one) for one in own]
        self._firsts: dict[LayerMemory, list[_Seen]] = {}
        self._masses: list[Tensor | None] = [None] * num_layers

    @property
    def watches(self) -> bool:
        """Whether any of the suffixes has watched tokens."""
        return bool(self._parts)

    def in_layer(self, layer: int, memory: LayerMemory) -> SeesAttention:
        """What a call of that layer with the group's rows hands its attention to."""
        return partial(self._record, layer, memory)

    def read(self) -> Iterator[Tensor | None]:
        """Of each suffix the mass ``[groups, layers, Hq, rows]``, fp32; None if it watches nothing.

        Layers without attention have NaN, and so have the heads that a layer has too few.
        """
        found = [mass for mass in self._masses if mass is not None]
        num_heads = max((mass.shape[1] for mass in found), default=0)
        shape = (self._num_groups, len(self._masses), num_heads, len(self._rows))
        masses = torch.full(shape, torch.nan, device=self._rows.device)
        for layer, mass in enumerate(self._masses):
            if mass is not None:
                masses[:, layer, : mass.shape[1]] = mass
        masses = masses.cpu()
        start = 0
        for num_groups, num_rows in self._counts:
            stop = start + num_rows
            yield masses[:num_groups, ..., start:stop].clone() if num_rows else None
            start = stop

    def _record(
        self, layer: int, memory: LayerMemory, q: Tensor, k: Tensor, lse: Tensor, scale: float
    ) -> None:
        """Keeps the masses in a layer.

        Args:
            layer: its number.
            memory: of the layer.
            q: queries of all rows of the group, ``[1, Hq, n, D]``.
            k: keys of these rows, ``[1, Hk, n, D]``.
            lse: log-sum-exp of each row over all that it sees, ``[1, Hq, n]``.
            scale: factor on the scores.
        """
        assert len(q) == 1 and q.shape[2] == k.shape[2], "all rows of the group in one call"
        asking, total = q[0][:, self._rows].float(), lse[0][:, self._rows]
        watched = total.new_full((self._num_groups, *total.shape), -torch.inf)
        if memory not in self._firsts:
            self._firsts[memory] = [_Seen.by(part, memory) for part in self._parts]
        for part, (first, firsts) in zip(self._parts, self._firsts[memory], strict=True):
            start = max(part.span.start, first)
            if start >= part.span.stop:
                continue
            if part.first_row is None:
                blocks = memory.keys_between(start, part.span.stop)
            else:
                row = part.first_row + start - part.span.start
                blocks = iter([k[:, :, row : part.first_row + part.span.num_tokens]])
            asked = asking[:, part.places]
            most_keys = max(1, _MOST_SCORES // asked[..., 0].numel())
            for keys in chain.from_iterable(torch.split(block, most_keys, 2) for block in blocks):
                tokens = torch.arange(start, start + keys.shape[2], device=q.device)
                start += keys.shape[2]
                is_seen = (tokens >= firsts[:, None]) & (tokens <= part.on_device[:, None])
                scores = _scores(asked, keys[0].float()) * scale
                lse_of_block = scores.masked_fill(~is_seen, -torch.inf).logsumexp(-1)
                before = watched[part.group, :, part.places]
                watched[part.group, :, part.places] = torch.logaddexp(before, lse_of_block)
        self._masses[layer] = torch.exp(watched - total).clamp(max=1)  # rounding may exceed 1


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Products of queries ``[Hq, R, D]`` and keys ``[Hk, n, D]``: ``[Hq, R, n]``."""
    grouped = q.view(len(k), -1, q.shape[-1])  # query heads that share keys as rows of one head
    return (grouped @ k.transpose(1, 2)).view(*q.shape[:2], -1)
