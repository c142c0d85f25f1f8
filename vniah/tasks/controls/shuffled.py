"""The control ``shuffled``: the haystack's frames in another order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import fmean

from vniah.needles import NeedleSet
from vniah.protocol import HAYSTACK, Frames, FrameSpan
from vniah.tasks.base import Sample
from vniah.tasks.controls.base import Finding, Row
from vniah.tasks.drawing import draw

_MOST_DIFFERENCE = 1e-3  # of a log-probability or a margin; rounding of fp32 is far below
_LEAST_SAMPLES = 2


class Shuffled:
    """Every sample with the frames of the haystack in another order, and the needle at its place.

    A model whose numbers do not change at all reads its frames in no order. It is not a default
    control: a shuffled haystack shares nothing with the others, so it takes a pass of its own for
    every number of frames and place of the needle.
    """

    name = "shuffled"

    def samples(self, samples: Sequence[Sample], needles: NeedleSet) -> Iterator[Sample]:
        """As `vniah.tasks.controls.base.Control.samples`.

        The order depends on the number of haystack frames alone. Samples whose order would be that
        of the film, such as those of a single frame, are left out.
        """
        for sample in samples:
            shown = _shuffle(sample.shown)
            if shown != Frames.of(sample.shown).spans:
                yield replace(
                    sample,
                    sample_id=f"{sample.sample_id}/{self.name}",
                    shown=shown,
                    control=self.name,
                )

    def finding(
        self, tests: Sequence[Row], own: Sequence[Row], others: Mapping[str, Sequence[Row]]
    ) -> Finding | None:
        """As `vniah.tasks.controls.base.Control.finding`.

        "Reads the haystack in no order" if neither the log-probability nor the margin of the answer
        differs by more than 0.001 in any of at least two samples. Text alone cannot tell it, for
        the right answer is the same in both orders.
        """
        by_id = {row.sample_id: row for row in tests}
        ordinary = [by_id.get(row.sample_id.removesuffix(f"/{self.name}")) for row in own]
        pairs = [
            (one, other)
            for one, other in zip(own, ordinary, strict=True)
            if other is not None and one.correct is not None and other.correct is not None
        ]
        if not pairs:
            return None
        now, before = (
            fmean(bool(row.correct) for row in rows) for rows in zip(*pairs, strict=True)
        )
        summary = f"{now:.2f} right with the haystack in another order, {before:.2f} in its own"
        differences = [_difference(one, other) for one, other in pairs]
        known = [difference for difference in differences if difference is not None]
        if len(known) < len(pairs):
            return Finding(f"{summary}; only text is known, which cannot tell more")
        is_same = len(known) >= _LEAST_SAMPLES and max(known) <= _MOST_DIFFERENCE
        return Finding(
            f"{summary}; log-probabilities or margins differ by up to {max(known):.2g}",
            "reads the haystack in no order" if is_same else None,
        )


def _shuffle(shown: tuple[FrameSpan, ...]) -> tuple[FrameSpan, ...]:
    """The same frames, with those of the haystack in another order among themselves."""
    spans = [span for span in shown if span.source == HAYSTACK]
    frames = [frame for span in spans for frame in range(span.start, span.stop)]
    order = iter(frames[place] for place in _order(len(frames)))
    found: list[FrameSpan] = []
    for span in shown:
        if span.source == HAYSTACK:
            taken = [next(order) for _ in range(span.num_frames)]
            found += [FrameSpan(HAYSTACK, frame, frame + 1) for frame in taken]
        else:
            found.append(span)
    return Frames.of(found).spans


@lru_cache(maxsize=64)
def _order(num_frames: int) -> tuple[int, ...]:
    """The places ``0 .. num_frames - 1`` in an order that is the same everywhere."""
    return tuple(sorted(range(num_frames), key=lambda place: draw(2**64, f"{num_frames}/{place}")))


def _difference(one: Row, other: Row) -> float | None:
    """The largest difference of two results' numbers; None where only text is known."""
    pairs = [(one.logprob, other.logprob), (one.margin, other.margin)]
    known = [abs(a - b) for a, b in pairs if a is not None and b is not None]
    return max(known, default=None)
