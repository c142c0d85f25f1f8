"""What every source of haystack frames gives: frames, and how a video is sampled."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Sampling = Literal["clock", "longva"]
"""``clock``: frame k is on screen k seconds after the first picture. ``longva``: the published
``range(0, num_pictures, round(fps))``."""

Decoder = Literal["pyav", "decord"]


@dataclass(frozen=True)
class Frame:
    """One picture of a haystack.

    Attributes:
        index: its position in the haystack; with one video and ``clock``, k for the picture that is
            on screen k seconds after the first.
        pts_seconds: the time that the file gives for this picture (its presentation time stamp);
            for images, the position in the folder.
        image: [height, width, 3], uint8, RGB, upright, in the size it was stored in.
    """

    index: int
    pts_seconds: float
    image: NDArray[np.uint8]


class FrameSource(Protocol):
    """One file, or one folder of images, sampled at 1 frame per second."""

    @property
    def num_frames(self) -> int:
        """How many frames it has."""

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """The frames of [start, stop), one at a time; frame k is the same whatever start is."""
