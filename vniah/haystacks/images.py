"""A folder of images as frames, in the plain order of their names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vniah.errors import HaystackError, VideoDamagedError
from vniah.haystacks.frames import Frame

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def list_images(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in plain name order, where ``10.png`` comes before ``9.png``.

    Sub-folders, hidden files and files with other suffixes are left out.

    Raises:
        HaystackError: the folder holds no image.
    """
    images = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not path.name.startswith(".")
            and path.is_file()
        ),
        key=lambda path: path.name,
    )
    if not images:
        raise HaystackError(
            f"the folder {folder} holds no images ({' '.join(IMAGE_SUFFIXES)}). Give a folder of "
            "images, or name the video files themselves."
        )
    return tuple(images)


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
            HaystackError: an image has more than 8 bits a channel, which RGB would clip.
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


def _read_image(path: Path) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            _require_8_bits(path, image.mode)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise VideoDamagedError(
            f"the image {path} cannot be read: {reason}. Replace it, or go on without it: "
            "--keep-damaged (keep_damaged=True)."
        ) from error


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
