"""Checkpoints of the hub: downloaded without pickles, and compared with the hashes that name them.

The hub's client keeps every file under its hash: the sha256 of a large file, or for a small one the
sha1 that git gives its content. A snapshot is a folder of links to them. (Where the system makes no
links, the client keeps copies without hashes, which are not compared.)
"""

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vniah.errors import ModelError, hub_reason
from vniah.files import hash_file

_WEIGHTS = "*.safetensors"
_PATTERNS = ["*.json", _WEIGHTS, "*.model", "*.txt", "*.jinja"]
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


def download(hub_id: str, *, has_weights: bool = True) -> tuple[Path, str]:
    """The local folder of a hub repository, downloaded without pickles, and its commit.

    Args:
        hub_id: ``owner/name``.
        has_weights: False leaves the weights where they are.

    Raises:
        ModelError: there is no such repository, it cannot be had, or a file of it is damaged.
    """
    from huggingface_hub import snapshot_download

    patterns = [pattern for pattern in _PATTERNS if has_weights or pattern != _WEIGHTS]
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # its client raises whatever proxies and settings run into
        raise ModelError(
            f"{hub_id!r} is no folder here, and the hub does not give it: {hub_reason(error)}"
        ) from error
    require_intact(folder)
    return folder, folder.name


def require_intact(folder: Path) -> None:
    """Raises `ModelError` if a file of a snapshot has not the hash under which it was downloaded.

    Every byte is read: about as long as a local checkpoint folder takes, which is hashed as well.
    """
    paths = sorted(_downloaded(folder))
    with ThreadPoolExecutor() as pool:
        for path, is_whole in zip(paths, pool.map(_is_whole, paths), strict=True):
            if not is_whole:
                raise ModelError(
                    f"{path} is damaged: its content has not the hash under which the hub's client "
                    f"keeps it. Delete {path.resolve()} and start again: it is downloaded anew"
                )


def _downloaded(folder: Path) -> Iterator[Path]:
    """The files that have a known hash and that vniah may read."""
    for pattern in _PATTERNS:
        for path in folder.rglob(pattern):
            name = path.resolve().name
            if path.is_file() and (_SHA256.fullmatch(name) or _SHA1.fullmatch(name)):
                yield path


def _is_whole(path: Path) -> bool:
    file = path.resolve()
    if _SHA256.fullmatch(file.name):
        return hash_file(file) == file.name
    content = file.read_bytes()
    with_length = b"blob %d\0" % len(content) + content  # what git hashes
    return hashlib.sha1(with_length, usedforsecurity=False).hexdigest() == file.name
