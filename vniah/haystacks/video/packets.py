"""What the packets of a video say: its pictures' times, its length, its damage. Nothing is decoded.

Listing the packets costs about as much as reading the file once. A missing end is noticed if the
file declares its length, or if its last packet is cut. What goes unnoticed is described in
`vniah.haystacks.video.pyav`.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import av

from vniah.errors import HaystackError, VideoDamagedError
from vniah.haystacks.video.completeness import Extent, end_mark_damage, length_damage
from vniah.haystacks.video.listing import Listing
from vniah.haystacks.video.mp4 import Mp4Layout
from vniah.haystacks.video.mpegts import cut_packet_damage
from vniah.haystacks.video.sampling import clock_schedule, longva_schedule
from vniah.haystacks.video.streams import VideoSummary, open_video, require_clock, summarize_video
from vniah.haystacks.video.timeline import Timeline
from vniah.options import Sampling

# In these codecs one packet is one picture. So a picture that is not decoded was lost, and pictures
# that no other one refers to may be skipped.
_EXACT_CODECS = {"h264", "hevc", "mpeg2video", "mpeg4"}
_PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown, progressive

_MOST_SECONDS = 10_000_000


@dataclass(frozen=True)
class VideoIndex:
    """What the packets of a video say.

    Attributes:
        path: the file.
        summary: what the header of the file says.
        pts: the time stamp of every picture in ticks, in the order in which they are shown.
        end: when the last picture leaves the screen, in ticks.
        time_base: seconds per tick.
        num_packets: how many packets of the stream to read.
        in_order: decoded pictures carry no usable time; the n-th decoded one has ``pts[n]``.
        is_exact: every packet is one picture.
        damage: what the packets show to be missing, such as ``it holds 12.0 s of the declared
            40.0 s``.
    """

    path: Path
    summary: VideoSummary
    pts: tuple[int, ...]
    end: int
    time_base: Fraction
    num_packets: int
    in_order: bool
    is_exact: bool
    damage: tuple[str, ...]

    def schedule(self, sampling: Sampling) -> Sequence[int]:
        """For every frame the ordinal of its picture."""
        if sampling == "longva":
            return longva_schedule(len(self.pts), average_rate=self.summary.average_rate)
        return self._clock_schedule

    @cached_property
    def _clock_schedule(self) -> list[int]:
        length = (self.end - self.pts[0]) * self.time_base
        if length > _MOST_SECONDS:
            raise HaystackError(
                f"{self.path}: its times reach {float(length):,.0f} s, and at most "
                f"{_MOST_SECONDS:,} s are read. Cut it into shorter files."
            )
        return clock_schedule(self.pts, end=self.end, time_base=self.time_base)

    def seconds(self, pts: int) -> float:
        """Ticks as seconds after the first picture."""
        return float((pts - self.pts[0]) * self.time_base)

    def require_whole(self) -> None:
        """Raises VideoDamagedError if the packets show damage."""
        if self.damage:
            raise damaged_error(self.path, "; ".join(self.damage))


def damaged_error(path: Path, summary: str) -> VideoDamagedError:
    """The error that refuses a damaged video."""
    return VideoDamagedError(
        f"{path} is damaged: {summary}. Get a whole copy, or go on with what can be decoded: "
        "--keep-damaged (keep_damaged=True)."
    )


def index_video(
    path: Path, stream: int | None = None, assume_fps: Fraction | None = None
) -> VideoIndex:
    """Lists the packets of a video.

    Args:
        path: the file.
        stream: the position of the film among the video streams; by default it is chosen.
        assume_fps: pictures per second of a bare stream, which holds no time stamps.

    Raises:
        InputError: ``stream`` names no film, or ``assume_fps`` is given for a file with a clock.
        HaystackError: the file is not a video, or its pictures have no time stamps.
        VideoDamagedError: it has no keyframe to start from. Other damage is noted in the index.
    """
    summary = summarize_video(path, stream)
    require_clock(path, summary, assume_fps)
    if assume_fps is not None:
        return _index_bare_stream(path, replace(summary, average_rate=assume_fps))
    with open_video(path, summary.stream) as (container, film):
        name = container.format.name
        layout = Mp4Layout.read(path) if "mp4" in name else Mp4Layout()
        if layout.has_pause:
            raise HaystackError(
                f"{path} has an edit list with a pause between two pieces of the film, for which "
                "other pictures would be read. Encode it again without an edit list."
            )
        listing = Listing(film.time_base)
        listing.read(container, film, layout)
        if not listing.times:
            if listing.has_times:
                raise VideoDamagedError(f"{path} has no keyframe. Copy or download it again.")
            raise HaystackError(
                f"{path} has no pictures with time stamps. Convert it to H.264 in MP4."
            )
        if name == "mpegts":
            listing.judge_joints(path, film)
        pts = sorted(listing.times)
        end = _find_end(container, film, pts, listing.latest[1])
        extent = Extent(
            pts[0], end, listing.end_of_all_seconds, listing.num_packets, listing.num_restarts > 0
        )
        codec = film.codec_context
        return VideoIndex(
            path=path,
            summary=summary,
            pts=tuple(pts),
            end=end,
            time_base=film.time_base,
            num_packets=listing.num_packets,
            in_order=not listing.has_pts or name == "avi",
            is_exact=codec.name in _EXACT_CODECS and _is_progressive(codec),
            damage=(
                *listing.damage(),
                *length_damage(container, film, extent, layout),
                *(cut_packet_damage(path) if name == "mpegts" else ()),
                *end_mark_damage(path, name),
            ),
        )


def _index_bare_stream(path: Path, summary: VideoSummary) -> VideoIndex:
    """The index of a stream without time stamps: its pictures are decoded to count them."""
    num_packets = num_pictures = 0
    with open_video(path, summary.stream) as (container, film):
        film.thread_type = "AUTO"
        with suppress(av.error.FFmpegError):  # noted when the pictures are read
            for packet in chain(Timeline(container, film), [None]):
                num_packets += packet is not None
                with suppress(av.error.FFmpegError):
                    num_pictures += len(film.decode(packet))
        if not num_pictures:
            raise VideoDamagedError(f"{path} has no picture that can be decoded here.")
        assert summary.average_rate is not None
        return VideoIndex(
            path=path,
            summary=summary,
            pts=tuple(range(num_pictures)),
            end=num_pictures,
            time_base=1 / summary.average_rate,
            num_packets=num_packets,
            in_order=True,
            is_exact=False,
            damage=(),
        )


def _is_progressive(codec: Any) -> bool:
    # PyAV 14 does not tell. Then no picture is skipped, which is slower and always right.
    return getattr(codec, "field_order", None) in _PROGRESSIVE


def _find_end(container: Any, stream: Any, pts: Sequence[int], duration: int) -> int:
    """When the last picture leaves the screen, in ticks."""
    if not duration and len(pts) > 1:
        duration = pts[-1] - pts[-2]
    if not duration and stream.average_rate:
        duration = round(1 / (stream.average_rate * stream.time_base))
    end = pts[-1] + duration
    if "mp4" in container.format.name and stream.duration and stream.start_time is not None:
        # An MP4 packet lasts until the next one is decoded, which need not be the next one shown.
        declared_end = stream.start_time + stream.duration
        if pts[-1] < declared_end < end:
            return int(declared_end)
    return end
