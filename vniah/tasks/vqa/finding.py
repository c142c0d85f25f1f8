"""What a question set holds, as far as its tables and the names of files tell it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vniah.errors import HaystackError, counted, quoted
from vniah.haystacks.dataset_rows import is_dataset, parse_dataset
from vniah.haystacks.paths import explained
from vniah.paths import user_path
from vniah.tasks.vqa.data_sets import read_data_set
from vniah.tasks.vqa.questions import QuestionRow
from vniah.tasks.vqa.tables import Read, find_tables, read_map, read_tables
from vniah.tasks.vqa.video_files import VideoFiles, short_names


@dataclass(frozen=True)
class Found:
    """A set as far as its tables and the names of files tell it.

    Attributes:
        name: of the set.
        folder: holds the videos; None where a data set holds all of them.
        read: what the tables hold.
        asked: the questions whose video is there, each with its file.
        origin: as `vniah.haystacks.library.VideoLibrary.origin`.
    """

    name: str
    folder: Path | None
    read: Read
    asked: tuple[tuple[QuestionRow, Path], ...]
    origin: Mapping[str, str]


def look_through(
    source: str | Path, videos: str | Path | None, *, with_videos: bool = True
) -> tuple[Found, list[str]]:
    """What a set holds, and what is wrong with its rows and the names of its videos.

    Args:
        source: as `vniah.tasks.vqa.opening.open_questions`.
        videos: likewise.
        with_videos: as `vniah.tasks.vqa.data_sets.read_data_set`.
    """
    own = None if videos is None else _video_folder(videos)
    of_map: tuple[Path, ...]
    folder: Path | None
    held: Mapping[str, Path] = {}
    origin: Mapping[str, str] = {}
    if is_dataset(str(source)):
        data = parse_dataset(str(source))
        questions = read_data_set(data, with_videos=with_videos)
        name, read = questions.name, questions.read
        held, origin = questions.held, questions.origin
        folder = Path(data.source) if own is None and data.is_folder else own
        where, of_map = name, ()
    else:
        path = user_path(source, "a question set")
        with explained("read", path):
            read = read_tables(find_tables(path))
        name = (path.resolve().name if path.is_dir() else path.stem) or "questions"
        where, of_map = str(path), (path.parent, *([path] if path.is_dir() else []))
        folder = own or of_map[-1]
    if not read.rows and not read.faults:
        raise HaystackError(f"{where} holds no question with options.")
    if folder is None and (lacking := next((r for r in read.rows if r.video not in held), None)):
        raise HaystackError(
            f"the data set {name} names its videos, such as {quoted(lacking.video, 80)}, and does "
            "not hold them: give the folder that does behind it, --haystack datasets:... FOLDER "
            "(videos=FOLDER)"
        )
    asked, faults = _with_files(read, held, folder, of_map)
    return Found(name, folder, read, asked, origin), [*read.faults, *faults]


def _video_folder(given: str | Path) -> Path:
    folder = user_path(given, "a folder with videos")
    if not folder.is_dir():
        raise HaystackError(f"there is no folder {folder} with videos")
    return folder


def _with_files(
    read: Read, held: Mapping[str, Path], folder: Path | None, of_map: tuple[Path, ...]
) -> tuple[tuple[tuple[QuestionRow, Path], ...], list[str]]:
    """The questions with the files of their videos, and which videos there are not.

    Args:
        read: the questions.
        held: the files of videos that a data set holds.
        folder: holds the others.
        of_map: where the map of NExT-QA may lie besides.
    """
    folders = of_map if folder is None else (folder, *of_map)
    with explained("read", folder or Path()):
        files = None if folder is None else VideoFiles.under(folder)
        named = read_map(folders)
    asked: list[tuple[QuestionRow, Path]] = []
    without: Counter[tuple[str, str]] = Counter()
    known: dict[tuple[str, str], Path | str] = {}
    for row in read.rows:
        key = (row.table, row.video)  # videos of two tables may have one name
        if key not in known:
            if row.video in held:
                known[key] = held[row.video]
            else:
                assert files is not None, "else the set was refused"
                known[key] = files.find(named.get(row.video, row.video), near=row.table)
        found = known[key]
        if isinstance(found, str):
            without[row.video, found] += 1
        else:
            asked.append((row, found))
    faults = [
        f"the video {quoted(name, 80)} of {counted(number, 'question')} {reason}"
        for (name, reason), number in without.items()
    ]
    return tuple(asked), faults


def names_of(found: Found) -> Mapping[Path, str]:
    """What each video is called: as its table does, or by its path where two have that name.

    Of a whole path only so much of its end is kept as tells the video from the others.
    """
    names = {path: row.video for row, path in found.asked}
    count = Counter(names.values())
    names = {
        path: name if count[name] == 1 else _within(path, found.folder)
        for path, name in names.items()
    }
    whole = {path: PurePosixPath(name) for path, name in names.items() if Path(name).is_absolute()}
    others = {name for path, name in names.items() if path not in whole}
    return names | short_names(whole, besides=others)


def _within(path: Path, folder: Path | None) -> str:
    """The path of a file below a folder; the whole path of one that is not below it."""
    is_below = folder is not None and path.is_relative_to(folder)
    return (path.relative_to(folder) if is_below and folder is not None else path).as_posix()
