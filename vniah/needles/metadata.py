"""Rows of needle sets, from the files in which people write them."""

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from vniah.answers import strip_invisible
from vniah.errors import NeedleError, first_line, quoted
from vniah.needles.bridges import Bridge, require_bridge
from vniah.needles.clips import is_video
from vniah.needles.pictures import find_picture
from vniah.needles.texts import require_distractors, require_id, require_locator, require_texts
from vniah.schema import MOST_BYTES, parse_json, read_json, require_type

METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""The names that the imagefolder layout has for metadata; the first that is there is read."""

PUBLISHED_NAME = "dataset.json"

_MOST_ROWS = 100_000
_LISTS = ("choices", "accepted", "distractors")
_COLUMNS = (
    *("file_name", "needle_id", "id", "question", "answer", "locator", "role", "bridge"),
    *_LISTS,
)
DISTRACTOR = "distractor"
"""The ``role`` of a row that is only shown; a needle's is "needle", or none."""

# The datasets library makes the column "image" from "file_name" or "image_file_name".
_OWN_COLUMNS = frozenset({"image", "image_file_name"})

Texts = Annotated[list[str], msgspec.Meta(max_length=1000)]


class BridgeRecord(TypedDict):
    """The bridge of a needle, as `vniah.needles.Bridge`."""

    to: str
    question: str
    answer: str
    choices: NotRequired[Texts | None]
    accepted: NotRequired[Texts | None]


class NeedleRecord(TypedDict, total=False):
    """A needle as metadata describe it; other keys may stand beside these."""

    needle_id: str | None
    question: str | None
    answer: str | None
    choices: Texts | None
    accepted: Texts | None
    distractors: Texts | None
    locator: str | None
    role: str | None
    bridge: BridgeRecord | None


class ImagefolderRecord(NeedleRecord, total=False):
    """A line of metadata in the imagefolder layout."""

    file_name: str | Texts | None


class PublishedRecord(NeedleRecord, total=False):
    """An entry of ``dataset.json``."""

    path: str | Texts | None
    prompt: str | None


@dataclass(frozen=True)
class Row:
    """A needle or distractor that is not decoded yet; messages about it begin with `where`.

    Attributes:
        where: its file and line.
        needle_id: as in `vniah.needles.Needle`, like the texts.
        pictures: its file, or the bytes of one; of a clip, the video or one file for each frame.
        is_distractor: whether it is only shown; then question and answer are empty.
        bridge: its question of two hops, if it has one.
        is_for_datasets: whether the datasets library can read this row as well. It takes names of
            pictures as they stand, and no column beside them that is called like its own.
    """

    where: str
    needle_id: str
    question: str
    answer: str
    choices: tuple[str, ...] | None
    accepted: tuple[str, ...]
    distractors: tuple[str, ...]
    locator: str | None
    pictures: tuple[Path | bytes, ...]
    is_distractor: bool = False
    bridge: Bridge | None = None
    is_for_datasets: bool = True


def metadata_path(folder: Path) -> Path | None:
    """The file of metadata in the imagefolder layout, if the folder has one."""
    paths = (folder / name for name in METADATA_NAMES)
    return next((path for path in paths if path.is_file()), None)


def imagefolder_rows(metadata: Path) -> Iterator[Row]:
    """The rows of a folder in the imagefolder layout.

    Args:
        metadata: a file with one of `METADATA_NAMES`; its pictures lie beside it.

    Raises:
        NeedleError: a row is invalid; the message names its line.
    """
    read = {".jsonl": _jsonl_records, ".csv": _csv_records, ".parquet": _parquet_records}
    for where, record in read[metadata.suffix](metadata):
        require_type(record, ImagefolderRecord, NeedleError, where)
        names = _names_of(record, "file_name", where=where)
        pictures = _find_pictures(metadata.parent, names, where=f"{where}: 'file_name'")
        row = make_row(record, pictures, where=where)
        is_plain = (
            isinstance(record["file_name"], str)
            and not is_video(pictures[0])
            and str(pictures[0]) == os.path.normpath(metadata.parent / names[0])
            and _OWN_COLUMNS.isdisjoint(record)
        )
        yield replace(row, is_for_datasets=is_plain)


