"""Data sets of the `datasets` library, of the hub or in a folder: how they are named, their rows.

A data set is named ``datasets:NAME[@REVISION][:CONFIG][#SPLIT[.COLUMN]]``. Its rows are streamed,
so that of a large one no more is read than is needed. Nothing that lies in a data set runs as code,
and no picture or video in it is decoded.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vniah.errors import HaystackError, InputError, first_line, hub_reason, quoted, shortened
from vniah.paths import user_path

PREFIX = "datasets:"
"""How the name of a data set begins."""

FORM = (
    "datasets:NAME[@REVISION][:CONFIG][#SPLIT[.COLUMN]], such as "
    "datasets:roneneldan/TinyStories#train.text"
)
_SPLIT = "train"
_PLACE = re.compile(r"(\w+)(?:\.(.+))?")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_CONFIG = "Config name is missing"  # so the library begins, and names them in the next line
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes


@dataclass(frozen=True)
class DataSet:
    """A split of a data set, or a column of it.

    Attributes:
        source: a hub id, or a folder.
        config: the name of a configuration; None for the default.
        split: the name of a split; None where the name does not say it.
        column: the name of a column; None where the name does not say it.
        revision: a commit, tag or branch of the hub; None for the newest.
    """

    source: str
    config: str | None
    split: str | None
    column: str | None
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the data set lies in a folder here."""
        return Path(self.source).is_dir()

    @property
    def name(self) -> str:
        """For people and file names."""
        name = Path(self.source).resolve().name if self.is_folder else self.source
        revision = "" if self.revision is None else f"@{self.revision}"
        config = "" if self.config is None else f":{self.config}"
        split = "" if self.split is None else f"#{self.split}"
        column = "" if self.column is None else f".{self.column}"
        return f"{name}{revision}{config}{split}{column}"


def is_dataset(source: str) -> bool:
    """True if a text names a data set."""
    return source.startswith(PREFIX)


def parse_dataset(source: str) -> DataSet:
    """What a text such as ``"datasets:roneneldan/TinyStories#train.text"`` names.

    Raises:
        InputError: it has another form, or names a revision of a folder.
        HaystackError: it names a path where there is no folder.
    """
    name, mark, place = source.removeprefix(PREFIX).rpartition("#")
    split = column = None
    if not mark:
        name = place
    elif found := _PLACE.fullmatch(place):
        split, column = found[1], found[2]
    if (mark and split is None) or not name.strip():
        raise InputError(f"a data set is named {FORM}; got {quoted(source, 100)}")
    folder, config = user_path(name, "a data set"), None
    if not folder.is_dir() and ":" in name:
        name, _, config = name.rpartition(":")
        folder = user_path(name, "a data set")
        if not config:
            raise InputError(f"a data set is named {FORM}; got {quoted(source, 100)}")
    if folder.is_dir():
        return DataSet(str(folder), config, split, column)
    name, mark, revision = name.partition("@")
    if mark and (not revision or user_path(name, "a data set").is_dir()):
        raise InputError(
            f"only a data set of the hub has revisions, and one is named behind @: {FORM}; got "
            f"{quoted(source, 100)}"
        )
    if _HUB_NAME.fullmatch(name) is None:
        raise HaystackError(
            f"there is no folder {quoted(name, 100)} with a data set, and no hub has one of this "
            f"name: a data set is named {FORM}"
        )
    return DataSet(name, config, split, column, revision or None)


@dataclass(frozen=True)
class DataRows:
    """The rows of a split.

    Attributes:
        data: the data set, with its split.
        columns: the names of its columns; None where only the rows tell them.
        of_files: those of its columns that hold files, such as videos.
        origin: what is known of where the rows are from: the name of the data set, its commit on
            the hub as ``revision``, or the ``fingerprint`` of one that was saved to a folder.
    """

    data: DataSet
    columns: tuple[str, ...] | None
    of_files: frozenset[str]
    origin: Mapping[str, str]
    _rows: Any = field(repr=False)

    def read(self, columns: Collection[str]) -> Iterator[Mapping[str, Any]]:
        """The rows one by one; of files as they are stored, ``{"path": ..., "bytes": ...}``.

        Args:
            columns: those of them that there are are read.
        """
        rows = self._rows
        if self.columns is not None:
            rows = rows.select_columns([name for name in self.columns if name in columns])
        for name, feature in (rows.features or {}).items():
            if _is_file(feature) and getattr(feature, "decode", False):
                rows = rows.cast_column(name, replace(feature, decode=False))
        yield from rows


