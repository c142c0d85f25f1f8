"""Encoded frames on disk: shards of consecutive frames, read in slices.

A cache belongs to one identity: model, preprocessing, dtype and source. Every shard holds it, and a
cache with another identity is refused. There are no partly written shards, so encoding can be
stopped at any moment and continues with the next shard.

What is read was verified (see `vniah.embeddings.shards`). A damaged shard is renamed to
``*.damaged``, which is never read again, and its frames are encoded again, also in the middle of a
run. Several processes that meet it at once each do so, and write the same bytes.
"""

import logging
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vniah.embeddings.shards import (
    DamagedShardError,
    Shard,
    frames_of_name,
    shard_path,
    write_shard,
)
from vniah.errors import CacheError, without_surrogates
from vniah.protocol import Frames, FrameSegment

DAMAGED_SUFFIX = ".damaged"

_LOG = logging.getLogger("vniah")


class EmbeddingCache:
    """The encoded frames 0 .. num_frames-1 of one source, in one folder.

    Args:
        directory: the folder of the shards; need not exist yet.
        identity: everything that determines the embeddings, as text.
        frame_shape: the shape of one encoded frame.

    Attributes:
        refill: encodes the frames that the cache lacks of the first n; None if it cannot be filled.
            Then a damaged shard that is met while reading is an error.

    Raises:
        CacheError: the folder holds frames with another identity; the message names the field.
    """

    def __init__(
        self, directory: Path, identity: Mapping[str, str], frame_shape: tuple[int, ...]
    ) -> None:
        self.directory = directory
        self.frame_shape = frame_shape
        self.refill: Callable[[int], None] | None = None
        # safetensors holds UTF-8, which has no lone surrogates; file names may have some.
        self._identity = {field: without_surrogates(value) for field, value in identity.items()}
        self._refilled: set[int] = set()
        self._latest: Shard | None = None
        self._found: dict[int, Shard] = {}
        self._chain: list[Shard] = []
        self._find_shards()

    @property
    def num_frames(self) -> int:
        """The number of frames from frame 0 on, without a gap."""
        return self._chain[-1].last if self._chain else 0

    def next_start(self, multiple_of: int) -> int | None:
        """The first frame behind the gap at `num_frames` that has a shard, if there is one.

        Args:
            multiple_of: shards that start at no multiple of this number do not count.
        """
        starts = (first for first in self._found if first % multiple_of == 0)
        return min((first for first in starts if first > self.num_frames), default=None)

    def read(self, start: int, stop: int, *, part: int | None = None) -> Tensor:
        """The frames [start, stop) on the CPU, ``[stop - start, *frame_shape]``.

        Only the bytes of these frames are read. With ``part``, only this index of each frame's
        first dimension is read, and the result lacks that dimension.

        Raises:
            CacheError: these frames are not there, or damaged and cannot be encoded again.
        """
        if not 0 <= start < stop <= self.num_frames:
            raise CacheError(
                f"{self.directory} holds {self.num_frames} frames, got the range "
                f"[{start}, {stop}); encode more frames, or read fewer"
            )
        pieces: list[Tensor] = []
        while start < stop:
            shard = self._chain[bisect_right(self._chain, start, key=lambda one: one.last)]
            end = min(stop, shard.last)
            try:
                pieces.append(self._take(shard).read(start, end, part))
            except DamagedShardError as damage:
                self._repair(shard, damage)
            else:
                start = end
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def notes(self) -> tuple[str, ...]:
        """Remarks made while encoding, such as damage in the video, and on missing checksums."""
        notes = dict.fromkeys(note for shard in self._chain for note in shard.header.notes)
        without = sum(not shard.header.checksums for shard in self._chain)
        if without:
            notes[
                f"{without} of {len(self._chain)} shards of encoded frames were written by an "
                "earlier version of vniah and carry no checksums, so damage to them cannot be "
                "noticed; to have them encoded again, delete that embedding cache"
            ] = None
        return tuple(notes)

    def append(self, frames: Tensor, pts_seconds: Sequence[float], notes: Sequence[str]) -> None:
        """Writes one more shard.

        Args:
            frames: ``[n, *frame_shape]``.
            pts_seconds: their times in the source, in seconds.
            notes: remarks that are kept with them.
        """
        assert frames.shape[1:] == self.frame_shape and len(pts_seconds) == len(frames)
        first = self.num_frames
        path = shard_path(self.directory, first, first + len(frames))
        write_shard(path, frames, identity=self._identity, pts_seconds=pts_seconds, notes=notes)
        self._found[first] = self._shard(path)
        self._link()

    def drop_partial(self, shard_frames: int) -> None:
        """Drops a last shard of fewer than ``shard_frames`` frames, so that it is written again."""
        if self._chain and self._chain[-1].last - self._chain[-1].first < shard_frames:
            del self._found[self._chain.pop().first]

    def mark_used(self) -> None:
        """Sets the time of the folder to now, by which `vniah cache` tells when it was used."""
        mark_used(self.directory)

    def _shard(self, path: Path) -> Shard:
        return Shard(path, self._identity, self.frame_shape)

    def _take(self, shard: Shard) -> Shard:
        """The shard; the one that was read before is closed. So at most one file is mapped."""
        if self._latest is not shard:
            if self._latest is not None:
                self._latest.close()
            self._latest = shard
        return shard

    def _find_shards(self) -> None:
        """Finds the shards; of several that start at the same frame, the longest counts."""
        known = {shard.path: shard for shard in self._found.values()}
        self._found, self._chain = {}, []
        for path in sorted(self.directory.glob("frames-*.safetensors")):
            if frames := frames_of_name(path.name):  # sorted: the longest comes last
                self._found[frames[0]] = known.get(path) or self._shard(path)
        self._link()

    def _link(self) -> None:
        """Extends the chain by the shards that are there; damaged ones are set aside."""
        while (shard := self._found.get(self.num_frames)) is not None:
            try:
                self._take(shard).load()
            except DamagedShardError as damage:
                set_aside(shard, damage)
                del self._found[shard.first]
            else:
                self._chain.append(shard)

    def _repair(self, shard: Shard, damage: DamagedShardError) -> None:
        """Sets a shard aside, and encodes its frames again unless another process has done so."""
        num_frames = self.num_frames
        set_aside(shard, damage)
        self._find_shards()
        if num_frames <= self.num_frames:
            return
        if self.refill is None:
            raise not_encoded_again(damage)
        if shard.first in self._refilled:
            raise damaged_once_more(damage)
        self._refilled.add(shard.first)
        self.refill(num_frames)


