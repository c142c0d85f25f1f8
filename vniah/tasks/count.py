"""Counting: how many times is a needle shown?

After the task "counting" of Zhao et al. 2024, "Needle In A Video Haystack: A Scalable Synthetic
Evaluator for Video MLLMs" (VNBench, arXiv 2406.09367): needles are inserted at several places of a
video, and the model chooses their number among options.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vniah.errors import TaskError
from vniah.grid import Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.scoring import Reading, Score
from vniah.tasks.base import Sample
from vniah.tasks.groups import (
    GROUP_INSERTION,
    GROUP_LABELS,
    Listed,
    group_indices,
    parse_spacings,
    require_depths,
    require_locators,
)
from vniah.tasks.multiple_choice import CRITERION, ask_options, parse_answers, score_choice
from vniah.tasks.parsing import Option, whole_numbers
from vniah.tasks.placement import NeedleLook, insert_needles

_MOST_OPTIONS = 26
_INSTRUCTION = "Answer with a number."


class Count:
    """The task ``count``: every needle in every cell, shown as often as each of the options says.

    At least one frame of the haystack stands between two showings. They stand where
    `vniah.tasks.groups.group_indices` places them: ``depth`` is the depth of the group. Every
    option is right equally often, so that a model that always gives the same one is at chance.

    Args:
        counts: the options, each of which is shown: at least two whole numbers from 0; by default
            ``"1,2,3,4"``.
        spacing: haystack frames between neighbours, or percent of the haystack; by default 10 %.
        answers: ``"letters"`` lists the options with letters, as published; ``"words"`` lets the
            model answer with the number itself.
        needle_frames: as `NeedleLook.frames`.
        needle_style: as `NeedleLook.style`.

    Raises:
        TaskError: an option is invalid.
    """

    name = "count"
    axes = ("num_frames", "depth")
    controls = ("no-needle", "option-rotation", "blind")
    criterion = CRITERION
    insertion = GROUP_INSERTION
    facets = ("num_shown", "spacing")
    labels: Mapping[str, str] = {
        **GROUP_LABELS,
        "num_shown": "Times shown",
        "spacing": "Spacing",
    }

    def __init__(
        self,
        counts: Option | Sequence[int] = "1,2,3,4",
        spacing: Listed = "10%",
        answers: Option = None,
        needle_frames: Option = None,
        needle_style: Option = None,
    ) -> None:
        self._counts = whole_numbers(counts, "counts", at_most=1000)
        if not 2 <= len(self._counts) <= _MOST_OPTIONS:
            raise TaskError(
                f"the option counts must name 2 to {_MOST_OPTIONS} numbers to choose among, got "
                f"{len(self._counts)}"
            )
        self._spacings = parse_spacings(spacing, "spacing")
        self._answers = parse_answers(answers)
        self._look = NeedleLook.parse(needle_frames, needle_style)
        self.settings: Mapping[str, Any] = {
            "counts": list(self._counts),
            "spacing": [one.value for one in self._spacings],
            "answers": self._answers,
            **self._look.settings,
        }

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: Haystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: cell by cell, short haystacks first.

        Raises:
            TaskError: a needle has no locator, a haystack is too short for a group, or the grid has
                positions.
        """
        require_depths(grid, self.name)
        require_locators(needles, self.name)
        options = tuple(map(str, self._counts))
        plan = [
            (right, count, spacing)
            for right, count in enumerate(self._counts)
            for spacing in self._spacings
        ]
        asked = {
            (needle.needle_id, right): ask_options(
                f"How many times is {needle.locator} shown in the video?",
                options,
                right,
                answers=self._answers,
                instruction=_INSTRUCTION,
            )
            for needle in needles
            for right in range(len(options))
        }
        for cell in grid.cells:
            for needle in needles:
                for right, count, spacing in plan:
                    indices = group_indices(cell, count, spacing, self.name) if count else ()
                    question = asked[needle.needle_id, right]
                    yield Sample(
                        sample_id=f"{cell.prefix}{needle.needle_id}/c{count}-s{spacing.value}",
                        cell=cell,
                        shown=insert_needles(
                            cell.num_frames, [(needle, index) for index in indices], self._look
                        ),
                        question=question.question,
                        candidates=question.candidates,
                        answer=question.answer,
                        choices=question.choices,
                        fields={
                            "needle_id": needle.needle_id,
                            "num_shown": count,
                            "num_options": len(options),
                            "spacing": spacing.value,
                            "needle_indices": list(indices),
                        },
                    )

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the right option is the most probable."""
        return score_choice(sample, readings)
