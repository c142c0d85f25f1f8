"""What is checked of a checkpoint's image processor and tower, by one blank frame."""

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
