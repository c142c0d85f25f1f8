"""Controls that ask every question once: about fewer frames, or about none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from vniah.errors import TaskError
from vniah.files import slug
from vniah.grid import place_prefix
from vniah.protocol import FrameSpan, TextSpan
from vniah.results import asked_name
from vniah.tasks.base import Sample
from vniah.tasks.controls.base import ANSWER_MARK

Shown = tuple[tuple[FrameSpan, ...], tuple[TextSpan | str, ...] | None]
"""What a sample shows: frames (`Sample.shown`) and text (`Sample.text`)."""

_KEPT = ("needle_id", "options", "num_options", "num_right_options", "video", "right_options")
"""Fields that are about the question, and not about where something is shown."""


def ask_once(
    samples: Sequence[Sample],
    control: str,
    *,
    shows: Callable[[Sample], Shown],
    is_at_every_length: bool,
) -> Iterator[Sample]:
    """Every question without a place on the map, once for each number of frames, or once in all.

    Args:
        samples: those of the test.
        control: the name of the control.
        shows: what is shown instead of what a sample shows. Texts of one length may differ by the
            few tokens that merge where needles stand at other places; then the first is shown.
        is_at_every_length: whether the question is asked at every number of frames.

    Raises:
        TaskError: two samples whose ids end alike ask something else.
    """
    made: dict[str, tuple[object, ...]] = {}
    for sample in samples:
        shown, text = shows(sample)
        name = asked_name(sample)
        if sample.answer != sample.candidates[0]:  # of several options another is right
            name += f"{ANSWER_MARK}{slug(sample.answer)}"
        num_frames = sample.num_frames if is_at_every_length else None
        sample_id = f"{place_prefix(num_frames, None)}{name}/{control}"
        asked = (shown, sample.question, sample.candidates, sample.answer, sample.choices)
        if sample_id not in made:
            made[sample_id] = asked
            kept = {key: sample.fields.get(key) for key in _KEPT}
            fields = {"num_frames": num_frames, **kept}
            yield replace(
                sample,
                sample_id=sample_id,
                cell=None,
                shown=shown,
                text=text,
                control=control,
                fields={key: value for key, value in fields.items() if value is not None},
            )
        elif asked != made[sample_id]:
            raise TaskError(
                f"the control {control} cannot name the sample {sample.sample_id}: another one "
                "whose id ends like it asks something else. Let ids end with what is asked, such "
                "as 600/0.2/red-7, or give the task no control"
            )
