"""Draws the default needle set, ten unseen cards: `python -m training.draw_cards`."""

import argparse
import json

import numpy as np

from training.recipe import CARDS_DIR, RECIPE
from training.world import Card, draw_card

CARDS = (
    Card("card", "red", "7"),
    Card("card", "blue", "3"),
    Card("card", "yellow", "9"),
    Card("card", "purple", "4"),
    Card("sign", "star", "blue"),
    Card("sign", "triangle", "green"),
    Card("sign", "cross", "orange"),
    Card("place", "house", "47"),
    Card("place", "boat", "82"),
    Card("place", "tree", "15"),
)

README = """\
# cards

Ten needles for the embedded reference models, 96 x 96 pixels: four cards (which digit is on the
card of this colour?), three signs (which colour has this shape?) and three places (which number is
on the plate?). Every needle has a key of its own, so each question says which one is meant.

`metadata.jsonl` has one record a line: `file_name`, `needle_id`, `question`, `answer`
(the Hugging Face *imagefolder* layout).

Drawn by `python -m training.draw_cards` over pictures of the film that `vniah haystack make` draws,
with a seed that the training of the reference models never uses. Free of third-party material.
"""


def main() -> None:
    """Writes ``needles/cards``."""
    CARDS_DIR.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, card in enumerate(CARDS):
        seed = RECIPE.default_cards_seed + number
        file_name = f"{card.needle_id}.png"
        image = draw_card(card, np.random.default_rng(seed), film_seed=seed)
        image.save(CARDS_DIR / file_name, optimize=True)
        record = {
            "file_name": file_name,
            "needle_id": card.needle_id,
            "question": card.question,
            "answer": card.answer,
        }
        lines.append(json.dumps(record) + "\n")
    (CARDS_DIR / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    (CARDS_DIR / "README.md").write_text(README, encoding="utf-8")
    print(f"{len(CARDS)} needles in {CARDS_DIR}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
