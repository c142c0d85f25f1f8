"""The whole recipe, from drawing to the model card, or some of its stages: `python -m training`."""

import argparse
from collections.abc import Sequence

from training import align, draw, draw_cards, evaluate, export, text, tower
from training.arguments import add_names

STAGES = {
    "draw": draw.main,
    "draw_cards": draw_cards.main,
    "tower": tower.main,
    "text": text.main,
    "align": align.main,
    "export": export.main,
    "evaluate": evaluate.run,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the stages that are named, or all, in the order of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Trains the embedded reference models and writes them, with their needle set "
        "and model cards, into this checkout. Without a stage all run, one after the other: "
        "one to two hours on two cores. All settings are in training/recipe.py.",
    )
    add_names(parser, STAGES, metavar="STAGE")
    chosen = parser.parse_args(arguments).names or list(STAGES)
    for name, run in STAGES.items():
        if name in chosen:
            run()


if __name__ == "__main__":
    main()
