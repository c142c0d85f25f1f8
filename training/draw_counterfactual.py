"""Draws the needle set ``counterfactual``: five pictures that contradict what one would guess.

Each has a distractor, which shows what one would guess, at another place.

Run as ``python -m training.draw_counterfactual [FOLDER]``. Needs pillow >= 10.1 (its built-in font
in any size) and numpy; the same versions draw the same pixels.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from training.counterfactual_distractors import (
    draw_forest_snowman,
    draw_juice_bottle,
    draw_plain_clock,
    draw_street_bicycle,
    draw_street_sign,
)
from training.counterfactual_scenes import (
    draw_bicycle,
    draw_bottle,
    draw_clock,
    draw_snowman,
    draw_stop_sign,
)

LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."
WORD_INSTRUCTION = "Answer the question using a single word or phrase."


@dataclass(frozen=True)
class Entry:
    """One needle: how it is drawn, and its line of metadata.jsonl."""

    draw: Callable[[], Image.Image]
    needle_id: str
    question: str
    answer: str
    locator: str
    distractor: str
    choices: tuple[str, ...] | None = None

    def metadata(self) -> dict[str, object]:
        """The line's keys and values; the options stand in the question, as models get them."""
        options = [f"{chr(ord('A') + i)}. {text}" for i, text in enumerate(self.choices or ())]
        instruction = LETTER_INSTRUCTION if self.choices else WORD_INSTRUCTION
        return {
            "file_name": f"{self.needle_id}.png",
            "needle_id": self.needle_id,
            "question": "\n".join([self.question, *options, instruction]),
            "answer": self.answer,
            "choices": None if self.choices is None else list(self.choices),
            "locator": self.locator,
            "distractors": self.distractors,
        }

    @property
    def distractors(self) -> list[str]:
        """The ids of all distractors: that of this needle, then the others as they come."""
        own = next(one for one in DISTRACTORS if one.needle_id == self.distractor)
        others = (one for one in DISTRACTORS if one is not own)
        return [one.needle_id for one in (own, *others)]


ENTRIES = (
    Entry(
        draw_stop_sign,
        "stop-sign",
        "Find the frame with a STOP sign beside a desert road. What is the color of that sign?",
        "Blue",
        "the STOP sign beside a desert road",
        "street-sign",
    ),
    Entry(
        draw_clock,
        "clock",
        "Find the frame of a clock on a brick wall. What is the highest number on its face?",
        "C",
        "the clock on a brick wall",
        "plain-clock",
        ("10", "12", "13", "24"),
    ),
    Entry(
        draw_bicycle,
        "bicycle",
        "Find the frame of a red bicycle in a meadow. What is the shape of its wheels?",
        "B",
        "the red bicycle in a meadow",
        "street-bicycle",
        ("Circle", "Triangle", "Square", "Hexagon"),
    ),
    Entry(
        draw_snowman,
        "snowman",
        "Find the frame of a snowman on the Moon. What is the snowman holding in its hand?",
        "D",
        "the snowman on the Moon",
        "forest-snowman",
        ("A broom", "A candy cane", "A shovel", "An umbrella"),
    ),
    Entry(
        draw_bottle,
        "moon-milk",
        "Find the frame with a bottle of MOON MILK. How many ml does that bottle hold?",
        "730",
        "the bottle of MOON MILK",
        "sun-juice",
    ),
)


@dataclass(frozen=True)
class ShownOnly:
    """One distractor: how it is drawn, and its line of metadata.jsonl."""

    draw: Callable[[], Image.Image]
    needle_id: str
    locator: str

    def metadata(self) -> dict[str, object]:
        """The line's keys and values."""
        return {
            "file_name": f"{self.needle_id}.png",
            "needle_id": self.needle_id,
            "role": "distractor",
            "locator": self.locator,
        }


DISTRACTORS = (
    ShownOnly(draw_street_sign, "street-sign", "the STOP sign in a street"),
    ShownOnly(draw_plain_clock, "plain-clock", "the clock on a green wall"),
    ShownOnly(draw_street_bicycle, "street-bicycle", "the blue bicycle in a street"),
    ShownOnly(draw_forest_snowman, "forest-snowman", "the snowman in a forest"),
    ShownOnly(draw_juice_bottle, "sun-juice", "the bottle of SUN JUICE"),
)


def main(folder: Path) -> None:
    """Draw the pictures into `folder` and write metadata.jsonl beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = (*ENTRIES, *DISTRACTORS)
    for entry in entries:
        entry.draw().save(folder / f"{entry.needle_id}.png", optimize=True)
    lines = [json.dumps(entry.metadata()) + "\n" for entry in entries]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "needles" / "counterfactual"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    main(parser.parse_args().folder)
