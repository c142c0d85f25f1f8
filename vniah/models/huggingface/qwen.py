"""Qwen-VL: frames of any size, and M-RoPE with three positions for each row."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.utils import ModelOutput

from vniah.models.huggingface.groups import Groups
from vniah.models.huggingface.positions import frames_as_images, frames_as_video
from vniah.protocol import TokenSequence


class Qwen2VL(Groups):
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


class Timestamped(Groups):
    """Every frame is a picture of its own, with its timestamp before it.

    The chat template puts vision_start and vision_end around a video. transformers 5.23 keeps these
    and writes a pair around every frame as well. The authors' processor, and transformers up to
    4.57, write only the pairs around frames, and so does this class.
    """

    placeholder = template_token = "<|video_pad|>"

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """Time, height and width of every row: ``[3, num_tokens]``."""
        return frames_as_images(sequence, self._grid)

    def _expand(self, text: str, frames: range) -> str:
        marked = f"<|vision_start|>{self.template_token}<|vision_end|>"
        token = marked if marked in text else self.template_token
        return text.replace(token, self._video_text(frames), 1)

    def _video_text(self, frames: range) -> str:
        return "".join(
            f"<{second:.1f} seconds><|vision_start|>{self.placeholder}<|vision_end|>"
            for second in frames
        )


class Deepstack(Groups):
    """A cached frame also holds the DeepStack features that the first layers add to its rows.

    Its shape is ``(1 + layers, tokens, hidden size)``.
    """

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


class Qwen3VL(Timestamped, Deepstack):
    """Qwen3-VL (2025): a timestamp before every frame, and DeepStack features."""

    model_class = "Qwen3VLForConditionalGeneration"


class Qwen3VLMoe(Qwen3VL):
    """Qwen3-VL with a mixture of experts."""

    model_class = "Qwen3VLMoeForConditionalGeneration"


class Qwen35(Timestamped):
    """Qwen3.5 (2026): a timestamp before every frame; most layers are recurrent (gated delta)."""

    model_class = "Qwen3_5ForConditionalGeneration"


class Qwen35Moe(Qwen35):
    """Qwen3.5 with a mixture of experts."""

    model_class = "Qwen3_5MoeForConditionalGeneration"
