"""Keys and values: those of the present layer, and those of all layers that later passes read.

A process holds the rows of some spans of the sequence: all of it, or with ring attention its share.
A layout says which spans each rank holds and in which order, so that every rank knows what the
others will send.

Hk key/value heads, D head size.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

KVLocation = Literal["device", "host", "disk"]

# From fast and small to slow and large.
KV_LOCATIONS: tuple[KVLocation, ...] = ("device", "host", "disk")
NAME_OF_LOCATION = {
    "device": "on the device",
    "host": "in the memory of the host",
    "disk": "on disk",
}


class Span(NamedTuple):
    """The tokens ``start`` to ``stop - 1`` of a sequence."""

    start: int
    stop: int

    @property
    def num_tokens(self) -> int:
        """The number of its tokens."""
        return self.stop - self.start

    def clip(self, start: int, stop: int) -> "Span":
        """The part that lies in ``[start, stop)``; an empty span if there is none."""
        first = min(max(self.start, start), self.stop)
        return Span(first, max(first, min(self.stop, stop)))


@dataclass(frozen=True)
class Layout:
    """Which spans of a sequence each rank holds; all ranks hold equally many.

    Attributes:
        spans: for each rank its spans, in the order of its rows.
    """

    spans: tuple[tuple[Span, ...], ...]

    @classmethod
    def whole(cls, start: int, stop: int) -> "Layout":
        """The layout of one process that holds all tokens."""
        return cls(((Span(start, stop),),))

    def num_rows(self, rank: int) -> int:
        """The number of rows that a rank holds."""
        return sum(span.num_tokens for span in self.spans[rank])

    def until(self, stop: int) -> "Layout":
        """The same layout without the tokens from ``stop`` on; a span may become empty."""
        return Layout(tuple(tuple(span.clip(0, stop) for span in held) for held in self.spans))

    def followed_by(self, other: "Layout") -> "Layout":
        """The layout in which every rank holds its rows of this one, then its rows of the other."""
        return Layout(tuple(a + b for a, b in zip(self.spans, other.spans, strict=True)))

    def located(self, rank: int) -> Iterator[tuple[Span, int]]:
        """Every span of tokens that a rank holds, with the index of its first row there."""
        lengths = (span.num_tokens for span in self.spans[rank])
        yield from zip(self.spans[rank], accumulate(lengths, initial=0), strict=False)


class KeyValueStore:
    """Memory for the keys and values of all layers.

    Args:
        num_layers: number of the decoder's layers.
        shape: shape of one layer's keys, ``[1, Hk, rows, D]``.
        like: a tensor of the dtype and on the device of the keys.
        kv_location: on the device, in the memory of the host, or in a temporary file on disk.
        directory: the folder of that file; by default the system's for temporary files.

    Raises:
        OSError: the disk is full.
    """

    def __init__(
        self,
        num_layers: int,
        shape: Sequence[int],
        *,
        like: Tensor,
        kv_location: KVLocation,
        directory: Path | None = None,
    ) -> None:
        self.kv_location = kv_location
        size = [num_layers, 2, *shape]
        if kv_location == "device":
            self._data = torch.empty(size, dtype=like.dtype, device=like.device)
        elif kv_location == "host":
            is_pinned = like.device.type == "cuda"
            self._data = torch.empty(size, dtype=like.dtype, pin_memory=is_pinned)
        else:
            self._data = _open_file(size, like.dtype, directory)

    @property
    def num_bytes(self) -> int:
        """Bytes of all keys and values."""
        return self._data.nbytes

    def write(self, layer: int, row: int, k: Tensor, v: Tensor) -> None:
        """Stores a layer's rows from ``row`` on; ``k`` and ``v`` are ``[1, Hk, n, D]``."""
        for index, part in enumerate((k, v)):
            self._data[layer, index, :, :, row : row + part.shape[2]].copy_(part)

    def read(self, layer: int, row: int, k: Tensor, v: Tensor) -> None:
        """Fills ``k`` and ``v``, ``[1, Hk, n, D]``, with a layer's rows from ``row`` on."""
        for index, part in enumerate((k, v)):
            part.copy_(self._data[layer, index, :, :, row : row + part.shape[2]])

    def move(self, kv_location: KVLocation, *, like: Tensor, directory: Path | None) -> None:
        """Moves all keys and values to another location; arguments as of the class."""
        num_layers, _, *shape = self._data.shape
        copy = KeyValueStore(
            num_layers, shape, like=like, kv_location=kv_location, directory=directory
        )
        for layer in range(num_layers):
            copy._data[layer].copy_(self._data[layer])
        self.kv_location, self._data = kv_location, copy._data


