"""Controls are samples outside of the test that show whether its score can be trusted.

They are made from the samples of any task, so your own tasks have them as well. Controls do not
count in the score; they are shown in a table of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from vniah.errors import InputError, TaskError
from vniah.files import slug
from vniah.grid import Grid, place_prefix
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.protocol import HAYSTACK, Frames
from vniah.tasks.base import Sample, Task, make_samples, require_distinct

Control = Callable[[Iterable[Sample]], Iterator[Sample]]
"""Called with the samples of a task; gives the samples of the control."""


def no_needle(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Every question about the haystack without a needle, once for each number of frames.

    A model that answers right did not need the needle: it knows or guesses the answer, or the
    haystack reveals it.
    """
    made: dict[str, tuple[object, ...]] = {}
    for sample in samples:
        shown = Frames.of([span for span in sample.shown if span.source == HAYSTACK]).spans
        depth = None if sample.cell is None else sample.cell.depth
        name = sample.sample_id.removeprefix(place_prefix(sample.num_frames, depth))
        if sample.answer != sample.candidates[0]:  # of several options another is right
            name += f"/answer-{slug(sample.answer)}"
        sample_id = f"{place_prefix(sample.num_frames, None)}{name}/no-needle"
        asked = (shown, sample.question, sample.candidates, sample.answer, sample.choices)
        if sample_id not in made:
            made[sample_id] = asked
            fields = {"num_frames": sample.num_frames, "needle_id": sample.fields.get("needle_id")}
            yield replace(
                sample,
                sample_id=sample_id,
                cell=None,
                shown=shown,
                control="no-needle",
                fields={key: value for key, value in fields.items() if value is not None},
            )
        elif asked != made[sample_id]:
            raise TaskError(
                f"the control no-needle cannot name the sample {sample.sample_id}: another one "
                "whose id ends like it asks something else. Let ids end with what is asked, such "
                "as 600/0.2/red-7, or give the task no control"
            )


CONTROLS: Mapping[str, Control] = {"no-needle": no_needle}


def choose_controls(task: object, controls: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the controls of a run.

    Args:
        task: its attribute ``controls``, if it has one, names the default controls.
        controls: ``"default"``, ``"none"``, or names of `CONTROLS`.

    Raises:
        InputError: there is no control of that name.
    """
    if isinstance(controls, str):
        if controls == "default":
            controls = getattr(task, "controls", ())
        if isinstance(controls, str):
            controls = () if controls == "none" else controls.split(",")
    if unknown := [name for name in controls if name not in CONTROLS]:
        raise InputError(
            f"there is no control {unknown[0]!r}; use none, default or {', '.join(CONTROLS)}"
        )
    return tuple(dict.fromkeys(controls))


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
    names = choose_controls(task, controls)
    samples = make_samples(task, grid, needles, haystack)
    more = [sample for name in names for sample in CONTROLS[name](samples)]
    return require_distinct((*samples, *more))
