"""Where keys and values lie: of the layer that is being walked, and of all layers for later passes.

A process holds the rows of some spans of the sequence: all of it, or with ring attention its share.
A layout says which spans each rank holds, in the order in which they lie there, so that every rank
knows what the others will send.

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

Place = Literal["device", "host", "disk"]

# From fast and scarce to slow and plentiful.
PLACES: tuple[Place, ...] = ("device", "host", "disk")
NAME_OF_PLACE = {"device": "on the device", "host": "in the memory of the host", "disk": "on disk"}


class Span(NamedTuple):
    """The tokens ``start`` to ``stop - 1`` of a sequence."""

    start: int
    stop: int

    @property
    def num_tokens(self) -> int:
        """How many tokens that is."""
        return self.stop - self.start

    def clip(self, start: int, stop: int) -> "Span":
        """What of it lies in ``[start, stop)``; an empty span where nothing does."""
        first = min(max(self.start, start), self.stop)
        return Span(first, max(first, min(self.stop, stop)))


@dataclass(frozen=True)
class Layout:
    """Which spans each rank holds, one after the other; all ranks have equally many.

    Attributes:
        spans: by rank, then in order of rows.
    """

    spans: tuple[tuple[Span, ...], ...]

    @classmethod
    def whole(cls, start: int, stop: int) -> "Layout":
        """One process that holds everything."""
        return cls(((Span(start, stop),),))

    def num_rows(self, rank: int) -> int:
        """How many rows a rank holds."""
        return sum(span.num_tokens for span in self.spans[rank])

    def until(self, stop: int) -> "Layout":
        """The same without the tokens from ``stop`` on; what is empty then keeps its place."""
        return Layout(tuple(tuple(span.clip(0, stop) for span in held) for held in self.spans))

    def followed_by(self, other: "Layout") -> "Layout":
        """These rows, then the other's, on every rank."""
        return Layout(tuple(a + b for a, b in zip(self.spans, other.spans, strict=True)))

    def located(self, rank: int) -> Iterator[tuple[Span, int]]:
        """Every span of a rank and the row where it begins."""
        lengths = (span.num_tokens for span in self.spans[rank])
        yield from zip(self.spans[rank], accumulate(lengths, initial=0), strict=False)


class KeyValueStore:
    """Keys and values of all layers, for passes that go on from here.

    Args:
        num_layers: layers of the decoder.
        shape: of one layer's keys, ``[1, Hk, rows, D]``.
        like: gives dtype and device of what is stored.
        place: ``"device"``, in the memory of the host, or in a temporary file on disk.
        directory: where that file lies.

    Raises:
        OSError: there is no room on the disk.
    """

    def __init__(
        self,
        num_layers: int,
        shape: Sequence[int],
        *,
        like: Tensor,
        place: Place,
        directory: Path | None = None,
    ) -> None:
        self.place = place
        size = [num_layers, 2, *shape]
        if place == "device":
            self._data = torch.empty(size, dtype=like.dtype, device=like.device)
        elif place == "host":
            is_pinned = like.device.type == "cuda"
            self._data = torch.empty(size, dtype=like.dtype, pin_memory=is_pinned)
        else:
            self._data = _open_file(size, like.dtype, directory)

    @property
    def num_bytes(self) -> int:
        """How much it holds."""
        return self._data.nbytes

    def write(self, layer: int, row: int, k: Tensor, v: Tensor) -> None:
        """Takes in a layer's rows from ``row`` on; ``k`` and ``v`` are ``[1, Hk, n, D]``."""
        for index, part in enumerate((k, v)):
            self._data[layer, index, :, :, row : row + part.shape[2]].copy_(part)

    def read(self, layer: int, row: int, k: Tensor, v: Tensor) -> None:
        """Fills ``k`` and ``v``, ``[1, Hk, n, D]``, with a layer's rows from ``row`` on."""
        for index, part in enumerate((k, v)):
            part.copy_(self._data[layer, index, :, :, row : row + part.shape[2]])

    def move(self, place: Place, *, like: Tensor, directory: Path | None) -> None:
        """Goes elsewhere with everything that it holds; arguments as of the class."""
        num_layers, _, *shape = self._data.shape
        copy = KeyValueStore(num_layers, shape, like=like, place=place, directory=directory)
        for layer in range(num_layers):
            copy._data[layer].copy_(self._data[layer])
        self.place, self._data = place, copy._data


