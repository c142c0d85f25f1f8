"""Tasks make the samples of a sweep and score them; each built-in task is one module."""

import inspect
from collections.abc import Mapping

from vniah.errors import InputError, TaskError
from vniah.factories import call_factory, find_factory, is_factory
from vniah.files import slug
from vniah.tasks.base import Sample, Task, reads_of
from vniah.tasks.details import details_of
from vniah.tasks.parsing import Option
from vniah.tasks.placement import haystack_frames, insert, insert_needle, needle_spans

__all__ = [
    "TASKS",
    "Sample",
    "Task",
    "haystack_frames",
    "insert",
    "insert_needle",
    "load_task",
    "needle_spans",
]

TASKS: Mapping[str, str] = {
    "vniah": "vniah.tasks.vniah:VisualNeedle",
    "localization": "vniah.tasks.localization:Localization",
    "vniah-d": "vniah.tasks.distractors:NeedleAmongDistractors",
    "retrieve-all": "vniah.tasks.retrieve_all:RetrieveAll",
    "count": "vniah.tasks.count:Count",
    "order": "vniah.tasks.order:Order",
    "bridged": "vniah.tasks.bridged:Bridged",
    "niah": "vniah.tasks.niah:TextNeedle",
    "niah-multi": "vniah.tasks.niah_multi:SeveralNumbers",
    "vqa": "vniah.tasks.vqa.task:VideoQuestions",
}
"""The tasks that come with vniah, and where each is defined."""


def load_task(source: str | Task = "vniah", options: Mapping[str, Option] | None = None) -> Task:
    """The task of that name.

    Args:
        source: one of `TASKS`, ``"package.module:factory"`` for a task of your own, or a task,
            which is returned as it is.
        options: keyword arguments of the task's factory, such as ``{"needle_frames": "3"}``.

    Raises:
        TaskError: there is no such task, the factory does not return a task, or an option is
            invalid.
        InputError: the task does not take an option that is given.
    """
    if not isinstance(source, str):
        if options:
            raise InputError(
                "task options go with the name of a task, and this is a task already: make it with "
                f"{', '.join(options)}"
            )
        task: object = source
    elif source in TASKS or is_factory(source):
        if source in TASKS:
            _require_options(source, options or {})
        task = call_factory(TASKS.get(source, source), options or {}, TaskError)
    else:
        raise TaskError(
            f"there is no task {source!r}; use {', '.join(TASKS)}, or package.module:factory for "
            "one of your own"
        )
    if not isinstance(task, Task):
        missing = [n for n in ("name", "axes", "samples", "score") if not hasattr(task, n)]
        name = source if isinstance(source, str) else type(task).__name__
        raise TaskError(f"{name} is not a task: it has no {' and no '.join(missing)}")
    axes = task.axes
    if not isinstance(task.name, str) or slug(task.name) != task.name or not task.name:
        raise TaskError(
            f"the name of a task must be letters, digits, '-', '_' and '.', got {task.name!r}"
        )
    if not isinstance(axes, tuple) or [type(axis) for axis in axes] != [str, str]:
        raise TaskError(f"axes of the task {task.name} must be two texts in a tuple, got {axes!r}")
    if isinstance(task, type):
        raise TaskError(f"the task is the class {task.__name__} itself; give {task.__name__}()")
    reads_of(task)
    details_of(task)
    return task


def _require_options(name: str, options: Mapping[str, Option]) -> None:
    """Raises `InputError` for an option that a task of `TASKS` does not have."""
    known = list(inspect.signature(find_factory(TASKS[name], TaskError)).parameters)
    if unknown := [option for option in options if option not in known]:
        raise InputError(f"the task {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
