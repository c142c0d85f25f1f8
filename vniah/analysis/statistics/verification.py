"""How far an approximate run agrees with what it computed exactly, and what that corrects."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vniah.analysis.statistics.corrected import (
    Checked,
    Corrected,
    Draw,
    corrected_mean,
    corrected_part,
)
from vniah.analysis.statistics.estimates import (
    NeedleEstimate,
    corrected_estimate,
    percent_of,
)
from vniah.analysis.statistics.table import UNKNOWN, SampleTable, index_samples, sample_table
from vniah.errors import counted
from vniah.grid import Cell, format_depth
from vniah.options.approximation import EXACT
from vniah.results import Results, SampleResult
from vniah.results.once import once
from vniah.tasks.controls.exact import Agreement, agreement_of, exact_pairs

NOT_VERIFIED = "no sample of these was computed exactly"

OF_THE_WHOLE = "how far they are right is known of the whole run, not of this part"
"""Of the approximate scores of a part of a run: branches are drawn among those of the whole."""

Pair = tuple[SampleResult, SampleResult]
"""The approximate result of a sample, and the exact one."""


@dataclass(frozen=True)
class Verification:
    """What the exactly computed samples of an approximate run say.

    Attributes:
        all: of all of them.
        by_length: at each length that has some, ascending.
        by_row: at each row of the map that has some, by its depth, or position, in words.
        num_branches: number of different branches with such samples.
        num_draws: number of draws that fell on them.
        corrected: the mean over all samples, corrected; None where samples do not say which needle
            they are about.
        corrected_by_length: the same at lengths that have such samples; other lengths are known
            approximately only.
        unit: what is independent of one another, as `Results.cluster`.
        confidence: of the intervals.
    """

    all: Agreement
    by_length: Mapping[int, Agreement]
    by_row: Mapping[str, Agreement]
    num_branches: int
    num_draws: int
    corrected: Corrected | None
    corrected_by_length: Mapping[int, Corrected]
    unit: str = "needle"
    confidence: float = 0.95

    @property
    def lines(self) -> tuple[str, ...]:
        """What it says, one sentence a line."""
        lines = [self.agreement_text]
        if self.corrected is not None:
            these, like = self.corrected.these, self.corrected.like
            lines.append(
                f"corrected average: {self.corrected.mean:.2f}; "
                f"{these.low:.2f} to {these.high:.2f} for these {self.unit}s, {like.low:.2f} to "
                f"{like.high:.2f} for {self.unit}s like these ({percent_of(self.confidence)})"
            )
        return tuple(lines)

    @property
    def short(self) -> str:
        """The agreement, in a few words: ``"39 of 39 exactly computed samples agree"``."""
        found = self.all
        samples = counted(found.num_pairs, "exactly computed sample")
        return f"{found.num_equal:,} of {samples} {'agrees' if found.num_pairs == 1 else 'agree'}"

    @property
    def agreement_text(self) -> str:
        """How many outcomes are equal, in a sentence."""
        branches = f"{self.num_branches:,} branch{'es' * (self.num_branches != 1)}"
        return self.all.text(f" in {branches}")

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "branches": self.num_branches,
            "draws": self.num_draws,
            **self.all.record(),
            "by_length": {str(length): one.record() for length, one in self.by_length.items()},
            "by_row": {row: one.record() for row, one in self.by_row.items()},
            **({} if self.corrected is None else {"corrected": _record(self.corrected)}),
            "corrected_by_length": {
                str(length): _record(one) for length, one in self.corrected_by_length.items()
            },
        }


def _record(found: Corrected) -> dict[str, Any]:
    return {
        "mean": found.mean,
        "these": [found.these.low, found.these.high],
        "like": [found.like.low, found.like.high],
    }


@once
def verify(results: Results, confidence: float = 0.95) -> Verification | None:
    """What the exactly computed samples of an approximate run say; None without any.

    Args:
        results: of a run; also of one that is not complete.
        confidence: of the intervals.
    """
    copies = [sample for sample in results.control_samples if sample.control == EXACT]
    pairs = exact_pairs(results.samples, copies) if copies else []
    if not pairs:
        return None
    branches = _branches(results, pairs)
    table = sample_table(results)
    corrected, by_length = None, {}
    if table.knows_needles:
        corrected = _corrected_mean(table, branches, confidence)
        by_length = {
            length: _corrected_length(table, branches, length, confidence)
            for length in _lengths(pairs)
        }
    return Verification(
        agreement_of(pairs),
        _grouped(pairs, lambda cell: cell.num_frames),
        {format_depth(row): one for row, one in _grouped(pairs, results.row_of).items()},
        len(branches),
        sum(branch.num_draws for branch in branches),
        corrected,
        by_length,
        results.cluster,
        confidence,
    )


def corrected_estimates(
    results: Results, *, confidence: float = 0.95, half_width: float = 0.1
) -> tuple[NeedleEstimate | None, Mapping[int, NeedleEstimate]]:
    """What an approximate run says about needles like these: as a whole, and at each length.

    Both are of means that exactly computed samples correct; what has no such sample is left out.

    Args:
        results: of an approximate run.
        confidence: of the intervals.
        half_width: as for `corrected_estimate`.
    """
    found = verify(results, confidence)
    if found is None or found.corrected is None:
        return None, {}
    table = sample_table(results)

    def estimate(part: SampleTable, mean: Corrected) -> NeedleEstimate:
        return corrected_estimate(
            part,
            mean,
            num_verified=found.num_draws,
            agrees=found.all.num_equal == found.all.num_pairs,
            half_width=half_width,
            confidence=confidence,
        )

    by_length = {
        length: estimate(table.at_length(length), mean)
        for length, mean in found.corrected_by_length.items()
    }
    return estimate(table, found.corrected), by_length


@dataclass(frozen=True)
class _Branch:
    """A branch that was drawn, and run exactly.

    Attributes:
        needle: the number of its needle in a `SampleTable`.
        num_draws: how often it was drawn.
        pairs: its samples.
    """

    needle: int
    num_draws: int
    pairs: tuple[Pair, ...]

    def difference(self, length: int | None = None) -> tuple[float, float]:
        """The mean of exact less approximate score, and the share of its samples that is over.

        Args:
            length: of the samples; by default all.
        """
        some = [pair for pair in self.pairs if length in (None, pair[0].num_frames)]
        total = sum(bool(copy.correct) - bool(one.correct) for one, copy in some)
        return total / max(1, len(some)), len(some) / len(self.pairs)


def _branches(results: Results, pairs: Sequence[Pair]) -> list[_Branch]:
    index = index_samples(results)
    needle_of = {
        sample.sample_id: int(number)
        for sample, number in zip(index.samples, index.needle, strict=True)
    }
    found: dict[str, list[Pair]] = {}
    for one, copy in pairs:
        found.setdefault(str(copy.fields.get("branch")), []).append((one, copy))
    return [
        _Branch(
            needle_of.get(members[0][0].sample_id, UNKNOWN),
            int(members[0][1].fields.get("num_draws", 1)),
            tuple(members),
        )
        for members in found.values()
    ]


def _corrected_mean(
    table: SampleTable, branches: Sequence[_Branch], confidence: float
) -> Corrected:
    drawn: dict[int, list[float]] = {}
    for branch in branches:
        difference, _ = branch.difference()
        drawn.setdefault(branch.needle, []).extend([difference] * branch.num_draws)
    return corrected_mean(
        [
            Checked(float(value), drawn.get(number, ()))
            for number, value in enumerate(table.needle_values())
        ],
        confidence=confidence,
    )


def _corrected_length(
    table: SampleTable, branches: Sequence[_Branch], length: int, confidence: float
) -> Corrected:
    draws = []
    for branch in branches:
        difference, weight = branch.difference(length)
        if weight:
            draws += [Draw(branch.needle, weight, difference)] * branch.num_draws
    values = [float(value) for value in table.at_length(length).needle_values()]
    return corrected_part(values, draws, confidence=confidence)


def _lengths(pairs: Iterable[Pair]) -> list[int]:
    return sorted({one.num_frames for one, _ in pairs if one.num_frames is not None})


def _grouped(pairs: Iterable[Pair], key_of: Callable[[Cell], Any]) -> Mapping[Any, Agreement]:
    """The agreement of the samples of each cell's key, ascending."""
    groups: dict[Any, list[Pair]] = {}
    for pair in pairs:
        if (cell := pair[0].cell) is not None:
            groups.setdefault(key_of(cell), []).append(pair)
    return {key: agreement_of(groups[key]) for key in sorted(groups)}
