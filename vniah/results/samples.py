"""The result of a sample, and the line of ``samples.jsonl`` that holds it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import lru_cache
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

from msgspec import Meta

from vniah.errors import ResultsError, short_repr
from vniah.files import to_json
from vniah.grid import Cell, place_prefix, read_depth
from vniah.results.lines import LineDecoder
from vniah.results.plan import DepthRecord, Plan, cell_sample_id, json_depth
from vniah.schema import parse_json

MOST_LINE_BYTES = 2**24
_MOST_IN_A_LIST = 100_000
_MOST_SHARED = 10_000


Seen = Literal["seen", "not seen"]


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
    approximate: NotRequired[bool | None]
    needle_attention: NotRequired[Annotated[float, Meta(ge=0, le=1)] | None]
    needle_seen: NotRequired[Seen | None]


class _Slotted:
    """Gives `vars` of an object with slots what it gives of others: its values by name."""

    __slots__: tuple[str, ...] = ()

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class SampleResult(_Slotted):
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
            generated. A wrong argmax is no text that the model would write
            (`has_conditioned_prediction`).
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
        approximate: True where haystack states were shared among needles, so that all numbers of
            the line are approximate; None where they are exact.
        needle_attention: the largest share of attention that any head pays to the needle and the
            token right behind it, from any token of the question or the answer; None where that was
            not traced (`vniah.results.attention`).
        needle_seen: ``"seen"`` where that is more than to all other tokens together, else ``"not
            seen"``. A wrong sample that is ``"seen"`` was seen and not used.

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
    approximate: bool | None = None
    needle_attention: float | None = None
    needle_seen: Seen | None = None

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

    @property
    def has_conditioned_prediction(self) -> bool:
        """True if ``prediction`` is wrong, and no text that the model would write.

        The argmax at each position is given the *right* tokens before it. Behind the first wrong
        one a model that writes goes on otherwise: it may give the whole number of a distractor,
        where the argmax mixes two numbers.
        """
        is_argmax = self.logprob is not None and self.argmax_correct is None
        is_option = "num_options" in self.fields
        return bool(
            self.correct is False and is_argmax and not is_option and len(self.predicted_ids) > 1
        )

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
        record: Mapping[str, Any] = parse_json(line, SampleLine, ResultsError, where)
        found, own = _as_attributes(record)
        try:
            return _result_in(found, own, Plan(()), lambda value, same: same)
        except ValueError as error:
            raise ResultsError(f"{where}: {error}") from error


# The values of a line besides sample_id, task, cell and the task's own fields, in their order.
_VALUES = tuple(
    f.name for f in fields(SampleResult) if f.name not in ("sample_id", "task", "cell", "fields")
)
_LEFT_OUT_WHERE_NONE = (
    *("prompt_tokens", "variant", "argmax_correct", "greedy_correct", "approximate"),
    *("needle_attention", "needle_seen"),
)


class SampleReader:
    """Reads lines, one after the other. Samples share what is the same in many lines of a run.

    Args:
        plan: the samples that are expected, whose ids the results share.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._decoder = LineDecoder(SampleLine)
        self._shared: dict[Any, Any] = {}

    def read(self, line: bytes, where: str = "the line") -> SampleResult:
        """The same as `SampleResult.from_json`, in a fraction of the time."""
        decoded = self._decoder.decode(line)
        if decoded is None:
            record: Mapping[str, Any] = parse_json(line, SampleLine, ResultsError, where)
            found, own = _as_attributes(record)
        else:
            found, layout = decoded
            own = layout.other_values(found)
        if len(self._shared) >= _MOST_SHARED:  # texts of chat models are hardly ever the same
            self._shared.clear()
        try:
            result = _result_in(found, own, self._plan, self._shared.setdefault)
        except ValueError as error:
            raise ResultsError(f"{where}: {error}") from error
        if decoded is None:
            self._decoder.learn(line, record)
        return result


class _Draft(_Slotted):
    """A `SampleResult` whose values are still being set."""

    __slots__ = SampleResult.__slots__


