"""The difference that an intervention makes, as rows of tables."""

from collections.abc import Iterator
from typing import Any

from vniah.analysis.labels import like_these
from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.statistics.intervention import Part, intervention_effect
from vniah.grid import format_depth
from vniah.results import Results

_NO_VALUE = "."


def applied_rows(results: Results, confidence: float = 0.95) -> list[dict[str, Any]]:
    """A row for the whole run, one for each length, and one for each row of its map.

    There are none for a run that applied nothing.
    """
    found = intervention_effect(results, confidence)
    if found is None:
        return []
    parts: list[tuple[int | None, float | None, Part]] = [(None, None, found.whole)]
    parts += [(length, None, part) for length, part in found.by_length.items()]
    if results.has_depths:
        parts += [(None, float(row), part) for row, part in found.by_row.items()]
    return [
        {
            "intervention": found.function,
            "num_frames": length,
            "row": row,
            **_numbers(part, results),
        }
        for length, row, part in parts
    ]


def _numbers(part: Part, results: Results) -> dict[str, Any]:
    difference, interval = part.difference, part.difference.interval
    return {
        "score": part.before,
        "applied_score": part.after,
        "difference": difference.estimate,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "interval_for": None if interval is None else like_these([results]),
        "p_value": difference.p_value,
        "num_pairs": difference.num_pairs,
        "num_fallen": difference.num_fallen,
        "num_risen": difference.num_risen,
        "num_needles": difference.num_needles,
    }


def applied_texts(
    results: Results, confidence: float = 0.95
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """The same as texts: rows with a heading, and notes for below them."""
    found = intervention_effect(results, confidence)
    if found is None:
        return (), ()
    percent = percent_of(confidence)
    heading = ("", "without", "with", "difference", percent, "fell", "rose", "pairs")
    rows = tuple(_texts(results, confidence))
    note = (
        f"with: {found.function}; {percent}: the interval of the paired difference for "
        f"{like_these([results])}"
    )
    return (heading, *rows), (note,)


def _texts(results: Results, confidence: float) -> Iterator[tuple[str, ...]]:
    unit = results.axis
    name = "position" if results.has_positions else "depth"
    found = intervention_effect(results, confidence)
    assert found is not None
    yield _line("all", found.whole)
    for length, part in found.by_length.items():
        yield _line(f"{length:,} {unit}", part)
    for row, part in found.by_row.items() if results.has_depths else ():
        yield _line(f"{name} {format_depth(row)}", part)


def _line(name: str, part: Part) -> tuple[str, ...]:
    difference = part.difference
    interval: Interval | None = difference.interval
    ends = _NO_VALUE
    if interval is not None:
        ends = interval.text(around=difference.estimate, signed=True)
    return (
        name,
        f"{part.before:.2f}",
        f"{part.after:.2f}",
        f"{difference.estimate:+.3f}",
        ends,
        f"{difference.num_fallen:,}",
        f"{difference.num_risen:,}",
        f"{difference.num_pairs:,}",
    )
