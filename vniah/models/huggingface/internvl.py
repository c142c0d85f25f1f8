"""InternVL (Zhu et al. 2025): a frame is one tile, with the frame's number before it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vniah.models.huggingface.base import TransformersDecoderModel


class InternVL(TransformersDecoderModel):
    """InternVL in the layout of transformers; a frame is never cut into tiles."""

    model_class = "InternVLForConditionalGeneration"
    placeholder = "<IMG_CONTEXT>"
    template_token = "<video>"

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = self._image_processor(
            images=list(frames), crop_to_patches=False, return_tensors="pt"
        )["pixel_values"]
        return pixels

    def _described_tokens(self) -> int:
        config = self._model.config
        (height, width), patches = config.vision_config.image_size, config.vision_config.patch_size
        sides = (height // patches[0], width // patches[1])
        return math.prod(int(side * config.downsample_ratio) for side in sides)

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        return {"image": BaseModelOutputWithPooling(pooler_output=embeds)}  # a frame is a tile

    def _video_text(self, frames: range) -> str:
        return "\n".join(f"Frame{frame + 1}: <img>{self.placeholder}</img>" for frame in frames)
