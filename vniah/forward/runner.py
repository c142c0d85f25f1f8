"""Runs the branches of a prefix tree through the walk, in the memory that there is.

Tile size and the place of what is kept are chosen by what is free. Where memory does run out, tiles
get smaller, then what is kept moves from the device to the host and to the disk, then the longest
sequences are given up, with an error that says what they would have needed, and the rest goes on.
None of this changes a result.
"""

import errno
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vniah.errors import ModelError
from vniah.forward.attention import forced_kernel
from vniah.forward.costs import MIN_TILE_SIZE, DecoderShape, fit_place, fit_tile_size
from vniah.forward.greedy import Generated, GreedyDecoder
from vniah.forward.kernels import choose_kernel
from vniah.forward.kv_cache import NAME_OF_PLACE, PLACES, Kept, KeyValueStore, Layout, Place, Span
from vniah.forward.memory import USABLE, free_bytes, give_back_unused, shares_host_memory
from vniah.forward.prefill import walk
from vniah.forward.prefix_tree import Branch, Leaf
from vniah.forward.ring import Ring
from vniah.forward.suffixes import LeafRows

Embed = Callable[[Sequence[Any], int, int], Tensor]
"""Called with segments and the first and last of their tokens, gives ``[last - first, H]``."""

AddDeep = Callable[[int, Tensor, Sequence[Any], int, int], None]
"""Called with a layer's number, rows, and as `Embed`; adds what comes to the rows behind it."""

# What memory that ran out may come as; `is_out_of_memory` tells it from other errors.
_MEMORY_ERRORS = (MemoryError, RuntimeError, OSError)
_OUT_OF_MEMORY_CODES = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUT_OF_MEMORY_WORDS = ("out of memory", "allocate memory", "alloc_failed")


class _NoRoomError(Exception):
    """Nowhere is room for the keys and values that a pass is to keep; says how much it takes."""


@dataclass(frozen=True)
class Reading:
    """What was read for some equal sequences.

    Attributes:
        sequences: their indices.
        logits: ``[rows, vocabulary]`` fp32 on the CPU; None if there is an error.
        seconds: their share of the time of the pass.
        error: why it could not be run.
        generated: what greedy decoding gave behind the prompt; None where nothing was decoded.
    """

    sequences: tuple[int, ...]
    logits: Tensor | None
    seconds: float
    error: str | None = None
    generated: Generated | None = None


@dataclass(frozen=True)
class Pass:
    """What running one branch gave.

    Attributes:
        readings: of its own leaves.
        past: what its branches go on from; each reads it up to its start.
        failed: branches that cannot go on, by number, and why.
    """

    readings: tuple[Reading, ...]
    past: tuple[Kept, ...]
    failed: Mapping[int, str] = field(default_factory=dict)


