"""What vniah has cached on disk: folders of encoded frames, films and videos, and their removal.

Only files that vniah wrote are counted and removed: shards of encoded frames by their metadata,
parts of a film by its manifest, videos of data sets and hashes of files by their names, shards that
vniah has set aside, and temporary files under vniah's own names. Everything else in a folder stays.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from vniah.embeddings.cache import DAMAGED_SUFFIX
from vniah.embeddings.shards import (
    DamagedShardError,
    Header,
    find_damage,
    frames_of_name,
    read_header,
)
from vniah.errors import CacheError, HaystackError
from vniah.files import TEMPORARY_SUFFIX, hash_file
from vniah.haystacks.generated import MANIFEST_NAME, PART_SECONDS, read_manifest
from vniah.haystacks.hashes import FOLDER as HASHES
from vniah.haystacks.library import STORED_VIDEOS
from vniah.schema import parse_json

_MOST_DEPTH = 4
_BEGINNING_BYTES = 2**16
_TEMPORARY = re.compile(
    r"\.(?:frames-\d{8}-\d{8}\.safetensors|part-\d{3,}\.mp4|manifest\.json"
    r"|[0-9a-f]{64}\.\w+|[0-9a-f]{32}\.json)\.[0-9a-f]{8}" + re.escape(TEMPORARY_SUFFIX),
    re.ASCII,
)


@dataclass(frozen=True)
class CachedFolder:
    """What a folder holds of vniah.

    Attributes:
        path: the folder.
        model: whose encoded frames it holds; None for films, videos and hashes.
        source: the haystack or needle set, or what else is kept, in a few words.
        num_frames: number of whole frames, or seconds of a film; None for videos and hashes.
        files: the files that are whole, as far as was looked.
        damaged: the files that are not, and those that were set aside.
        remains: temporary files of processes that were killed, and the manifest of a film.
        num_checked: how many of ``files`` carry checksums.
        last_used: seconds since the epoch.
    """

    path: Path
    model: str | None
    source: str
    num_frames: int | None
    files: tuple[Path, ...]
    damaged: tuple[Path, ...]
    remains: tuple[Path, ...]
    num_checked: int
    last_used: float

    @property
    def everything(self) -> tuple[Path, ...]:
        """All files that vniah wrote."""
        return (*self.files, *self.damaged, *self.remains)


def find_cached(root: Path, *, verify: bool = False) -> Iterator[CachedFolder]:
    """The folders under ``root`` that hold what vniah cached but for models, in name order.

    Args:
        root: a cache folder, or a folder of caches; links to other folders are not followed.
        verify: read every byte, and compare it with its checksum.
    """
    for place, folders, names in os.walk(root):
        folder = Path(place)
        folders.sort()
        if len(folder.relative_to(root).parts) >= _MOST_DEPTH:
            folders.clear()
        found = (
            _frames_in(folder, names, verify)
            or _film_in(folder, names, verify)
            or _videos_in(folder, names, verify)
            or _hashes_in(folder, names)
        )
        if found is not None:
            yield found


def size_of(files: Sequence[Path]) -> int:
    """The bytes of files; those that are gone have none."""
    total = 0
    for path in files:
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total


def remove(files: Sequence[Path], folder: Path) -> int:
    """Removes files of a folder, and the folder if nothing is left; returns the bytes freed."""
    freed = 0
    for path in files:
        with suppress(FileNotFoundError):
            num_bytes = path.lstat().st_size
            path.unlink()
            freed += num_bytes
    with suppress(OSError):  # something else is in it
        folder.rmdir()
    return freed


def _frames_in(folder: Path, names: Sequence[str], verify: bool) -> CachedFolder | None:
    headers: dict[Path, Header] = {}
    broken: list[Path] = []
    for name in sorted(name for name in names if frames_of_name(name)):
        path = folder / name
        if not path.is_file() or path.is_symlink():
            continue
        try:
            headers[path] = read_header(path)
        except DamagedShardError:
            broken.append(path)
        except CacheError:
            continue  # not of vniah, or not of this version
    if not headers:
        broken = [path for path in broken if _names_vniah(path)]
    if verify:
        broken += [path for path in headers if find_damage(path) is not None]
    files = tuple(path for path in headers if path not in broken)
    aside = [
        folder / name
        for name in names
        if name.endswith(DAMAGED_SUFFIX) and frames_of_name(name.removesuffix(DAMAGED_SUFFIX))
    ]
    if not (files or broken or aside):
        return None
    metadata = next((header.metadata for header in headers.values()), {})
    return CachedFolder(
        path=folder,
        model=metadata.get("model", "?"),
        source=_source(metadata),
        num_frames=_count_frames(files),
        files=files,
        damaged=(*broken, *sorted(aside)),
        remains=_temporary_files(folder, names),
        num_checked=sum(bool(headers[path].checksums) for path in files),
        last_used=_last_used(folder, files),
    )


def _film_in(folder: Path, names: Sequence[str], verify: bool) -> CachedFolder | None:
    if MANIFEST_NAME not in names:
        return None
    try:
        manifest = read_manifest(folder / MANIFEST_NAME)
    except HaystackError:
        return None
    listed = [name for name in manifest["sha256"] if re.fullmatch(r"part-[0-9]{3,}\.mp4", name)]
    present = [
        folder / name
        for name in sorted(listed)
        if name in names and not (folder / name).is_symlink()
    ]
    if not present:
        return None
    digests = manifest["sha256"]
    damaged = [path for path in present if verify and hash_file(path) != digests[path.name]]
    files = tuple(path for path in present if path not in damaged)
    return CachedFolder(
        path=folder,
        model=None,
        source=f"generated, seed {manifest['recipe'].get('seed')}",
        num_frames=PART_SECONDS * len(files),
        files=files,
        damaged=tuple(damaged),
        remains=(folder / MANIFEST_NAME, *_temporary_files(folder, names)),
        num_checked=len(files),
        last_used=_last_used(folder, files),
    )


def _videos_in(folder: Path, names: Sequence[str], verify: bool) -> CachedFolder | None:
    """Videos that were stored inside of data sets; each is named by its hash."""
    present = _files_named(folder, names, STORED_VIDEOS, r"[0-9a-f]{64}\.\w+")
    damaged = tuple(path for path in present if verify and hash_file(path) != path.stem)
    files = tuple(path for path in present if path not in damaged)
    return _kept(folder, names, "videos of data sets", files, damaged, num_checked=len(files))


def _hashes_in(folder: Path, names: Sequence[str]) -> CachedFolder | None:
    """Hashes of videos that are kept."""
    files = _files_named(folder, names, HASHES, r"[0-9a-f]{32}\.json")
    return _kept(folder, names, "hashes of videos", files, (), num_checked=0)


def _files_named(folder: Path, names: Sequence[str], own: str, form: str) -> tuple[Path, ...]:
    """The files of one form in a folder with vniah's name for it."""
    if folder.name != own:
        return ()
    found = (folder / name for name in sorted(names) if re.fullmatch(form, name, re.ASCII))
    return tuple(path for path in found if path.is_file() and not path.is_symlink())


