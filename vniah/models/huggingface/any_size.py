"""Towers that read frames of any size: Qwen-VL and GLM-V.

These towers merge two frames into a group. A frame at 1 FPS is doubled and makes up a group of its
own, one group per second. If it were merged with its neighbour, a needle at an odd index would
change every group after it. The image processor doubles an image in the same way, so it gives
exactly such a group.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vniah.errors import ModelError
from vniah.models.huggingface.base import TransformersModel
from vniah.models.padding import pad
from vniah.protocol import TokenSequence

USUAL_SIDE = 392  # px: 14 x 14 tokens of 28 px, or 12 x 12 of 32 px


class AnySize(TransformersModel):
    """Frames are scaled to fit into one common size, and padded with the mean colour."""

    takes_frame_size = True

    @property
    def _factor(self) -> int:
        """Side in pixels of the square that becomes one token."""
        vision = self._model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    @property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        return self.frame_size[1] // self._factor, self.frame_size[0] // self._factor

    def _usual_size(self) -> tuple[int, int]:
        side = max(1, USUAL_SIDE // self._factor) * self._factor
        return side, side

    def _check_size(self) -> None:
        factor, (width, height) = self._factor, self.frame_size
        nearest = [max(1, round(side / factor)) * factor for side in (width, height)]
        if nearest != [width, height]:
            raise ModelError(
                f"the frame size must be multiples of {factor} pixels for {self.name}, got "
                f"{width}x{height}; the nearest is {nearest[0]}x{nearest[1]}"
            )

    def _preprocessing(self) -> str:
        return f"scaled to fit, padded to {super()._preprocessing()}"

    def _fit(self, frame: Image.Image) -> Image.Image:
        width, height = self.frame_size
        scale = min(height / frame.height, width / frame.width)
        inner = (
            min(width, max(1, round(frame.width * scale))),
            min(height, max(1, round(frame.height * scale))),
        )
        if inner != frame.size:
            frame = frame.resize(inner, Image.Resampling.BICUBIC)
        return pad(frame, (width, height), self._image_processor.image_mean)

    def _patches(self, frames: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Flat patches of all frames, and the grid of each."""
        processed = self._image_processor(images=list(frames), do_resize=False, return_tensors="pt")
        pixels = processed["pixel_values"].to(self.device, self.dtype)
        return pixels, processed["image_grid_thw"].to(self.device)

    def _pictures(self, frames: Sequence[Image.Image]) -> list[np.ndarray]:
        return [np.array(frame) for frame in frames]  # the processor cuts them into patches only

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        features = self._model.get_image_features(*self._patches(frames)).pooler_output
        return torch.stack(list(features))

    def _described_tokens(self) -> int:
        return self._grid[0] * self._grid[1]

    def _own_arguments(self, sequence: TokenSequence, is_frame: Tensor) -> Mapping[str, Any]:
        merged = self._model.config.vision_config.spatial_merge_size
        patches = [len(sequence.frames), *(side * merged for side in self._grid)]
        return {
            "video_grid_thw": torch.tensor([patches], device=self.device),
            "mm_token_type_ids": 2 * is_frame.int(),
        }
