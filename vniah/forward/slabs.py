"""Rows of spliced branches that go through the layers together, and what they attend to.

What is spliced, and what that approximates, says `vniah.forward.splices`. Which rows meet which
keys is worked out once for a slab of branches, in few kernel calls (`vniah.forward.key_blocks`).

R rows, E entries, Hq and Hk heads, D head size.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vniah.forward.attention import (
    Kernel,
    KeyBlock,
    KeysValuesDone,
    PartialResult,
    attend_block,
)
from vniah.forward.decoders import logits_of
from vniah.forward.key_blocks import plan_calls
from vniah.forward.kinds.base import AttentionCall
from vniah.forward.kv_cache import LayerKeyValues
from vniah.forward.rotation import Angles, rows_of
from vniah.forward.splices import Shift, SplicedBranch, SplicedRows
from vniah.forward.suffixes import Rows


def slabs_of(
    branches: Sequence[SplicedBranch], body: Any, angles: Angles, max_rows: int
) -> Iterator["Slab"]:
    """Consecutive branches with up to ``max_rows`` rows together, or one with more.

    Args:
        branches: all branches of a pass.
        body: the decoder's stack of layers.
        angles: of RoPE, of all their rows, branch by branch.
        max_rows: the most rows of a slab.
    """
    first = row = 0
    while first < len(branches):
        last, num_rows = first + 1, branches[first].num_tokens
        while last < len(branches) and num_rows + branches[last].num_tokens <= max_rows:
            num_rows += branches[last].num_tokens
            last += 1
        yield Slab(branches[first:last], body, rows_of(angles, slice(row, row + num_rows)))
        first, row = last, row + num_rows


class Slab:
    """Some branches whose rows go through the layers together, branch by branch.

    Which rows meet which keys is worked out once, and is the same at each layer.

    Args:
        branches: in the order of their rows.
        body: the decoder's stack of layers.
        angles: of RoPE, of the rows.

    Attributes:
        rows: of all branches.
    """

    def __init__(self, branches: Sequence[SplicedBranch], body: Any, angles: Angles) -> None:
        self._branches = branches
        blocks = [block for branch in branches for block in branch.blocks]
        hidden = torch.cat([block.hidden for block in blocks])
        device = hidden.device
        positions = torch.cat([block.position_ids for block in blocks], -1).to(device)
        self.rows = Rows(hidden, angles, positions)
        self._calls = _own_calls(branches, device)
        self._trunk = _TrunkEntries(blocks, body, device)
        self._read = _read_rows(branches, device)
        self._read_calls = _calls_of_read_rows(branches, device)
        self._read_trunk = _TrunkEntries(
            [
                replace(suffix.rows, hidden=suffix.rows.hidden[-suffix.num_rows :])
                for branch in branches
                for suffix in branch.suffixes
            ],
            body,
            device,
        )

    def attentions(
        self, keys: LayerKeyValues, kernel: Kernel, *, is_last: bool
    ) -> "tuple[SlabAttention | SlabKeysValues, ...]":
        """What the rows of the slab attend to in the present layer, in one call of it or in two.

        In the last layer all rows end after their keys and values, and then those that are read go
        through it.
        """
        if not is_last:
            return (SlabAttention(keys, kernel, self._calls, self._trunk, slice(None)),)
        own = SlabKeysValues()
        return own, SlabAttention(keys, kernel, self._read_calls, self._read_trunk, self._read, own)

    def add_deepstack(self, layer: int) -> None:
        """Adds what DeepStack adds to the rows after a layer."""
        row = 0
        for block in (block for branch in self._branches for block in branch.blocks):
            added = block.deepstack
            if added is not None and layer < len(added):
                self.rows.hidden[row : row + added.shape[1]] += added[layer]
            row += len(block.hidden)

    def read(self, decoder: Any) -> Iterator[Tensor]:
        """The logits of every suffix, branch by branch, ``[num_rows, vocabulary]`` fp32."""
        stop = 0
        for branch in self._branches:
            stop += branch.num_own
            for suffix in branch.suffixes:
                stop += len(suffix.rows.hidden)
                rows = self.rows.hidden[stop - suffix.num_rows : stop]
                yield logits_of(decoder, rows)


@dataclass(frozen=True)
class _OwnCall:
    """Blocks of rows of one size, which attend to blocks of keys of one size in one call.

    Attributes:
        rows: ``[blocks, size]``, numbers of queries; no query is in two blocks.
        keys: ``[blocks, number of keys]``, numbers of rows.
        is_causal: True if the queries are those of the keys, each of which sees itself and those
            before it.
    """

    rows: Tensor
    keys: Tensor
    is_causal: bool


def _own_calls(branches: Sequence[SplicedBranch], device: torch.device) -> list[_OwnCall]:
    """How rows of branches and suffixes meet one another; the first calls reach all rows."""
    alone: dict[int, list[int]] = defaultdict(list)  # first rows, by the number of rows
    meeting: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    row = 0
    for branch in branches:
        first_own = row
        if branch.num_own:
            alone[branch.num_own].append(row)
        row += branch.num_own
        for suffix in branch.suffixes:
            size = len(suffix.rows.hidden)
            alone[size].append(row)
            if suffix.num_own:
                meeting[size, suffix.num_own].append((row, first_own))
            row += size
    calls = []
    for size, firsts in alone.items():
        rows = _numbers(firsts, size, device)
        calls.append(_OwnCall(rows, rows, is_causal=True))
    for (size, num_keys), pairs in meeting.items():
        rows = _numbers([row for row, _ in pairs], size, device)
        keys = _numbers([first for _, first in pairs], num_keys, device)
        calls.append(_OwnCall(rows, keys, is_causal=False))
    return calls


def _read_rows(branches: Sequence[SplicedBranch], device: torch.device) -> Tensor:
    """The numbers of the rows that are read, ``[n]``."""
    found: list[Tensor] = []
    stop = 0
    for branch in branches:
        stop += branch.num_own
        for suffix in branch.suffixes:
            stop += len(suffix.rows.hidden)
            found.append(torch.arange(stop - suffix.num_rows, stop))
    return _joined(found).to(device)


def _calls_of_read_rows(branches: Sequence[SplicedBranch], device: torch.device) -> list[_OwnCall]:
    """How the rows that are read meet all rows of their branches; the first calls reach them all.

    A query's number is its place among the rows that are read.
    """
    alone: dict[int, list[tuple[int, int]]] = defaultdict(list)
    # No query is twice in one call, so own rows and those of a suffix have calls of their own.
    meeting: dict[tuple[int, int, bool], list[tuple[int, int]]] = defaultdict(list)
    row = query = 0
    for branch in branches:
        first_own = row
        row += branch.num_own
        for suffix in branch.suffixes:
            size, num_read = len(suffix.rows.hidden), suffix.num_rows
            alone[num_read].append((query, row + size - num_read))
            if suffix.num_own:
                meeting[num_read, suffix.num_own, True].append((query, first_own))
            if size > num_read:
                meeting[num_read, size - num_read, False].append((query, row))
            row += size
            query += num_read
    calls = []
    for num_read, pairs in alone.items():
        rows = _numbers([query for query, _ in pairs], num_read, device)
        keys = _numbers([first for _, first in pairs], num_read, device)
        calls.append(_OwnCall(rows, keys, is_causal=True))
    for (num_read, num_keys, _), pairs in meeting.items():
        rows = _numbers([query for query, _ in pairs], num_read, device)
        keys = _numbers([first for _, first in pairs], num_keys, device)
        calls.append(_OwnCall(rows, keys, is_causal=False))
    return calls


class _TrunkEntries:
    """The intervals of the trunk that rows attend to: one entry for each row and interval.

    Args:
        blocks: all rows of a slab.
        body: the decoder's stack of layers.
        device: of the rows.

    Attributes:
        turned: rows whose queries are turned back, ``[n]``; once for each of their shifts.
        back: the cosines and sines by which they are, ``[2, n, D]`` fp32.
        calls: spans of the trunk, each with the entries that see it; an entry is the number of a
            query: those of the rows as they are, then those that are turned back.
        rounds: entries, ``[e]``, with their rows, ``[e]``; no row is twice in one round.
    """

    def __init__(self, blocks: Sequence[SplicedRows], body: Any, device: torch.device) -> None:
        num_rows = sum(len(block.hidden) for block in blocks)
        turned: list[Tensor] = []
        shifts: list[Tensor] = []
        query: list[Tensor] = []
        owner: list[Tensor] = []
        spans: list[tuple[int, int, int]] = []  # ends of the interval, and the number of entries
        turn: list[Tensor] = []
        row, num_turned = 0, 0
        for block in blocks:
            size = len(block.hidden)
            own = torch.arange(row, row + size)
            row += size
            known: dict[Shift, Tensor] = {}
            for number, seen in enumerate(seen for seen in block.seen if seen.span.num_tokens):
                if not any(seen.shift):
                    found = own
                elif seen.shift in known:
                    found = known[seen.shift]
                else:
                    found = torch.arange(size) + num_rows + num_turned
                    known[seen.shift] = found
                    num_turned += size
                    turned.append(own)
                    shifts.append(torch.tensor(seen.shift)[:, None].expand(-1, size))
                query.append(found)
                owner.append(own)
                spans.append((*seen.span, size))
                turn.append(torch.full((size,), number))
        self.turned = _joined(turned).to(device)
        self.back = _turning_back(body, shifts, device)
        self._query = _joined(query).to(device)
        sizes = torch.tensor([size for *_, size in spans], dtype=torch.long)
        low, high = (
            torch.tensor([span[end] for span in spans], dtype=torch.long).repeat_interleave(sizes)
            for end in (0, 1)
        )
        self.num_entries = len(low)
        self.calls = [(span, numbers.to(device)) for span, numbers in plan_calls(low, high)]
        rows, rounds = _joined(owner), _joined(turn)
        self.rounds = [
            ((rounds == number).nonzero()[:, 0].to(device), rows[rounds == number].to(device))
            for number in range(int(rounds.max()) + 1 if len(rounds) else 0)
        ]

    def queries(self, q: Tensor) -> Tensor:
        """The queries of all entries, ``[1, Hq, E, D]``; ``q`` are those of the rows."""
        if len(self.turned):
            q = torch.cat([q, _rotated(q[:, :, self.turned], self.back)], 2)
        return q[:, :, self._query]


class SlabKeysValues(AttentionCall):
    """Keys and values of all rows of a slab in the last layer, which end there.

    Attributes:
        k: ``[1, Hk, R, D]``, once the layer has called it.
        v: the same.
    """

    def __init__(self) -> None:
        super().__init__(slice(None))
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Keeps the keys and values, and ends the layer's call."""
        self.k, self.v = k, v
        raise KeysValuesDone


