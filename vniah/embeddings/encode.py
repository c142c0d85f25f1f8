"""Encodes the frames of haystacks and the pictures of needle sets into a cache.

All batches have the same size, and a frame is always in a batch with the same frames; the last
batch is filled up with copies of its last frame. So a frame's embedding does not depend, not even
in its last bit, on where an earlier run stopped encoding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from vniah.embeddings.batches import BATCH_SIZE, default_directory, encode_batch, identity_of
from vniah.embeddings.blended import BlendedFrames
from vniah.embeddings.cache import EmbeddingCache, FrameStore, ReadsFrames
from vniah.embeddings.library import encode_library
from vniah.embeddings.shown import ShownPictures, frames_shown
from vniah.files import hash_text
from vniah.haystacks.frames import AnyHaystack, Frame
from vniah.haystacks.library import VideoLibrary
from vniah.protocol import HAYSTACK, EncodingModel, FrameSpan, needle_source

if TYPE_CHECKING:
    from vniah.needles import Distractor, Needle, NeedleSet


_SHARD_BYTES = 64 * 2**20

_MAX_SHARD_FRAMES = 256


@dataclass(frozen=True)
class EncodedFrames:
    """All frames that samples show, encoded.

    Attributes:
        store: reads them by the sources that samples name.
        num_frames: number of haystack frames; 0 for a library, of which only some are encoded.
        notes: remarks made while encoding, such as damage in the video.
    """

    store: FrameStore
    num_frames: int
    notes: tuple[str, ...] = ()

    @classmethod
    def none(cls) -> "EncodedFrames":
        """Those of samples that show only text."""
        return cls(FrameStore({}), 0)

    @classmethod
    def of(
        cls,
        model: EncodingModel,
        haystack: AnyHaystack,
        needles: "NeedleSet",
        num_frames: int,
        *,
        shown: Iterable[FrameSpan] = (),
        cache: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> "EncodedFrames":
        """The first ``num_frames`` frames of a haystack, and the pictures of a needle set.

        Args:
            model: encodes the frames that are not encoded yet.
            haystack: the source of the frames.
            needles: the needles whose pictures are shown.
            num_frames: number of haystack frames, at least 1; of a `VideoLibrary` those that
                ``shown`` names are encoded instead.
            shown: what samples show. Needles drawn into haystack frames, and pictures of the set
                that are not those of its needles, are encoded where it names them.
            cache: folder of the embeddings; by default one under the user's cache.
            on_progress: called with (frames done, frames in all).

        Raises:
            HaystackTooShortError: the haystack has fewer frames.
            CacheError: the folder holds something else.
            InputError: ``shown`` names a source that there is not.
        """
        if isinstance(haystack, VideoLibrary):
            wanted = frames_shown(shown)
            frames_of_videos = encode_library(
                model, haystack, wanted, cache=cache, on_progress=on_progress
            )
            store = FrameStore({HAYSTACK: (frames_of_videos, 0)})
            return cls(store, 0, frames_of_videos.notes)
        named = ShownPictures.of(shown, needles)
        blended = BlendedFrames(model, haystack, named.blended, cache=cache)
        first = _among(on_progress, after=blended.num_missing)
        frames = encode_haystack(model, haystack, num_frames, directory=cache, on_progress=first)
        blended.complete(_among(on_progress, before=num_frames))
        own = None if cache is None else cache / f"needles-{needles.sha256[:12]}"
        pictures = encode_needles(model, needles, directory=own)
        places: dict[str, tuple[ReadsFrames, int]] = {HAYSTACK: (frames, 0)}
        places |= {**blended.places, **_places(needles, pictures)}
        notes = dict.fromkeys((*frames.notes(), *pictures.notes()))
        if named.others:
            others = encode_others(model, named.others, needles.name, cache=cache)
            places |= _places(named.others, others)
            notes |= dict.fromkeys(others.notes())
        return cls(FrameStore(places), num_frames, tuple(notes))


def _among(
    on_progress: Callable[[int, int], None] | None, *, before: int = 0, after: int = 0
) -> Callable[[int, int], None] | None:
    """Reports the progress of one part of the frames as that of all of them."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(before + done, before + total + after)


def _places(
    pictures: Iterable["Needle | Distractor"], cache: EmbeddingCache
) -> dict[str, tuple[EmbeddingCache, int]]:
    """Where the first frame of every picture is in a cache that holds all their frames."""
    places, first = {}, 0
    for picture in pictures:
        places[needle_source(picture.needle_id)] = (cache, first)
        first += picture.num_frames
    return places