def _as_attributes(record: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The values of a line as attributes, None for those that it lacks; and the task's own."""
    known = {name: record.get(name) for name in SampleLine.__annotations__}
    return SimpleNamespace(**known), {k: v for k, v in record.items() if k not in known}


def _result_in(
    line: Any, own: dict[str, Any], plan: Plan, share: Callable[[Any, Any], Any]
) -> SampleResult:
    """The result in the values of a line, which are of the declared types.

    Args:
        line: what `SampleLine` names, as attributes.
        own: the task's own fields.
        plan: has the ids that are shared.
        share: gives a value that is equal to the one that it is given twice.

    Raises:
        ValueError: one of the values contradicts another.
    """
    _require_one_outcome(line)
    sample_id, cell, control = line.sample_id, _cell_of(line), line.control
    if cell is None and line.num_frames is not None:
        own = {"num_frames": line.num_frames, **own}
    for name, value in own.items():
        if type(value) is str:
            own[name] = share(value, value)
        elif type(value) is list or type(value) is dict:
            _require_plain(name, value)
    if sample_id is None:
        sample_id = _sample_id_of_version_1(cell, own)
    place = place_prefix(line.num_frames, None) if cell is None else cell.prefix
    if not sample_id.startswith(place):
        raise ValueError(f"sample_id is {short_repr(sample_id)}, and its cell is {place!r}")
    if control is not None and not sample_id.endswith(f"/{control}"):
        raise ValueError(
            f"sample_id is {short_repr(sample_id)}, and its control is {short_repr(control)}"
        )
    if control is None and cell is None:
        raise ValueError("neither a cell nor a control")
    number = plan.get(sample_id)
    predicted_ids = tuple(line.predicted_ids)
    # The __init__ of a frozen class takes as long as all the rest of reading a line.
    result: Any = _Draft()
    result.sample_id = sample_id if number is None else plan.ids[number]
    result.task = share(line.task, line.task)
    result.cell = cell
    result.question = share(line.question, line.question)
    result.answer = share(line.answer, line.answer)
    result.control = share(control, control)
    result.fields = own
    result.prediction = share(line.prediction, line.prediction)
    result.predicted_ids = share(predicted_ids, predicted_ids)
    result.correct = line.correct
    result.logprob = line.logprob
    result.rank = line.rank
    result.margin = line.margin
    result.seconds = line.seconds
    result.error = line.error
    result.prompt_tokens = line.prompt_tokens
    result.variant = line.variant
    result.argmax_correct = line.argmax_correct
    result.greedy_correct = line.greedy_correct
    result.approximate = line.approximate
    result.needle_attention = line.needle_attention
    result.needle_seen = line.needle_seen
    result.__class__ = SampleResult
    return cast("SampleResult", result)


def _require_one_outcome(line: Any) -> None:
    """Raises ValueError unless a line has either a score or an error."""
    if (line.correct is None) == (line.error is None):
        raise ValueError(
            f"correct is {line.correct} and error is {short_repr(line.error)}, and one of them "
            "must be null"
        )
    if line.error is not None and line.rank is not None:
        raise ValueError(
            f"rank is {line.rank} and error is {short_repr(line.error)}, and a sample with an "
            "error has no score"
        )


def _require_plain(name: str, value: list[Any] | dict[str, Any]) -> None:
    """Raises ValueError unless one of the task's own fields is a list of scalars."""
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


def _cell_of(line: Any) -> Cell | None:
    """The cell of a line; None if it has no depth."""
    if line.depth is None:
        if line.sample_id is None or line.sample_id.split("/", 2)[1:2] != ["-"]:
            raise ValueError("the field 'depth' is missing")
        return None
    if line.num_frames is None:
        raise ValueError("the field 'num_frames' is missing")
    return _cell(line.num_frames, line.depth)


@lru_cache(maxsize=1 << 14)
def _cell(num_frames: int, depth: float | str) -> Cell:
    """A cell; the many samples of one cell share it."""
    return Cell(num_frames, read_depth(depth))


def _sample_id_of_version_1(cell: Cell | None, record: Mapping[str, Any]) -> str:
    if cell is None or not isinstance(record.get("needle_id"), str):
        raise ValueError("the field 'sample_id' is missing")
    return cell_sample_id(cell, record["needle_id"])
