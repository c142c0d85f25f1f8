"""Candidate times of a video, and how far a distribution over them is from the right time.

A frame at second s is on screen from s to s + 1, so its time is s + 0.5; a needle that is shown for
k frames from second s on has the time s + k / 2. A candidate has the time of its middle as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import exp, fsum
from typing import Any, Protocol

from vniah.answers import read_number_in_order, read_second
from vniah.errors import TaskError

MOST_CANDIDATES = 1000
_USUAL_CANDIDATES = 20


@dataclass(frozen=True)
class Timeline:
    """The candidate times of a video.

    Attributes:
        seconds: how long the video is: the number of its frames, at 1 FPS.
        texts: the candidates, in the order of time: numbers of equally many digits. So none is the
            beginning of another, and their probabilities are those of events that exclude one
            another; a model that prefers short answers is not led to any of them.
        times: the middle of what each candidate stands for, in seconds from the beginning.
    """

    seconds: int
    texts: tuple[str, ...]
    times: tuple[Fraction, ...]


class Clock(Protocol):
    """How times are asked for."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its options, for the manifest."""

    @property
    def usual_tolerances(self) -> tuple[int, ...]:
        """Tolerances for which accuracies are reported unless others are given."""

    def unit(self, count: int) -> str:
        """The unit of tolerances in words."""

    def timeline(self, seconds: int) -> Timeline:
        """The candidates for a video."""

    def again(self, texts: tuple[str, ...], seconds: int | None) -> Timeline:
        """A timeline from its candidates.

        Args:
            texts: the candidates.
            seconds: how long the video is; None where a control shows none, so that nothing but
                the order of the candidates can be told.
        """

    def question(self, what: str, timeline: Timeline) -> str:
        """Asks when ``what`` is shown."""

    def id_ending(self, timeline: Timeline) -> str:
        """What ids end with, behind the needle's, so that they say all that the question says."""

    def place(self, time: Fraction, timeline: Timeline) -> int:
        """The place of the candidate that a time belongs to."""

    def read(self, text: str, timeline: Timeline) -> Fraction | None:
        """The time that a generated text names; None if it names none of this video."""

    def is_within(self, count: int, one: Fraction, other: Fraction, timeline: Timeline) -> bool:
        """Whether two times are at most ``count`` units apart."""


@dataclass(frozen=True)
class Parts:
    """Asks in which of equal parts of the video something is shown.

    Attributes:
        count: how many there are, at least 2.
    """

    count: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """As `Clock.settings`."""
        return {"ask": "part", "parts": self.count}

    @property
    def usual_tolerances(self) -> tuple[int, ...]:
        """As `Clock.usual_tolerances`: the parts beside the right one."""
        return (1,)

    def unit(self, count: int) -> str:
        """As `Clock.unit`."""
        return "part" if count == 1 else "parts"

    def timeline(self, seconds: int) -> Timeline:
        """As `Clock.timeline`: the parts, numbered from 1 on."""
        width = len(str(self.count))
        texts = tuple(f"{number:0{width}}" for number in range(1, self.count + 1))
        return _parts(texts, seconds)

    def again(self, texts: tuple[str, ...], seconds: int | None) -> Timeline:
        """As `Clock.again`."""
        return _parts(texts, seconds or len(texts))

    def question(self, what: str, timeline: Timeline) -> str:
        """As `Clock.question`."""
        first, last = timeline.texts[0], timeline.texts[-1]
        return (
            f"The video has {self.count} parts of equal length, numbered {first} to {last}. In "
            f"which part is {what} shown? Answer with the number of the part."
        )

    def id_ending(self, timeline: Timeline) -> str:
        """As `Clock.id_ending`: the question is the same for every video."""
        return ""

    def place(self, time: Fraction, timeline: Timeline) -> int:
        """As `Clock.place`: the part that holds it; on a border, the later one."""
        return min(int(time * self.count / timeline.seconds), self.count - 1)

    def read(self, text: str, timeline: Timeline) -> Fraction | None:
        """As `Clock.read`: the middle of the part."""
        number = read_number_in_order(text, self.count)
        return None if number is None else timeline.times[number - 1]

    def is_within(self, count: int, one: Fraction, other: Fraction, timeline: Timeline) -> bool:
        """As `Clock.is_within`: neighbouring parts are one apart."""
        return abs(self.place(one, timeline) - self.place(other, timeline)) <= count


