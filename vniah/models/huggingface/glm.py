"""GLM-V: frames of any size between image tokens, the time of each after it, and M-RoPE."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from vniah.errors import ModelError, quoted
from vniah.models.configs import named_processor
from vniah.models.huggingface.folder import FamilyParts
from vniah.models.huggingface.groups import Groups
from vniah.models.huggingface.positions import frames_as_images
from vniah.protocol import TokenSequence

# How the processors of transformers write the time of a frame. GLM-4.6V has the model_type of
# GLM-4.5V and GLM-4.6V-Flash that of GLM-4.1V; their processor alone tells them apart.
_TIMES: Mapping[str, Callable[[int], str]] = {
    "Glm4vProcessor": "{}".format,
    "Glm46VProcessor": "{:.1f} seconds".format,
}


class Glm4v(Groups):
    """GLM-4.1V (Hong et al. 2025): every frame between image tokens, its second after it."""

    model_class = "Glm4vForConditionalGeneration"
    placeholder = "<|image|>"
    template_token = "<|video|>"
    usual_processor: ClassVar[str] = "Glm4vProcessor"  # of checkpoints that name none

    def __init__(self, parts: FamilyParts) -> None:
        named = None if parts.folder is None else named_processor(parts.folder)
        processor = named or self.usual_processor
        if processor not in _TIMES:
            raise ModelError(
                f"{parts.name} names the processor {quoted(processor, 60)}, which may write the "
                f"times of frames in another way; known are {', '.join(_TIMES)}"
            )
        self._write_time = _TIMES[processor]
        super().__init__(parts)

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """Time, height and width of every row: ``[3, num_tokens]``."""
        return frames_as_images(sequence, self._grid)

    def _video_text(self, frames: range) -> str:
        before, after = f"<|begin_of_image|>{self.placeholder}", "<|end_of_image|>"
        return "".join(f"{before}{after}{self._write_time(second)}" for second in frames)


class Glm4vMoe(Glm4v):
    """GLM-4.5V and GLM-4.6V: GLM-V with a mixture of experts."""

    model_class = "Glm4vMoeForConditionalGeneration"


class Glm46V(Glm4v):
    """GLM-4.6V in a layout that names its decoder: that of GLM-4.1V or of GLM-4.5V."""

    model_class = "Glm46VForConditionalGeneration"
    usual_processor = "Glm46VProcessor"
