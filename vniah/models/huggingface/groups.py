"""Towers that merge two frames into a group: Qwen-VL and GLM-V.

A frame at 1 FPS is doubled and makes up a group of its own, one group per second. If it were merged
with its neighbour, a needle at an odd index would change every group after it. The image processor
doubles an image in the same way, so it gives exactly such a group.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vniah.models.huggingface.any_size import AnySize
from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.protocol import TokenSequence


class Groups(AnySize, TransformersDecoderModel):
    """Every frame is a group of two equal ones, cut into patches by the image processor."""

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
