"""Finds the videos that a table names among the files of a folder."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

from vniah.haystacks.library import VIDEO_SUFFIXES

Key = TypeVar("Key")


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


def short_names(
    paths: Mapping[Key, PurePosixPath], *, besides: Collection[str] = ()
) -> dict[Key, str]:
    """Names for videos: the ends of their paths without suffix, so much of them that no other one
    ends so, and with their suffixes where it takes that.

    Those whose path another one has as well are left out.

    Args:
        paths: of the videos.
        besides: names that none of them gets.
    """
    names = _unique_ends({key: without_suffix(path) for key, path in paths.items()}, besides)
    left = {key: path for key, path in paths.items() if key not in names}
    return names | _unique_ends(left, {*besides, *names.values()})


def _unique_ends(paths: Mapping[Key, PurePosixPath], besides: Collection[str]) -> dict[Key, str]:
    """The shortest ends of paths by which they differ; without those that equal another one."""
    found: dict[Key, str] = {}
    longest = max((len(path.parts) for path in paths.values()), default=0)
    for length in range(1, longest + 1):
        ends: dict[str, list[Key]] = defaultdict(list)
        for key, path in paths.items():
            if path.parts:
                ends[str(PurePosixPath(*path.parts[-length:]))].append(key)
        for end, keys in ends.items():
            if len(keys) == 1 and end not in besides:
                found.setdefault(keys[0], end)
    return found


def without_suffix(path: PurePosixPath) -> PurePosixPath:
    """The path of a video without the suffix that such files have."""
    return path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path
