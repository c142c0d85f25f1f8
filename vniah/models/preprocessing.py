"""A checkpoint's image processor: what is checked of it, and the pictures that it makes."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vniah.errors import ModelError, quoted

BLANK_FRAME = np.zeros((36, 64, 3), np.uint8)
"""A frame that no tower reads as it is, so that scaling and padding are tried as well."""

_LARGEST_SIDE = 4096  # px


def require_small_pictures(name: str, processor: Any) -> None:
    """Raises `ModelError` if an image processor scales frames to a size that no tower reads.

    Args:
        name: of the model, for the message.
        processor: an image processor of transformers.
    """
    for key in ("size", "crop_size"):
        size = getattr(processor, key, None)
        if size is None:
            continue
        sides = dict(size) if isinstance(size, Mapping) or hasattr(size, "keys") else vars(size)
        for value in sides.values():
            if value is not None and not 1 <= value <= _LARGEST_SIDE:
                raise ModelError(
                    f"the image processor of {name} has {key} = {quoted(str(sides), 80)}; sides "
                    f"are from 1 to {_LARGEST_SIDE} pixels"
                )


def encode_blank(name: str, encode: Callable[[Sequence[np.ndarray]], Tensor]) -> Tensor:
    """The rows of a blank frame, ``[1, *frame_shape]``, if they are numbers.

    Args:
        name: of the model, for the message.
        encode: its ``encode_frames``.

    Raises:
        ModelError: some are infinite or no numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy divides by a deviation of zero
        rows = encode([BLANK_FRAME])
    if not torch.isfinite(rows).all():
        raise ModelError(
            f"{name} encodes a blank frame as numbers that are not finite: its weights or its "
            "preprocessing are damaged, or the dtype is too small for them"
        )
    return rows


def as_pictures(pixels: Tensor, processor: Any) -> list[np.ndarray]:
    """What an image processor made of frames, as pictures: RGB uint8 ``[height, width, 3]`` each.

    Args:
        pixels: as the processor gave them, ``[num_frames, 3, height, width]``.
        processor: the image processor of transformers, whose normalization is undone.
    """
    values = pixels.float()
    if getattr(processor, "do_normalize", True):
        mean, deviation = (
            torch.tensor(channels, dtype=torch.float32).view(-1, 1, 1)
            for channels in (processor.image_mean, processor.image_std)
        )
        values = values * deviation + mean
    if getattr(processor, "do_rescale", True):
        values = values / processor.rescale_factor
    rows = values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return [row.contiguous().numpy() for row in rows]
