"""What a task says about itself besides its name, for the manifest, tables and pictures.

All of it is optional. A task may have these attributes:

- ``settings``: what it was configured with, a mapping of JSON values;
- ``labels``: words for columns of the results, such as ``{"depth": "Depth of the middle"}``;
- ``facets``: names of sample fields by whose values tables and pictures are split;
- ``measures``: names of numbers in `vniah.scoring.Score.measures`; each has a table and a picture;
- ``references``: for a measure, the name of the measure it is compared with, such as a guess;
- ``all_of``: the name of a field; samples of a cell with the same value of it form a group, and the
  share of groups that are right as a whole is reported;
- ``clusters``: the name of a field, such as ``"video"``: samples with the same value of it are not
  independent of one another, and intervals are over its values. By default they are over needles;
- ``asks_needles``: whether each sample asks one needle's own question at its place in the cell: it
  has the fields ``needle_id`` and ``needle_index``, its id names the needle behind the place, and
  it is right exactly where the rank is 1. Lines that contradict this are refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vniah.errors import TaskError, short_repr
from vniah.tasks.base import Task, is_json_value


def details_of(task: Task) -> dict[str, Any]:
    """The optional attributes that a task has and that are not empty, as JSON values.

    Raises:
        TaskError: one of them is of another type.
    """
    found: dict[str, Any] = {}
    for name, (is_right, form) in _FORMS.items():
        value = getattr(task, name, None)
        if value is None or (isinstance(value, Sequence | Mapping) and not value):
            continue
        if not is_right(value):
            raise TaskError(
                f"{name} of the task {task.name} must be {form}, got {short_repr(value)}"
            )
        found[name] = value if isinstance(value, str | bool) else _as_json(value)
    measures = found.get("measures", ())
    for measure, reference in found.get("references", {}).items():
        if unknown := [name for name in (measure, reference) if name not in measures]:
            raise TaskError(
                f"references of the task {task.name} name {short_repr(unknown[0])}, which is none "
                "of its measures; add it there"
            )
    return found


def _as_json(value: Mapping[str, Any] | Sequence[Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: list(v) if isinstance(v, tuple) else v for name, v in value.items()}
    return list(value)


def _is_names(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(name, str) and name for name in value)


def _is_texts(value: object) -> bool:
    return isinstance(value, Mapping) and _is_names([*value.keys(), *value.values()])


def _is_settings(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and _is_names([*value])
        and all(map(is_json_value, value.values()))
    )


_NAMES = "a tuple of names"
_FORMS = {
    "settings": (
        _is_settings,
        "a mapping of names to scalars or lists",
    ),
    "labels": (_is_texts, "a mapping of names to texts"),
    "facets": (_is_names, _NAMES),
    "measures": (_is_names, _NAMES),
    "references": (_is_texts, "a mapping of measures to measures"),
    "all_of": (lambda value: isinstance(value, str), "the name of a field"),
    "clusters": (lambda value: isinstance(value, str), "the name of a field"),
    "asks_needles": (lambda value: isinstance(value, bool), "True or False"),
}
