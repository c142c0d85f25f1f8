"""VideoLLaMA3: a tower that reads any size, and a time before every frame."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vniah.models.huggingface.any_size import AnySize
from vniah.models.huggingface.base import TransformersDecoderModel

_MERGED = 2  # patches along a side that become one token, for the frames of a video


class VideoLlama3(AnySize, TransformersDecoderModel):
    """VideoLLaMA3 (Zhang et al. 2025), without its compression of videos.

    Its video processor leaves out the tokens of a frame that look as in the frame before. Then a
    frame would have other rows behind a needle than without it. Here every frame has all of them.
    """

    model_class = "VideoLlama3ForConditionalGeneration"
    placeholder = template_token = "<|video_pad|>"

    @property
    def _factor(self) -> int:
        return int(self._model.config.vision_config.patch_size * _MERGED)

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        processed = self._image_processor(
            images=list(frames), do_resize=False, merge_size=_MERGED, return_tensors="pt"
        )
        features = self._model.get_image_features(
            processed["pixel_values"].to(self.device, self.dtype),
            image_grid_thw=processed["image_grid_thw"].to(self.device),
            image_merge_sizes=processed["image_merge_sizes"].to(self.device),
        ).pooler_output
        return torch.stack(list(features))

    def _pictures(self, frames: Sequence[Image.Image]) -> list[np.ndarray]:
        return [np.array(frame) for frame in frames]  # the processor cuts them into patches only

    def _described_tokens(self) -> int:
        return self._grid[0] * self._grid[1]

    def _video_text(self, frames: range) -> str:
        return ",".join(f"Time {second:.1f}s:{self.placeholder}" for second in frames)
