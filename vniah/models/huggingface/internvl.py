"""InternVL (Zhu et al. 2025): one tile per frame, and the frame's number before it."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from vniah.models.huggingface.base import TransformersDecoderModel


class InternVL(TransformersDecoderModel):
    """InternVL in the layout of transformers; a frame is never cut into tiles."""

    model_class = "InternVLForConditionalGeneration"
    frame_unit = "one video frame, one tile, with its number"
    placeholder = "<IMG_CONTEXT>"
    template_token = "<video>"

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        processed = self._image_processor(
            images=list(frames), crop_to_patches=False, return_tensors="pt"
        )
        pixels = processed["pixel_values"].to(self.device, self.dtype)
        features: Tensor = self._model.get_image_features(pixels).pooler_output
        return features

    def _video_text(self, num_frames: int) -> str:
        return "\n".join(
            f"Frame{number}: <img>{self.placeholder}</img>" for number in range(1, num_frames + 1)
        )
