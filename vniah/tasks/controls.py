"""Controls: samples that are not the test, but say whether the test can be believed.

A control is made from the samples of any task, so a task of one's own has them as well. Its samples
are left out of the score and shown in a table of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from vniah.errors import InputError
from vniah.grid import Grid, place_prefix
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.protocol import HAYSTACK, Frames
from vniah.tasks.base import Sample, Task, require_distinct

Control = Callable[[Iterable[Sample]], Iterator[Sample]]
"""Called with the samples of a task, gives those of the control."""


def no_needle(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Every question on the plain haystack, once at each number of frames.

    A model that answers right has not read the needle: it knows or guesses the answer, or the
    haystack gives it away.
    """
    asked: set[tuple[object, ...]] = set()
    for sample in samples:
        shown = Frames.of([span for span in sample.shown if span.source == HAYSTACK]).spans
        key = (shown, sample.question, sample.candidates)
        if key in asked:
            continue
        asked.add(key)
        needle_id = sample.fields.get("needle_id", "-")
        yield replace(
            sample,
            sample_id=f"{place_prefix(sample.num_frames, None)}{needle_id}/no-needle",
            cell=None,
            shown=shown,
            control="no-needle",
            fields={"num_frames": sample.num_frames, "needle_id": needle_id},
        )


CONTROLS: Mapping[str, Control] = {"no-needle": no_needle}


def choose_controls(task: object, asked: str | Sequence[str]) -> tuple[str, ...]:
    """The controls of a run.

    Args:
        task: what is asked; its ``controls`` are the default ones.
        asked: ``"default"``, ``"none"``, or names of `CONTROLS`.

    Raises:
        InputError: there is no control of that name.
    """
    if isinstance(asked, str):
        if asked == "default":
            return tuple(getattr(task, "controls", ()))
        asked = () if asked == "none" else asked.split(",")
    if unknown := [name for name in asked if name not in CONTROLS]:
        raise InputError(
            f"there is no control {unknown[0]!r}; use none, default or {', '.join(CONTROLS)}"
        )
    return tuple(asked)


def plan_samples(
    task: Task,
    grid: Grid,
    needles: NeedleSet,
    haystack: Haystack | None,
    controls: str | Sequence[str] = "default",
) -> tuple[Sample, ...]:
    """Everything that a run asks: the samples of a task, then those of its controls.

    Args:
        task: what is asked.
        grid: numbers of frames, and depths or positions.
        needles: the pictures with their questions and answers.
        haystack: the film, if it is known.
        controls: as `choose_controls`.

    Raises:
        TaskError: there is no sample, or two have the same ``sample_id``.
        InputError: there is no control of that name.
    """
    names = choose_controls(task, controls)
    asked = tuple(task.samples(grid, needles, haystack))
    more = [sample for name in names for sample in CONTROLS[name](asked)]
    return require_distinct((*asked, *more))
