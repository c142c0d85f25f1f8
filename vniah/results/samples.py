"""The result of a sample, and the line of ``samples.jsonl`` that holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from vniah.errors import ResultsError, short_repr
from vniah.files import to_json
from vniah.grid import Cell, place_prefix, read_depth
from vniah.results.plan import DepthRecord, cell_sample_id, json_depth
from vniah.schema import parse_json

MOST_LINE_BYTES = 2**24
_MOST_IN_A_LIST = 100_000


class SampleLine(TypedDict):
    """A line; what it has besides are the task's own fields."""

    sample_id: NotRequired[Annotated[str, Meta(min_length=1)]]
    task: str
    num_frames: NotRequired[Annotated[int, Meta(ge=1)]]
    depth: NotRequired[DepthRecord]
    question: str
    answer: str
    control: str | None
    prediction: str | None
    predicted_ids: list[int]
    correct: bool | None
    logprob: Annotated[float, Meta(le=0)] | None
    rank: Annotated[int, Meta(ge=1)] | None
    margin: float | None
    seconds: float | None
    error: str | None
    prompt_tokens: NotRequired[int | None]
    variant: NotRequired[str | None]
    argmax_correct: NotRequired[bool | None]
    greedy_correct: NotRequired[bool | None]


@dataclass(frozen=True)
class SampleResult:
    """The result of one sample: one line of ``samples.jsonl``, enough to repeat the sample.

    Attributes:
        sample_id: identifies the sample in its run, such as ``"600/0.2/red-7"``.
        task: name of the task, e.g. ``"vniah"``.
        cell: the square of the map that the sample belongs to; None if it belongs to none. In the
            line it is ``num_frames`` and ``depth``.
        question: the question, verbatim.
        answer: the right answer; of several accepted answers the main one.
        control: None for the test itself; else the name of the control.
        fields: the task's own values, such as ``needle_id`` and ``needle_index``; in the line,
            each under its own name.
        prediction: the text of the argmax tokens over the answer span, or the text that was
            generated.
        predicted_ids: the argmax token at every position of the answer span.
        correct: whether every position is right; None if the sample could not be run.
        logprob: natural logarithm of the answer's probability, summed over its tokens.
        rank: the worst rank of an answer token; 1 is the argmax, a token that ties with it has 2.
        margin: smallest difference, in logits, between the right token and the best other one.
        seconds: wall-clock time of the forward pass.
        error: why there is no score; None where there is one.
        prompt_tokens: number of prompt tokens as a server counted them; None for other models.
        variant: where several answers are accepted, the one that logprob, rank and margin belong to
            (and predicted_ids, unless an answer was generated): among the right ones, or among all
            if none is right, the one with the highest logprob. For a chat model, the answer that
            its text matches. None where only one answer is accepted.
        argmax_correct: where ``correct`` judges generated text, whether the argmax is right at
            every position of an accepted answer; then predicted_ids are the generated tokens.
        greedy_correct: likewise, whether the generated tokens begin with an accepted answer; it
            equals argmax_correct except for ties.

    The fields after ``error`` are left out of the line where they are None.
    """

    sample_id: str
    task: str
    cell: Cell | None
    question: str
    answer: str
    control: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    prediction: str | None = None
    predicted_ids: tuple[int, ...] = ()
    correct: bool | None = None
    logprob: float | None = None
    rank: int | None = None
    margin: float | None = None
    seconds: float | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    variant: str | None = None
    argmax_correct: bool | None = None
    greedy_correct: bool | None = None

    @property
    def num_frames(self) -> int | None:
        """Number of haystack frames; None if the task does not record it."""
        return self.fields.get("num_frames") if self.cell is None else self.cell.num_frames

    @property
    def depth(self) -> Fraction | None:
        """The exact depth, in [0, 1]; None for samples without a cell."""
        return None if self.cell is None else self.cell.depth

    @property
    def needle_id(self) -> str | None:
        """The needle's id; None if the task has no needle."""
        return self.fields.get("needle_id")

    def record(self) -> dict[str, Any]:
        """All values by name, as in the line."""
        record: dict[str, Any] = {"sample_id": self.sample_id, "task": self.task}
        if self.cell is not None:
            record["num_frames"] = self.cell.num_frames
            record["depth"] = json_depth(self.cell.depth)
        record |= self.fields
        record |= {name: getattr(self, name) for name in _VALUES}
        for name in _LEFT_OUT_WHERE_NONE:
            if record[name] is None:
                del record[name]
        return record

    def to_json(self) -> str:
        """The line, without the newline; a lone surrogate in it is escaped.

        Raises:
            ValueError: a number is not finite.
        """
        return to_json(self.record()).decode()

    @classmethod
    def from_json(cls, line: str | bytes, where: str = "the line") -> "SampleResult":
        """The result in a line. Lines of version 0.1, without ``sample_id``, are read as well.

        Args:
            line: the line, with or without its newline.
            where: names it in a message.

        Raises:
            ResultsError: the line is cut, or not a result.
        """
        record = dict(parse_json(line, SampleLine, ResultsError, where))
        try:
            return _from_record(record)
        except ValueError as error:
            raise ResultsError(f"{where}: {error}") from error


