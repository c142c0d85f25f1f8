"""Claim: haystack states that all needles share give a map at a small part of the tree's cost.

Runs a grid by the tree, and by one pass over the plain haystack into which needles and questions
are spliced, with windows of several sizes behind the needles. That is an approximation, so every
outcome is compared with the tree's. Prints ratios of processor time, of floating point operations,
and how many outcomes agree. Encoding frames is not counted.

    python -m benchmarks.one_pass [--model reference-long] [--frames 64:960:64] [--depths 0:1:0.2]
                                  [--needles 2] [--windows 0,1,4] [--threads 1]
"""

import argparse
import time
from collections.abc import Mapping, Sequence

import torch

from benchmarks.sweep import Shown
from vniah import generated_haystack, load_model, load_needles
from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.engines.one_pass import OnePassEngine
from vniah.grid import Grid
from vniah.tasks import Sample
from vniah.tasks.vniah import VisualNeedle

Found = Mapping[str, tuple[bool, float]]
"""By sample_id, whether the answer is the argmax, and its log-probability."""


def main() -> None:
    """Runs the grid by the tree and by one pass, and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="reference-long")
    parser.add_argument("--frames", default="64:960:64")
    parser.add_argument("--depths", default="0:1:0.2")
    parser.add_argument("--needles", type=int, default=2)
    parser.add_argument("--windows", default="0,1,4", help="frames behind each needle")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    grid = Grid.parse(options.frames, depths=options.depths)
    model, needles = load_model(options.model, device="cpu"), load_needles("cards")
    needles = needles.select(needles.ids[: options.needles])
    shown = (generated_haystack(grid.max_frames), needles, grid.max_frames)
    samples = list(VisualNeedle().samples(grid, needles, shown[0]))
    by_tree(model, shown, samples[:1])  # loads the kernels
    exact, seconds, flops = by_tree(model, shown, samples)
    print(f"{len(samples)} samples on {options.model}; the tree takes {seconds:.1f} CPU seconds")
    for window in map(int, options.windows.split(",")):
        found, own_seconds, own_flops = by_one_pass(model, shown, samples, window)
        pairs = [(exact[name], found[name]) for name in exact]
        num_alike = sum(one[0] == other[0] for one, other in pairs)
        differences = [abs(one[1] - other[1]) for one, other in pairs]
        print(
            f"  window of {window:3d} frames: cpu / {seconds / own_seconds:5.1f} "
            f"({own_seconds:.1f} s), operations / {flops / own_flops:5.1f}; {num_alike} of "
            f"{len(pairs)} outcomes agree, log-probabilities differ by "
            f"{sum(differences) / len(differences):.1e}, at most {max(differences):.1e}"
        )


def by_tree(model, shown: Shown, samples: Sequence[Sample]) -> tuple[Found, float, int]:
    """Outcomes, processor seconds and operations of the tree."""
    started = time.process_time()
    engine = choose_engine(model, EngineOptions(share="tree"))
    engine.prepare(*shown)
    found = {
        sample.sample_id: outcome(readings[0].logits)
        for batch in range(engine.plan(samples, [True] * len(samples)))
        for sample, readings in engine.run(batch)
    }
    return found, time.process_time() - started, engine.planned_flops


def by_one_pass(
    model, shown: Shown, samples: Sequence[Sample], window: int
) -> tuple[Found, float, int]:
    """Outcomes, processor seconds and operations of one pass; ``window`` is in frames."""
    started = time.process_time()
    engine = OnePassEngine(model, window=window)
    engine.prepare(*shown)
    found = {
        sample.sample_id: outcome(readings[0].logits)
        for batch in range(engine.plan(samples, [True] * len(samples)))
        for sample, readings in engine.run(batch)
    }
    return found, time.process_time() - started, engine.planned_flops


def outcome(score) -> tuple[bool, float]:
    """The part of a score that is compared."""
    return score.correct, score.logprob


if __name__ == "__main__":
    main()
