"""What a frame is, and what every source of frames offers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One picture of a haystack.

    Attributes:
        index: its position in the haystack. In one video that is sampled by ``clock``, frame k is
            the picture on screen k seconds after the first one.
        pts_seconds: the picture's presentation time stamp in its file, in seconds; for images, the
            position in the folder.
        image: [height, width, 3], uint8, RGB, upright, in the size it was stored in.
    """

    index: int
    pts_seconds: float
    image: NDArray[np.uint8]


class FrameSource(Protocol):
    """One file, or one folder of images, sampled at 1 frame per second."""

    @property
    def num_frames(self) -> int:
        """The number of frames."""

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """The frames of [start, stop), one at a time; frame k is the same whatever start is."""