def published_rows(folder: Path) -> Iterator[Row]:
    """The rows of a folder in the layout published with V-NIAH.

    Raises:
        NeedleError: an entry is invalid; the message names it.
    """
    records = read_json(folder / PUBLISHED_NAME, list, NeedleError)
    for index, record in enumerate(_bounded(records, PUBLISHED_NAME)):
        where = f"{PUBLISHED_NAME} entry {index + 1}"
        require_type(record, PublishedRecord, NeedleError, where)
        names = _names_of(record, "path", where=where)
        pictures = _find_pictures(folder / "images", names, where=f"{where}: 'path'")
        # The published hub dataset was made from such a list, in this order. So both give the
        # same ids.
        yield make_row(record, pictures, where=where, question_key="prompt", default_id=str(index))


def make_row(
    record: Mapping[str, Any],
    pictures: tuple[Path | bytes, ...],
    *,
    where: str,
    question_key: str = "question",
    default_id: str | None = None,
) -> Row:
    """The row of a record of the type `NeedleRecord`.

    White space around answers, choices and locators is removed, and so are characters that nobody
    sees.

    Raises:
        NeedleError: a text is missing or invalid.
    """
    needle_id = _text_of(record, "needle_id", where=where, default=default_id)
    is_distractor = _is_distractor(record, where=where)
    question = answer = ""
    if not is_distractor:
        question = _text_of(record, question_key, where=where)
        answer = strip_invisible(_text_of(record, "answer", where=where))
    choices = tuple(map(strip_invisible, record.get("choices") or ())) or None
    accepted = tuple(map(strip_invisible, record.get("accepted") or ()))
    distractors = tuple(record.get("distractors") or ())
    locator = strip_invisible(record.get("locator") or "") or None
    try:
        require_id(needle_id)
        require_distractors(needle_id, distractors)
        require_locator(locator)
        bridge = _bridge_of(record)
        require_bridge(needle_id, bridge)
        if not is_distractor:
            require_texts(question, answer, choices, accepted)
        elif distractors or bridge:
            raise NeedleError(
                "a row with the role 'distractor' names no 'distractors' of its own, and has no "
                "'bridge'."
            )
    except NeedleError as error:
        raise NeedleError(f"{where}: {error}") from error
    return Row(
        where,
        needle_id,
        question,
        answer,
        choices,
        accepted,
        distractors,
        locator,
        pictures,
        is_distractor,
        bridge,
    )


def _bridge_of(record: Mapping[str, Any]) -> Bridge | None:
    found = record.get("bridge")
    if found is None:
        return None
    return Bridge(
        found["to"],
        found["question"],
        strip_invisible(found["answer"]),
        tuple(map(strip_invisible, found.get("choices") or ())) or None,
        tuple(map(strip_invisible, found.get("accepted") or ())),
    )


def _is_distractor(record: Mapping[str, Any], *, where: str) -> bool:
    role = record.get("role")
    if role not in (None, "needle", DISTRACTOR):
        raise NeedleError(
            f"{where}: 'role' must be 'needle' or {DISTRACTOR!r}, or left out, got "
            f"{quoted(role, 60)}."
        )
    return role == DISTRACTOR


def distinct_rows(rows: Iterable[Row], *, where: str) -> list[Row]:
    """The rows as a list.

    Raises:
        NeedleError: there is no row, two have the same id, or one names a distractor or a bridge
            that there is not.
    """
    first: dict[str, Row] = {}
    for row in rows:
        if row.needle_id in first:
            raise NeedleError(
                f"{row.where}: needle_id {row.needle_id!r} is taken by "
                f"{first[row.needle_id].where}; give every needle an id of its own."
            )
        first[row.needle_id] = row
    if not first:
        raise NeedleError(f"{where!r} has no rows; a needle set needs at least one needle.")
    for row in first.values():
        if unknown := [name for name in row.distractors if name not in first]:
            raise NeedleError(
                f"{row.where}: there is no distractor {unknown[0]!r} in this set; 'distractors' "
                "lists needle_ids of other rows."
            )
        if row.bridge is not None and row.bridge.to not in first:
            raise NeedleError(
                f"{row.where}: the bridge leads to {row.bridge.to!r}, which is not in this set; "
                "'to' is the needle_id of another row."
            )
    return list(first.values())