class SlabAttention(AttentionCall):
    """Attention of the rows of a slab: to one another, and to the trunk.

    Args:
        keys: keys and values of the trunk in the present layer.
        kernel: computes the attention over each block of keys.
        calls: how the rows meet one another.
        trunk: what they see of the trunk.
        rows: those that go through the layer: all, or the numbers of some, ``[n]``.
        own: keys and values of all rows, where only some go through the layer.
    """

    def __init__(
        self,
        keys: LayerKeyValues,
        kernel: Kernel,
        calls: Sequence[_OwnCall],
        trunk: _TrunkEntries,
        rows: slice | Tensor,
        own: SlabKeysValues | None = None,
    ) -> None:
        super().__init__(rows)
        self._keys, self._kernel = keys, kernel
        self._calls, self._trunk, self._own = calls, trunk, own

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """As `AttentionCall.attend`."""
        if self._own is not None:
            assert self._own.k is not None and self._own.v is not None, "those of all come first"
            k, v = self._own.k, self._own.v
        result = PartialResult.none(q)
        for call in self._calls:
            block = KeyBlock(_batch(k, call.keys), _batch(v, call.keys), call.is_causal)
            part = attend_block(_batch(q, call.rows), block, kernel=self._kernel, scale=scale)
            result.add(call.rows.flatten(), *map(_unbatch, part))
        trunk = self._attend_to_trunk(q, scale)
        for entries, rows in self._trunk.rounds:
            result.add(rows, trunk.out[:, :, entries], trunk.lse[:, :, entries])
        return result.out, result.lse

    def _attend_to_trunk(self, q: Tensor, scale: float) -> PartialResult:
        """All entries to their intervals: ``[1, Hq, E, D]`` and ``[1, Hq, E]``."""
        asking = self._trunk.queries(q)
        result = PartialResult.none(asking)
        for span, entries in self._trunk.calls:
            for k, v in self._keys.between(*span):
                block = KeyBlock(k, v)
                part = attend_block(asking[:, :, entries], block, kernel=self._kernel, scale=scale)
                result.add(entries, *part)
        return result


