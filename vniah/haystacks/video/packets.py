"""What the packets of a video say: its pictures' times, its length, its damage. Nothing is decoded.

Listing the packets costs about as much as reading the file once. A missing end is noticed if the
file declares its length, or if its last packet is cut. What goes unnoticed is described in
`vniah.haystacks.video.pyav`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av

from vniah.errors import HaystackError, VideoDamagedError
from vniah.haystacks.video.sampling import clock_schedule, longva_schedule
from vniah.options import Sampling

# Playlists refer to other files, which this file's hash does not cover. The others are pictures or
# text.
_REFUSED_FORMATS = {"hls", "dash", "concat", "imf", "sdp", "image2", "ico", "tty", "lavfi"}

# In these codecs one packet is one picture. So a picture that is not decoded was lost, and pictures
# that no other one refers to may be skipped.
_EXACT_CODECS = {"h264", "hevc", "mpeg2video", "mpeg4"}
_PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown, progressive

_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC
_HOLE_BYTES = 512

_SYNC_BYTE = 0x47
# (bytes per packet, where its sync byte is): plain, with a time before it, with a checksum after it
_TRANSPORT_PACKETS = ((188, 0), (192, 4), (204, 0))
_TRANSPORT_TAIL_BYTES = 32 * 204


@dataclass(frozen=True)
class VideoIndex:
    """What the packets of a video say.

    Attributes:
        path: the file.
        pts: the time stamp of every picture in ticks, in the order in which they are shown.
        end: when the last picture leaves the screen, in ticks.
        time_base: seconds per tick.
        average_rate: pictures per second, as the file declares it.
        format_name: the container, as FFmpeg calls it.
        num_packets: how many packets of the stream to read.
        in_order: decoded pictures carry no usable time; the n-th decoded one has ``pts[n]``.
        is_exact: every packet is one picture.
        damage: what the packets show to be missing, such as ``it holds 12.0 s of the declared
            40.0 s``.
    """

    path: Path
    pts: tuple[int, ...]
    end: int
    time_base: Fraction
    average_rate: Fraction | None
    format_name: str
    num_packets: int
    in_order: bool
    is_exact: bool
    damage: tuple[str, ...]

    def schedule(self, sampling: Sampling) -> Sequence[int]:
        """For every frame the ordinal of its picture."""
        if sampling == "longva":
            return longva_schedule(len(self.pts), average_rate=self.average_rate)
        return self._clock_schedule

    @cached_property
    def _clock_schedule(self) -> list[int]:
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


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """An open video as (container, video stream).

    Raises:
        HaystackError: the file is not a video, or not one that can be decoded here.
        VideoDamagedError: it is an MP4 file without its index.
    """
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
        videos = [s for s in container.streams.video if not _is_cover_picture(s)]
        if not videos:
            kinds = sorted({s.type for s in container.streams if s.type != "video"})
            raise HaystackError(
                f"{path} has no video stream, only {' and '.join(kinds) or 'a still picture'}. "
                "Give a file with moving pictures."
            )
        stream = videos[0]
        if stream.codec_context is None or not stream.codec_context.width:
            raise HaystackError(
                f"{path}: its video stream cannot be decoded here (unknown codec or no picture "
                "size). Convert it to H.264 in MP4."
            )
        yield container, stream


def _is_cover_picture(stream: Any) -> bool:
    return bool(int(getattr(stream, "disposition", 0)) & _ATTACHED_PICTURE)  # not in PyAV 14.0


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


@dataclass(frozen=True)
class VideoSummary:
    """What the header of a video file says."""

    format_name: str
    average_rate: Fraction | None


def summarize_video(path: Path) -> VideoSummary:
    """Reads the header of a video file, and nothing else of it.

    Raises:
        HaystackError: the file is not a video.
        VideoDamagedError: its index is missing.
    """
    with open_video(path) as (container, stream):
        return VideoSummary(container.format.name, stream.average_rate)


def video_packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream in the order of the file.

    Empty ones, as AVI has them, are left out: a decoder takes them for the end of the film.
    """
    return (packet for packet in container.demux(stream) if packet.size)


