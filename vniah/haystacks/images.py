"""A folder of images as frames, in the order of their numbers or names."""

import mimetypes
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vniah.errors import HaystackError, VideoDamagedError, shortened
from vniah.haystacks.frames import MOST_PIXELS, Frame

MOST_BYTES = 1_000_000_000
"""The largest file that is read as an image."""

# Formats of Pillow that are no photographs: documents, which may run programs, data, films, icons,
# and those of which Pillow knows only the name.
_NO_IMAGES = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS", "IPTC", "FLI", "ICO", "CUR"}
_NO_IMAGES |= {"ICNS", "GBR", "PCD", "XVTHUMB", "MCIDAS", "FPX", "MIC", "WAL", "PALM"}

# The suffixes of other pictures, apart from those that Python's table of file types calls images.
_OTHER_PICTURES = {
    ".avifs",
    ".heic",
    ".heif",
    ".hif",
    ".jxl",
    ".exr",
    ".hdr",
    ".eps",
    ".wmf",
    ".emf",
}
_OTHER_PICTURES |= {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"}

_ORIENTATION = 0x0112  # the EXIF tag, and its values that swap width and height
_ON_THEIR_SIDES = (5, 6, 7, 8)

_COMMON_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000")

# What Pillow raises on damaged files.
_DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, MemoryError),
    *(OverflowError, RuntimeError, AssertionError, struct.error, zlib.error),
)


@dataclass(frozen=True)
class ImageListing:
    """The images of a folder.

    Attributes:
        paths: the images in their order.
        order: by ``name``; by ``number`` if that is another order.
        notes: one line about what was left out and may be a picture, and one about an order that
            may be another than that of the pictures; or nothing.
    """

    paths: tuple[Path, ...]
    order: Literal["name", "number"]
    notes: tuple[str, ...]


def list_images(folder: Path) -> ImageListing:
    """The images of a folder, in the order of their numbers or names.

    Where all names have one pattern with one number in it, as in ``frame_9.png``, ``frame_10.png``,
    they come in the order of that number. Else they come in plain name order, where ``10.png``
    comes before ``9.png``. Sub-folders, hidden files and files that are no images are left out.

    Raises:
        HaystackError: the folder holds no image, one that cannot be read here, or one that is
            larger than a gigabyte.
    """
    found: list[Path] = []
    left_out: list[str] = []
    file_types = mimetypes.MimeTypes()  # Python's own table, the same on every system
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        suffix = path.suffix.lower()
        kind = file_types.guess_type(f"name{suffix}")[0] or ""
        is_image = suffix in _suffixes()
        if path.is_dir():
            continue
        if path.name.startswith("."):
            if _begins_like_an_image(path):
                left_out.append(path.name)
        elif is_image or kind.startswith("image/") or suffix in _OTHER_PICTURES:
            _require_readable(path, is_image=is_image)
            found.append(path)
        elif kind.startswith("video/") or (not kind and _begins_like_an_image(path)):
            left_out.append(path.name)
    if not found:
        raise HaystackError(
            f"the folder {folder} holds no images (.bmp .gif .jpg .png .tif .webp and others "
            "that Pillow reads). Give a folder of images, or name the video files themselves."
        )
    notes = [f"the images of {folder.name}: {_name_some(left_out)} left out"] if left_out else []
    in_order = _by_number(found)
    if pair := _odd_neighbours(in_order or found, are_decimals=in_order is not None):
        notes.append(
            f"the images of {folder.name}: {_name_some(pair[:1])} comes before "
            f"{_name_some(pair[1:])}, as images come in the order of their numbers only where all "
            "names have one pattern with one whole number in it"
        )
    if in_order is None or in_order == found:
        return ImageListing(tuple(found), "name", tuple(notes))
    return ImageListing(tuple(in_order), "number", tuple(notes))


@cache
def _formats() -> tuple[str, ...]:
    """The formats in which images are read, as Pillow calls them."""
    from PIL import Image

    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NO_IMAGES))


@cache
def _suffixes() -> frozenset[str]:
    from PIL import Image

    formats = set(_formats())
    names = Image.registered_extensions()
    return frozenset(suffix for suffix, name in names.items() if name in formats)


def _require_readable(path: Path, *, is_image: bool) -> None:
    if not is_image:
        raise HaystackError(
            f"the image {path} is of a kind that is not read here ({path.suffix}). Convert it to "
            "PNG or JPEG, or move it out of the folder."
        )
    if not path.is_file():
        raise HaystackError(
            f"the image {path} is no file (perhaps a link to nothing). Remove it, or mend the link."
        )
    if (num_bytes := path.stat().st_size) > MOST_BYTES:
        raise HaystackError(
            f"the image {path} has {num_bytes:,} bytes, and at most {MOST_BYTES:,} are read. Move "
            "it out of the folder."
        )


def _begins_like_an_image(path: Path) -> bool:
    """True for a file in which Pillow finds an image, whatever its name."""
    from PIL import Image

    if not path.is_file():
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path, formats=_COMMON_FORMATS).close()
    except Image.DecompressionBombError:
        return True
    except _DAMAGE:
        return False
    return True


def _name_some(names: Sequence[str]) -> str:
    shown = [shortened(name, 60) for name in names[:3]]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"{', '.join(shown)}{more}"


