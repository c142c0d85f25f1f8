"""What a task is: what is asked, and how it is scored.

A task turns a grid, needles and a haystack into samples. It knows no model: a sample says which
frames are shown, as spans of the haystack and pictures of needles, which question is asked, and
which candidate answers the model is to read. An engine reads each candidate, and the task turns
what was read into a score.

A task of one's own is a class with the attributes and methods of `Task`; `load_task` finds it by
``package.module:factory``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, runtime_checkable

from vniah.errors import TaskError
from vniah.grid import Cell, Grid, place_prefix
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.protocol import HAYSTACK, Frames, FrameSpan, needle_source
from vniah.scoring import Reading, Score

JSONValue = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing asked once.

    Attributes:
        sample_id: unique in its run and the same whatever else the grid holds. It begins with the
            number of frames and the depth, ``"-"`` where there is none: ``"600/0.2/red-7"``,
            ``"600/-/red-7/no-needle"``; without white space.
        cell: its place on the map; None for samples that have none, such as most controls.
        shown: the frames in order, as spans of `vniah.protocol.HAYSTACK` and of
            `vniah.protocol.needle_source`.
        question: what is asked, verbatim.
        candidates: the answers that the model reads, each by itself: all accepted answers with
            the main one first, or all options.
        answer: the right answer, for the results; by default the first candidate.
        choices: the options of a multiple-choice question, else None.
        control: None for the test itself; else the name of the control.
        fields: the task's own values, such as ``needle_id``; they become columns of the results.
            A sample without a cell names its ``num_frames`` here.
    """

    sample_id: str
    cell: Cell | None
    shown: tuple[FrameSpan, ...]
    question: str
    candidates: tuple[str, ...]
    answer: str = ""
    choices: tuple[str, ...] | None = None
    control: str | None = None
    fields: Mapping[str, JSONValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sample_id or self.sample_id.split() != [self.sample_id]:
            raise TaskError(
                f"sample_id {self.sample_id!r} is empty or has white space; use '/' between its "
                "parts"
            )
        depth = None if self.cell is None else self.cell.depth
        if not self.sample_id.startswith(start := place_prefix(self.num_frames, depth)):
            raise TaskError(
                f"sample_id {self.sample_id!r} must begin with the number of frames and the depth "
                f"of its cell: {start!r}"
            )
        if not self.candidates:
            raise TaskError(f"the sample {self.sample_id} has no candidate answer; give one")
        if not self.answer:
            object.__setattr__(self, "answer", self.candidates[0])

    @property
    def num_frames(self) -> int | None:
        """Haystack frames: of its cell, or those that ``fields`` names; else None."""
        if self.cell is not None:
            return self.cell.num_frames
        named = self.fields.get("num_frames")
        return named if isinstance(named, int) else None


@runtime_checkable
class Task(Protocol):
    """What is asked in a sweep.

    Attributes:
        name: for the manifest and every line of samples.
        axes: what the two directions of its map are, e.g. ``("num_frames", "depth")``.

    An attribute ``controls``, a tuple of names of `vniah.tasks.controls.CONTROLS`, says which
    controls are run by default.
    """

    name: str
    axes: tuple[str, str]

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: Haystack | None
    ) -> Iterator[Sample]:
        """All samples of a grid, without controls, the short ones first.

        Args:
            grid: numbers of frames, and depths or positions.
            needles: the pictures with their questions and answers.
            haystack: the film; None where nothing is known of it yet, as for ``vniah estimate``.
        """

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """The score of one sample.

        Args:
            sample: one of this task's, or a control made from one.
            readings: one for each candidate, in the same order; of a chat model one in all.
        """


def insert_needle(num_frames: int, needle_index: int, needle_id: str) -> tuple[FrameSpan, ...]:
    """The frames shown: ``num_frames`` of the haystack with the needle inserted among them.

    The needle replaces nothing, so there is one frame more than ``num_frames``.

    Args:
        num_frames: haystack frames.
        needle_index: haystack frames before the needle, in ``[0, num_frames]``.
        needle_id: which needle.
    """
    before, after = _parted(num_frames, needle_index)
    return (*before, FrameSpan(needle_source(needle_id), 0, 1), *after)


@lru_cache(maxsize=1 << 12)
def _parted(num_frames: int, index: int) -> tuple[tuple[FrameSpan, ...], tuple[FrameSpan, ...]]:
    """The first ``num_frames`` frames of the haystack, cut before one of them."""
    haystack = haystack_frames(num_frames)
    return haystack[:index].spans, haystack[index:].spans


def haystack_frames(num_frames: int) -> Frames:
    """The first ``num_frames`` frames of the haystack."""
    return Frames((FrameSpan(HAYSTACK, 0, num_frames),))


def require_distinct(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """The samples as a tuple.

    Raises:
        TaskError: there is none, or two have the same ``sample_id``.
    """
    found = tuple(samples)
    seen: set[str] = set()
    for sample in found:
        if sample.sample_id in seen:
            raise TaskError(
                f"two samples have the sample_id {sample.sample_id!r}; give each an id of its own"
            )
        seen.add(sample.sample_id)
    if not found:
        raise TaskError("the task has no sample for this grid; give another grid")
    return found
