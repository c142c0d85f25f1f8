"""Claim: one tree for the sweep gives the same answers for less than half the work.

Runs a grid on the embedded reference model in four ways: every cell by a plain forward pass with
the logits of all positions, as the published script does; the same with `logits_to_keep`; every
cell by a prefill of its own; and all cells by the tree. Each way gets all questions at once, as in
a sweep, and takes its time from question to score: planning and looking up embeddings are counted
in, encoding frames is not. The one that is furthest behind goes next, pass by pass, so that a busy
machine is busy for all of them. Prints ratios of processor time and of wall-clock time, and whether
all ways find the same tokens. With one thread both times mean the same; with more, processor time
also has threads that wait for others, and the clock has whatever else the machine does.

    python -m benchmarks.sweep [--frames 64:960:64] [--depths 0:1:0.2 | --positions 0:960:64]
                               [--needles 2] [--ways none,tree] [--threads 1]
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from vniah import generated_haystack, load_model, load_needles
from vniah.embeddings.encode import EncodedFrames
from vniah.engines.agreement import plain_logits
from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.engines.inputs import DecoderInputs, compose_candidates
from vniah.grid import Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.scoring import LogitsScore, score_logits
from vniah.tasks import Sample
from vniah.tasks.vniah import VisualNeedle

WAYS = {
    "all": "plain forward, all logits, as published",
    "keep": "plain forward, logits_to_keep",
    "none": "prefill, every cell by itself",
    "tree": "prefill, one tree",
}


Found = tuple[tuple[int, ...], float]
"""The tokens that were predicted, and the answer's log-probability."""

Shown = tuple[Haystack, NeedleSet, int]
"""Haystack, needles, and the number of haystack frames."""


@dataclass
class Tally:
    """What one way took, and what it found so far.

    Attributes:
        passes: the way itself; each step answers some questions.
        cpu: processor seconds.
        wall: seconds by the clock.
        found: by sample_id.
    """

    passes: Iterator[list[tuple[Sample, Found]]]
    cpu: float = 0.0
    wall: float = 0.0
    found: dict[str, Found] = field(default_factory=dict)

    def step(self) -> bool:
        """Runs one pass; False if none was left."""
        wall, cpu = time.perf_counter(), time.process_time()
        answered = next(self.passes, None)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        for sample, found in answered or ():
            self.found[sample.sample_id] = found
        return answered is not None


def run_way(
    way: str, model, shown: Shown, samples: Sequence[Sample]
) -> Iterator[list[tuple[Sample, Found]]]:
    """Answers all questions in one of the ways, pass by pass."""
    if way in ("none", "tree"):
        engine = choose_engine(model, EngineOptions(share=way))
        engine.prepare(*shown)
        for batch in range(engine.plan(samples, [True] * len(samples))):
            yield [(sample, what(readings[0].logits)) for sample, readings in engine.run(batch)]
        return
    store = EncodedFrames.of(model, *shown).store
    run = all_logits if way == "all" else plain_logits
    for sample in samples:
        (sequence,) = compose_candidates(model, sample)
        logits = run(model, sequence, store)
        yield [(sample, what(score_logits(logits, sequence.answer_ids)))]


def what(score: LogitsScore) -> Found:
    """The part of a score that is compared."""
    return score.predicted_ids, score.logprob


def run_interleaved(
    ways: Sequence[str], model, shown: Shown, samples: Sequence[Sample]
) -> dict[str, Tally]:
    """All ways over all questions; the one with the fewest answers goes next."""
    tallies = {way: Tally(run_way(way, model, shown, samples)) for way in ways}
    waiting = list(tallies.values())
    while waiting:
        tally = min(waiting, key=lambda tally: len(tally.found))
        if not tally.step():
            waiting.remove(tally)
    return tallies


@torch.inference_mode()
def all_logits(model, sequence, store) -> torch.Tensor:
    """The answer's logits out of those of all positions, in fp32, as the published script does."""
    inputs = DecoderInputs(model, [sequence], store)
    hidden = inputs.embed(sequence.inputs, 0, len(inputs.positions(0)))
    logits = model.decoder(inputs_embeds=hidden[None], use_cache=False).logits.float()
    logits.argmax(-1)
    return logits[0, -len(sequence.answer_ids) :]


def main() -> None:
    """Runs the grid in all ways and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", default="64:960:64")
    parser.add_argument("--depths", default="0:1:0.2")
    parser.add_argument("--positions")
    parser.add_argument("--needles", type=int, default=2)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--threads", type=int, help="as many as torch takes, if not given")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    where = {"positions": options.positions} if options.positions else {"depths": options.depths}
    grid = Grid.parse(options.frames, **where)
    model, needles = load_model("reference-long", device="cpu"), load_needles("cards")
    haystack = generated_haystack(grid.max_frames)
    needles = needles.select(needles.ids[: options.needles])
    shown = (haystack, needles, grid.max_frames)
    samples = list(VisualNeedle().samples(grid, needles, haystack))
    ways = options.ways.split(",")
    run_interleaved(ways, model, shown, samples[:1])  # loads the kernels
    tallies = run_interleaved(ways, model, shown, samples)
    print_ratios(tallies, f"up to {grid.max_frames:,} frames x {model.frame_shape[0]} tokens")


def print_ratios(tallies: dict[str, Tally], size: str) -> None:
    """One line for each way, against the last."""
    best = list(tallies.values())[-1]
    threads = torch.get_num_threads()
    print(f"{len(best.found)} samples, {size}, threads: {threads}; times as much as the last:")
    for way, tally in tallies.items():
        pairs = [(tally.found[key], best.found[key]) for key in best.found]
        difference = max(abs(one[1] - other[1]) for one, other in pairs)
        is_equal = all(one[0] == other[0] for one, other in pairs)
        print(
            f"  {WAYS[way]:42s} cpu x{tally.cpu / best.cpu:5.2f} ({tally.cpu:6.1f} s)  "
            f"wall x{tally.wall / best.wall:5.2f} ({tally.wall:6.1f} s)  "
            f"argmax equal: {is_equal}  largest difference of log-probability {difference:.1e}"
        )


if __name__ == "__main__":
    main()
