"""Labels that tell several runs of one model apart side by side, and what their lengths are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

from vniah.errors import ResultsError
from vniah.options.rope import OFF, Scaling, scaling_label, theta_label
from vniah.results import Results
from vniah.schema import parse_json

_LONGEST_NAME = 101  # characters


def result_labels(results: Sequence[Results]) -> tuple[str, ...]:
    """A name for each result that no other one has: the model, the part, how its RoPE differs.

    Where these are the same, such as for two checkpoints of one model, the path is added, and a
    number where that is the same as well.

    Raises:
        ResultsError: a manifest holds a scaling that cannot be read.
    """
    endings = label_endings(results)
    return tuple(
        f"{_short_name(result)}{ending}" for result, ending in zip(results, endings, strict=True)
    )


def label_endings(results: Sequence[Results]) -> tuple[str, ...]:
    """What `result_labels` adds to each name: ``", category: dog"``, or ``" in runs/a"``.

    Raises:
        ResultsError: a manifest holds a scaling that cannot be read.
    """
    endings = [
        "".join(f", {text}" for text in (result.part, remark) if text)
        for result, remark in zip(results, rope_remarks(results), strict=True)
    ]
    names = [_short_name(result) for result in results]
    found = list(zip(names, endings, strict=True))
    endings = [
        ending if found.count((name, ending)) == 1 else f"{ending} in {result.path}"
        for name, ending, result in zip(names, endings, results, strict=True)
    ]
    found = list(zip(names, endings, strict=True))
    return tuple(
        ending if found.count(one) == 1 else f"{ending} ({found[:place].count(one) + 1})"
        for place, (ending, one) in enumerate(zip(endings, found, strict=True))
    )


def these(results: Results) -> str:
    """What a score is of, in words: ``"these needles on this film"``, or ``"these videos"``."""
    if results.cluster != "needle":
        return f"these {results.cluster}s"
    return f"these needles on this {results.haystack_noun}"


def like_these(runs: Sequence[Results]) -> str:
    """What the intervals of results are for, in words: ``"needles like these"``."""
    return f"{' or '.join(dict.fromkeys(f'{run.cluster}s' for run in runs))} like these"


def _short_name(results: Results) -> str:
    """Its name, cut where it is very long, but for what says that the results are approximate."""
    if (found := results.approximation) is None:
        return _short(results.name)
    return found.marked(_short(found.unmarked(results.name)))


def _short(name: str) -> str:
    """A name, cut in the middle where it is very long: its ends tell it from others."""
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 3) // 2
    return f"{name[:half]}...{name[-half:]}"


LENGTH_LABELS = {
    "frames": "Number of frames",
    "pages": "Number of pages",
    "tokens": "Context length (tokens)",
}
"""What the axis of the lengths is called, by `Results.axis`."""


def unit_note(results: Results) -> str:
    """How the lengths of a published table differ from those in it; empty where they are the same.

    >>> unit_note(table)  # doctest: +SKIP
    "published in units of 2 frames: 5,800 frames here are 2,900 there"
    """
    if results.unit == 1 or not results.cells:
        return ""
    longest = max(found.cell.num_frames for found in results.cells)
    return (
        f"published in units of {results.unit} frames: {longest:,} frames here are "
        f"{longest // results.unit:,} there"
    )


def unit_notes(results: Sequence[Results], names: Sequence[str] | None = None) -> list[str]:
    """The notes of several results, each once, with the names of those that it is of.

    Args:
        results: the results.
        names: one for each; by default those of `result_labels`.
    """
    notes: dict[str, list[str]] = {}
    names = result_labels(results) if names is None else names
    for name, one in zip(names, results, strict=True):
        if note := unit_note(one):
            notes.setdefault(note, []).append(name)
    if len(results) == 1:
        return list(notes)
    return [f"{', '.join(those)}: {note}" for note, those in notes.items()]


class _ScalingRecord(TypedDict):
    rope_type: str
    factor: NotRequired[float]


class OfAModel(Protocol):
    """What is known of a measured model, as of `vniah.results.Results`."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def path(self) -> Path:
        """Where the results lie."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Its ``model`` says what was measured; empty where nothing is known."""


def rope_remarks(results: Sequence[OfAModel]) -> tuple[str, ...]:
    """For each result, how its RoPE differs from that of others with the same name; else ``""``.

    For example ``("RoPE base 3e6", "RoPE base 1e9")``, or ``("no scaling", "yarn:4")``. Results
    whose manifest does not name the RoPE, such as published tables, are left without a remark.

    Raises:
        ResultsError: a manifest holds a scaling that cannot be read.
    """
    groups: dict[str, list[tuple[float, Scaling]]] = {}
    for result in results:
        if (rope := _rope_of(result)) is not None:
            groups.setdefault(result.name, []).append(rope)
    return tuple(_remark(_rope_of(result), groups.get(result.name, ())) for result in results)


def _rope_of(result: OfAModel) -> tuple[float, Scaling] | None:
    """Base and scaling of a run's RoPE; None if its manifest does not name them."""
    model = result.manifest.get("model", {})
    if "rope_theta" not in model:
        return None
    text = model.get("rope_scaling")
    if text is None:
        return float(model["rope_theta"]), {"rope_type": OFF}
    where = f"{result.path}, model.rope_scaling of its manifest"
    scaling = parse_json(text, _ScalingRecord, ResultsError, where)
    return float(model["rope_theta"]), dict(scaling)


def _remark(rope: tuple[float, Scaling] | None, group: Sequence[tuple[float, Scaling]]) -> str:
    if rope is None:
        return ""
    theta, scaling = rope
    parts = []
    if any(other != theta for other, _ in group):
        parts.append(f"RoPE base {theta_label(theta)}")
    if others := [other for _, other in group if other != scaling]:
        short = scaling_label(scaling, is_short=True)
        is_enough = all(scaling_label(other, is_short=True) != short for other in others)
        parts.append(scaling_label(scaling, is_short=is_enough))
    return ", ".join(parts)