def encode_haystack(
    model: EncodingModel,
    haystack: AnyHaystack,
    num_frames: int,
    *,
    directory: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddingCache:
    """The cache with the first ``num_frames`` frames of a haystack; encodes those that it lacks.

    Args:
        model: encodes the frames.
        haystack: the source of the frames.
        num_frames: the number of frames that are needed.
        directory: the folder of the cache; by default one in the user's cache, named by model,
            haystack and identity.
        on_progress: called with (frames done, frames in all).

    Raises:
        HaystackTooShortError: the haystack has fewer frames.
        CacheError: the directory holds something else.
    """
    identity = identity_of(model, {f"haystack_{k}": v for k, v in haystack.identity().items()})
    directory = directory or default_directory(model, identity, f"{model.name}-{haystack.name}")
    cache = EmbeddingCache(directory, identity, tuple(model.frame_shape))
    _complete(cache, model, haystack.frames, num_frames, on_progress)
    return cache


def encode_needles(
    model: EncodingModel, needles: "NeedleSet", *, directory: Path | None = None
) -> EmbeddingCache:
    """The cache with the pictures of a needle set in its order; arguments as `encode_haystack`.

    All frames of a clip come one after the other.
    """
    identity = identity_of(model, {"needles_sha256": needles.sha256})
    label = f"{model.name}-needles-{needles.name}"
    directory = directory or default_directory(model, identity, label)
    return _encode_pictures(model, needles, identity, directory)


def encode_others(
    model: EncodingModel,
    pictures: Sequence["Needle | Distractor"],
    name: str,
    *,
    cache: Path | None = None,
) -> EmbeddingCache:
    """The cache with further pictures of a needle set, which is called ``name``."""
    digests = "".join(f"{picture.image_sha256}\n" for picture in pictures)
    identity = identity_of(model, {"pictures_sha256": hash_text(digests)})
    if cache is None:
        directory = default_directory(model, identity, f"{model.name}-pictures-{name}")
    else:
        directory = cache / f"pictures-{identity['pictures_sha256'][:12]}"
    return _encode_pictures(model, pictures, identity, directory)


def _encode_pictures(
    model: EncodingModel,
    pictures: Iterable["Needle | Distractor"],
    identity: Mapping[str, str],
    directory: Path,
) -> EmbeddingCache:
    import numpy as np

    cache = EmbeddingCache(directory, identity, tuple(model.frame_shape))
    images = [image for picture in pictures for image in picture.frames]

    def read(*, start: int, stop: int, on_damage: Callable[[str], None] | None) -> Iterator[Frame]:
        for index in range(start, stop):
            yield Frame(index, 0.0, np.array(images[index]))

    _complete(cache, model, read, len(images), None)
    return cache


class _ReadsFrames(Protocol):
    """As `Haystack.frames`."""

    def __call__(
        self, *, start: int, stop: int, on_damage: Callable[[str], None] | None
    ) -> Iterator[Frame]: ...


def _complete(
    cache: EmbeddingCache,
    model: EncodingModel,
    read: _ReadsFrames,
    num_frames: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Encodes the frames that the cache lacks, and lets it do so again for a damaged shard."""
    shard_frames = _frames_per_shard(model)
    while cache.num_frames < num_frames:
        cache.drop_partial(shard_frames)
        start, behind = cache.num_frames, cache.next_start(BATCH_SIZE)
        stop = num_frames if behind is None else min(behind, num_frames)
        notes: list[str] = []
        frames = read(start=start, stop=stop, on_damage=notes.append)
        _fill(cache, model, frames, (stop, num_frames), shard_frames, notes, on_progress)
    cache.refill = lambda missing: _complete(cache, model, read, missing, None)
    cache.mark_used()


def _fill(
    cache: EmbeddingCache,
    model: EncodingModel,
    frames: Iterable[Frame],
    goal: tuple[int, int],
    shard_frames: int,
    notes: list[str],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Encodes frames batch by batch, and writes each shard as soon as it is full.

    ``goal`` are the number of the frame after the last, and the number of frames in all.
    """
    stop, num_frames = goal
    waiting: list[Tensor] = []
    times: list[float] = []
    done = cache.num_frames
    stream = iter(frames)
    while batch := list(islice(stream, BATCH_SIZE)):
        waiting.append(encode_batch(model, [frame.image for frame in batch]))
        times += [frame.pts_seconds for frame in batch]
        done += len(batch)
        if on_progress is not None:
            on_progress(done, num_frames)
        if len(times) >= shard_frames or done == stop:
            cache.append(torch.cat(waiting), times, notes)
            waiting, times = [], []
    assert not waiting and cache.num_frames >= stop


def _frames_per_shard(model: EncodingModel) -> int:
    """Frames of a shard: a whole number of batches, about 64 MB and at most 256 frames."""
    bytes_per_frame = 4 * torch.Size(model.frame_shape).numel()
    fitting = min(_SHARD_BYTES // bytes_per_frame, _MAX_SHARD_FRAMES)
    return int(max(BATCH_SIZE, fitting // BATCH_SIZE * BATCH_SIZE))
