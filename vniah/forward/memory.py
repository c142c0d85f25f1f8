"""The memory that passes run in: how it is divided, and what happens when it runs out.

Two things are chosen by the free memory: the chunk size (how many rows go through a layer at once)
and the location of the keys and values from which later passes continue. If memory runs out all the
same, chunks get smaller; then stored keys and values move from the device to the host, and then to
the disk. None of this changes a result.
"""

import errno
import gc
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vniah.forward.costs import DecoderShape
from vniah.forward.devices import USABLE, free_bytes, give_back_unused, shares_host_memory
from vniah.forward.kinds.choosing import open_cache
from vniah.forward.kv_cache import (
    KV_LOCATIONS,
    NAME_OF_LOCATION,
    KeyValueCache,
    KVLocation,
    Layout,
)
from vniah.forward.prefix_tree import Branch
from vniah.forward.ring import Ring

MIN_CHUNK_SIZE = 256
# On MPS attention is computed by the plain formula, which holds the fp32 scores of a chunk with
# thousands of keys.
MAX_CHUNK_SIZE = {"cpu": 2048, "cuda": 4096, "mps": 512}

# Types of the errors that are raised when memory runs out; they have other causes as well, which
# `is_out_of_memory` excludes.
MEMORY_ERRORS = (MemoryError, RuntimeError, OSError)
_OUT_OF_MEMORY_CODES = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUT_OF_MEMORY_WORDS = ("out of memory", "allocate memory", "alloc_failed")


