"""The LLaVA families in the layout of transformers.

What the rows of a frame are in each of them:

    LLaVA-1.5          all patches of a frame; frames are images
    LLaVA-NeXT-Video   pooled two by two *before* the projector; no row between frames
    LLaVA-OneVision    pooled after the projector, ceil(27 / 2) rows and columns; one row
                       image_newline after the last frame, which is of no token
    Video-LLaVA        all patches and the class token
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.models.huggingface.folder import FamilyParts
from vniah.models.padding import pad_to_square
from vniah.models.vocabulary import append_rows


class _Patches(TransformersDecoderModel):
    """A tower that gives features for each patch of a frame."""

    def _num_features(self) -> int | None:
        """The features of a frame that are used, of a tower that says how many it has."""
        config, inner = self._model.config, self._model.model
        embeddings = getattr(inner.vision_tower, "embeddings", None)
        num_positions = getattr(embeddings, "num_positions", None)
        if num_positions is None:
            return None
        skips_first = config.vision_feature_select_strategy == "default"
        return int(num_positions) - int(skips_first)


class _Padded(_Patches):
    """A CLIP tower. Its processor would crop the sides of a frame, so frames are padded before."""

    def _fit(self, frame: Image.Image) -> Image.Image:
        return pad_to_square(frame, self._image_processor.image_mean)

    def _preprocessing(self) -> str:
        return f"padded to a square, {super()._preprocessing()}"


class Llava(_Padded):
    """LLaVA-1.5 (Liu et al. 2023): every frame is an image."""

    model_class = "LlavaForConditionalGeneration"
    placeholder = template_token = "<image>"
    is_video = False

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        processed = self._image_processor(images=list(frames), return_tensors="pt")
        pixels: Tensor = processed["pixel_values"]
        return pixels

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels = self._pixels(frames).to(self.device, self.dtype)
        return torch.stack(list(self._model.get_image_features(pixels).pooler_output))

    def _described_tokens(self) -> int | None:
        return self._num_features()


class LlavaNextVideo(_Padded):
    """LLaVA-NeXT-Video (Zhang et al. 2024): a video without rows between its frames."""

    model_class = "LlavaNextVideoForConditionalGeneration"
    placeholder = template_token = "<video>"

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        return _whole_pictures(self._image_processor, frames)

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels = self._pixels(frames).to(self.device, self.dtype)
        features: Tensor = self._model.get_video_features(pixels[:, None]).pooler_output
        return features

    def _described_tokens(self) -> int | None:
        num_features = self._num_features()
        if num_features is None:
            return None
        return int(math.isqrt(num_features) // self._model.config.spatial_pool_stride) ** 2

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        return {"video": BaseModelOutputWithPooling(pooler_output=embeds.flatten(0, 1)[None])}


class LlavaOnevision(_Patches):
    """LLaVA-OneVision (Li et al. 2024): a video, and one newline row after all of it."""

    model_class = "LlavaOnevisionForConditionalGeneration"
    placeholder = template_token = "<video>"

    def __init__(self, parts: FamilyParts) -> None:
        super().__init__(parts)
        body = self.decoder.model
        self._newline_id = body.embed_tokens.num_embeddings
        body.embed_tokens = append_rows(body.embed_tokens, parts.model.model.image_newline[None])

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        return _whole_pictures(self._image_processor, frames)

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels = self._pixels(frames).to(self.device, self.dtype)
        features: Tensor = self._model.get_video_features(pixels[:, None]).pooler_output
        return features[:, :-1]  # each frame is a video here, so each ends with a newline

    def _described_tokens(self) -> int | None:
        num_features = self._num_features()
        return None if num_features is None else math.ceil(math.isqrt(num_features) / 2) ** 2

    def _after_frames(self) -> Sequence[tuple[int, ...]]:
        return [(self._newline_id,)]

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        newline = self._model.model.image_newline[None].to(embeds)
        rows = torch.cat([embeds.flatten(0, 1), newline])
        return {"video": BaseModelOutputWithPooling(pooler_output=rows[None])}


class VideoLlava(_Padded):
    """Video-LLaVA (Lin et al. 2023): a video, with the class token of every frame."""

    model_class = "VideoLlavaForConditionalGeneration"
    placeholder = template_token = "<video>"

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        processed = self._image_processor(images=list(frames), return_tensors="pt")
        pixels: Tensor = processed[next(iter(processed))]
        return pixels

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels = self._pixels(frames).to(self.device, self.dtype)
        features = self._model.model.get_video_features(pixels[None]).pooler_output
        whole = features if isinstance(features, Tensor) else torch.cat(list(features))
        return whole.reshape(len(frames), -1, whole.shape[-1])

    def _described_tokens(self) -> int | None:
        return int(self._model.model.video_tower.embeddings.num_positions)

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        return {"video": BaseModelOutputWithPooling(pooler_output=embeds)}


def _whole_pictures(processor: Any, frames: Sequence[Image.Image]) -> Tensor:
    """Each frame as one picture, ``[n, 3, side, side]``: the whole one of AnyRes."""
    pictures = [
        processor(images=frame, return_tensors="pt")["pixel_values"][0, 0] for frame in frames
    ]
    return torch.stack(pictures)
