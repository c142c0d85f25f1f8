"""Numbers of samples besides right and wrong, such as an error in seconds, as means over cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vniah.errors import ResultsError, short_repr
from vniah.grid import Cell
from vniah.results.samples import SampleResult

_OF_ALL_TASKS = ("logprob", "margin", "rank", "seconds", "needle_attention")
"""Numbers that every sample of a model that gives logits has; the last where it was traced."""

_LARGEST = 1e100
"""Sums and colours need some room."""


@dataclass(frozen=True)
class CellMeasure:
    """The mean of a measure over the samples of a cell.

    Attributes:
        cell: the cell.
        mean: the mean over the samples that have a value; None if none has.
        num_samples: number of these samples.
        num_missing: number of samples that have a score, but no value: an answer in words may name
            no time, so that it is wrong and has no error in seconds.
    """

    cell: Cell
    mean: float | None
    num_samples: int
    num_missing: int = 0


@dataclass(frozen=True)
class Measure:
    """A measure over all cells of a run.

    Attributes:
        name: the column of the samples that holds it.
        label: what tables and pictures call it.
        cells: every measured cell, ordered by frames, then by depth.
        is_share: whether the values of samples are truth values, so that means are in [0, 1].
        reference: the measure that it is compared with, such as that of a guess; None if the task
            names none.
    """

    name: str
    label: str
    cells: tuple[CellMeasure, ...]
    is_share: bool = False
    reference: "Measure | None" = None

    @cached_property
    def average(self) -> float | None:
        """The mean of the cells' means, all with the same weight; None if there is no value."""
        means = [found.mean for found in self.cells if found.mean is not None]
        return sum(means) / len(means) if means else None

    @property
    def num_samples(self) -> int:
        """Number of samples that have a value."""
        return sum(found.num_samples for found in self.cells)

    @property
    def num_missing(self) -> int:
        """Number of samples that have a score, but no value."""
        return sum(found.num_missing for found in self.cells)


def measure_of(
    samples: Sequence[SampleResult], name: str, details: Mapping[str, Any], where: object
) -> Measure:
    """A measure of the samples of a test.

    Args:
        samples: the results of the test, without controls.
        name: a number that samples have: one of the task's own, or one of all tasks.
        details: what the task said of itself: labels, measures and references.
        where: the path of the run, for the message.

    Raises:
        ResultsError: no sample has such a number.
    """
    values = {sample.sample_id: value_of(sample, name) for sample in samples}
    numbers = [value for value in values.values() if value is not None]
    if not numbers and name not in details.get("measures", ()):
        known = sorted({key for s in samples for key in s.fields if value_of(s, key) is not None})
        of_all = (n for n in _OF_ALL_TASKS if any(value_of(s, n) is not None for s in samples))
        raise ResultsError(
            f"no sample of {where} has a number called {short_repr(name)}; there are "
            f"{', '.join((*known, *of_all))}"
        )
    if too_large := [number for number in numbers if abs(number) > _LARGEST]:
        raise ResultsError(
            f"{short_repr(name)} of a sample of {where} is {too_large[0]:g}; means can be taken of "
            f"numbers up to {_LARGEST:g}"
        )
    groups: dict[Cell, list[SampleResult]] = {}
    for sample in samples:
        if sample.cell is not None:
            groups.setdefault(sample.cell, []).append(sample)
    cells = []
    for cell in sorted(groups):
        scored = [values[s.sample_id] for s in groups[cell] if s.correct is not None]
        found = [value for value in scored if value is not None]
        mean = sum(found) / len(found) if found else None
        cells.append(CellMeasure(cell, mean, len(found), len(scored) - len(found)))
    reference = details.get("references", {}).get(name)
    return Measure(
        name,
        details.get("labels", {}).get(name, name),
        tuple(cells),
        is_share=bool(numbers) and all(isinstance(value, bool) for value in numbers),
        reference=None if reference is None else measure_of(samples, reference, details, where),
    )


def shown_measures(details: Mapping[str, Any]) -> tuple[str, ...]:
    """The measures that have a table and a picture of their own: all that are no reference."""
    references = set(details.get("references", {}).values())
    return tuple(name for name in details.get("measures", ()) if name not in references)


def fault_of_measures(sample: SampleResult, details: Mapping[str, Any]) -> str | None:
    """What is wrong with the measures of a line; None if nothing is."""
    for name in details.get("measures", ()):
        value = sample.fields.get(name)
        if value is not None and not isinstance(value, int | float):
            return f"the measure {name} = {short_repr(value)}, which is no number"
    return None


def value_of(sample: SampleResult, name: str) -> float | bool | None:
    """The number of that name that a sample has; None if it has none."""
    value = getattr(sample, name) if name in _OF_ALL_TASKS else sample.fields.get(name)
    return value if isinstance(value, int | float) else None
