"""What ran: the manifests of runs, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vniah.results import ENVIRONMENT_KEY, NOTES_KEY, Results, flatten
from vniah.results.manifests import VERIFICATION_KEY

_LEFT_OUT = ("sample_ids", NOTES_KEY, VERIFICATION_KEY)  # a section of the page has the latter
_FIRST = (
    *("task", "controls", "task_details", "model", "approximation"),
    *("haystack", "needles", "grid", "protocol"),
)
_IN_SHORT = (
    *("vniah", "git_revision", "python", "platform", "device", "packages.torch"),
    "packages.transformers",
)
_MOST_VALUES = 40


@dataclass(frozen=True)
class Fact:
    """A setting of the runs.

    Attributes:
        name: with dots, such as ``model.dtype``.
        values: a text for each run; empty where a manifest does not have it.
        differs: whether the runs that have it differ in it.
        is_detail: whether it belongs to the details and not to the short list.
    """

    name: str
    values: tuple[str, ...]
    differs: bool
    is_detail: bool


def facts_of(runs: Sequence[Results]) -> list[Fact]:
    """The settings of runs by name, those that people ask for first."""
    found = [_flat(results.manifest) for results in runs]
    names = list(dict.fromkeys(name for values in found for name in values))
    names.sort(key=_rank)
    facts = []
    for name in names:
        values = tuple(values.get(name, "") for values in found)
        given = {value for value in values if value}
        facts.append(Fact(name, values, len(given) > 1, _is_detail(name)))
    return facts


def notes_of(results: Results) -> list[str]:
    """What the run notes about itself."""
    return [str(note) for note in results.manifest.get(NOTES_KEY, ())]


def _flat(manifest: Mapping[str, Any]) -> dict[str, str]:
    kept = {name: value for name, value in manifest.items() if name not in _LEFT_OUT}
    return {name: _as_text(value) for name, value in flatten(kept).items()}


def _rank(name: str) -> tuple[bool, int]:
    section = name.partition(".")[0]
    place = _FIRST.index(section) if section in _FIRST else len(_FIRST)
    return _is_detail(name), place


def _is_detail(name: str) -> bool:
    section, _, rest = name.partition(".")
    if section == ENVIRONMENT_KEY:
        return rest not in _IN_SHORT
    if section == "task_details":
        return not rest.startswith("settings")
    return section not in (*_FIRST, "scorer")


def _as_text(value: Any) -> str:
    if not isinstance(value, list):
        return "" if value is None else str(value)
    some = ", ".join(map(str, value[:_MOST_VALUES]))
    left_out = len(value) - _MOST_VALUES
    return f"{some} and {left_out:,} more" if left_out > 0 else some
