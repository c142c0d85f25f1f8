"""Finds the videos that a table names among the files of a folder."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from vniah.haystacks.library import VIDEO_SUFFIXES


class VideoFiles:
    """The video files under a folder, by the ends of their paths, with and without suffix.

    Args:
        paths: of the files.
        folder: holds them.
    """

    def __init__(self, paths: Iterable[Path], folder: Path) -> None:
        self._folder = folder
        self._by_end: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        for path in paths:
            *above, name = path.relative_to(folder).parts
            for last in {name, path.stem}:
                for start in range(len(above) + 1):
                    self._by_end[(*above[start:], last)].append(path)

    @classmethod
    def under(cls, folder: Path) -> "VideoFiles":
        """Those in a folder and in all folders in it."""
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        return cls((path for path in found if path.is_file()), folder)

    def find(self, name: str, *, near: str) -> Path | str:
        """The file with a name, or with a path that ends so; or why there is none, in words.

        A whole path names the file that lies there, if none in the folder is meant.

        Args:
            name: with or without suffix.
            near: of several files, one in a folder of this name counts.
        """
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
        found = self._by_end.get(parts, [])
        if len(found) > 1:
            exact = self._folder / name
            found = [path for path in found if path == exact or near in path.parts] or found
        if len(found) > 1:
            some = ", ".join(str(path.relative_to(self._folder)) for path in found[:2])
            return f"may be one of {len(found)} files: {some}"
        if not found:
            whole = whole_path(name)
            return "is missing" if whole is None else whole
        return found[0]


def whole_path(name: str) -> Path | None:
    """The file that a whole path names; None where there is none, or where it is none."""
    if "\0" in name:
        return None
    path = Path(name)
    try:
        is_there = path.is_absolute() and path.is_file()
    except (OSError, ValueError):  # no file can have such a name
        return None
    return path if is_there else None
