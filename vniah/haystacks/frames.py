"""What a frame is, and what every source of frames offers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vniah.options import PAGE_KINDS, Sampling

if TYPE_CHECKING:  # decord's process must not load PyAV and its FFmpeg
    from vniah.haystacks.video.packets import VideoIndex

MOST_PIXELS = 178_000_000
"""The largest picture that is decoded: about 0.5 GB."""


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
        """The frames of [start, stop), one at a time; frame k is the same whatever ``start`` is.

        Args:
            start: the first frame.
            stop: the frame after the last; by default all frames.
            on_damage: if damage is kept, called with one line about it, before the last frame.
        """


class AnyHaystack(Protocol):
    """What is needed to show frames; `vniah.haystacks.haystack.Haystack` has it."""

    @property
    def name(self) -> str:
        """For people and file names."""

    def identity(self) -> dict[str, str]:
        """All that decides the pixels; two haystacks with equal identities have equal frames."""

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """The frames of [start, stop), one at a time."""


def unit_of(haystack: AnyHaystack) -> Literal["frame", "page"]:
    """What one of its pictures is called."""
    return "page" if haystack.identity().get("kind") in PAGE_KINDS else "frame"


@dataclass(frozen=True)
class IndexedVideo:
    """A video whose packets are listed; what decodes it is a class of its own.

    Raises:
        VideoDamagedError: the packets show damage, and damage is not kept.
    """

    index: "VideoIndex"
    sampling: Sampling
    keep_damaged: bool = False

    def __post_init__(self) -> None:
        if not self.keep_damaged:
            self.index.require_whole()

    @property
    def num_frames(self) -> int:
        """The number of frames, by the packets' time stamps."""
        return len(self.index.schedule(self.sampling))