def index_video(path: Path) -> VideoIndex:
    """Lists the packets of a video.

    Raises:
        HaystackError: the file is not a video, or its pictures have no time stamps.
        VideoDamagedError: it has no keyframe to start from. Other damage is noted in the index.
    """
    with open_video(path) as (container, stream):
        listing = _Listing(stream.time_base)
        listing.read(container, stream)
        if not listing.times:
            if listing.has_times:
                raise VideoDamagedError(f"{path} has no keyframe. Copy or download it again.")
            raise HaystackError(
                f"{path} has no pictures with time stamps. If it is a bare codec stream, put it "
                "into a container such as MP4."
            )
        pts = sorted(listing.times)
        rate: Fraction | None = stream.average_rate
        end = _find_end(container, stream, pts, listing.latest[1])
        codec = stream.codec_context
        return VideoIndex(
            path=path,
            pts=tuple(pts),
            end=end,
            time_base=stream.time_base,
            average_rate=rate,
            format_name=container.format.name,
            num_packets=listing.num_packets,
            in_order=not listing.has_pts or container.format.name == "avi",
            is_exact=codec.name in _EXACT_CODECS and _is_progressive(codec),
            damage=(
                *listing.damage(),
                *_wrong_length(container, stream, pts[0], end, listing.num_packets),
                *(_cut_packet(path) if container.format.name == "mpegts" else ()),
            ),
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
    stopped: str = ""

    def read(self, container: Any, stream: Any) -> None:
        # FFmpeg skips silently what it cannot parse in these formats. So the bytes of all packets
        # are counted, those of the sound included, to find what was skipped.
        is_matroska = "matroska" in container.format.name
        is_fragmented = "mp4" in container.format.name and not stream.frames
        by_bytes = is_matroska or is_fragmented
        packets = container.demux() if by_bytes else video_packets(container, stream)
        follows_hole, end_byte = False, 0
        try:
            for packet in packets:
                if by_bytes and packet.size and packet.pos is not None:
                    follows_hole |= is_matroska and packet.pos > end_byte + _HOLE_BYTES
                    end_byte = max(end_byte, packet.pos + packet.size)
                if packet.stream_index == stream.index and packet.size:
                    if self._jumps_back(packet):
                        return
                    self._add(packet, follows_hole=follows_hole)
                    follows_hole = False
                elif packet.is_corrupt:
                    self.corrupt.append(self.latest[0])
        except av.error.FFmpegError as error:
            self.stopped = f"reading stops at {self._seconds(self.latest[0])}: {error.strerror}"
            return
        unread = container.size - end_byte
        if is_fragmented and unread > max(_HOLE_BYTES, container.size // 20):
            self.stopped = (
                f"reading stops at {self._seconds(self.latest[0])}, {unread:,} bytes before the end"
            )

    def _jumps_back(self, packet: Any) -> bool:
        if packet.dts is None:
            return False
        if self.last_dts is not None and (packet.dts - self.last_dts) * self.time_base < -1:
            at = self._seconds(self.latest[0])
            self.stopped = f"its clock jumps back at {at}, and nothing after that is used"
            return True
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


def _wrong_length(
    container: Any, stream: Any, first: int, end: int, num_packets: int
) -> Iterator[str]:
    """Damage that shows in the duration: each kind of container declares it in its own way."""
    tick = stream.time_base
    span = (end - min(first, stream.start_time or first)) * tick
    tolerance = Fraction(1)
    if stream.duration:
        declared = stream.duration * tick
        if 0 < stream.frames <= num_packets:
            return  # MP4 counts its pictures, and all are there
        if "mp4" in container.format.name:
            tolerance = Fraction(1, 2)
    else:
        # Other containers count from time 0 of the file, which need not be the first picture.
        span = max(span, end * tick)
        declared = _matroska_seconds(stream.metadata.get("DURATION", ""))
        if declared is None:
            declared = Fraction(container.duration or 0, av.time_base)
            if len(container.streams) > 1:  # the sound may go on after the last picture
                tolerance = max(2 * tolerance, declared / 100)
    if span < declared - tolerance:
        yield f"it holds {float(span):.1f} s of the declared {float(declared):.1f} s"
    elif declared and (end - first) * tick > 2 * declared + 60:
        length = float((end - first) * tick)
        yield f"its times reach {length:.1f} s, but {float(declared):.1f} s are declared"


def _matroska_seconds(text: str) -> Fraction | None:
    hours, _, rest = text.partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None


def _cut_packet(path: Path) -> Iterator[str]:
    """The damage of an MPEG-TS file that ends in the middle of a packet.

    Only the end is looked at, because a recording may well start in the middle of a packet. If the
    last packets have no regular sync bytes, nothing can be said.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TRANSPORT_TAIL_BYTES))
        tail = file.read()
    for packet_size, sync_at in _TRANSPORT_PACKETS:
        rests = [
            (len(tail) - first + sync_at) % packet_size
            for first in range(min(packet_size, len(tail) // 2))
            if set(tail[first::packet_size]) == {_SYNC_BYTE}
        ]
        if rests:
            if rest := min(rests):
                yield f"its last MPEG-TS packet is cut: {rest} of {packet_size} bytes"
            return
