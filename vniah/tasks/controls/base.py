"""The interface of controls: samples outside of the test that show whether it can be trusted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from vniah.grid import Cell
from vniah.needles import NeedleSet
from vniah.results import asked_name
from vniah.tasks.base import Sample

ANSWER_MARK = "/answer-"
"""Stands in ids before the right answer where a question has different ones."""

ANSWERS_WITHOUT_SEEING = "answers without seeing"


class Row(Protocol):
    """What a control reads of the result of a sample; `vniah.results.SampleResult` has it."""

    @property
    def sample_id(self) -> str:
        """Identifies the sample in its run."""

    @property
    def cell(self) -> Cell | None:
        """Its place on the map; None if it has none."""

    @property
    def num_frames(self) -> int | None:
        """Number of haystack frames; None if none are shown."""

    @property
    def control(self) -> str | None:
        """None for the test itself; else the name of the control."""

    @property
    def question(self) -> str:
        """The question, verbatim."""

    @property
    def answer(self) -> str:
        """The answer that ``correct`` is about."""

    @property
    def prediction(self) -> str | None:
        """The text of the argmax tokens, or what was generated."""

    @property
    def correct(self) -> bool | None:
        """Whether the model gave ``answer``; None if the sample could not be run."""

    @property
    def logprob(self) -> float | None:
        """Log-probability of the answer; None where only text is known."""

    @property
    def margin(self) -> float | None:
        """The answer's logit minus the best other one; None where only text is known."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The task's own values."""


@dataclass(frozen=True)
class Finding:
    """What came out of a control.

    Attributes:
        summary: what was measured, in one line.
        verdict: what is conspicuous, in a few words; None if nothing is.
        otherwise: what is said in its place if no control finds anything conspicuous.
    """

    summary: str
    verdict: str | None = None
    otherwise: str | None = None


@runtime_checkable
class Control(Protocol):
    """Makes the samples of a control from those of any task, and judges its results.

    The samples are scored by the task's own ``score``. They do not count in the score of the test.
    A method ``left_out(samples, needles)``, if it has one, gives one line on what it cannot be made
    for, or None.

    Attributes:
        name: the value of ``control`` in its samples; their ids end with it.
    """

    name: str

    def samples(self, samples: Sequence[Sample], needles: NeedleSet) -> Iterator[Sample]:
        """The samples of the control.

        Args:
            samples: all samples of the test.
            needles: the pictures with their questions and answers.
        """

    def finding(
        self, tests: Sequence[Row], own: Sequence[Row], others: Mapping[str, Sequence[Row]]
    ) -> Finding | None:
        """What came out, by a stated rule; None if nothing can be told.

        Args:
            tests: the results of the test itself.
            own: the results of this control.
            others: the results of the run's other controls, by their names.
        """


def name_of(row: Row) -> str:
    """What is asked, without the place: ``"red-7"`` of ``"600/-/red-7/no-needle"``."""
    name = asked_name(row)
    return name if row.control is None else name.removesuffix(f"/{row.control}")


def question_name(row: Row) -> str:
    """As `name_of`, without the answer that is right in one of several samples of a question."""
    return name_of(row).partition(ANSWER_MARK)[0]


def asked_text(row: Row) -> tuple[str, tuple[str, ...]]:
    """All that a model is asked: the question, and the options that it does not list.

    A task whose questions are asked without their options, and each with its own, names them in the
    field ``options`` of its samples. Their order is left out, as each is read by itself.
    """
    options = row.fields.get("options")
    return row.question, tuple(sorted(map(str, options))) if isinstance(options, list) else ()


def listed(names: Sequence[str], *, most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
