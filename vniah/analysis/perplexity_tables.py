"""Tables of perplexity by position."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from vniah.analysis.perplexity import (
    about_tokens,
    default_bucket,
    format_perplexity,
    nominal_range,
    perplexity_by_position,
    perplexity_labels,
    perplexity_of,
    summarize_perplexity,
)
from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.table_formats import format_csv, format_latex, format_markdown, json_text
from vniah.analysis.table_layouts import NO_VALUE, Layout
from vniah.options import TableFormat
from vniah.results.perplexity import PerplexityResults


def perplexity_rows(
    results: Sequence[PerplexityResults], size: int | None = None, *, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """A row for each bucket of each result, with all digits; None is what is not known.

    Args:
        results: each has at least one document.
        size: as for `perplexity_by_position`.
        confidence: as for `perplexity_by_position`.
    """
    rows = []
    for name, one in zip(perplexity_labels(results), results, strict=True):
        for bucket in perplexity_by_position(one, size, confidence=confidence):
            low, high = (
                (None, None)
                if bucket.interval is None
                else (bucket.interval.low, bucket.interval.high)
            )
            rows.append(
                {
                    "result": name,
                    "num_frames": one.num_frames,
                    "start": bucket.start,
                    "stop": bucket.stop,
                    "num_documents": bucket.num_documents,
                    "tokens_of_each": bucket.num_tokens,
                    "nats": bucket.nats,
                    "nats_low": low,
                    "nats_high": high,
                    "perplexity": _number(bucket.nats),
                    "perplexity_low": _number(low),
                    "perplexity_high": _number(high),
                }
            )
    return rows


def _number(nats: float | None) -> float | None:
    """A perplexity that JSON can hold."""
    found = None if nats is None else perplexity_of(nats)
    return found if found is not None and isfinite(found) else None


def format_perplexities(
    results: Sequence[PerplexityResults],
    style: TableFormat,
    size: int | None = None,
    *,
    confidence: float = 0.95,
) -> str:
    """A table of some results as text in a format, without a line end.

    Args:
        results: each has at least one document.
        style: ``"text"``, ``"markdown"`` or ``"latex"`` with three digits; ``"csv"`` or ``"json"``
            with all.
        size: as for `perplexity_by_position`.
        confidence: of the intervals.
    """
    rows = perplexity_rows(results, size, confidence=confidence)
    if style == "csv":
        return format_csv(rows)
    if style == "json":
        records = map(_record, perplexity_labels(results), results)
        content: Mapping[str, Any] = {
            "kind": "perplexity",
            "confidence": confidence,
            "results": list(records),
            "notes": about_tokens(perplexity_labels(results), results),
            "rows": rows,
        }
        return json_text(content)
    layout = _layout(results, size, confidence)
    if style == "markdown":
        return format_markdown(layout)
    return format_latex(layout, "Perplexity") if style == "latex" else layout.text


def _record(name: str, results: PerplexityResults) -> dict[str, Any]:
    return {
        "result": name,
        "path": str(results.path),
        "model": results.name,
        "haystack": results.haystack_name,
        "num_frames": results.num_frames,
        "video": results.video_name,
        "num_documents": len(results.documents),
        "num_tokens": results.num_tokens,
        "trained_tokens": results.trained_tokens,
        "summary": summarize_perplexity(results),
        "notes": list(results.notes),
    }


def _layout(results: Sequence[PerplexityResults], size: int | None, confidence: float) -> Layout:
    """A row for each bucket; several results side by side.

    Buckets that differ only by where the text begins or ends share a row, with all of their
    positions.
    """
    names = perplexity_labels(results)
    columns = [
        {
            nominal_range(one, default_bucket(run) if size is None else size): one
            for one in perplexity_by_position(run, size, confidence=confidence)
        }
        for run in results
    ]
    rows, is_ragged = [], False
    for place in sorted({place for column in columns for place in column}):
        found = [column.get(place) for column in columns]
        ranges = {(one.start, one.stop) for one in found if one is not None}
        is_ragged |= len(ranges) > 1
        start, stop = min(start for start, _ in ranges), max(stop for _, stop in ranges)
        texts = [NO_VALUE if one is None else format_perplexity(one) for one in found]
        rows.append((f"{start:,} to {stop - 1:,}", *texts))
    head = ("perplexity",) if len(results) == 1 else names
    notes = [
        f"{name}: {line}"
        for name, one in zip(names, results, strict=True)
        for line in (*summarize_perplexity(one), *one.notes)
    ]
    notes += about_tokens(names, results)
    if is_ragged:
        notes.append(
            "a text that begins or ends between the positions of a line has the mean over its own "
            "tokens there"
        )
    if any(one.interval is not None for column in columns for one in column.values()):
        notes.append(f"in brackets: {percent_of(confidence)} t-intervals over documents")
    return Layout((("positions", *head), *rows), notes=tuple(notes))
