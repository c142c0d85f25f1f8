"""Keys and values: those of the present layer, and those of all layers that later passes read.

Which tensors a layer keeps says its kind (`vniah.forward.kinds`); here they are held and stored.

A process holds the rows of some spans of the sequence: all of it, or with ring attention its share.
A layout says which spans each rank holds and in which order, so that every rank knows what the
others will send.

Hk key/value heads, D head size.
"""

import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

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


_ALIGNMENT = 256  # bytes; a multiple of the alignment of tensors that torch allocates on CUDA


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


@dataclass(frozen=True)
class Stored:
    """One tensor that is stored of a layer.

    Attributes:
        shape: its shape.
        dtype: None for that of the rows between the layers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None

    def num_bytes(self, itemsize: int) -> int:
        """Its bytes, if a number of the rows takes so many."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype else itemsize)


class KeyValueStore:
    """Memory for what later passes read of all layers: keys and values, latents, or states.

    Args:
        layers: for each layer the tensors that are stored of it.
        like: a tensor of the dtype and on the device of the rows between the layers.
        kv_location: on the device, in the memory of the host, or in a temporary file on disk.
        directory: the folder of that file; by default the system's for temporary files.

    Raises:
        OSError: the disk is full.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[Stored]],
        *,
        like: Tensor,
        kv_location: KVLocation,
        directory: Path | None = None,
    ) -> None:
        self.kv_location = kv_location
        self._places: list[list[tuple[slice, torch.dtype, tuple[int, ...]]]] = []
        start = 0
        for stored in layers:
            places = []
            for one in stored:
                dtype = one.dtype or like.dtype
                stop = start + math.prod(one.shape) * dtype.itemsize
                places.append((slice(start, stop), dtype, one.shape))
                start = -(-stop // _ALIGNMENT) * _ALIGNMENT
            self._places.append(places)
        self._data = _open(start, like, kv_location, directory)

    @property
    def num_bytes(self) -> int:
        """Bytes of all that is stored."""
        return self._data.nbytes

    def tensors(self, layer: int) -> tuple[Tensor, ...]:
        """What is stored of a layer, as views."""
        return tuple(
            self._data[place].view(dtype).view(shape) for place, dtype, shape in self._places[layer]
        )

    def move(self, kv_location: KVLocation, *, like: Tensor, directory: Path | None) -> None:
        """Moves everything to another location; arguments as of the class."""
        copy = _open(self._data.numel(), like, kv_location, directory)
        copy.copy_(self._data)
        self.kv_location, self._data = kv_location, copy


def _open(num_bytes: int, like: Tensor, kv_location: KVLocation, directory: Path | None) -> Tensor:
    """So many bytes at a location; arguments as of `KeyValueStore`."""
    if kv_location == "device":
        return torch.empty(num_bytes, dtype=torch.uint8, device=like.device)
    if kv_location == "host":
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=like.is_cuda)
    return _open_file(num_bytes, directory)


def _open_file(num_bytes: int, directory: Path | None) -> Tensor:
    """Bytes in a file without a name: nothing is left on disk however the process ends."""
    if num_bytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(prefix="vniah-keys-", dir=directory) as file:
        _reserve(file.fileno(), num_bytes)
        mapped = mmap.mmap(file.fileno(), num_bytes)  # lives as long as the tensor
    return torch.frombuffer(mapped, dtype=torch.uint8)


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Takes the room now: on a full disk, writing to a sparse file ends the process by SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:  # macOS
        os.truncate(descriptor, num_bytes)


@dataclass(frozen=True)
class KeyValueCache:
    """What one pass stored of its layers, as far as later passes read it.

    Attributes:
        store: holds it: keys and values, or whatever a kind of layer keeps.
        layout: which tokens each rank has stored.
        stop: the pass that reads them does not see the tokens from here on.
        ends: the tokens before which later passes and suffixes go on, ascending. A layer that does
            not keep every token keeps what is needed there.
    """

    store: KeyValueStore
    layout: Layout
    stop: int
    ends: tuple[int, ...] = ()

    @property
    def start(self) -> int:
        """The first token of the pass that stored it."""
        return self.layout.spans[0][0].start

    def until(self, stop: int) -> "KeyValueCache":
        """The same, read up to ``stop``."""
        return replace(self, stop=min(stop, self.stop))

    @property
    def read_layout(self) -> Layout:
        """Which tokens are read on each rank."""
        return self.layout.until(self.stop)


class LayerKeyValues:
    """What a layer keeps of every token: first that of the past, then that of this pass.

    Usually keys and values; with latent attention, latents and rotated keys.

    Args:
        sizes: for each of the tensors, heads and numbers of a head, e.g. ``[(Hk, D), (Hk, D)]``.
        past: what earlier passes stored, in the order of tokens.
        main: which tokens of this pass each rank computes.
        rank: the number of this rank.
        like: a tensor of the dtype and on the device of the rows.

    Attributes:
        parts: the tensors, ``[1, heads, rows, size]`` each.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        past: Sequence[KeyValueCache],
        main: Layout,
        *,
        rank: int,
        like: Tensor,
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
        num_rows = self.layout.num_rows(rank)
        self.parts = [like.new_empty(1, heads, num_rows, size) for heads, size in sizes]
        self._located = _joined(list(self.layout.located(rank)))

    @property
    def k(self) -> Tensor:
        """The keys, ``[1, Hk, rows, D]``."""
        return self.parts[0]

    @property
    def v(self) -> Tensor:
        """The values, ``[1, Hk, rows, D]``."""
        return self.parts[1]

    def load(self, layer: int) -> None:
        """Reads a layer's rows of the past."""
        row = 0
        for cache in self._past:
            tensors = cache.store.tensors(layer)
            stored = cache.layout.located(self.rank)
            for (_, source), span in zip(stored, cache.read_layout.spans[self.rank], strict=True):
                stop = row + span.num_tokens
                for part, tensor in zip(self.parts, tensors, strict=True):
                    part[:, :, row:stop] = tensor[:, :, source : source + span.num_tokens]
                row = stop

    def put(self, row: int, *parts: Tensor) -> None:
        """Keeps rows of this pass, from its ``row`` on; each part is ``[1, heads, n, size]``."""
        first = self.num_past_rows + row
        for kept, part in zip(self.parts, parts, strict=True):
            kept[:, :, first : first + part.shape[2]] = part

    def save(self, layer: int, cache: KeyValueCache) -> None:
        """Stores a layer's rows of this pass for later passes, as far as these read them."""
        tensors = cache.store.tensors(layer)
        for (_, row), (span, target) in zip(
            self._main.located(self.rank), cache.layout.located(self.rank), strict=True
        ):
            first = self.num_past_rows + row
            for part, tensor in zip(self.parts, tensors, strict=True):
                rows = part[:, :, first : first + span.num_tokens]
                tensor[:, :, target : target + span.num_tokens] = rows

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
        for rows in self.rows_between(start, stop):
            yield self.k[:, :, rows], self.v[:, :, rows]

    def rows_between(self, start: int, stop: int) -> Iterator[slice]:
        """The rows of the tokens ``start`` to ``stop - 1`` that this rank holds, run by run."""
        for span, row in self._located:
            inside = span.clip(start, stop)
            if inside.num_tokens:
                yield slice(row + inside.start - span.start, row + inside.stop - span.start)


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
