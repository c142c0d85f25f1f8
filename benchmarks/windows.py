"""Claim: how much of the haystack has to be computed with a needle in sight depends on the model.

For each model, on branches that are drawn from a grid, one pass over the haystack with windows of
several sizes is held against the exact pass (as `vniah check --one-pass`): the share of outcomes
that agree, and the operations against the tree. The last model is one of several hops, trained so
that it reads the needle by way of other sentences (training/chains.py); it is asked about a needle
directly, and over one and two others.

    python -m benchmarks.windows [--models reference-long,...] [--frames 16,64,256] [--verify 24]
"""

import argparse

import torch

from training.chains import NAMES, WEIGHTS, ChainReader, chained_needles, chained_text
from vniah import generated_haystack, load_model, load_needles
from vniah.analysis.windows import WindowCurve
from vniah.errors import counted
from vniah.grid import Grid
from vniah.models.loading import embedded_models
from vniah.sweep.windows import measure_windows


def main() -> None:
    """Prints a line for each model and window."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(embedded_models()))
    parser.add_argument("--frames", default="16,64,256")
    parser.add_argument("--tokens", default="48,96", help="of the model of several hops")
    parser.add_argument("--verify", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid = Grid.parse(options.frames, depths="0:1:0.2")
    film, cards = generated_haystack(grid.max_frames), load_needles("cards")
    for name in filter(None, options.models.split(",")):
        model = load_model(name, device="cpu")
        show(name, measure_windows(model, film, cards, grid, verify=options.verify))
        if name == "reference-two-hops":
            found = measure_windows(model, film, cards, grid, verify=options.verify, task="bridged")
            show(f"{name}, bridged", found)
    chains, grid = ChainReader.load(WEIGHTS), Grid.parse(options.tokens, depths="0:0.8:0.1")
    text = chained_text(2 * grid.max_frames)
    for num_hops, name in enumerate(NAMES[:3], start=1):
        needles = chained_needles(name)
        found = measure_windows(chains, text, needles, grid, verify=options.verify, task="niah")
        show(f"chains, {counted(num_hops, 'hop')}", found)


def show(name: str, curve: WindowCurve) -> None:
    """Prints the agreement of each window, and what is enough."""
    shares = ", ".join(
        f"{text}: {trial.agreement.share:.2f}"
        for text, trial in zip(curve.window_texts, curve.trials, strict=True)
    )
    print(f"{name}: agreement by window of {curve.unit}: {shares}\n  {curve.verdict[0]}")


if __name__ == "__main__":
    main()
