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

from vniah.embeddings.cache import EmbeddingCache, FrameStore
from vniah.errors import ModelError
from vniah.files import cache_dir, hash_settings, slug
from vniah.haystacks.frames import AnyHaystack, Frame
from vniah.protocol import HAYSTACK, EncodingModel, class_path, class_record, needle_source

if TYPE_CHECKING:
    import numpy as np

    from vniah.needles import NeedleSet


BATCH_SIZE = 16

_SHARD_BYTES = 64 * 2**20

_MAX_SHARD_FRAMES = 256


@dataclass(frozen=True)
class EncodedFrames:
    """All frames that samples show, encoded.

    Attributes:
        store: reads them by the sources that samples name.
        num_frames: number of haystack frames.
        notes: remarks made while encoding, such as damage in the video.
    """

    store: FrameStore
    num_frames: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        model: EncodingModel,
        haystack: AnyHaystack,
        needles: "NeedleSet",
        num_frames: int,
        *,
        cache: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> "EncodedFrames":
        """The first ``num_frames`` frames of a haystack and the pictures of a needle set.

        Args:
            model: encodes the frames that are not encoded yet.
            haystack: the source of the frames.
            needles: the needles whose pictures are shown.
            num_frames: number of haystack frames, at least 1.
            cache: folder of the embeddings; by default one under the user's cache.
            on_progress: called with (frames done, frames in all).

        Raises:
            HaystackTooShortError: the haystack has fewer frames.
            CacheError: the folder holds something else.
        """
        frames = encode_haystack(
            model, haystack, num_frames, directory=cache, on_progress=on_progress
        )
        own = None if cache is None else cache / f"needles-{needles.sha256[:12]}"
        pictures = encode_needles(model, needles, directory=own)
        places = {HAYSTACK: (frames, 0)} | {
            needle_source(needle_id): (pictures, index)
            for index, needle_id in enumerate(needles.ids)
        }
        notes = dict.fromkeys((*frames.notes(), *pictures.notes()))
        return cls(FrameStore(places), num_frames, tuple(notes))


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
    identity = _identity(model, {f"haystack_{k}": v for k, v in haystack.identity().items()})
    directory = directory or _default_directory(model, identity, f"{model.name}-{haystack.name}")
    cache = EmbeddingCache(directory, identity, tuple(model.frame_shape))
    _complete(cache, model, haystack.frames, num_frames, on_progress)
    return cache


def encode_needles(
    model: EncodingModel, needles: "NeedleSet", *, directory: Path | None = None
) -> EmbeddingCache:
    """The cache with the pictures of a needle set in its order; arguments as `encode_haystack`."""
    import numpy as np

    identity = _identity(model, {"needles_sha256": needles.sha256})
    directory = directory or _default_directory(
        model, identity, f"{model.name}-needles-{needles.name}"
    )
    cache = EmbeddingCache(directory, identity, tuple(model.frame_shape))

    def pictures(
        *, start: int, stop: int, on_damage: Callable[[str], None] | None
    ) -> Iterator[Frame]:
        for index, needle in islice(enumerate(needles), start, stop):
            yield Frame(index, 0.0, np.array(needle.image))

    _complete(cache, model, pictures, len(needles), None)
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
        waiting.append(_encode_batch(model, [frame.image for frame in batch]))
        times += [frame.pts_seconds for frame in batch]
        done += len(batch)
        if on_progress is not None:
            on_progress(done, num_frames)
        if len(times) >= shard_frames or done == stop:
            cache.append(torch.cat(waiting), times, notes)
            waiting, times = [], []
    assert not waiting and cache.num_frames >= stop


def _encode_batch(model: EncodingModel, images: "Sequence[np.ndarray]") -> Tensor:
    """Encodes images in a full batch; returns ``[len(images), *frame_shape]`` on the CPU."""
    filled = [*images, *[images[-1]] * (BATCH_SIZE - len(images))]
    encoded = model.encode_frames(filled)
    require_embeddings(model, encoded, BATCH_SIZE)
    return encoded[: len(images)].detach().cpu()


def require_embeddings(model: EncodingModel, encoded: object, num_frames: int) -> None:
    """Raises `ModelError` unless ``encoded`` can be the embeddings of ``num_frames`` frames."""
    if not isinstance(encoded, Tensor):
        raise ModelError(f"encode_frames of {model.name} gave {type(encoded).__name__}, no tensor")
    expected = (num_frames, *model.frame_shape)
    if tuple(encoded.shape) != expected:
        raise ModelError(
            f"encode_frames of {model.name} gave shape {tuple(encoded.shape)} for {num_frames} "
            f"frames; its frame_shape {tuple(model.frame_shape)} makes that {expected}"
        )
    if not torch.isfinite(encoded).all():
        raise ModelError(
            f"encode_frames of {model.name} gave NaN or infinity; try --dtype float32 or bfloat16"
        )


def _frames_per_shard(model: EncodingModel) -> int:
    """Frames of a shard: a whole number of batches, about 64 MB and at most 256 frames."""
    bytes_per_frame = 4 * torch.Size(model.frame_shape).numel()
    fitting = min(_SHARD_BYTES // bytes_per_frame, _MAX_SHARD_FRAMES)
    return int(max(BATCH_SIZE, fitting // BATCH_SIZE * BATCH_SIZE))


def _identity(model: EncodingModel, source: Mapping[str, str]) -> dict[str, str]:
    """Everything that determines the embeddings; a model's attribute ``encoding`` adds to it."""
    dtype = getattr(model, "dtype", None)
    own: Mapping[str, str] = getattr(model, "encoding", {})
    return {
        "model": model.name,
        **class_record(model),
        "revision": model.revision,
        "dtype": "as the model gives" if dtype is None else str(dtype).removeprefix("torch."),
        "frame_shape": str(list(model.frame_shape)),
        **{key: str(value) for key, value in own.items()},
        **source,
    }


def _default_directory(model: EncodingModel, identity: Mapping[str, str], label: str) -> Path:
    """The folder named by label and identity, or the one that version 0.1 has filled."""
    earlier = {**identity, "class": class_path(model)}
    folder, old = _folder(identity, label), _folder(earlier, label)
    return old if old.is_dir() and not folder.is_dir() else folder


def _folder(identity: Mapping[str, str], label: str) -> Path:
    return cache_dir() / "embeddings" / f"{slug(label)[:80]}-{hash_settings(identity)[:12]}"
