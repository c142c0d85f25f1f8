"""Tables of perplexity by position."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from vniah.analysis.perplexity import (
    about_tokens,
    format_perplexity,
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
    """A row for each bucket; several results side by side."""
    names = perplexity_labels(results)
    columns = [perplexity_by_position(one, size, confidence=confidence) for one in results]
    places = sorted({(bucket.start, bucket.stop) for column in columns for bucket in column})
    texts = [
        {(bucket.start, bucket.stop): format_perplexity(bucket) for bucket in column}
        for column in columns
    ]
    head = ("perplexity",) if len(results) == 1 else names
    rows = [
        (f"{start:,} to {stop - 1:,}", *(found.get((start, stop), NO_VALUE) for found in texts))
        for start, stop in places
    ]
    notes = [
        f"{name}: {line}"
        for name, one in zip(names, results, strict=True)
        for line in (*summarize_perplexity(one), *one.notes)
    ]
    notes += about_tokens(names, results)
    if any(bucket.interval is not None for column in columns for bucket in column):
        notes.append(f"in brackets: {percent_of(confidence)} t-intervals over documents")
    return Layout((("positions", *head), *rows), notes=tuple(notes))
