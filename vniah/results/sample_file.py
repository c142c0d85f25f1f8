"""A file of samples: it grows line by line, and survives kills, full disks and power cuts."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from filelock import FileLock, Timeout

from vniah.errors import ResultsError
from vniah.files import flush_folder, what_to_do

_SYNC_SECONDS = 1.0
_BLOCK_BYTES = 2**20
_NOT_SYNCED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
"""What a file system answers that cannot be asked to put a file on the disk."""


LOCK_NAME = ".lock"
"""The file by which a process locks a folder of results."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """A block in which no other process writes to a folder; the lock ends with the process.

    Raises:
        ResultsError: another process is writing to it.
    """
    lock = FileLock(directory / LOCK_NAME)
    with writing_to(directory):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ResultsError(
                f"another process is writing to {directory}; wait for it, or choose another "
                "--output"
            ) from error
    try:
        yield
    finally:
        lock.release()


class SampleFile(FileIO):
    """A file that lines are appended to, each by one unbuffered write.

    A kill loses no line. A power cut loses those of the last second: the system is asked to put the
    lines on the disk no more often than that, because it takes longer than a small sample.

    Args:
        path: the file; what a kill has left of a last line is removed.
        manifest: a file that must stay beside it.
    """

    def __init__(self, path: Path, manifest: Path) -> None:
        cut_unfinished_line(path)
        super().__init__(path, "ab")
        self._path = path
        self._manifest = manifest
        flush_folder(path.parent)
        self._last_sync = time.monotonic()

    def append(self, line: bytes) -> None:
        """Writes a line whole, or not at all.

        Raises:
            OSError: the disk is full, or cannot be written to.
            ResultsError: the file is no longer in its folder.
        """
        size = os.fstat(self.fileno()).st_size
        try:
            while line:
                line = line[self.write(line) :]
            if time.monotonic() - self._last_sync > _SYNC_SECONDS:
                self._sync()
        except OSError:
            with suppress(OSError):
                self.truncate(size)
            raise
        self.require_in_place()

    def close(self) -> None:
        """Puts all lines on the disk and closes the file."""
        try:
            if not self.closed:
                self._sync()
        finally:
            super().close()

    def _sync(self) -> None:
        try:
            os.fsync(self.fileno())
        except OSError as error:
            if error.errno not in _NOT_SYNCED:
                raise
        self._last_sync = time.monotonic()

    def require_in_place(self) -> None:
        """Raises `ResultsError` if the file or the manifest was deleted, or their folder moved.

        Writing to a deleted file succeeds, and all of it is lost when the file is closed.
        """
        own = os.fstat(self.fileno())
        with suppress(OSError):
            found = self._path.stat()
            if os.path.samestat(found, own) and self._manifest.exists():
                return
        raise ResultsError(
            f"{self._path} or its manifest was deleted or moved while the run was writing to it; "
            "put the folder back, and the same command resumes the run, or start it again"
        )


def cut_unfinished_line(path: Path) -> None:
    """Removes what follows the last newline: a line that a kill cut in the middle."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = kept = file.seek(0, os.SEEK_END)
        while kept > 0:
            start = max(0, kept - _BLOCK_BYTES)
            file.seek(start)
            newline = file.read(kept - start).rfind(b"\n")
            kept = start + newline + 1
            if newline >= 0:
                break
        if kept < size:  # else the file keeps its modification time
            file.truncate(kept)


def count_lines(path: Path) -> int:
    """The number of complete lines in a file; 0 if there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK_BYTES), b""))


@contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """A block whose OSErrors are reported as a `ResultsError` in one line."""
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"{directory} cannot be written to: {error.strerror or error}"
            f"{what_to_do(error, directory, other='--output')}"
        ) from error
