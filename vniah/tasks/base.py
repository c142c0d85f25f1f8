"""The interface of tasks. A task makes samples and scores them.

A task turns a grid, needles and a haystack into samples. It knows no model: a sample says which
frames are shown, as spans of the haystack and pictures of needles, or which text is; which question
is asked; and which candidate answers the model reads. An engine reads each candidate, and the task
turns its readings into a score.

Your own task is a class with the attributes and methods of `Task`; `load_task` finds it by
``package.module:factory``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from math import isfinite
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

from vniah.errors import TaskError, VniahError, short_repr
from vniah.grid import Cell, Grid, place_prefix
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.library import VideoLibrary
from vniah.needles import NeedleSet
from vniah.protocol import (
    HAYSTACK,
    FrameSpan,
    TextSpan,
    blended_source,
    needle_of,
    needle_source,
)
from vniah.scoring import Reading, Score

Reads = Literal["frames", "text", "questions"]
"""What the samples of a task are made of: a film, a text, or a set of questions about videos."""

JSONScalar = str | int | float | bool | None
JSONValue = JSONScalar | Sequence[JSONScalar]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about some frames, with its candidate answers.

    Attributes:
        sample_id: unique in its run, and independent of what else the grid holds. It begins with
            the number of frames and the depth, ``"-"`` where there is none: ``"600/0.2/red-7"``,
            ``"600/-/red-7/no-needle"``. It has no white space.
        cell: its place on the map; None for samples without one, such as most controls.
        shown: the frames in order, as spans of `vniah.protocol.HAYSTACK`, of
            `vniah.protocol.needle_source` and of `vniah.protocol.blended_source`; empty where no
            video is shown.
        question: the question, verbatim.
        candidates: the answers that the model reads, each by itself: all accepted answers with
            the main one first, or all options.
        answer: the right answer, for the results; by default the first candidate.
        choices: the options of a multiple-choice question, else None.
        control: None for the test itself; else the name of the control.
        fields: the task's own values, such as ``needle_id``; they become columns of the results.
            A sample without a cell has its ``num_frames`` here.
        text: for a task of text, what the model reads before the question, in pieces that follow
            one another without anything between them: parts of a text haystack, needles, and text
            of the task's own; empty where only the question is read. None for a task of frames.
        asks_for: ids of the needles that hold the answer, for ``--trace-attention``; by default
            the one that ``fields`` names as ``needle_id``, or all that are shown.
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
    text: tuple[TextSpan | str, ...] | None = None
    asks_for: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.sample_id or self.sample_id.split() != [self.sample_id]:
            raise TaskError(
                f"sample_id must have no white space and not be empty, got {self.sample_id!r}; put "
                "'/' between its parts"
            )
        self._require_types()
        depth = None if self.cell is None else self.cell.depth
        if not self.sample_id.startswith(start := place_prefix(self.num_frames, depth)):
            raise TaskError(
                f"sample_id {self.sample_id!r} must begin with the number of frames and the depth "
                f"of its cell: {start!r}"
            )
        if not self.candidates:
            raise TaskError(f"the sample {self.sample_id} has no candidate answer; give one")
        if self.control is not None and not self.sample_id.endswith(f"/{self.control}"):
            raise TaskError(
                f"the sample_id {self.sample_id!r} of a control must end with its name: "
                f"'/{self.control}'"
            )
        if not self.answer:
            object.__setattr__(self, "answer", self.candidates[0])

    def _require_types(self) -> None:
        """Raises `TaskError` for a value of another type, which would fail or mislead later."""
        wrong = [
            name
            for name, is_right in (
                ("cell", self.cell is None or isinstance(self.cell, Cell)),
                ("shown", _is_tuple_of(FrameSpan, self.shown)),
                ("question", isinstance(self.question, str)),
                ("candidates", _is_tuple_of(str, self.candidates)),
                ("answer", isinstance(self.answer, str)),
                ("choices", self.choices is None or _is_tuple_of(str, self.choices)),
                ("fields", isinstance(self.fields, Mapping)),
                ("text", self.text is None or _is_tuple_of(TextSpan | str, self.text)),
                ("asks_for", _is_tuple_of(str, self.asks_for)),
            )
            if not is_right
        ]
        if wrong:
            found = short_repr(getattr(self, wrong[0]))
            raise TaskError(
                f"{wrong[0]} of the sample {self.sample_id} is {found}; see vniah.tasks.Sample for "
                "its type"
            )
        reserved = _RESERVED if self.cell is None else _RESERVED | {"num_frames"}
        for key, value in self.fields.items():
            if key in reserved:
                raise TaskError(
                    f"the sample {self.sample_id} has a field {key!r}, which results have "
                    "themselves; give it another name"
                )
            if not is_json_value(value):
                raise TaskError(
                    f"the field {key!r} of the sample {self.sample_id} is {short_repr(value)}; it "
                    "must be text, a number, True, False or None, or a list or tuple of these"
                )

    @property
    def num_shown(self) -> int:
        """Number of frames that are shown, inserted ones included; at 1 FPS, of seconds."""
        return sum(span.num_frames for span in self.shown)

    @property
    def prompt(self) -> str:
        """All that a model of text reads before the answer."""
        return "".join(map(str, (*(self.text or ()), self.question)))

    @property
    def shows_nothing(self) -> bool:
        """Whether the question is asked alone, without any frame or text."""
        return not self.shown and not self.text

    @property
    def num_frames(self) -> int | None:
        """Number of haystack frames: that of its cell, or the one in ``fields``; else None.

        In a task of text it is the number of tokens.
        """
        if self.cell is not None:
            return self.cell.num_frames
        named = self.fields.get("num_frames")
        return named if isinstance(named, int) else None


def needles_asked_for(sample: Sample) -> frozenset[str]:
    """The ids of the needles that hold the answer, as far as the sample shows them."""
    pieces = sample.shown if sample.text is None else sample.text
    named = (needle_of(piece.source) for piece in pieces if not isinstance(piece, str))
    shown = frozenset(name for name in named if name is not None)
    own = sample.fields.get("needle_id")
    asked = sample.asks_for or ((own,) if isinstance(own, str) else ())
    return shown.intersection(asked) if asked else shown


def is_json_value(value: object) -> bool:
    """Whether a line of results can hold it: a finite scalar, or a list or tuple of these."""
    items = value if isinstance(value, list | tuple) else (value,)
    return all(
        isfinite(item) if type(item) is float else type(item) in (str, int, bool, type(None))
        for item in items
    )


def _is_tuple_of(kind: Any, value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, kind) for item in value)


# Names of values that a line of results has besides the task's own.
_RESERVED = {"sample_id", "task", "depth", "question", "answer", "control", "error"} | {
    score_field.name for score_field in dataclass_fields(Score) if score_field.name != "num_options"
}


@runtime_checkable
class Task(Protocol):
    """Makes the samples of a sweep, and scores them.

    Attributes:
        name: for the manifest and every line of samples.
        axes: the names of the two axes of its map, e.g. ``("num_frames", "depth")``; those of a
            task of text begin with ``"num_tokens"``.

    An optional attribute ``reads`` says what the samples are made of: ``"frames"`` of a film,
    ``"text"``, or ``"questions"``, a set of questions about videos; by default what the axes say.
    An optional attribute ``controls``, a tuple of names of `vniah.tasks.controls.CONTROLS`, says
    which controls are run by default; an optional text ``criterion`` says what makes an answer
    right, where that is not the argmax over the answer span; an optional text ``insertion`` says
    how pictures are inserted, where that is not one needle by its depth. A number ``answer_tokens``
    says that the task judges only what a model writes, and how many tokens that has at most by
    default. `vniah.tasks.details` lists further optional attributes, which say how results are
    split, measured and labelled.
    """

    name: str
    axes: tuple[str, str]

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: AnyHaystack | None
    ) -> Iterator[Sample]:
        """All samples of a grid without controls, those with few frames first.

        Args:
            grid: numbers of frames, or of tokens, and depths or positions.
            needles: what is hidden, with its questions and answers.
            haystack: the video, or the text, which then counts the model's tokens
                (`vniah.haystacks.text.TokenText`); None where it is not known yet, as for
                ``vniah estimate``.
        """

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """The score of one sample.

        Args:
            sample: a sample of this task, or a control made from one.
            readings: one for each candidate, in the same order; for a chat model one in all.
        """


def reads_of(task: Task) -> Reads:
    """What a task reads: what it says itself, else text if its lengths are tokens, or frames.

    Raises:
        TaskError: it says something else, or what contradicts its axes.
    """
    counts_tokens = task.axes[0] == "num_tokens"
    by_axes: Reads = "text" if counts_tokens else "frames"
    own = getattr(task, "reads", by_axes)
    if own not in get_args(Reads):
        raise TaskError(
            f"reads of the task {task.name} must be one of {', '.join(get_args(Reads))}, got "
            f"{short_repr(own)}"
        )
    if (own == "text") != counts_tokens:
        raise TaskError(
            f"the task {task.name} reads {own}, and the first of its axes is {task.axes[0]!r}: "
            "lengths are num_tokens for a task of text, and only for one"
        )
    return cast("Reads", own)


def is_of_text(task: Task) -> bool:
    """Whether a task shows text, whose lengths are numbers of tokens, and not frames."""
    return reads_of(task) == "text"


def make_samples(
    task: Task, grid: Grid, needles: NeedleSet, haystack: AnyHaystack | None
) -> tuple[Sample, ...]:
    """The samples of a task; each has a cell, and shows frames that there are.

    Raises:
        TaskError: the task fails, or a sample is not one that can be asked.
    """
    try:
        samples = tuple(task.samples(grid, needles, haystack))
    except VniahError:
        raise
    except Exception as error:  # somebody else's code; the cause stays attached
        raise TaskError(
            f"samples() of the task {task.name} failed: {type(error).__name__}: {error}"
        ) from error
    for sample in samples:
        if not isinstance(sample, Sample):
            raise TaskError(
                f"samples() of the task {task.name} gave {short_repr(sample)}; it must give Samples"
            )
        if sample.cell is None:
            raise TaskError(
                f"the sample {sample.sample_id} has no cell, so no table or picture would show it; "
                "give it one"
            )
    require_frames(samples, grid, needles, haystack)
    return samples


def require_frames(
    samples: Iterable[Sample], grid: Grid, needles: NeedleSet, haystack: AnyHaystack | None = None
) -> None:
    """Raises `TaskError` for a sample that shows frames that there are not."""
    num_frames = haystack.num_frames if isinstance(haystack, VideoLibrary) else grid.max_frames
    num_frames_of = _sources(num_frames, needles)
    for sample in samples:
        for span in sample.shown:
            last = num_frames_of.get(span.source, 0)
            if not 0 <= span.start < span.stop <= last:
                raise TaskError(
                    f"the sample {sample.sample_id} shows frames {span.start} to {span.stop - 1} "
                    f"of {span.source!r}, which has {last} in this run"
                )


def _sources(num_frames: int, needles: NeedleSet) -> Mapping[str, int]:
    """The number of frames of every source that samples may show; the haystack's is known."""
    found = {HAYSTACK: num_frames}
    for name, picture in needles.pictures.items():
        found[needle_source(name)] = picture.num_frames
        for number in range(picture.num_frames):
            found[blended_source(name, number)] = num_frames
    return found


def require_distinct(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """The samples as a tuple.

    Raises:
        TaskError: there is no sample, or two samples have the same ``sample_id``.
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
