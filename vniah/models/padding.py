"""Pictures in the middle of a mean colour, so that a frame keeps its shape and loses nothing."""

from collections.abc import Sequence

from PIL import Image


def pad(frame: Image.Image, size: tuple[int, int], mean: Sequence[float]) -> Image.Image:
    """The frame in the middle of the mean colour.

    Args:
        frame: not larger than ``size``.
        size: width and height.
        mean: of each channel, in [0, 1].
    """
    if frame.size == size:
        return frame
    whole = Image.new("RGB", size, tuple(int(255 * channel) for channel in mean))
    whole.paste(frame, ((size[0] - frame.width) // 2, (size[1] - frame.height) // 2))
    return whole


def pad_to_square(frame: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The frame in the middle of a square, so that no crop loses its sides."""
    side = max(frame.size)
    return pad(frame, (side, side), mean)
