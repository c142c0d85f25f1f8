"""The control ``no-needle``: every question about the haystack without a needle."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import exp

from vniah.needles import NeedleSet
from vniah.protocol import HAYSTACK, Frames, TextSpan, needle_of
from vniah.tasks.base import Sample
from vniah.tasks.controls.base import ANSWERS_WITHOUT_SEEING, Finding, Row, listed
from vniah.tasks.controls.constant_answer import (
    constant_answer,
    has_own_options,
    prior_in_words,
)
from vniah.tasks.controls.gain import Gain
from vniah.tasks.controls.guessing import Asked, count_questions, in_words, is_above_chance
from vniah.tasks.controls.repeated import Shown, ask_once

# What the haystack shows, a model is sure of, and unsure of it without any video. A model that
# guesses, or that knows the answer from the question, is alike in both.
_SURE = 0.9
_UNSURE = 0.5
_WITHOUT = "without the needle"


class NoNeedle:
    """Every question about the plain haystack, once for each number of frames.

    A model that answers right did not need the needle: it knows or guesses the answer, or the
    haystack shows it. The control blind tells the two apart.
    """

    name = "no-needle"

    def samples(self, samples: Sequence[Sample], needles: NeedleSet) -> Iterator[Sample]:
        """As `vniah.tasks.controls.base.Control.samples`.

        Raises:
            TaskError: two samples whose ids end alike ask something else.
        """
        if _show_no_needle(samples):  # it would ask what the test asks
            return iter(())
        return ask_once(samples, self.name, shows=_haystack_of, is_at_every_length=True)

    def left_out(self, samples: Sequence[Sample], needles: NeedleSet) -> str | None:
        """As `vniah.tasks.controls.base.Control`: everything, where no sample shows a needle."""
        return "all questions: no sample shows a needle" if _show_no_needle(samples) else None

    def finding(
        self, tests: Sequence[Row], own: Sequence[Row], others: Mapping[str, Sequence[Row]]
    ) -> Finding | None:
        """As `vniah.tasks.controls.base.Control.finding`.

        "The haystack gives the answer away" if more questions than guessing explains are right here
        and wrong from the question alone; or if the answer to one of them has a probability of at
        least 0.9 here, and of at most 0.5 from the question alone. Otherwise "answers without
        seeing" if more questions are right here than guessing explains. Otherwise "no better than
        without the needle" by the rule of `vniah.tasks.controls.gain`.

        Where a task has a fixed set of answers in words, such as parts of the video, what is shown
        may make any of them likelier. So the haystack is not blamed for these; "always answers 10"
        is said by the rule of `constant_answer`.
        """
        asked = count_questions(own)
        if not asked:
            return None
        summary = f"right without the needle in {in_words(asked)}"
        if (prior := prior_in_words(own)) is not None:
            summary += f"; {prior}"
        if (constant := constant_answer(tests, own)) is not None:
            return Finding(summary, constant)
        blind = {one.text: one for one in count_questions(others.get("blind", ()))}
        compared = [
            replace(one, is_right=one.is_right and not blind[one.text].is_right)
            for one in asked
            if one.text in blind and not has_own_options(one.rows[0])
        ]
        shown = [one for one in compared if one.is_right]
        if not is_above_chance(compared):
            if is_above_chance(asked):
                return Finding(summary, ANSWERS_WITHOUT_SEEING)
            if any(_probability(one) is None for one in shown):
                summary += (
                    "; whether the haystack shows it cannot be told without log-probabilities"
                )
            shown = [one for one in shown if _is_sure(one, blind[one.text])]
        if not shown:
            gain = Gain.of(tests, own)
            return Finding(summary) if gain is None else gain.finding(summary, without=_WITHOUT)
        names = listed([one.name for one in shown])
        return Finding(summary, f"the haystack gives the answer away ({names})")


def _show_no_needle(samples: Sequence[Sample]) -> bool:
    """Whether all samples show frames, and none of them anything else."""
    return all(
        sample.text is None and all(span.source == HAYSTACK for span in sample.shown)
        for sample in samples
    )


def _haystack_of(sample: Sample) -> Shown:
    frames = Frames.of([span for span in sample.shown if span.source == HAYSTACK]).spans
    if sample.text is None:
        return frames, None
    return frames, tuple(piece for piece in sample.text if not _is_needle(piece))


def _is_needle(piece: TextSpan | str) -> bool:
    return isinstance(piece, TextSpan) and needle_of(piece.source) is not None


def _is_sure(asked: Asked, blind: Asked) -> bool:
    here, alone = _probability(asked), _probability(blind)
    if here is None or alone is None:
        return False
    return here >= _SURE and alone <= _UNSURE


def _probability(asked: Asked) -> float | None:
    """The mean probability of the answer; None where only text is known."""
    found = [exp(row.logprob) for row in asked.rows if row.logprob is not None]
    return sum(found) / len(found) if found else None
