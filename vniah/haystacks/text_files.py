"""Reads the files of text haystacks: .txt files, and tables with a column of texts."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

from vniah.errors import HaystackError, first_line
from vniah.schema import parse_json, require_type

COLUMN = "text"
"""The column of a table that is read."""

TABLES = (".jsonl", ".parquet")
"""The suffixes of tables: of a JSON object in every line, and of Parquet."""

_MOST_BYTES = 2**30
_BATCH = 256


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
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise HaystackError(
            f"{path} is not text in UTF-8: {first_line(error)}. Convert it, or remove it."
        ) from error
    return text.lstrip("\ufeff")  # tools that write a byte order mark may write a second one


def _of_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_of_file(path).split("\n"), start=1):
        if line.strip():
            where = f"{path.name} line {number}"
            text = parse_json(line, _Row, HaystackError, where)["text"]
            if half := next(filter(_is_half, text), None):
                raise HaystackError(
                    f"{where} holds half of a character, {half!r}, as where a text was cut inside "
                    "of one; mend the text, or remove the line."
                )
            yield text


def _is_half(character: str) -> bool:
    """Whether it is one of the two numbers by which UTF-16 writes some characters."""
    return "\ud800" <= character <= "\udfff"


def _of_parquet(path: Path) -> Iterator[str]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    num_rows = num_bytes = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if COLUMN not in names:
                raise HaystackError(
                    f"{path} has no column {COLUMN!r}; it has {', '.join(names)}. Rename the one "
                    "that holds the texts."
                )
            for batch in file.iter_batches(batch_size=_BATCH, columns=[COLUMN]):
                num_bytes += batch.nbytes
                if num_bytes > _MOST_BYTES:
                    raise HaystackError(f"the text in {path} has more than {_MOST_BYTES:,} bytes.")
                for row in batch.to_pylist():
                    num_rows += 1
                    require_type(row, _Row, HaystackError, f"{path.name} row {num_rows}")
                    yield row[COLUMN]
    except (pyarrow.ArrowException, OSError) as error:
        raise HaystackError(f"{path} cannot be read as Parquet: {first_line(error)}") from error
