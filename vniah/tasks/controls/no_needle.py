"""The control ``no-needle``: every question about the haystack without a needle."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vniah.errors import TaskError
from vniah.files import slug
from vniah.grid import place_prefix
from vniah.needles import NeedleSet
from vniah.protocol import HAYSTACK, Frames
from vniah.tasks.base import Sample
from vniah.tasks.controls.base import Finding, Row


class NoNeedle:
    """Every question about the plain haystack, once for each number of frames.

    A model that answers right did not need the needle: it knows or guesses the answer, or the
    haystack reveals it.
    """

    name = "no-needle"

    def samples(self, samples: Sequence[Sample], needles: NeedleSet) -> Iterator[Sample]:
        """As `vniah.tasks.controls.base.Control.samples`.

        Raises:
            TaskError: two samples whose ids end alike ask something else.
        """
        made: dict[str, tuple[object, ...]] = {}
        for sample in samples:
            shown = Frames.of([span for span in sample.shown if span.source == HAYSTACK]).spans
            depth = None if sample.cell is None else sample.cell.depth
            name = sample.sample_id.removeprefix(place_prefix(sample.num_frames, depth))
            if sample.answer != sample.candidates[0]:  # of several options another is right
                name += f"/answer-{slug(sample.answer)}"
            sample_id = f"{place_prefix(sample.num_frames, None)}{name}/{self.name}"
            asked = (shown, sample.question, sample.candidates, sample.answer, sample.choices)
            if sample_id not in made:
                made[sample_id] = asked
                needle_id = sample.fields.get("needle_id")
                fields = {"num_frames": sample.num_frames, "needle_id": needle_id}
                yield replace(
                    sample,
                    sample_id=sample_id,
                    cell=None,
                    shown=shown,
                    control=self.name,
                    fields={key: value for key, value in fields.items() if value is not None},
                )
            elif asked != made[sample_id]:
                raise TaskError(
                    f"the control {self.name} cannot name the sample {sample.sample_id}: another "
                    "one whose id ends like it asks something else. Let ids end with what is "
                    "asked, such as 600/0.2/red-7, or give the task no control"
                )

    def finding(self, tests: Sequence[Row], own: Sequence[Row]) -> Finding | None:
        """As `vniah.tasks.controls.base.Control.finding`."""
        scored = [row.correct for row in own if row.correct is not None]
        if not scored:
            return None
        return Finding(f"{sum(scored):,} of {len(scored):,} answers are right without the needle")
