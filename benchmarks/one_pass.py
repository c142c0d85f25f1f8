"""Claim: haystack states that all needles share give a map at a small part of the tree's cost.

Runs a grid by the tree, and by one pass over the plain haystack into which needles and questions
are spliced, with windows of several sizes behind the needles. That is an approximation, so every
outcome is compared with the tree's. Prints ratios of processor time, of floating point operations,
and how many outcomes agree. Beside the tree's operations stand those of every sample by itself,
which is counted and not run. Encoding frames is not counted, and neither is what a run computes
exactly to verify itself.

    python -m benchmarks.one_pass [--model reference-long] [--frames 64:960:64] [--depths 0:1:0.2]
                                  [--needles 2] [--windows 0,1,4] [--threads 1]
    python -m benchmarks.one_pass --model smollm2 --tokens 512,1024 --windows 0,32
    python -m benchmarks.one_pass --all-models      # all embedded models, at the default window
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vniah import generated_haystack, load_model, load_needles
from vniah.analysis.tables import format_columns
from vniah.engines.base import EngineOptions
from vniah.engines.decoder import DecoderEngine
from vniah.engines.one_pass import OnePassEngine
from vniah.grid import Grid
from vniah.haystacks.text import open_text
from vniah.models.loading import embedded_models
from vniah.needles.numbers import number_needles
from vniah.options.approximation import DEFAULT_TEXT_WINDOW, DEFAULT_WINDOW, Approximation
from vniah.tasks import Sample
from vniah.tasks.niah import TextNeedle
from vniah.tasks.vniah import VisualNeedle

HEADING = (
    *("model", "window", "samples", "right", "agree", "difference of log-probability"),
    *("CPU: tree", "operations: tree", "by itself"),
)


def main() -> None:
    """Runs the grid by the tree and by one pass, and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--model", default="reference-long")
    models.add_argument("--all-models", action="store_true", help="all embedded ones")
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument("--frames", default="64:960:64")
    lengths.add_argument("--tokens", help="text in place of frames, for a language model")
    parser.add_argument("--distractors", default="0,3", help="of text")
    parser.add_argument("--depths", default="0:1:0.2")
    parser.add_argument("--needles", type=int, default=2)
    parser.add_argument("--windows", help="frames, or tokens, behind each needle; default 0,1,4")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.all_models and options.tokens:
        parser.error("the embedded models read frames: leave out --tokens")
    torch.set_num_threads(options.threads)
    default = DEFAULT_TEXT_WINDOW if options.tokens else DEFAULT_WINDOW
    windows = options.windows or (str(default) if options.all_models else "0,1,4")
    rows = [HEADING]
    for name in embedded_models() if options.all_models else [options.model]:
        for window in compare(name, [*map(int, windows.split(","))], options):
            rows.append(window)
            print("  ".join(window), flush=True)
    print(f"\nhow many times more than by one pass:\n{format_columns(rows)}")


def compare(name: str, windows: Sequence[int], options: argparse.Namespace):
    """A row for each window of a model, whose grid is run once by the tree."""
    model = load_model(name, device="cpu")
    shown, samples = material(model, options)
    measure(DecoderEngine(model, EngineOptions()), shown, samples[:1])  # loads the kernels
    exact = measure(DecoderEngine(model, EngineOptions()), shown, samples)
    num_right = sum(is_right for is_right, _ in exact.outcomes.values())
    for window in windows:
        settings = EngineOptions(approximation=Approximation(window))
        found = measure(OnePassEngine(model, settings), shown, samples)
        pairs = [(exact.outcomes[key], found.outcomes[key]) for key in exact.outcomes]
        num_alike = sum(one[0] == other[0] for one, other in pairs)
        differences = [abs(one[1] - other[1]) for one, other in pairs]
        yield (
            *(name, f"{window}", f"{len(samples)}", f"{num_right}"),
            f"{num_alike} ({num_alike / len(samples):.3f})",
            f"{sum(differences) / len(differences):.1e}, at most {max(differences):.1e}",
            f"{exact.seconds / found.seconds:.1f} ({exact.seconds:.1f} s, {found.seconds:.1f} s)",
            f"{exact.flops / found.flops:.1f}",
            f"{exact.flops_not_shared / found.flops:.1f}",
        )


def material(model: Any, options: argparse.Namespace):
    """Haystack, needles and number of frames, and the samples of the grid."""
    if options.tokens:
        grid = Grid.parse(options.tokens, depths=options.depths)
        needles = number_needles(options.needles)
        text = open_text(num_tokens=grid.max_frames).read_by(model, grid.max_frames)
        samples = list(TextNeedle(options.distractors).samples(grid, needles, text))
        return (text, needles, 0), samples
    grid = Grid.parse(options.frames, depths=options.depths)
    needles = load_needles("cards")
    needles = needles.select(needles.ids[: options.needles])
    shown = (generated_haystack(grid.max_frames), needles, grid.max_frames)
    return shown, list(VisualNeedle().samples(grid, needles, shown[0]))


@dataclass(frozen=True)
class Measured:
    """What an engine found.

    Attributes:
        outcomes: by sample_id, whether the answer is the argmax, and its log-probability.
        seconds: of the processor.
        flops: floating point operations.
        flops_not_shared: those of every sample by itself.
    """

    outcomes: Mapping[str, tuple[bool, float]]
    seconds: float
    flops: int
    flops_not_shared: int


def measure(engine, shown, samples: Sequence[Sample]) -> Measured:
    """Has an engine read all samples; ``shown`` are haystack, needles and number of frames."""
    started = time.process_time()
    engine.prepare(*shown)
    outcomes = {
        sample.sample_id: (readings[0].logits.correct, readings[0].logits.logprob)
        for batch in range(engine.plan(samples, [True] * len(samples)))
        for sample, readings in engine.run(batch)
    }
    seconds = time.process_time() - started
    alone = engine.describe()["flops_not_shared"]
    return Measured(outcomes, seconds, engine.planned_flops, alone)


if __name__ == "__main__":
    main()
