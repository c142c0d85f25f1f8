"""Encoded frames on disk: safetensors shards of consecutive frames, read in slices.

A cache belongs to one identity: model, preprocessing, dtype and source. Every shard carries it, and
opening a cache with another one is refused. Shards are written to a temporary name and renamed, so
that an encode can be stopped at any moment and goes on with the next shard.

The vision tower always sees whole batches of the same frames (the last one is filled up by
repeating its last frame), so that a frame's embedding does not depend, not even in its last bit,
on where an earlier encode was stopped.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vniah.errors import CacheError, ModelError, first_line
from vniah.haystacks import Frame, Haystack
from vniah.models.protocol import EncodingModel, FrameSegment
from vniah.paths import cache_dir

if TYPE_CHECKING:
    import numpy as np

    from vniah.needles import NeedleSet

FORMAT_VERSION = "1"
BATCH_SIZE = 16

_SHARD_BYTES = 64 * 2**20
_MAX_SHARD_FRAMES = 256
_TENSOR = "frames"
_SHARD_NAME = re.compile(r"frames-(\d{8})-(\d{8})\.safetensors")


class EmbeddingCache:
    """The encoded frames 0 .. num_frames-1 of one source, in one folder.

    Args:
        directory: where the shards lie; need not exist yet.
        identity: what decides the embeddings, as text.
        frame_shape: shape of one frame.

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
        """How many frames are there, without a gap from frame 0."""
        return self._shards[-1][1] if self._shards else 0

    def read(self, start: int, stop: int, *, part: int | None = None) -> Tensor:
        """Frames ``start`` to ``stop - 1`` on the CPU, ``[stop - start, *frame_shape]``.

        Only the bytes of these frames are read; with ``part`` only those at this index of the
        first dimension of each, which the result lacks.
        """
        if not 0 <= start < stop <= self.num_frames:
            raise CacheError(
                f"the frames [{start}, {stop}) were asked of {self.directory}, "
                f"which holds {self.num_frames}"
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
        """What was remarked while encoding, e.g. of damage in the video."""
        notes: dict[str, None] = {}
        for _, _, path in self._shards:
            with _open_shard(path) as shard:
                notes |= dict.fromkeys(json.loads(shard.metadata().get("notes", "[]")))
        return tuple(notes)

    def append(self, frames: Tensor, pts_seconds: Sequence[float], notes: Sequence[str]) -> None:
        """Writes one shard after the last.

        Args:
            frames: ``[n, *frame_shape]``.
            pts_seconds: their times in the source.
            notes: remarks to keep with them.
        """
        assert frames.shape[1:] == self.frame_shape and len(pts_seconds) == len(frames)
        first, last = self.num_frames, self.num_frames + len(frames)
        path = self.directory / f"frames-{first:08d}-{last:08d}.safetensors"
        metadata = {
            **self._identity,
            "pts_seconds": json.dumps([round(time, 6) for time in pts_seconds]),
            "notes": json.dumps(list(notes)),
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            save_file({_TENSOR: frames.contiguous().cpu()}, temporary, metadata=metadata)
        except (SafetensorError, OSError) as error:
            temporary.unlink(missing_ok=True)
            raise CacheError(
                f"{path} cannot be written: {first_line(error)}. What is encoded already is kept; "
                "make room, or choose another --cache"
            ) from error
        temporary.replace(path)
        self._shards.append((first, last, path))

    def drop_partial(self, shard_frames: int) -> None:
        """Forgets a last shard shorter than ``shard_frames``, which is to be written anew."""
        if self._shards and self._shards[-1][1] - self._shards[-1][0] < shard_frames:
            self._shards.pop()

    def _find_shards(self) -> list[tuple[int, int, Path]]:
        """The chain of shards from frame 0; where several start alike, the longest."""
        longest: dict[int, tuple[int, int, Path]] = {}
        for path in sorted(self.directory.glob("frames-*.safetensors")):
            if match := _SHARD_NAME.fullmatch(path.name):
                first, last = int(match[1]), int(match[2])
                longest[first] = (first, last, path)  # sorted: the longest comes last
        chain: list[tuple[int, int, Path]] = []
        while (found := longest.get(chain[-1][1] if chain else 0)) is not None:
            self._verify(found)
            chain.append(found)
        return chain

    def _verify(self, found: tuple[int, int, Path]) -> None:
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
    """Looks up frame segments in caches.

    Args:
        places: for every source the cache that holds it and the number of its first frame there.
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
        """The same in pieces of up to ``most`` frames, each a run that lies together in a cache.

        ``part`` as in `EmbeddingCache.read`.
        """
        start = 0
        while start < len(frames):
            stop = start + 1
            while (
                stop < len(frames)
                and stop - start < most
                and frames[stop].source == frames[start].source
                and frames[stop].index == frames[stop - 1].index + 1
            ):
                stop += 1
            cache, offset = self._places[frames[start].source]
            first = offset + frames[start].index
            yield cache.read(first, first + stop - start, part=part)
            start = stop


def encode_haystack(
    model: EncodingModel,
    haystack: Haystack,
    num_frames: int,
    *,
    directory: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddingCache:
    """The first ``num_frames`` frames of a haystack, encoded where they are not yet.

    Args:
        model: encodes the frames.
        haystack: where they are from.
        num_frames: how many are needed.
        directory: where the cache lies; by default a folder named by model, source and identity
            under the user's cache.
        on_progress: called with (frames done, frames in all).

    Raises:
        HaystackTooShortError: the haystack has fewer frames.
        CacheError: the directory holds something else.
    """
    identity = _identity(model, {f"haystack_{k}": v for k, v in haystack.identity().items()})
    directory = directory or _default_directory(identity, f"{model.name}-{haystack.name}")
    cache = EmbeddingCache(directory, identity, tuple(model.frame_shape))
    if cache.num_frames < num_frames:
        shard_frames = _frames_per_shard(model)
        cache.drop_partial(shard_frames)
        notes: list[str] = []
        frames = haystack.frames(start=cache.num_frames, stop=num_frames, on_damage=notes.append)
        _fill(cache, model, frames, num_frames, shard_frames, notes, on_progress)
    return cache


def encode_needles(
    model: EncodingModel, needles: "NeedleSet", *, directory: Path | None = None
) -> EmbeddingCache:
    """The pictures of a needle set, encoded in its order; arguments as `encode_haystack`."""
    import numpy as np

    identity = _identity(model, {"needles_sha256": needles.sha256})
    directory = directory or _default_directory(identity, f"{model.name}-needles-{needles.name}")
    cache = EmbeddingCache(directory, identity, tuple(model.frame_shape))
    if cache.num_frames < len(needles):
        shard_frames = _frames_per_shard(model)
        cache.drop_partial(shard_frames)
        frames = (
            Frame(index, 0.0, np.array(needle.image))
            for index, needle in enumerate(needles)
            if index >= cache.num_frames
        )
        _fill(cache, model, frames, len(needles), shard_frames, [], None)
    return cache


def needle_directory(cache: Path | None, needles: "NeedleSet") -> Path | None:
    """Where a needle set lies in a folder that was named for all embeddings, if one was."""
    return None if cache is None else cache / f"needles-{needles.sha256[:12]}"


def _fill(
    cache: EmbeddingCache,
    model: EncodingModel,
    frames: Iterable[Frame],
    num_frames: int,
    shard_frames: int,
    notes: list[str],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Encodes frames batch by batch while they stream, and writes a shard whenever one is full."""
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
        if len(times) >= shard_frames or done == num_frames:
            cache.append(torch.cat(waiting), times, notes)
            waiting, times = [], []
    assert not waiting and cache.num_frames >= num_frames


def _encode_batch(model: EncodingModel, images: "Sequence[np.ndarray]") -> Tensor:
    """``[len(images), *frame_shape]`` on the CPU, from a batch of full size."""
    filled = [*images, *[images[-1]] * (BATCH_SIZE - len(images))]
    encoded = model.encode_frames(filled)
    refuse_encoded(model, encoded, BATCH_SIZE)
    return encoded[: len(images)].detach().cpu()


def refuse_encoded(model: EncodingModel, encoded: object, num_frames: int) -> None:
    """Raises `ModelError` unless these can be the embeddings of so many frames."""
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
    """A whole number of batches, about 64 MB, at most 256 frames."""
    bytes_per_frame = 4 * torch.Size(model.frame_shape).numel()
    fitting = min(_SHARD_BYTES // bytes_per_frame, _MAX_SHARD_FRAMES)
    return int(max(BATCH_SIZE, fitting // BATCH_SIZE * BATCH_SIZE))


def _identity(model: EncodingModel, source: Mapping[str, str]) -> dict[str, str]:
    """What decides the embeddings. A model may add to it by an attribute ``encoding``."""
    dtype = getattr(model, "dtype", None)
    own: Mapping[str, str] = getattr(model, "encoding", {})
    return {
        "model": model.name,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "revision": model.revision,
        "dtype": "as the model gives" if dtype is None else str(dtype).removeprefix("torch."),
        "frame_shape": str(list(model.frame_shape)),
        **{key: str(value) for key, value in own.items()},
        **source,
    }


def _default_directory(identity: Mapping[str, str], label: str) -> Path:
    key = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:12]
    readable = re.sub(r"[^\w.-]+", "_", label)[:80]
    return cache_dir() / "embeddings" / f"{readable}-{key}"


def _open_shard(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise CacheError(
            f"{path} cannot be read as safetensors ({error}); delete it, and it is made again"
        ) from error
