"""MiniCPM-V 4.6: every frame between image tokens, and positions as those of text."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vniah.errors import ModelError
from vniah.models.huggingface.any_size import AnySize
from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.models.huggingface.folder import FamilyParts


class MiniCPMV46(AnySize, TransformersDecoderModel):
    """MiniCPM-V 4.6 (Yu et al. 2025): frames that are not cut into slices, without numbers.

    So its authors read videos. transformers 5.23 by default cuts a large frame into slices, and
    writes the number of a video before it as if it were an image (``use_image_id``).
    """

    model_class = "MiniCPMV4_6ForConditionalGeneration"

    def __init__(self, parts: FamilyParts) -> None:
        self.placeholder = self.template_token = _named_token(parts, "video_token")
        self._start = _named_token(parts, "image_start_token")
        self._end = _named_token(parts, "image_end_token")
        super().__init__(parts)

    @property
    def _factor(self) -> int:
        """The tower merges 2 x 2 patches in its middle, if it does, and the projector more."""
        config = self._model.config
        in_tower = 1 if config.downsample_mode == "4x" else 2
        behind: int = config.merge_kernel_size[0] ** config.merger_times
        return int(config.vision_config.patch_size) * in_tower * behind

    def _usual_size(self) -> tuple[int, int]:
        side = max(1, self._image_processor.scale_resolution // self._factor) * self._factor
        return side, side

    def _pictures(self, frames: Sequence[Image.Image]) -> list[np.ndarray]:
        return [np.array(frame) for frame in frames]  # the processor cuts them into patches only

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        processed = self._image_processor(
            images=list(frames), do_resize=False, slice_mode=False, return_tensors="pt"
        )
        pixels = processed["pixel_values"].to(self.device, self.dtype)
        sizes = processed["target_sizes"].to(self.device)
        return torch.stack(list(self._model.get_image_features(pixels, sizes).pooler_output))

    def _described_tokens(self) -> int:
        return self._grid[0] * self._grid[1]

    def _video_text(self, frames: range) -> str:
        return f"{self._start}{self.placeholder}{self._end}" * len(frames)


def _named_token(parts: FamilyParts, name: str) -> str:
    """A special token of the checkpoint, which its tokenizer knows by a name."""
    token = getattr(parts.tokenizer, name, None)
    if not isinstance(token, str):
        raise ModelError(
            f"the tokenizer of {parts.name} names no {name}; its tokenizer_config.json needs it "
            "among the extra_special_tokens"
        )
    return token