def _by_number(paths: Sequence[Path]) -> list[Path] | None:
    """The paths in the order of the only number that differs in their names; None without one."""
    parts = [(*re.split(r"([0-9]+)", path.stem), path.suffix) for path in paths]
    if len({len(part) for part in parts}) != 1:
        return None
    different = [at for at, texts in enumerate(zip(*parts, strict=True)) if len(set(texts)) > 1]
    if len(different) != 1 or not parts[0][different[0]][:1].isdigit() or not different[0] % 2:
        return None
    (at,) = different
    numbered = sorted(zip(parts, paths, strict=True), key=lambda pair: (int(pair[0][at]), pair[1]))
    return [path for _, path in numbered]


def _odd_neighbours(paths: Sequence[Path], *, are_decimals: bool) -> tuple[str, str] | None:
    """The names of the first two neighbours of which the first has the larger number; else None.

    Args:
        paths: in their order.
        are_decimals: take only the digits after a point for a number, as those of a fraction.
    """
    for before, after in pairwise(path.name for path in paths):
        first, second = (re.split(r"([0-9]+)", name) for name in (before, after))
        at = next(
            (i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), 0
        )
        if not at % 2:  # they differ in letters
            continue
        if are_decimals:
            is_fraction = at >= 3 and first[at - 1] == "."
            is_odd = is_fraction and first[at] > second[at]
        else:
            is_odd = int(first[at]) > int(second[at])
        if is_odd:
            return before, after
    return None


@dataclass(frozen=True)
class ImageSource:
    """Images as frames: picture k is frame k."""

    paths: tuple[Path, ...]
    keep_damaged: bool = False

    @property
    def num_frames(self) -> int:
        """The number of images."""
        return len(self.paths)

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """The frames of [start, stop), read one by one.

        If damage is kept, an unreadable image is replaced by the nearest readable one before it, or
        else after it, so that all others keep their numbers.

        Raises:
            VideoDamagedError: an image cannot be read, and damage is not kept; or no image can.
            HaystackError: an image has more than 8 bits a channel, which RGB would clip; it holds
                several pictures, as animations do; or it is too large.
        """
        damaged: list[str] = []
        positions = range(self.num_frames)[start:stop]
        for position in positions:
            try:
                image = _read_image(self.paths[position])
            except VideoDamagedError:
                if not self.keep_damaged:
                    raise
                damaged.append(self.paths[position].name)
                image = self._nearest_readable(position)
            if damaged and on_damage is not None and position == positions[-1]:
                plural = "s, the first is" if len(damaged) > 1 else ":"
                on_damage(f"{len(damaged)} unreadable image{plural} {damaged[0]}")
            yield Frame(index=position, pts_seconds=float(position), image=image)

    def _nearest_readable(self, position: int) -> NDArray[np.uint8]:
        for path in (*self.paths[:position][::-1], *self.paths[position + 1 :]):
            try:
                return _read_image(path)
            except VideoDamagedError:
                continue
        raise VideoDamagedError(
            f"not one of the images in {self.paths[0].parent} can be read. Copy them again."
        )


def image_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of upright images, by their headers; those that cannot be read are left out.

    Whoever reads such an image says what is wrong with it.
    """
    from PIL import Image

    found = []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path, formats=_formats()) as image:
                    width, height = image.size
                    is_turned = image.getexif().get(_ORIENTATION) in _ON_THEIR_SIDES
        except Image.DecompressionBombError:
            continue
        except _DAMAGE:
            continue
        found.append((height, width) if is_turned else (width, height))
    return found


def _read_image(path: Path) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual metadata, and of sizes that are read
            with Image.open(path, formats=_formats()) as image:
                _require_one_picture(path, image)
                _require_8_bits(path, image.mode)
                return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(path) from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VideoDamagedError(
            f"the image {path} cannot be read: {reason}. Replace it, or go on without it: "
            "--keep-damaged (keep_damaged=True)."
        ) from error


def _require_one_picture(path: Path, image: Any) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise _too_many_pixels(path)
    # The further pictures of a camera's MPO file are previews or other views of the first.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise HaystackError(
            f"the image {path} holds several pictures, and in a folder every file is one frame. "
            "Save them one by one, or give an animation as the haystack itself."
        )


def _too_many_pixels(path: Path) -> HaystackError:
    return HaystackError(
        f"the image {path} has more than {MOST_PIXELS:,} pixels, which is not read. Make it "
        "smaller."
    )


def _require_8_bits(path: Path, mode: str) -> None:
    if mode.startswith(("I", "F")):  # the file is intact, so keep_damaged would not help
        raise HaystackError(
            f"the image {path} has pixels of mode {mode!r}, which clip in RGB. Save it with 8 bits "
            "a channel."
        )


@dataclass(frozen=True)
class RepeatedPictures:
    """Some pictures again and again, as a haystack to try a model on. Never one that is measured.

    Attributes:
        name: for file names.
        pictures: each uint8 ``[height, width, 3]``, RGB; at least one.
        sha256: of the pictures.
    """

    name: str
    pictures: tuple[NDArray[np.uint8], ...]
    sha256: str

    def identity(self) -> dict[str, str]:
        """As `vniah.haystacks.frames.AnyHaystack.identity`."""
        return {"kind": "repeated pictures", "sha256": self.sha256}

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """Frame k is the picture k modulo their number; endless without a ``stop``."""
        numbers = count(start) if stop is None else range(start, stop)
        for index in numbers:
            yield Frame(index, float(index), self.pictures[index % len(self.pictures)])
