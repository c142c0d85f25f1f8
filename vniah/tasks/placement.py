"""Where needles and other pictures stand among the frames of the haystack.

Pictures are inserted and replace no frame. An index is the number of haystack frames before what is
inserted, so that it means the same whatever else is inserted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Literal, get_args

from vniah.errors import TaskError
from vniah.needles import Distractor, Needle
from vniah.needles.records import MOST_FRAMES
from vniah.protocol import HAYSTACK, FrameSpan, blended_source, needle_source
from vniah.tasks.parsing import Option, one_of, whole_number

Style = Literal["frame", "blended"]


@dataclass(frozen=True)
class NeedleLook:
    """How a needle is shown; every task with needles takes this as two options.

    Attributes:
        frames: for how many frames (seconds) it is on screen; by default one for a picture, and
            all frames of a clip.
        style: ``"frame"`` shows its picture as a frame of its own, ``"blended"`` draws it into a
            frame of the haystack, so that it does not stand out.
    """

    frames: int | None = None
    style: Style = "frame"

    @classmethod
    def parse(cls, needle_frames: Option, needle_style: Option) -> "NeedleLook":
        """The look that two options of a task say; None stands for the default.

        Raises:
            TaskError: one of them is invalid.
        """
        frames = None
        if needle_frames is not None:
            frames = whole_number(needle_frames, "needle_frames", at_least=1, at_most=MOST_FRAMES)
        style = "frame" if needle_style is None else needle_style
        return cls(frames, one_of(style, "needle_style", get_args(Style)))  # type: ignore[arg-type]

    @property
    def settings(self) -> Mapping[str, int | str]:
        """For the manifest: what differs from the default."""
        found: dict[str, int | str] = {}
        if self.frames is not None:
            found["needle_frames"] = self.frames
        if self.style != "frame":
            found["needle_style"] = self.style
        return found


def needle_spans(
    needle: Needle | Distractor, needle_index: int, look: NeedleLook | None = None
) -> tuple[FrameSpan, ...]:
    """The frames of one needle as a sample shows it.

    A picture is shown again and again; a clip begins anew after its last frame.

    Args:
        needle: the needle, or a distractor, which is shown in the same way.
        needle_index: haystack frames before it. Blended, it is drawn into a copy of the frame
            before it, or of the first frame where there is none before it.
        look: how it is shown.
    """
    look = look or NeedleLook()
    num_frames = look.frames or needle.num_frames
    if look.style == "blended":
        frame = max(needle_index - 1, 0)
        numbers = (number % needle.num_frames for number in range(num_frames))
        sources = (blended_source(needle.needle_id, number) for number in numbers)
        return tuple(FrameSpan(source, frame, frame + 1) for source in sources)
    source, length = needle_source(needle.needle_id), needle.num_frames
    starts = range(0, num_frames, length)
    return tuple(FrameSpan(source, 0, min(length, num_frames - start)) for start in starts)


def insert(
    num_frames: int, insertions: Sequence[tuple[int, Sequence[FrameSpan]]]
) -> tuple[FrameSpan, ...]:
    """The first ``num_frames`` frames of the haystack, with frames inserted among them.

    Args:
        num_frames: haystack frames.
        insertions: what is inserted, each with the number of haystack frames before it, in
            ``[0, num_frames]``; what has the same index is shown in the order given.

    Raises:
        TaskError: an index is out of bounds.
    """
    spans: list[FrameSpan] = []
    start = 0
    for index, inserted in sorted(insertions, key=itemgetter(0)):
        if not 0 <= index <= num_frames:
            raise TaskError(
                f"needle_index must be between 0 and the number of frames, {num_frames}, got "
                f"{index}"
            )
        spans += _haystack(start, index)
        spans += inserted
        start = index
    spans += _haystack(start, num_frames)
    return tuple(spans)


def insert_needles(
    num_frames: int, placed: Iterable[tuple[Needle | Distractor, int]], look: NeedleLook
) -> tuple[FrameSpan, ...]:
    """The first ``num_frames`` frames of the haystack, with needles inserted among them.

    Args:
        num_frames: haystack frames.
        placed: each needle with the number of haystack frames before it.
        look: how they are shown.

    Raises:
        TaskError: a place is out of bounds.
    """
    return insert(
        num_frames, [(index, needle_spans(needle, index, look)) for needle, index in placed]
    )


def insert_needle(num_frames: int, needle_index: int, needle_id: str) -> tuple[FrameSpan, ...]:
    """The first ``num_frames`` frames of the haystack, with a needle inserted among them.

    The needle replaces no frame, so ``num_frames + 1`` frames are shown.

    Args:
        num_frames: haystack frames.
        needle_index: haystack frames before the needle, in ``[0, num_frames]``.
        needle_id: id of the needle, whose picture is shown for one frame.
    """
    return insert(num_frames, [(needle_index, (FrameSpan(needle_source(needle_id), 0, 1),))])


def haystack_frames(num_frames: int) -> tuple[FrameSpan, ...]:
    """The first ``num_frames`` frames of the haystack."""
    return _haystack(0, num_frames)


@lru_cache(maxsize=1 << 12)
def _haystack(start: int, stop: int) -> tuple[FrameSpan, ...]:
    return (FrameSpan(HAYSTACK, start, stop),) if start < stop else ()
