"""Makes small question sets, and a model that sees which pictures of a video it is shown."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from videos import at_rate, read_number, write_video

from vniah.answers.option_lines import find_option_lines
from vniah.protocol import FrameSegment, TextSegment, TokenSequence

RATE = 10


def write_clip(path: Path, num_pictures: int) -> Path:
    """A video whose picture i shows the number i, at ten pictures a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, at_rate(RATE, num_pictures), last_seconds=1 / RATE)


def row(video: str, question_id: str, options: Sequence[Any], answer: Any, **more: Any) -> dict:
    """A line of the plain layout."""
    found = {"video": video, "question_id": question_id, "question": "Which number is shown?"}
    return found | {"options": list(options), "answer": answer} | more


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_set(folder: Path) -> Path:
    """Two videos, of 12 and of 40 pictures, and five questions about them.

    ``first`` is seen with any number of frames, ``middle`` in the twelve pictures of ``a`` with 4
    frames, ``late`` in the forty of ``b`` with 14 or more, ``never`` is in neither.
    """
    write_clip(folder / "videos" / "a.mp4", 12)
    write_clip(folder / "videos" / "b.mp4", 40)
    rows = [
        row("a", "first", [90, 91, 0, 93], "0", duration="short"),
        row("a", "middle", [7, 91, 92, 93], "A", duration="short"),
        row("a", "never", [90, 91, 92, 93], "B", duration="short"),
        row("b", "last", ["A. 39", "B. 91"], "A. 39", duration="long"),
        row("b", "late", [90, 91, 92, 93, 3], "E", duration="long", question_type="late"),
    ]
    write_lines(folder / "questions.jsonl", rows)
    return folder


class SeesNumbers:
    """Answers with the letter of the first option that it was shown; with A if there is none.

    Tokens are characters. It counts the pictures that it encodes.
    """

    name, revision, frame_shape = "sees-numbers", "1", (1, 1)

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def encode_frames(self, frames: Sequence[np.ndarray]) -> torch.Tensor:
        numbers = [read_number(frame) for frame in frames]
        self.encoded += numbers
        return torch.tensor(numbers, dtype=torch.float32)[:, None, None]

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        asked = TextSegment(tuple(map(ord, question)))
        return TokenSequence((TextSegment((1,)), *frames, asked), tuple(map(ord, answer)))

    def answer_logits(self, sequence: TokenSequence, embeds: torch.Tensor) -> torch.Tensor:
        question = "".join(map(chr, sequence.segments[-1].token_ids))
        said = self.say([int(number) for number in embeds.flatten()], question)
        logits = torch.zeros(len(sequence.answer_ids), 128)
        for place, letter in enumerate(said[: len(logits)]):
            logits[place, ord(letter)] = 9.0
        return logits

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    @staticmethod
    def say(seen: Sequence[int], question: str) -> str:
        lines = find_option_lines(question)
        assert lines is not None
        pairs = zip(lines.letters, lines.words, strict=True)
        return next((letter for letter, word in pairs if int(word) in seen), "A")


class SaysNumbers(SeesNumbers):
    """The same as a model that answers in words."""

    def answer(self, frames: Sequence[np.ndarray], question: str) -> str:
        return self.say([read_number(frame) for frame in frames], question)


def make_model() -> SeesNumbers:
    """For the command line: ``--model tests.question_sets:make_model``."""
    return SeesNumbers()
