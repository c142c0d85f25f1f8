"""The results of samples, of cells, of controls, and of a whole run."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vniah.grid import Cell, Grid, place_prefix
from vniah.results.plan import cell_sample_id, json_depth, planned_ids, read_depth, read_grid

if TYPE_CHECKING:
    import pandas as pd


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
        """The line, without the newline."""
        return json.dumps(self.record(), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "SampleResult":
        """The result in a line. Lines of version 0.1, without ``sample_id``, are read as well.

        Raises:
            ValueError: the line is cut, or not a result.
        """
        record = json.loads(line, parse_constant=_refuse_constant)
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        if missing := {"task", "question", "answer", "correct"} - record.keys():
            raise ValueError(f"the field {min(missing)!r} is missing")
        for name, kinds in _FIELD_TYPES.items():
            if name in record and type(record[name]) not in kinds:
                raise ValueError(f"{name} is {record[name]!r}")
        if (record["correct"] is None) == (record.get("error") is None):
            raise ValueError(
                f"correct is {record['correct']}, and error is {record.get('error')!r}"
            )
        sample_id = record.pop("sample_id", None)
        if "depth" not in record and (sample_id is None or sample_id.split("/")[1:2] != ["-"]):
            raise ValueError("the field 'depth' is missing")
        cell = _read_cell(record)
        known = {name: record.pop(name) for name in ("task", *_VALUES) if name in record}
        known["predicted_ids"] = tuple(known.get("predicted_ids", ()))
        if sample_id is None:
            sample_id = _sample_id_of_version_1(cell, record)
        found = cls(sample_id=sample_id, cell=cell, fields=record, **known)
        if not sample_id.startswith(place := place_prefix(found.num_frames, found.depth)):
            raise ValueError(f"sample_id is {sample_id!r}, and its cell is {place!r}")
        if found.control is not None and not sample_id.endswith(f"/{found.control}"):
            raise ValueError(f"sample_id is {sample_id!r}, and its control is {found.control!r}")
        if found.control is None and cell is None:
            raise ValueError("neither a cell nor a control")
        return found


# The values of a line besides sample_id, task, cell and the task's own fields, in their order.
_VALUES = tuple(
    f.name for f in fields(SampleResult) if f.name not in ("sample_id", "task", "cell", "fields")
)
_FIELD_TYPES: Mapping[str, tuple[type, ...]] = {
    "sample_id": (str,),
    "task": (str,),
    "num_frames": (int,),
    "question": (str,),
    "answer": (str,),
    "correct": (bool, type(None)),
    "predicted_ids": (list,),
    "logprob": (float, int, type(None)),
    "rank": (int, type(None)),
    "margin": (float, int, type(None)),
    "seconds": (float, int, type(None)),
    "control": (str, type(None)),
    "error": (str, type(None)),
    "prompt_tokens": (int, type(None)),
    "variant": (str, type(None)),
    "argmax_correct": (bool, type(None)),
    "greedy_correct": (bool, type(None)),
}
_LEFT_OUT_WHERE_NONE = ("prompt_tokens", "variant", "argmax_correct", "greedy_correct")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _read_cell(record: dict[str, Any]) -> Cell | None:
    """Removes the cell from a line's values; without a depth ``num_frames`` stays there."""
    if record.get("num_frames", 1) < 1:
        raise ValueError(f"num_frames is {record['num_frames']}")
    if "depth" not in record:
        return None
    if "num_frames" not in record:
        raise ValueError("the field 'num_frames' is missing")
    return Cell(record.pop("num_frames"), read_depth(record.pop("depth")))


def _sample_id_of_version_1(cell: Cell | None, record: Mapping[str, Any]) -> str:
    if cell is None or not isinstance(record.get("needle_id"), str):
        raise ValueError("the field 'sample_id' is missing")
    index = record.get("needle_index", cell.needle_index)
    if index != cell.needle_index:
        raise ValueError(f"needle_index is {index!r}, and its cell has {cell.needle_index}")
    return cell_sample_id(cell, record["needle_id"])


@dataclass(frozen=True)
class CellScore:
    """The score of a cell.

    Attributes:
        cell: the cell.
        score: mean over its samples, in [0, 1]; None if none could be run.
        num_samples: number of samples with a score; None in a published table.
        num_correct: number of right samples; None in a published table.
        num_errors: number of samples that could not be run; they are not in the mean.
    """

    cell: Cell
    score: float | None
    num_samples: int | None
    num_correct: int | None = None
    num_errors: int = 0


@dataclass(frozen=True)
class ControlScore:
    """The score of a control at one number of frames.

    Attributes:
        control: name of the control.
        num_frames: number of haystack frames; None for controls that show none.
        num_samples: number of samples with a score.
        num_correct: number of samples that are right by the criterion of the test.
        num_errors: number of samples that could not be run.
    """

    control: str
    num_frames: int | None
    num_samples: int
    num_correct: int
    num_errors: int = 0

    @property
    def score(self) -> float | None:
        """Mean over its samples, in [0, 1]; None if none could be run."""
        return self.num_correct / self.num_samples if self.num_samples else None


