"""MPEG-TS files that were cut, that lost packets, or that were joined from whole parts.

Every transport packet of a stream carries a counter, so that a lost one is noticed. Where whole
files were joined, such as the segments of HLS, the counters start anew, and nothing is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

MOST_PACKET_BYTES = 204

_SYNC_BYTE = 0x47
# (bytes per packet, where its sync byte is): plain, with a time before it, with a checksum after it
_LAYOUTS = ((188, 0), (192, 4), (204, 0))
_LOOK_BYTES = 32 * MOST_PACKET_BYTES
_CHUNK_PACKETS = 40_000


def cut_packet_damage(path: Path) -> Iterator[str]:
    """The damage of an MPEG-TS file that ends in the middle of a packet.

    Only the end is looked at, because a recording may well start in the middle of a packet. If the
    last packets have no regular sync bytes, nothing can be said.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOOK_BYTES))
        tail = file.read()
    for packet_size, sync_at in _LAYOUTS:
        rests = [
            (len(tail) - first + sync_at) % packet_size
            for first in range(min(packet_size, len(tail) // 2))
            if set(tail[first::packet_size]) == {_SYNC_BYTE}
        ]
        if rests:
            if rest := min(rests):
                yield f"its last MPEG-TS packet is cut: {rest} of {packet_size} bytes"
            return


def find_joints(path: Path, pid: int) -> tuple[int, ...]:
    """The positions in bytes of the packets of a stream that begin a joined part.

    Empty if packets were lost somewhere, or if the file does not consist of transport packets.

    Args:
        path: the file.
        pid: the number of the stream.
    """
    joints: list[int] = []
    with path.open("rb") as file:
        for packets in _read_packets(file, pid):
            if (packets.rows[:, 0] != _SYNC_BYTE).any():
                return ()
            for position, is_joint in packets.breaks(pid):
                if not is_joint:
                    return ()
                joints.append(position)
    return tuple(joints)


def find_table_restarts(path: Path) -> tuple[int, ...]:
    """The positions in bytes of program tables whose counter does not follow the one before."""
    found: list[int] = []
    with path.open("rb") as file:
        for packets in _read_packets(file, 0):
            tables = np.flatnonzero(packets.pids == 0)
            counters = packets.rows[tables, 3] & 15
            breaks = np.flatnonzero(counters[1:] != (counters[:-1] + 1) & 15)
            found.extend(packets.positions[tables[breaks + 1]].tolist())
    return tuple(found)


def find_unreadable(path: Path) -> tuple[int, ...]:
    """The positions in bytes of runs of bytes between packets that are no transport packets.

    FFmpeg skips them silently, and if a multiple of 16 packets of a stream was lost with them, its
    counter fits again. What follows the last packet, such as padding, is left out.
    """
    found: list[int] = []
    with path.open("rb") as file:
        was_packet, waiting = True, -1
        for packets in _read_packets(file, None):
            is_packet = packets.rows[:, 0] == _SYNC_BYTE
            follows = np.concatenate([[was_packet], is_packet[:-1]])
            for at in np.flatnonzero(is_packet != follows):
                if is_packet[at]:
                    found.append(waiting)
                else:
                    waiting = int(packets.positions[at])
            was_packet = bool(is_packet[-1])
    return tuple(found)


@dataclass(frozen=True)
class _Packets:
    """Transport packets in the order of the file.

    Attributes:
        rows: uint8 ``[num_packets, 188]``.
        positions: int64 ``[num_packets]``, where they begin in the file.
    """

    rows: NDArray[np.uint8]
    positions: NDArray[np.int64]

    @property
    def pids(self) -> NDArray[np.int64]:
        return (self.rows[:, 1].astype(np.int64) & 0x1F) << 8 | self.rows[:, 2]

    def breaks(self, pid: int) -> Iterator[tuple[int, bool]]:
        """(position, True if it begins a joined part) of packets that do not follow their last."""
        pids = self.pids
        own, tables = np.flatnonzero(pids == pid), np.flatnonzero(pids == 0)
        rows = self.rows[own]
        counters, has_payload = rows[:, 3] & 15, rows[:, 3] >> 4 & 1
        follows = counters[1:] == (counters[:-1] + has_payload[1:]) & 15
        announced = (rows[1:, 3] & 0x20 > 0) & (rows[1:, 4] > 0) & (rows[1:, 5] & 0x80 > 0)
        has_error = rows[1:, 1] & 0x80 > 0
        for at in np.flatnonzero(~(follows | announced) | has_error):
            before, here = own[at], own[at + 1]
            begins_picture = bool(self.rows[here, 1] & 0x40) and not has_error[at]
            earlier, between = tables[tables < before], tables[(tables > before) & (tables < here)]
            is_joint = begins_picture and len(between) > 0  # a part begins with program tables
            if is_joint and not _is_stuffed(self.rows[before]):
                is_joint = len(earlier) > 0 and self._restarts(earlier[-1], between[0])
            yield int(self.positions[here]), is_joint

    def last(self, pid: int) -> "_Packets":
        """The last packet of a stream and the last program table, in their order."""
        pids = self.pids
        found = [np.flatnonzero(pids == number)[-1:] for number in (0, pid)]
        rows = np.sort(np.concatenate(found))
        return _Packets(self.rows[rows], self.positions[rows])

    def _restarts(self, before: int, here: int) -> bool:
        """True if the counter of a packet does not follow that of a packet before it."""
        return bool((int(self.rows[before, 3]) + 1 - int(self.rows[here, 3])) & 15)


def _is_stuffed(row: NDArray[np.uint8]) -> bool:
    """True if the packet is filled up, as the last packet of a picture is."""
    if not row[3] & 0x20:
        return False
    length = int(row[4])
    if length == 0:
        return True
    flags = int(row[5])
    needed = 1 + 6 * bool(flags & 0x10) + 6 * bool(flags & 0x08) + bool(flags & 0x04)
    return not flags & 0x03 and length > needed


def _read_packets(file: BinaryIO, pid: int | None) -> Iterator[_Packets]:
    """The packets of a file in chunks, each after the last packets of the chunk before it.

    Without the number of a stream, every chunk has only its own packets.
    """
    start, size, sync_at = _find_layout(file.read(_LOOK_BYTES))
    if not size:
        return
    file.seek(start)
    kept = _Packets(np.empty((0, 188), np.uint8), np.empty(0, np.int64))
    while len(data := file.read(size * _CHUNK_PACKETS)) >= size:
        raw = np.frombuffer(data[: len(data) // size * size], np.uint8).reshape(-1, size)
        positions = start + np.arange(len(raw), dtype=np.int64) * size
        start += len(raw) * size
        packets = _Packets(
            np.concatenate([kept.rows, raw[:, sync_at : sync_at + 188]]),
            np.concatenate([kept.positions, positions]),
        )
        yield packets
        if pid is not None:
            kept = packets.last(pid)


def _find_layout(start: bytes) -> tuple[int, int, int]:
    """(where the first packet begins, bytes per packet, where its sync byte is), or three 0."""
    for packet_size, sync_at in _LAYOUTS:
        for first in range(min(packet_size, len(start) // 2)):
            if set(start[first + sync_at :: packet_size]) == {_SYNC_BYTE}:
                return first, packet_size, sync_at
    return 0, 0, 0
