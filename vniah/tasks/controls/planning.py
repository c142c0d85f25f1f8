"""Which controls a run has, and all of its samples."""

from collections.abc import Callable, Mapping, Sequence

from vniah.errors import InputError, TaskError, VniahError, first_line, short_repr
from vniah.factories import call_factory, is_factory
from vniah.files import slug
from vniah.grid import Grid
from vniah.haystacks.frames import AnyHaystack
from vniah.needles import NeedleSet
from vniah.options.approximation import EXACT
from vniah.options.intervention import APPLIED
from vniah.tasks.base import Sample, Task, make_samples, require_distinct, require_frames
from vniah.tasks.controls.base import Control
from vniah.tasks.controls.blind import Blind
from vniah.tasks.controls.no_needle import NoNeedle
from vniah.tasks.controls.option_rotation import OptionRotation
from vniah.tasks.controls.other_needle import OtherNeedle
from vniah.tasks.controls.shuffled import Shuffled

CONTROLS: Mapping[str, Control] = {
    control.name: control
    for control in (NoNeedle(), OptionRotation(), Blind(), OtherNeedle(), Shuffled())
}
"""The controls that come with vniah, by name."""

_ALONE = ("none", "default", "all")

ChosenControls = str | Sequence[str | Control]
"""``"default"``, ``"none"``, ``"all"``, or controls: names of `CONTROLS`, texts
``"package.module:factory"`` for controls of your own, or objects."""


def choose_controls(task: object, controls: ChosenControls) -> tuple[Control, ...]:
    """The controls of a run.

    Args:
        task: its attribute ``controls``, if it has one, names the default controls.
        controls: which ones; a text may name several, with commas between them.

    Raises:
        InputError: there is no control of that name, or one is named twice.
        TaskError: a factory does not return a control.
    """
    own: Sequence[str | Control] = getattr(task, "controls", ())
    names: Sequence[str | Control] = controls.split(",") if isinstance(controls, str) else controls
    by_word = {"none": (), "default": own, "all": (*CONTROLS, *own)}
    if isinstance(controls, str) and controls in by_word:
        names = by_word[controls]
    else:
        _require_names(names)
    chosen: dict[str, Control] = {}
    for name in names:
        control = _find_control(name)
        if chosen.setdefault(control.name, control) is not control:
            raise TaskError(f"two controls have the name {control.name!r}; give one another")
    return tuple(chosen.values())


def _require_names(names: Sequence[str | Control]) -> None:
    """Raises `InputError` where a name is missing, stands twice, or is a word that stands alone."""
    texts = [name.strip() for name in names if isinstance(name, str)]
    shown = short_repr(",".join(texts))
    if not all(texts):
        missing = "is empty" if texts == [""] else "has an empty name"
        raise InputError(
            f"the list of controls {shown} {missing}; use names with one comma between them, or "
            "'none' for no controls"
        )
    if alone := [name for name in texts if name in _ALONE]:
        raise InputError(
            f"{alone[0]!r} stands alone, and goes with no other control, got {shown}; use "
            f"{' or '.join(map(repr, _ALONE))}, or names of controls"
        )
    if twice := [name for place, name in enumerate(texts) if name in texts[:place]]:
        raise InputError(f"the control {twice[0]!r} is named twice in {shown}; name it once")


def _find_control(source: str | Control) -> Control:
    found: object = source
    if isinstance(source, str):
        source = source.strip()
        if source in CONTROLS:
            return CONTROLS[source]
        if not is_factory(source):
            raise InputError(
                f"there is no control {source!r}; use none, default, all or "
                f"{', '.join(CONTROLS)}, or package.module:factory for one of your own"
            )
        found = call_factory(source, {}, TaskError)
    if not isinstance(found, Control) or isinstance(found, type):
        name = source if isinstance(source, str) else "this"
        raise TaskError(
            f"{name} is not a control: it gave {short_repr(found)}, and a control has a name, and "
            "the methods samples and finding"
        )
    if not isinstance(found.name, str) or not found.name or slug(found.name) != found.name:
        raise TaskError(
            "the name of a control must be letters, digits, '-', '_' and '.', got "
            f"{short_repr(found.name)}"
        )
    is_taken = found.name in CONTROLS and found is not CONTROLS[found.name]
    if found.name in (EXACT, APPLIED) or is_taken:
        raise TaskError(f"{found.name} is a control of vniah; give yours another name")
    return found


def plan_samples(
    task: Task,
    grid: Grid,
    needles: NeedleSet,
    haystack: AnyHaystack | None,
    controls: ChosenControls = "default",
    *,
    more: Sequence[Control] = (),
    on_note: Callable[[str], None] | None = None,
) -> tuple[Sample, ...]:
    """All samples of a run: those of a task, then those of its controls.

    Args:
        task: makes the samples.
        grid: numbers of frames, and depths or positions.
        needles: the pictures with their questions and answers.
        haystack: the video, if it is known.
        controls: as `choose_controls`.
        more: controls that the run has besides.
        on_note: called with a line of text for what a control is not made for. With ``"all"`` a
            control that cannot be made for this task is left out with such a line.

    Raises:
        TaskError: the task or a control fails, there is no sample, two have the same ``sample_id``,
            or one shows frames that there are not.
        InputError: there is no control of that name.
    """
    chosen = (*choose_controls(task, controls), *more)
    samples = make_samples(task, grid, needles, haystack)
    note = on_note or (lambda line: None)
    made: list[Sample] = []
    for control in chosen:
        try:
            made += make_control_samples(control, samples, grid, needles, haystack)
        except TaskError as error:
            if controls != "all":
                raise
            note(f"the control {control.name} is left out: {first_line(error)}")
            continue
        left_out = getattr(control, "left_out", None)
        if left_out is not None and (why := left_out(samples, needles)) is not None:
            note(f"the control {control.name} leaves out {why}")
    return require_distinct((*samples, *made))


def make_control_samples(
    control: Control,
    samples: Sequence[Sample],
    grid: Grid,
    needles: NeedleSet,
    haystack: AnyHaystack | None = None,
) -> tuple[Sample, ...]:
    """The samples of a control; each names it, and shows frames that there are.

    Raises:
        TaskError: the control fails, or a sample is not one that can be asked.
    """
    what = f"samples() of the control {control.name}"
    try:
        made = tuple(control.samples(samples, needles))
    except VniahError:
        raise
    except Exception as error:  # somebody else's code; the cause stays attached
        raise TaskError(f"{what} failed: {type(error).__name__}: {error}") from error
    for sample in made:
        if not isinstance(sample, Sample) or sample.control != control.name:
            raise TaskError(
                f"{what} gave {short_repr(sample)}; it must give Samples whose control is "
                f"{control.name!r}, so that they do not count in the score"
            )
    require_frames(made, grid, needles, haystack)
    return made
