"""Vision towers that read pictures of any size: every frame is brought to one common size.

An image processor would choose a size by the shape of each picture, and a video processor by their
number. Here a frame is scaled to fit into a size that is chosen once, and padded, so that all
frames have equally many tokens and no part of a frame is lost.
"""

from PIL import Image

from vniah.errors import ModelError
from vniah.models.huggingface.base import TransformersModel
from vniah.models.padding import pad

USUAL_SIDE = 392  # px: 14 x 14 tokens of 28 px, or 12 x 12 of 32 px


class AnySize(TransformersModel):
    """Frames are scaled to fit into one common size, and padded with the mean colour."""

    takes_frame_size = True

    @property
    def _factor(self) -> int:
        """Side in pixels of the square that becomes one token."""
        vision = self._model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    @property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        return self.frame_size[1] // self._factor, self.frame_size[0] // self._factor

    def _usual_size(self) -> tuple[int, int]:
        side = max(1, USUAL_SIDE // self._factor) * self._factor
        return side, side

    def _check_size(self) -> None:
        factor, (width, height) = self._factor, self.frame_size
        nearest = [max(1, round(side / factor)) * factor for side in (width, height)]
        if nearest != [width, height]:
            raise ModelError(
                f"the frame size must be multiples of {factor} pixels for {self.name}, got "
                f"{width}x{height}; the nearest is {nearest[0]}x{nearest[1]}"
            )

    def _preprocessing(self) -> str:
        return f"scaled to fit, padded to {super()._preprocessing()}"

    def _fit(self, frame: Image.Image) -> Image.Image:
        width, height = self.frame_size
        scale = min(height / frame.height, width / frame.width)
        inner = (
            min(width, max(1, round(frame.width * scale))),
            min(height, max(1, round(frame.height * scale))),
        )
        if inner != frame.size:
            frame = frame.resize(inner, Image.Resampling.BICUBIC)
        return pad(frame, (width, height), self._image_processor.image_mean)