def _kept(
    folder: Path,
    names: Sequence[str],
    source: str,
    files: tuple[Path, ...],
    damaged: tuple[Path, ...],
    *,
    num_checked: int,
) -> CachedFolder | None:
    if not files and not damaged:
        return None
    return CachedFolder(
        path=folder,
        model=None,
        source=source,
        num_frames=None,
        files=files,
        damaged=damaged,
        remains=_temporary_files(folder, names),
        num_checked=num_checked,
        last_used=_last_used(folder, files),
    )


class _Recipe(TypedDict):
    seed: int


def _source(metadata: Mapping[str, str]) -> str:
    """The haystack or needle set that was encoded, in a few words."""
    if needles := metadata.get("needles_sha256"):
        return f"needles {needles[:12]}"
    if pictures := metadata.get("pictures_sha256"):
        return f"pictures {pictures[:12]}"
    if needle := metadata.get("blended_needle"):
        return f"{needle} drawn into {_haystack(metadata)}"
    return _haystack(metadata)


def _haystack(metadata: Mapping[str, str]) -> str:
    kind, digest = metadata.get("haystack_kind", "?"), metadata.get("haystack_sha256", "")
    if recipe := metadata.get("haystack_recipe"):
        with suppress(ValueError):
            return f"generated, seed {parse_json(recipe, _Recipe, ValueError, 'recipe')['seed']}"
    return f"{kind} {digest[:12]}".rstrip()


def _count_frames(shards: Sequence[Path]) -> int:
    """Frames in shards; where several start at the same frame, the longest counts."""
    longest = dict(frames for path in shards if (frames := frames_of_name(path.name)))
    return sum(last - first for first, last in longest.items())


def _names_vniah(path: Path) -> bool:
    """True if a file that cannot be read as a shard begins like one of vniah's."""
    try:
        with path.open("rb") as file:
            return b'"format_version"' in file.read(_BEGINNING_BYTES)
    except OSError:
        return False


def _temporary_files(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    return tuple(folder / name for name in sorted(names) if _TEMPORARY.fullmatch(name))


def _last_used(folder: Path, files: Sequence[Path]) -> float:
    times = []
    for path in (folder, *files):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)
