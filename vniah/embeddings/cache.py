"""Encoded frames on disk: safetensors shards of consecutive frames, read in slices.

A cache belongs to one identity: model, preprocessing, dtype and source. Every shard holds it, and a
cache with another identity is refused. There are no partly written shards, so encoding can be
stopped at any moment and continues with the next shard.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vniah.errors import CacheError, first_line
from vniah.files import atomic_path
from vniah.protocol import Frames, FrameSegment

FORMAT_VERSION = "1"

_TENSOR = "frames"
_SHARD_NAME = re.compile(r"frames-(\d{8})-(\d{8})\.safetensors")


class EmbeddingCache:
    """The encoded frames 0 .. num_frames-1 of one source, in one folder.

    Args:
        directory: the folder of the shards; need not exist yet.
        identity: everything that determines the embeddings, as text.
        frame_shape: the shape of one encoded frame.

    Raises:
        CacheError: the folder holds frames with another identity; the message names the field.
    """

    def __init__(
        self, directory: Path, identity: Mapping[str, str], frame_shape: tuple[int, ...]
    ) -> None:
        self.directory = directory
        self.frame_shape = frame_shape
        self._identity = {"format_version": FORMAT_VERSION, **identity}
        self._shards = self._find_shards()

    @property
    def num_frames(self) -> int:
        """The number of frames from frame 0 on, without a gap."""
        return self._shards[-1][1] if self._shards else 0

    def read(self, start: int, stop: int, *, part: int | None = None) -> Tensor:
        """The frames [start, stop) on the CPU, ``[stop - start, *frame_shape]``.

        Only the bytes of these frames are read. With ``part``, only this index of each frame's
        first dimension is read, and the result lacks that dimension.
        """
        if not 0 <= start < stop <= self.num_frames:
            raise CacheError(
                f"{self.directory} holds {self.num_frames} frames, got the range "
                f"[{start}, {stop}); encode more frames, or read fewer"
            )
        parts = []
        for first, last, path in self._shards:
            if first < stop and start < last:
                with _open_shard(path) as shard:
                    frames = slice(max(start, first) - first, stop - first)
                    stored = shard.get_slice(_TENSOR)
                    parts.append(stored[frames] if part is None else stored[frames, part])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def notes(self) -> tuple[str, ...]:
        """Remarks made while encoding, such as damage in the video."""
        notes: dict[str, None] = {}
        for _, _, path in self._shards:
            with _open_shard(path) as shard:
                notes |= dict.fromkeys(json.loads(shard.metadata().get("notes", "[]")))
        return tuple(notes)

    def append(self, frames: Tensor, pts_seconds: Sequence[float], notes: Sequence[str]) -> None:
        """Writes one more shard.

        Args:
            frames: ``[n, *frame_shape]``.
            pts_seconds: their times in the source, in seconds.
            notes: remarks that are kept with them.
        """
        assert frames.shape[1:] == self.frame_shape and len(pts_seconds) == len(frames)
        first, last = self.num_frames, self.num_frames + len(frames)
        path = self.directory / f"frames-{first:08d}-{last:08d}.safetensors"
        metadata = {
            **self._identity,
            "pts_seconds": json.dumps([round(time, 6) for time in pts_seconds]),
            "notes": json.dumps(list(notes)),
        }
        try:
            with atomic_path(path) as temporary:
                save_file({_TENSOR: frames.contiguous().cpu()}, temporary, metadata=metadata)
        except (SafetensorError, OSError) as error:
            raise CacheError(
                f"{path} cannot be written: {first_line(error)}. What is encoded already is kept; "
                "free some space, or choose another --cache"
            ) from error
        self._shards.append((first, last, path))

    def drop_partial(self, shard_frames: int) -> None:
        """Drops a last shard of fewer than ``shard_frames`` frames, so that it is written again."""
        if self._shards and self._shards[-1][1] - self._shards[-1][0] < shard_frames:
            self._shards.pop()

    def _find_shards(self) -> list[tuple[int, int, Path]]:
        """The shards from frame 0 on; of several that start at the same frame, the longest."""
        longest: dict[int, tuple[int, int, Path]] = {}
        for path in sorted(self.directory.glob("frames-*.safetensors")):
            if match := _SHARD_NAME.fullmatch(path.name):
                first, last = int(match[1]), int(match[2])
                longest[first] = (first, last, path)  # sorted: the longest comes last
        chain: list[tuple[int, int, Path]] = []
        while (found := longest.get(chain[-1][1] if chain else 0)) is not None:
            self._require_match(found)
            chain.append(found)
        return chain

    def _require_match(self, found: tuple[int, int, Path]) -> None:
        first, last, path = found
        with _open_shard(path) as shard:
            metadata = shard.metadata() or {}
            shape = tuple(shard.get_slice(_TENSOR).get_shape())
        for field, value in self._identity.items():
            if metadata.get(field) != value:
                raise CacheError(
                    f"the cache {self.directory} was made with {field} = {metadata.get(field)!r}, "
                    f"now it is {value!r}; choose another --cache or delete that folder"
                )
        if shape != (last - first, *self.frame_shape):
            raise CacheError(
                f"{path} holds a tensor of shape {shape}, expected "
                f"{(last - first, *self.frame_shape)}; delete it, and it is made again"
            )


class FrameStore:
    """Reads frames from caches by the sources that samples name.

    Args:
        places: for every source, the cache that holds it and the index of its first frame there.
    """

    def __init__(self, places: Mapping[str, tuple[EmbeddingCache, int]]) -> None:
        self._places = dict(places)

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


def _open_shard(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise CacheError(
            f"{path} cannot be read as safetensors ({error}); delete it, and it is made again"
        ) from error
