"""The paths that name a haystack: they exist, and no film is named twice."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vniah.errors import HaystackError, InputError
from vniah.files import hash_file, hash_text
from vniah.haystacks.generated import require_as_drawn
from vniah.paths import user_path


def read_paths(source: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """The paths of a video file, of a folder of images, or of several video files.

    Raises:
        InputError: no path, an empty one, a folder among several, or a file that is named twice.
        HaystackError: a path is missing or cannot be looked up.
    """
    given = (source,) if isinstance(source, (str, Path)) else tuple(source)
    if not given:
        raise InputError("a haystack needs a video file or a folder of images, got none.")
    paths = tuple(user_path(path, "a haystack") for path in given)
    for path in paths:
        with explained("read", path):
            _require_path(path, alone=len(paths) == 1)
    if len(paths) > 1:
        _require_distinct(paths, [_file_id(path) for path in paths])
    return paths


def _require_path(path: Path, *, alone: bool) -> None:
    if path.is_dir():
        if not alone:
            raise InputError(
                f"{path} is a folder among several paths. A haystack is one folder of images, or "
                "video files."
            )
    elif not path.exists():
        raise HaystackError(f"there is no file {path}. Give a video file or a folder of images.")
    elif not path.is_file():
        raise HaystackError(f"{path} is neither a file nor a folder. Give a video file.")


def _file_id(path: Path) -> str:
    """The same for all names of a file, whatever links lead to it."""
    status = path.stat()
    # Where the system numbers no files, links are followed at least.
    return f"{status.st_dev}:{status.st_ino}" if status.st_ino else str(path.resolve())


def _require_distinct(paths: Sequence[Path], marks: Sequence[str]) -> None:
    seen: dict[str, Path] = {}
    for path, mark in zip(paths, marks, strict=True):
        if mark in seen:
            raise InputError(
                f"{seen[mark]} and {path} are the same film. A haystack is never looped: name each "
                "film once."
            )
        seen[mark] = path


def hash_films(paths: Sequence[Path]) -> str:
    """The sha256 of one file; of several films, the sha256 of their digests, one on each line.

    Raises:
        InputError: two films have the same bytes.
        HaystackError: a film of `make_haystack` is not what its manifest describes.
    """
    digests = [hash_file(path) for path in paths]
    _require_distinct(paths, digests)
    for path, digest in zip(paths, digests, strict=True):
        require_as_drawn(path, digest)
    return join_digests(digests)


def join_digests(digests: Sequence[str]) -> str:
    """One digest as it is; of several, the sha256 of them, one on each line."""
    if len(digests) == 1:
        return digests[0]
    return hash_text("".join(f"{digest}\n" for digest in digests))


@contextmanager
def explained(verb: str, path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a HaystackError that names the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise HaystackError(
            f"cannot {verb} {where}: {error.strerror or error}. Check its permissions and "
            "the space on the disk."
        ) from error
