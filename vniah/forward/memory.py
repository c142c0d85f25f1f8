"""The memory that passes run in: what is chosen by what is free, and what gives way.

Two things are chosen before a pass: how many rows go through a layer at once, and where the keys
and values lie that later passes go on from. When memory runs out all the same, tiles get smaller,
then what is kept moves from the device to the host, and then to the disk. None of this changes a
result.
"""

import errno
import gc
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vniah.forward.costs import DecoderShape
from vniah.forward.devices import USABLE, free_bytes, give_back_unused, shares_host_memory
from vniah.forward.kv_cache import NAME_OF_PLACE, PLACES, Kept, KeyValueStore, Layout, Place
from vniah.forward.prefix_tree import Branch
from vniah.forward.ring import Ring

MIN_TILE_SIZE = 256
# The plain formula, which attends on MPS, holds fp32 scores of a tile with thousands of keys.
MAX_TILE_SIZE = {"cpu": 2048, "cuda": 4096, "mps": 512}

# The types of error by which memory that ran out shows; `is_out_of_memory` tells it from others.
MEMORY_ERRORS = (MemoryError, RuntimeError, OSError)
_OUT_OF_MEMORY_CODES = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUT_OF_MEMORY_WORDS = ("out of memory", "allocate memory", "alloc_failed")


