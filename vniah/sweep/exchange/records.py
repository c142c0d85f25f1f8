"""Samples as lines of JSON: exact, to be read back, and as metadata for everybody else."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from vniah.errors import ResultsError
from vniah.files import hash_text, to_json
from vniah.grid import MAX_FRAMES, Cell, read_depth
from vniah.protocol import Frames, FrameSpan, needle_of, needle_source
from vniah.results import MOST_LINE_BYTES
from vniah.results.plan import DepthRecord, json_depth
from vniah.schema import parse_json
from vniah.tasks import Sample

VIDEOS = "videos"
"""The folder of the videos, beside the metadata."""

_Count = Annotated[int, Meta(ge=0)]


class PromptRecord(TypedDict):
    """What a sample of text reads, which stands in the metadata."""

    sha256: str
    num_tokens: _Count


class PlanLine(TypedDict):
    """A sample as it is, so that answers are scored as if it had been made anew."""

    sample_id: str
    cell: tuple[Annotated[int, Meta(ge=1, le=MAX_FRAMES)], DepthRecord] | None
    shown: list[tuple[str, _Count, _Count]]
    question: str
    candidates: Annotated[list[str], Meta(min_length=1)]
    answer: str
    choices: list[str] | None
    control: str | None
    fields: dict[str, Any]
    prompt: NotRequired[PromptRecord]


def plan_line(sample: Sample, num_tokens: int | None = None) -> bytes:
    """The line of a sample, with its newline.

    Args:
        sample: the sample.
        num_tokens: of its prompt, for a sample of text.
    """
    cell = sample.cell
    line = PlanLine(
        sample_id=sample.sample_id,
        cell=None if cell is None else (cell.num_frames, json_depth(cell.depth)),
        shown=[(span.source, span.start, span.stop) for span in sample.shown],
        question=sample.question,
        candidates=list(sample.candidates),
        answer=sample.answer,
        choices=None if sample.choices is None else list(sample.choices),
        control=sample.control,
        fields=dict(sample.fields),
    )
    if num_tokens is not None:
        line["prompt"] = PromptRecord(sha256=hash_text(sample.prompt), num_tokens=num_tokens)
    return to_json(line) + b"\n"


def read_plan(path: Path, sha256: str) -> tuple[Sample, ...]:
    """The samples in a file of plan lines; those of text without the text.

    Args:
        path: the file.
        sha256: of its bytes, as they were written.

    Raises:
        ResultsError: it cannot be read, or is another file than was written.
    """
    return tuple(map(_sample, _read_lines(path, sha256)))


def read_prompt_lengths(path: Path, sha256: str) -> dict[str, int]:
    """The number of tokens of each prompt in a file of plan lines, by the id of its sample.

    Args:
        path: the file.
        sha256: of its bytes, as they were written.

    Raises:
        ResultsError: as `read_plan`.
    """
    lines = _read_lines(path, sha256)
    return {line["sample_id"]: line["prompt"]["num_tokens"] for line in lines if "prompt" in line}


def _read_lines(path: Path, sha256: str) -> list[PlanLine]:
    lines: list[PlanLine] = []
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while line := file.readline(MOST_LINE_BYTES):
                digest.update(line)
                where = f"{path}, line {len(lines) + 1}"
                lines.append(parse_json(line, PlanLine, ResultsError, where))
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}; export again") from error
    if digest.hexdigest() != sha256:
        raise ResultsError(
            f"{path} was changed since it was exported, so nobody knows what was asked: put the "
            "file back, or export again with --overwrite"
        )
    return lines


def _sample(line: PlanLine) -> Sample:
    cell, choices = line["cell"], line["choices"]
    return Sample(
        sample_id=line["sample_id"],
        cell=None if cell is None else Cell(cell[0], read_depth(cell[1])),
        shown=tuple(FrameSpan(source, start, stop) for source, start, stop in line["shown"]),
        question=line["question"],
        candidates=tuple(line["candidates"]),
        answer=line["answer"],
        choices=None if choices is None else tuple(choices),
        control=line["control"],
        fields=line["fields"],
    )


def video_name(shown: Sequence[FrameSpan]) -> str | None:
    """The name of the video of what is shown, the same in all exports; None for no frames."""
    if not shown:
        return None
    frames = Frames.of(list(shown))  # in one form, however a task has cut them
    text = "\n".join(f"{span.source} {span.start} {span.stop}" for span in frames.spans)
    digest = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
    return f"{VIDEOS}/{len(frames):06d}-{digest}.mp4"


def metadata_rows(
    samples: Sequence[Sample], accepted: Sequence[Sequence[str]], task: str
) -> Iterator[dict[str, Any]]:
    """A row of ``metadata.jsonl`` for each sample; of those of text without the prompt.

    Every row has all keys, and every key has values of one type, as Arrow wants it.

    Args:
        samples: of a plan.
        accepted: for each of them, the candidates that count as right.
        task: the name of their task.
    """
    kinds: dict[str, set[str]] = {}
    for sample in samples:
        for name, value in sample.fields.items():
            kinds.setdefault(name, set()).update(_kinds(value))
    for sample, right in zip(samples, accepted, strict=True):
        options = sample.choices
        if options is None and set(sample.candidates) - set(right):
            options = sample.candidates
        fields = {name: sample.fields.get(name) for name in kinds}
        is_text = sample.text is not None
        yield {
            **({} if is_text else {"file_name": video_name(sample.shown)}),
            "sample_id": sample.sample_id,
            "task": task,
            "control": sample.control,
            "num_tokens" if is_text else "num_frames": sample.num_frames,
            "depth": None if sample.cell is None else float(sample.cell.depth),
            "question": sample.question,
            "options": None if options is None else list(options),
            "answer": sample.answer,
            "accepted": list(right),
            **({} if is_text else {"num_seconds": sample.num_shown, **_inserted(sample)}),
            "fields": {
                name: value if len(kinds[name]) <= 1 or value is None else json.dumps(value)
                for name, value in fields.items()
            },
        }


def _kinds(value: object) -> set[str]:
    """The type of a value as Arrow tells them apart; none for None and [], which fit them all."""
    if isinstance(value, list | tuple):
        return {f"list of {kind}" for item in value for kind in _kinds(item)}
    return set() if value is None else {type(value).__name__}


def _inserted(sample: Sample) -> dict[str, Any]:
    """When pictures are on screen that are none of the haystack's: all, and the needle's own.

    The needle is the one that the field ``needle_id`` names; without the field it is the only one.
    """
    found: list[dict[str, Any]] = []
    second = 0
    for (style, needle_id), spans in groupby(sample.shown, _look):
        seconds = sum(span.num_frames for span in spans)
        if needle_id is not None:
            found.append(
                {"needle_id": needle_id, "style": style, "second": second, "seconds": seconds}
            )
        second += seconds
    names = {one["needle_id"] for one in found}
    if "needle_id" in sample.fields:
        names &= {sample.fields["needle_id"]}
    firsts = [one["second"] for one in found if one["needle_id"] in names]
    return {"needle_second": firsts[0] if len(names) == 1 else None, "inserted": found}


def _look(span: FrameSpan) -> tuple[str, str | None]:
    """The style in which a span shows a needle, and its id; no id for the haystack."""
    needle_id = needle_of(span.source)
    if needle_id is None:
        return "", None
    return ("frame" if span.source == needle_source(needle_id) else "blended"), needle_id


def in_readable_order(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows, those first that bring the first value of a column.

    Whoever reads JSON into columns infers their types from the beginning of the file: a column that
    is null there, as ``control`` may be for millions of bytes, would be taken to hold nothing.
    """
    first: list[Mapping[str, Any]] = []
    others: list[Mapping[str, Any]] = []
    known: set[str] = set()
    for row in rows:
        paths = set(_filled(row, ""))
        (others if paths <= known else first).append(row)
        known |= paths
    return first + others


def _filled(value: object, path: str) -> Iterator[str]:
    """The columns in which a value is not null, those of nested values included."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _filled(item, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _filled(item, f"{path}[]")
    elif value is not None:
        yield path
