"""Llama 4: a frame is one tile, in the shape that it has, on black."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.protocol import TokenSequence


class Llama4(TransformersDecoderModel):
    """Llama 4 (2025): every frame is an image of one tile, as of a processor with one at most."""

    model_class = "Llama4ForConditionalGeneration"
    placeholder = "<|patch|>"
    template_token = "<|image|>"
    is_video = False
    pillow_processor = "SiglipImageProcessorPil"  # for its numbers; what it does is below

    @staticmethod
    def find_body(model: Any) -> Any:
        """The decoder without its head."""
        return model.language_model.model

    def _fit(self, frame: Image.Image) -> Image.Image:
        """Scaled to fit into a tile, in its upper left corner."""
        (width, height), tile = frame.size, self.frame_size
        scale = min(tile[0] / width, tile[1] / height)
        is_wide = tile[0] / width < tile[1] / height
        inner = (
            (tile[0], max(1, min(math.floor(height * scale), tile[1])))
            if is_wide
            else (max(1, min(math.floor(width * scale), tile[0])), tile[1])
        )
        if inner != frame.size:
            frame = frame.resize(inner, Image.Resampling(self._image_processor.resample))
        whole = Image.new("RGB", tile)
        whole.paste(frame)
        return whole

    def _preprocessing(self) -> str:
        return f"scaled to fit, on black of {super()._preprocessing()}"

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        """In bfloat16, in which the authors' processor scales and normalizes."""
        processor = self._image_processor
        raw = torch.from_numpy(np.stack([np.array(frame) for frame in frames]))
        scaled = raw.permute(0, 3, 1, 2).to(torch.bfloat16) * processor.rescale_factor
        mean, deviation = (
            torch.tensor(channels, dtype=torch.bfloat16).view(-1, 1, 1)
            for channels in (processor.image_mean, processor.image_std)
        )
        pixels: Tensor = (scaled - mean) / deviation
        return pixels

    def _pictures(self, frames: Sequence[Image.Image]) -> list[np.ndarray]:
        return [np.array(frame) for frame in frames]

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels = self._pixels(frames).to(self.device, self.dtype)
        features = self._model.get_image_features(pixels).last_hidden_state
        rows: Tensor = self._model.multi_modal_projector(features)
        return rows

    def _described_tokens(self) -> int:
        vision = self._model.config.vision_config
        side = vision.image_size // vision.patch_size
        return int(side * vision.pixel_shuffle_ratio) ** 2

    def _image_text(self) -> str:
        return f"<|image_start|>{self.template_token}{self.placeholder}<|image_end|>"

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        return {"image": BaseModelOutputWithPooling(last_hidden_state=embeds)}

    @torch.inference_mode()
    def answer_logits(self, sequence: TokenSequence, embeds: Tensor) -> Tensor:
        """As `TransformersModel.answer_logits`.

        The own forward projects what the tower gave, and here the rows are projected already. So
        the projector is set aside meanwhile.
        """
        projector = self._model.multi_modal_projector
        self._model.multi_modal_projector = nn.Identity()
        try:
            return super().answer_logits(sequence, embeds)
        finally:
            self._model.multi_modal_projector = projector
