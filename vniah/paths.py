"""Where vniah finds what it ships, and where it keeps what it makes."""

import os
from pathlib import Path

_PACKAGE_DIR = Path(__file__).resolve().parent


def embedded_dir(*parts: str) -> Path:
    """A folder that comes with vniah, e.g. ``embedded_dir("needles", "cards")``.

    A wheel carries everything under ``vniah/data``. In a checkout the needle sets lie at the top
    level, beside the package, where people look for them.
    """
    installed = _PACKAGE_DIR.joinpath("data", *parts)
    return installed if installed.exists() else _PACKAGE_DIR.parent.joinpath(*parts)


def cache_dir() -> Path:
    """The root of all caches: ``$VNIAH_CACHE``, else ``vniah`` in the user's cache folder."""
    if chosen := os.environ.get("VNIAH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vniah"
