"""Lists the packets of a film: its pictures' times, and what is missing between them."""

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from vniah.errors import counted
from vniah.haystacks.video.completeness import declares_one_length
from vniah.haystacks.video.mp4 import Mp4Layout
from vniah.haystacks.video.mpegts import (
    MOST_PACKET_BYTES,
    find_joints,
    find_table_restarts,
    find_unreadable,
)
from vniah.haystacks.video.timeline import Timeline, demux, may_restart

_HOLE_BYTES = 512


@dataclass
class Listing:
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
    # Of every keyframe the place in the file, and after which picture and place there is a pause.
    pauses: dict[int, tuple[int, int] | None] = field(default_factory=dict)
    last_place: int = 0
    # Of every packet the place in the file, and the picture that was shown last until there.
    places: list[tuple[int, int]] = field(default_factory=list)
    step: int = 0  # between the decoding times of the last two packets
    num_restarts: int = 0
    end_of_all_seconds: Fraction = Fraction(0)
    stopped: str = ""

    def read(self, container: Any, stream: Any, layout: Mp4Layout) -> None:
        """Reads all packets of an open file, and notes what is missing."""
        # FFmpeg skips silently what it cannot parse in these formats. So the bytes of all packets
        # are counted, those of the sound included, to find what was skipped.
        is_matroska = "matroska" in container.format.name
        by_bytes = is_matroska or layout.has_fragments
        is_stream_of_parts = may_restart(container)
        is_any_end = declares_one_length(container, stream) and not is_stream_of_parts
        reads_all = by_bytes or is_any_end
        timeline = Timeline(container, stream)
        packets = demux(container) if reads_all else timeline
        follows_hole, end_byte = False, 0
        try:
            for packet in packets:
                if by_bytes and packet.size and packet.pos is not None:
                    follows_hole |= is_matroska and packet.pos > end_byte + _HOLE_BYTES
                    follows_hole |= bisect(layout.breaks, end_byte - 1) != bisect(
                        layout.breaks, packet.pos
                    )
                    end_byte = max(end_byte, packet.pos + _num_bytes(packet))
                if reads_all and packet.pts is not None and packet.size:
                    seconds = (packet.pts + (packet.duration or 0)) * packet.time_base
                    self.end_of_all_seconds = max(self.end_of_all_seconds, seconds)
                if packet.stream_index == stream.index and packet.size:
                    if is_stream_of_parts:
                        self._note_keyframe(packet, timeline.num_restarts)
                    if self._jumps_back(packet):
                        return
                    self._add(packet, follows_hole=follows_hole)
                    follows_hole = False
                    if is_stream_of_parts and packet.pos is not None and self.times:
                        self.places.append((packet.pos, self.latest[0]))
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
            self._find_unreadable(path)
            self._find_lost_parts(path)
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
            self.holes.extend(pause[0] for at in parts if (pause := self.pauses[at]))

    def _find_unreadable(self, path: Path) -> None:
        """Notes packets that were overwritten, after which all counters fit by chance."""
        for at in find_unreadable(path):
            before = bisect(self.places, at, key=lambda place: place[0])
            last = self.places[before - 1][1] if before else min(self.times)
            self.corrupt.append(last)

    def _find_lost_parts(self, path: Path) -> None:
        """Notes pauses where program tables start anew: the counters of pictures fit by chance."""
        pauses = {at: pause for at, pause in self.pauses.items() if pause}
        if pauses:
            restarts = find_table_restarts(path)
            for at, (time, place) in pauses.items():
                if bisect(restarts, place) != bisect(restarts, at):
                    self.holes.append(time)

    def _note_keyframe(self, packet: Any, num_restarts: int) -> None:
        """Notes after which picture there is a pause before this keyframe, or None."""
        if packet.pos is None:
            return
        place, self.last_place = self.last_place, packet.pos
        if not packet.is_keyframe:
            return
        gap = 0 if None in (packet.dts, self.last_dts) else packet.dts - self.last_dts
        is_restart = num_restarts > self.num_restarts
        self.num_restarts = num_restarts
        is_pause = not is_restart and 2 * gap > 3 * max(self.step, packet.duration or 0)
        self.pauses[packet.pos] = (self.latest[0], place) if is_pause else None

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
        """What is missing, one text for each kind."""
        if self.corrupt:
            where = "the first at" if len(self.corrupt) > 1 else "at"
            at = self._seconds(self.corrupt[0])
            yield f"{counted(len(self.corrupt), 'incomplete packet')}, {where} {at}"
        if self.holes:
            where = "the first after" if len(self.holes) > 1 else "after"
            yield f"{counted(len(self.holes), 'gap')}, {where} {self._seconds(self.holes[0])}"
        if self.stopped:
            yield self.stopped


def _num_bytes(packet: Any) -> int:
    """The bytes of a packet in the file, with those that WebM keeps beside it (transparency)."""
    sizes = getattr(packet, "iter_sidedata", tuple)  # not in older versions of PyAV
    beside: int = sum(side_data.buffer_size for side_data in sizes())
    return int(packet.size) + beside
