"""Draws a needle into a frame of the haystack, so that it does not stand out as a frame.

The needle is scaled to two fifths of the frame's height, or of its width where that is smaller, its
brightness and contrast are moved towards those of what it covers, and its edges are faded.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLENDING_VERSION = "1"
"""Changes whenever the same arguments of `blend` give other pixels."""

_SHARE = 0.4  # of the frame's height and width that the needle takes at most
_OPACITY = 0.95
_FADED = 0.06  # of the needle's shorter side, at each edge
_BRIGHTNESS_TAKEN = 0.3  # of the difference between needle and background
_CONTRASTS = (0.8, 1.25)  # the needle's contrast is changed by a factor between these
_LUMINANCE = np.array((0.299, 0.587, 0.114))


def blend(
    frame: NDArray[np.uint8], picture: Image.Image, *, needle_id: str, index: int
) -> NDArray[np.uint8]:
    """The frame with a needle drawn into it; the frame itself stays as it is.

    Args:
        frame: ``[height, width, 3]``, RGB.
        picture: the needle's picture, mode RGB.
        needle_id: with ``index`` it says where in the frame the needle stands, so that the same
            sample has the same picture in every run.
        index: the frame's number in the haystack.
    """
    height, width = frame.shape[:2]
    needle = _scaled(picture, _SHARE * width, _SHARE * height)
    rows, columns = needle.shape[:2]
    top, left = _place(needle_id, index, height - rows, width - columns)
    where = (slice(top, top + rows), slice(left, left + columns))
    background = frame[where].astype(np.float64)
    opacity = _OPACITY * _fade(rows)[:, None, None] * _fade(columns)[None, :, None]
    mixed = opacity * _adapted(needle, background) + (1 - opacity) * background
    blended = frame.copy()
    blended[where] = np.rint(mixed.clip(0, 255)).astype(np.uint8)
    return blended


def _scaled(picture: Image.Image, width: float, height: float) -> NDArray[np.float64]:
    """The picture in its own shape, as large as fits into ``width`` x ``height`` pixels."""
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float64)


def _place(needle_id: str, index: int, most_top: int, most_left: int) -> tuple[int, int]:
    """Top and left edge, from 0 to the given bounds, both included."""
    digest = blake2b(f"{needle_id}\n{index}".encode(), digest_size=16).digest()
    rows, columns = (int.from_bytes(half, "big") for half in (digest[:8], digest[8:]))
    return rows % (most_top + 1), columns % (most_left + 1)


def _adapted(needle: NDArray[np.float64], background: NDArray[np.float64]) -> NDArray[np.float64]:
    """The needle with a brightness and contrast nearer to those of the background."""
    own, other = needle @ _LUMINANCE, background @ _LUMINANCE
    ratio = other.std() / max(own.std(), 1.0)
    contrast = float(np.clip(np.sqrt(ratio), *_CONTRASTS))
    brightness = _BRIGHTNESS_TAKEN * (other.mean() - own.mean())
    adapted: NDArray[np.float64] = (needle - own.mean()) * contrast + own.mean() + brightness
    return adapted


def _fade(length: int) -> NDArray[np.float64]:
    """Rises from nearly 0 at both ends to 1, ``[length]``."""
    edge = max(1.0, _FADED * length)
    from_edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return np.minimum(from_edge / edge, 1.0)
