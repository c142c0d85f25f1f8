"""Localization: when was the needle shown?

The limitations section of Zhang et al. 2024 ("Long Context Transfer from Language to Vision") asks
for needles that test the sense of time. Here the same frames are shown as in V-NIAH, and the
question is when the needle is on screen. Every possible time is a candidate answer behind the same
pass, so a model that gives log-probabilities gives a distribution over time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from vniah.errors import TaskError
from vniah.grid import Grid, place_prefix
from vniah.haystacks.haystack import Haystack
from vniah.needles import Needle, NeedleSet
from vniah.protocol import HAYSTACK, FrameSpan
from vniah.scoring import Reading, Score, score_options
from vniah.tasks.base import Sample
from vniah.tasks.parsing import Option, one_of, whole_number, whole_numbers
from vniah.tasks.placement import NeedleLook, insert_needles
from vniah.tasks.timeline import (
    MOST_CANDIDATES,
    Clock,
    Parts,
    Seconds,
    Timeline,
    distribution,
    expected_error,
    guessed_error,
)

_GUESS = "a guess"


class Localization:
    """The task ``localization``: every needle in every cell, and when it is shown.

    A score has these measures, where a needle is shown and the model named a time:

    - ``error_seconds``: the expected distance from the needle, under the distribution over the
      candidates; for a model that answers in words, the distance of the time it named;
    - ``answer_error_seconds``: the distance of the likeliest candidate, or of the time named;
    - ``within_N``: whether that distance is at most N seconds, or parts;
    - ``guess_seconds`` and ``guess_within_N``: the same for a guess that takes every candidate with
      the same probability;
    - ``distribution`` and ``candidate_seconds``: the probability and the time of every candidate.

    Args:
        ask: ``"part"`` asks in which of equal parts of the video the needle is shown, ``"second"``
            at which second.
        parts: number of equal parts, 10 by default; for ``ask="part"`` only.
        step: as `Seconds.step`; for ``ask="second"`` only.
        within: the N of ``within_N``; by default 1 part, or 1, 5 and 30 seconds.
        needle_frames: for how many frames a needle is shown, as `NeedleLook.frames`.
        needle_style: as `NeedleLook.style`.

    Raises:
        TaskError: an option is invalid, or does not go with ``ask``.
    """

    name = "localization"
    axes = ("num_frames", "depth")
    controls = ("no-needle", "blind")
    criterion = "the likeliest candidate time is the one that the needle belongs to"

    def __init__(
        self,
        ask: Option = "part",
        parts: Option = None,
        step: Option = None,
        within: Option | Sequence[int] = None,
        needle_frames: Option = None,
        needle_style: Option = None,
    ) -> None:
        self._clock = _clock(ask, parts, step)
        self._within = self._clock.usual_tolerances
        if within is not None:
            self._within = whole_numbers(within, "within")
        self._look = NeedleLook.parse(needle_frames, needle_style)
        self.settings: Mapping[str, Any] = {
            **self._clock.settings,
            "within": list(self._within),
            **self._look.settings,
        }
        shares = {f"within_{count}": f"guess_within_{count}" for count in self._within}
        self.references = {
            "error_seconds": "guess_seconds",
            "answer_error_seconds": "guess_seconds",
            **shares,
        }
        self.measures = tuple(dict.fromkeys((*self.references, *self.references.values())))
        self.labels = {
            "error_seconds": "Expected error (s)",
            "answer_error_seconds": "Error of the answer (s)",
            **{
                f"within_{count}": f"Within {count} {self._clock.unit(count)}"
                for count in self._within
            },
            **dict.fromkeys(self.references.values(), _GUESS),
        }

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: Haystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: cell by cell, short haystacks first.

        Raises:
            TaskError: a video has too many candidate seconds.
        """
        for cell in grid.cells:
            place, index = place_prefix(cell.num_frames, cell.depth), cell.needle_index
            for needle in needles:
                shown = insert_needles(cell.num_frames, [(needle, index)], self._look)
                timeline, time = self._clock.timeline(_num_frames(shown)), _needle_time(shown)
                assert time is not None, "the needle is shown"
                yield Sample(
                    sample_id=place + needle.needle_id + self._clock.id_ending(timeline),
                    cell=cell,
                    shown=shown,
                    question=self._clock.question(_locator(needle), timeline),
                    candidates=timeline.texts,
                    answer=timeline.texts[self._clock.place(time, timeline)],
                    fields={
                        "needle_index": index,
                        "needle_id": needle.needle_id,
                        "num_options": len(timeline.texts),
                    },
                )

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the needle's candidate is the likeliest.

        Where the model wrote a text, the time that it names counts in place of the likeliest one.

        Raises:
            TaskError: the model's tokens of one candidate are the beginning of those of another.
        """
        timeline = self._clock.again(sample.candidates, _num_frames(sample.shown) or None)
        first = readings[0]
        time: Fraction | None = None
        shares: tuple[float, ...] = ()
        score = Score(
            prediction=None,
            predicted_ids=(),
            correct=False,
            logprob=None,
            rank=None,
            margin=None,
            seconds=first.seconds,
            prompt_tokens=first.prompt_tokens,
        )
        if first.logits is not None:
            _require_exclusive(sample, readings)
            options = [replace(reading, generated=None) for reading in readings]
            score = score_options(sample.candidates, options, sample.answer)
            time = timeline.times[sample.candidates.index(str(score.prediction))]
            shares = distribution([one.logits.logprob for one in options if one.logits is not None])
        if (text := first.generated) is not None:
            time = self._clock.read(text.text, timeline)
            place = None if time is None else self._clock.place(time, timeline)
            score = replace(
                score,
                prediction=text.text,
                predicted_ids=text.token_ids,
                correct=place is not None and timeline.texts[place] == sample.answer,
            )
        return replace(score, measures=self._measures(sample, timeline, time, shares))

    def _measures(
        self,
        sample: Sample,
        timeline: Timeline,
        answer: Fraction | None,
        shares: Sequence[float],
    ) -> dict[str, Any]:
        """What is measured besides right and wrong; see the class.

        Args:
            sample: the sample.
            timeline: its candidates.
            answer: the time that the model chose or named; None if its text names none.
            shares: the distribution over the candidates; empty for models that answer in words.
        """
        found: dict[str, Any] = {}
        if shares:
            found["distribution"] = shares
            found["candidate_seconds"] = tuple(map(float, timeline.times))
        needle = _needle_time(sample.shown)
        if needle is None:
            return found
        found["guess_seconds"] = guessed_error(timeline, needle)
        for count in self._within:
            hits = [self._clock.is_within(count, t, needle, timeline) for t in timeline.times]
            found[f"guess_within_{count}"] = sum(hits) / len(hits)
            found[f"within_{count}"] = answer is not None and self._clock.is_within(
                count, answer, needle, timeline
            )
        if answer is not None:
            found["answer_error_seconds"] = abs(float(answer - needle))
        if shares:
            found["error_seconds"] = expected_error(shares, timeline, needle)
        elif answer is not None:
            found["error_seconds"] = found["answer_error_seconds"]
        return found


def _clock(ask: Option, parts: Option, step: Option) -> Clock:
    """How times are asked for.

    Raises:
        TaskError: an option is invalid, or does not go with ``ask``.
    """
    kind = one_of(ask, "ask", ("part", "second"))
    name, value = ("step", step) if kind == "part" else ("parts", parts)
    if value is not None:
        raise TaskError(f"the option {name} does not go with ask={kind}; leave it out")
    if kind == "second":
        return Seconds(None if step is None else whole_number(step, "step", at_least=1))
    if parts is None:
        return Parts(10)
    return Parts(whole_number(parts, "parts", at_least=2, at_most=MOST_CANDIDATES))


def _locator(needle: Needle) -> str:
    """A phrase that names what is shown: the needle's own, or one made from its question."""
    return needle.locator or f'the answer to the question "{" ".join(needle.question.split())}"'


def _num_frames(shown: Sequence[FrameSpan]) -> int:
    return sum(span.stop - span.start for span in shown)


def _needle_time(shown: Sequence[FrameSpan]) -> Fraction | None:
    """The middle of the time for which a needle is on screen; None if there is none."""
    start = length = 0
    for span in shown:
        if span.source != HAYSTACK:
            length += span.stop - span.start
        elif length:
            break
        else:
            start += span.stop - span.start
    return start + Fraction(length, 2) if length else None


def _require_exclusive(sample: Sample, readings: Sequence[Reading]) -> None:
    """Raises `TaskError` if the tokens of one candidate are the beginning of those of another.

    The first would be likelier than the second whatever is shown, as it needs fewer tokens.
    """
    ordered = sorted(
        (reading.answer_ids, text)
        for reading, text in zip(readings, sample.candidates, strict=True)
    )
    for (ids, text), (longer, other) in pairwise(ordered):
        if longer[: len(ids)] == ids:
            raise TaskError(
                f"the model's tokens of the candidate {text!r} are the beginning of those of "
                f"{other!r}, so the first would always be at least as likely: its tokenizer does "
                "not tell these numbers apart"
            )
