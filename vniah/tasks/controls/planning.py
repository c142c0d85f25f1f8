"""Which controls a run has, and all of its samples."""

from collections.abc import Mapping, Sequence

from vniah.errors import InputError, TaskError, short_repr
from vniah.factories import call_factory, is_factory
from vniah.files import slug
from vniah.grid import Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.tasks.base import Sample, Task, make_samples, require_distinct
from vniah.tasks.controls.base import Control
from vniah.tasks.controls.no_needle import NoNeedle

CONTROLS: Mapping[str, Control] = {control.name: control for control in (NoNeedle(),)}
"""The controls that come with vniah, by name."""


def choose_controls(task: object, controls: str | Sequence[str]) -> tuple[Control, ...]:
    """The controls of a run.

    Args:
        task: its attribute ``controls``, if it has one, names the default controls.
        controls: ``"default"``, ``"none"``, ``"all"``, or names of `CONTROLS`, or
            ``"package.module:factory"`` for controls of your own.

    Raises:
        InputError: there is no control of that name.
        TaskError: a factory does not return a control.
    """
    own: Sequence[str] = getattr(task, "controls", ())
    names: Sequence[str] = controls.split(",") if isinstance(controls, str) else controls
    by_word = {"none": (), "default": own, "all": (*CONTROLS, *own)}
    if isinstance(controls, str) and controls in by_word:
        names = by_word[controls]
    return tuple(_find_control(name) for name in dict.fromkeys(names))


def _find_control(name: str) -> Control:
    if name in CONTROLS:
        return CONTROLS[name]
    if not is_factory(name):
        raise InputError(
            f"there is no control {name!r}; use none, default, all or {', '.join(CONTROLS)}, or "
            "package.module:factory for one of your own"
        )
    found: object = call_factory(name, {}, TaskError)
    if not isinstance(found, Control) or isinstance(found, type):
        raise TaskError(f"{name} is not a control: it gave {short_repr(found)}")
    if not isinstance(found.name, str) or not found.name or slug(found.name) != found.name:
        raise TaskError(
            "the name of a control must be letters, digits, '-', '_' and '.', got "
            f"{short_repr(found.name)}"
        )
    return found


def plan_samples(
    task: Task,
    grid: Grid,
    needles: NeedleSet,
    haystack: Haystack | None,
    controls: str | Sequence[str] = "default",
) -> tuple[Sample, ...]:
    """All samples of a run: those of a task, then those of its controls.

    Args:
        task: makes the samples.
        grid: numbers of frames, and depths or positions.
        needles: the pictures with their questions and answers.
        haystack: the video, if it is known.
        controls: as `choose_controls`.

    Raises:
        TaskError: the task fails, there is no sample, two have the same ``sample_id``, or one
            shows frames that there are not.
        InputError: there is no control of that name.
    """
    chosen = choose_controls(task, controls)
    samples = make_samples(task, grid, needles, haystack)
    more = [sample for control in chosen for sample in control.samples(samples, needles)]
    return require_distinct((*samples, *more))
