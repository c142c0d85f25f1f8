"""Claim: tracing attention costs little, and a needle that was not found was mostly not seen.

Runs a grid on embedded models with and without --trace-attention, pass by pass in turns, so that a
busy machine is busy for both, and compares the log-probabilities. Prints the ratio of processor
times; then in how many right and wrong samples the needle was seen, and how well the largest mass
tells right samples from wrong ones: the probability that a right sample has more of it than a wrong
one (the area under the ROC curve), over all tokens of the question and the answer, and over the row
alone that predicts the answer.

    python -m benchmarks.tracing [--models reference-long,reference-short]
                                 [--frames 16,64,256,1024] [--depths 0:1:0.25] [--repeats 1]
"""

import argparse
import time

import numpy as np
import torch

from vniah import Grid, generated_haystack, load_model, load_needles
from vniah.engines.base import EngineOptions
from vniah.engines.decoder import DecoderEngine
from vniah.results import SampleResult
from vniah.results.attention import AttentionTrace
from vniah.sweep.outcomes import attention_of, result_of
from vniah.tasks.controls import plan_samples
from vniah.tasks.vniah import VisualNeedle

Found = dict[str, tuple[SampleResult, AttentionTrace | None]]


def measure(name: str, grid: Grid, *, repeats: int) -> None:
    """Prints what tracing costs on a model, and what it says."""
    model = load_model(name, device="cpu")
    haystack, needles = generated_haystack(grid.max_frames), load_needles("cards")
    task = VisualNeedle()
    samples = plan_samples(task, grid, needles, haystack, "none")
    engines = [DecoderEngine(model, EngineOptions(trace_attention=way)) for way in (False, True)]
    batches = 0
    for engine in engines:
        engine.prepare(haystack, needles, grid.max_frames)
        batches = engine.plan(samples, [True] * len(samples))
    seconds = [0.0, 0.0]
    found: list[Found] = [{}, {}]
    for repeat in range(repeats):
        for batch in range(batches):
            for way in (0, 1) if (batch + repeat) % 2 else (1, 0):
                started = time.process_time()
                for sample, outcome in engines[way].run(batch):
                    trace = attention_of(sample, outcome)
                    result = result_of(task, sample, outcome)
                    found[way][sample.sample_id] = result, trace
                    _ = result.to_json(), None if trace is None else trace.to_json()
                seconds[way] += time.process_time() - started
    difference = max(
        abs((one[0].logprob or 0) - (found[1][key][0].logprob or 0))
        for key, one in found[0].items()
    )
    print(
        f"{name}: {len(samples):,} samples, {seconds[0]:.1f} s without, {seconds[1]:.1f} s with: "
        f"{seconds[1] / seconds[0]:.3f}x; log-probabilities differ by at most {difference:.1e}"
    )
    for length in (*grid.frames, None):
        _tell(
            "all lengths" if length is None else f"{length:,} frames",
            [x for x in found[1].values() if length in (None, x[0].num_frames)],
        )


def _tell(name: str, found: list[tuple[SampleResult, AttentionTrace | None]]) -> None:
    right = np.array([bool(result.correct) for result, _ in found])
    seen = np.array([result.needle_seen == "seen" for result, _ in found])
    text = f"  {name}: seen in {seen[right].sum()} of {right.sum()} right samples"
    if not right.all():
        text += f", in {seen[~right].sum()} of {(~right).sum()} wrong ones"
    if 0 < right.sum() < len(right):
        traces = [trace for _, trace in found if trace is not None]
        whole = np.array([trace.largest for trace in traces])
        first = np.array([np.nanmax(trace.masses["first"]) for trace in traces])
        text += f"; area under the curve {_area(whole, right):.2f}, by the row of the answer "
        text += f"{_area(first, right):.2f}"
    print(text)


def _area(values: np.ndarray, right: np.ndarray) -> float:
    """The probability that a value of a right sample is larger than one of a wrong sample."""
    one, other = values[right][:, None], values[~right]
    return float(((one > other) + (one == other) / 2).mean())


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="reference-long,reference-short")
    parser.add_argument("--frames", default="16,64,256,1024")
    parser.add_argument("--depths", default="0:1:0.25")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models.split(","):
        measure(name, Grid.parse(options.frames, options.depths), repeats=options.repeats)


if __name__ == "__main__":
    main()
