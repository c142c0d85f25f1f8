"""Labels that tell several runs of one model apart where they are shown side by side."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

from vniah.errors import ResultsError
from vniah.options.rope import OFF, Scaling, scaling_label, theta_label
from vniah.results import Results
from vniah.schema import parse_json


def result_labels(results: Sequence[Results]) -> tuple[str, ...]:
    """A name for each result that no other one has: the model, the part, how its RoPE differs.

    Where these are the same, such as for two checkpoints of one model, the path is added, and a
    number where that is the same as well.

    Raises:
        ResultsError: a manifest holds a scaling that cannot be read.
    """
    found = [
        ", ".join(filter(None, (result.short_name, result.part, remark)))
        for result, remark in zip(results, rope_remarks(results), strict=True)
    ]
    found = [
        label if found.count(label) == 1 else f"{label} in {result.path}"
        for label, result in zip(found, results, strict=True)
    ]
    return tuple(
        label if found.count(label) == 1 else f"{label} ({found[: place + 1].count(label)})"
        for place, label in enumerate(found)
    )


class _ScalingRecord(TypedDict):
    rope_type: str
    factor: NotRequired[float]


def rope_remarks(results: Sequence[Results]) -> tuple[str, ...]:
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


def _rope_of(result: Results) -> tuple[float, Scaling] | None:
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
