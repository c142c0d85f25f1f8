"""Needles and distractors: pictures or text under an id; a needle has a question and an answer."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from PIL import Image

from vniah.errors import NeedleError, quoted
from vniah.files import hash_text
from vniah.needles.bridges import Bridge, require_bridge
from vniah.needles.texts import require_distractors, require_id, require_locator, require_texts

MOST_FRAMES = 600
"""The longest clip: ten minutes at 1 FPS."""

MOST_CLIP_PIXELS = 300_000_000
"""All frames of a clip together have at most so many pixels: about 0.9 GB in memory."""


class _Pictured:
    """What needles and distractors have in common: one picture, or the frames of a clip."""

    image: Image.Image | None
    later_frames: tuple[Image.Image, ...]

    @property
    def frames(self) -> tuple[Image.Image, ...]:
        """All pictures in the order in which they are shown, `image` first; none for a text."""
        return () if self.image is None else (self.image, *self.later_frames)

    @property
    def num_frames(self) -> int:
        """1 for a picture; for a clip, the number of its frames; 0 for a text."""
        return len(self.frames)


@dataclass(frozen=True)
class Needle(_Pictured):
    """A picture or a text, the question that only it answers, and the answer.

    Two needles are equal if their texts and the pixels of their pictures are.

    Args:
        needle_id: unique within a set; ASCII letters, digits, ``-``, ``_`` and ``.`` only.
        question: what the model is asked, verbatim.
        answer: the text that is scored, every character of it; so there is no white space around
            it, nor are there characters that nobody sees.
        choices: the options of a multiple-choice question, else None. The answer is one of them
            or the letter of one. The rules of `vniah.answers` can tell all of them apart.
        image: the picture, mode ``RGB``, upright; of a clip, its first frame; None for a text.
        accepted: further correct answers, such as other spellings. Each is scored separately, and
            the best one counts. With choices, all of them name the same option as ``answer``.
        later_frames: the other frames of a clip, one for each second; empty for a picture.
        distractors: ids of pictures of the same set that may be taken for this one, the most
            similar first.
        locator: a phrase that names what is shown, e.g. ``"the red card"``; None if there is none.
        bridge: a question of two hops that begins at this picture; None if there is none.
        text: what is inserted into a text haystack, line breaks included; None for a picture.

    Attributes:
        image_sha256: identifies the picture by its size and its RGB pixels, whatever its file; of
            a clip, it identifies all frames; of a text, its characters.

    Raises:
        NeedleError: a text breaks one of these rules, a picture is not RGB, or the needle has both
            a picture and a text, or neither.
    """

    needle_id: str
    question: str
    answer: str
    choices: tuple[str, ...] | None
    image: Image.Image | None = field(compare=False, repr=False)
    accepted: tuple[str, ...] = ()
    later_frames: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)
    distractors: tuple[str, ...] = ()
    locator: str | None = None
    bridge: Bridge | None = None
    text: str | None = None
    image_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        require_id(self.needle_id)
        require_texts(self.question, self.answer, self.choices, self.accepted)
        require_distractors(self.needle_id, self.distractors)
        require_locator(self.locator)
        require_bridge(self.needle_id, self.bridge)
        if self.text is None:
            _require_frames(f"needle {self.needle_id!r}", self.frames)
            digest = _sha256_of_frames(self.frames)
        else:
            self._require_only_text(self.text)
            digest = hash_text(f"text\n{self.text}")
        object.__setattr__(self, "image_sha256", digest)

    def _require_only_text(self, text: str) -> None:
        if self.frames or not text.strip():
            raise NeedleError(
                f"needle {self.needle_id!r} must have a picture or a text that is not empty, and "
                "not both."
            )

    def __repr__(self) -> str:
        return (
            f"<Needle {self.needle_id}, {self._look}: "
            f"{quoted(self.question, 60)} {quoted(self.answer, 60)}>"
        )

    @property
    def _look(self) -> str:
        return _size_of(self) if self.text is None else quoted(self.text.strip(), 60)

    @property
    def answers(self) -> tuple[str, ...]:
        """All correct answers, `answer` first."""
        return (self.answer, *self.accepted)


@dataclass(frozen=True)
class Distractor(_Pictured):
    """A picture that is only shown beside needles: nothing is asked about it.

    Attributes are as those of `Needle`; two distractors are equal if their pixels and locators are.

    Raises:
        NeedleError: the id or the locator cannot be used, or a picture is not RGB.
    """

    needle_id: str
    image: Image.Image = field(compare=False, repr=False)
    later_frames: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)
    locator: str | None = None
    image_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        require_id(self.needle_id)
        require_locator(self.locator)
        _require_frames(f"distractor {self.needle_id!r}", self.frames)
        object.__setattr__(self, "image_sha256", _sha256_of_frames(self.frames))

    def __repr__(self) -> str:
        return f"<Distractor {self.needle_id}, {_size_of(self)}>"


def require_clip_size(what: str, num_frames: int, num_pixels: int) -> None:
    """Raises `NeedleError` unless a clip is small enough to be held in memory.

    Args:
        what: begins the message, e.g. ``"needle 'red-7'"``.
        num_frames: the number of its frames, or of those read so far.
        num_pixels: the pixels of them all together.
    """
    if num_frames > MOST_FRAMES:
        raise NeedleError(
            f"{what} has more than {MOST_FRAMES} frames at 1 frame per second; cut the clip."
        )
    if num_pixels > MOST_CLIP_PIXELS and num_frames > 1:
        raise NeedleError(
            f"{what} has more than {MOST_CLIP_PIXELS:,} pixels in all its frames; scale the clip "
            "down, or cut it."
        )


def _size_of(picture: _Pictured) -> str:
    width, height = picture.frames[0].size
    frames = f", {picture.num_frames} frames" if picture.later_frames else ""
    return f"{width}x{height} pixels{frames}"


def _require_frames(what: str, frames: tuple[Image.Image, ...]) -> None:
    if not frames:
        raise NeedleError(f"{what} has neither a picture nor a text.")
    if wrong := [frame.mode for frame in frames if frame.mode != "RGB"]:
        raise NeedleError(
            f'{what} has a picture of mode {wrong[0]!r}; turn it to RGB with image.convert("RGB").'
        )
    require_clip_size(what, len(frames), sum(frame.width * frame.height for frame in frames))


def _sha256_of_frames(frames: Iterable[Image.Image]) -> str:
    digests = [_sha256_of_pixels(frame) for frame in frames]
    return digests[0] if len(digests) == 1 else hash_text("clip\n" + "\n".join(digests))


def _sha256_of_pixels(image: Image.Image) -> str:
    width, height = image.size
    return hashlib.sha256(f"RGB {width}x{height}\n".encode() + image.tobytes()).hexdigest()
