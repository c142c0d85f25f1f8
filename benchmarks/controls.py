"""Claim: the default controls cost little, for they are suffixes of passes that run anyway.

First counts the operations of the paper's grid (200 to 3,000 frames x 6 depths x 5 needles, 144
tokens a frame) on a decoder of the shape of LongVA-7B, without its weights: with no control, with
each of the default ones, with all of these. A question has one token for every three characters,
which is more than a tokenizer makes of it. Then runs a grid of the same form on the embedded
reference model, with and without the default controls, from the first question to the last line;
encoding frames is not counted in. Both ways run in turns, pass by pass, so that a busy machine is
busy for both. Prints ratios.

    python -m benchmarks.controls [--frames 64:960:64] [--depths 0:1:0.2] [--needles counterfactual]
                                  [--count-only]
"""

import argparse
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.sweep import Found, Tally, what
from vniah import Grid, generated_haystack, load_model, load_needles
from vniah.engines.base import Engine, EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.engines.inputs import compose_candidates
from vniah.engines.planning import SampleSequences, make_plan
from vniah.forward.costs import DecoderShape
from vniah.needles import NeedleSet
from vniah.protocol import Frames, TextSegment, TokenSequence
from vniah.sweep.outcomes import result_of
from vniah.tasks import Sample
from vniah.tasks.controls import plan_samples
from vniah.tasks.vniah import VisualNeedle

PAPER = Grid.parse("200:3000:200", "0:1:0.2")
CHARACTERS_PER_TOKEN = 3
LONGVA = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 10**6,
}


class Shape:
    """A model without weights, that composes prompts of the published lengths."""

    name, revision, frame_shape = "LongVA-7B", "shape", (144, 3584)
    has_causal_positions = True

    def __init__(self) -> None:
        with torch.device("meta"):
            self.decoder = Qwen2ForCausalLM(Qwen2Config(**LONGVA)).eval()

    def encode_frames(self, frames: Sequence[object]) -> torch.Tensor:
        """Never called."""
        raise NotImplementedError

    def position_ids(self, sequence: TokenSequence) -> torch.Tensor:
        """Never called."""
        raise NotImplementedError

    def compose(self, frames: Frames, question: str, answer: str) -> TokenSequence:
        """Opening, frames, question; equal texts are equal tokens."""
        shown = Frames.of(frames)
        asked = TextSegment((*tokens(question), 1, 2, 3, 4, 5))
        return TokenSequence((TextSegment(tuple(range(14))), *shown.spans, asked), tokens(answer))


def tokens(text: str) -> tuple[int, ...]:
    """One token for every few characters."""
    parts = [text[k : k + CHARACTERS_PER_TOKEN] for k in range(0, len(text), CHARACTERS_PER_TOKEN)]
    return tuple(sum(map(ord, part)) for part in parts)


def count(needles: NeedleSet) -> None:
    """Prints the operations of the paper's grid with each control, against those without."""
    model = Shape()
    shape = DecoderShape.of(model.decoder)
    first = 0
    for controls in ("none", *VisualNeedle.controls, "default"):
        composed = SampleSequences()
        samples = plan_samples(VisualNeedle(), PAPER, needles, None, controls)
        for sample in samples:
            composed.add(compose_candidates(model, sample))
        plan = make_plan(model, composed.sequences, groups=composed.groups)
        flops = shape.flops_of(plan.branches).total
        first = first or flops
        passes = sum(1 for root in plan.branches for _ in root.passes())
        print(
            f"  {controls:16s} {len(samples):6,} samples, {passes:4,} passes: "
            f"{flops / 1e18:.3f} EFLOP, {flops / first - 1:+.2%}"
        )


def run_pass_by_pass(
    engine: Engine, samples: Sequence[Sample]
) -> Iterator[list[tuple[Sample, Found]]]:
    """Runs a whole sweep: from planning to the line of each sample."""
    task = VisualNeedle()
    for batch in range(engine.plan(samples, [True] * len(samples))):
        answered = []
        for sample, readings in engine.run(batch):
            result_of(task, sample, readings).to_json()
            answered.append((sample, what(readings[0].logits)))
        yield answered


def measure(grid: Grid, needles: NeedleSet) -> None:
    """Prints the processor time of a grid with the default controls, against that without."""
    model, haystack = (
        load_model("reference-long", device="cpu"),
        generated_haystack(grid.max_frames),
    )
    ways = {}
    for controls in ("none", "default"):
        samples = plan_samples(VisualNeedle(), grid, needles, haystack, controls)
        engine = choose_engine(model, EngineOptions())
        engine.prepare(haystack, needles, grid.max_frames)
        ways[controls] = SimpleNamespace(
            samples=samples, tally=Tally(run_pass_by_pass(engine, samples))
        )
    waiting = list(ways.values())
    while waiting:
        way = min(waiting, key=lambda way: len(way.tally.found) / len(way.samples))
        if not way.tally.step():
            waiting.remove(way)
    none, default = ways["none"].tally, ways["default"].tally
    difference = max(abs(default.found[key][1] - one[1]) for key, one in none.found.items())
    for name, tally in (("none", none), ("default", default)):
        print(
            f"  {name:16s} {len(tally.found):6,} samples: cpu x{tally.cpu / none.cpu:.3f} "
            f"({tally.cpu:.1f} s), wall x{tally.wall / none.wall:.3f}"
        )
    print(f"  largest difference of a log-probability of the test: {difference:.1e}")


def main() -> None:
    """Counts operations, then measures time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", default="64:960:64")
    parser.add_argument("--depths", default="0:1:0.2")
    parser.add_argument("--needles", default="counterfactual")
    parser.add_argument("--count-only", action="store_true")
    options = parser.parse_args()
    needles = load_needles(options.needles)
    print("operations on the paper's grid, LongVA-7B:")
    count(needles)
    if not options.count_only:
        print(f"time on the reference model, {options.frames} frames x depths {options.depths}:")
        measure(Grid.parse(options.frames, options.depths), needles)


if __name__ == "__main__":
    main()
