"""Whether what is shown makes the answers any better than they are without it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vniah.tasks.controls.base import Finding, Row, asked_text
from vniah.tasks.controls.guessing import LEAST_EXCESS

_Asked = tuple[tuple[str, tuple[str, ...]], str]
"""What is asked, and the right answer."""


@dataclass(frozen=True)
class Gain:
    """The share of right answers in the test, and without what the test shows.

    Attributes:
        shown: the share of right answers in the test, in [0, 1].
        hidden: the share to expect if each of these samples were answered as its question is
            without what the test shows, in [0, 1].
    """

    shown: float
    hidden: float

    @classmethod
    def of(cls, tests: Iterable[Row], own: Iterable[Row]) -> "Gain | None":
        """Compares samples with the same question, options and right answer.

        Args:
            tests: the results of the test.
            own: those of a control that asks the same questions.

        Returns:
            None if no sample of the test has its counterpart.
        """
        without = _shares(own)
        shown, hidden = [], []
        for row in tests:
            if row.correct is not None and (asked_text(row), row.answer) in without:
                shown.append(row.correct)
                hidden.append(without[asked_text(row), row.answer])
        return cls(_mean(shown), _mean(hidden)) if shown else None

    def finding(self, summary: str, *, without: str) -> Finding:
        """A summary with "no better than without the needle", where that holds.

        It holds if the share of right answers is above the other one by less than `LEAST_EXCESS`,
        and is said if no control finds anything that explains it.

        Args:
            summary: what else was measured, in one line.
            without: what is left out, such as "without the needle", or what is left, such as
                "from the question alone".
        """
        if self.shown - self.hidden >= LEAST_EXCESS:
            return Finding(summary)
        shares = (
            f"{self.shown:.2f} of the test's samples are right, and {self.hidden:.2f} {without}"
        )
        return Finding(f"{summary}; {shares}", otherwise=f"no better than {without}")


def _shares(rows: Iterable[Row]) -> Mapping[_Asked, float]:
    found: dict[_Asked, list[bool]] = {}
    for row in rows:
        if row.correct is not None:
            found.setdefault((asked_text(row), row.answer), []).append(row.correct)
    return {asked: _mean(right) for asked, right in found.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
