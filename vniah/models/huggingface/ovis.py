"""Ovis2: rows of a frame are mixtures of visual words, between rows of visual indicators.

The tower gives a probability for each word of a visual vocabulary. A row is the mean of the words'
embeddings. The special tokens around a frame have embeddings of this vocabulary as well, in place
of those that the decoder's table has for them; so they are rows of the encoded frame here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.models.ovis2.modeling_ovis2 import BaseModelOutputWithVisualIndicatorFeatures

from vniah.errors import ModelError
from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.models.huggingface.folder import FamilyParts

_BEGIN, _GRID, _END = "<IMG_START>", "<IMG_GRID>", "<IMG_END>"


class Ovis2(TransformersDecoderModel):
    """Ovis2 (Lu et al. 2024): every frame is an image of one tile, never cut into more."""

    model_class = "Ovis2ForConditionalGeneration"
    placeholder = "<IMG_ATOM>"
    template_token = "<image>"
    is_video = False

    def __init__(self, parts: FamilyParts) -> None:
        known = list(parts.model.config.visual_indicator_token_ids)
        ids = parts.tokenizer.convert_tokens_to_ids([_BEGIN, _GRID, _END])
        if not set(ids) <= set(known):
            raise ModelError(
                f"{parts.name} has {_BEGIN}, {_GRID} and {_END} as tokens {ids}, and config.json "
                f"names the visual indicators {known}; they are of different checkpoints"
            )
        self._indicators = tuple(map(known.index, ids))
        self._indicator_ids = torch.tensor(ids)
        super().__init__(parts)

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = self._image_processor(
            images=list(frames), crop_to_patches=False, return_tensors="pt"
        )["pixel_values"]
        return pixels

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels = self._pixels(frames).to(self.device, self.dtype)
        found = self._model.get_image_features(pixels)
        around = found.visual_indicator_features[list(self._indicators), None]
        begin, grid, end = around.expand(-1, len(frames), -1)[:, :, None]
        return torch.cat([begin, found.pooler_output, grid, end], dim=1)

    def _described_tokens(self) -> int:
        vision = self._model.config.vision_config
        side = vision.image_size // vision.patch_size // vision.hidden_stride
        return int(side) ** 2 + len(self._indicators)

    def _frame_ids(self) -> Tensor:
        begin, grid, end = self._indicator_ids[:, None]
        atoms = torch.full((self.frame_shape[-2] - len(self._indicators),), self._mark)
        return torch.cat([begin, atoms, grid, end])

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        indicators = embeds.new_zeros(
            len(self._model.config.visual_indicator_token_ids), embeds.shape[-1]
        )
        indicators[list(self._indicators)] = embeds[0, [0, -2, -1]]
        output = BaseModelOutputWithVisualIndicatorFeatures(
            pooler_output=embeds[:, 1:-2], visual_indicator_features=indicators
        )
        return {"image": output}
