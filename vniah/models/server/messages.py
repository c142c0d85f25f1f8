"""Frames as the parts of a chat message: JPEGs of one size in base64.

All frames of a run, needles too, are scaled to fit one size, with black bars where their shape
differs. So each frame takes a server the same number of tokens, which `vniah.engines.prompt_tokens`
uses as a check, and a server can stack the frames into a video.

The JPEGs have quality 90 and no chroma subsampling, which blurs coloured text (28.6 instead of
35.7 dB on a page of small coloured text). A PNG of a video frame is several times as large. A frame
of 448 x 448 takes some 45 kB, or 60 kB in base64.

A video file is never sent: a server would sample frames from it by a rule of its own, and could
skip the needle.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from vniah.errors import InputError, ModelError

if TYPE_CHECKING:
    import numpy as np

FramesAs = Literal["images", "video-jpeg"]
"""One message part for each frame, which all servers support; or one for all, for vLLM."""

_QUALITY = 90
_FULL_CHROMA = 0  # what PIL calls 4:4:4
_MAX_SIDE = 8192

# Without these, vLLM silently keeps only the first 32 frames of such a video.
_WHOLE_VIDEO = {
    "media_io_kwargs": {"video": {"num_frames": -1, "fps": 1, "do_sample_frames": False}}
}


@dataclass(frozen=True)
class FrameFormat:
    """How frames are sent to a server.

    Attributes:
        frames_as: as one message part for each, or all in one.
        size: (width, height) in pixels of every frame as it is sent.

    Raises:
        InputError: a value is invalid.
    """

    frames_as: FramesAs = "images"
    size: tuple[int, int] = (448, 448)

    def __post_init__(self) -> None:
        if self.frames_as not in get_args(FramesAs):
            raise InputError(
                f"frames_as must be one of {', '.join(get_args(FramesAs))}, got {self.frames_as!r}"
            )
        if not all(1 <= side <= _MAX_SIDE for side in self.size):
            raise InputError(
                f"the size of frames must be 1x1 to {_MAX_SIDE}x{_MAX_SIDE} pixels, got "
                f"{self._size_text}"
            )

    def settings(self) -> Mapping[str, str | int]:
        """The format as it is recorded in the manifest."""
        return {
            "frames_as": self.frames_as,
            "frame_size": self._size_text,
            "frame_encoding": f"jpeg, quality {_QUALITY}, 4:4:4",
        }

    @property
    def _size_text(self) -> str:
        return f"{self.size[0]}x{self.size[1]}"

    def encode(self, frame: "np.ndarray") -> str:
        """A frame as text for `content`; it can be used in several requests.

        Args:
            frame: RGB uint8, ``[height, width, 3]``.

        Raises:
            ModelError: the frame has another shape or dtype.
        """
        text = base64.b64encode(self._jpeg(frame)).decode("ascii")
        return text if self.frames_as == "video-jpeg" else f"data:image/jpeg;base64,{text}"

    def prepare(self, frame: "np.ndarray") -> "np.ndarray":
        """A frame as the server gets it: RGB uint8, of `size`, with what the JPEG lost.

        Args:
            frame: as for `encode`.

        Raises:
            ModelError: as `encode`.
        """
        import numpy as np
        from PIL import Image

        return np.array(Image.open(io.BytesIO(self._jpeg(frame))))

    def _jpeg(self, frame: "np.ndarray") -> bytes:
        from PIL import Image, ImageOps

        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype.name != "uint8":
            raise ModelError(
                f"a frame must be RGB uint8 [height, width, 3], got {frame.dtype.name} "
                f"{list(frame.shape)}"
            )
        picture = Image.fromarray(frame)
        if picture.size != self.size:
            picture = ImageOps.pad(picture, self.size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY, subsampling=_FULL_CHROMA)
        return file.getvalue()

    def content(self, frames: Sequence[str], question: str) -> list[dict[str, Any]]:
        """The parts of a user's message: all frames in order, then the question.

        Args:
            frames: each as `encode` gave it.
            question: verbatim.
        """
        if not frames:
            parts = []
        elif self.frames_as == "video-jpeg":
            parts = [_part("video_url", f"data:video/jpeg;base64,{','.join(frames)}")]
        else:
            parts = [_part("image_url", frame) for frame in frames]
        return [*parts, {"type": "text", "text": question}]

    @property
    def extra_body(self) -> dict[str, Any]:
        """Further fields of a request that make a server read every frame."""
        return dict(_WHOLE_VIDEO) if self.frames_as == "video-jpeg" else {}


def _part(kind: str, url: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}
