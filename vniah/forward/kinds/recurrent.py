"""Linear attention, state-space layers and short convolutions: a state of constant size.

Such a layer reads what came before from a state: the last rows of a convolution, and a matrix for
each head (gated delta rule: Yang et al. 2024, arXiv 2412.06464; Mamba-2: Dao and Gu 2024, arXiv
2405.21060). transformers' layers ask their cache for the state and hand it the new one. Here an
object of this module stands in its place, which goes from chunk to chunk.

Where a suffix or a later pass goes on, a chunk ends and the state is copied. Suffixes of one length
go through the layer as a batch, each from its own state.

A single row behind a state is computed by another formula in transformers, as when it generates:
for Mamba-2 without the lower limit of the time step. So no call has a single row. A suffix of one
row goes twice, one behind the other, and the second is not used. Where somebody goes on before and
behind a row, the chunk reaches to the last of these places; the states before the others come from
calls of their own with the chunk's rows up to there, whose results are not used.

C channels of the convolution, K its length.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vniah.forward.kinds.base import (
    LayerCall,
    LayerKind,
    LayerMemory,
    PassSize,
    PassTokens,
    chunks_of,
)
from vniah.forward.kv_cache import KeyValueCache, Layout, Stored
from vniah.forward.suffixes import SuffixGroup

# Suffixes that go through a layer as one batch.
_BATCH = 64


@dataclass(frozen=True)
class Recurrent(LayerKind):
    """A layer with a state.

    Attributes:
        label: what it is called.
        conv_shape: C and K.
        state_shape: of the matrices of all heads; None for a convolution alone.
    """

    label: str
    conv_shape: tuple[int, int]
    state_shape: tuple[int, ...] | None

    @property
    def name(self) -> str:
        """As `LayerKind.name`."""
        return self.label

    def open(self, tokens: PassTokens) -> LayerMemory:
        """As `LayerKind.open`."""
        return _RecurrentMemory(self, tokens)

    def stored(self, layout: Layout, rank: int, ends: tuple[int, ...]) -> tuple[Stored, ...]:
        """The states before all ends, ``[ends, C, K]`` and, in fp32, ``[ends, *state_shape]``."""
        span = layout.spans[rank][0]
        count = len(_ends_within(ends, span.start, span.stop))
        conv = Stored((count, *self.conv_shape))
        if self.state_shape is None:
            return (conv,)
        return conv, Stored((count, *self.state_shape), torch.float32)

    def alone(self) -> LayerCall:
        """All rows from an empty state, which is part of what each row costs."""
        return _call(slice(None), States())

    def held_bytes(self, size: PassSize, itemsize: int) -> int:
        """The states of the present rows, of their copy, and before all ends."""
        conv = math.prod(self.conv_shape) * itemsize
        # Those of a batch of suffixes are there twice more.
        count = 2 + len(size.ends) + 2 * min(len(size.ends), _BATCH)
        return (conv + 4 * math.prod(self.state_shape or (0,))) * count

    @property
    def row_flops(self) -> int:
        """The state is read, corrected and updated; without what rows that are close do."""
        return 6 * math.prod(self.state_shape or (0,)) + 2 * math.prod(self.conv_shape)

    def row_bytes(self, itemsize: int) -> int:
        """In fp32: queries, keys, values and what is made of them, and scores of 64 rows."""
        conv = 4 * self.conv_shape[0] * itemsize
        if self.state_shape is None:
            return conv
        heads, one, other = self.state_shape
        return conv + 4 * heads * (7 * one + 6 * other + 4 * 64)


@dataclass
class States:
    """The states of one layer for a batch of sequences, in the place of a cache of transformers.

    The layer changes the tensors in place, or hands over new ones.

    Attributes:
        conv: the last K inputs of the convolution, ``[B, C, K]``; None before the first row.
        recurrent: ``[B, *state_shape]``; None before the first row, or if there is none.
        used_by: the call that runs with it.
    """

    conv: Tensor | None = None
    recurrent: Tensor | None = None
    used_by: LayerCall | None = field(default=None, compare=False)

    def copy(self) -> "States":
        """The same states in tensors of their own."""
        conv, recurrent = (None if x is None else x.clone() for x in (self.conv, self.recurrent))
        return States(conv, recurrent)

    @classmethod
    def stacked(cls, parts: Sequence["States"]) -> "States":
        """A batch of states, in tensors of their own; all of them or none have begun."""
        conv = [part.conv for part in parts if part.conv is not None]
        recurrent = [part.recurrent for part in parts if part.recurrent is not None]
        return cls(torch.cat(conv) if conv else None, torch.cat(recurrent) if recurrent else None)

    # What transformers' layers call.

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """The state of the convolution."""
        self._require_first(state_idx)
        return self.conv

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """The matrices of all heads."""
        self._require_first(state_idx)
        return self.recurrent

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = 0) -> bool:
        """Whether any row came before."""
        return self.conv is not None

    def is_recording_past(self, layer_idx: int) -> bool:
        """Never: nothing is taken back."""
        return False

    def update_conv_state(
        self, rows: Tensor, layer_idx: int, state_idx: int = 0, *, conv_kernel_size: int
    ) -> Tensor:
        """Keeps the last K of the rows ``[B, C, n]``; gives the state before them and them."""
        self._require_first(state_idx)
        if self.conv is not None:
            rows = torch.cat([self.conv, rows], -1)
        elif rows.shape[-1] < conv_kernel_size:
            rows = pad(rows, (conv_kernel_size - rows.shape[-1], 0))
        self.conv = rows[..., -conv_kernel_size:].clone()
        return rows

    def update_recurrent_state(self, state: Tensor, layer_idx: int, state_idx: int = 0) -> Tensor:
        """Keeps the matrices after the rows."""
        self._require_first(state_idx)
        self.recurrent = state
        return state

    def _require_first(self, state_idx: int) -> None:
        assert state_idx == 0, "layers with several states are not among the known kinds"
        if self.used_by is not None:
            self.used_by.was_called = True


class _RecurrentMemory(LayerMemory):
    """The state behind the rows that were read last, and those before all ends.

    Args:
        kind: gives the sizes.
        tokens: the pass.
    """

    def __init__(self, kind: Recurrent, tokens: PassTokens) -> None:
        assert tokens.ring is None, "a state goes through all rows in order"
        self._tokens = tokens
        cuts = _last_of_runs(tokens.ends)
        # No chunk ends one row before a place in its middle.
        avoided = {end - 1 for end in tokens.ends if end not in cuts}
        self._chunks = chunks_of(tokens, cuts=cuts, leaves_no_row=True, avoided=avoided)
        self._before: dict[int, States] = {}  # by the token at which somebody goes on

    def load(self, index: int, layer: Any) -> None:
        start = self._tokens.start
        wanted = {start, *(end for end in self._tokens.ends if end <= start)}
        self._before = {end: self._read(index, end) for end in wanted}

    def main_calls(self, *, finishes: bool) -> Iterator[LayerCall]:
        states = self._before[self._tokens.start].copy()
        for chunk in self._chunks:
            for end in _ends_within(self._tokens.ends, chunk.start, chunk.stop - 1):
                up_to = slice(chunk.rows.start, chunk.rows.start + end - chunk.start)
                self._before[end] = states.copy()
                yield _call(up_to, self._before[end], num_used=0)
            yield _call(chunk.rows, states)
            if chunk.stop in self._tokens.ends:
                self._before[chunk.stop] = states.copy()

    def save(self, index: int, cache: KeyValueCache) -> None:
        tensors = cache.store.tensors(index)
        for number, end in enumerate(_stored_ends(cache)):
            states = self._before[end]
            for tensor, state in zip(tensors, (states.conv, states.recurrent), strict=False):
                assert state is not None, "a state is there after the first row"
                tensor[number] = state[0]

    def suffix_calls(self, group: SuffixGroup, *, is_last: bool) -> Iterator[LayerCall]:
        alike: dict[tuple[int, bool], list[tuple[int, int]]] = defaultdict(list)
        row = 0
        for suffix in group.suffixes:
            size = len(suffix.hidden)
            alike[size, suffix.start == 0].append((row, suffix.start))
            row += size
        batches = (
            (size, members[first : first + _BATCH])
            for (size, _), members in alike.items()
            for first in range(0, len(members), _BATCH)
        )
        for size, members in batches:
            # A single row stands twice in the sequence.
            places = torch.arange(size) if size > 1 else torch.zeros(2, dtype=torch.long)
            rows = torch.tensor([row for row, _ in members])[:, None] + places
            states = States.stacked([self._before[start] for _, start in members])
            yield _call(rows.to(self._tokens.like.device), states, num_used=size)

    def _read(self, index: int, end: int) -> States:
        """The states of a layer before a token of the past, or before the first main row."""
        if end == 0:
            return States()
        for cache in reversed(self._tokens.past):
            ends = _stored_ends(cache)
            if end in ends and end <= cache.stop:
                place = ends.index(end)
                found = [
                    tensor[place : place + 1].to(self._tokens.like.device, copy=True)
                    for tensor in cache.store.tensors(index)
                ]
                return States(found[0], found[1] if len(found) > 1 else None)
        raise AssertionError(f"no pass has stored the states before token {end}")


def _call(rows: slice | Tensor, states: States, num_used: int | None = None) -> LayerCall:
    call = LayerCall(rows, states, num_used)
    states.used_by = call
    return call


def _stored_ends(cache: KeyValueCache) -> list[int]:
    """The tokens before which a cache stores the states, in the order of its rows."""
    span = cache.layout.spans[0][0]
    return _ends_within(cache.ends, span.start, span.stop)


def _last_of_runs(ends: Sequence[int]) -> list[int]:
    """The ends without those that are one token before another."""
    return [end for end in ends if end + 1 not in ends]


def _ends_within(ends: Sequence[int], start: int, stop: int) -> list[int]:
    """The ends behind at least one token of ``start`` to ``stop - 1``."""
    return [end for end in ends if start < end <= stop]
