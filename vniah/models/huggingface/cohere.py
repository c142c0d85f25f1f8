"""Aya Vision and Command A Vision of Cohere: a frame is one tile, with special tokens around it.

Cohere's language models multiply their logits by ``logit_scale``. The classes of transformers 5.23
for the whole model leave that out; those of its language models, and its versions up to 4.51, do
it. It changes no argmax, but probabilities very much, so vniah multiplies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vniah.errors import ModelError
from vniah.models.huggingface.base import TransformersDecoderModel


class _Tile(TransformersDecoderModel):
    """A frame is scaled to the square that the tower reads, and never cut into more tiles."""

    is_video = False

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = self._image_processor(
            images=list(frames), crop_to_patches=False, return_tensors="pt"
        )["pixel_values"]
        return pixels

    def _described_tokens(self) -> int:
        config = self._model.config
        side = config.vision_config.image_size // config.vision_config.patch_size
        return int(side // config.downsample_factor) ** 2

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        return {"image": BaseModelOutputWithPooling(pooler_output=embeds)}

    def _logit_scale(self) -> float:
        return float(self._model.config.get_text_config().logit_scale)


class AyaVision(_Tile):
    """Aya Vision (Dash et al. 2025): every frame is an image, of its whole picture only."""

    model_class = "AyaVisionForConditionalGeneration"
    placeholder = "<|IMG_PATCH|>"
    template_token = "<image>"

    def _image_text(self) -> str:
        return f"<|START_OF_IMG|>TILE_GLOBAL{self.placeholder}<|END_OF_IMG|>"


class Cohere2Vision(_Tile):
    """Command A Vision (2025): every frame is an image of one tile, which a line break ends."""

    model_class = "Cohere2VisionForConditionalGeneration"
    placeholder = template_token = "<|IMG_PATCH|>"
    pillow_processor = "GotOcr2ImageProcessorPil"

    def _image_text(self) -> str:
        begin, line_break, end = map(
            self._named_token, ("boi_token", "img_line_break_token", "eoi_token")
        )
        return f"{begin}{self.placeholder}{line_break}{end}"

    def _named_token(self, name: str) -> str:
        """A special token that the tokenizer's file names."""
        token = getattr(self._tokenizer, name, None)
        if token is None:
            raise ModelError(
                f"the tokenizer of {self.name} names no {name}, which stands around its frames; "
                "take tokenizer_config.json from the published checkpoint"
            )
        return str(token)