class BranchRunner:
    """Runs branches.

    Args:
        decoder: a transformers causal language model.
        embed: gives the input embeddings of segments. Where something comes to the frames' rows
            behind the first layers, it says behind how many (``num_deep``), and adds it
            (``add_deep``, an `AddDeep`).
        size: tokens of a segment.
        positions: called with a sequence's index, gives its ``position_ids``.
        num_rows: called with a sequence's index, says how many rows are read at its end.
        ring: the processes that run every pass together.
        tile_size: rows at once; by default as many as fit, up to 4,096 (2,048 on the CPU).
        place: where to keep keys and values; by default the fastest where they fit.
        scratch_dir: for the file on disk.
        on_note: called with a line when memory ran out and something was changed.
        greedy: decodes behind the leaves of passes that are kept whole.
    """

    def __init__(
        self,
        decoder: Any,
        *,
        embed: Embed,
        size: Callable[[Any], int],
        positions: Callable[[int], Tensor],
        num_rows: Callable[[int], int],
        ring: Ring | None = None,
        tile_size: int | None = None,
        place: Place | None = None,
        scratch_dir: Path | None = None,
        on_note: Callable[[str], None] | None = None,
        greedy: GreedyDecoder | None = None,
    ) -> None:
        self._decoder = decoder
        self._greedy = greedy
        self._embed = embed
        self._num_deep = int(getattr(embed, "num_deep", 0))
        self._add_deep: AddDeep | None = getattr(embed, "add_deep", None)
        self._size = size
        self._positions = positions
        self._num_rows = num_rows
        self._ring = ring
        self._tile_size = tile_size
        self._place = place
        self._scratch_dir = scratch_dir
        self._note = on_note or (lambda line: None)
        self._like: Tensor = decoder.lm_head.weight
        self.shape = DecoderShape.of(decoder)
        self._num_ranks = 1 if ring is None else ring.size

    def choose(self, branches: Sequence[Branch]) -> tuple[int, Place]:
        """Tile size and place for some branches with what is behind them; they stay chosen."""
        device, shape = self._like.device, self.shape
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

    def kernel_name(self) -> str:
        """Which attention kernel computes."""
        like = self._like
        kernel = forced_kernel() or choose_kernel(like.device, like.dtype, **self.shape.heads)
        return kernel.name

    def run_all(self, branch: Branch, past: Sequence[Kept] = ()) -> Iterator[Reading]:
        """A branch and everything behind it, parents first."""
        result = self.run(branch, past)
        yield from result.readings
        for number in range(len(branch.branches)):
            yield from self.run_behind(branch, result, number)

    def run_behind(self, branch: Branch, result: Pass, number: int) -> Iterator[Reading]:
        """One of the branches that go on from a branch that was run."""
        child = branch.branches[number]
        if number in result.failed:
            yield Reading(child.sequences, None, 0.0, result.failed[number])
        else:
            yield from self.run_all(child, [kept.until(child.start) for kept in result.past])

    def run(self, branch: Branch, past: Sequence[Kept] = ()) -> Pass:
        """One pass; what does not fit into memory at all comes back as an error."""
        if self._tile_size is None or self._place is None:
            self.choose([branch])
        given_up: list[Reading] = []
        failed: dict[int, str] = {}
        remaining: Branch | None = branch
        while remaining is not None:
            try:
                result = self._run_once(remaining, past)
            except _NoRoomError as error:
                if self._ring is not None:
                    raise ModelError(str(error)) from error
                for number in range(len(branch.branches)):
                    failed.setdefault(number, str(error))
                self._give_up(str(error))
                leaves = remaining.leaves
                if remaining.is_kept:
                    given_up += [Reading(x.sequences, None, 0.0, str(error)) for x in leaves]
                    leaves = ()
                remaining = _shortened(remaining, leaves, (), self._size)
                continue
            except _MEMORY_ERRORS as error:
                if not is_out_of_memory(error):
                    raise
                if self._ring is not None:  # the other processes wait for this one
                    raise ModelError(self._needed(remaining)) from error
                del error  # it holds the tensors of the frames that it passed
                if self._retreat(remaining, past):
                    continue
            else:
                return replace(result, readings=(*result.readings, *given_up), failed=failed)
            message = self._needed(remaining)
            self._give_up(message)
            longest = max(_ends(remaining))
            for leaf in remaining.leaves:
                if leaf.start == longest:
                    given_up.append(Reading(leaf.sequences, None, 0.0, message))
            for number, child in enumerate(branch.branches):
                if child.start >= longest:
                    failed.setdefault(number, message)
            remaining = _shortened(
                remaining,
                tuple(leaf for leaf in remaining.leaves if leaf.start < longest),
                tuple(child for child in remaining.branches if child.start < longest),
                self._size,
            )
        return Pass(tuple(given_up), (), failed)

    def _run_once(self, branch: Branch, past: Sequence[Kept]) -> Pass:
        started = time.perf_counter()
        assert self._tile_size is not None
        hidden = self._embed_share(branch)
        positions = self._positions(_sequence_through(branch))
        kept = self._make_room(branch)
        read = walk(
            self._decoder,
            hidden,
            positions[..., branch.start : branch.stop],
            [self._leaf_rows(leaf) for leaf in branch.leaves],
            past=past,
            keep=kept,
            tile_size=self._tile_size,
            ring=self._ring,
            deepen=partial(self._deepen_share, branch) if self._num_deep else None,
        )
        logits = [rows.cpu() for rows in read]
        behind = (*past, kept) if kept is not None else ()
        generated: Sequence[Generated | None] = (None,) * len(branch.leaves)
        if self._greedy is not None and branch.is_kept:
            del hidden  # decoding needs its room no more than the branches do
            generated = self._greedy.decode(branch, behind, tile_size=self._tile_size)
        num_sequences = sum(len(leaf.sequences) for leaf in branch.leaves)
        seconds = (time.perf_counter() - started) / max(1, num_sequences)
        readings = [
            Reading(leaf.sequences, rows, seconds, generated=tokens)
            for leaf, rows, tokens in zip(branch.leaves, logits, generated, strict=True)
        ]
        return Pass(tuple(readings), behind if branch.branches else ())

    def _embed_share(self, branch: Branch) -> Tensor:
        """The main rows that this process computes, ``[n, H]``."""
        if self._ring is None:
            return self._embed(branch.segments, 0, branch.num_tokens)
        layout = self._ring.layout(0, branch.num_tokens)
        hidden = self._like.new_zeros(layout.num_rows(self._ring.rank), self.shape.hidden_size)
        for rows, inside in self._share(branch):
            hidden[rows] = self._embed(branch.segments, *inside)
        return hidden

    def _deepen_share(self, branch: Branch, layer: int, hidden: Tensor) -> None:
        """Adds what comes to this process's main rows behind a layer."""
        if self._add_deep is not None and layer < self._num_deep:
            for rows, inside in self._share(branch):
                self._add_deep(layer, hidden[rows], branch.segments, *inside)

    def _share(self, branch: Branch) -> Iterator[tuple[slice, Span]]:
        """Which rows of this process are which tokens of a branch."""
        if self._ring is None:
            yield slice(0, branch.num_tokens), Span(0, branch.num_tokens)
            return
        for span, row in self._ring.layout(0, branch.num_tokens).located(self._ring.rank):
            inside = span.clip(0, branch.num_tokens)
            if inside.num_tokens:
                yield slice(row, row + inside.num_tokens), inside

    def _leaf_rows(self, leaf: Leaf) -> LeafRows:
        index = leaf.sequences[0]
        positions = self._positions(index)[..., leaf.start : leaf.stop].clone()
        hidden = self._embed(leaf.segments, 0, leaf.num_tokens)
        deep = None
        if self._add_deep is not None and self._num_deep:
            deep = hidden.new_zeros(self._num_deep, *hidden.shape)
            for layer, rows in enumerate(deep):
                self._add_deep(layer, rows, leaf.segments, 0, leaf.num_tokens)
        return LeafRows(leaf.start, hidden, positions, self._num_rows(index), deep)

    def _make_room(self, branch: Branch) -> Kept | None:
        """For the keys and values of a branch that will be read again."""
        if not branch.keeps_any:
            return None
        assert self._place is not None
        for place in (self._place, *self._places_behind(self._place)):
            try:
                kept = self._keep_in(place, branch)
            except _MEMORY_ERRORS as error:
                if not is_out_of_memory(error):
                    raise
            else:
                self._go_on_with(place)
                return kept
        needed = self.shape.store_bytes(branch.keep_until - branch.start) / 1e9
        where = self._scratch_dir or Path(tempfile.gettempdir())
        raise _NoRoomError(
            f"no room for {needed / self._num_ranks:.1f} GB of keys and values, neither in memory "
            f"nor in {where}; make room there, set VNIAH_CACHE to a folder on another disk, or use "
            + ("--scorer argmax" if branch.is_kept else "--share none")
        )

    def _keep_in(self, place: Place, branch: Branch) -> Kept:
        whole = Layout.whole(branch.start, branch.stop)
        layout = whole if self._ring is None else self._ring.layout(branch.start, branch.stop)
        layout = layout.until(branch.keep_until)
        rank = 0 if self._ring is None else self._ring.rank
        store = KeyValueStore(
            self.shape.num_layers,
            (1, self.shape.num_kv_heads, layout.num_rows(rank), self.shape.head_dim),
            like=self._like,
            place=place,
            directory=self._scratch_dir,
        )
        return Kept(store, layout, branch.keep_until)

    def _retreat(self, branch: Branch, past: Sequence[Kept]) -> bool:
        """Makes do with less memory from now on; False if nothing is left to give."""
        assert self._tile_size is not None and self._place is not None
        gc.collect()
        give_back_unused(self._like.device)
        if self._tile_size > MIN_TILE_SIZE:
            self._tile_size = max(MIN_TILE_SIZE, self._tile_size // 2)
            self._note(f"memory ran out: going on with tiles of {self._tile_size} tokens")
            return True
        nearest = [kept.store.place for kept in past]
        if branch.keeps_any:
            nearest.append(self._place)
        if not nearest:
            return False
        behind = self._places_behind(min(nearest, key=PLACES.index))
        return any(self._move(branch, past, place) for place in behind)

    def _move(self, branch: Branch, past: Sequence[Kept], place: Place) -> bool:
        """Moves what is kept to a place, or stays where that is full; what is beyond stays too."""
        try:
            if branch.keeps_any:
                self._keep_in(place, branch)  # only to see whether there is room
            for kept in past:
                if place in self._places_behind(kept.store.place):
                    kept.store.move(place, like=self._like, directory=self._scratch_dir)
        except _MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            return False
        self._go_on_with(place)
        return True

    def _go_on_with(self, place: Place) -> None:
        assert self._place is not None
        if place in self._places_behind(self._place):
            self._place = place
            self._note(f"memory ran out: keeping keys and values {NAME_OF_PLACE[place]} from here")

    def _places_behind(self, place: Place) -> tuple[Place, ...]:
        """Where there may be room when a place is full; device and host may be one."""
        behind = PLACES[PLACES.index(place) + 1 :]
        return behind[-1:] if shares_host_memory(self._like.device) else behind

    def _give_up(self, message: str) -> None:
        self._note(f"some sequences cannot be run: {message}")

    def _needed(self, branch: Branch) -> str:
        needed = self.shape.pass_bytes(branch, tile_size=MIN_TILE_SIZE, num_ranks=self._num_ranks)
        device = self._like.device
        free = free_bytes(device)
        ways = "--context-parallel with more processes"
        if not shares_host_memory(device) and not self.shape.host_weight_bytes:
            ways = f"--offload always or {ways}"
        num_tokens = max([branch.stop, *(leaf.stop for leaf in branch.leaves)])
        return (
            f"out of memory: {num_tokens:,} tokens need about {needed / 1e9:.1f} GB besides "
            f"the weights, and {free / 1e9:.1f} GB are free; measure fewer frames, or use {ways}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, or the disk in its place, ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno in _OUT_OF_MEMORY_CODES
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY_WORDS)


def _ends(branch: Branch) -> list[int]:
    """Where something hangs."""
    return [*(x.start for x in branch.leaves), *(x.start for x in branch.branches)]


def _shortened(
    branch: Branch,
    leaves: tuple[Leaf, ...],
    branches: tuple[Branch, ...],
    size: Callable[[Any], int],
) -> Branch | None:
    """The branch with only some of what hangs on it, and only as long as is still needed."""
    if not leaves and not branches:
        return None
    shorter = replace(branch, leaves=leaves, branches=branches)
    segments, num_tokens = [], 0
    needed = max(_ends(shorter)) - branch.start
    for segment in branch.segments:
        if num_tokens == needed:
            break
        segments.append(segment)
        num_tokens += size(segment)
    assert num_tokens == needed
    return replace(shorter, segments=tuple(segments), num_tokens=num_tokens)


def _sequence_through(branch: Branch) -> int:
    """A sequence that holds everything of the branch."""
    at, index = max(
        [(leaf.start, leaf.sequences[0]) for leaf in branch.leaves]
        + [(child.start, child.sequences[0]) for child in branch.branches]
    )
    assert at == branch.stop
    return index
