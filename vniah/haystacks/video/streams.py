"""Opens a video file, and chooses the video stream that is the film.

The rule is that of common players (FFmpeg's ``av_find_best_stream``, mpv): attached pictures,
thumbnails and streams of a single picture are no film. Of the others, streams that are marked as
default come first, then the largest picture, then the highest bit rate, then the first stream.

One thing is different. Programs that write videos mark the first stream as default where nobody
chose one. So the mark of the first stream says nothing if its picture is small: if it has at most a
quarter of the pixels of the largest one, it is a preview.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from vniah.errors import HaystackError, InputError, VideoDamagedError
from vniah.haystacks.frames import MOST_PIXELS
from vniah.haystacks.video.timeline import demux

# Playlists refer to other files, which this file's hash does not cover. The others are pictures or
# text.
_REFUSED_FORMATS = {"hls", "dash", "concat", "imf", "sdp", "image2", "ico", "tty", "lavfi"}

# AV_DISPOSITION_...: a picture beside the film, and the mark of the stream to play.
_ATTACHED_PICTURE = 0x400
_TIMED_THUMBNAILS = 0x800
_DEPENDENT = 0x80000
_STILL_IMAGE = 0x100000
_NO_FILM = _ATTACHED_PICTURE | _TIMED_THUMBNAILS | _DEPENDENT | _STILL_IMAGE
_DEFAULT = 0x1

# AVFMT_NOTIMESTAMPS: files of this format hold pictures only, and FFmpeg assumes a rate.
_NO_TIMESTAMPS = 0x80
# Formats without that mark whose rate is an option of FFmpeg's reader, 25 by default.
_ASSUMED_RATE = {"adf", "bin", "bitpacked", "idf", "ingenient", "ipu", "rawvideo", "ser", "v210"}
_ASSUMED_RATE |= {"v210x", "xbin"}


@dataclass(frozen=True)
class VideoSummary:
    """What the header of a video file says.

    Attributes:
        format_name: the container, as FFmpeg calls it.
        average_rate: pictures per second, as the file declares it.
        stream: the position of the film among the video streams of the file, from 0.
        num_streams: the number of video streams of the file.
        num_films: of these, the number that are no covers or thumbnails.
        has_clock: the file holds time stamps. If not, FFmpeg would assume a rate.
    """

    format_name: str
    average_rate: Fraction | None
    stream: int
    num_streams: int
    num_films: int
    has_clock: bool


def summarize_video(path: Path, stream: int | None = None) -> VideoSummary:
    """Reads the header of a video file, and of several streams the first packets.

    Args:
        path: the file.
        stream: the position of the film among the video streams; by default it is chosen.

    Raises:
        InputError: ``stream`` names no film.
        HaystackError: the file is not a video, or not one that can be decoded here.
        VideoDamagedError: its index is missing.
    """
    with _open_container(path) as container:
        chosen = _choose_stream(container) if stream is None else stream
        film = _get_film(path, container, chosen)
        name = container.format.name
        return VideoSummary(
            format_name=name,
            average_rate=film.average_rate,
            stream=chosen,
            num_streams=len(container.streams.video),
            num_films=len(_film_streams(container)),
            has_clock=not int(container.format.flags) & _NO_TIMESTAMPS
            and name not in _ASSUMED_RATE,
        )


@contextmanager
def open_video(path: Path, stream: int) -> Iterator[tuple[Any, Any]]:
    """An open video as (container, the video stream with this position among the video streams).

    Raises:
        InputError: ``stream`` names no film.
        HaystackError: the file is not a video, or not one that can be decoded here.
        VideoDamagedError: it is an MP4 file without its index.
    """
    with _open_container(path) as container:
        yield container, _get_film(path, container, stream)


def _get_film(path: Path, container: Any, stream: int) -> Any:
    videos = container.streams.video
    if not 0 <= stream < len(videos):
        raise InputError(
            f"{path} has no video stream {stream}: it has {len(videos)}, numbered from 0. Choose "
            "another --stream."
        )
    film = videos[stream]
    if _disposition(film) & _NO_FILM:
        raise InputError(
            f"video stream {stream} of {path} is a cover picture or thumbnail. Choose another "
            "--stream."
        )
    if not _can_be_decoded(film):
        raise HaystackError(
            f"{path}: its video stream cannot be decoded here (unknown codec or no picture size). "
            "Convert it to H.264 in MP4."
        )
    require_size(path, film.codec_context)
    return film


def require_size(path: Path, picture: Any) -> None:
    """Requires a picture, or a codec that says its size, of not more than ``MOST_PIXELS``.

    Raises:
        HaystackError: it is larger.
    """
    if picture.width * picture.height > MOST_PIXELS:
        raise HaystackError(
            f"{path} has pictures of {picture.width} x {picture.height} pixels, and at most "
            f"{MOST_PIXELS:,} pixels are read. Make them smaller."
        )


@contextmanager
def _open_container(path: Path) -> Iterator[Any]:
    try:
        container = av.open(str(path.absolute()), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise _not_a_video(path, error) from error
    with container:
        name = container.format.name
        if name in _REFUSED_FORMATS or name.endswith("_pipe"):
            raise HaystackError(
                f"{path} is no video but a file of the kind {name!r}. A haystack is a video file, "
                "several of them, or a folder of images."
            )
        if not _film_streams(container):
            kinds = sorted({s.type for s in container.streams if s.type != "video"})
            raise HaystackError(
                f"{path} has no video stream, only {' and '.join(kinds) or 'a still picture'}. "
                "Give a file with moving pictures."
            )
        yield container


def _not_a_video(path: Path, error: av.error.FFmpegError) -> HaystackError:
    with path.open("rb") as file:
        start = file.read(12)
    if not start:
        return HaystackError(f"{path} is empty (0 bytes). Copy or download it again.")
    if start[4:8] == b"ftyp":
        return VideoDamagedError(
            f"{path} is an MP4 file without a readable index (moov): its end is probably missing. "
            "Copy or download it again."
        )
    return HaystackError(
        f"{path} cannot be read as a video: {error.strerror}. Give a video file that plays, or a "
        "folder of images."
    )


def _choose_stream(container: Any) -> int:
    """The position of the film among the video streams. Of several it reads some packets."""
    streams = _film_streams(container)
    streams = [stream for stream in streams if _can_be_decoded(stream)] or streams
    if len(streams) > 1:
        moving = _with_several_pictures(container, streams) or streams
        streams = sorted(moving, key=_preference_among(moving), reverse=True)  # stable
    positions = [stream.index for stream in container.streams.video]
    return positions.index(streams[0].index)


def _film_streams(container: Any) -> list[Any]:
    return [stream for stream in container.streams.video if not _disposition(stream) & _NO_FILM]


def _disposition(stream: Any) -> int:
    return int(getattr(stream, "disposition", 0))  # not in PyAV 14.0


def _can_be_decoded(stream: Any) -> bool:
    return stream.codec_context is not None and bool(stream.codec_context.width)


def _with_several_pictures(container: Any, streams: list[Any]) -> list[Any]:
    """The streams with at least two packets. Reads until all have them, or to the end."""
    counts: Counter[int] = Counter()
    waiting = {stream.index for stream in streams if stream.frames != 1}
    with suppress(av.error.FFmpegError):  # damage is found when the packets are listed
        for packet in demux(container, *streams):
            counts[packet.stream_index] += bool(packet.size)
            if counts[packet.stream_index] > 1:
                waiting.discard(packet.stream_index)
            if not waiting:
                break
    return [stream for stream in streams if counts[stream.index] > 1]


def _preference_among(streams: list[Any]) -> Callable[[Any], tuple[bool, bool, int, int]]:
    """A function that gives the largest value for the stream to play."""
    marked = [stream for stream in streams if _disposition(stream) & _DEFAULT]
    largest = max(_num_pixels(stream) for stream in streams)
    if marked == streams[:1] and 4 * _num_pixels(streams[0]) <= largest:
        marked = []

    def preference(stream: Any) -> tuple[bool, bool, int, int]:
        codec = stream.codec_context
        # The transparency of an animated AVIF is a gray stream of the same size.
        has_color = not str(codec.pix_fmt or "").startswith("gray")
        return stream in marked, has_color, _num_pixels(stream), codec.bit_rate or 0

    return preference


def _num_pixels(stream: Any) -> int:
    return int(stream.codec_context.width * stream.codec_context.height)


def describe_streams(summaries: list[VideoSummary]) -> str:
    """Which stream of each file is read, such as ``index 1 of 2``; empty if there is no choice."""
    if all(summary.num_films == 1 for summary in summaries):
        return ""
    return ", ".join(f"index {summary.stream} of {summary.num_streams}" for summary in summaries)


def require_clock(path: Path, summary: VideoSummary, assume_fps: Fraction | None) -> None:
    """Requires time stamps in the file, or a rate to assume, and not both.

    Raises:
        HaystackError: the file has no time stamps, and no rate is given.
        InputError: the file has time stamps, and a rate is given.
    """
    if not summary.has_clock and assume_fps is None:
        raise HaystackError(
            f"{path} has no pictures with time stamps: it is a bare stream "
            f"({summary.format_name}). Put it into a container such as MP4, or give the number of "
            "pictures per second: --assume-fps 25 (assume_fps=25)."
        )
    if summary.has_clock and assume_fps is not None:
        raise InputError(
            f"{path} ({summary.format_name}) has time stamps of its own. Remove --assume-fps."
        )
