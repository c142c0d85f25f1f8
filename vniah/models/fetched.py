"""What `vniah.models.packaged.fetch` has stored in a cache folder, and its removal."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vniah.errors import CacheError, ModelError
from vniah.models.packaged import FOLDER_NAME, PACKAGED, RECORD_NAME

_REVISION = re.compile(r"[0-9a-f]{16}")
_LEFT_AFTER_SECONDS = 3600  # longer than a download may take


@dataclass(frozen=True)
class FetchedModel:
    """A model in a cache folder, or what a process has left that was killed while it fetched one.

    Attributes:
        name: of the model.
        path: its folder.
        num_bytes: of all its files.
        is_whole: whether it was stored whole.
        is_damaged: whether its files have changed since; None if nobody has looked.
        last_used: seconds since the epoch: when a file was last read, as far as the disk records
            that, else when it was stored.
    """

    name: str
    path: Path
    num_bytes: int
    is_whole: bool
    is_damaged: bool | None
    last_used: float


def find_fetched(root: Path, *, verify: bool = False) -> Iterator[FetchedModel]:
    """The models of `PACKAGED` under a cache folder, those of other versions of vniah included.

    Folders that a process may be fetching into just now are left out.

    Args:
        root: the cache folder.
        verify: read every byte, and compare the hash of the files with that when they were stored.
    """
    for name in PACKAGED:
        for path in sorted(root.joinpath(FOLDER_NAME).glob(f"{name}-*")):
            revision = path.name.removeprefix(f"{name}-")
            is_stored = _REVISION.fullmatch(revision) and (path / RECORD_NAME).is_file()
            if is_stored and not path.is_symlink():
                yield _look_at(name, path, is_damaged=_has_changed(path) if verify else None)
        for path in sorted(root.joinpath(FOLDER_NAME).glob(f".{name}-*")):
            is_folder = path.is_dir() and not path.is_symlink()
            if is_folder and time.time() - path.lstat().st_mtime > _LEFT_AFTER_SECONDS:
                yield _look_at(name, path, is_damaged=None, is_whole=False)


def remove_fetched(model: FetchedModel) -> int:
    """Removes a stored model; returns the bytes freed.

    It is renamed first, so that nobody takes a part of it for the whole.

    Raises:
        CacheError: it cannot be removed.
    """
    aside = model.path.with_name(f".{model.name}-removed-{os.getpid()}")
    try:
        model.path.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise CacheError(f"{model.path} cannot be removed: {error.strerror or error}") from error
    return model.num_bytes


def _look_at(
    name: str, path: Path, *, is_damaged: bool | None, is_whole: bool = True
) -> FetchedModel:
    num_bytes, last_used = 0, 0.0
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):
            status = file.lstat()
            if not file.is_dir():
                num_bytes += status.st_size
                last_used = max(last_used, status.st_mtime, status.st_atime)
    return FetchedModel(name, path, num_bytes, is_whole, is_damaged, last_used)


def _has_changed(path: Path) -> bool:
    from vniah.models.contents import fingerprint

    try:
        return (path / RECORD_NAME).read_text().strip() != fingerprint(path)
    except (ModelError, OSError):
        return True
