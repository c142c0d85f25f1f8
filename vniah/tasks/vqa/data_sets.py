"""Question sets in data sets of the `datasets` library: their rows, and the videos that they hold.

A column of a data set may hold videos, as bytes or as files, or only their names. Videos that are
stored as bytes are written into the user's cache, each once. None is decoded here.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vniah.errors import HaystackError, quoted
from vniah.haystacks.dataset_rows import FORM, DataRows, DataSet, explained_rows, open_rows
from vniah.haystacks.library import store_video
from vniah.tasks.vqa.questions import VIDEO_COLUMNS, find_layout
from vniah.tasks.vqa.tables import KNOWN_COLUMNS, MOST_ROWS, Read, Table, is_open, read_rows
from vniah.tasks.vqa.video_files import short_names, whole_path, without_suffix


@dataclass(frozen=True)
class DataSetQuestions:
    """What a data set holds of a question set.

    Attributes:
        name: of the data set, with its split.
        read: the questions.
        held: the files of videos that the data set holds, by their names in the questions.
        origin: as `vniah.haystacks.dataset_rows.DataRows.origin`.
    """

    name: str
    read: Read
    held: Mapping[str, Path]
    origin: Mapping[str, str]


def read_data_set(data: DataSet, *, with_videos: bool = True) -> DataSetQuestions:
    """The questions in a data set.

    Args:
        data: the data set; its column, if it names one, is that of the videos.
        with_videos: False leaves out the columns that hold videos, which may take long to get; then
            ``held`` names a video for each row, and no file.

    Raises:
        HaystackError: the data set cannot be had; or it has no such split or column, columns of no
            known layout, or too many rows; or the user's cache cannot be written.
    """
    with explained_rows(data):
        opened = open_rows(data)
        _require_column(data, opened)
        videos = _Videos()
        rows = list(_rows(opened, videos, with_videos=with_videos))
    cells = [row[column] for row in rows for column in VIDEO_COLUMNS & row.keys()]
    sought = {str(cell).strip() for cell in cells if not isinstance(cell, _Key)}
    names = videos.names(besides=sought)
    for row in rows:
        for column in VIDEO_COLUMNS & row.keys():
            if isinstance(row[column], _Key):
                row[column] = names[row[column]]
    found = opened.data
    table = Table(found.name, str(found.split), enumerate(rows, start=1))
    held = {names[key]: path for key, path in videos.paths.items()}
    return DataSetQuestions(found.name, read_rows([table]), held, opened.origin)


class _Key(str):
    """Stands in a row for a video that the data set holds: its hash, or the path of its file."""

    __slots__ = ()


class _Videos:
    """The videos that a data set holds.

    Attributes:
        paths: their files.
    """

    def __init__(self) -> None:
        self.paths: dict[_Key, Path] = {}
        self._spelled: dict[_Key, PurePosixPath] = {}

    def take(self, cell: Mapping[str, Any]) -> str | None:
        """The key of a video; the name of one that has to be found, None if nothing names it."""
        spelled, content = cell.get("path"), cell.get("bytes")
        name = _inner_path(str(spelled or ""))
        if isinstance(content, bytes):
            path = store_video(content, PurePosixPath(name).suffix)
            return self._keep(_Key(path.stem), path, name)
        path_there = whole_path(name)
        if path_there is not None:
            return self._keep(_Key(path_there), path_there, name)
        return name or None

    def take_named(self, name: str) -> str:
        """The key of a video that a whole path names; the name of one that has to be found."""
        path = whole_path(name)
        return name if path is None else self._keep(_Key(path), path, name)

    def take_unread(self, number: int) -> str:
        """A key for the video of a row, of which nothing is read."""
        return self._keep(_Key(number), Path(), f"row {number}")

    def _keep(self, key: _Key, path: Path, name: str) -> _Key:
        self.paths[key] = path
        self._spelled.setdefault(key, PurePosixPath(name))
        return key

    def names(self, *, besides: Collection[str]) -> dict[_Key, str]:
        """What each video is called, as `vniah.tasks.vqa.video_files.short_names`.

        Videos that are stored as bytes under one path, or under none, have a part of their hash in
        their names.

        Args:
            besides: the names of videos that have to be found, which none of these gets.
        """
        names = short_names(self._spelled, besides=besides)
        return names | {
            key: f"{without_suffix(path).name or 'video'}-{key[:12]}"
            for key, path in self._spelled.items()
            if key not in names
        }


def _rows(opened: DataRows, videos: _Videos, *, with_videos: bool) -> Iterator[dict[str, Any]]:
    """The rows, with the columns that are read; for videos that they hold there are keys."""
    own = opened.data.column
    wanted = {*KNOWN_COLUMNS, *([] if own is None else [own])}
    unread: set[str] = set()
    if opened.columns is not None:
        named = own or _video_column(opened.columns)
        if named is None:
            yield dict.fromkeys(opened.columns)  # the row whose layout is not known
            return
        wanted -= opened.of_files - {named}
        unread = set() if with_videos else {named} & opened.of_files
    for number, record in enumerate(opened.read(wanted - unread), start=1):
        if number > MOST_ROWS:
            raise HaystackError(f"{opened.data.name} has more than {MOST_ROWS:,} rows.")
        row = dict(record) | {column: videos.take_unread(number) for column in unread}
        if own is not None:
            if own not in row:
                raise _no_column(opened.data, row)
            row |= dict.fromkeys({"video", *(VIDEO_COLUMNS & row.keys())}, row[own])
        for column in VIDEO_COLUMNS & row.keys():
            if isinstance(row[column], Mapping):
                row[column] = videos.take(row[column])
            elif isinstance(row[column], str):
                row[column] = videos.take_named(row[column])
        yield row


def _video_column(columns: Iterable[str]) -> str | None:
    """The column that names the videos, of a known layout or of questions without options."""
    if (layout := find_layout(dict.fromkeys(columns))) is not None:
        return layout.video
    return "video" if is_open(set(columns)) else None


def _require_column(data: DataSet, opened: DataRows) -> None:
    if data.column is not None and opened.columns is not None and data.column not in opened.columns:
        raise _no_column(data, opened.columns)


def _no_column(data: DataSet, columns: Iterable[str]) -> HaystackError:
    return HaystackError(
        f"{data.name}: there is no column {data.column!r}; it has the columns "
        f"{quoted(', '.join(map(str, columns)), 200)}. Name the one with the videos, or none: "
        f"{FORM}"
    )


def _inner_path(spelled: str) -> str:
    """The path of a file without the archive or address in which it lies.

    The library writes ``zip://videos/a.mp4::/data/videos.zip`` for a file in an archive.
    """
    first = spelled.split("::")[0]
    _, mark, inner = first.partition("://")
    return inner if mark else first