def _open_file(size: Sequence[int], dtype: torch.dtype, directory: Path | None) -> Tensor:
    """A tensor in a file without a name, so that nothing is left however the process ends."""
    num_bytes = torch.Size(size).numel() * dtype.itemsize
    if num_bytes == 0:
        return torch.empty(*size, dtype=dtype)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(prefix="vniah-keys-", dir=directory) as file:
        _reserve(file.fileno(), num_bytes)
        mapped = mmap.mmap(file.fileno(), num_bytes)  # stays until the tensor goes
    return torch.frombuffer(mapped, dtype=dtype).view(*size)


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Takes the room now: a sparse file would end the process by SIGBUS when the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:  # macOS
        os.truncate(descriptor, num_bytes)


@dataclass(frozen=True)
class Kept:
    """The rows of one pass in a store, as far as a later pass reads them.

    Attributes:
        store: where they lie.
        layout: which rows each rank stored.
        stop: tokens from here on are not read.
    """

    store: KeyValueStore
    layout: Layout
    stop: int

    def until(self, stop: int) -> "Kept":
        """The same, read up to ``stop``."""
        return Kept(self.store, self.layout, min(stop, self.stop))

    @property
    def read_layout(self) -> Layout:
        """Which rows each rank reads."""
        return self.layout.until(self.stop)


class LayerKeys:
    """Keys and values of the present layer: those of the passes before, then this pass's own.

    Args:
        body: the decoder's stack of layers.
        past: what goes before, parents first.
        main: which rows of this pass each rank computes.
        rank: which of the ranks this is.
        like: gives dtype and device.
    """

    def __init__(
        self, body: Any, past: Sequence[Kept], main: Layout, *, rank: int, like: Tensor
    ) -> None:
        self.rank = rank
        self.has_past = bool(past)
        self._past = past
        self._main = main
        self.layout = Layout(((),) * len(main.spans))
        for kept in past:
            self.layout = self.layout.followed_by(kept.read_layout)
        self.num_past_rows = self.layout.num_rows(rank)
        self.layout = self.layout.followed_by(main)
        heads, size = body.config.num_key_value_heads, body.layers[0].self_attn.head_dim
        shape = (1, heads, self.layout.num_rows(rank), size)
        self.k, self.v = like.new_empty(shape), like.new_empty(shape)
        self._places = _joined(list(self.layout.located(rank)))

    def load(self, layer: int) -> None:
        """Fetches a layer's rows of the passes before."""
        row = 0
        for kept in self._past:
            stored = kept.layout.located(self.rank)
            for (_, source), span in zip(stored, kept.read_layout.spans[self.rank], strict=True):
                stop = row + span.num_tokens
                if stop > row:
                    kept.store.read(layer, source, self.k[:, :, row:stop], self.v[:, :, row:stop])
                row = stop

    def put(self, row: int, k: Tensor, v: Tensor) -> None:
        """Takes in rows of this pass, from its ``row`` on."""
        first = self.num_past_rows + row
        self.k[:, :, first : first + k.shape[2]] = k
        self.v[:, :, first : first + v.shape[2]] = v

    def save(self, layer: int, kept: Kept) -> None:
        """Puts a layer's rows of this pass into a store, as far as they are to be kept."""
        for (_, row), (span, target) in zip(
            self._main.located(self.rank), kept.layout.located(self.rank), strict=True
        ):
            first = self.num_past_rows + row
            rows = slice(first, first + span.num_tokens)
            kept.store.write(layer, target, self.k[:, :, rows], self.v[:, :, rows])

    def packed(self, span: Span) -> Tensor:
        """Keys and values of a span that this rank holds, in one piece: ``[2, 1, Hk, n, D]``."""
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
        """The rows of this rank that hold tokens ``start`` to ``stop - 1``, piece by piece."""
        for span, row in self._places:
            inside = span.clip(start, stop)
            if inside.num_tokens:
                rows = slice(row + inside.start - span.start, row + inside.stop - span.start)
                yield self.k[:, :, rows], self.v[:, :, rows]


def _joined(places: Sequence[tuple[Span, int]]) -> list[tuple[Span, int]]:
    """Places with those that follow one another, in tokens and in rows, made one."""
    joined: list[tuple[Span, int]] = []
    for span, row in places:
        if joined:
            before, first = joined[-1]
            if before.stop == span.start and first + before.num_tokens == row:
                joined[-1] = Span(before.start, span.stop), first
                continue
        if span.num_tokens:
            joined.append((span, row))
    return joined
