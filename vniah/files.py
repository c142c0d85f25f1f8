"""Where the files lie that vniah ships and makes; how they are written, hashed and named."""

import errno
import hashlib
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".vniah.tmp"
_ABANDONED_SECONDS = 24 * 3600
_SYSTEM_NUMBER = re.compile(r"os error (\d+)")

PACKAGE_DIR = Path(__file__).resolve().parent


def embedded_dir(*parts: str) -> Path:
    """A folder that comes with vniah, e.g. ``embedded_dir("needles", "cards")``.

    A wheel carries everything under ``vniah/data``. In a checkout the needle sets lie at the top
    level, where people look for them, and ``vniah/data/needles`` is a symbolic link; where git
    makes no links (Windows), they are found beside the package.
    """
    installed = PACKAGE_DIR.joinpath("data", *parts)
    return installed if installed.exists() else PACKAGE_DIR.parent.joinpath(*parts)


def cache_dir() -> Path:
    """The root of all caches: ``$VNIAH_CACHE``, else ``vniah`` in the user's cache folder.

    A relative ``$XDG_CACHE_HOME`` is ignored, as its specification says. For a user without a home
    it is a folder for temporary files.
    """
    if chosen := os.environ.get("VNIAH_CACHE", "").strip():
        return Path(chosen).expanduser()
    common = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not common.is_absolute():
        try:
            common = Path.home() / ".cache"
        except RuntimeError:
            return Path(tempfile.gettempdir(), f"vniah-{os.getuid()}")
    return common / "vniah"


@contextmanager
def atomic_path(path: Path, *, is_locked: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to, renamed to ``path`` when the block ends.

    Readers find the old file or the whole new one, also after a kill or a power cut: the bytes are
    on the disk before the file gets its name. If the block raises, nothing is left. What a process
    that was killed has left is removed by whoever writes into that folder a day later.

    Args:
        path: the file to write; missing folders above it are made.
        is_locked: the caller holds a lock, so that no other process writes this file. Then the
            temporary name is always the same, and the next writer replaces what a killed one left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    # Not a process id: processes on two machines that share a folder may have the same one.
    owner = "" if is_locked else f".{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}{owner}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def _remove_abandoned(folder: Path) -> None:
    for temporary in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        with suppress(FileNotFoundError):  # its process may rename it just now
            if temporary.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                temporary.unlink()


def flush_folder(folder: Path) -> None:
    """Puts a rename in this folder on the disk, where the system can be asked to (not Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems refuse it; the file itself is whole
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def what_to_do(error: Exception, folder: Path, *, other: str) -> str:
    """What to do where a folder cannot be written to, as the end of a sentence with the reason.

    It says that what was written is kept only where there is something.

    Args:
        error: of the system; or of a library in another language, which puts the system's number
            into its text.
        folder: where something was to be written.
        other: the option that names another folder.
    """
    numbers = {getattr(error, "errno", None), *map(int, _SYSTEM_NUMBER.findall(str(error)))}
    is_full = not numbers.isdisjoint({errno.ENOSPC, errno.EDQUOT})
    if _holds_something(folder):
        mend = "free some space" if is_full else "mend the folder"
        return f". What was written is kept; {mend}, and the same command goes on"
    return (
        f"; free some space, or choose another {other}" if is_full else f"; choose another {other}"
    )


def _holds_something(folder: Path) -> bool:
    """True if there is a file in a folder, locks and unfinished files left out."""
    with suppress(OSError):
        return any(not path.name.startswith(".") for path in folder.iterdir())
    return False


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON that people can read, whole or not at all (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_json(content, indent=2) + b"\n")


def to_json(value: Any, *, indent: int | None = None) -> bytes:
    """The value as JSON in UTF-8. A lone surrogate, which UTF-8 does not have, is escaped.

    Raises:
        ValueError: a number in it is not finite.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def hash_file(path: Path) -> str:
    """The sha256 of a file's bytes in hexadecimal digits, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(text: str) -> str:
    """The sha256 of a text's UTF-8 bytes in hexadecimal digits; lone surrogates have bytes too."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_settings(settings: Mapping[str, Any]) -> str:
    """The sha256 of settings that JSON can hold; the order of the names does not matter."""
    return hash_text(json.dumps(dict(settings), sort_keys=True))


def slug(text: str) -> str:
    """The text with everything but letters, digits, ``_``, ``.`` and ``-`` replaced by ``_``."""
    return re.sub(r"[^\w.-]+", "_", text)
