"""Shards of encoded frames: safetensors files with checksums, verified when they are read.

The metadata of a shard carry one checksum (XXH3, 64 bits) for every block of the tensor, which is a
frame, or a part of a frame where frames have parts (``frame_shape`` of three dimensions: DeepStack
features). So the bytes that are read are those that are verified, whichever way they are read. One
more checksum covers everything else that decides what is read: the other metadata, dtype and shape.
A block is verified when it is first read; a file that was changed since then is verified again.

Format 1, written by versions before, has no checksums. Such shards are read, and say so.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vniah.errors import CacheError, first_line, short_repr
from vniah.files import atomic_path, what_to_do
from vniah.schema import parse_json

FORMAT_VERSION = "2"
WITHOUT_CHECKSUMS = "1"

_TENSOR = "frames"
_NAME = re.compile(r"frames-(\d{8})-(\d{8})\.safetensors", re.ASCII)
_MOST_PARTS = 64
_FRAMES_AT_ONCE = 16
_VERSION_KEY, _FIRST_KEY = "format_version", "first_frame"
_BLOCKS_KEY, _HEADER_KEY = "xxh3_64_of_blocks", "xxh3_64_of_header"


class DamagedShardError(CacheError):
    """A shard does not hold what was written.

    Args:
        path: the shard.
        reason: what is wrong with it, after "it is damaged: ".
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """What a shard says about its tensor; with checksums, verified.

    Attributes:
        metadata: all of its metadata.
        notes: remarks made while its frames were encoded.
        shape: of the tensor, ``(num_frames, *frame_shape)``.
        checksums: of the blocks in the order of their bytes; empty in format 1.
    """

    metadata: Mapping[str, str]
    notes: tuple[str, ...]
    shape: tuple[int, ...]
    checksums: tuple[str, ...]

    @property
    def parts_of_frame(self) -> int:
        """Number of blocks of a frame."""
        return max(1, len(self.checksums) // self.shape[0])


def frames_of_name(name: str) -> tuple[int, int] | None:
    """The frames [first, last) of a shard by its file name; None if it is not a shard's name."""
    match = _NAME.fullmatch(name)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    return (first, last) if first < last else None


def read_header(path: Path) -> Header:
    """The header of a shard, verified where it carries checksums.

    Raises:
        DamagedShardError: it is missing or damaged.
        CacheError: it cannot be read, or was not written by vniah.
    """
    return _header_of(path, _open(path))


def find_damage(path: Path) -> str | None:
    """What is wrong with a shard, found by reading all of it; None if nothing is.

    Raises:
        CacheError: it cannot be read, or was not written by vniah.
    """
    try:
        shard = Shard(path, {}, read_header(path).shape[1:])
        for start in range(shard.first, shard.last, _FRAMES_AT_ONCE):
            shard.read(start, min(start + _FRAMES_AT_ONCE, shard.last), None)
    except DamagedShardError as damage:
        return damage.reason
    return None


class Shard:
    """One shard of a cache.

    Args:
        path: the file, named by `shard_path`.
        identity: the metadata that it must have.
        frame_shape: the shape of one encoded frame.

    Attributes:
        first: its first frame.
        last: the frame after its last.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, str], frame_shape: tuple[int, ...]
    ) -> None:
        frames = frames_of_name(path.name)
        assert frames is not None
        self.first, self.last = frames
        self.path = path
        self._identity = identity
        self._frame_shape = frame_shape
        self._stamp: tuple[int, ...] | None = None
        self._header: Header | None = None
        self._handle: Any = None
        self._is_verified = bytearray()

    @property
    def header(self) -> Header:
        """Its header; read again, and verified, if the file was changed."""
        self.load()
        assert self._header is not None
        return self._header

    @property
    def is_unchanged(self) -> bool:
        """True if the file is the one that was read last."""
        return self._stamp is not None and self._stamp == _stamp(self.path)

    def load(self) -> None:
        """Reads and verifies its header, unless that was done and the file is unchanged.

        Raises:
            DamagedShardError: it is missing or damaged.
            CacheError: it holds something else.
        """
        stamp = _stamp(self.path)
        if stamp == self._stamp and self._header is not None:
            return
        self._stamp, self._header, self._handle = stamp, None, None
        if stamp is None:
            raise DamagedShardError(self.path, "the file is gone")
        handle = _open(self.path)
        header = _header_of(self.path, handle)
        self._require_match(header)
        self._header, self._handle = header, handle
        self._is_verified = bytearray(len(header.checksums))

    def read(self, start: int, stop: int, part: int | None) -> Tensor:
        """The frames [start, stop), as `EmbeddingCache.read` gives them.

        Raises:
            DamagedShardError: what was read is not what was written.
            CacheError: the file holds something else by now.
        """
        header = self.header
        if self._handle is None:
            self._handle = _open(self.path)
        first, last = start - self.first, stop - self.first
        num_parts = header.parts_of_frame
        has_part = part is not None and (num_parts > 1 or not header.checksums)
        with _reported(self.path):
            stored = self._handle.get_slice(_TENSOR)
            frames: Tensor = stored[first:last, part] if has_part else stored[first:last]
        if header.checksums:
            offset, step = (part or 0, num_parts) if has_part else (0, 1)
            self._verify(frames, range(first * num_parts + offset, last * num_parts, step))
        return frames if part is None or has_part else frames[:, part]

    def close(self) -> None:
        """Closes the file; what was verified stays so."""
        self._handle = None

    def _verify(self, frames: Tensor, blocks: range) -> None:
        """Raises unless the blocks with these numbers, read into ``frames``, have their bytes."""
        where = slice(blocks.start, blocks.stop, blocks.step)
        if all(self._is_verified[where]):
            return
        assert self._header is not None
        for block, checksum in zip(blocks, _checksums(frames, len(blocks)), strict=True):
            if checksum != self._header.checksums[block]:
                frame = self.first + block // self._header.parts_of_frame
                raise DamagedShardError(self.path, f"frame {frame} has other bytes than written")
        self._is_verified[where] = bytes([1]) * len(blocks)

    def _require_match(self, header: Header) -> None:
        for field, value in self._identity.items():
            found = header.metadata.get(field)
            if found != value:
                raise CacheError(
                    f"the cache {self.path.parent} was made with {field} = {short_repr(found)}, "
                    f"now it is {short_repr(value)}; choose another --cache or delete that folder"
                )
        expected = (self.last - self.first, *self._frame_shape)
        if header.shape != expected:
            raise CacheError(
                f"{self.path} holds a tensor of shape {short_repr(header.shape)}, expected "
                f"{expected}; delete it, and it is made again"
            )


def shard_path(directory: Path, first: int, last: int) -> Path:
    """The file for the frames [first, last)."""
    return directory / f"frames-{first:08d}-{last:08d}.safetensors"


def write_shard(
    path: Path,
    frames: Tensor,
    *,
    identity: Mapping[str, str],
    pts_seconds: Sequence[float],
    notes: Sequence[str],
) -> None:
    """Writes a shard, whole or not at all.

    Args:
        path: as `shard_path` gives it.
        frames: ``[n, *frame_shape]``.
        identity: what determines the embeddings.
        pts_seconds: the times of the frames in the source, in seconds.
        notes: remarks that are kept with them.

    Raises:
        CacheError: it cannot be written.
    """
    frames = frames.contiguous().cpu()
    named = frames_of_name(path.name)
    assert named is not None
    num_parts = frames.shape[1] if frames.ndim > 3 and frames.shape[1] <= _MOST_PARTS else 1
    metadata = {
        **identity,
        _VERSION_KEY: FORMAT_VERSION,
        _FIRST_KEY: str(named[0]),
        "pts_seconds": json.dumps([round(time, 6) for time in pts_seconds]),
        "notes": json.dumps(list(notes)),
        _BLOCKS_KEY: " ".join(_checksums(frames, len(frames) * num_parts)),
    }
    metadata[_HEADER_KEY] = _header_checksum(metadata, frames.dtype, tuple(frames.shape))
    try:
        with atomic_path(path) as temporary:
            save_file({_TENSOR: frames}, temporary, metadata=metadata)
    except (SafetensorError, OSError) as error:
        raise CacheError(
            f"{path} cannot be written: {first_line(error).rstrip('.')}"
            f"{what_to_do(error, path.parent, other='--cache')}"
        ) from error


def _checksums(frames: Tensor, num_blocks: int) -> Iterable[str]:
    """The checksums of a tensor's bytes, in blocks of equal size."""
    rows = frames.reshape(num_blocks, -1).view(torch.uint8).numpy()
    return map(xxhash.xxh3_64_hexdigest, rows)


def _header_checksum(
    metadata: Mapping[str, str], dtype: torch.dtype, shape: tuple[int, ...]
) -> str:
    covered = sorted(item for item in metadata.items() if item[0] != _HEADER_KEY)
    return xxhash.xxh3_64_hexdigest(json.dumps([covered, str(dtype), shape]).encode())


def _header_of(path: Path, handle: Any) -> Header:
    with _reported(path):
        if handle.keys() != [_TENSOR]:
            raise DamagedShardError(path, f"it holds no tensor {_TENSOR!r} alone")
        stored = handle.get_slice(_TENSOR)
        metadata, shape = handle.metadata() or {}, tuple(stored.get_shape())
        dtype = stored[0:0].dtype
    has_checksums = metadata.keys() >= {_BLOCKS_KEY, _HEADER_KEY}
    if has_checksums or metadata.get(_VERSION_KEY) != WITHOUT_CHECKSUMS:
        _require_whole(path, metadata, dtype, shape)
    elif not dtype.is_floating_point:
        raise DamagedShardError(path, f"its header gives the dtype {dtype}")
    try:
        notes = parse_json(metadata.get("notes", "[]"), list[str], ValueError, "its notes")
    except ValueError as error:
        raise DamagedShardError(path, first_line(error)) from error
    checksums = tuple(metadata[_BLOCKS_KEY].split()) if has_checksums else ()
    return Header(metadata, tuple(notes), shape, checksums)


def _require_whole(
    path: Path, metadata: Mapping[str, str], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Raises unless the checksum of the header is there and right, and of this file."""
    version = metadata.get(_VERSION_KEY)
    if metadata.get(_HEADER_KEY) != _header_checksum(metadata, dtype, shape):
        if not metadata.keys() & {_VERSION_KEY, _HEADER_KEY, _BLOCKS_KEY}:
            raise CacheError(f"{path} was not written by vniah; move it out of the cache")
        raise DamagedShardError(path, "its header is not what was written")
    if version != FORMAT_VERSION:
        raise CacheError(
            f"{path} was written by another version of vniah (format_version "
            f"{short_repr(version)}, this version reads {FORMAT_VERSION!r}); use that version, or "
            "choose another --cache"
        )
    frames = frames_of_name(path.name)
    first = metadata.get(_FIRST_KEY)
    if frames is not None and first != str(frames[0]):
        raise DamagedShardError(
            path, f"it holds the frames from {short_repr(first)} on, not those of its name"
        )


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None if there is no such file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turns errors of safetensors into a `DamagedShardError`, those of the system into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedShardError(path, "the file is gone") from error
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {first_line(error)}") from error
    except (SafetensorError, ValueError, IndexError, RuntimeError) as error:
        reason = f"it cannot be read as safetensors: {first_line(error)}"
        raise DamagedShardError(path, reason) from error


def _open(path: Path) -> Any:
    with _reported(path):
        return safe_open(path, framework="pt", device="cpu")
