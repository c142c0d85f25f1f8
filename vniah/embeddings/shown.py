"""Which pictures samples show beside the frames of the haystack and the needles' own pictures."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vniah.errors import InputError, counted, quoted
from vniah.needles.blending import blend
from vniah.protocol import HAYSTACK, FrameSpan, blended_source, needle_source

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from vniah.needles import Distractor, Needle, NeedleSet


def frames_shown(spans: Iterable[FrameSpan]) -> list[int]:
    """The numbers of all haystack frames in some spans, ascending and each once."""
    own = {(span.start, span.stop) for span in spans if span.source == HAYSTACK}
    return sorted({frame for start, stop in own for frame in range(start, stop)})


@dataclass(frozen=True)
class BlendedPicture:
    """One picture that is drawn into frames of the haystack.

    Attributes:
        source: as samples name it.
        needle_id: the needle or distractor whose picture it is.
        image: the picture; of a clip, one of its frames.
        image_sha256: identifies the needle's picture; of a clip, all of its frames.
        number: the number of the frame in a clip, else 0.
        indices: the haystack frames into which it is drawn, in order.
    """

    source: str
    needle_id: str
    image: "Image.Image"
    image_sha256: str
    number: int
    indices: tuple[int, ...]

    def drawn_into(self, frame: "np.ndarray", index: int) -> "np.ndarray":
        """A copy of the haystack frame with this number, with the picture in it."""
        return blend(frame, self.image, needle_id=self.needle_id, index=index)


@dataclass(frozen=True)
class ShownPictures:
    """What is shown besides the frames of the haystack and the pictures of the needles.

    Attributes:
        others: pictures of the set that are not those of its needles, in the order of the set.
        blended: pictures that are drawn into frames of the haystack.
    """

    others: tuple["Needle | Distractor", ...]
    blended: tuple[BlendedPicture, ...]

    @classmethod
    def of(cls, shown: Iterable[FrameSpan], needles: "NeedleSet") -> "ShownPictures":
        """Finds them in what samples show.

        Args:
            shown: the spans of all samples, in any order.
            needles: the set that holds the pictures.

        Raises:
            InputError: a source is neither the haystack nor a picture of the set.
        """
        indices: dict[str, set[int]] = defaultdict(set)
        for span in shown:
            if span.source != HAYSTACK:
                indices[span.source].update(range(span.start, span.stop))
        others = []
        blended = []
        for name, picture in needles.pictures.items():
            if own := indices.pop(source := needle_source(name), None):
                if max(own) >= picture.num_frames:
                    raise InputError(
                        f"a sample shows frame {max(own)} of {source!r}, which has "
                        f"{counted(picture.num_frames, 'frame')}"
                    )
                if name not in needles.ids:
                    others.append(picture)
            for number, image in enumerate(picture.frames):
                source = blended_source(name, number)
                if found := indices.pop(source, None):
                    blended.append(
                        BlendedPicture(
                            source, name, image, picture.image_sha256, number, tuple(sorted(found))
                        )
                    )
        if indices:
            raise InputError(
                f"a sample shows {quoted(next(iter(indices)), 80)}, which is neither the haystack "
                f"nor a picture of the needle set {needles.name}"
            )
        return cls(tuple(others), tuple(blended))

    def blended_at(self) -> dict[int, list[BlendedPicture]]:
        """For every haystack frame that is needed, the pictures that are drawn into it."""
        found: dict[int, list[BlendedPicture]] = defaultdict(list)
        for picture in self.blended:
            for index in picture.indices:
                found[index].append(picture)
        return dict(found)
