"""Perplexity by position: losses of tokens in buckets, with intervals over documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf, isfinite, sqrt
from typing import Any

import numpy as np
from scipy.special import stdtrit

from vniah.analysis.labels import rope_remarks
from vniah.analysis.statistics.intervals import Interval, require_confidence
from vniah.errors import InputError, ResultsError, counted, short_repr
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
    0, or more where several are before the text, such as those of frames. The last ends with the
    document. Where that would leave one of them less than half of its tokens, it is joined with the
    next one, or the one before: a mean over few tokens says little, and has a wide interval.

    Args:
        results: at least one document.
        size: positions of a bucket; by default that of `default_bucket`.
        confidence: of the intervals.

    Raises:
        ResultsError: no document is done yet.
        InputError: the size or the confidence is out of range.
    """
    require_confidence(confidence)
    nats, first = _require_documents(results)
    stop = first + nats.shape[1]
    size = default_bucket(results) if size is None else size
    require_bucket(size, stop)
    second = (first // size + 1) * size
    if 2 * (second - first) < size:
        second += size
    edges = [first, *range(second, stop, size), stop]
    if len(edges) > 2 and 2 * (stop - edges[-2]) < size:
        del edges[-2]
    return tuple(_bucket(nats, first, *both, confidence) for both in pairwise(edges))


def require_bucket(size: int, num_tokens: int) -> None:
    """Raises `InputError` unless documents of so many tokens can have buckets of this size."""
    if not 1 <= size <= MOST_TOKENS:
        raise InputError(
            f"a bucket has from 1 to {MOST_TOKENS:,} positions, got {short_repr(size)}"
        )
    num_buckets = -(-num_tokens // size)
    if num_buckets > _MOST_BUCKETS:
        raise InputError(
            f"buckets of {counted(size, 'position')} would be {num_buckets:,}, and at most "
            f"{_MOST_BUCKETS:,} are possible; give a larger size"
        )


def nominal_range(bucket: Bucket, size: int) -> tuple[int, int]:
    """The first position of a bucket and the one after its last, if all tokens there counted.

    Results of one size that begin or end at other places have the same for buckets at one place.

    Args:
        bucket: one of `perplexity_by_position`.
        size: of which it is.
    """
    return bucket.start // size * size, -(-bucket.stop // size) * size


def default_bucket(results: PerplexityResults) -> int:
    """A power of two, of which the tokens that count have 8 to 16 buckets.

    Fewer than 8 tokens have one each.
    """
    num_counted = results.num_tokens - first_counted(results)
    return 1 << max(0, num_counted.bit_length() - _NUM_BUCKETS.bit_length() + 1)


def first_counted(results: PerplexityResults) -> int:
    """The position of the first token that counts.

    Raises:
        ResultsError: no document is done yet.
    """
    return _require_documents(results)[1]


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
        f"{describe_documents(results)}"
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
        elif within is None:
            lines.append(f"all of it is beyond the training length of {trained:,} tokens")
    return lines


def describe_documents(results: PerplexityResults) -> str:
    """How many documents there are, how long they are, and what is before their text.

    For example ``"4 documents of 2,048 tokens: 1,216 of a prompt with 8 frames of film.mp4, then
    832 of text"``.
    """
    num_tokens = results.num_tokens
    sentence = f"{counted(len(results.documents), 'document')} of {num_tokens:,} tokens"
    if not results.num_frames:
        return sentence
    first = first_counted(results)
    return (
        f"{sentence}: {first:,} of a prompt with {_frames_of(results)} of {results.video_name}, "
        f"then {num_tokens - first:,} of text"
    )


def _frames_of(results: PerplexityResults) -> str:
    return counted(results.num_frames, results.frame_unit)


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
    """A name for each result that no other one has: the model's, how its RoPE differs, and which
    frames its documents follow.

    Where these are the same, the folder's path is added.

    Raises:
        ResultsError: a result holds a scaling that cannot be read.
    """
    remarks = zip(results, rope_remarks(results), _frame_remarks(results), strict=True)
    names = [", ".join(filter(None, (one.name, *both))) for one, *both in remarks]
    found = [
        name if names.count(name) == 1 else f"{name} in {one.path}"
        for name, one in zip(names, results, strict=True)
    ]
    return tuple(
        name if found.count(name) == 1 else f"{name} ({found[: place + 1].count(name)})"
        for place, name in enumerate(found)
    )


def _frame_remarks(results: Sequence[PerplexityResults]) -> list[str]:
    """For each result, which frames its documents follow; ``""`` for text if all are of text.

    The video is named where there are several.
    """
    videos = {one.video_name for one in results if one.num_frames}
    if not videos:
        return [""] * len(results)
    return [
        f"after {_frames_of(one)}" + f" of {one.video_name}" * (len(videos) > 1)
        if one.num_frames
        else "text alone"
        for one in results
    ]


def about_tokens(names: Sequence[str], results: Sequence[PerplexityResults]) -> list[str]:
    """A sentence on results that cannot be compared; none where all are of the same tokens.

    Perplexity is per token, so a tokenizer with longer tokens has the higher one. Results do not
    say which tokenizer they are of. It is the same for one model, and for models that have cut one
    text at the same characters into documents of as many tokens.

    Args:
        names: one for each of the results.
        results: each has at least one document.
    """
    groups: list[list[int]] = []
    for place, one in enumerate(results):
        same = (group for group in groups if any(_cut_alike(one, results[k]) for k in group))
        found = next(same, None)
        if found is None:
            groups.append([place])
        else:
            found.append(place)
    if len(groups) < 2:
        return []
    first = [results[group[0]] for group in groups]
    is_known = all(_cut_alike(first[0], other) is False for other in first[1:])
    listed = " | ".join("; ".join(names[place] for place in group) for group in groups)
    return [
        f"the tokenizers {'differ' if is_known else 'may differ'} between these: {listed}. "
        "Perplexity is per token, so it cannot be compared between them"
    ]


def _cut_alike(one: PerplexityResults, other: PerplexityResults) -> bool | None:
    """Whether two results are of the same tokenizer; None if that is not known."""
    models = [run.manifest["model"] for run in (one, other)]
    if all(models[0].get(key) == models[1].get(key) for key in ("name", "revision")):
        return True
    if one.manifest["haystack"] != other.manifest["haystack"]:
        return None
    has_frames = one.num_frames > 0
    sizes = [run.num_tokens - first_counted(run) * has_frames for run in (one, other)]
    if has_frames != (other.num_frames > 0) or sizes[0] != sizes[1]:
        return None
    # What is before a text is of the tokenizer, but for the frames and the prompt around them.
    places = [
        {d.number: (d.start, d.stop, 0 if has_frames else d.first) for d in run.documents}
        for run in (one, other)
    ]
    common = places[0].keys() & places[1].keys()
    return all(places[0][number] == places[1][number] for number in common) if common else None
