"""EXAONE 4.5: groups of frames without timestamps, and positions as those of text."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vniah.models.huggingface.folder import FamilyParts
from vniah.models.huggingface.groups import Groups
from vniah.protocol import TokenSequence


class Exaone45(Groups):
    """EXAONE 4.5 (2026): sliding layers with RoPE, and full ones without positions."""

    model_class = "Exaone4_5_ForConditionalGeneration"

    def __init__(self, parts: FamilyParts) -> None:
        token = getattr(parts.tokenizer, "video_token", None)
        self.placeholder = self.template_token = token or "<|video_pad|>"
        super().__init__(parts)

    def _own_arguments(self, sequence: TokenSequence, is_frame: Tensor) -> Mapping[str, Any]:
        return {}  # it has no M-RoPE
