"""Ordering: in which order are several needles shown?

After the task "ordering" of Zhao et al. 2024, "Needle In A Video Haystack: A Scalable Synthetic
Evaluator for Video MLLMs" (VNBench, arXiv 2406.09367): the model chooses the order in which needles
are shown among options. Here the options are all orders, so that none stands out.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from math import factorial
from typing import Any

from vniah.grid import Cell, Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import Needle, NeedleSet
from vniah.scoring import Reading, Score
from vniah.tasks.base import Sample
from vniah.tasks.drawing import draw
from vniah.tasks.groups import (
    GROUP_INSERTION,
    GROUP_LABELS,
    Listed,
    Spacing,
    group_indices,
    parse_spacings,
    require_depths,
    require_locators,
    windows,
)
from vniah.tasks.multiple_choice import CRITERION, ask_options, parse_answers, score_choice
from vniah.tasks.parsing import Option, whole_numbers
from vniah.tasks.placement import NeedleLook, insert_needles

_MOST_NEEDLES = 4  # their orders are 24 options; letters name 26
_INSTRUCTION = "Name them in this order, separated by commas."


class Order:
    """The task ``order``: groups of needles, and the question in which order they are shown.

    There are as many groups as needles: each is a run of ``num_needles`` needles in the order of
    the set, which goes on from its beginning. The groups of a cell are shown in all orders in turn,
    from one on that is drawn from a hash of the cell, so that every option is right equally often,
    up to one. A group stands where `vniah.tasks.groups.group_indices` places it: ``depth`` is the
    depth of the group.

    Args:
        num_needles: needles in a group: whole numbers from 2 to 4; by default 3, which have six
            orders.
        spacing: haystack frames between neighbours, or percent of the haystack; by default 10 %.
        answers: ``"letters"`` lists the options with letters, as published; ``"words"`` lets the
            model name the needles.
        needle_frames: as `NeedleLook.frames`.
        needle_style: as `NeedleLook.style`.

    Raises:
        TaskError: an option is invalid.
    """

    name = "order"
    axes = ("num_frames", "depth")
    controls = ("no-needle", "option-rotation", "blind")
    criterion = CRITERION
    insertion = GROUP_INSERTION
    facets = ("num_needles", "spacing")
    labels: Mapping[str, str] = {
        **GROUP_LABELS,
        "num_needles": "Needles in a group",
        "spacing": "Spacing",
    }

    def __init__(
        self,
        num_needles: Option | Sequence[int] = "3",
        spacing: Listed = "10%",
        answers: Option = None,
        needle_frames: Option = None,
        needle_style: Option = None,
    ) -> None:
        self._counts = whole_numbers(num_needles, "num_needles", at_least=2, at_most=_MOST_NEEDLES)
        self._spacings = parse_spacings(spacing, "spacing")
        self._answers = parse_answers(answers)
        self._look = NeedleLook.parse(needle_frames, needle_style)
        self.settings: Mapping[str, Any] = {
            "num_needles": list(self._counts),
            "spacing": [one.value for one in self._spacings],
            "answers": self._answers,
            **self._look.settings,
        }

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: Haystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: cell by cell, short haystacks first.

        Raises:
            TaskError: the set has too few needles, a needle has no locator, a haystack is too short
                for a group, or the grid has positions.
        """
        require_depths(grid, self.name)
        require_locators(needles, self.name)
        plan = [
            (spacing, list(windows(needles.needles, count, "num_needles")))
            for count in self._counts
            for spacing in self._spacings
        ]
        for cell in grid.cells:
            for spacing, groups in plan:
                for number, group in enumerate(groups):
                    yield self._sample(cell, group, number, spacing)

    def _sample(self, cell: Cell, group: Sequence[Needle], number: int, spacing: Spacing) -> Sample:
        count = len(group)
        name = f"k{count}-s{spacing.value}"
        first = draw(factorial(count), self.name, cell.prefix, name)
        right = (first + number) % factorial(count)
        orders = list(permutations(group))
        asked = ask_options(
            f"The video shows {_listed(group)}. In which order are they shown?",
            [", ".join(str(one.locator) for one in order) for order in orders],
            right,
            answers=self._answers,
            instruction=_INSTRUCTION,
        )
        indices = group_indices(cell, count, spacing, self.name)
        shown = orders[right]
        return Sample(
            sample_id=f"{cell.prefix}{name}-g{number}",
            cell=cell,
            shown=insert_needles(cell.num_frames, zip(shown, indices, strict=True), self._look),
            question=asked.question,
            candidates=asked.candidates,
            answer=asked.answer,
            choices=asked.choices,
            fields={
                "num_needles": count,
                "num_options": len(orders),
                "spacing": spacing.value,
                "needle_ids": [one.needle_id for one in shown],
                "needle_indices": list(indices),
            },
        )

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the right option is the most probable."""
        return score_choice(sample, readings)


def _listed(needles: Sequence[Needle]) -> str:
    names = [str(needle.locator) for needle in needles]
    return f"{', '.join(names[:-1])} and {names[-1]}"
