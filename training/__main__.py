"""The whole recipe, from drawing to the model card: `python -m training`."""

import sys

from training import draw, draw_cards, evaluate, export, language, tower


def main() -> None:
    """Runs all stages; each goes on where it stopped."""
    sys.argv[1:] = []
    for stage in (draw, draw_cards, tower, language, export, evaluate):
        stage.main()


if __name__ == "__main__":
    main()
