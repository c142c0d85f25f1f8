"""Padding of frames with a mean colour, which keeps their shape and cuts nothing off."""

from collections.abc import Sequence

from PIL import Image


def pad(frame: Image.Image, size: tuple[int, int], mean: Sequence[float]) -> Image.Image:
    """The frame in the middle of a larger picture of the mean colour.

    Args:
        frame: not larger than ``size``.
        size: width and height.
        mean: colour of the padding, a number in [0, 1] for each channel.
    """
    if frame.size == size:
        return frame
    whole = Image.new("RGB", size, tuple(int(255 * channel) for channel in mean))
    whole.paste(frame, ((size[0] - frame.width) // 2, (size[1] - frame.height) // 2))
    return whole


def pad_to_square(frame: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The frame in the middle of a square, so that a later crop to a square cuts nothing off."""
    side = max(frame.size)
    return pad(frame, (side, side), mean)
