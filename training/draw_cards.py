"""Draws the default needle set, ten unseen cards: `python -m training.draw_cards`."""

import argparse
import json
import math
from typing import Any

import numpy as np

from training.recipe import CARDS_DIR, RECIPE
from training.world import Card, draw_card
from vniah.haystacks.textures import NAMED_COLORS

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

DISTRACTORS = (  # only shown beside the others; nobody is asked about them
    Card("card", "green", "5"),
    Card("card", "orange", "2"),
    Card("card", "white", "8"),
    Card("card", "cyan", "1"),
    Card("sign", "circle", "yellow"),
    Card("sign", "square", "purple"),
    Card("sign", "diamond", "cyan"),
    Card("place", "tower", "63"),
    Card("place", "tent", "39"),
    Card("place", "bridge", "70"),
)

README = """\
# cards

Ten needles for the embedded reference models, 96 x 96 pixels: four cards (which digit is on the
card of this colour?), three signs (which colour has this shape?) and three places (which number is
on the plate?). Every needle has a key of its own, so each question says which one is meant.

Ten more pictures of the same kinds, with keys that no needle has, are only distractors. Those of a
needle are all others of its kind: cards by the distance of their colour from its own in RGB, the
nearest first; signs and places in the order of the file.

A sign also has a `bridge`, a question of two hops: about the card that has the colour of the sign.

`metadata.jsonl` has one record a line: `file_name`, `needle_id`, `locator`, for needles `question`,
`answer`, `distractors` and `bridge`, for the others `role` (the Hugging Face *imagefolder* layout).

Drawn by `python -m training.draw_cards` over pictures of the film that `vniah haystack make` draws,
with a seed that the training of the reference models never uses. Free of third-party material.
"""


def bridge_from(card: Card) -> dict[str, str] | None:
    """The question of two hops that begins at a sign: about the card of the sign's colour."""
    targets = [one for one in (*CARDS, *DISTRACTORS) if card.leads_to(one)]
    if not targets:
        return None
    return {
        "to": targets[0].needle_id,
        "question": card.question_of_two_hops,
        "answer": targets[0].answer,
    }


def similar_cards(card: Card) -> list[str]:
    """The ids of all other cards of its kind; those with the nearest colour first."""
    others = [one for one in (*CARDS, *DISTRACTORS) if one.kind == card.kind and one != card]
    if card.kind == "card":
        color = NAMED_COLORS[card.key]
        others.sort(key=lambda one: math.dist(NAMED_COLORS[one.key], color))
    return [one.needle_id for one in others]


def main() -> None:
    """Writes ``needles/cards``."""
    CARDS_DIR.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, card in enumerate((*CARDS, *DISTRACTORS)):
        seed = RECIPE.default_cards_seed + number
        file_name = f"{card.needle_id}.png"
        image = draw_card(card, np.random.default_rng(seed), film_seed=seed)
        image.save(CARDS_DIR / file_name, optimize=True)
        asked: dict[str, Any] = {
            "question": card.question,
            "answer": card.answer,
            "distractors": similar_cards(card),
        }
        if bridge := bridge_from(card):
            asked["bridge"] = bridge
        record = {
            "file_name": file_name,
            "needle_id": card.needle_id,
            **(asked if card in CARDS else {"role": "distractor"}),
            "locator": card.locator,
        }
        lines.append(json.dumps(record) + "\n")
    (CARDS_DIR / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    (CARDS_DIR / "README.md").write_text(README, encoding="utf-8")
    print(f"{len(CARDS)} needles in {CARDS_DIR}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
