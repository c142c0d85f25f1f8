"""Claim: with one pass, ten times as many needles cost about twice as much.

Honest intervals take many needles (docs/statistics.md), and by the tree each of them costs the
haystack behind it once more. Measures a grid with few and with many drawn cards, by the tree and by
one pass over the plain haystack, and prints the ratios of operations and of processor time, with
how many outcomes agree. Encoding pictures is not counted.

    python -m benchmarks.many_needles [--model reference-long] [--frames 64:960:64]
                                      [--depths 0:1:0.2] [--needles 5,50] [--ways one-pass]
"""

import argparse

import numpy as np
import torch

from benchmarks.one_pass import Measured, measure
from training.world import COLORS, DIGITS, Card, draw_card
from vniah import generated_haystack, load_model
from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.grid import Grid
from vniah.needles import Needle, NeedleSet
from vniah.tasks.vniah import VisualNeedle

MOST = len(COLORS) * len(DIGITS)
_SEED = 7_000_000  # of films that no training uses


def main() -> None:
    """Measures the grid with few and with many needles, and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="reference-long")
    parser.add_argument("--frames", default="64:960:64")
    parser.add_argument("--depths", default="0:1:0.2")
    parser.add_argument("--needles", default="5,50", help=f"few and many, at most {MOST}")
    parser.add_argument("--ways", default="one-pass", help="one-pass, tree, or both")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    few, many = map(int, options.needles.split(","))
    model = load_model(options.model, device="cpu")
    grid = Grid.parse(options.frames, depths=options.depths)
    haystack = generated_haystack(grid.max_frames)
    found: dict[tuple[str, int], Measured] = {}
    for number in (few, many):
        needles = drawn_cards(number)
        samples = list(VisualNeedle().samples(grid, needles, haystack))
        shown = (haystack, needles, grid.max_frames)
        for way in options.ways.split(","):
            engine = choose_engine(model, EngineOptions(share=way))
            measure(engine, shown, samples[:1])  # encodes the pictures, and loads the kernels
            one = found[way, number] = measure(engine, shown, samples)
            right = sum(is_right for is_right, _ in one.outcomes.values())
            print(
                f"{number:3d} needles, {len(samples):6,} samples, {way}: {one.seconds:.1f} CPU "
                f"seconds, {one.flops:.2e} operations, {right:,} right"
            )
        if ("tree", number) in found and ("one-pass", number) in found:
            tree, one = found["tree", number], found["one-pass", number]
            alike = sum(one.outcomes[key][0] == tree.outcomes[key][0] for key in tree.outcomes)
            print(f"  outcomes alike: {alike:,} of {len(samples):,}")
    for way in options.ways.split(","):
        one, other = found[way, few], found[way, many]
        print(
            f"{way}: {many} needles take {other.flops / one.flops:.2f}x the operations of {few}, "
            f"{other.seconds / one.seconds:.2f}x the processor time"
        )


def drawn_cards(number: int) -> NeedleSet:
    """Different cards: of one color there may be several, with other digits."""
    needles = []
    for place in range(number):
        card = Card("card", COLORS[place % len(COLORS)], DIGITS[place // len(COLORS)])
        seed = _SEED + place
        image = draw_card(card, np.random.default_rng(seed), film_seed=seed)
        needles.append(Needle(card.needle_id, card.question, card.answer, None, image))
    return NeedleSet(f"{number} drawn cards", f"drawn cards {number}", tuple(needles))


if __name__ == "__main__":
    main()