class NoRoomError(Exception):
    """There is no room for the keys and values that a pass is to keep; says how much they take."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or the disk in its place, ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno in _OUT_OF_MEMORY_CODES
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY_WORDS)


def fit_tile_size(
    shape: DecoderShape,
    branches: Sequence[Branch],
    device: torch.device,
    *,
    free: int,
    num_ranks: int = 1,
) -> int:
    """The largest tile size with which every pass fits into ``free`` bytes, or the smallest."""
    passes = [branch for root in branches for branch in root.passes()]
    size = MAX_TILE_SIZE.get(device.type, MAX_TILE_SIZE["cpu"])
    while size > MIN_TILE_SIZE:
        needed = (shape.pass_bytes(b, tile_size=size, num_ranks=num_ranks) for b in passes)
        if max(needed, default=0) <= free:
            break
        size //= 2
    return size


def fit_place(num_bytes: int, device: torch.device, *, left: int) -> Place:
    """The fastest place where so many bytes of keys and values fit.

    Args:
        num_bytes: how many.
        device: where passes run; it may be that device and host are the same.
        left: bytes of the device that no pass takes.
    """
    for place in PLACES:
        if place == "host":
            is_full = shares_host_memory(device)
            left = 0 if is_full else int(free_bytes(torch.device("cpu")) * USABLE)
        if num_bytes <= left:
            return place
    return "disk"


class PassMemory:
    """The tile size and the place of keys and values of all passes, by the memory that there is.

    Args:
        shape: the sizes of the decoder.
        like: gives dtype and device of keys and values.
        ring: the processes that run every pass together.
        tile_size: rows at once; by default as many as fit, up to 4,096 (2,048 on the CPU).
        place: where to keep keys and values; by default the fastest where they fit.
        scratch_dir: for the file on disk; by default the system's folder for temporary files.
        on_note: called with a line when memory ran out and something was changed.
    """

    def __init__(
        self,
        shape: DecoderShape,
        *,
        like: Tensor,
        ring: Ring | None = None,
        tile_size: int | None = None,
        place: Place | None = None,
        scratch_dir: Path | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.note = on_note or (lambda line: None)
        self._shape = shape
        self._like = like
        self._ring = ring
        self._num_ranks = 1 if ring is None else ring.size
        self._tile_size = tile_size
        self._place = place
        self._scratch_dir = scratch_dir

    @property
    def is_chosen(self) -> bool:
        """Whether tile size and place are known."""
        return self._tile_size is not None and self._place is not None

    @property
    def tile_size(self) -> int:
        """Rows that go through a layer at once, after `choose`."""
        assert self._tile_size is not None
        return self._tile_size

    @property
    def place(self) -> Place:
        """Where keys and values are kept, after `choose`."""
        assert self._place is not None
        return self._place

    def choose(self, branches: Sequence[Branch]) -> tuple[int, Place]:
        """Tile size and place for some branches and what is behind them; they stay chosen."""
        device, shape = self._like.device, self._shape
        free = int(free_bytes(device) * USABLE)
        size = self._tile_size
        if size is None:
            size = fit_tile_size(shape, branches, device, free=free, num_ranks=self._num_ranks)
            if self._ring is not None:
                size = self._ring.smallest(size)
        passes = [branch for root in branches for branch in root.passes()]
        needed = max(
            shape.pass_bytes(branch, tile_size=size, num_ranks=self._num_ranks) for branch in passes
        )
        kept = shape.kept_bytes(branches, num_ranks=self._num_ranks)
        place = self._place or fit_place(kept, device, left=free - needed)
        self._tile_size, self._place = size, place
        return size, place

    def make_room(self, branch: Branch) -> Kept | None:
        """For the keys and values of a branch, as far as later passes read them.

        Returns:
            None where nothing of the branch is read again.

        Raises:
            NoRoomError: not even the disk has room.
        """
        if not branch.keeps_any:
            return None
        for place in (self.place, *self._places_behind(self.place)):
            try:
                kept = self._keep_in(place, branch)
            except MEMORY_ERRORS as error:
                if not is_out_of_memory(error):
                    raise
            else:
                self._go_on_with(place)
                return kept
        needed = self._shape.store_bytes(branch.keep_until - branch.start) / 1e9
        where = self._scratch_dir or Path(tempfile.gettempdir())
        raise NoRoomError(
            f"no room for {needed / self._num_ranks:.1f} GB of keys and values, neither in memory "
            f"nor in {where}; make room there, set VNIAH_CACHE to a folder on another disk, or use "
            + ("--scorer argmax" if branch.is_kept else "--share none")
        )

    def retreat(self, branch: Branch, past: Sequence[Kept]) -> bool:
        """Takes less memory from now on, after a pass found too little.

        Args:
            branch: the pass.
            past: what it goes on from; may be moved.

        Returns:
            False if nothing is left to give.
        """
        gc.collect()
        give_back_unused(self._like.device)
        if self.tile_size > MIN_TILE_SIZE:
            self._tile_size = max(MIN_TILE_SIZE, self.tile_size // 2)
            self.note(f"memory ran out: going on with tiles of {self._tile_size} tokens")
            return True
        nearest = [kept.store.place for kept in past]
        if branch.keeps_any:
            nearest.append(self.place)
        if not nearest:
            return False
        behind = self._places_behind(min(nearest, key=PLACES.index))
        return any(self._move(branch, past, place) for place in behind)

    def needed_by(self, branch: Branch) -> str:
        """Says that a branch cannot be run, what it needs, and what can be done."""
        needed = self._shape.pass_bytes(branch, tile_size=MIN_TILE_SIZE, num_ranks=self._num_ranks)
        device = self._like.device
        free = free_bytes(device)
        ways = "--context-parallel with more processes"
        if not shares_host_memory(device) and not self._shape.host_weight_bytes:
            ways = f"--offload always or {ways}"
        num_tokens = max([branch.stop, *(leaf.stop for leaf in branch.leaves)])
        return (
            f"out of memory: {num_tokens:,} tokens need about {needed / 1e9:.1f} GB besides "
            f"the weights, and {free / 1e9:.1f} GB are free; measure fewer frames, or use {ways}"
        )

    def _keep_in(self, place: Place, branch: Branch) -> Kept:
        whole = Layout.whole(branch.start, branch.stop)
        layout = whole if self._ring is None else self._ring.layout(branch.start, branch.stop)
        layout = layout.until(branch.keep_until)
        rank = 0 if self._ring is None else self._ring.rank
        store = KeyValueStore(
            self._shape.num_layers,
            (1, self._shape.num_kv_heads, layout.num_rows(rank), self._shape.head_dim),
            like=self._like,
            place=place,
            directory=self._scratch_dir,
        )
        return Kept(store, layout, branch.keep_until)

    def _move(self, branch: Branch, past: Sequence[Kept], place: Place) -> bool:
        """Moves what is kept to a place, or stays where that is full; what is beyond stays too."""
        try:
            if branch.keeps_any:
                self._keep_in(place, branch)  # only to see whether there is room
            for kept in past:
                if place in self._places_behind(kept.store.place):
                    kept.store.move(place, like=self._like, directory=self._scratch_dir)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            return False
        self._go_on_with(place)
        return True

    def _go_on_with(self, place: Place) -> None:
        if place in self._places_behind(self.place):
            self._place = place
            self.note(f"memory ran out: keeping keys and values {NAME_OF_PLACE[place]} from here")

    def _places_behind(self, place: Place) -> tuple[Place, ...]:
        """Where there may be room when a place is full; device and host may be one."""
        behind = PLACES[PLACES.index(place) + 1 :]
        return behind[-1:] if shares_host_memory(self._like.device) else behind
