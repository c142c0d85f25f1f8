"""Parts of a run: by the values of a field, and groups of samples that count as one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vniah.errors import ResultsError, short_repr
from vniah.results.plan import open_places, planned_test_ids
from vniah.results.records import Results
from vniah.results.samples import SampleResult

FacetValue = str | int | float | bool | tuple[Any, ...]
"""A value of a field; a list is a tuple here."""


def facet_results(results: Results, field: str) -> dict[FacetValue, Results]:
    """A run, split by the values of a field of its samples.

    Each part is a run like any other, without controls: tables, pictures and comparisons take it.
    Samples that lack the field, or have null there, are in no part. In a run that is not complete
    the samples without a line, whose values are not known, are planned in every part.

    Args:
        results: a run.
        field: the name of a field, e.g. one of ``results.details["facets"]``.

    Returns:
        The parts by value: numbers first, ascending, then all others as they come.

    Raises:
        ResultsError: no sample has such a field.

    >>> facet_results(results, "num_distractors")[1].average        # doctest: +SKIP
    0.92
    """
    groups: dict[FacetValue, list[SampleResult]] = {value: [] for value in _values(results, field)}
    if not groups:
        known = sorted({name for sample in results.samples for name in sample.fields})
        raise ResultsError(
            f"no sample of {results.path} has a value of {short_repr(field)}; "
            + (f"there are {', '.join(known)}" if known else "it has no samples")
        )
    for sample in results.samples:
        if (value := _value(sample, field)) is not None:
            groups[value].append(sample)
    return {
        value: _part(results, samples, f"{label_of(results, field)}: {value_label(value)}")
        for value, samples in groups.items()
    }


def facet_values(results: Results) -> dict[str, tuple[FacetValue, ...]]:
    """The values of each facet that the task names, if there are several in this run."""
    found = {name: _values(results, name) for name in results.details.get("facets", ())}
    return {name: values for name, values in found.items() if len(values) > 1}


def parts_of(results: Results) -> list[Results]:
    """The parts of a run by each facet with several values, then its groups, if there are any."""
    parts = [
        part for name in facet_values(results) for part in facet_results(results, name).values()
    ]
    groups = group_results(results)
    return parts if groups is None else [*parts, groups]


def group_results(results: Results) -> Results | None:
    """A run in which each group of samples is one; None if the task has no groups.

    Samples of one cell with the same value of the field ``results.details["all_of"]`` are a group.
    It is right if all of them are, and an error if one of them is. A cell of which samples have no
    line yet has no groups.
    """
    field = results.details.get("all_of")
    if field is None:
        return None
    lines = (*results.samples, *results.control_samples)
    pending = open_places(results.manifest, {sample.sample_id for sample in lines})
    groups: dict[str, list[SampleResult]] = {}
    for sample in results.samples:
        value = _value(sample, field)
        if sample.cell is not None and value is not None and sample.cell.prefix not in pending:
            groups.setdefault(sample.cell.prefix + value_label(value), []).append(sample)
    joined = [_joined(name, members) for name, members in groups.items()]
    return _part(results, joined, f"all of a {field} right")


def label_of(results: Results, field: str) -> str:
    """What tables and pictures call a field: its label, else its name."""
    return results.details.get("labels", {}).get(field, field)


def value_label(value: FacetValue) -> str:
    """A value of a field as text; a list as a comma list."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _joined(name: str, members: Sequence[SampleResult]) -> SampleResult:
    """A group of samples as one."""
    errors = [member.error for member in members if member.error is not None]
    return SampleResult(
        sample_id="_".join(name.split()),
        task=members[0].task,
        cell=members[0].cell,
        question="",
        answer="",
        correct=None if errors else all(member.correct for member in members),
        error=errors[0] if errors else None,
    )


def _part(results: Results, samples: Sequence[SampleResult], name: str) -> Results:
    """Samples as a run of their own, planned together with those that have no line yet."""
    done = {sample.sample_id for sample in (*results.samples, *results.control_samples)}
    planned = [sample.sample_id for sample in samples]
    planned += [name for name in planned_test_ids(results.manifest) if name not in done]
    manifest: Mapping[str, Any] = {
        **results.manifest,
        "controls": [],
        "sample_ids": " ".join(planned),
    }
    return replace(
        results,
        manifest=manifest,
        samples=tuple(samples),
        control_samples=(),
        part=", ".join(filter(None, (results.part, name))),
    )


def _values(results: Results, field: str) -> tuple[FacetValue, ...]:
    """The different values of a field: numbers first, ascending, then all others as they come."""
    found = dict.fromkeys(_value(sample, field) for sample in results.samples)
    values = [value for value in found if value is not None]
    return tuple(sorted(values, key=lambda value: (not _is_number(value), _rank(value))))


def _value(sample: SampleResult, field: str) -> FacetValue | None:
    value = sample.fields.get(field)
    return tuple(value) if isinstance(value, list) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rank(value: Any) -> float:
    """Sorts numbers; all others keep their order."""
    return float(value) if _is_number(value) else 0.0