def with_numbers_as_text(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table, whose columns may hold whole numbers where needles have texts."""
    texts = {key: str(value) if type(value) is int else value for key, value in record.items()}
    if isinstance(ids := texts.get("distractors"), list):
        texts["distractors"] = [str(name) if type(name) is int else name for name in ids]
    if texts.get("needle_id") is None and texts.get("id") is not None:
        texts["needle_id"] = texts["id"]
    return texts


def _jsonl_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = _read_text(path).split("\n")  # splitlines() also cuts at U+2028
    for number, line in enumerate(_bounded(lines, path.name), start=1):
        if line.strip():
            where = f"{path.name} line {number}"
            yield where, parse_json(line, dict, NeedleError, where)


def _csv_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every cell is text, an empty one is missing, and lists are written as in JSON."""
    table = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    try:
        for number, cells in enumerate(_bounded(table, path.name), start=1):
            where = f"{path.name} row {number}"
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if "file_name" not in header:
                    raise NeedleError(
                        f"{where} must name the columns, one of them 'file_name', with commas "
                        f"between, got {quoted(', '.join(header), 80)}."
                    )
                if repeated := [name for name in _COLUMNS if header.count(name) > 1]:
                    raise NeedleError(f"{where}: the column {repeated[0]!r} is given twice.")
                continue
            if len(cells) != len(header):
                raise NeedleError(
                    f"{where} has {len(cells)} cells, and the first row {len(header)}; put texts "
                    "with commas in quotes."
                )
            record: dict[str, Any] = {k: v or None for k, v in zip(header, cells, strict=True)}
            for key in _LISTS:
                if record.get(key) is not None:
                    record[key] = parse_json(record[key], list, NeedleError, f"{where}: {key!r}")
            if record.get("bridge") is not None:
                record["bridge"] = parse_json(
                    record["bridge"], BridgeRecord, NeedleError, f"{where}: 'bridge'"
                )
            if record["file_name"] is not None and record["file_name"].startswith('["'):
                record["file_name"] = parse_json(
                    record["file_name"], list, NeedleError, f"{where}: 'file_name'"
                )
            yield where, with_numbers_as_text(record)
    except csv.Error as error:
        raise NeedleError(f"{path.name} row {table.line_num} is not CSV: {error}.") from error


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Only the columns that describe needles are read."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    num_rows = num_bytes = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [name for name in names if name in _COLUMNS]
            unread = dict.fromkeys(_OWN_COLUMNS.intersection(names))
            for batch in file.iter_batches(batch_size=64, columns=columns):
                num_bytes += batch.nbytes
                if num_bytes > MOST_BYTES or num_rows > _MOST_ROWS:
                    raise NeedleError(
                        f"{path.name} holds more than {_MOST_ROWS:,} rows or {MOST_BYTES:,} bytes "
                        "of text, which is no needle set."
                    )
                for record in batch.to_pylist():
                    num_rows += 1
                    texts = with_numbers_as_text(_without_nan(record))
                    yield f"{path.name} row {num_rows}", texts | unread
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise NeedleError(
            f"{str(path)!r} cannot be read as Parquet: {first_line(error)}"
        ) from error


def _without_nan(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with None for NaN, which pandas writes where a value is missing."""
    is_nan = {key: isinstance(value, float) and math.isnan(value) for key, value in record.items()}
    return {key: None if is_nan[key] else value for key, value in record.items()}


def _bounded(rows: Iterable[Any], name: str) -> Iterator[Any]:
    for number, row in enumerate(rows):
        if number > _MOST_ROWS:
            raise NeedleError(f"{name} has more than {_MOST_ROWS:,} rows, which is no needle set.")
        yield row


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise NeedleError(
                f"{str(path)!r} is larger than {MOST_BYTES:,} bytes, which is no needle set."
            )
        return content.decode("utf-8-sig")  # some editors write a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise NeedleError(f"{str(path)!r} cannot be read as UTF-8 text: {error}.") from error


def _names_of(record: Mapping[str, Any], key: str, *, where: str) -> list[str]:
    """The names of a row's files: one, or one for each frame of a clip."""
    if isinstance(record.get(key), list) and record[key]:
        return list(record[key])
    if record.get(key) == []:
        raise NeedleError(f"{where}: {key!r} is an empty list; name the pictures of the clip.")
    return [_text_of(record, key, where=where)]


def _find_pictures(folder: Path, names: list[str], *, where: str) -> tuple[Path, ...]:
    return tuple(find_picture(folder, name, where=where) for name in names)


def _text_of(record: Mapping[str, Any], key: str, *, where: str, default: str | None = None) -> str:
    value = default if record.get(key) is None else record[key]
    if value is None:
        raise NeedleError(f"{where} has no {key!r}; every needle needs one.")
    assert isinstance(value, str), "the record was checked against its type"
    return value
