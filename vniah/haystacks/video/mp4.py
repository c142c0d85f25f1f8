"""How an MP4 file is laid out: its boxes, its fragments, and pauses in its edit list."""

from dataclasses import dataclass
from pathlib import Path

_MOST_BOXES = 1_000_000
_MOST_INDEX_BYTES = 256_000_000
_PADDING_BYTES = 65536


@dataclass(frozen=True)
class Mp4Layout:
    """The boxes at the top level of an MP4 file, as far as they follow one another.

    Attributes:
        has_fragments: pictures are described beside them, in fragments.
        end_of_pictures: the end of the last box that may hold pictures.
        cut: the last box if the file ends inside it, such as ``mdat``; else empty.
        breaks: where fragments begin whose number does not follow that of the fragment before.
        has_pause: an edit list shows nothing for a while between two pieces of the film.
    """

    has_fragments: bool = False
    end_of_pictures: int = 0
    cut: str = ""
    breaks: tuple[int, ...] = ()
    has_pause: bool = False

    @classmethod
    def read(cls, path: Path) -> "Mp4Layout":
        """Reads the headers of the boxes, and the edit lists."""
        size, start, end_of_pictures = path.stat().st_size, 0, 0
        breaks: list[int] = []
        number: int | None = None
        cut, has_pause = "", False
        with path.open("rb") as file:
            for _ in range(_MOST_BOXES):
                file.seek(start)
                header = file.read(32)
                length, kind = int.from_bytes(header[:4]), header[4:8]
                if length == 1:
                    length = int.from_bytes(header[8:16])
                elif length == 0:
                    length = size - start
                if len(header) < 8 or length < 8 or not kind.isalnum():
                    break
                if kind == b"moof" and header[12:16] == b"mfhd":
                    before, number = number, int.from_bytes(header[20:24])
                    if before is not None and number != before + 1:
                        breaks.append(start)
                elif kind == b"moov" and length <= _MOST_INDEX_BYTES:
                    file.seek(start)
                    has_pause = _has_pause(file.read(length))
                has_pictures = kind in (b"moof", b"mdat")
                end_of_pictures = min(start + length, size) if has_pictures else end_of_pictures
                start += length
                if start > size:
                    cut = kind.decode() if has_pictures or kind == b"moov" else ""
        has_fragments = number is not None
        if has_fragments and (start > size or (start < size and not _is_padding(path, start))):
            end_of_pictures = size
        return cls(has_fragments, end_of_pictures, cut, tuple(breaks), has_pause)


def _has_pause(moov: bytes) -> bool:
    """True if the edit list of a video track has an entry that shows nothing, but the first."""
    for track in moov.split(b"trak")[1:]:
        at = track.find(b"elst")
        if at < 0 or b"vide" not in track:
            continue
        is_long = track[at + 4 : at + 5] == b"\1"
        entry_bytes, start_at, start_bytes = (20, 8, 8) if is_long else (12, 4, 4)
        stop = at + 12 + int.from_bytes(track[at + 8 : at + 12]) * entry_bytes
        starts = [
            int.from_bytes(track[entry : entry + start_bytes], signed=True)
            for entry in range(at + 12 + start_at, min(stop, len(track)), entry_bytes)
        ]
        if -1 in starts[1:]:
            return True
    return False


def _is_padding(path: Path, start: int) -> bool:
    with path.open("rb") as file:
        file.seek(start)
        return not file.read(_PADDING_BYTES).strip(b"\0")
