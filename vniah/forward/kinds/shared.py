"""Keys and values that later layers use again, which have none of their own.

In the smaller sizes of Gemma 4, as in Gemma 3n (2025), the last layers have queries only. Each of
them attends to the keys and values of the last layer of its kind that has its own (cross-layer
attention, Brandon et al. 2024, arXiv 2405.12981).

So of a sequence's main rows, nobody reads what they become in these layers but they themselves. If
nobody reads them at the end either, they go no further than the last layer with keys of its own.
Rows of suffixes go through all layers, and their keys and values are kept until the last one. Later
passes read what the layer with keys of its own has stored, for all that use it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vniah.forward.attention import Heads
from vniah.forward.kinds.base import (
    AloneCall,
    LayerCall,
    LayerKind,
    LayerMemory,
    PassSize,
    PassTokens,
)
from vniah.forward.kinds.full import FullAttention
from vniah.forward.kinds.window import SlidingWindow
from vniah.forward.kv_cache import KeyValueCache, Layout, Stored
from vniah.forward.suffixes import SuffixGroup

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class SharedKeys(LayerKind):
    """A layer with keys and values of its own, which later layers use again.

    Attributes:
        inner: how its rows attend.
    """

    inner: FullAttention | SlidingWindow

    @property
    def name(self) -> str:
        """As `LayerKind.name`."""
        return f"{self.inner.name}, with keys for later layers"

    @property
    def sees_images(self) -> bool:
        """As `FullAttention.sees_images`."""
        return self.inner.sees_images

    @property
    def heads(self) -> Heads:
        """As `LayerKind.heads`."""
        return self.inner.heads

    def open(self, tokens: PassTokens) -> LayerMemory:
        """As `LayerKind.open`."""
        return _SharedMemory(self.inner.open(tokens), keeps_main=tokens.finishes)

    def stored(self, layout: Layout, rank: int, ends: tuple[int, ...]) -> tuple[Stored, ...]:
        """As `LayerKind.stored`."""
        return self.inner.stored(layout, rank, ends)

    def alone(self) -> LayerCall:
        """As `LayerKind.alone`."""
        return _AloneCall(self.heads)

    def held_bytes(self, size: PassSize, itemsize: int) -> int:
        """What the inner kind holds, and keys and values of the suffixes."""
        heads = self.heads
        of_suffixes = size.num_in_suffixes * 2 * heads.num_kv_heads * heads.head_dim * itemsize
        return self.inner.held_bytes(size, itemsize) + of_suffixes

    def num_pairs(self, start: int, num_tokens: int) -> int:
        """As `LayerKind.num_pairs`."""
        return self.inner.num_pairs(start, num_tokens)


@dataclass(frozen=True)
class ReusedKeys(SharedKeys):
    """A layer that uses the keys and values of an earlier one."""

    @property
    def name(self) -> str:
        """As `LayerKind.name`."""
        return f"{self.inner.name}, with keys of an earlier layer"

    @property
    def memory_kind(self) -> LayerKind:
        """That of the earlier layer."""
        return SharedKeys(self.inner)

    def open(self, tokens: PassTokens) -> LayerMemory:
        """Never: it reads in the memory of another kind."""
        raise NotImplementedError

    def stored(self, layout: Layout, rank: int, ends: tuple[int, ...]) -> tuple[Stored, ...]:
        """Nothing."""
        return ()

    def held_bytes(self, size: PassSize, itemsize: int) -> int:
        """Nothing besides what the earlier layer holds."""
        return 0


class _SharedMemory(LayerMemory):
    """The memory of a layer, which lives on until the last layer that uses it.

    Args:
        inner: of the kind by which all of these layers attend.
        keeps_main: whether the main rows go through all layers, so that their own keys and values
            are kept as well.
    """

    def __init__(self, inner: LayerMemory, *, keeps_main: bool) -> None:
        self._inner = inner
        self._keeps_main = keeps_main
        self._of_calls: dict[int, KeysValues] = {}
        self._is_reused = False

    def load(self, index: int, layer: Any) -> None:
        self._is_reused = layer.self_attn.is_kv_shared_layer
        if not self._is_reused:
            self._of_calls.clear()
            self._inner.load(index, layer)

    def main_calls(self, *, finishes: bool) -> Iterator[LayerCall]:
        if self._is_reused and not finishes:
            return
        for number, call in enumerate(self._inner.main_calls(finishes=finishes)):
            yield self._handing_over(call, number, keeps=self._keeps_main)

    def save(self, index: int, cache: KeyValueCache) -> None:
        if not self._is_reused:
            self._inner.save(index, cache)

    def first_seen(self, token: int) -> int:
        return self._inner.first_seen(token)

    def keys_between(self, start: int, stop: int) -> Iterator[Tensor]:
        return self._inner.keys_between(start, stop)

    def suffix_calls(self, group: SuffixGroup, *, is_last: bool) -> Iterator[LayerCall]:
        (call,) = self._inner.suffix_calls(group, is_last=is_last)
        yield self._handing_over(call, id(group), keeps=True)

    def _handing_over(self, call: LayerCall, number: int, *, keeps: bool) -> LayerCall:
        call.more = {"shared_kv_states": _Handover(self._of_calls, number, keeps=keeps)}
        return call


class _Handover:
    """What a layer takes for the keys and values that all layers share: those of one call's rows.

    Args:
        kept: of all calls, by their numbers.
        number: of the call.
        keeps: False if no later layer is called with these rows.
    """

    def __init__(self, kept: dict[int, KeysValues], number: int, *, keeps: bool) -> None:
        self._kept, self._number, self._keeps = kept, number, keeps

    def __setitem__(self, layer_type: str, keys_values: KeysValues) -> None:
        if self._keeps:
            self._kept[self._number] = keys_values

    def __getitem__(self, layer_type: str) -> KeysValues:
        return self._kept[self._number]


class _AloneCall(AloneCall):
    """All rows, each of which attends to itself alone; without keys of their own, to zeros."""

    def __init__(self, heads: Heads) -> None:
        super().__init__(slice(None))
        self._num_kv_heads = heads.num_kv_heads
        none: KeysValues = (torch.empty(0), torch.empty(0))
        self.more = {"shared_kv_states": _Handover({0: none}, 0, keeps=False)}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
        if not v.numel():
            v = q.new_zeros(q.shape[0], self._num_kv_heads, *q.shape[2:])
        return super().attend(q, k, v, scale)
