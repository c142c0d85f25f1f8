"""Qwen-VL and GLM-V: towers that read any size, and M-RoPE with three positions for each row.

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
from transformers.utils import ModelOutput

from vniah.models.huggingface.any_size import AnySize
from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.models.huggingface.positions import frames_as_images, frames_as_video
from vniah.protocol import TokenSequence


class _Groups(AnySize, TransformersDecoderModel):
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


class Qwen2VL(_Groups):
    """Qwen2-VL (Wang et al. 2024): one video, times counted in frames."""

    model_class = "Qwen2VLForConditionalGeneration"
    placeholder = template_token = "<|video_pad|>"

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """Time, height and width of every row: ``[3, num_tokens]``."""
        return frames_as_video(sequence, self._grid, interval=self._interval)

    def _own_arguments(self, sequence: TokenSequence, is_frame: Tensor) -> Mapping[str, Any]:
        """With positions of vniah: those of transformers put the question into the video."""
        positions = self.position_ids(sequence)[:, None].to(self.device)
        return {**super()._own_arguments(sequence, is_frame), "position_ids": positions}

    @property
    def _interval(self) -> int:
        """How much the position grows from one second to the next."""
        return 1


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL (Bai et al. 2025): as Qwen2-VL, with times in ``tokens_per_second``."""

    model_class = "Qwen2_5_VLForConditionalGeneration"

    @property
    def _interval(self) -> int:
        return int(self._model.config.vision_config.tokens_per_second)


class Qwen3VL(_Groups):
    """Qwen3-VL (2025): a timestamp before every frame, and DeepStack features.

    Besides its input rows, a cached frame holds the DeepStack features that the first layers add
    to them: ``(1 + layers, tokens, hidden size)``. The chat template puts vision_start and
    vision_end around a video. transformers 5.23 keeps these and writes a pair around every frame
    as well. The authors' processor, and transformers up to 4.57, write only the pairs around
    frames, and so does this class.
    """

    model_class = "Qwen3VLForConditionalGeneration"
    placeholder = template_token = "<|video_pad|>"

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """Time, height and width of every row: ``[3, num_tokens]``."""
        return frames_as_images(sequence, self._grid)

    def _described_shape(self) -> tuple[int, ...] | None:
        num_layers = len(self._model.config.vision_config.deepstack_visual_indexes)
        shape = super()._described_shape()
        return None if shape is None else (1 + num_layers, *shape)

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        output = self._model.get_image_features(*self._patches(frames))
        parts = [output.pooler_output, *output.deepstack_features]
        whole = [
            part.view(len(frames), -1, part.shape[-1])
            if isinstance(part, Tensor)
            else torch.stack(list(part))
            for part in parts
        ]
        return torch.stack(whole, dim=1)

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        output = ModelOutput(
            pooler_output=list(embeds[:, 0]),
            deepstack_features=[list(rows) for rows in embeds[:, 1:].unbind(1)],
        )
        return {"video": output}

    def _expand(self, text: str, frames: range) -> str:
        marked = f"<|vision_start|>{self.template_token}<|vision_end|>"
        token = marked if marked in text else self.template_token
        return text.replace(token, self._video_text(frames), 1)

    def _video_text(self, frames: range) -> str:
        return "".join(
            f"<{second:.1f} seconds><|vision_start|>{self.placeholder}<|vision_end|>"
            for second in frames
        )


class Qwen3VLMoe(Qwen3VL):
    """Qwen3-VL with a mixture of experts."""

    model_class = "Qwen3VLMoeForConditionalGeneration"


class Glm4v(_Groups):
    """GLM-4.1V (Hong et al. 2025): every frame between image tokens, its second after it."""

    model_class = "Glm4vForConditionalGeneration"
    placeholder = "<|image|>"
    template_token = "<|video|>"

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """Time, height and width of every row: ``[3, num_tokens]``."""
        return frames_as_images(sequence, self._grid)

    def _video_text(self, frames: range) -> str:
        return "".join(
            f"<|begin_of_image|>{self.placeholder}<|end_of_image|>{second}" for second in frames
        )
