"""Where vniah finds what it ships, and where it keeps what it makes."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """The root of all caches: ``$VNIAH_CACHE``, else ``vniah`` in the user's cache folder."""
    if chosen := os.environ.get("VNIAH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vniah"


def hash_file(path: Path) -> str:
    """The sha256 of the bytes, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON under a temporary name and renames it, so that it is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
