"""Pictures read as grids of the tower's size, by the rules of `vniah.models.llava.grids`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vniah.models.llava.grids import GridLayout, GridRule
from vniah.models.llava.towers import Tower
from vniah.models.padding import pad

# So many grids go through the tower at once. The same of a picture are always together, so that its
# rows do not depend on other pictures.
_GRIDS_AT_ONCE = 16
_WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class GridReader:
    """Reads pictures as grids; satisfies `vniah.models.llava.frame_reader.PictureReader`.

    Every picture is brought to one size first, so that all have equally many tokens: it is scaled
    to fit into the size and padded with white at both sides, as a page.

    Attributes:
        tower: the vision tower.
        rule: how the checkpoint reads images.
        size: width and height that all pictures are brought to, in pixels.
    """

    tower: Tower
    rule: GridRule
    size: tuple[int, int]

    ends_frames = False

    @cached_property
    def layout(self) -> GridLayout:
        """How a picture of the size is cut."""
        return self.rule.layout(self.size)

    @property
    def num_rows(self) -> int:
        """Rows of one picture, with its newlines."""
        return self.layout.num_tokens

    @property
    def has_newline(self) -> bool:
        """True if the newline row is used."""
        return self.rule.has_newline

    @property
    def newline_field(self) -> str:
        """Why the newline row is used, for an error message."""
        return "mm_patch_merge_type, which has 'unpad',"

    @property
    def description(self) -> str:
        """What the rows depend on besides the weights, which is part of a cache's identity."""
        (width, height), layout = self.size, self.layout
        return (
            f"fit into {width}x{height} px on white, {layout.columns}x{layout.rows} grids, "
            f"{self.rule.summary}, layer {self.tower.feature_layer}"
        )

    @property
    def settings(self) -> dict[str, str]:
        """How pictures are read, by the names of the options, for the manifest."""
        return {"images": "grids", "frame_size": f"{self.size[0]}x{self.size[1]}"}

    def rows(
        self,
        frames: Sequence[np.ndarray],
        project: Callable[[Tensor], Tensor],
        newline: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """As `vniah.models.llava.frame_reader.PictureReader.rows`."""
        return torch.stack([self._rows_of(frame, project, newline, dtype) for frame in frames])

    def pictures(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The grids of each picture, put together again as the tower gets them."""
        found = []
        for frame in frames:
            grids = np.stack(self.tower.pictures(self._cut(frame)[self.rule.has_base :]))
            side = grids.shape[1]
            layout = self.layout
            tiled = grids.reshape(layout.rows, layout.columns, side, side, 3).swapaxes(1, 2)
            found.append(tiled.reshape(layout.rows * side, layout.columns * side, 3))
        return found

    def _rows_of(
        self,
        frame: np.ndarray,
        project: Callable[[Tensor], Tensor],
        newline: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """``[num_rows, hidden size]``."""
        cut = self._cut(frame)
        parts = [cut[k : k + _GRIDS_AT_ONCE] for k in range(0, len(cut), _GRIDS_AT_ONCE)]
        patches = torch.cat([project(self.tower.patches(part, dtype)) for part in parts])
        return self.arrange(patches, newline)

    def arrange(self, patches: Tensor, newline: Tensor | None) -> Tensor:
        """The rows of one picture in the order in which the decoder reads them.

        Args:
            patches: projected, of the whole picture if it has a grid of its own, then of all grids
                row by row: ``[num_pictures, side * side, hidden size]``.
            newline: ``[hidden size]``; may be None if the rule has no newline.

        Returns:
            ``[num_rows, hidden size]``.
        """
        rule, layout, side = self.rule, self.layout, self.rule.side
        base, grids = patches[: rule.has_base], patches[rule.has_base :]
        if rule.encoding == "UniRes":
            squares = grids.reshape(layout.num_grids, side, side, -1).permute(0, 3, 1, 2)
            pooled = nn.functional.avg_pool2d(squares, 2)
            return pooled.permute(0, 2, 3, 1).flatten(0, 2)
        if rule.encoding == "flat":
            return patches.flatten(0, 1)
        tiled = grids.reshape(layout.rows, layout.columns, side, side, -1)
        # [hidden, row, column] of the whole picture
        image = tiled.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)
        height, width = layout.kept
        top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
        image = image[:, top : top + height, left : left + width]
        if rule.is_pooled:
            image = nn.functional.max_pool2d(image, 2)
        elif layout.mapped != layout.kept:
            image = nn.functional.interpolate(image[None], layout.mapped, mode="bilinear")[0]
        if rule.has_newline:
            assert newline is not None
            ends = newline[:, None, None].expand(-1, image.shape[1], 1)
            image = torch.cat([image, ends], 2)
        return torch.cat([base.flatten(0, 1), image.flatten(1).T])

    def _cut(self, frame: np.ndarray) -> list[np.ndarray]:
        """The pictures for the tower: the whole one if it has a grid of its own, then the grids."""
        page = fit(Image.fromarray(frame), self.size)
        side, layout = self.rule.tower_size, self.layout
        whole = [np.asarray(page.resize((side, side)))] if self.rule.has_base else []
        canvas = Image.new("RGB", (layout.columns * side, layout.rows * side))
        width, height = layout.scaled
        place = (canvas.width - width) // 2, (canvas.height - height) // 2
        canvas.paste(page.resize((width, height)), place)
        pixels = np.asarray(canvas)
        return whole + [
            pixels[top : top + side, left : left + side]
            for top in range(0, canvas.height, side)
            for left in range(0, canvas.width, side)
        ]


def fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture, scaled to fit into the size, in the middle of white."""
    if picture.size == size:
        return picture
    scale = min(size[0] / picture.width, size[1] / picture.height)
    width, height = (
        min(max(round(length * scale), 1), most)
        for length, most in zip(picture.size, size, strict=True)
    )
    return pad(picture.resize((width, height)), size, _WHITE)
