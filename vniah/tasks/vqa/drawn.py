"""A small question set that everybody can draw: cards in films of the generated world.

Every video shows two cards of the set that comes with vniah, each for two seconds. The longer a
video, the more frames it takes to see them: a card in a video of four minutes is missed with 64
frames, and found with 128. The embedded models answer the questions in words.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vniah.files import cache_dir, hash_settings, to_json, write_json
from vniah.haystacks.paths import explained
from vniah.haystacks.synthetic import GENERATOR_VERSION, draw_frame, write_pictures
from vniah.needles import Needle, load_needles
from vniah.tasks.drawing import draw, shuffled
from vniah.tasks.vqa.opening import QuestionVideos, open_questions
from vniah.tasks.vqa.tables import OWN_NAME

SECONDS = {"short": 16, "medium": 64, "long": 240}
"""The length of the videos of each class."""

DRAWN_NAME = "drawn"
DRAWN_SEED = re.compile(rf"{DRAWN_NAME}-seed([0-9]{{1,9}})")
"""The name of a drawn set, with its seed."""

_VERSION = 1
_VIDEOS_PER_CLASS = 2
_CARDS_PER_VIDEO = 2
_SECONDS_OF_CARD = 2
_NUM_OPTIONS = 4
_PICTURES_PER_SECOND = 2
_SIZE = (96, 96)
_DONE = "set.json"

OnDrawn = Callable[[int, int], None]
"""Called with (seconds drawn, seconds to draw)."""


@dataclass(frozen=True)
class _Video:
    """A video to draw.

    Attributes:
        name: of its file.
        duration: its class.
        seed: of its film.
        cards: each with the second at which it appears.
    """

    name: str
    duration: str
    seed: int
    cards: tuple[tuple[Needle, int], ...]

    @property
    def seconds(self) -> int:
        return SECONDS[self.duration]

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """All pictures, RGB uint8 ``[height, width, 3]``."""
        for number in range(self.seconds * _PICTURES_PER_SECOND):
            second = number / _PICTURES_PER_SECOND
            shown = [card for card, at in self.cards if at <= second < at + _SECONDS_OF_CARD]
            if shown:
                assert shown[0].image is not None
                yield np.array(shown[0].image.resize(_SIZE))
            else:
                yield draw_frame(seed=self.seed, milliseconds=int(1000 * second), size=_SIZE)


def drawn_questions(
    folder: Path | None = None, *, seed: int = 0, on_progress: OnDrawn | None = None
) -> QuestionVideos:
    """The drawn question set: three classes of length, two videos each, two questions on each.

    Args:
        folder: where its files are kept; by default in the user's cache. A set that is there is not
            drawn again.
        seed: another seed gives other videos.
        on_progress: called as videos are drawn.

    Raises:
        HaystackError: the folder cannot be written.
    """
    recipe = {"version": _VERSION, "generator_version": GENERATOR_VERSION, "seed": seed}
    name = f"{DRAWN_NAME}-{hash_settings(recipe)[:8]}"
    folder = cache_dir() / "questions" / name if folder is None else folder
    with explained("write", folder):
        if not (folder / _DONE).is_file():
            _draw_set(folder, seed, recipe, on_progress)
    found = open_questions(folder)
    return QuestionVideos(
        f"{DRAWN_NAME}-seed{seed}",
        found.videos,
        questions=found.questions,
        answers="words",
    )


def _draw_set(folder: Path, seed: int, recipe: dict[str, int], on_progress: OnDrawn | None) -> None:
    videos = list(_plan(seed))
    folder.mkdir(parents=True, exist_ok=True)
    total, before = sum(video.seconds for video in videos), 0
    for video in videos:

        def report(number: int, before: int = before) -> None:
            if on_progress is not None and number % _PICTURES_PER_SECOND == 0:
                on_progress(before + number // _PICTURES_PER_SECOND, total)

        write_pictures(
            folder / f"{video.name}.mp4",
            video.pictures(),
            fps=_PICTURES_PER_SECOND,
            size=_SIZE,
            on_written=report,
        )
        before += video.seconds
    lines = [to_json(row) + b"\n" for video in videos for row in _rows(video)]
    (folder / OWN_NAME).write_bytes(b"".join(lines))
    write_json(folder / _DONE, recipe)  # the last: a set without it is drawn again


def _plan(seed: int) -> Iterator[_Video]:
    cards = _cards()
    for duration, seconds in SECONDS.items():
        for number in range(_VIDEOS_PER_CLASS):
            name = f"{duration}-{number}"
            chosen = shuffled(cards, "vqa", "cards", seed, name)[:_CARDS_PER_VIDEO]
            part = seconds // _CARDS_PER_VIDEO  # each card is in a part of its own
            room = part - 2 * _SECONDS_OF_CARD
            placed = [
                (card, place * part + _SECONDS_OF_CARD + draw(room, "vqa", "at", seed, name, place))
                for place, card in enumerate(chosen)
            ]
            yield _Video(name, duration, draw(2**31, "vqa", "film", seed, name), tuple(placed))


def _cards() -> list[Needle]:
    """The cards with one digit: options of one kind, of equal length."""
    cards = load_needles("cards")
    return [card for card in cards if len(card.answer) == 1 and card.answer.isdecimal()]


def _rows(video: _Video) -> Iterator[dict[str, object]]:
    """The lines of the table."""
    digits = sorted({needle.answer for needle in _cards()})
    for card, _ in video.cards:
        others = [digit for digit in digits if digit != card.answer]
        wrong = shuffled(others, "vqa", "wrong", video.name, card.needle_id)[: _NUM_OPTIONS - 1]
        options = shuffled([card.answer, *wrong], "vqa", "order", video.name, card.needle_id)
        yield {
            "question_id": f"{video.name}-{card.needle_id}",
            "video": video.name,
            "question": card.question,
            "options": list(options),
            "answer": card.answer,
            "duration": video.duration,
            "question_type": "read a card",
        }