def _turning_back(body: Any, shifts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Cosines and sines of the negative shifts, ``[2, n, D]`` fp32."""
    shift = torch.cat(list(shifts), -1).to(device) if shifts else torch.zeros(1, 0, device=device)
    positions = -shift if len(shift) == 1 else -shift[:, None]
    like = torch.zeros(1, 1, device=device)
    # What YaRN multiplies its cosines by is in the query already.
    cos, sin = (x / body.rotary_emb.attention_scaling for x in body.rotary_emb(like, positions))
    return torch.stack([cos[0], sin[0]])


def _rotated(q: Tensor, angles: Tensor) -> Tensor:
    """Queries rotated by some more angles, in fp32."""
    one, two = q.float().chunk(2, -1)
    cos, sin = angles
    turned: Tensor = torch.cat([one, two], -1) * cos + torch.cat([-two, one], -1) * sin
    return turned.to(q.dtype)


def _numbers(firsts: Sequence[int], size: int, device: torch.device) -> Tensor:
    """Blocks of row numbers, ``[len(firsts), size]``."""
    return (torch.tensor(firsts)[:, None] + torch.arange(size)).to(device)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.long), *parts])


def _batch(x: Tensor, rows: Tensor) -> Tensor:
    """``[1, heads, R, D]`` at ``rows [blocks, size]``, as ``[blocks, heads, size, D]``."""
    return x[0][:, rows].transpose(0, 1)


def _unbatch(x: Tensor) -> Tensor:
    """``[blocks, heads, size, ...]`` as ``[1, heads, blocks x size, ...]``."""
    return x.transpose(0, 1).flatten(1, 2)[None]