def open_rows(data: DataSet) -> DataRows:
    """The rows of a data set; to be used inside `explained_rows`.

    Where the data set does not say its split, it is the only one.

    Raises:
        HaystackError: there is no such split, or there are several of which one has to be chosen.
        Exception: whatever the library raises where the data set cannot be had.
    """
    import datasets

    origin: dict[str, str] = {}
    if data.is_folder and any(Path(data.source, name).is_file() for name in _SAVED):
        if data.config is not None:
            raise HaystackError(
                f"{data.source} was saved by datasets, and has no configurations: leave out "
                f":{data.config}"
            )
        saved: Any = datasets.load_from_disk(data.source)
        splits = saved if isinstance(saved, dict) else {str(saved.split or _SPLIT): saved}
        if data.split is not None and data.split not in splits:
            raise HaystackError(
                f"{data.source} has no split {data.split!r}; it has {', '.join(map(str, splits))}"
            )
    else:
        builder = datasets.load_dataset_builder(data.source, data.config, revision=data.revision)
        if not data.is_folder and _COMMIT.fullmatch(str(builder.hash)):
            origin["revision"] = str(builder.hash)
        found: Any = builder.as_streaming_dataset(split=data.split)
        splits = found if data.split is None else {data.split: found}
    if data.split is None and len(splits) != 1:
        raise HaystackError(
            f"{data.name} has the splits {', '.join(map(str, splits))}: name one, {FORM}"
        )
    split = next(iter(splits)) if data.split is None else data.split
    rows, data = splits[split], replace(data, split=str(split))
    if (fingerprint := getattr(rows, "_fingerprint", None)) is not None and data.is_folder:
        origin["fingerprint"] = str(fingerprint)
    columns = None if rows.column_names is None else tuple(rows.column_names)
    features = rows.features or {}
    of_files = frozenset(name for name, feature in features.items() if _is_file(feature))
    return DataRows(data, columns, of_files, {"dataset": data.name, **origin}, rows)


def _is_file(feature: Any) -> bool:
    """Whether a column holds files: their bytes, or where they lie."""
    if isinstance(feature, dict):
        return {"bytes", "path"} == feature.keys()
    import pyarrow  # type: ignore[import-untyped]

    kind = getattr(feature, "pa_type", None)
    if not isinstance(kind, pyarrow.DataType) or not pyarrow.types.is_struct(kind):
        return False
    return {"bytes", "path"} == {kind.field(number).name for number in range(kind.num_fields)}


@contextmanager
def explained_rows(data: DataSet) -> Iterator[None]:
    """A block that opens and reads rows, whose errors, of whatever library, are one line."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # else every retry is a warning; the error says enough
    try:
        yield
    except HaystackError:
        raise
    except Exception as error:  # the client raises whatever proxies and files run into
        if str(error).startswith(_NO_CONFIG):
            _, *names = str(error).splitlines()
            raise HaystackError(
                f"{data.name} has several configurations: name one, {FORM}. The library says: "
                f"{shortened(' '.join(names[:1]), 200)}"
            ) from error
        if data.is_folder:
            raise HaystackError(
                f"{data.name} cannot be read by datasets: {first_line(error).rstrip('.')}."
            ) from error
        split = "" if data.split is None else f"the split {data.split!r} of "
        raise HaystackError(
            f"there is no folder {data.source!r}, and {split}the data set of this name could not "
            f"be read from the Hugging Face hub: {hub_reason(error)}."
        ) from error
    finally:
        logger.setLevel(level)