@dataclass(frozen=True)
class Seconds:
    """Asks at which second something is shown.

    Attributes:
        step: seconds between candidates; None for the smallest of 1, 2, 5, 10, 20, 50, ... with
            which a video has at most 20 candidates.
    """

    step: int | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """As `Clock.settings`."""
        return {"ask": "second"} | ({} if self.step is None else {"step": self.step})

    @property
    def usual_tolerances(self) -> tuple[int, ...]:
        """As `Clock.usual_tolerances`."""
        return (1, 5, 30)

    def unit(self, count: int) -> str:
        """As `Clock.unit`."""
        return "s"

    def timeline(self, seconds: int) -> Timeline:
        """As `Clock.timeline`: the multiples of the step that are shown.

        Raises:
            TaskError: there are too many.
        """
        step = self.step or _usual_step(seconds)
        if (count := -(-seconds // step)) > MOST_CANDIDATES:
            raise TaskError(
                f"step={step} gives {count:,} candidate seconds in a video of {seconds:,} seconds; "
                f"at most {MOST_CANDIDATES:,} can be asked for: use a larger step"
            )
        found = range(0, seconds, step)
        width = len(str(found[-1]))
        return _seconds(tuple(f"{second:0{width}}" for second in found), seconds)

    def again(self, texts: tuple[str, ...], seconds: int | None) -> Timeline:
        """As `Clock.again`."""
        return _seconds(texts, seconds or int(texts[-1]) + 1)

    def question(self, what: str, timeline: Timeline) -> str:
        """As `Clock.question`."""
        first = timeline.texts[0]
        step = 1 if len(timeline.texts) == 1 else int(timeline.texts[1])
        rounded = "" if step == 1 else f", the nearest multiple of {step}"
        return (
            f"The video lasts {timeline.seconds} seconds, counted from {first} on. At which second "
            f"is {what} shown? Answer with a number of {len(first)} digits{rounded}."
        )

    def id_ending(self, timeline: Timeline) -> str:
        """As `Clock.id_ending`: the length of the video."""
        return f"/of-{timeline.seconds}"

    def place(self, time: Fraction, timeline: Timeline) -> int:
        """As `Clock.place`: the nearest candidate, the earlier of two."""
        return min(range(len(timeline.times)), key=lambda k: abs(timeline.times[k] - time))

    def read(self, text: str, timeline: Timeline) -> Fraction | None:
        """As `Clock.read`: the middle of the second that is named."""
        second = read_second(text)
        if second is None or second >= timeline.seconds:
            return None
        return second + Fraction(1, 2)

    def is_within(self, count: int, one: Fraction, other: Fraction, timeline: Timeline) -> bool:
        """As `Clock.is_within`: in seconds."""
        return abs(one - other) <= count


@lru_cache(maxsize=1 << 10)
def _parts(texts: tuple[str, ...], seconds: int) -> Timeline:
    times = (Fraction((2 * k + 1) * seconds, 2 * len(texts)) for k in range(len(texts)))
    return Timeline(seconds, texts, tuple(times))


@lru_cache(maxsize=1 << 10)
def _seconds(texts: tuple[str, ...], seconds: int) -> Timeline:
    return Timeline(seconds, texts, tuple(int(text) + Fraction(1, 2) for text in texts))


def _usual_step(seconds: int) -> int:
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            if seconds <= _USUAL_CANDIDATES * step:
                return step
        scale *= 10


def distribution(logprobs: Sequence[float]) -> tuple[float, ...]:
    """The probabilities of candidates, given that one of them is the answer; they add up to 1.

    Args:
        logprobs: natural logarithms of the candidates' probabilities, each of the whole text.

    >>> distribution([-1.0, -1.0])
    (0.5, 0.5)
    """
    highest = max(logprobs)
    weights = [exp(logprob - highest) for logprob in logprobs]
    return tuple(weight / sum(weights) for weight in weights)


def expected_error(shares: Sequence[float], timeline: Timeline, time: Fraction) -> float:
    """The mean of |candidate time - time| under a distribution over the candidates, in seconds."""
    errors = (abs(candidate - time) for candidate in timeline.times)
    return fsum(share * float(error) for share, error in zip(shares, errors, strict=True))


def guessed_error(timeline: Timeline, time: Fraction) -> float:
    """As `expected_error`, where all candidates have the same probability."""
    return float(sum(abs(candidate - time) for candidate in timeline.times) / len(timeline.times))
