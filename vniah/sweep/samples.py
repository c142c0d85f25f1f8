"""All samples of a run: those of its task and of its controls that its model can be asked."""

from collections.abc import Sequence

from vniah.engines.base import Engine
from vniah.engines.inputs import require_counter
from vniah.grid import Grid
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.text import TextHaystack
from vniah.needles import NeedleSet
from vniah.protocol import AnyModel
from vniah.tasks import Sample, Task
from vniah.tasks.controls import ChosenControls, Control, plan_samples


def read_text(haystack: AnyHaystack, model: AnyModel, grid: Grid) -> AnyHaystack:
    """The haystack; a text with its length in the tokens of the model that is to read it.

    Raises:
        InputError: the haystack is text, and the model reads none.
    """
    if isinstance(haystack, TextHaystack):
        return haystack.read_by(require_counter(model), grid.max_frames)
    return haystack


def askable_samples(
    task: Task,
    grid: Grid,
    needles: NeedleSet,
    haystack: AnyHaystack | None,
    engine: Engine,
    controls: ChosenControls,
    *,
    more: Sequence[Control] = (),
) -> tuple[Sample, ...]:
    """The samples of a run, or of an estimate, which knows no haystack.

    What a control is not made for becomes a note of the engine.

    Controls that show no frame are left out if the model cannot be asked so. ``more`` is as in
    `plan_samples`.

    Raises:
        TaskError: as `plan_samples`.
        InputError: as `plan_samples`.
    """
    samples = plan_samples(
        task, grid, needles, haystack, controls, more=more, on_note=engine.notes.append
    )
    blind = [sample for sample in samples if sample.control is not None and sample.shows_nothing]
    refusal = engine.why_not_without_frames(blind[0]) if blind else None
    if refusal is None:
        return samples
    names = ", ".join(dict.fromkeys(str(sample.control) for sample in blind))
    engine.notes.append(f"the control {names} is left out: {refusal}")
    return tuple(sample for sample in samples if sample.control is None or not sample.shows_nothing)


def hides_needles(samples: Sequence[Sample]) -> bool:
    """Whether any sample of the test says which needles it hides."""
    return any(
        "needle_id" in sample.fields or "needle_ids" in sample.fields
        for sample in samples
        if sample.control is None
    )


def begun_with(
    samples: Sequence[Sample], controls: Sequence[str], sample_ids: Sequence[str]
) -> tuple[Sample, ...] | None:
    """The samples of a run that was begun with fewer controls; None if it has others.

    Args:
        samples: those of this start.
        controls: the names of the controls that it was begun with.
        sample_ids: the ids of its samples.
    """
    some = tuple(
        sample for sample in samples if sample.control is None or sample.control in controls
    )
    return some if [sample.sample_id for sample in some] == list(sample_ids) else None
