"""Reads the files of text haystacks: .txt files, and tables with a column of texts."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

from vniah.errors import HaystackError
from vniah.haystacks.table_files import json_lines, parquet_columns, parquet_rows, read_utf8
from vniah.schema import require_type

COLUMN = "text"
"""The column of a table that is read."""

TABLES = (".jsonl", ".parquet")
"""The suffixes of tables: of a JSON object in every line, and of Parquet."""

_MOST_BYTES = 2**30


class _Row(TypedDict):
    """What is read of a row."""

    text: str


def read_text(path: Path) -> str:
    """The text of a folder of .txt files in the order of their names, of one such file, or of a
    table's column ``text`` row by row; with a blank line between files or rows.

    Raises:
        HaystackError: there is no such text, or it cannot be read; the message names the file, and
            the row.
    """
    paths = text_files(path)
    if path.is_dir() or path.suffix.lower() == ".txt":
        found: Iterator[str] = map(_of_file, paths)
    else:
        found = _of_lines(path) if path.suffix.lower() == ".jsonl" else _of_parquet(path)
    text = joined_texts(found)
    if not text:
        raise HaystackError(_no_text(path))
    return text


def joined_texts(texts: Iterable[str]) -> str:
    """Texts one after the other, with a blank line between them; those without any are left out."""
    found = (text.replace("\r\n", "\n").strip() for text in texts)
    return "\n\n".join(filter(None, found))


def text_files(path: Path) -> list[Path]:
    """The files that `read_text` reads, of which none is opened here.

    Raises:
        HaystackError: there is none, or they are too large.
    """
    if path.is_dir():
        # A folder, a pipe or a link to nothing may have such a name, too.
        named = (file for file in path.iterdir() if file.suffix.lower() == ".txt")
        paths = sorted(file for file in named if file.is_file())
    elif path.is_file() and path.suffix.lower() in (".txt", *TABLES):
        paths = [path]
    else:
        raise HaystackError(
            f"there is no folder {path} of .txt files, nor a file {path} that ends in .txt, "
            f"{' or '.join(TABLES)}. A text haystack is one of these, pydoc, or a data set, "
            "datasets:NAME#SPLIT.COLUMN."
        )
    if not paths:
        raise HaystackError(_no_text(path))
    if sum(file.stat().st_size for file in paths) > _MOST_BYTES:
        raise HaystackError(f"the text in {path} has more than {_MOST_BYTES:,} bytes.")
    return paths


def _no_text(path: Path) -> str:
    return f"{path} {'has no .txt file that holds' if path.is_dir() else 'holds no'} text."


def _of_file(path: Path) -> str:
    return read_utf8(path, most_bytes=_MOST_BYTES)


def _of_lines(path: Path) -> Iterator[str]:
    for number, row in json_lines(path, _Row, most_bytes=_MOST_BYTES):
        if half := next(filter(_is_half, row["text"]), None):
            raise HaystackError(
                f"{path.name} line {number} holds half of a character, {half!r}, as where a text "
                "was cut inside of one; mend the text, or remove the line."
            )
        yield row["text"]


def _is_half(character: str) -> bool:
    """Whether it is one of the two numbers by which UTF-16 writes some characters."""
    return "\ud800" <= character <= "\udfff"


def _of_parquet(path: Path) -> Iterator[str]:
    names = parquet_columns(path)
    if COLUMN not in names:
        raise HaystackError(
            f"{path} has no column {COLUMN!r}; it has {', '.join(names)}. Rename the one that "
            "holds the texts."
        )
    for number, row in parquet_rows(path, [COLUMN], most_bytes=_MOST_BYTES):
        require_type(row, _Row, HaystackError, f"{path.name} row {number}")
        yield row[COLUMN]
