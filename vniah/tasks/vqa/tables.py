"""The tables of question sets: which files of a folder they are, and their rows."""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from vniah.errors import HaystackError, first_line, quoted
from vniah.haystacks.table_files import json_lines, parquet_columns, parquet_rows, read_utf8
from vniah.schema import parse_json, read_json, require_type
from vniah.tasks.vqa.questions import LAYOUTS, QuestionRow, RowRecord, find_layout, read_row

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
OWN_NAME = "questions.jsonl"
"""A folder that holds it is read by it alone."""

MAP_NAME = "map_vid_vidorID.json"
"""The map of NExT-QA: the path of a video, without its suffix, by the name in the table."""

_NO_TABLES = frozenset({MAP_NAME, "manifest.json", "dataset_infos.json"})
_OPEN = frozenset({"video", "question", "answer"})
MOST_ROWS = 1_000_000
"""So many rows a set may have."""

_MOST_BYTES = 2**28
_OF_SEVERAL = re.compile(r"(.*)-[0-9]+-of-[0-9]+")

KNOWN_COLUMNS = frozenset(RowRecord.__annotations__)
"""The columns of all layouts."""


class Table(NamedTuple):
    """A table of any source.

    Attributes:
        name: for messages.
        stem: its name without suffix, for ids where there are several tables.
        rows: its rows with their numbers, from 1.
    """

    name: str
    stem: str
    rows: Iterable[tuple[int, dict[str, Any]]]


class Read(NamedTuple):
    """What tables hold.

    Attributes:
        rows: the questions.
        faults: why rows are no questions, one line each, which begins with the row.
        num_open: for each table the number of rows without options, where there are any.
    """

    rows: tuple[QuestionRow, ...]
    faults: tuple[str, ...]
    num_open: Mapping[str, int]


def find_tables(source: Path) -> tuple[Path, ...]:
    """The tables of a question set.

    Args:
        source: a table; or a folder, whose tables lie in it, or in a folder in it. Several tables
            that end in ``.json``, as MLVU has one for each type, are read together, and so are the
            parts of one Parquet table.

    Raises:
        HaystackError: there is no table, or there are several of which one has to be chosen.
    """
    if source.is_file() and source.suffix.lower() in TABLE_SUFFIXES:
        return (source,)
    if not source.is_dir():
        raise HaystackError(
            f"there is no folder {source} with questions and videos, nor a table {source} that "
            f"ends in {', '.join(TABLE_SUFFIXES)}."
        )
    if (source / OWN_NAME).is_file():
        return (source / OWN_NAME,)
    found = _tables_in(source) or [
        path
        for folder in sorted(path for path in source.iterdir() if path.is_dir())
        for path in _tables_in(folder)
    ]
    if not found:
        raise HaystackError(
            f"{source} holds no table of questions: {OWN_NAME}, or another file that ends in "
            f"{', '.join(TABLE_SUFFIXES)}."
        )
    kinds = {(path.suffix.lower(), *_split_of(path)) for path in found}
    if len(kinds) > 1:
        names = ", ".join(str(path.relative_to(source)) for path in found[:6])
        raise HaystackError(
            f"{source} holds several tables, {names}; name the one to read in place of the folder."
        )
    return tuple(found)


def read_tables(paths: Sequence[Path]) -> Read:
    """The questions of some files, in their order.

    Raises:
        HaystackError: a table cannot be read, its columns are not known, or it has too many rows.
    """
    return read_rows([Table(path.name, path.stem, _records(path)) for path in paths])


def read_rows(tables: Sequence[Table]) -> Read:
    """The questions of some tables, in their order.

    Raises:
        HaystackError: as `read_tables`.
    """
    rows: list[QuestionRow] = []
    faults: list[str] = []
    seen: dict[str, str] = {}
    num_open: Counter[str] = Counter()
    for table in tables:
        for number, record in table.rows:
            if len(rows) + len(faults) >= MOST_ROWS:
                raise HaystackError(f"{table.name} has more than {MOST_ROWS:,} rows.")
            where = f"{table.name} row {number}"
            layout = find_layout(record)
            if layout is None and is_open(record):
                num_open[table.name] += 1
                continue
            if layout is None:
                known = "; ".join(f"{one.name}: {', '.join(sorted(one.marks))}" for one in LAYOUTS)
                raise HaystackError(
                    f"{where} has the columns {quoted(', '.join(map(str, record)), 200)}, which "
                    f"are those of no known layout ({known})."
                )
            try:
                require_type(record, RowRecord, HaystackError, where)
                row = read_row(
                    cast("RowRecord", record),
                    layout,
                    where=where,
                    table=table.stem,
                    default_id=f"{table.stem}-{number}" if len(tables) > 1 else str(number),
                )
            except HaystackError as error:
                faults.append(first_line(error))
                continue
            except ValueError as error:
                faults.append(f"{where} {error}")
                continue
            if (other := seen.setdefault(row.question_id, where)) != where:
                faults.append(
                    f"{where} has the id {quoted(row.question_id, 60)}, which {other} has as well"
                )
                continue
            rows.append(row)
    return Read(tuple(rows), tuple(faults), num_open)


def is_open(columns: Collection[str]) -> bool:
    """Whether these are the columns of questions without options, as MLVU has some, too."""
    return set(columns) >= _OPEN


def read_map(folders: Sequence[Path]) -> Mapping[str, str]:
    """The first map of NExT-QA in some folders; empty without one."""
    for folder in folders:
        path = folder / MAP_NAME
        if path.is_file():
            return read_json(path, dict[str, str], HaystackError)
    return {}


def _tables_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TABLE_SUFFIXES
        and path.name not in _NO_TABLES
        and not path.name.startswith(".")
        and path.is_file()
    )


def _split_of(path: Path) -> tuple[str, ...]:
    """What tables that belong together have in common beside their suffix."""
    suffix, several = path.suffix.lower(), _OF_SEVERAL.fullmatch(path.stem)
    if suffix == ".json":
        return ()
    return (several[1] if several and suffix == ".parquet" else path.stem,)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table with their numbers, from 1."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from json_lines(path, dict[str, Any], most_bytes=_MOST_BYTES)
    else:
        readers = {".json": _of_json, ".csv": _of_csv, ".parquet": _of_parquet}
        yield from readers[suffix](path)


def _of_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    records = read_json(path, list[dict[str, Any]], HaystackError, most_bytes=_MOST_BYTES)
    yield from enumerate(records, start=1)


def _of_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every cell is text, an empty one is missing, and lists are written as in JSON."""
    text = read_utf8(path, most_bytes=_MOST_BYTES)
    table = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    number = 0
    try:
        for cells in table:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                continue
            number += 1
            if len(cells) != len(header):
                raise HaystackError(
                    f"{path.name} row {number} has {len(cells)} cells, and the header "
                    f"{len(header)}; put texts with commas in quotes."
                )
            record: dict[str, Any] = {k: v or None for k, v in zip(header, cells, strict=True)}
            for name in ("options", "candidates", "answer"):
                if str(record.get(name) or "").lstrip().startswith("["):
                    where = f"{path.name} row {number}: {name}"
                    record[name] = parse_json(record[name], list[Any], HaystackError, where)
            yield number, record
    except csv.Error as error:
        raise HaystackError(f"{path} cannot be read as CSV: {first_line(error)}.") from error


def _of_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    names = parquet_columns(path)
    columns = [name for name in names if name in KNOWN_COLUMNS]
    if not columns:
        yield 1, dict.fromkeys(names)  # the row whose layout is not known
        return
    yield from parquet_rows(path, columns, most_bytes=_MOST_BYTES)
