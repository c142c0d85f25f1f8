"""Layers without a past: every row by itself, through a feed-forward network or experts alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Rowwise(LayerKind):
    """A layer that reads nothing of the tokens before its rows (Nemotron-H has such layers)."""

    @property
    def name(self) -> str:
        """As `LayerKind.name`."""
        return "feed-forward"

    @property
    def runs_in_ring(self) -> bool:
        """Yes: every process has its own rows."""
        return True

    def open(self, tokens: PassTokens) -> LayerMemory:
        """As `LayerKind.open`."""
        return _RowwiseMemory(tokens)

    def stored(self, layout: Layout, rank: int, ends: tuple[int, ...]) -> tuple[Stored, ...]:
        """Nothing."""
        return ()

    def alone(self) -> LayerCall:
        """As `LayerKind.alone`."""
        return _call(slice(None))

    def held_bytes(self, size: PassSize, itemsize: int) -> int:
        """None."""
        return 0


class _RowwiseMemory(LayerMemory):
    def __init__(self, tokens: PassTokens) -> None:
        self._chunks = chunks_of(tokens)

    def load(self, index: int, layer: Any) -> None:
        pass

    def main_calls(self, *, finishes: bool) -> Iterator[LayerCall]:
        if finishes:
            for chunk in self._chunks:
                yield _call(chunk.rows)

    def save(self, index: int, cache: KeyValueCache) -> None:
        pass

    def suffix_calls(self, group: SuffixGroup, *, is_last: bool) -> Iterator[LayerCall]:
        yield _call(slice(None))


def _call(rows: slice) -> LayerCall:
    call = LayerCall(rows)
    call.was_called = True  # there is nothing that it could ask for
    return call
