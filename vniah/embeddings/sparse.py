"""Encoded frames on disk of which only some are there: one shard for each frame.

The files are those of `vniah.embeddings.cache`, verified when they are read. A frame is found by
the name of its file, so it does not matter in which order, and by which runs, frames were written.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vniah.embeddings.cache import damaged_once_more, mark_used, not_encoded_again, set_aside
from vniah.embeddings.shards import DamagedShardError, Shard, shard_path, write_shard
from vniah.errors import without_surrogates


class SparseCache:
    """Some encoded frames of one source, in one folder.

    Args:
        directory: the folder of the shards; need not exist yet.
        identity: everything that determines the embeddings, as text.
        frame_shape: the shape of one encoded frame.

    Attributes:
        refill: encodes the frames with these numbers again; None if that cannot be done.
    """

    def __init__(
        self, directory: Path, identity: Mapping[str, str], frame_shape: tuple[int, ...]
    ) -> None:
        self.directory = directory
        self.frame_shape = frame_shape
        self.refill: Callable[[list[int]], None] | None = None
        self._identity = {field: without_surrogates(value) for field, value in identity.items()}
        self._shards: dict[int, Shard] = {}
        self._latest: Shard | None = None

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Those of the frames that are not there; a damaged shard is set aside, and says so.

        Raises:
            CacheError: the folder holds something else.
        """
        return [index for index in indices if not self._is_there(index)]

    def write(self, index: int, frame: Tensor, pts_seconds: float) -> None:
        """Writes one frame.

        Args:
            index: its number.
            frame: ``[*frame_shape]``.
            pts_seconds: its time in the source, in seconds.
        """
        assert frame.shape == self.frame_shape
        path = shard_path(self.directory, index, index + 1)
        write_shard(path, frame[None], identity=self._identity, pts_seconds=[pts_seconds], notes=[])

    def read(self, start: int, stop: int, *, part: int | None = None) -> Tensor:
        """As `vniah.embeddings.cache.EmbeddingCache.read`."""
        return torch.cat([self._read(index, part) for index in range(start, stop)])

    def mark_used(self) -> None:
        """As `vniah.embeddings.cache.EmbeddingCache.mark_used`."""
        mark_used(self.directory)

    def _is_there(self, index: int) -> bool:
        shard = self._shard(index)
        if not shard.path.exists():
            return False
        try:
            shard.load()
        except DamagedShardError as damage:
            set_aside(shard, damage)
            return False
        finally:
            shard.close()
        return True

    def _shard(self, index: int) -> Shard:
        if index not in self._shards:
            path = shard_path(self.directory, index, index + 1)
            self._shards[index] = Shard(path, self._identity, self.frame_shape)
        return self._shards[index]

    def _read(self, index: int, part: int | None) -> Tensor:
        """One frame, ``[1, *frame_shape]``; at most one file is open."""
        shard = self._shard(index)
        if self._latest is not None and self._latest is not shard:
            self._latest.close()
        self._latest = shard
        try:
            return shard.read(index, index + 1, part)
        except DamagedShardError as damage:
            set_aside(shard, damage)
            if self.refill is None:
                raise not_encoded_again(damage) from None
            self.refill(self.missing([index]))
        try:
            return shard.read(index, index + 1, part)
        except DamagedShardError as damage:
            raise damaged_once_more(damage) from None
