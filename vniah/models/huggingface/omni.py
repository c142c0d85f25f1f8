"""The thinkers of Qwen-Omni: what of these models reads frames and writes text.

Audio is off: frames have no sound, and the audio tower of a checkpoint is not read. Of a checkpoint
of the whole model, with the talker that speaks, only the thinker is read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vniah.models.huggingface.groups import Groups
from vniah.models.huggingface.positions import frames_as_video
from vniah.models.huggingface.qwen import Deepstack
from vniah.protocol import TokenSequence


class _Thinker(Groups):
    """One video, times counted in ``position_id_per_seconds``, without timestamps in the text."""

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """Time, height and width of every row: ``[3, num_tokens]``."""
        interval = int(self._model.config.position_id_per_seconds)
        return frames_as_video(sequence, self._grid, interval=interval)

    def _own_arguments(self, sequence: TokenSequence, is_frame: Tensor) -> Mapping[str, Any]:
        """With a mask: without one, transformers gives the rows of frames positions of text."""
        grid = super()._own_arguments(sequence, is_frame)["video_grid_thw"]
        return {
            "video_grid_thw": grid,
            "video_second_per_grid": torch.ones(1, device=self.device),
            "attention_mask": torch.ones_like(is_frame, dtype=torch.long),
        }


class Qwen25Omni(_Thinker):
    """The thinker of Qwen2.5-Omni (Xu et al. 2025)."""

    model_class = "Qwen2_5OmniThinkerForConditionalGeneration"
    placeholder = template_token = "<|VIDEO|>"


class Qwen3OmniMoe(Deepstack, _Thinker):
    """The thinker of Qwen3-Omni (2025): a mixture of experts with DeepStack features."""

    model_class = "Qwen3OmniMoeThinkerForConditionalGeneration"
    placeholder = template_token = "<|video_pad|>"
