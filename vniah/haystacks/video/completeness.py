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

from vniah.haystacks.video.timeline import may_restart

_MOST_BOXES = 1_000_000
_PADDING_BYTES = 65536
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


def length_damage(
    container: Any, stream: Any, extent: Extent, layout: "Mp4Layout"
) -> Iterator[str]:
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


@dataclass(frozen=True)
class Mp4Layout:
    """The boxes at the top level of an MP4 file, as far as they follow one another.

    Attributes:
        has_fragments: pictures are described beside them, in fragments.
        end_of_pictures: the end of the last box that may hold pictures.
        cut: the last box if the file ends inside it, such as ``mdat``; else empty.
    """

    has_fragments: bool = False
    end_of_pictures: int = 0
    cut: str = ""

    @classmethod
    def read(cls, path: Path) -> "Mp4Layout":
        """Reads the headers of the boxes, and nothing in between."""
        size, start, end_of_pictures, kinds = path.stat().st_size, 0, 0, set()
        with path.open("rb") as file:
            for _ in range(_MOST_BOXES):
                file.seek(start)
                header = file.read(16)
                length, kind = int.from_bytes(header[:4]), header[4:8]
                if length == 1:
                    length = int.from_bytes(header[8:16])
                elif length == 0:
                    length = size - start
                if len(header) < 8 or length < 8 or not kind.isalnum():
                    break
                kinds.add(kind)
                if kind in (b"moof", b"mdat"):
                    end_of_pictures = min(start + length, size)
                if start + length > size:
                    is_known = kind in (b"moof", b"mdat", b"moov")
                    return cls(b"moof" in kinds, size, kind.decode() if is_known else "")
                start += length
        has_more = start < size and b"moof" in kinds and not _is_padding(path, start)
        return cls(b"moof" in kinds, size if has_more else end_of_pictures)


def _is_padding(path: Path, start: int) -> bool:
    with path.open("rb") as file:
        file.seek(start)
        return not file.read(_PADDING_BYTES).strip(b"\0")


def end_mark_damage(path: Path, format_name: str) -> Iterator[str]:
    """The damage of a GIF or PNG animation without the mark that follows its last picture."""
    mark = _END_MARKS.get(format_name)
    if mark is None:
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _PADDING_BYTES))
        tail = file.read().rstrip(b"\0\r\n")
        if not tail.endswith(mark):
            yield "it ends inside a picture"
