"""Needle sets in memory, with all that tasks may use: distractors, locators and bridges."""

import numpy as np
from PIL import Image

from vniah.needles import Distractor, Needle, NeedleSet


def picture(number: int) -> Image.Image:
    """A small picture like no other."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels)


def numbered_needles(
    count: int = 4, *, distractors: int = 3, has_locators: bool = True, name: str = "numbered"
) -> NeedleSet:
    """Needles n0, n1, ...; each has the next ones as distractors, and the picture ``extra``."""
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
        )
        for number, own in enumerate(ids)
    ]
    return NeedleSet(name, name, tuple(needles), (Distractor("extra", picture(999)),))
