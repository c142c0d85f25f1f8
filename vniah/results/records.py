"""Samples, the cells that they make up, and a run as a whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from vniah.grid import Cell, Grid, as_depth, format_depth

SampleKey = tuple[str, int, Fraction, str, str | None]


@dataclass(frozen=True)
class Sample:
    """One question asked once, with enough in it to ask it again.

    Attributes:
        task: e.g. ``"vniah"``.
        num_frames: haystack frames; the model saw one more.
        depth: exact fraction in [0, 1].
        needle_index: number of haystack frames before the needle.
        needle_id: which needle, in the set that the manifest names.
        question: as asked.
        answer: the right answer.
        prediction: the text of the argmax tokens over the answer span, or a chat model's words.
        predicted_ids: the argmax token at every position of the answer span.
        correct: every position right; None if the sample could not be run.
        logprob: natural logarithm of the answer's probability, summed over its tokens.
        rank: the worst rank of an answer token, 1 = argmax; one that ties with it has 2.
        margin: smallest difference, in logits, between the right token and the best other one.
        control: None where the needle is shown; else the name of the control.
        seconds: wall-clock time of the forward pass.
        error: why there is no score; None where there is one.
        prompt_tokens: what a server counted; None, and left out of the line, for other models.
        variant: of several accepted answers the one that logprob, rank and margin are of (and
            predicted_ids, where nothing was generated): the right one with the highest logprob, or
            of all wrong ones. Of a chat model's words, the one that they are. None where the needle
            accepts one answer only.
        argmax_correct: where ``correct`` judges generated text, whether the argmax is right at
            every position of an accepted answer; then predicted_ids are the tokens generated.
        greedy_correct: likewise, whether these tokens begin with an accepted answer: the same
            thing, found in another way.

    The fields after ``error`` are left out of the line where they are None.
    """

    task: str
    num_frames: int
    depth: Fraction
    needle_index: int
    needle_id: str
    question: str
    answer: str
    prediction: str | None = None
    predicted_ids: tuple[int, ...] = ()
    correct: bool | None = None
    logprob: float | None = None
    rank: int | None = None
    margin: float | None = None
    control: str | None = None
    seconds: float | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    variant: str | None = None
    argmax_correct: bool | None = None
    greedy_correct: bool | None = None

    @property
    def cell(self) -> Cell:
        """The square of the heatmap that it belongs to."""
        return Cell(self.num_frames, self.depth)

    @property
    def key(self) -> SampleKey:
        """What tells it from every other sample of its run."""
        return (self.task, self.num_frames, self.depth, self.needle_id, self.control)

    def to_json(self) -> str:
        """One line, without the newline."""
        record = asdict(self)
        record["depth"] = _json_depth(self.depth)
        for name in _LEFT_OUT_WHERE_NONE:
            if record[name] is None:
                del record[name]
        return json.dumps(record, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "Sample":
        """The sample that a line holds.

        Raises:
            ValueError: the line is not whole, or not a sample.
            TypeError: a field is missing.
        """
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        known = {f.name for f in fields(cls)}
        if missing := {"task", "num_frames", "depth", "needle_id", "correct"} - record.keys():
            raise ValueError(f"the field {min(missing)!r} is missing")
        record = {name: value for name, value in record.items() if name in known}
        for name, kinds in _FIELD_TYPES.items():
            if name in record and type(record[name]) not in kinds:
                raise ValueError(f"{name} is {record[name]!r}")
        if record["num_frames"] < 1:
            raise ValueError(f"num_frames is {record['num_frames']}")
        record["depth"] = read_depth(record["depth"])
        record["predicted_ids"] = tuple(record.get("predicted_ids", ()))
        return cls(**record)


_FIELD_TYPES: Mapping[str, tuple[type, ...]] = {
    "task": (str,),
    "num_frames": (int,),
    "needle_id": (str,),
    "correct": (bool, type(None)),
    "predicted_ids": (list,),
    "control": (str, type(None)),
    "error": (str, type(None)),
    "prompt_tokens": (int, type(None)),
    "variant": (str, type(None)),
    "argmax_correct": (bool, type(None)),
    "greedy_correct": (bool, type(None)),
}
_LEFT_OUT_WHERE_NONE = ("prompt_tokens", "variant", "argmax_correct", "greedy_correct")


@dataclass(frozen=True)
class CellScore:
    """What a cell came to.

    Attributes:
        cell: which one.
        score: mean over its samples, in [0, 1]; None if none could be run.
        num_samples: samples with a score; None in a published table, which does not say.
        num_correct: how many of them were right; None in a published table.
        num_errors: samples that could not be run; they are not in the mean.
    """

    cell: Cell
    score: float | None
    num_samples: int | None
    num_correct: int | None = None
    num_errors: int = 0


@dataclass(frozen=True)
class Results:
    """A run, or a published table, read from disk.

    Attributes:
        name: for titles: the model's name, or the file's.
        path: the folder or file that it was read from.
        manifest: what `RunFolder` wrote; empty for a published table.
        samples: in the order of the grid; empty for a published table.
        published: the cells of a published table; empty for a run.
        axis: what `Cell.num_frames` counts: frames, or tokens in a published text table.
    """

    name: str
    path: Path
    manifest: Mapping[str, Any]
    samples: tuple[Sample, ...] = ()
    published: tuple[CellScore, ...] = field(default=(), repr=False)
    axis: Literal["frames", "tokens"] = "frames"

    @property
    def cells(self) -> tuple[CellScore, ...]:
        """Every cell that was measured, by frames, then depth. Controls are left out."""
        if self.published:
            return self.published
        groups: dict[Cell, list[Sample]] = {}
        for sample in self.samples:
            if sample.control is None:
                groups.setdefault(sample.cell, []).append(sample)
        return tuple(_score(cell, groups[cell]) for cell in sorted(groups))

    @property
    def average(self) -> float | None:
        """Mean of the cells' scores, each cell counting the same; None without any score."""
        scores = [cell.score for cell in self.cells if cell.score is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def grid(self) -> Grid | None:
        """The grid that the manifest names; None for a published table."""
        return read_grid(self.manifest["grid"]) if self.manifest else None

    @property
    def num_planned(self) -> int | None:
        """Samples that the manifest's grid asks for; None for a published table."""
        return len(self._planned) if self.manifest else None

    @property
    def _planned(self) -> set[tuple[Cell, str]]:
        ids = self.manifest["needles"]["ids"]
        cells = read_grid(self.manifest["grid"]).cells
        return {(cell, needle_id) for cell in cells for needle_id in ids}

    @property
    def num_done(self) -> int | None:
        """How many of them have a line; None for a published table."""
        if not self.manifest:
            return None
        done = {(s.cell, s.needle_id) for s in self.samples if s.control is None}
        return len(self._planned & done)

    @property
    def is_complete(self) -> bool:
        """Whether every planned sample has a line; a published table always is."""
        return self.num_done == self.num_planned

    @property
    def tokens_per_frame(self) -> int | None:
        """How many tokens the model reads for a frame, if the manifest says."""
        tokens = self.manifest.get("model", {}).get("tokens_per_frame")
        return int(tokens) if tokens is not None else None


def grid_record(grid: Grid) -> dict[str, Any]:
    """The grid as the manifest holds it."""
    frames = list(grid.frames)
    if grid.positions:
        return {"frames": frames, "positions": list(grid.positions)}
    return {"frames": frames, "depths": [_json_depth(depth) for depth in grid.depths]}


def read_grid(record: Mapping[str, Any]) -> Grid:
    """The grid that a manifest holds.

    Raises:
        ValueError: it names depths and positions, neither, or values that cannot be meant.
        ArithmeticError: a depth is a fraction over 0.
    """
    depths = [read_depth(depth) for depth in record.get("depths", ())]
    return Grid.of(record["frames"], depths, positions=record.get("positions", ()))


def read_depth(value: float | str) -> Fraction:
    """The depth that a manifest or a line of samples holds, exactly.

    Raises:
        ValueError: it is none, or not in [0, 1].
        ArithmeticError: it is a fraction over 0.
    """
    return as_depth(Fraction(str(value)))


def _json_depth(depth: Fraction) -> float | str:
    """A JSON number whose digits are the depth, or text such as "1/3" where no decimal is."""
    text = format_depth(depth)
    if "/" in text or Fraction(str(float(text))) != depth:
        return text
    return float(text)


def _score(cell: Cell, samples: Sequence[Sample]) -> CellScore:
    scored = [sample.correct for sample in samples if sample.correct is not None]
    return CellScore(
        cell,
        score=sum(scored) / len(scored) if scored else None,
        num_samples=len(scored),
        num_correct=sum(scored),
        num_errors=len(samples) - len(scored),
    )