class NoRoomError(Exception):
    """No location has room for the keys and values that a pass has to store."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or the disk in its place, ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno in _OUT_OF_MEMORY_CODES
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY_WORDS)


def fit_chunk_size(
    shape: DecoderShape,
    branches: Sequence[Branch],
    device: torch.device,
    *,
    free: int,
    num_ranks: int = 1,
) -> int:
    """The largest chunk size with which every pass fits into ``free`` bytes.

    If none does, the smallest that is allowed.
    """
    passes = [branch for root in branches for branch in root.passes()]
    size = MAX_CHUNK_SIZE.get(device.type, MAX_CHUNK_SIZE["cpu"])
    while size > MIN_CHUNK_SIZE:
        needed = (shape.pass_bytes(b, chunk_size=size, num_ranks=num_ranks) for b in passes)
        if max(needed, default=0) <= free:
            break
        size //= 2
    return size


def fit_kv_location(num_bytes: int, device: torch.device, *, left: int) -> KVLocation:
    """The fastest location that has room for keys and values.

    Args:
        num_bytes: bytes of the keys and values.
        device: the device on which passes run.
        left: bytes of the device's memory that no pass needs.
    """
    for location in KV_LOCATIONS:
        if location == "host":
            is_full = shares_host_memory(device)
            left = 0 if is_full else int(free_bytes(torch.device("cpu")) * USABLE)
        if num_bytes <= left:
            return location
    return "disk"


class PassMemory:
    """Chooses the chunk size and the location of keys and values, and changes them if it must.

    Args:
        body: the decoder's stack of layers.
        shape: its sizes.
        like: a tensor of the dtype and on the device of the keys.
        ring: the processes that run every pass together, if there are several.
        chunk_size: rows that go through a layer at once; by default as many as fit, up to 4,096
            (2,048 on the CPU).
        kv_location: where keys and values are stored; by default the fastest location with room.
        scratch_dir: the folder for keys and values on disk; by default the system's for temporary
            files.
        on_note: called with a sentence whenever memory ran out and something was changed.
    """

    def __init__(
        self,
        body: Any,
        shape: DecoderShape,
        *,
        like: Tensor,
        ring: Ring | None = None,
        chunk_size: int | None = None,
        kv_location: KVLocation | None = None,
        scratch_dir: Path | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.note = on_note or (lambda line: None)
        self._body = body
        self._shape = shape
        self._like = like
        self._ring = ring
        self._num_ranks = 1 if ring is None else ring.size
        self._chunk_size = chunk_size
        self._kv_location = kv_location
        self._scratch_dir = scratch_dir

    @property
    def is_chosen(self) -> bool:
        """True if chunk size and location are known."""
        return self._chunk_size is not None and self._kv_location is not None

    @property
    def chunk_size(self) -> int:
        """Rows that go through a layer at once; known after `choose`."""
        assert self._chunk_size is not None
        return self._chunk_size

    @property
    def kv_location(self) -> KVLocation:
        """Where keys and values are stored; known after `choose`."""
        assert self._kv_location is not None
        return self._kv_location

    def choose(self, branches: Sequence[Branch]) -> tuple[int, KVLocation]:
        """Chooses chunk size and location for some branches and all their descendants.

        Both stay as they are for all later passes, until memory runs out.
        """
        device, shape = self._like.device, self._shape
        free = int(free_bytes(device) * USABLE)
        size = self._chunk_size
        if size is None:
            size = fit_chunk_size(shape, branches, device, free=free, num_ranks=self._num_ranks)
            if self._ring is not None:
                size = self._ring.smallest(size)
        passes = [branch for root in branches for branch in root.passes()]
        needed = max(
            shape.pass_bytes(branch, chunk_size=size, num_ranks=self._num_ranks)
            for branch in passes
        )
        kept = shape.kept_bytes(branches, num_ranks=self._num_ranks)
        location = self._kv_location or fit_kv_location(kept, device, left=free - needed)
        self._chunk_size, self._kv_location = size, location
        return size, location

    def make_room(self, branch: Branch) -> KeyValueCache | None:
        """Room for the keys and values of a branch, as far as later passes read them.

        Returns:
            None if no later pass reads any of them.

        Raises:
            NoRoomError: not even the disk has room for them.
        """
        if not branch.keeps_any:
            return None
        for location in (self.kv_location, *self._slower_locations(self.kv_location)):
            try:
                cache = self._keep_in(location, branch)
            except MEMORY_ERRORS as error:
                if not is_out_of_memory(error):
                    raise
            else:
                self._go_on_with(location)
                return cache
        needed = self._shape.stored_bytes(branch) / 1e9
        where = self._scratch_dir or Path(tempfile.gettempdir())
        raise NoRoomError(
            f"no room for {needed / self._num_ranks:.1f} GB of keys and values, neither in memory "
            f"nor in {where}; make room there, set VNIAH_CACHE to a folder on another disk, or use "
            + ("--scorer argmax" if branch.is_kept else "--share none")
        )

    def retreat(self, branch: Branch, past: Sequence[KeyValueCache]) -> bool:
        """Takes less memory from now on, after a pass ran out of it.

        Args:
            branch: the branch that the pass computes.
            past: the keys and values from which it continues; they may be moved.

        Returns:
            False if there is no way to take less.
        """
        gc.collect()
        give_back_unused(self._like.device)
        if self.chunk_size > MIN_CHUNK_SIZE:
            self._chunk_size = max(MIN_CHUNK_SIZE, self.chunk_size // 2)
            self.note(f"memory ran out: going on with chunks of {self._chunk_size} tokens")
            return True
        nearest = [cache.store.kv_location for cache in past]
        if branch.keeps_any:
            nearest.append(self.kv_location)
        if not nearest:
            return False
        slower = self._slower_locations(min(nearest, key=KV_LOCATIONS.index))
        return any(self._move(branch, past, location) for location in slower)

    def needed_by(self, branch: Branch) -> str:
        """A sentence for a branch that does not fit: what it needs, what is free, what to do."""
        needed = self._shape.pass_bytes(
            branch, chunk_size=MIN_CHUNK_SIZE, num_ranks=self._num_ranks
        )
        device = self._like.device
        free = free_bytes(device)
        ways = "--context-parallel with more processes"
        if not shares_host_memory(device) and not self._shape.host_weight_bytes:
            ways = f"--offload always or {ways}"
        num_tokens = max([branch.stop, *(suffix.stop for suffix in branch.suffixes)])
        return (
            f"out of memory: {num_tokens:,} tokens need about {needed / 1e9:.1f} GB besides "
            f"the weights, and {free / 1e9:.1f} GB are free; measure fewer frames, or use {ways}"
        )

    def _keep_in(self, location: KVLocation, branch: Branch) -> KeyValueCache:
        whole = Layout.whole(branch.start, branch.stop)
        layout = whole if self._ring is None else self._ring.layout(branch.start, branch.stop)
        layout = layout.until(branch.keep_until)
        rank = 0 if self._ring is None else self._ring.rank
        return open_cache(
            self._body,
            layout,
            ends=branch.kept_ends,
            stop=branch.keep_until,
            like=self._like,
            kv_location=location,
            rank=rank,
            directory=self._scratch_dir,
        )

    def _move(self, branch: Branch, past: Sequence[KeyValueCache], location: KVLocation) -> bool:
        """Moves keys and values to a slower location; False if that is full."""
        try:
            if branch.keeps_any:
                self._keep_in(location, branch)  # only to see whether there is room
            for cache in past:
                if location in self._slower_locations(cache.store.kv_location):
                    cache.store.move(location, like=self._like, directory=self._scratch_dir)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            return False
        self._go_on_with(location)
        return True

    def _go_on_with(self, location: KVLocation) -> None:
        if location in self._slower_locations(self.kv_location):
            self._kv_location = location
            self.note(
                f"memory ran out: keeping keys and values {NAME_OF_LOCATION[location]} from here"
            )

    def _slower_locations(self, location: KVLocation) -> tuple[KVLocation, ...]:
        """Slower locations; the host is none of them if it shares its memory with the device."""
        slower = KV_LOCATIONS[KV_LOCATIONS.index(location) + 1 :]
        return slower[-1:] if shares_host_memory(self._like.device) else slower