@dataclass(frozen=True, repr=False)
class Results:
    """The results of a run, or of a published table.

    Attributes:
        name: for titles: the name of the model, or of the file.
        path: the folder or the file of the results.
        manifest: the run's manifest; empty for a published table.
        samples: the results of the test itself, in the order of the plan; empty for a published
            table.
        control_samples: the results of controls, in the order of the plan.
        published: the cells of a published table; empty for a run.
        axis: what `Cell.num_frames` counts: frames, or tokens in a published text table.
    """

    name: str
    path: Path
    manifest: Mapping[str, Any]
    samples: tuple[SampleResult, ...] = ()
    control_samples: tuple[SampleResult, ...] = ()
    published: tuple[CellScore, ...] = ()
    axis: Literal["frames", "tokens"] = "frames"

    def __repr__(self) -> str:
        average = "no average" if self.average is None else f"average {self.average:.4f}"
        what = f"{self.num_done} of {self.num_planned} samples" if self.manifest else "published"
        return f"<Results {self.name}: {what}, {len(self.cells)} cells, {average}>"

    def _repr_html_(self) -> str:
        """The table of cells, for notebooks."""
        if not self.cells:
            return f"<p>{html.escape(repr(self))}</p>"
        frame = self.to_pandas(cells=True).pivot(
            index="depth", columns="num_frames", values="score"
        )
        return f"<p>{html.escape(repr(self))}</p>{frame.to_html(float_format='{:.2f}'.format)}"

    def to_pandas(self, *, cells: bool = False) -> "pd.DataFrame":
        """A data frame with a row for each sample, controls included; or with a row for each cell.

        Args:
            cells: a row for each cell with ``num_frames``, ``depth``, ``score``, ``num_samples``,
                ``num_correct`` and ``num_errors`` instead. A published table has only these.

        Returns:
            The columns have the names of ``samples.jsonl``; ``depth`` is a float in [0, 1].
        """
        import pandas as pd

        if cells or self.published:
            rows = [{**vars(found.cell), **vars(found)} for found in self.cells]
        else:
            rows = [sample.record() for sample in (*self.samples, *self.control_samples)]
        frame = pd.DataFrame(rows).drop(columns="cell", errors="ignore")
        if "depth" in frame:
            frame["depth"] = frame["depth"].map(lambda depth: float(Fraction(depth)), "ignore")
        return frame

    @cached_property
    def cells(self) -> tuple[CellScore, ...]:
        """Every measured cell, ordered by frames, then by depth."""
        if self.published:
            return self.published
        groups: dict[Cell, list[SampleResult]] = {}
        for sample in self.samples:
            if sample.cell is not None:
                groups.setdefault(sample.cell, []).append(sample)
        return tuple(_score(cell, groups[cell]) for cell in sorted(groups))

    @cached_property
    def controls(self) -> tuple[ControlScore, ...]:
        """Every control at every number of frames, ordered by name, then by frames."""
        groups: dict[tuple[str, int], list[SampleResult]] = {}
        for sample in self.control_samples:
            key = (sample.control or "", sample.num_frames or 0)
            groups.setdefault(key, []).append(sample)
        scores = []
        for (control, num_frames), samples in sorted(groups.items()):
            scored = [sample.correct for sample in samples if sample.correct is not None]
            errors = len(samples) - len(scored)
            scores.append(
                ControlScore(control, num_frames or None, len(scored), sum(scored), errors)
            )
        return tuple(scores)

    @property
    def average(self) -> float | None:
        """The mean of the cells' scores, all with the same weight; None if there is no score."""
        scores = [cell.score for cell in self.cells if cell.score is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def grid(self) -> Grid | None:
        """The grid of the run; None for a published table."""
        return read_grid(self.manifest["grid"]) if self.manifest else None

    @property
    def num_planned(self) -> int | None:
        """Number of planned samples, controls included; None for a published table."""
        return len(planned_ids(self.manifest)) if self.manifest else None

    @property
    def num_done(self) -> int | None:
        """Number of planned samples that have a line; None for a published table."""
        if not self.manifest:
            return None
        done = {sample.sample_id for sample in (*self.samples, *self.control_samples)}
        return len(done & planned_ids(self.manifest).keys())

    @property
    def is_complete(self) -> bool:
        """True if every planned sample has a line; a published table always is complete."""
        return self.num_done == self.num_planned

    @property
    def tokens_per_frame(self) -> int | None:
        """Number of tokens that the model reads for a frame; None if the manifest lacks it."""
        tokens = self.manifest.get("model", {}).get("tokens_per_frame")
        return int(tokens) if tokens is not None else None


def _score(cell: Cell, samples: Sequence[SampleResult]) -> CellScore:
    scored = [sample.correct for sample in samples if sample.correct is not None]
    return CellScore(
        cell,
        score=sum(scored) / len(scored) if scored else None,
        num_samples=len(scored),
        num_correct=sum(scored),
        num_errors=len(samples) - len(scored),
    )
