"""Encodes pictures of many videos; what is encoded is kept for each video, by its own pictures.

So a picture is encoded once, whatever other lengths, questions or videos a run has. Each has a file
of its own and is encoded in a batch of its own, as a needle that is drawn into a frame is
(`vniah.embeddings.blended`): then its embedding does not depend, not even in its last bit, on what
else is asked.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from vniah.embeddings.batches import default_directory, encode_batch, identity_of
from vniah.embeddings.sparse import SparseCache
from vniah.files import hash_settings
from vniah.haystacks.library import VideoLibrary
from vniah.protocol import EncodingModel


class LibraryFrames:
    """The encoded frames of a library, read by their numbers in it.

    Args:
        model: encodes pictures.
        library: the videos.
        frames: the numbers of the frames that are needed.
        cache: folder for the caches of all videos; by default the user's cache.

    Attributes:
        notes: remarks on the library, and those made while encoding.

    Raises:
        CacheError: a folder holds something else.
    """

    def __init__(
        self,
        model: EncodingModel,
        library: VideoLibrary,
        frames: Iterable[int],
        *,
        cache: Path | None = None,
    ) -> None:
        self.notes: tuple[str, ...] = library.notes
        self._model = model
        self._library = library
        self._wanted = library.by_video(frames)
        self._caches = {number: self._open(number, cache) for number in self._wanted}

    def complete(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Encodes what the caches lack; every video that is needed for it is decoded once.

        Args:
            on_progress: called with (pictures done, pictures in all).
        """
        done, total = 0, sum(map(len, self._wanted.values()))
        for number, ordinals in self._wanted.items():
            missing = self._caches[number].missing(ordinals)
            done += len(ordinals) - len(missing)
            for _ in self._encode(number, missing):
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
            self._caches[number].mark_used()

    def read(self, start: int, stop: int, *, part: int | None = None) -> Tensor:
        """As `vniah.embeddings.cache.EmbeddingCache.read`."""
        parts = []
        for frame in range(start, stop):
            number, ordinal = self._library.locate(frame)
            parts.append(self._caches[number].read(ordinal, ordinal + 1, part=part))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _open(self, number: int, cache: Path | None) -> SparseCache:
        video = self._library.videos[number]
        source = video.identity(keep_damaged=self._library.keep_damaged)
        identity = identity_of(self._model, {f"haystack_{k}": v for k, v in source.items()})
        if cache is None:
            directory = default_directory(self._model, identity, f"{self._model.name}-video")
        else:
            directory = cache / f"video-{hash_settings(identity)[:12]}"
        found = SparseCache(directory, identity, tuple(self._model.frame_shape))

        def refill(ordinals: list[int]) -> None:
            for _ in self._encode(number, ordinals):
                pass

        found.refill = refill
        return found

    def _encode(self, number: int, ordinals: list[int]) -> Iterable[int]:
        """Encodes pictures of a video one by one; gives the number of each."""
        if not ordinals:
            return
        notes: dict[str, None] = dict.fromkeys(self.notes)
        pictures = self._library.videos[number].pictures(
            ordinals,
            keep_damaged=self._library.keep_damaged,
            on_damage=lambda note: notes.setdefault(note),
        )
        for picture in pictures:
            (encoded,) = encode_batch(self._model, [picture.image], size=1)
            self._caches[number].write(picture.index, encoded, picture.pts_seconds)
            yield picture.index
        self.notes = tuple(notes)


def encode_library(
    model: EncodingModel,
    library: VideoLibrary,
    frames: Iterable[int],
    *,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LibraryFrames:
    """The encoded frames of a library; encodes those that its caches lack.

    Args:
        model: as `LibraryFrames`.
        library: as `LibraryFrames`.
        frames: as `LibraryFrames`.
        cache: as `LibraryFrames`.
        on_progress: called with (pictures done, pictures in all).

    Raises:
        CacheError: a folder holds something else.
        VideoDamagedError: a picture cannot be decoded, and damage is not kept.
    """
    found = LibraryFrames(model, library, frames, cache=cache)
    found.complete(on_progress)
    return found
