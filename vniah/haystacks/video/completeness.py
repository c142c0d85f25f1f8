"""Are all pictures of a video file there? What its container says about that.

Damaged means that pictures are missing. An unusual file is not damaged: one whose edit list cuts
pieces out, whose sound goes on after the last picture, or that was joined from several parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from vniah.haystacks.video.mp4 import Mp4Layout
from vniah.haystacks.video.timeline import may_restart

_TAIL_BYTES = 65536
_END_MARKS = {"gif": b"\0;", "apng": b"IEND\xaeB`\x82"}


@dataclass(frozen=True)
class Extent:
    """What was found of a film while its packets were read.

    Attributes:
        first: when the first picture is shown, in ticks of the film's stream.
        end: when the last one leaves the screen, in ticks.
        end_of_all_seconds: the latest end of a packet of any stream that was read.
        num_packets: the number of packets of the film.
        is_joined: the file was joined from parts with clocks of their own.
    """

    first: int
    end: int
    end_of_all_seconds: Fraction
    num_packets: int
    is_joined: bool


def length_damage(container: Any, stream: Any, extent: Extent, layout: Mp4Layout) -> Iterator[str]:
    """Damage that shows in the length: each kind of container declares it in its own way."""
    if stream.frames and "mp4" in container.format.name and not layout.has_fragments:
        entries = getattr(stream, "index_entries", None)  # not in older versions of PyAV
        num_listed = stream.frames if entries is None else len(entries)
        if num_listed <= extent.num_packets:
            return  # MP4 lists its pictures, and all are there, whatever its edit list shows
    tick = stream.time_base
    span = (extent.end - min(extent.first, stream.start_time or extent.first)) * tick
    tolerance = Fraction(1, 2) if "mp4" in container.format.name else Fraction(1)
    if not declares_one_length(container, stream) and stream.duration:
        declared = stream.duration * tick
    else:
        # Other containers count from time 0 of the file, which need not be the first picture.
        span = max(span, extent.end * tick)
        declared = _matroska_seconds(stream.metadata.get("DURATION", ""))
        if declared is None:
            # The length of the file is that of its longest stream, which may be the sound.
            declared = Fraction(container.duration or 0, av.time_base)
            declared = stream.duration * tick if stream.duration else declared
            span = max(span, extent.end_of_all_seconds)
            if len(container.streams) > 1:
                tolerance = max(2 * tolerance, declared / 100)
    length = (extent.end - extent.first) * tick
    if span < declared - tolerance and not may_restart(container):  # those do not declare it
        yield f"it holds {float(span):.1f} s of the declared {float(declared):.1f} s"
    elif declared and length > 2 * declared + 60 and not extent.is_joined:
        yield f"its times reach {float(length):.1f} s, but {float(declared):.1f} s are declared"


def declares_one_length(container: Any, stream: Any) -> bool:
    """True if the file declares only its whole length, which is that of its longest stream."""
    if not stream.duration:
        return True
    lengths = {
        round(other.duration * other.time_base, 3) if other.duration else None
        for other in container.streams
    }
    return len(container.streams) > 1 and len(lengths) == 1


def _matroska_seconds(text: str) -> Fraction | None:
    hours, _, rest = text.partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None


def end_mark_damage(path: Path, format_name: str) -> Iterator[str]:
    """The damage of a GIF or PNG animation without the mark that follows its last picture."""
    mark = _END_MARKS.get(format_name)
    if mark is None:
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read().rstrip(b"\0\r\n")
        if not tail.endswith(mark):
            yield "it ends inside a picture"
