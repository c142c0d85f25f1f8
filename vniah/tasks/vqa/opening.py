"""Opens a question set: its tables, and the videos that they name, as one haystack."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vniah.errors import HaystackError, InputError, counted, first_line
from vniah.files import hash_text
from vniah.haystacks.library import LibraryVideo, VideoLibrary
from vniah.haystacks.paths import explained
from vniah.tasks.vqa.finding import Found, look_through, names_of
from vniah.tasks.vqa.questions import QuestionRow

SHORT_SECONDS, MEDIUM_SECONDS = 120, 900
"""A video of at most so many seconds is short, or of medium length; longer ones are long."""

_CLASSES = ("short", "medium", "long")
_MOST_NAMED = 5

OnOpened = Callable[[int, int], None]
"""Called with (videos read, videos to read)."""


@dataclass(frozen=True)
class VideoQuestion:
    """A multiple-choice question about a video of a set.

    Attributes:
        question_id: unique in its set.
        video: the place of the video in the set.
        question: without its options.
        options: their words, from 2 to 26.
        right: the places of the right options; at least one, and not all of them.
        duration: the class of the video's length, such as ``"short"``.
        question_type: None where the table names none.
    """

    question_id: str
    video: int
    question: str
    options: tuple[str, ...]
    right: tuple[int, ...]
    duration: str
    question_type: str | None = None


@dataclass(frozen=True)
class QuestionVideos(VideoLibrary):
    """The videos of a question set as a haystack, with the questions about them.

    Attributes:
        questions: in the order of the tables.
        answers: how they are answered unless the task is told otherwise: ``"letters"``, or
            ``"words"`` for a set whose models know no letters.
    """

    questions: tuple[VideoQuestion, ...] = field(default=(), repr=False)
    answers: str = "letters"

    def identity(self) -> dict[str, str]:
        """All that decides the pixels, and what is asked about them."""
        asked = [asdict(question) for question in self.questions]
        found = {**super().identity(), "kind": "questions"}
        text = json.dumps([self.answers, asked], sort_keys=True)
        return {**found, "questions_sha256": hash_text(text)}


def open_questions(
    source: str | Path,
    *,
    videos: str | Path | None = None,
    keep_damaged: bool = False,
    on_opened: OnOpened | None = None,
) -> QuestionVideos:
    """A question set with its videos, which are read as a whole, but not decoded.

    Args:
        source: a folder with a table and videos, or a table in a folder with the videos, as
            `vniah.tasks.vqa.tables.find_tables`; or ``"datasets:NAME#SPLIT"`` for a data set, of
            the hub or in a folder (`vniah.haystacks.dataset_rows`).
        videos: the folder that holds the videos, in it or in folders in it; by default that of the
            table, or of a data set that lies in a folder. A data set may hold its videos itself.
        keep_damaged: leave out questions that cannot be asked, such as those about a video that is
            missing, and read damaged videos as far as possible, instead of refusing the set. The
            notes say what is left out.
        on_opened: called as videos are read.

    Raises:
        HaystackError: there is no such set; or a row or a video of it cannot be used, and damage is
            not kept.
        InputError: the path cannot be one.
    """
    found, faults = look_through(source, videos)
    if faults and not keep_damaged:
        raise HaystackError(_refusal(found.name, faults, is_all=not found.asked, are_read=False))
    paths = list(dict.fromkeys(path for _, path in found.asked))
    names = names_of(found)
    opened: dict[Path, LibraryVideo] = {}
    for number, path in enumerate(paths):
        if on_opened is not None:
            on_opened(number, len(paths))
        try:
            with explained("read", path):
                opened[path] = LibraryVideo.of(names[path], path, keep_damaged=keep_damaged)
        except HaystackError as error:
            faults.append(first_line(error))
    if on_opened is not None:
        on_opened(len(paths), len(paths))
    if faults and not keep_damaged:
        raise HaystackError(_refusal(found.name, faults))
    asked = [(row, path) for row, path in found.asked if path in opened]
    if not asked:
        raise HaystackError(_refusal(found.name, faults, is_all=True))
    place = {path: number for number, path in enumerate(opened)}
    damage = [f"{video.path.name}: {text}" for video in opened.values() for text in video.damage]
    spelled = {name: name for name in _CLASSES}
    return QuestionVideos(
        found.name,
        tuple(opened.values()),
        keep_damaged,
        (*_notes(found, faults, num_asked=len(asked)), *damage),
        found.origin,
        questions=tuple(_question(row, place[path], opened[path], spelled) for row, path in asked),
    )


def require_questions(
    source: str | Path, *, videos: str | Path | None = None, keep_damaged: bool = False
) -> None:
    """Requires what `open_questions` does, as far as tables and the names of files tell it.

    Args:
        source: as `open_questions`.
        videos: as `open_questions`.
        keep_damaged: as `open_questions`.

    Raises:
        HaystackError: as `open_questions`.
        InputError: as `open_questions`.
    """
    found, faults = look_through(source, videos, with_videos=False)
    if faults and (not keep_damaged or not found.asked):
        raise HaystackError(_refusal(found.name, faults, is_all=not found.asked, are_read=False))


def _question(
    row: QuestionRow, place: int, video: LibraryVideo, spelled: dict[str, str]
) -> VideoQuestion:
    """The question of a row; of a class that is spelled in several ways the first spelling."""
    if isinstance(row.duration, str):
        duration = spelled.setdefault(row.duration.casefold(), row.duration)
    else:
        duration = _class_of(row.duration or video.seconds)
    return VideoQuestion(
        row.question_id,
        place,
        row.question,
        row.options,
        row.right,
        duration,
        row.question_type,
    )


def _class_of(seconds: float) -> str:
    """The class of a length, with the limits that Video-MME gives its classes.

    Its short videos have less than two minutes, those of medium length 4 to 15, and long ones 30 to
    60 minutes.
    """
    if seconds <= SHORT_SECONDS:
        return "short"
    return "medium" if seconds <= MEDIUM_SECONDS else "long"


def _refusal(
    name: str, faults: Sequence[str], *, is_all: bool = False, are_read: bool = True
) -> str:
    """Why a set is refused.

    Args:
        name: of the set.
        faults: what is wrong with it.
        is_all: whether no question is left.
        are_read: whether the videos that there are have been read, which may take long.
    """
    what = f"the question set {name} cannot be used as it is: {_listed(faults)}"
    if is_all:
        return (
            f"{what}. No question is left. A folder with the videos is given behind the set: "
            "--haystack SET FOLDER (videos=FOLDER)."
        )
    return (
        f"{what}. Mend the set, or leave out what cannot be asked: --keep-damaged "
        "(keep_damaged=True)."
        + " No video has been read yet; a damaged one is named after that."
        * (not are_read)
    )


def _notes(found: Found, faults: Sequence[str], *, num_asked: int) -> Iterable[str]:
    if faults:
        yield (
            f"of the question set {found.name} {counted(num_asked, 'question')} can be asked; left "
            f"out: {_listed(faults)}"
        )
    if found.read.num_open:
        number = sum(found.read.num_open.values())
        yield (
            f"{counted(number, 'row')} of {', '.join(found.read.num_open)} without options "
            f"{'is' if number == 1 else 'are'} left out"
        )


def _listed(faults: Sequence[str]) -> str:
    more = len(faults) - _MOST_NAMED
    return "; ".join(fault.removesuffix(".") for fault in faults[:_MOST_NAMED]) + (
        f"; and {more:,} more" if more > 0 else ""
    )


def require_question_videos(haystack: object, task: str) -> QuestionVideos:
    """The haystack, if it is a question set.

    Raises:
        InputError: it is another haystack, or none is known.
    """
    if not isinstance(haystack, QuestionVideos):
        what = "no set is opened here" if haystack is None else "this haystack has no questions"
        raise InputError(
            f"the task {task} asks the questions of a set about its videos, and {what}; vniah run "
            "and vniah show open one, that of --haystack or the drawn one"
        )
    return haystack
