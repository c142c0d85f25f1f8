"""What the packets of a video say: its pictures' times, its length, its damage. Nothing is decoded.

Listing the packets costs about as much as reading the file once. A missing end is noticed if the
file declares its length, or if its last packet is cut. What goes unnoticed is described in
`vniah.haystacks.video.pyav`.
"""

from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import av

from vniah.errors import HaystackError, VideoDamagedError
from vniah.haystacks.video.completeness import (
    Extent,
    Mp4Layout,
    declares_one_length,
    end_mark_damage,
    length_damage,
)
from vniah.haystacks.video.mpegts import MOST_PACKET_BYTES, cut_packet_damage, find_joints
from vniah.haystacks.video.sampling import clock_schedule, longva_schedule
from vniah.haystacks.video.streams import VideoSummary, open_video, require_clock, summarize_video
from vniah.haystacks.video.timeline import Timeline, may_restart
from vniah.options import Sampling

# In these codecs one packet is one picture. So a picture that is not decoded was lost, and pictures
# that no other one refers to may be skipped.
_EXACT_CODECS = {"h264", "hevc", "mpeg2video", "mpeg4"}
_PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown, progressive

_HOLE_BYTES = 512
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


def count(number: int, what: str) -> str:
    """``3 packets``, ``1 packet``."""
    return f"{number} {what}{'s' if number != 1 else ''}"


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
        listing = _Listing(film.time_base)
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


@dataclass
class _Listing:
    """What is noted while the packets are read."""

    time_base: Fraction
    times: list[int] = field(default_factory=list)
    latest: tuple[int, int] = (-(2**63), 0)  # (pts, duration) of the picture shown last
    first_keyframe: int | None = None
    last_dts: int | None = None
    num_packets: int = 0
    corrupt: list[int] = field(default_factory=list)
    has_times: bool = False
    has_pts: bool = False
    holes: list[int] = field(default_factory=list)
    pauses: dict[int, int | None] = field(default_factory=dict)
    step: int = 0  # between the decoding times of the last two packets
    num_restarts: int = 0
    end_of_all_seconds: Fraction = Fraction(0)
    stopped: str = ""

    def read(self, container: Any, stream: Any, layout: Mp4Layout) -> None:
        # FFmpeg skips silently what it cannot parse in these formats. So the bytes of all packets
        # are counted, those of the sound included, to find what was skipped.
        is_matroska = "matroska" in container.format.name
        by_bytes = is_matroska or layout.has_fragments
        is_any_end = declares_one_length(container, stream) and not may_restart(container)
        reads_all = by_bytes or is_any_end
        timeline = Timeline(container, stream)
        packets = container.demux() if reads_all else timeline
        follows_hole, end_byte = False, 0
        try:
            for packet in packets:
                if by_bytes and packet.size and packet.pos is not None:
                    follows_hole |= is_matroska and packet.pos > end_byte + _HOLE_BYTES
                    end_byte = max(end_byte, packet.pos + _num_bytes(packet))
                if reads_all and packet.pts is not None and packet.size:
                    seconds = (packet.pts + (packet.duration or 0)) * packet.time_base
                    self.end_of_all_seconds = max(self.end_of_all_seconds, seconds)
                if packet.stream_index == stream.index and packet.size:
                    self._note_keyframe(packet, timeline.num_restarts)
                    if self._jumps_back(packet):
                        return
                    self._add(packet, follows_hole=follows_hole)
                    follows_hole = False
                elif by_bytes and packet.is_corrupt:
                    self.corrupt.append(self.latest[0])
        except av.error.FFmpegError as error:
            self.stopped = f"reading stops at {self._seconds(self.latest[0])}: {error.strerror}"
            return
        unread = layout.end_of_pictures - end_byte
        if layout.cut:
            self.stopped = f"the file ends inside its last part ({layout.cut})"
        elif layout.has_fragments and unread > max(_HOLE_BYTES, container.size // 20):
            self.stopped = (
                f"reading stops at {self._seconds(self.latest[0])}, {unread:,} bytes before the end"
            )

    def judge_joints(self, path: Path, stream: Any) -> None:
        """Tells whole parts of MPEG-TS that were joined from lost packets.

        FFmpeg calls a packet corrupt where counters start anew.
        """
        if not self.corrupt:
            return
        places = sorted(self.pauses)
        parts = []
        for joint in find_joints(path, stream.id):
            at = places[max(0, bisect(places, joint + MOST_PACKET_BYTES) - 1)]
            if abs(at - joint) >= MOST_PACKET_BYTES:
                return  # it does not begin with a keyframe
            parts.append(at)
        if parts:
            self.corrupt.clear()
            self.holes.extend(time for at in parts if (time := self.pauses[at]) is not None)

    def _note_keyframe(self, packet: Any, num_restarts: int) -> None:
        """Notes after which picture there is a pause before this keyframe, or None."""
        if not packet.is_keyframe or packet.pos is None:
            return
        gap = 0 if None in (packet.dts, self.last_dts) else packet.dts - self.last_dts
        is_restart = num_restarts > self.num_restarts
        self.num_restarts = num_restarts
        is_pause = not is_restart and 2 * gap > 3 * max(self.step, packet.duration or 0)
        self.pauses[packet.pos] = self.latest[0] if is_pause else None

    def _jumps_back(self, packet: Any) -> bool:
        if packet.dts is None or packet.is_discard:
            return False  # what an edit list cuts off is not part of the clock
        if self.last_dts is not None and (packet.dts - self.last_dts) * self.time_base < -1:
            at = self._seconds(self.latest[0])
            self.stopped = f"its clock jumps back at {at}, and nothing after that is used"
            return True
        if self.last_dts is not None:
            self.step = packet.dts - self.last_dts
        self.last_dts = packet.dts
        return False

    def _add(self, packet: Any, *, follows_hole: bool) -> None:
        self.num_packets += 1
        self.has_pts |= packet.pts is not None
        time = packet.dts if packet.pts is None else packet.pts
        if time is None or (packet.pts is None and self.has_pts):
            return  # for example the second field of a picture
        self.has_times = True
        if self.first_keyframe is None:
            if not packet.is_keyframe:
                return  # the recording starts between keyframes: nothing can be shown yet
            self.first_keyframe = time
        if packet.is_corrupt:
            self.corrupt.append(time)
        if packet.is_discard or time < self.first_keyframe:
            return  # cut off by an edit list, or it refers to pictures before the start
        if follows_hole and self.times:
            last, duration = self.latest
            if 2 * (time - last) > 3 * (duration or packet.duration or 0):
                self.holes.append(last)
        self.times.append(time)
        self.latest = max(self.latest, (time, packet.duration or 0))

    def _seconds(self, pts: int) -> str:
        return f"{float((pts - min(self.times)) * self.time_base) if self.times else 0:.1f} s"

    def damage(self) -> Iterator[str]:
        if self.corrupt:
            where = "the first at" if len(self.corrupt) > 1 else "at"
            at = self._seconds(self.corrupt[0])
            yield f"{count(len(self.corrupt), 'incomplete packet')}, {where} {at}"
        if self.holes:
            where = "the first after" if len(self.holes) > 1 else "after"
            yield f"{count(len(self.holes), 'gap')}, {where} {self._seconds(self.holes[0])}"
        if self.stopped:
            yield self.stopped


def _num_bytes(packet: Any) -> int:
    """The bytes of a packet in the file, with those that WebM keeps beside it (transparency)."""
    sizes = getattr(packet, "iter_sidedata", tuple)  # not in older versions of PyAV
    beside: int = sum(side_data.buffer_size for side_data in sizes())
    return int(packet.size) + beside
