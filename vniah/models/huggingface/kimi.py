"""Kimi K2.5: groups of four video frames, whose rows are pooled over time.

The frames of a group see one another in the tower, and each has an embedding of its place in the
group. Then the mean over the four is taken. A frame at 1 FPS is repeated, and makes up a group of
its own, one group per second. A group of one frame, as an image is one, has no embedding of time
and gives other rows; of that kind is only the rest of a video.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vniah.models.huggingface.any_size import AnySize
from vniah.models.huggingface.base import TransformersDecoderModel

_FRAMES = 4  # of a group


class KimiK25(AnySize, TransformersDecoderModel):
    """Kimi K2.5 and K2.6 (Moonshot AI 2026): one video, the time before every group.

    The method of transformers 5.23 that encodes videos fails where a group has more than one frame:
    it cuts the pooled rows as if they were not pooled. Tower and projector are called here.
    """

    model_class = "Kimi_K25ForConditionalGeneration"
    placeholder = template_token = "<|kimi_k25_video_placeholder|>"
    pillow_processor = "SiglipImageProcessorPil"  # for its numbers; what it does is below

    @property
    def _factor(self) -> int:
        vision = self._model.config.vision_config
        return int(vision.patch_size * vision.merge_kernel_size[0])

    def _patches(self, frames: Sequence[Image.Image]) -> Tensor:
        """The patches of each frame, ``[num_frames, patches, 3, side, side]``."""
        processor, side = self._image_processor, self._model.config.vision_config.patch_size
        raw = torch.from_numpy(np.stack([np.array(frame) for frame in frames])).float()
        mean, deviation = (
            torch.tensor(channels) for channels in (processor.image_mean, processor.image_std)
        )
        pixels = (raw * processor.rescale_factor - mean) / deviation
        lines = pixels.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # [n, rows, y, columns, x]
        patches: Tensor = lines.permute(0, 1, 3, 5, 2, 4).flatten(1, 2)
        return patches

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        patches = self._patches(frames)[:, None].expand(-1, _FRAMES, -1, -1, -1, -1)
        height, width = (
            side * merged
            for side, merged in zip(
                self._grid, self._model.config.vision_config.merge_kernel_size, strict=True
            )
        )
        inner = self._model.model
        pooled = inner.vision_tower(
            patches.flatten(0, 2).to(self.device, self.dtype),
            grid_thw=torch.tensor([[_FRAMES, height, width]] * len(frames), device=self.device),
        ).pooler_output
        rows: Tensor = inner.mm_projector(pooled)
        return rows.view(len(frames), -1, rows.shape[-1])

    def _pictures(self, frames: Sequence[Image.Image]) -> list[np.ndarray]:
        return [np.array(frame) for frame in frames]

    def _described_tokens(self) -> int:
        return self._grid[0] * self._grid[1]

    def _video_text(self, frames: range) -> str:
        return "".join(
            f"{second // 3600 % 24:02d}:{second // 60 % 60:02d}:{second % 60:02d}.000"
            f"<|media_begin|>video<|media_content|>{self.placeholder}<|media_end|>"
            for second in frames
        )
