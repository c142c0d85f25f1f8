"""Encodes needles that are drawn into frames of the haystack.

Only the frames that samples show are made. Each is encoded in a batch of its own, so that its
embedding does not depend, not even in its last bit, on what else the grid holds; and each has a
file of its own, so that another grid finds it again.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vniah.embeddings.batches import default_directory, encode_batch, identity_of
from vniah.embeddings.shown import BlendedPicture
from vniah.embeddings.sparse import SparseCache
from vniah.files import hash_settings
from vniah.haystacks.frames import AnyHaystack
from vniah.needles.blending import BLENDING_VERSION
from vniah.protocol import EncodingModel


class BlendedFrames:
    """The frames of some blended pictures, each in a cache of its own.

    Args:
        model: encodes the frames.
        haystack: the frames into which the pictures are drawn.
        pictures: what is drawn, and into which frames.
        cache: folder for the caches; by default the user's cache.

    Raises:
        CacheError: a folder holds something else.
    """

    def __init__(
        self,
        model: EncodingModel,
        haystack: AnyHaystack,
        pictures: Sequence[BlendedPicture],
        *,
        cache: Path | None = None,
    ) -> None:
        self._model = model
        self._haystack = haystack
        self._caches = {
            picture.source: (picture, self._open(picture, cache)) for picture in pictures
        }
        self._missing: dict[int, list[str]] = defaultdict(list)
        for source, (picture, own) in self._caches.items():
            for index in own.missing(picture.indices):
                self._missing[index].append(source)

    @property
    def num_missing(self) -> int:
        """How many frames are to be encoded."""
        return sum(map(len, self._missing.values()))

    @property
    def places(self) -> Mapping[str, tuple[SparseCache, int]]:
        """For every source, the cache that holds it and the index of its first frame there."""
        return {source: (cache, 0) for source, (_, cache) in self._caches.items()}

    def complete(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Encodes the frames that the caches lack; the haystack is read once for all of them.

        Args:
            on_progress: called with (frames done, frames in all).
        """
        self._encode(self._missing, on_progress)
        self._missing = defaultdict(list)
        for _, cache in self._caches.values():
            cache.mark_used()

    def _open(self, picture: BlendedPicture, cache: Path | None) -> SparseCache:
        haystack = {f"haystack_{key}": v for key, v in self._haystack.identity().items()}
        identity = identity_of(
            self._model,
            {
                **haystack,
                "blended_needle": picture.needle_id,  # it decides where the picture stands
                "blended_image_sha256": picture.image_sha256,
                "blended_frame": str(picture.number),
                "blending_version": BLENDING_VERSION,
            },
        )
        if cache is None:
            label = f"{self._model.name}-{self._haystack.name}-blended-{picture.needle_id}"
            directory = default_directory(self._model, identity, label)
        else:
            directory = cache / f"blended-{hash_settings(identity)[:12]}"
        found = SparseCache(directory, identity, tuple(self._model.frame_shape))
        found.refill = lambda indices: self._encode({n: [picture.source] for n in indices})
        return found

    def _encode(
        self,
        missing: Mapping[int, Sequence[str]],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not missing:
            return
        done, total = 0, sum(map(len, missing.values()))
        for frame in self._haystack.frames(start=min(missing), stop=max(missing) + 1):
            for source in missing.get(frame.index, ()):
                picture, cache = self._caches[source]
                image = picture.drawn_into(frame.image, frame.index)
                (encoded,) = encode_batch(self._model, [image], size=1)
                cache.write(frame.index, encoded, frame.pts_seconds)
                done += 1
            if on_progress is not None and done:
                on_progress(done, total)
