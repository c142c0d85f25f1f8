"""Idefics3 and SmolVLM: a frame is one square picture, never split, between special tokens.

The text that SmolVLM writes before a video states its number of frames and its length. So only
samples with equally many frames share a prefix.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vniah.errors import MissingDependencyError
from vniah.models.huggingface.base import TransformersDecoderModel


class Idefics3(TransformersDecoderModel):
    """Idefics3 (Laurencon et al. 2024): every frame is an image."""

    model_class = "Idefics3ForConditionalGeneration"
    placeholder = template_token = "<image>"
    is_video = False

    @staticmethod
    def find_body(model: Any) -> Any:
        """The decoder without its head."""
        return model.model.text_model

    def _processed(self, frames: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        """What the image processor gives for frames that belong to one message."""
        processed: Mapping[str, Tensor] = self._image_processor(
            images=[list(frames)], do_image_splitting=False, return_tensors="pt", **self._scaling()
        )
        return processed

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        return self._processed(frames)["pixel_values"][0]

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        processed = self._processed(frames)
        mask: Mapping[str, Tensor] = {
            key: processed[key].to(self.device)
            for key in ("pixel_attention_mask",)
            if key in processed
        }
        pixels = processed["pixel_values"].to(self.device, self.dtype)
        features = self._model.get_image_features(pixels, **mask).pooler_output
        whole = features if isinstance(features, Tensor) else torch.cat(list(features))
        return whole.reshape(len(frames), -1, whole.shape[-1])

    def _described_tokens(self) -> int:
        config, (width, height) = self._model.config, self.frame_size
        side = config.vision_config.patch_size
        return int((width // side) * (height // side) // config.scale_factor**2)

    def _scaling(self) -> Mapping[str, Any]:
        """Further arguments for the image processor."""
        return {}

    def _usual_size(self) -> tuple[int, int]:
        side = int(self._image_processor.max_image_size["longest_edge"])
        return side, side

    def _image_text(self) -> str:
        around = "<fake_token_around_image>"
        return f"{around}<global-img>{self.placeholder}{around}"


class SmolVLM(Idefics3):
    """SmolVLM2 (Marafioti et al. 2025): a video with a time before every frame."""

    model_class = "SmolVLMForConditionalGeneration"
    template_token = "<video>"
    is_video = True

    def _scaling(self) -> Mapping[str, Any]:
        """Scales to the square at once, as for a video; an image would be enlarged before."""
        return {"size": {"longest_edge": self.frame_size[0]}}

    def _own_template(self, template: str) -> str:
        """The template that transformers' processor always uses for videos."""
        from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

        return str(DEFAULT_CHAT_TEMPLATE)

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        return {"image": super()._encoder_outputs(embeds)["video"]}  # its frames are images

    def _video_text(self, frames: range) -> str:
        try:
            from num2words import num2words
        except ImportError as error:
            raise MissingDependencyError(
                "num2words", extra="families", purpose="the prompt of SmolVLM"
            ) from error
        from transformers.models.smolvlm.processing_smolvlm import (
            DEFAULT_MEDIA_OUTTRO,
            DEFAULT_VIDEO_INTRO,
            FRAME_TIMESTAMP_MESSAGE,
        )

        intro = DEFAULT_VIDEO_INTRO.format(
            frame_count=num2words(len(frames)), video_duration=str(timedelta(seconds=len(frames)))
        )
        shown = [
            FRAME_TIMESTAMP_MESSAGE.format(timestamp=f"{second // 60:02d}:{second % 60:02d}")
            + self._image_text()
            for second in frames
        ]
        return f"{intro}{''.join(shown)}{DEFAULT_MEDIA_OUTTRO}"
