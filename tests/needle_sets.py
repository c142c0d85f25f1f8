"""Needle sets in memory, with all that tasks may use: distractors, locators and bridges."""

import numpy as np
from PIL import Image

from vniah.needles import Bridge, Distractor, Needle, NeedleSet
from vniah.tasks import TASKS

FRAME_TASKS = tuple(name for name in TASKS if not name.startswith(("niah", "vqa")))
"""The tasks that hide pictures; others have tests of their own (test_niah.py, test_vqa.py)."""


def picture(number: int) -> Image.Image:
    """A small picture like no other."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels)


def numbered_needles(
    count: int = 4,
    *,
    distractors: int = 3,
    has_locators: bool = True,
    has_bridges: bool = True,
) -> NeedleSet:
    """Needles n0, n1, ...; each has the next ones as distractors, and the picture ``extra``.

    Those with even numbers have a bridge to the next one.
    """
    ids = [f"n{number}" for number in range(count)]
    needles = [
        Needle(
            needle_id=own,
            question=f"Which number is on card {number}?",
            answer=str(number),
            choices=None,
            image=picture(number),
            distractors=tuple(
                (*(ids[(number + step) % count] for step in range(1, count)), "extra")[:distractors]
            ),
            locator=f"card {number}" if has_locators else None,
            bridge=_bridge(number)
            if has_bridges and number % 2 == 0 and number + 1 < count
            else None,
        )
        for number, own in enumerate(ids)
    ]
    extra = Distractor("extra", picture(999))
    return NeedleSet("numbered", "numbered", tuple(needles), (extra,))


def _bridge(number: int) -> Bridge:
    question = f"Which number is on the card that card {number} names?"
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    accepted = names[number + 1 : number + 2]
    return Bridge(f"n{number + 1}", question, str(number + 1), None, accepted)
