"""What an intervention changes: the paired difference of both halves of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.statistics.paired import PairedDifference, difference_of, paired_table
from vniah.analysis.statistics.table import SampleTable, sample_table
from vniah.errors import counted, shortened
from vniah.results import Results
from vniah.results.applied import applied_results, intervention_of
from vniah.results.once import once
from vniah.results.plan import planned_test_ids

if TYPE_CHECKING:
    from vniah.analysis.statistics.table import Mask

_LONGEST_NAME = 100  # characters


@dataclass(frozen=True)
class Part:
    """What an intervention changes in some samples, of which both halves have a score.

    Attributes:
        before: the mean over cells without it, in [0, 1].
        after: the same with it.
        difference: with it minus without it.
    """

    before: float
    after: float
    difference: PairedDifference


@dataclass(frozen=True)
class InterventionEffect:
    """What an intervention changes in a run.

    Attributes:
        function: its name, ``package.module:function``.
        whole: in all samples.
        by_length: at each length that has pairs, ascending.
        by_row: at each row of the map, such as a depth, ascending.
        num_planned: number of samples of the test.
        logprob_change: the mean change of the answer's log-probability, in nats; None where it is
            not known.
        unit: what is independent of one another, as `Results.cluster`.
        confidence: of the intervals.
    """

    function: str
    whole: Part
    by_length: Mapping[int, Part]
    by_row: Mapping[Fraction, Part]
    num_planned: int
    logprob_change: float | None
    unit: str = "needle"
    confidence: float = 0.95

    @property
    def short(self) -> str:
        """The difference in a few words: ``"with prune: -0.0333 (-0.07 to +0.01)"``."""
        found, name = self.whole.difference, self.function.rpartition(":")[2]
        text = f"with {shortened(name, _LONGEST_NAME)}: {found.estimate:+.4f}"
        if found.interval is None:
            return text
        return f"{text} ({found.interval.text(around=found.estimate, signed=True)})"

    def record(self) -> dict[str, Any]:
        """For a list of runs."""
        found = self.whole.difference
        return {
            "function": self.function,
            "average": self.whole.after,
            "difference": found.estimate,
            "low": None if found.interval is None else found.interval.low,
            "high": None if found.interval is None else found.interval.high,
        }

    @property
    def text(self) -> str:
        """The difference with its interval, in a sentence."""
        found, unit = self.whole.difference, self.unit
        name = shortened(self.function, _LONGEST_NAME)
        parts = [
            f"with {name}: average {self.whole.before:.4f} -> {self.whole.after:.4f}, paired "
            f"difference {found.estimate:+.4f} for these {unit}s"
        ]
        if found.interval is None:
            parts.append(f"nothing is known of others, as samples share {unit}s")
        else:
            ends = found.interval.text(around=found.estimate, signed=True)
            parts.append(
                f"{ends} for {unit}s like these ({percent_of(self.confidence)}, "
                f"{counted(found.num_needles, unit)})"
            )
        num_changed = found.num_fallen + found.num_risen
        has = "has" if 1 in (num_changed, found.num_pairs) else "have"
        parts.append(
            f"{num_changed:,} of {counted(found.num_pairs, 'sample')} {has} another outcome: "
            f"{found.num_fallen:,} fell, {found.num_risen:,} rose"
        )
        if missing := self.num_planned - found.num_pairs:
            are = "is" if missing == 1 else "are"
            parts.append(
                f"{counted(missing, 'sample')} without a score in both halves {are} left out"
            )
        return "; ".join(parts)


@once
def intervention_effect(results: Results, confidence: float = 0.95) -> InterventionEffect | None:
    """What an intervention changes in a run, by its samples with a score in both halves.

    Args:
        results: a run, also one that is not complete.
        confidence: of the intervals.

    Returns:
        None if nothing was applied, or no sample has a score in both halves.
    """
    name, after = intervention_of(results), applied_results(results)
    if name is None or after is None:
        return None
    table = paired_table(results, after)
    if not len(table.values):
        return None
    earlier = {sample.sample_id: sample for sample in results.samples}

    def before_of(sample_id: str, correct: bool | None) -> bool | None:
        one = earlier.get(sample_id)
        return None if one is None or correct is None else one.correct

    before = sample_table(after, lambda sample: before_of(sample.sample_id, sample.correct))

    def part(mask: "Mask") -> Part:
        old, change = before.where(mask), table.where(mask)
        later = difference_of(change, confidence=confidence)
        return Part(old.mean, old.mean + later.estimate, later)

    rows = [results.row_of(cell) for cell in table.cells]
    changes = [
        sample.logprob - one.logprob
        for sample in after.samples
        if sample.logprob is not None
        and (one := earlier.get(sample.sample_id)) is not None
        and one.logprob is not None
    ]
    return InterventionEffect(
        name,
        part(np.ones(len(table.values), np.bool_)),
        {length: part(table.num_frames[table.cell] == length) for length in table.lengths},
        {row: part(_are_in(table, rows, row)) for row in sorted(set(rows))},
        len(planned_test_ids(results.manifest)),
        fmean(changes) if changes else None,
        results.cluster,
        confidence,
    )


def _are_in(table: SampleTable, rows: list[Fraction], row: Fraction) -> "Mask":
    """Which samples belong to a row of the map."""
    found: Mask = np.array([one == row for one in rows])[table.cell]
    return found
