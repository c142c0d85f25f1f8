"""Reads files of tables: text in UTF-8, JSON in lines, and Parquet, each within bounds."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vniah.errors import HaystackError, first_line
from vniah.schema import parse_json

T = TypeVar("T")

_BATCH = 256


def read_utf8(path: Path, *, most_bytes: int) -> str:
    """The text of a file, without byte order marks at its beginning.

    Raises:
        HaystackError: the file is larger than ``most_bytes``, or is no text in UTF-8.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise HaystackError(f"{path} is larger than {most_bytes:,} bytes.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HaystackError(
            f"{path} is not text in UTF-8: {first_line(error)}. Convert it, or remove it."
        ) from error
    return text.lstrip("\ufeff")  # tools that write a byte order mark may write a second one


def json_lines(path: Path, kind: type[T], *, most_bytes: int) -> Iterator[tuple[int, T]]:
    """What the lines of a file hold, but for empty ones, with the numbers of the lines, from 1.

    Args:
        path: the file.
        kind: the declared type of every line.
        most_bytes: as `read_utf8`.

    Raises:
        HaystackError: as `read_utf8`, or a line is no JSON of this type; the message begins with
            the name of the file and the line.
        OSError: as `read_utf8`.
    """
    for number, line in enumerate(read_utf8(path, most_bytes=most_bytes).split("\n"), start=1):
        if line.strip():
            where = f"{path.name} line {number}"
            yield number, parse_json(line, kind, HaystackError, where)


def parquet_columns(path: Path) -> list[str]:
    """The names of the columns of a Parquet file.

    Raises:
        HaystackError: it cannot be read.
    """
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            return list(file.schema_arrow.names)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def parquet_rows(
    path: Path, columns: Sequence[str], *, most_bytes: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file with their numbers, from 1.

    Args:
        path: the file.
        columns: names of columns that it has, at least one; only these are read.
        most_bytes: of all that is read, in memory.

    Raises:
        HaystackError: it cannot be read, or holds more.
    """
    import pyarrow
    from pyarrow import parquet

    number = num_bytes = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(columns)):
                num_bytes += batch.nbytes
                if num_bytes > most_bytes:
                    raise HaystackError(f"{path} holds more than {most_bytes:,} bytes.")
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> HaystackError:
    reason = first_line(error).rstrip(".")
    return HaystackError(f"{path} cannot be read as Parquet: {reason}.")
