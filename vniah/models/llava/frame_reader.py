"""How a model reads pictures: what every way of it offers, and the one for frames of a video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vniah.models.llava.frame_layout import FrameLayout
from vniah.models.llava.towers import Tower


class PictureReader(Protocol):
    """Turns pictures into rows of the decoder's input."""

    @property
    def num_rows(self) -> int:
        """Rows of one picture, with its newlines."""

    @property
    def has_newline(self) -> bool:
        """True if the newline row is used."""

    @property
    def newline_field(self) -> str:
        """Why the newline row is used, for an error message."""

    @property
    def ends_frames(self) -> bool:
        """True if one newline follows all pictures of a sequence."""

    @property
    def description(self) -> str:
        """What the rows depend on besides the weights, which is part of a cache's identity."""

    @property
    def settings(self) -> dict[str, str]:
        """What else the manifest says of it."""

    def rows(
        self,
        frames: Sequence[np.ndarray],
        project: Callable[[Tensor], Tensor],
        newline: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """The rows of pictures: ``[len(frames), num_rows, hidden size]``.

        Args:
            frames: RGB uint8 ``[height, width, 3]``, of any sizes.
            project: brings patches ``[n, side * side, tower's width]`` to the decoder's width.
            newline: ``[hidden size]``; may be None if no newline is part of a picture.
            dtype: of the tower's weights.
        """

    def pictures(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The pictures as the tower gets them: RGB uint8 ``[height, width, 3]`` each."""


@dataclass(frozen=True)
class FrameReader:
    """Reads every picture as a frame of a video: as one picture of the tower's size, pooled.

    Attributes:
        tower: the vision tower.
        layout: which rows a frame becomes.
    """

    tower: Tower
    layout: FrameLayout

    @property
    def num_rows(self) -> int:
        """As `PictureReader.num_rows`."""
        return self.layout.num_rows

    @property
    def has_newline(self) -> bool:
        """As `PictureReader.has_newline`."""
        return self.layout.has_newline

    @property
    def newline_field(self) -> str:
        """As `PictureReader.newline_field`."""
        return f"mm_newline_position = {self.layout.newline!r}"

    @property
    def ends_frames(self) -> bool:
        """As `PictureReader.ends_frames`."""
        return self.layout.newline == "one_token"

    @property
    def description(self) -> str:
        """As `PictureReader.description`."""
        return f"{self.tower.description}, {self.layout.description}"

    @property
    def settings(self) -> dict[str, str]:
        """As `PictureReader.settings`."""
        return {"newline_position": self.layout.newline} if self.has_newline else {}

    def rows(
        self,
        frames: Sequence[np.ndarray],
        project: Callable[[Tensor], Tensor],
        newline: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """As `PictureReader.rows`."""
        return self.layout.rows(project(self.tower.patches(frames, dtype)), newline)

    def pictures(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `PictureReader.pictures`."""
        return self.tower.pictures(frames)
