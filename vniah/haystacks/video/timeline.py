"""One clock for streams that were joined from parts, each of which may start its clock anew.

MPEG streams have no index and no common clock: their parts, such as the segments of HLS or the
titles of a DVD, may be joined byte by byte. Where a part starts its clock anew, a player goes on
where the part before it ended. So do these packets.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_CLOCK_MAY_RESTART = 0x200  # AVFMT_TS_DISCONT


def may_restart(container: Any) -> bool:
    """True if files of this format may be joined from parts with clocks of their own."""
    return bool(int(container.format.flags) & _CLOCK_MAY_RESTART)


def demux(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets of some streams, or of all, in the order of the file."""
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError):
            # PyAV raises an IndexError after the last packet if more streams appeared meanwhile.
            return
        yield packet


@dataclass
class Timeline:
    """Iterates over the packets of a stream once, and puts them on one clock.

    Empty packets, as AVI has them, are left out: a decoder takes them for the end of the film.

    Attributes:
        num_restarts: how many of the packets so far started the clock anew.
    """

    container: Any
    stream: Any
    num_restarts: int = 0

    def __iter__(self) -> Iterator[Any]:
        packets = (packet for packet in demux(self.container, self.stream) if packet.size)
        return self._on_one_clock(packets) if may_restart(self.container) else packets

    def _on_one_clock(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Adds an offset to the packets of every part but the first.

        A part begins with a keyframe that is decoded before the packet before it, and shown before
        a picture before it. In one part neither happens.
        """
        offset, latest, end, step = 0, -(2**63), 0, 1
        last_dts: int | None = None
        part_start: int | None = None
        for packet in packets:
            if packet.dts is not None:
                packet.dts += offset
            if packet.pts is not None:
                packet.pts += offset
                dts = packet.dts
                goes_back = dts is not None and last_dts is not None and dts < last_dts
                if packet.is_keyframe and goes_back and packet.pts <= latest:
                    shift = end - packet.pts
                    offset += shift
                    packet.pts += shift
                    packet.dts += shift
                    part_start = packet.pts
                    self.num_restarts += 1
                elif part_start is not None and packet.pts < part_start:
                    continue  # it refers to pictures before its part, which were cut off
                if packet.dts is not None and last_dts is not None and packet.dts > last_dts:
                    step = packet.dts - last_dts
                latest = max(latest, packet.pts)
                end = max(end, packet.pts + (packet.duration or step))
            last_dts = packet.dts if packet.dts is not None else last_dts
            yield packet