# The values of a line besides sample_id, task, cell and the task's own fields, in their order.
_VALUES = tuple(
    f.name for f in fields(SampleResult) if f.name not in ("sample_id", "task", "cell", "fields")
)
_IN_LINE = ("task", *_VALUES)
_LEFT_OUT_WHERE_NONE = ("prompt_tokens", "variant", "argmax_correct", "greedy_correct")


def _from_record(record: dict[str, Any]) -> SampleResult:
    """The result in the values of a line, which are of the declared types.

    Raises:
        ValueError: one of them contradicts another.
    """
    if (record["correct"] is None) == (record["error"] is None):
        raise ValueError(
            f"correct is {record['correct']} and error is {short_repr(record['error'])}, and one "
            "of them must be null"
        )
    if record["error"] is not None and record["rank"] is not None:
        raise ValueError(
            f"rank is {record['rank']} and error is {short_repr(record['error'])}, and a sample "
            "with an error has no score"
        )
    sample_id = record.pop("sample_id", None)
    if "depth" not in record and (sample_id is None or sample_id.split("/", 2)[1:2] != ["-"]):
        raise ValueError("the field 'depth' is missing")
    cell = _read_cell(record)
    known = {name: record.pop(name) for name in _IN_LINE if name in record}
    known["predicted_ids"] = tuple(known["predicted_ids"])
    _require_plain(record)
    if sample_id is None:
        sample_id = _sample_id_of_version_1(cell, record)
    found = SampleResult(sample_id=sample_id, cell=cell, fields=record, **known)
    place = place_prefix(found.num_frames, None) if cell is None else cell.prefix
    if not sample_id.startswith(place):
        raise ValueError(f"sample_id is {short_repr(sample_id)}, and its cell is {place!r}")
    if found.control is not None and not sample_id.endswith(f"/{found.control}"):
        raise ValueError(
            f"sample_id is {short_repr(sample_id)}, and its control is {short_repr(found.control)}"
        )
    if found.control is None and cell is None:
        raise ValueError("neither a cell nor a control")
    return found


def _require_plain(fields: Mapping[str, Any]) -> None:
    """Raises ValueError unless the task's own fields are scalars, and lists of scalars."""
    for name, value in fields.items():
        items = value if isinstance(value, list) else (value,)
        if len(items) > _MOST_IN_A_LIST:
            raise ValueError(
                f"{short_repr(name)} lists {len(items):,} values, and at most {_MOST_IN_A_LIST:,} "
                "can be read"
            )
        if any(isinstance(item, list | dict) for item in items):
            raise ValueError(
                f"{short_repr(name)} is {short_repr(value)}, and must be text, a number, true, "
                "false or null, or a list of these"
            )


def _read_cell(record: dict[str, Any]) -> Cell | None:
    """Removes the cell from a line's values; without a depth ``num_frames`` stays there."""
    if "depth" not in record:
        return None
    if "num_frames" not in record:
        raise ValueError("the field 'num_frames' is missing")
    return _cell(record.pop("num_frames"), record.pop("depth"))


@lru_cache(maxsize=1 << 14)
def _cell(num_frames: int, depth: float | str) -> Cell:
    """A cell; the many samples of one cell share it."""
    return Cell(num_frames, read_depth(depth))


def _sample_id_of_version_1(cell: Cell | None, record: Mapping[str, Any]) -> str:
    if cell is None or not isinstance(record.get("needle_id"), str):
        raise ValueError("the field 'sample_id' is missing")
    return cell_sample_id(cell, record["needle_id"])
