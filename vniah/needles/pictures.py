"""Pictures of needles: where they lie, and how they are read."""

import io
import os
import unicodedata
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from vniah.errors import NeedleError, first_line, quoted

# An MPO file is a JPEG with previews or maps of brightness after the picture, as phones write it.
_PICTURE_FIRST = "MPO"

_LONGEST_NAME = 4096


def find_picture(folder: Path, name: str, *, where: str) -> Path:
    """The path of a picture that metadata name.

    Names that differ only in their Unicode normalization are one name: some systems write ``é`` as
    one character and others as two. Symbolic links are followed, as caches of the hub have them.

    Args:
        folder: pictures lie in it, or in folders inside of it.
        name: a relative path.
        where: begins the messages, e.g. ``"metadata.jsonl line 3: 'file_name'"``.

    Raises:
        NeedleError: there is no such picture, or two, or the path leads out of the folder.
    """
    if len(name) > _LONGEST_NAME or "\0" in name:
        raise NeedleError(f"{where} must be the path of a picture, got {quoted(name, 60)}.")
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder):
        raise NeedleError(f"{where} must stay inside {str(folder)!r}, got {quoted(name, 60)}.")
    found = [folder]
    for part in path.relative_to(folder).parts:
        found = [inner for outer in found for inner in _alike(outer, part)]
    pictures = [path for path in found if _is_file(path)]
    if len(pictures) > 1:
        raise NeedleError(
            f"{where}: {quoted(name, 60)} means {len(pictures)} pictures in {str(folder)!r}, whose "
            "names differ only in their Unicode normalization; rename one of them."
        )
    if not pictures:
        raise NeedleError(f"{where}: there is no picture {quoted(name, 60)} in {str(folder)!r}.")
    return pictures[0]


def _alike(folder: Path, name: str) -> list[Path]:
    """The files and folders of that name, however it is normalized."""
    if name.isascii():
        return [folder / name]
    plain = unicodedata.normalize("NFC", name)
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names, not paths
    except OSError:
        return []
    return [folder / own for own in names if unicodedata.normalize("NFC", own) == plain]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a part of the path is longer than the file system has names
        return False


def read_picture(source: Path | bytes, *, where: str) -> Image.Image:
    """A picture, upright and in mode RGB.

    Args:
        source: its file, or the bytes of one.
        where: begins the messages.

    Raises:
        NeedleError: it cannot be read, is animated, has more than 8 bits a channel, or more pixels
            than Pillow takes for safe.
    """
    name = f"picture {source.name!r}" if isinstance(source, Path) else "picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = source if isinstance(source, Path) else io.BytesIO(source)
            with Image.open(file) as picture:
                _require_still(picture, f"{where}: the {name}")
                picture.load()
                return _as_rgb(ImageOps.exif_transpose(picture), where=where)
    except NeedleError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NeedleError(
            f"{where}: the {name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down."
        ) from error
    except Exception as error:  # readers of damaged files raise whatever their formats run into
        reason = first_line(error).rstrip(".")
        raise NeedleError(f"{where}: the {name} cannot be read: {reason}.") from error


def _require_still(picture: Image.Image, what: str) -> None:
    if picture.format != _PICTURE_FIRST and getattr(picture, "is_animated", False):
        raise NeedleError(
            f"{what} is animated, or holds several pictures, and a needle is one; save that one in "
            "a file of its own. A clip is a video, or a list of pictures."
        )


def _as_rgb(image: Image.Image, *, where: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        raise NeedleError(
            f"{where}: the picture has pixels of mode {image.mode!r}, which clip in RGB; "
            "save it with 8 bits a channel."
        )
    if image.mode == "P":  # directly to RGB, Pillow warns about some transparent palettes
        image = image.convert("RGBA")
    return image.convert("RGB")
