"""Hashes of large files are kept: one that has not changed is not read again for its hash.

What is kept is believed only if the file is the same by all that its system says of it: device,
inode, size, and the times of its last change and of the last change of its status, in nanoseconds.
A program can set the first of these times, and not the second. A file that changed just before it
was hashed may change again within one tick of its file system's clock, so its hash is not kept.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from vniah.errors import HaystackError
from vniah.files import cache_dir, hash_file, hash_text, write_json
from vniah.schema import read_json

FOLDER = "hashes"
"""The folder of the user's cache with what is kept, one file for each."""

_SETTLED_SECONDS = 10  # longer than a tick of any file system, and than clocks of machines differ
_MOST_BYTES = 2**14


class _Record(TypedDict):
    """What is kept of a file."""

    path: str
    stamp: list[int]
    sha256: str


def hash_unchanged(path: Path) -> str:
    """The sha256 of a file as `vniah.files.hash_file`, which is read only if it may have changed.

    Raises:
        OSError: it cannot be read.
    """
    resolved = path.resolve()
    place = cache_dir() / FOLDER / f"{hash_text(str(resolved))[:32]}.json"
    before = _stamp(resolved)
    with suppress(HaystackError):
        kept = read_json(place, _Record, HaystackError, most_bytes=_MOST_BYTES)
        if kept["path"] == str(resolved) and kept["stamp"] == before:
            return kept["sha256"]
    is_settled = _is_settled(before)
    found = hash_file(resolved)
    if is_settled and _stamp(resolved) == before:
        with suppress(OSError, ValueError):  # a cache that cannot be written keeps nothing
            write_json(place, _Record(path=str(resolved), stamp=before, sha256=found))
    return found


def _stamp(path: Path) -> list[int]:
    """What changes when a file is written or replaced."""
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _is_settled(stamp: list[int]) -> bool:
    """Whether the file has a number, and its last change lies back for some time."""
    _, inode, _, *times = stamp
    return inode != 0 and time.time() - max(times) / 1e9 > _SETTLED_SECONDS
