"""The control ``blind``: every question, without anything to look at or to read."""

from collections.abc import Iterator, Mapping, Sequence

from vniah.needles import NeedleSet
from vniah.tasks.base import Sample
from vniah.tasks.controls.base import ANSWERS_WITHOUT_SEEING, Finding, Row
from vniah.tasks.controls.gain import Gain
from vniah.tasks.controls.guessing import count_questions, in_words, is_above_chance
from vniah.tasks.controls.repeated import Shown, ask_once

_WITHOUT = "from the question alone"


def _nothing(sample: Sample) -> Shown:
    return (), None if sample.text is None else ()


class Blind:
    """Every question once, with no frame or text at all.

    A model that answers right knows the answer from the question alone, or guesses it.
    """

    name = "blind"

    def samples(self, samples: Sequence[Sample], needles: NeedleSet) -> Iterator[Sample]:
        """As `vniah.tasks.controls.base.Control.samples`.

        Raises:
            TaskError: two samples whose ids end alike ask something else.
        """
        return ask_once(samples, self.name, shows=_nothing, is_at_every_length=False)

    def finding(
        self, tests: Sequence[Row], own: Sequence[Row], others: Mapping[str, Sequence[Row]]
    ) -> Finding | None:
        """As `vniah.tasks.controls.base.Control.finding`.

        "Answers without seeing" if more questions are right than guessing explains. Otherwise "no
        better than from the question alone" by the rule of `vniah.tasks.controls.gain`, where no
        control no-needle says it of the needle.
        """
        asked = count_questions(own)
        if not asked:
            return None
        summary = f"right from the question alone in {in_words(asked)}"
        if is_above_chance(asked):
            return Finding(summary, ANSWERS_WITHOUT_SEEING)
        gain = None if others.get("no-needle") else Gain.of(tests, own)
        return Finding(summary) if gain is None else gain.finding(summary, without=_WITHOUT)
