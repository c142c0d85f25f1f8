"""Claim: haystack states that all needles share give a map at a small part of the tree's cost.

Runs a grid by the tree, and by one pass over the plain haystack into which needles and questions
are spliced, with windows of several sizes behind the needles. That is an approximation, so every
outcome is compared with the tree's. Prints ratios of processor time, of floating point operations,
and how many outcomes agree. Encoding frames is not counted.

    python -m benchmarks.one_pass [--model reference-long] [--frames 64:960:64] [--depths 0:1:0.2]
                                  [--needles 2] [--windows 0,1,4] [--threads 1]
    python -m benchmarks.one_pass --model smollm2 --tokens 512,1024 --windows 0,32
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vniah import generated_haystack, load_model, load_needles
from vniah.engines.base import EngineOptions
from vniah.engines.decoder import DecoderEngine
from vniah.engines.one_pass import OnePassEngine
from vniah.grid import Grid
from vniah.haystacks.text import open_text
from vniah.needles.numbers import number_needles
from vniah.options.approximation import Approximation
from vniah.tasks import Sample
from vniah.tasks.niah import TextNeedle
from vniah.tasks.vniah import VisualNeedle


def main() -> None:
    """Runs the grid by the tree and by one pass, and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="reference-long")
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument("--frames", default="64:960:64")
    lengths.add_argument("--tokens", help="text in place of frames, for a language model")
    parser.add_argument("--distractors", default="0,3", help="of text")
    parser.add_argument("--depths", default="0:1:0.2")
    parser.add_argument("--needles", type=int, default=2)
    parser.add_argument("--windows", default="0,1,4", help="frames, or tokens, behind each needle")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model, device="cpu")
    if options.tokens:
        grid = Grid.parse(options.tokens, depths=options.depths)
        needles = number_needles(options.needles)
        text = open_text(num_tokens=grid.max_frames).read_by(model, grid.max_frames)
        shown = (text, needles, 0)
        samples = list(TextNeedle(options.distractors).samples(grid, needles, text))
    else:
        grid = Grid.parse(options.frames, depths=options.depths)
        needles = load_needles("cards")
        needles = needles.select(needles.ids[: options.needles])
        shown = (generated_haystack(grid.max_frames), needles, grid.max_frames)
        samples = list(VisualNeedle().samples(grid, needles, shown[0]))
    measure(DecoderEngine(model, EngineOptions()), shown, samples[:1])  # loads the kernels
    exact = measure(DecoderEngine(model, EngineOptions()), shown, samples)
    num_right = sum(is_right for is_right, _ in exact.outcomes.values())
    print(
        f"{len(samples)} samples on {options.model}, {num_right} right; the tree takes "
        f"{exact.seconds:.1f} CPU seconds"
    )
    for window in map(int, options.windows.split(",")):
        options = EngineOptions(approximation=Approximation(window))
        found = measure(OnePassEngine(model, options), shown, samples)
        pairs = [(exact.outcomes[name], found.outcomes[name]) for name in exact.outcomes]
        num_alike = sum(one[0] == other[0] for one, other in pairs)
        differences = [abs(one[1] - other[1]) for one, other in pairs]
        print(
            f"  window of {window:3d}: cpu / {exact.seconds / found.seconds:5.1f} "
            f"({found.seconds:.1f} s), operations / {exact.flops / found.flops:5.1f}; {num_alike} "
            f"of {len(pairs)} outcomes agree, log-probabilities differ by "
            f"{sum(differences) / len(differences):.1e}, at most {max(differences):.1e}"
        )


@dataclass(frozen=True)
class Measured:
    """What an engine found.

    Attributes:
        outcomes: by sample_id, whether the answer is the argmax, and its log-probability.
        seconds: of the processor.
        flops: floating point operations.
    """

    outcomes: Mapping[str, tuple[bool, float]]
    seconds: float
    flops: int


def measure(engine, shown, samples: Sequence[Sample]) -> Measured:
    """Has an engine read all samples; ``shown`` are haystack, needles and number of frames."""
    started = time.process_time()
    engine.prepare(*shown)
    outcomes = {
        sample.sample_id: (readings[0].logits.correct, readings[0].logits.logprob)
        for batch in range(engine.plan(samples, [True] * len(samples)))
        for sample, readings in engine.run(batch)
    }
    return Measured(outcomes, time.process_time() - started, engine.planned_flops)


if __name__ == "__main__":
    main()