def mark_used(directory: Path) -> None:
    """Sets the time of a folder to now."""
    with suppress(OSError):  # it may be read-only, or not there yet
        os.utime(directory)


def not_encoded_again(damage: DamagedShardError) -> CacheError:
    """The error where a damaged shard was set aside and nobody can encode its frames now."""
    return CacheError(f"{damage}; it was set aside, and the next run encodes it again")


def damaged_once_more(damage: DamagedShardError) -> CacheError:
    """The error where a shard is damaged that has just been encoded again."""
    return CacheError(
        f"{damage}, although it was encoded again just now; check the disk and the memory of this "
        "machine, or choose another --cache"
    )


def set_aside(shard: Shard, damage: DamagedShardError) -> None:
    """Renames a damaged shard, unless another process has replaced it already; says so.

    Raises:
        CacheError: it cannot be renamed.
    """
    path = shard.path
    aside = path.with_name(path.name + DAMAGED_SUFFIX)
    try:
        if not shard.is_unchanged:
            _LOG.warning(f"{damage}; its frames are encoded again")
            return
        for older in path.parent.glob(f"frames-*{DAMAGED_SUFFIX}"):
            older.unlink(missing_ok=True)  # one is enough to look into
        path.replace(aside)
    except FileNotFoundError:
        pass  # another process was faster
    except OSError as error:
        raise CacheError(
            f"{damage}, and cannot be renamed: {error.strerror}; delete it, or choose another "
            "--cache"
        ) from error
    _LOG.warning(f"{damage}; it is set aside as {aside.name}, and its frames are encoded again")


class ReadsFrames(Protocol):
    """A cache of encoded frames."""

    def read(self, start: int, stop: int, *, part: int | None = None) -> Tensor:
        """As `EmbeddingCache.read`."""


@dataclass(frozen=True)
class _ChangedFrames:
    """A cache whose frames are changed when they are read."""

    cache: ReadsFrames
    change: Callable[[Tensor], Tensor]

    def read(self, start: int, stop: int, *, part: int | None = None) -> Tensor:
        """As `EmbeddingCache.read`, of frames without parts."""
        assert part is None, "the frames of such models are not changed"
        return self.change(self.cache.read(start, stop))


class FrameStore:
    """Reads frames from caches by the sources that samples name.

    Args:
        places: for every source, the cache that holds it and the index of its first frame there.
    """

    def __init__(self, places: Mapping[str, tuple[ReadsFrames, int]]) -> None:
        self._places = dict(places)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "FrameStore":
        """The same frames, changed by a function each time that some of them are read.

        Args:
            change: called with some frames, ``[n, *frame_shape]``; gives as many.
        """
        return FrameStore(
            {
                source: (_ChangedFrames(cache, change), first)
                for source, (cache, first) in self._places.items()
            }
        )

    def read(self, frames: Sequence[FrameSegment]) -> Tensor:
        """Frames in the order given, ``[len(frames), *frame_shape]``, on the CPU."""
        parts = list(self.read_runs(frames))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def read_runs(
        self, frames: Sequence[FrameSegment], *, most: int = 256, part: int | None = None
    ) -> Iterator[Tensor]:
        """The same in pieces of up to ``most`` frames that are consecutive in a cache.

        ``part`` is as in `EmbeddingCache.read`.
        """
        for span in Frames.of(frames).spans:
            cache, offset = self._places[span.source]
            for start in range(span.start, span.stop, most):
                stop = min(start + most, span.stop)
                yield cache.read(offset + start, offset + stop, part=part)
