"""What the commands print of measures, such as an error in seconds."""

from typing import TYPE_CHECKING

from vniah.analysis.tables import format_places
from vniah.errors import counted

if TYPE_CHECKING:
    from vniah.results import Measure, Results


def format_measure(results: "Results", name: str) -> str:
    """The means of a measure as a table: cells, their mean at each number of frames, the reference.

    Below the table stands the average, and over how many samples it is where some have no value.
    """
    measure = results.measure(name)
    rows = {"mean": _means(measure)}
    if measure.reference is not None:
        rows[measure.reference.label] = _means(measure.reference)
    texts = {c.cell: _number(c.mean) for c in measure.cells if c.mean is not None}
    table = format_places(results, texts, rows)
    return "\n".join((measure.label, table, format_measure_average(results, measure)))


def format_measure_average(results: "Results", measure: "Measure") -> str:
    """The mean over the cells that have a value, beside that of the reference."""
    if measure.average is None:
        return f"{measure.label}: none, no sample has a value"
    label = f"{measure.label}{', approximate' * results.is_approximate}"
    text = f"{label}: {_number(measure.average)}"
    if measure.reference is not None and measure.reference.average is not None:
        text += f" ({measure.reference.label}: {_number(measure.reference.average)})"
    if measure.num_missing:
        total = measure.num_samples + measure.num_missing
        text += (
            f", over {measure.num_samples:,} of {counted(total, 'sample')}: the others have no "
            "value"
        )
    return text


def _means(measure: "Measure") -> dict[int, str]:
    """The mean of the cells' means at each number of frames that has any."""
    columns: dict[int, list[float]] = {}
    for found in measure.cells:
        if found.mean is not None:
            columns.setdefault(found.cell.num_frames, []).append(found.mean)
    return {count: _number(sum(means) / len(means)) for count, means in columns.items()}


def _number(value: float) -> str:
    """Two digits after the point, one from ten on, none from a thousand on.

    >>> [_number(value) for value in (0.256, 12.34, 1234.5, 1e-4)]
    ['0.26', '12.3', '1,234', '0.0001']
    """
    size = abs(value)
    if size >= 1e9 or 0 < size < 0.005:
        return f"{value:.3g}"
    return f"{value:,.{2 if size < 10 else 1 if size < 1000 else 0}f}"
