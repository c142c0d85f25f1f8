"""The frames of needles: of one picture, of a list of pictures, or of a video at 1 FPS."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from vniah.errors import NeedleError, VniahError, first_line
from vniah.needles.pictures import read_picture
from vniah.needles.records import require_clip_size

_VIDEO_SUFFIXES = frozenset(
    (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm")
)


def is_video(source: Path | bytes) -> bool:
    """True for a file whose name is that of a video."""
    return isinstance(source, Path) and source.suffix.lower() in _VIDEO_SUFFIXES


def read_frames(sources: tuple[Path | bytes, ...], *, where: str) -> tuple[Image.Image, ...]:
    """The frames of a needle, each upright and in mode RGB; one for a picture.

    A video is read as haystacks are: frame k is the picture on screen k seconds after the first.

    Args:
        sources: a picture or a video; or one picture for each frame of a clip.
        where: begins the messages.

    Raises:
        NeedleError: a file cannot be read, or the clip is too long or too large.
    """
    frames: list[Image.Image] = []
    num_pixels = 0
    for frame in _frames_of(sources, where=where):
        frames.append(frame)
        num_pixels += frame.width * frame.height
        require_clip_size(f"{where}: the clip", len(frames), num_pixels)
    return tuple(frames)


def _frames_of(sources: tuple[Path | bytes, ...], *, where: str) -> Iterator[Image.Image]:
    for source in sources:
        if isinstance(source, bytes) or not is_video(source):
            yield read_picture(source, where=where)
        elif len(sources) > 1:
            raise NeedleError(
                f"{where}: a clip is one video or a list of pictures, and {source.name!r} in the "
                "list is a video; name it alone."
            )
        else:
            yield from _video_frames(source, where=where)


def _video_frames(path: Path, *, where: str) -> Iterator[Image.Image]:
    from vniah.haystacks.haystack import open_haystack

    try:
        for frame in open_haystack(path).frames():
            yield Image.fromarray(frame.image)
    except VniahError as error:
        raise NeedleError(
            f"{where}: the video {path.name!r} cannot be read: {first_line(error)}"
        ) from error
