"""Models with a known flaw, and a needle set of letters and open answers that they know.

Needles are flat colours and the haystack is grey, so a model sees a needle by its colour. What it
says follows from what it sees and from the question, by a rule of a few lines.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vniah.answers.option_lines import find_option_lines
from vniah.protocol import FrameSegment, TextSegment, TokenSequence

OPTIONS = ("Cat", "Dog", "Fox", "Owl")
# What is on each card, by the colour of its picture.
DIGITS = {(250, 0, 0): "7", (0, 250, 0): "3", (0, 0, 250): "9", (250, 250, 0): "4"}
ANIMALS = {(250, 0, 250): "Cat", (0, 250, 250): "Dog", (250, 120, 0): "Fox", (120, 0, 250): "Owl"}
SHOWN = {**DIGITS, **ANIMALS}

Say = Callable[[Sequence[str], str], str]
"""Called with what is on the cards that are seen, in order, and with the question."""


def write_needles(folder: Path, *, letters: bool = True) -> Path:
    """Four cards with a digit, and four whose animal is asked for by its letter."""
    folder.mkdir(parents=True)
    rows = []
    for colour, shown in (SHOWN if letters else DIGITS).items():
        needle_id = f"card-{shown.lower()}"
        Image.new("RGB", (16, 16), colour).save(folder / f"{needle_id}.png")
        question = f"What is on the card of {_name(colour)}?"
        row: dict[str, Any] = {"file_name": f"{needle_id}.png", "needle_id": needle_id}
        row |= {"question": question, "answer": shown}
        if shown in OPTIONS:
            place = OPTIONS.index(shown)
            lines = "".join(f"\n{'ABCD'[k]}. {option}" for k, option in enumerate(OPTIONS))
            row |= {"question": question + lines, "answer": "ABCD"[place], "choices": OPTIONS}
        rows.append(json.dumps(row) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))
    return folder


def write_haystack(
    folder: Path, num_frames: int, colour: tuple[int, int, int] | None = None
) -> Path:
    """Greys that get lighter; or frames that all have the colour of a card."""
    folder.mkdir(parents=True)
    for k in range(num_frames):
        Image.new("RGB", (16, 16), colour or (40 + 9 * k,) * 3).save(folder / f"{k:02d}.png")
    return folder


def _name(colour: tuple[int, ...]) -> str:
    return "-".join(map(str, colour))


def _asked(question: str) -> str:
    """What is on the card that a question asks for."""
    return next(shown for colour, shown in SHOWN.items() if f" {_name(colour)}?" in question)


def _as_asked(shown: str, question: str) -> str:
    """The letter of what was seen, where the question lists options."""
    lines = find_option_lines(question)
    if lines is None:
        return shown
    return lines.letters[lines.words.index(shown)] if shown in lines.words else "?"


def honest(seen: Sequence[str], question: str) -> str:
    asked = _asked(question)
    return _as_asked(asked, question) if asked in seen else "?"


def always_c(seen: Sequence[str], question: str) -> str:
    return "C"


def odd_frame(seen: Sequence[str], question: str) -> str:
    cards = [shown for shown in seen if shown]
    return _as_asked(cards[-1], question) if cards else "?"


def from_haystack(seen: Sequence[str], question: str) -> str:
    return _as_asked(_asked(question), question) if "" in seen else "?"


def from_language(seen: Sequence[str], question: str) -> str:
    return _as_asked(_asked(question), question)


def _see(colour: np.ndarray) -> str:
    """What is on a card of that colour; nothing on a grey frame."""
    if colour.max() - colour.min() < 60:
        return ""
    return SHOWN[min(SHOWN, key=lambda known: float(np.abs(colour - np.array(known)).sum()))]


class Planted:
    """A model of the first level that says what a rule gives. Tokens are characters.

    Args:
        say: the rule.
        reads_order: whether its logits depend on the order of its frames.
    """

    revision, frame_shape = "1", (1, 3)

    def __init__(self, say: Say, *, reads_order: bool = True) -> None:
        self.name = say.__name__.replace("_", "-")
        self._say = say
        self._reads_order = reads_order

    def encode_frames(self, frames: Sequence[np.ndarray]) -> torch.Tensor:
        colours = [frame.reshape(-1, 3).mean(0) for frame in frames]
        return torch.tensor(np.stack(colours), dtype=torch.float32)[:, None]

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        asked = TextSegment(tuple(map(ord, question)))
        return TokenSequence((TextSegment((1,)), *frames, asked), tuple(map(ord, answer)))

    def answer_logits(self, sequence: TokenSequence, embeds: torch.Tensor) -> torch.Tensor:
        colours = embeds[:, 0].numpy()
        question = "".join(map(chr, sequence.segments[-1].token_ids))
        text = self._say([_see(colour) for colour in colours], question)
        logits = torch.zeros(len(sequence.answer_ids), 128)
        weights = np.arange(1, len(colours) + 1) if self._reads_order else 1
        logits[:, 0] = float((colours.sum(1) * weights).sum()) * 1e-5
        for place in range(len(sequence.answer_ids)):
            logits[place, ord(text[place]) if place < len(text) else 0] += 9.0
        return logits

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))


class PlantedChat:
    """The same rule as a model that answers in words."""

    revision = "1"

    def __init__(self, say: Say) -> None:
        self.name = f"{say.__name__.replace('_', '-')}-chat"
        self._say = say

    def answer(self, frames: Sequence[np.ndarray], question: str) -> str:
        return self._say([_see(frame.reshape(-1, 3).mean(0)) for frame in frames], question)