def _open_file(size: Sequence[int], dtype: torch.dtype, directory: Path | None) -> Tensor:
    """A tensor in a file without a name: nothing is left on disk however the process ends."""
    num_bytes = torch.Size(size).numel() * dtype.itemsize
    if num_bytes == 0:
        return torch.empty(*size, dtype=dtype)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(prefix="vniah-keys-", dir=directory) as file:
        _reserve(file.fileno(), num_bytes)
        mapped = mmap.mmap(file.fileno(), num_bytes)  # lives as long as the tensor
    return torch.frombuffer(mapped, dtype=dtype).view(*size)


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Takes the room now: on a full disk, writing to a sparse file ends the process by SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:  # macOS
        os.truncate(descriptor, num_bytes)


@dataclass(frozen=True)
class KeyValueCache:
    """The stored keys and values of one pass, as far as a later pass reads them.

    Attributes:
        store: holds them.
        layout: which tokens each rank has stored.
        stop: the pass that reads them does not see the tokens from here on.
    """

    store: KeyValueStore
    layout: Layout
    stop: int

    def until(self, stop: int) -> "KeyValueCache":
        """The same keys and values, read up to ``stop``."""
        return KeyValueCache(self.store, self.layout, min(stop, self.stop))

    @property
    def read_layout(self) -> Layout:
        """Which tokens are read on each rank."""
        return self.layout.until(self.stop)


class LayerKeyValues:
    """Keys and values of the present layer: first those of the past, then this pass's own.

    Args:
        body: the decoder's stack of layers.
        past: keys and values of earlier passes, in the order of tokens.
        main: which tokens of this pass each rank computes.
        rank: the number of this rank.
        like: a tensor of the dtype and on the device of the keys.
    """

    def __init__(
        self, body: Any, past: Sequence[KeyValueCache], main: Layout, *, rank: int, like: Tensor
    ) -> None:
        self.rank = rank
        self.has_past = bool(past)
        self._past = past
        self._main = main
        self.layout = Layout(((),) * len(main.spans))
        for cache in past:
            self.layout = self.layout.followed_by(cache.read_layout)
        self.num_past_rows = self.layout.num_rows(rank)
        self.layout = self.layout.followed_by(main)
        heads, size = body.config.num_key_value_heads, body.layers[0].self_attn.head_dim
        shape = (1, heads, self.layout.num_rows(rank), size)
        self.k, self.v = like.new_empty(shape), like.new_empty(shape)
        self._located = _joined(list(self.layout.located(rank)))

    def load(self, layer: int) -> None:
        """Reads a layer's rows of the past."""
        row = 0
        for cache in self._past:
            stored = cache.layout.located(self.rank)
            for (_, source), span in zip(stored, cache.read_layout.spans[self.rank], strict=True):
                stop = row + span.num_tokens
                if stop > row:
                    cache.store.read(layer, source, self.k[:, :, row:stop], self.v[:, :, row:stop])
                row = stop

    def put(self, row: int, k: Tensor, v: Tensor) -> None:
        """Stores rows of this pass, from its ``row`` on; ``k`` and ``v`` are ``[1, Hk, n, D]``."""
        first = self.num_past_rows + row
        self.k[:, :, first : first + k.shape[2]] = k
        self.v[:, :, first : first + v.shape[2]] = v

    def save(self, layer: int, cache: KeyValueCache) -> None:
        """Stores a layer's rows of this pass for later passes, as far as these read them."""
        for (_, row), (span, target) in zip(
            self._main.located(self.rank), cache.layout.located(self.rank), strict=True
        ):
            first = self.num_past_rows + row
            rows = slice(first, first + span.num_tokens)
            cache.store.write(layer, target, self.k[:, :, rows], self.v[:, :, rows])

    def packed(self, span: Span) -> Tensor:
        """Keys and values of a span that this rank holds, in one tensor ``[2, 1, Hk, n, D]``."""
        size = span.num_tokens
        packed = self.k.new_empty(2, *self.k.shape[:2], size, self.k.shape[3])
        row = 0
        for k, v in self.between(*span):
            rows = slice(row, row + k.shape[2])
            packed[0, :, :, rows], packed[1, :, :, rows] = k, v
            row = rows.stop
        assert row == size
        return packed

    def between(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of the tokens ``start`` to ``stop - 1`` that this rank holds.

        Yields:
            Views ``[1, Hk, n, D]`` of keys and of values, one for each run of rows.
        """
        for span, row in self._located:
            inside = span.clip(start, stop)
            if inside.num_tokens:
                rows = slice(row + inside.start - span.start, row + inside.stop - span.start)
                yield self.k[:, :, rows], self.v[:, :, rows]


def _joined(located: Sequence[tuple[Span, int]]) -> list[tuple[Span, int]]:
    """The same spans, where those that follow one another in tokens and in rows are made one."""
    joined: list[tuple[Span, int]] = []
    for span, row in located:
        if joined:
            before, first = joined[-1]
            if before.stop == span.start and first + before.num_tokens == row:
                joined[-1] = Span(before.start, span.stop), first
                continue
        if span.num_tokens:
            joined.append((span, row))
    return joined
