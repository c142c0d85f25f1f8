"""Gemma 3, in which the rows of an image attend to one another."""

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.protocol import FrameSegment, TokenSequence


class Gemma3(TransformersDecoderModel):
    """Gemma 3 (2025): every frame is an image, whose rows attend to one another.

    Between two images stands text, so that a prefix that ends behind an image is the same whatever
    follows it.
    """

    model_class = "Gemma3ForConditionalGeneration"
    placeholder = "<image_soft_token>"
    template_token = "<start_of_image>"
    is_video = False

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = self._image_processor(
            images=list(frames), do_pan_and_scan=False, return_tensors="pt"
        )["pixel_values"]
        return pixels

    def _described_tokens(self) -> int:
        return math.isqrt(self._model.config.mm_tokens_per_image) ** 2

    def _image_text(self) -> str:
        return f"\n\n{self.template_token}{self.placeholder}<end_of_image>\n\n"

    @torch.inference_mode()
    def answer_logits(self, sequence: TokenSequence, embeds: Tensor) -> Tensor:
        """One pass of the model's own forward: ``[len(answer_ids), vocabulary]``.

        Args:
            sequence: what `compose` gave.
            embeds: its frames in reading order, ``[num_frames, *frame_shape]``.
        """
        is_image = [
            torch.full((self.frame_shape[0],), 1)
            if isinstance(segment, FrameSegment)
            else torch.zeros(len(segment.token_ids), dtype=torch.long)
            for segment in sequence.inputs
        ]
        logits: Tensor = self._model(
            inputs_embeds=self._embed_into(sequence, embeds),
            token_type_ids=torch.cat(is_image)[None].to(self.device),
            logits_to_keep=len(sequence.answer_ids),
            use_cache=False,
        ).logits[0]
        return logits
