"""Reads text haystacks from data sets of the `datasets` library: of the hub, or in a folder.

A data set is named ``datasets:NAME[:CONFIG][#SPLIT[.COLUMN]]``. Its rows are streamed, so that of a
large one no more is read than a haystack can use. Nothing that lies in a data set runs as code.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vniah.errors import HaystackError, InputError, first_line, hub_reason, quoted, short_repr
from vniah.haystacks.text_files import COLUMN, joined_texts
from vniah.paths import user_path

PREFIX = "datasets:"
"""How the name of a data set begins."""

MOST_BYTES = 2**26
"""So much is read of a data set, up to the end of a row: some ten million tokens."""

_FORM = (
    "datasets:NAME[:CONFIG][#SPLIT[.COLUMN]], such as datasets:roneneldan/TinyStories#train.text"
)
_SPLIT = "train"
_PLACE = re.compile(r"(\w+)(?:\.(.+))?")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes


@dataclass(frozen=True)
class TextColumn:
    """A column of a data set.

    Attributes:
        source: a hub id, or a folder.
        config: the name of a configuration; None for the default.
        split: the name of a split.
        column: the name of the column that holds the texts.
    """

    source: str
    config: str | None
    split: str
    column: str

    @property
    def is_folder(self) -> bool:
        """Whether the data set lies in a folder here."""
        return Path(self.source).is_dir()

    @property
    def name(self) -> str:
        """For people and file names."""
        name = Path(self.source).resolve().name if self.is_folder else self.source
        config = "" if self.config is None else f":{self.config}"
        return f"{name}{config}#{self.split}.{self.column}"


def is_dataset(source: str) -> bool:
    """True if a text names a data set."""
    return source.startswith(PREFIX)


def parse_dataset(source: str) -> TextColumn:
    """What a text such as ``"datasets:roneneldan/TinyStories#train.text"`` names.

    Raises:
        InputError: it has another form.
        HaystackError: it names a path where there is no folder.
    """
    name, mark, place = source.removeprefix(PREFIX).rpartition("#")
    if not mark:
        name, place = place, _SPLIT
    found = _PLACE.fullmatch(place)
    if found is None or not name.strip():
        raise InputError(f"a text in a data set is named {_FORM}; got {quoted(source, 100)}")
    split, column = found[1], found[2] or COLUMN
    folder, config = user_path(name, "a data set"), None
    if not folder.is_dir() and ":" in name:
        name, _, config = name.rpartition(":")
        folder = user_path(name, "a data set")
        if not config:
            raise InputError(f"a text in a data set is named {_FORM}; got {quoted(source, 100)}")
    if folder.is_dir():
        return TextColumn(str(folder), config, split, column)
    if _HUB_NAME.fullmatch(name) is None:
        raise HaystackError(
            f"there is no folder {quoted(name, 100)} with a data set, and no hub has one of this "
            f"name: a text in a data set is named {_FORM}"
        )
    return TextColumn(name, config, split, column)


def read_dataset(column: TextColumn) -> str:
    """The texts of a column in the order of the rows, with a blank line between them.

    Raises:
        HaystackError: the data set cannot be had, or it has no such split, column or text; the
            message names it.
    """
    found = joined_texts(_first_texts(column))
    if not found:
        raise HaystackError(f"{column.name} holds no text.")
    return found


def require_dataset(column: TextColumn) -> None:
    """Requires what `read_dataset` does, by the first row.

    Raises:
        HaystackError: as `read_dataset`.
    """
    next(_texts(column), None)


def _first_texts(column: TextColumn) -> Iterator[str]:
    num_bytes = 0
    for text in _texts(column):
        yield text
        num_bytes += len(text.encode(errors="surrogatepass"))
        if num_bytes > MOST_BYTES:
            return


def _texts(column: TextColumn) -> Iterator[str]:
    with _explained(column):
        rows = iter(_open(column))
        number = 0
        while (row := next(rows, None)) is not None:
            number += 1
            if column.column not in row:
                raise HaystackError(
                    f"{column.name}: there is no column {column.column!r}; it has "
                    f"{', '.join(map(str, row))}. Name the one with the texts: {_FORM}"
                )
            text = row[column.column]
            if not isinstance(text, str):
                raise HaystackError(
                    f"{column.name} row {number}: expected text, got {short_repr(text)}"
                )
            yield text


def _open(column: TextColumn) -> Any:
    """The rows of a split, as they are stored: no picture in another column is decoded."""
    import datasets

    if column.is_folder and any(Path(column.source, name).is_file() for name in _SAVED):
        rows: Any = _open_saved(column, datasets.load_from_disk(column.source))
    else:
        rows = datasets.load_dataset(
            column.source, column.config, split=column.split, streaming=True
        )
    if rows.column_names is not None and column.column in rows.column_names:
        return rows.select_columns([column.column])
    return rows


def _open_saved(column: TextColumn, saved: Any) -> Any:
    """A split of what ``save_to_disk`` wrote: several splits, or one that may have a name."""
    if column.config is not None:
        raise HaystackError(
            f"{column.source} was saved by datasets, and has no configurations: leave out "
            f":{column.config}"
        )
    splits = saved if isinstance(saved, dict) else {str(saved.split or _SPLIT): saved}
    if column.split not in splits:
        raise HaystackError(
            f"{column.source} has no split {column.split!r}; it has {', '.join(map(str, splits))}"
        )
    return splits[column.split]


@contextmanager
def _explained(column: TextColumn) -> Iterator[None]:
    """A block whose errors, of whatever library, are one line."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # else every retry is a warning; the error says enough
    try:
        yield
    except HaystackError:
        raise
    except Exception as error:  # the client raises whatever proxies and files run into
        if column.is_folder:
            raise HaystackError(
                f"{column.name} cannot be read by datasets: {first_line(error).rstrip('.')}."
            ) from error
        raise HaystackError(
            f"there is no folder {column.source!r}, and the split {column.split!r} of the data set "
            f"of this name could not be read from the Hugging Face hub: {hub_reason(error)}."
        ) from error
    finally:
        logger.setLevel(level)
