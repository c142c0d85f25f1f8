"""The pictures of the frames that are drawn, as the model gets them where that is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from vniah.embeddings.shown import ShownPictures
from vniah.errors import ModelError, first_line
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.library import VideoLibrary
from vniah.needles import NeedleSet
from vniah.protocol import HAYSTACK, AnyModel, FrameSpan, needle_source
from vniah.show.storyboard import Tile

Picture = npt.NDArray[np.uint8]

OnRead = Callable[[int, int], None]
"""Called with (frames read, frames to read) of a video."""

_NEAR = 32  # frames; those that are no farther apart are read in one go


@dataclass(frozen=True)
class Shown:
    """Pictures of frames.

    Attributes:
        pictures: of each tile, RGB ``[height, width, 3]``.
        caption: what they are: as the model gets them, or as they are stored.
        seconds: when each is on screen in its video; empty where that is its number in a film.
    """

    pictures: Mapping[Tile, Picture]
    caption: str
    seconds: Mapping[Tile, float] = field(default_factory=dict)


def read_frames(
    tiles: Sequence[Tile],
    haystack: AnyHaystack,
    needles: NeedleSet,
    model: AnyModel | None,
    *,
    on_progress: OnRead | None = None,
) -> Shown:
    """The pictures of tiles.

    Args:
        tiles: what is drawn.
        haystack: the video; only what is needed of it is read, as far as its kind allows.
        needles: the pictures of needles.
        model: its method ``prepared_frames(frames)`` gives frames as its vision tower gets them;
            without a model, or without this method, they are shown as they are stored.
        on_progress: called as frames of a video are read, which may take a while.

    Raises:
        ModelError: ``prepared_frames`` gives something else than pictures.
    """
    stored, seconds = _stored(tiles, haystack, needles, on_progress)
    return replace(_prepared(tiles, stored, model), seconds=seconds)


def _prepared(
    tiles: Sequence[Tile], stored: Mapping[Tile, Picture], model: AnyModel | None
) -> Shown:
    prepare = getattr(model, "prepared_frames", None)
    if model is None or not tiles:
        return Shown(
            stored, "The pictures as they are stored, before a model scales or crops them."
        )
    if not callable(prepare):
        return Shown(
            stored,
            f"The pictures as they are stored: {model.name} has no prepared_frames(), which would "
            "show how it scales or crops them.",
        )
    found: object = prepare([stored[tile] for tile in tiles])
    pictures = _require_pictures(found, f"prepared_frames of {model.name}", len(tiles))
    height, width, _ = pictures[0].shape
    is_one_size = len({picture.shape for picture in pictures}) == 1
    size = f": {width} x {height} px" if is_one_size else ""
    caption = f"The pictures as {model.name} gets them, after scaling, cropping and padding{size}."
    return Shown(dict(zip(tiles, pictures, strict=True)), caption)


def _stored(
    tiles: Sequence[Tile],
    haystack: AnyHaystack,
    needles: NeedleSet,
    on_progress: OnRead | None,
) -> tuple[dict[Tile, Picture], dict[Tile, float]]:
    spans = [FrameSpan(tile.source, tile.index, tile.index + 1) for tile in tiles]
    drawn_at = ShownPictures.of(spans, needles).blended_at()
    wanted = sorted({*drawn_at, *(tile.index for tile in tiles if tile.source == HAYSTACK)})
    frames: dict[int, Picture] = {}
    times: dict[int, float] = {}
    if isinstance(haystack, VideoLibrary):
        for frame in haystack.frames_at(wanted):
            frames[frame.index], times[frame.index] = frame.image, frame.pts_seconds
            if on_progress is not None:
                on_progress(len(frames), len(wanted))
    is_video = getattr(haystack, "kind", "") == "video"
    for run in [] if times else _runs(wanted, reads_all=is_video):
        needed = set(run)
        for frame in haystack.frames(start=run[0], stop=run[-1] + 1):
            if frame.index in needed:
                frames[frame.index] = frame.image
            if is_video and on_progress is not None:
                on_progress(frame.index + 1, run[-1] + 1)
    pictures: dict[tuple[str, int], Picture] = {(HAYSTACK, k): frames[k] for k in wanted}
    for index, drawn in drawn_at.items():
        for picture in drawn:
            pictures[picture.source, index] = picture.drawn_into(frames[index], index)
    for name, clip in needles.pictures.items():
        for number, image in enumerate(clip.frames):
            pictures[needle_source(name), number] = np.array(image)
    seconds = {tile: times[tile.index] for tile in tiles if tile.source == HAYSTACK and times}
    return {tile: pictures[tile.source, tile.index] for tile in tiles}, seconds


def _runs(indices: Sequence[int], *, reads_all: bool) -> list[list[int]]:
    """The frames that are read in one go.

    A video is decoded from its beginning whatever is read of it, so it is read once. Images, and
    the short files of a generated film, are read only where they are needed.
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and (reads_all or index - runs[-1][-1] <= _NEAR):
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _require_pictures(found: object, what: str, count: int) -> list[Picture]:
    """Pictures as a method of a model gave them.

    Raises:
        ModelError: it gave something else.
    """
    try:
        pictures = [np.asarray(item) for item in found]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise ModelError(f"{what} gave no pictures: {first_line(error)}") from error
    if len(pictures) != count:
        raise ModelError(f"{what} gave {len(pictures)} pictures for {count} frames")
    for picture in pictures:
        is_picture = picture.ndim == 3 and picture.shape[-1] == 3 and min(picture.shape) > 0
        if not is_picture or picture.dtype != np.uint8:
            raise ModelError(
                f"{what} gave {picture.dtype} {list(picture.shape)}; it must give RGB uint8 "
                "[height, width, 3]"
            )
    return pictures
