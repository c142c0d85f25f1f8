"""How far a needle stands out among the frames of its haystack, read off its embeddings.

A frame *stands out* by the mean cosine distance of its embedding, the mean over its tokens, to
those of the haystack frames before and after it; at either end, to that of the one neighbour. The
*oddness* of a needle is the share of haystack frames that stand out less than the needle does
where it is shown, averaged over the places where it is shown. A needle that looks like any frame of
the film has about 0.5, or less where it resembles the frames around it; one that can be found by
looking for the frame that does not belong has 1.

No forward pass is needed. Of a long haystack about a thousand frames are read, in stretches that
are spread evenly over it, and of each needle a limited number of places.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vniah.embeddings.cache import FrameStore
from vniah.embeddings.encode import EncodedFrames
from vniah.errors import VniahError, first_line
from vniah.protocol import HAYSTACK, FrameSegment, FrameSpan, needle_of

Item = TypeVar("Item")

_LOG = logging.getLogger("vniah")

_MOST_FRAMES = 1024
_STRETCH = 32
_MOST_PLACES = 512
_TOLERANCE = 1e-6  # what rounding makes of the distance between equal frames


class _Place(NamedTuple):
    """One frame of a needle as it is shown, and the haystack frames next to it."""

    source: str
    frame: int
    neighbours: tuple[int, ...]


def oddness_record(
    frames: EncodedFrames, shown: Iterable[Sequence[FrameSpan]]
) -> dict[str, dict[str, float]]:
    """The oddness of what samples show, for the manifest: ``{"oddness": {"red-7": 1.0}}``.

    It is a remark about a run and no result of it. So where it cannot be computed, it is left out
    with a warning, and the run goes on.
    """
    try:
        found = measure_oddness(frames.store, frames.num_frames, shown)
    except (VniahError, RuntimeError, MemoryError) as error:
        _LOG.warning(f"the oddness of the needles could not be measured: {first_line(error)}")
        return {}
    return {"oddness": found} if found else {}


def measure_oddness(
    store: FrameStore, num_frames: int, shown: Iterable[Sequence[FrameSpan]]
) -> dict[str, float]:
    """The oddness of every needle and distractor that samples show, by its id.

    Args:
        store: the encoded frames.
        num_frames: number of haystack frames in it.
        shown: what each sample shows.

    Returns:
        Numbers from 0 to 1, rounded to four digits; nothing for what is shown without a haystack
        frame beside it, and nothing at all for a haystack of one frame.
    """
    places = _find_places(shown)
    vectors = _Vectors(store)
    others = np.sort([*_haystack_distances(vectors, num_frames)])
    if not len(others):
        return {}
    most = max(1, _MOST_PLACES // max(1, len(places)))
    found = {}
    for needle_id, at in places.items():
        some = _spread(sorted(at), most)
        distances = [
            vectors.distance(FrameSegment(place.source, place.frame), place.neighbours)
            for place in some
        ]
        less = np.searchsorted(others, np.array(distances) - _TOLERANCE)
        found[needle_id] = round(float(less.mean() / len(others)), 4)
    return found


def _find_places(shown: Iterable[Sequence[FrameSpan]]) -> Mapping[str, set[_Place]]:
    """Every needle's places; those that many samples have in common count once."""
    found: dict[str, set[_Place]] = {}
    for spans in shown:
        before: tuple[int, ...] = ()
        waiting: list[FrameSpan] = []
        for span in spans:
            if span.source != HAYSTACK:
                waiting.append(span)
                continue
            _add(found, waiting, (*before, span.start))
            before, waiting = (span.stop - 1,), []
        _add(found, waiting, before)
    return found


def _add(
    found: dict[str, set[_Place]], needles: Iterable[FrameSpan], neighbours: tuple[int, ...]
) -> None:
    for span in needles:
        needle_id = needle_of(span.source)
        if needle_id is not None and neighbours:
            places = found.setdefault(needle_id, set())
            places |= {_Place(span.source, k, neighbours) for k in range(span.start, span.stop)}


def _haystack_distances(vectors: "_Vectors", num_frames: int) -> Iterator[float]:
    """How far frames of the haystack stand out; of a long one, those of evenly spread stretches."""
    if num_frames <= _MOST_FRAMES:
        stretches = [(0, num_frames)]
    else:
        starts = range(num_frames - _STRETCH + 1)
        chosen = _spread(starts, _MOST_FRAMES // _STRETCH)
        stretches = [(start, start + _STRETCH) for start in chosen]
    for start, stop in stretches:
        for frame in range(start, stop):
            neighbours = [k for k in (frame - 1, frame + 1) if 0 <= k < num_frames]
            if neighbours and start <= neighbours[0] and neighbours[-1] < stop:
                yield vectors.distance(FrameSegment(HAYSTACK, frame), neighbours)


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    chosen = np.linspace(0, len(items) - 1, most).round().astype(int).tolist()
    return [items[number] for number in chosen]


class _Vectors:
    """The embeddings of frames as vectors of length 1, each read once."""

    def __init__(self, store: FrameStore) -> None:
        self._store = store
        self._read: dict[FrameSegment, NDArray[np.float64]] = {}

    def distance(self, frame: FrameSegment, neighbours: Sequence[int]) -> float:
        """The mean cosine distance of a frame to some frames of the haystack."""
        own = self._vector(frame)
        others = [self._vector(FrameSegment(HAYSTACK, index)) for index in neighbours]
        return float(np.mean([1 - own @ other for other in others]))

    def _vector(self, frame: FrameSegment) -> NDArray[np.float64]:
        if frame not in self._read:
            (encoded,) = torch.cat([*self._store.read_runs([frame])])
            if encoded.ndim > 2:  # features that the decoder adds later stand behind the embedding
                encoded = encoded[0]
            vector = encoded.double().reshape(-1, encoded.shape[-1]).mean(0).numpy()
            length = np.linalg.norm(vector)
            self._read[frame] = vector / length if length else vector
        return self._read[frame]
