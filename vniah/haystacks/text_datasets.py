"""Reads text haystacks from data sets of the `datasets` library: the texts of a column.

A data set is named as in `vniah.haystacks.dataset_rows`; by default the column ``text`` of the
split ``train`` is read.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace

from vniah.errors import HaystackError, short_repr
from vniah.haystacks.dataset_rows import FORM, DataSet, explained_rows, open_rows, parse_dataset
from vniah.haystacks.text_files import COLUMN, joined_texts

MOST_BYTES = 2**26
"""So much is read of a data set, up to the end of a row: some ten million tokens."""

_SPLIT = "train"


def parse_column(source: str) -> DataSet:
    """The column that a text such as ``"datasets:roneneldan/TinyStories#train.text"`` names.

    Raises:
        InputError: it has another form.
        HaystackError: it names a path where there is no folder.
    """
    found = parse_dataset(source)
    return replace(found, split=found.split or _SPLIT, column=found.column or COLUMN)


def read_dataset(data: DataSet) -> str:
    """The texts of a column in the order of the rows, with a blank line between them.

    Raises:
        HaystackError: the data set cannot be had, or it has no such split, column or text; the
            message names it.
    """
    found = joined_texts(_first_texts(data))
    if not found:
        raise HaystackError(f"{data.name} holds no text.")
    return found


def require_dataset(data: DataSet) -> None:
    """Requires what `read_dataset` does, by the first row.

    Raises:
        HaystackError: as `read_dataset`.
    """
    next(_texts(data), None)


def _first_texts(data: DataSet) -> Iterator[str]:
    num_bytes = 0
    for text in _texts(data):
        yield text
        num_bytes += len(text.encode(errors="surrogatepass"))
        if num_bytes > MOST_BYTES:
            return


def _texts(data: DataSet) -> Iterator[str]:
    assert data.column is not None, "parse_column names a column"
    with explained_rows(data):
        opened = open_rows(data)
        if opened.columns is not None:
            _require_column(data, opened.columns)
        for number, row in enumerate(opened.read([data.column]), start=1):
            _require_column(data, row)
            text = row[data.column]
            if not isinstance(text, str):
                raise HaystackError(
                    f"{data.name} row {number}: expected text, got {short_repr(text)}"
                )
            yield text


def _require_column(data: DataSet, columns: Collection[str]) -> None:
    if data.column not in columns:
        raise HaystackError(
            f"{data.name}: there is no column {data.column!r}; it has "
            f"{', '.join(map(str, columns))}. Name the one with the texts: {FORM}"
        )
