"""Gemma 4: a tower that reads any size, and a time before every frame of a video."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vniah.errors import ModelError
from vniah.models.configs import read_beside
from vniah.models.huggingface.any_size import AnySize
from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.models.huggingface.folder import FamilyParts
from vniah.protocol import TokenSequence

# Tokens of a frame at most, as transformers' video processor has it where no file says otherwise.
_MOST_TOKENS = 70


class Gemma4(AnySize, TransformersDecoderModel):
    """Gemma 4 (2026) on frames and text, without what it hears.

    Its video processor would choose a size by the shape of each video, such that a frame has as
    many tokens as possible up to a limit. Here that limit holds for the one common size.
    """

    model_class = "Gemma4ForConditionalGeneration"
    placeholder = template_token = "<|video|>"

    def __init__(self, parts: FamilyParts) -> None:
        # Not all tokenizers have it as a special token; the family's own processor adds it, too.
        parts.tokenizer.add_special_tokens({"additional_special_tokens": [self.placeholder]})
        for name in ("boi_token", "eoi_token"):
            if not getattr(parts.tokenizer, name, None):
                raise ModelError(
                    f"the tokenizer of {parts.name} has no {name}, which this family writes around "
                    "every frame"
                )
        self._most_tokens = _most_tokens(parts)
        super().__init__(parts)

    @property
    def _factor(self) -> int:
        vision = self._model.config.vision_config
        return int(vision.patch_size * vision.pooling_kernel_size)

    def _usual_size(self) -> tuple[int, int]:
        side = math.isqrt(self._most_tokens) * self._factor
        return side, side

    def _check_size(self) -> None:
        super()._check_size()
        if self._described_tokens() > self._most_tokens:
            width, height = self.frame_size
            raise ModelError(
                f"a frame of {width}x{height} pixels has {self._described_tokens()} tokens, and "
                f"{self.name} reads video frames of at most {self._most_tokens}; choose a smaller "
                "frame size"
            )

    def _described_tokens(self) -> int:
        return self._grid[0] * self._grid[1]

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        processed = self._image_processor(
            images=list(frames),
            do_resize=False,
            max_soft_tokens=self._most_tokens,
            return_tensors="pt",
        )
        features = self._model.get_image_features(
            processed["pixel_values"].to(self.device),
            processed["image_position_ids"].to(self.device),
        ).pooler_output
        return torch.stack(list(features))

    def _pictures(self, frames: Sequence[Image.Image]) -> list[np.ndarray]:
        return [np.array(frame) for frame in frames]  # the processor cuts them into patches only

    def _video_text(self, frames: range) -> str:
        begin, end = self._tokenizer.boi_token, self._tokenizer.eoi_token
        return " ".join(
            f"{second // 60:02d}:{second % 60:02d} {begin}{self.placeholder}{end}"
            for second in frames
        )

    def _own_arguments(self, sequence: TokenSequence, is_frame: Tensor) -> Mapping[str, Any]:
        return {"mm_token_type_ids": 2 * is_frame.long()}


def _most_tokens(parts: FamilyParts) -> int:
    """Tokens of a video frame at most, by the checkpoint's files."""
    if parts.folder is None:
        return _MOST_TOKENS
    own = read_beside(parts.folder, "video_preprocessor_config.json")
    own = own or read_beside(parts.folder, "processor_config.json").get("video_processor") or {}
    return int(own.get("max_soft_tokens") or _MOST_TOKENS)
