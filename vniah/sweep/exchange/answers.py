"""Reads the answers that came back: JSON lines or CSV, one answer a line."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from vniah.errors import ResultsError, first_line, short_repr
from vniah.results import MOST_LINE_BYTES
from vniah.schema import parse_json, require_type

_TEXTS = ("prediction", "response")
_ID = "sample_id"
_TABLES = (".csv", ".tsv")
_SEPARATORS = (",", ";", "\t", "|")
_KINDS: Mapping[str, Callable[[str], int | float]] = {"seconds": float, "prompt_tokens": int}
_MOST_CSV_BYTES = 2**30
_MOST_CHARACTERS = 1_000_000

Text = Annotated[str, Meta(max_length=_MOST_CHARACTERS)]


class AnswerLine(TypedDict):
    """An answer; a line may have other keys besides, such as those of the sample."""

    sample_id: str
    prediction: NotRequired[Text | None]
    response: NotRequired[Text | None]
    error: NotRequired[Text | None]
    seconds: NotRequired[Annotated[float, Meta(ge=0)] | None]
    prompt_tokens: NotRequired[Annotated[int, Meta(ge=0)] | None]


@dataclass(frozen=True)
class Answer:
    """What came back for a sample.

    Attributes:
        text: what the model wrote; None if it gave no answer.
        error: why it gave none; None if it did.
        seconds: how long it took, if that is known.
        prompt_tokens: as the model's host counted them, if that is known.
    """

    text: str | None
    error: str | None = None
    seconds: float | None = None
    prompt_tokens: int | None = None


def read_answers(source: Path | Mapping[str, str]) -> dict[str, Answer]:
    """The answers by the ids of their samples.

    Args:
        source: a file of JSON lines, or of a table if its name ends in ``.csv`` or
            ``.tsv``; or the texts themselves, by ``sample_id``.

    Raises:
        ResultsError: the file cannot be read, a line is not an answer, or two lines answer one
            sample; the message names the line.
    """
    found: dict[str, Answer] = {}
    line_of: dict[str, int] = {}
    for number, where, record in _records(source):
        line = require_type(record, AnswerLine, ResultsError, where)
        sample_id = line["sample_id"]
        if sample_id in found:
            raise ResultsError(
                f"{where}: it answers the sample {short_repr(sample_id)}, and so does line "
                f"{line_of[sample_id]}; leave one of them out"
            )
        found[sample_id] = _answer(line, where)
        line_of[sample_id] = number
    if not found:
        raise ResultsError(
            f"{source if isinstance(source, Path) else 'the mapping'} holds no answer; it needs a "
            "line with sample_id and prediction for each sample"
        )
    return found


def _answer(line: AnswerLine, where: str) -> Answer:
    named = (("prediction", line.get("prediction")), ("response", line.get("response")))
    texts = {name: text for name, text in named if text is not None}
    error = line.get("error")
    if len(set(texts.values())) > 1:
        raise ResultsError(
            f"{where}: it has two texts, prediction {short_repr(texts['prediction'])} and response "
            f"{short_repr(texts['response'])}; leave one of them out"
        )
    if bool(texts) == bool(error):
        both = "both a text and an error" if texts else "no prediction and no error"
        raise ResultsError(
            f"{where}: it has {both}; it needs what the model wrote as 'prediction', or why it "
            "wrote nothing as 'error'"
        )
    text = next(iter(texts.values()), None)
    return Answer(text, error or None, line.get("seconds"), line.get("prompt_tokens"))


def _records(source: Path | Mapping[str, str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number of the line, words that name it, what it holds)."""
    if not isinstance(source, Path):
        for number, (sample_id, text) in enumerate(source.items(), 1):
            record = {"sample_id": sample_id, "prediction": text}
            yield number, f"the answer to {short_repr(sample_id)}", record
        return
    read = _csv_records if source.suffix.lower() in _TABLES else _json_records
    try:
        for number, record in read(source):
            yield number, f"{source}, line {number}", record
    except OSError as error:
        raise ResultsError(f"{source} cannot be read: {error.strerror or error}") from error


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MOST_LINE_BYTES):
            number += 1
            if len(line) == MOST_LINE_BYTES:
                raise ResultsError(
                    f"{path}, line {number}: it has more than {len(line):,} bytes; remove it"
                )
            if line.strip():
                where = f"{path}, line {number}"
                yield number, parse_json(line, dict[str, Any], ResultsError, where)


def _csv_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        content = file.read(_MOST_CSV_BYTES + 1)
    if len(content) > _MOST_CSV_BYTES:
        raise ResultsError(f"{path} is larger than {_MOST_CSV_BYTES:,} bytes; write JSON lines")
    try:
        text = content.decode("utf-8-sig")
        separator = _separator(text, path)
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for row in reader:
            if None in row or None in row.values():
                raise ResultsError(
                    f"{path}, line {reader.line_num}: it has another number of cells than the first"
                )
            yield reader.line_num, {key: _cell(key, text, separator) for key, text in row.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} cannot be read as CSV in UTF-8: {first_line(error)}") from error


def _separator(text: str, path: Path) -> str:
    """The one of `_SEPARATORS` that makes ``sample_id`` one of the names in the first line.

    Raises:
        ResultsError: none of them does, or two columns have one name.
    """
    read: dict[str, list[str]] = {}
    for separator in _SEPARATORS:
        (names,) = csv.reader(text.splitlines()[:1] or [""], delimiter=separator)
        read[separator] = names = [name.strip() for name in names]
        if _ID in names:
            if twice := [name for name in names if names.count(name) > 1]:
                raise ResultsError(f"{path} has two columns {short_repr(twice[0])}; remove one")
            return separator
    names = max(read.values(), key=len)
    raise ResultsError(
        f"{path} has no column {_ID!r}: its first line names {', '.join(map(short_repr, names))}; "
        "the columns must be sample_id and prediction, separated by commas, semicolons, tabs or |"
    )


def _cell(column: str, text: str, separator: str) -> str | int | float | None:
    """The value of a cell; an empty text is an answer, other empty cells are missing.

    Where cells are not separated by commas, numbers may have one, as spreadsheets write them.
    """
    if column in _TEXTS:
        return text
    if not text:
        return None
    kind = _KINDS.get(column)
    try:
        return kind(text if separator == "," else text.replace(",", ".")) if kind else text
    except ValueError:
        return text  # of the wrong type, which is said in one line
