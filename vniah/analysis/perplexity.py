"""Perplexity by position: losses of tokens in buckets, with intervals over documents; tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, sqrt
from typing import Any

import numpy as np
from scipy.special import stdtrit

from vniah.analysis.labels import rope_remarks
from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.statistics.intervals import Interval, require_confidence
from vniah.analysis.table_formats import format_csv, format_latex, format_markdown, json_text
from vniah.analysis.table_layouts import NO_VALUE, Layout
from vniah.errors import InputError, ResultsError, counted, short_repr
from vniah.options import TableFormat
from vniah.results.perplexity import MOST_TOKENS, PerplexityResults

_NUM_BUCKETS = 16
_MOST_BUCKETS = 100_000
_LARGEST = 700.0  # nats, of which the exponential is a number


@dataclass(frozen=True)
class Bucket:
    """Tokens at some positions of all documents.

    A token's position is the number of tokens that the model reads before it.

    Attributes:
        start: the first position.
        stop: the position after the last.
        num_documents: how many documents there are.
        num_tokens: how many tokens of each of them count.
        nats: the mean negative log-likelihood of the tokens. All documents have the same number of
            them, so it is the mean over the documents as well.
        interval: of ``nats``: the t-interval over the documents, for documents like these; None
            for a single document.
    """

    start: int
    stop: int
    num_documents: int
    num_tokens: int
    nats: float
    interval: Interval | None

    @property
    def perplexity(self) -> float:
        """The exponential of the mean."""
        return perplexity_of(self.nats)


def perplexity_of(nats: float) -> float:
    """The perplexity of a mean negative log-likelihood; infinite from e^700 on."""
    return exp(nats) if nats <= _LARGEST else inf


def perplexity_by_position(
    results: PerplexityResults, size: int | None = None, *, confidence: float = 0.95
) -> tuple[Bucket, ...]:
    """The losses of tokens by their positions, in buckets of equal size.

    Buckets begin at multiples of ``size``. The first has one token less, as nothing predicts token
    0, or more where the tokenizer puts several before every text; the last ends with the document.

    Args:
        results: at least one document.
        size: positions of a bucket; by default about 16 buckets, of a power of two.
        confidence: of the intervals.

    Raises:
        ResultsError: no document is done yet.
        InputError: the size or the confidence is out of range.
    """
    require_confidence(confidence)
    nats, first = _require_documents(results)
    stop = first + nats.shape[1]
    size = default_bucket(results) if size is None else size
    if not 1 <= size <= MOST_TOKENS:
        raise InputError(
            f"a bucket has from 1 to {MOST_TOKENS:,} positions, got {short_repr(size)}"
        )
    starts = range(first // size * size, stop, size)
    if len(starts) > _MOST_BUCKETS:
        raise InputError(
            f"buckets of {counted(size, 'position')} would be {len(starts):,}, and at most "
            f"{_MOST_BUCKETS:,} are possible; give a larger size"
        )
    return tuple(
        _bucket(nats, first, max(start, first), min(start + size, stop), confidence)
        for start in starts
    )


def default_bucket(results: PerplexityResults) -> int:
    """A size of which a document has 9 to 16 buckets, a power of two."""
    return 1 << max(0, (results.num_tokens - 1).bit_length() - _NUM_BUCKETS.bit_length() + 1)


def perplexity_between(
    results: PerplexityResults, start: int, stop: int, *, confidence: float = 0.95
) -> Bucket | None:
    """The losses of the tokens from one position to another; None if no token counts there.

    Args:
        results: at least one document.
        start: the first position.
        stop: the position after the last.
        confidence: of the interval.

    Raises:
        ResultsError: no document is done yet.
    """
    nats, first = _require_documents(results)
    low, high = max(start, first), min(stop, first + nats.shape[1])
    return _bucket(nats, first, low, high, confidence) if low < high else None


def summarize_perplexity(results: PerplexityResults) -> list[str]:
    """What is said of a result, in sentences: up to the training length, and beyond it."""
    whole = perplexity_between(results, 0, results.num_tokens)
    assert whole is not None, "a document has tokens that count"
    lines = [
        f"perplexity {format_perplexity(whole)} ({whole.nats:.4f} nats per token) over "
        f"{counted(whole.num_documents, 'document')} of {results.num_tokens:,} tokens"
    ]
    trained = results.trained_tokens
    if trained is not None:
        within = perplexity_between(results, 0, trained)
        beyond = perplexity_between(results, trained, results.num_tokens)
        if within is not None and beyond is not None:
            lines.append(
                f"{format_perplexity(within)} up to the training length of {trained:,} tokens, "
                f"{format_perplexity(beyond)} beyond it"
            )
    return lines


def format_perplexity(bucket: Bucket, *, interval: bool = True) -> str:
    """A perplexity in three digits, with its interval if it has one: ``"17.3 [15.9 to 18.8]"``."""
    text = _short(bucket.perplexity)
    if not interval or bucket.interval is None:
        return text
    ends = (bucket.interval.low, bucket.interval.high)
    return f"{text} [{' to '.join(_short(perplexity_of(end)) for end in ends)}]"


def _short(value: float) -> str:
    if not isfinite(value):
        return "above 1e304"
    if value >= 999_999.5:
        return f"{value:.2e}"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f}"


def _require_documents(results: PerplexityResults) -> tuple[Any, int]:
    """The losses of all documents, ``[num_documents, num_tokens]``, and their first position."""
    if not results.documents:
        raise ResultsError(
            f"{results.path} holds no document yet: start the same vniah perplexity measure again"
        )
    return np.stack([one.nats for one in results.documents]), results.documents[0].first


def _bucket(nats: Any, first: int, start: int, stop: int, confidence: float) -> Bucket:
    means = nats[:, start - first : stop - first].mean(axis=1)
    mean, interval = float(means.mean()), None
    if len(means) > 1:
        quantile = float(stdtrit(len(means) - 1, (1 + confidence) / 2))
        half = quantile * float(means.std(ddof=1)) / sqrt(len(means))
        interval = Interval(max(0.0, mean - half), mean + half)  # no loss is below 0
    return Bucket(start, stop, len(means), stop - start, mean, interval)


def perplexity_labels(results: Sequence[PerplexityResults]) -> tuple[str, ...]:
    """A name for each result that no other one has: the model's, and how its RoPE differs.

    Where these are the same, the folder's path is added.

    Raises:
        ResultsError: a result holds a scaling that cannot be read.
    """
    remarks = rope_remarks(results)
    names = [
        f"{one.name}, {remark}" if remark else one.name
        for one, remark in zip(results, remarks, strict=True)
    ]
    found = [
        name if names.count(name) == 1 else f"{name} in {one.path}"
        for name, one in zip(names, results, strict=True)
    ]
    return tuple(
        name if found.count(name) == 1 else f"{name} ({found[: place + 1].count(name)})"
        for place, name in enumerate(found)
    )


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
        "num_documents": len(results.documents),
        "num_tokens": results.num_tokens,
        "trained_tokens": results.trained_tokens,
        "summary": summarize_perplexity(results),
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
        for line in summarize_perplexity(one)
    ]
    if any(bucket.interval is not None for column in columns for bucket in column):
        notes.append(f"in brackets: {percent_of(confidence)} t-intervals over documents")
    return Layout((("positions", *head), *rows), notes=tuple(notes))
