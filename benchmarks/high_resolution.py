"""Claim: a map of every position x every length is a matter of minutes.

Measures one drawn card at every so many frame positions of every so many lengths, by one pass, and
draws the map. Prints processor time per sample, the agreement with the branches that were run
exactly, and the largest memory. Started again on the same folder it goes on.

    python -m benchmarks.high_resolution [--model reference-long] [--frames 10:960:10]
                                         [--positions 0:959:1] [--output results/high-resolution]
"""

import argparse
import resource
import time

import torch

from benchmarks.many_needles import drawn_cards
from vniah import generated_haystack, load_model, run_sweep, save_heatmaps
from vniah.analysis.statistics.verification import verify
from vniah.grid import Grid


def main() -> None:
    """Measures the map, draws it, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="reference-long")
    parser.add_argument("--frames", default="10:960:10")
    parser.add_argument("--positions", default="0:959:1")
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--verify", type=int, default=12)
    parser.add_argument("--output", default="results/high-resolution")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    grid = Grid.parse(options.frames, positions=options.positions)
    model = load_model(options.model, device="cpu")
    started, ticks = time.perf_counter(), time.process_time()
    results = run_sweep(
        model,
        generated_haystack(grid.max_frames),
        drawn_cards(1),
        grid,
        output=options.output,
        share="one-pass",
        window=options.window,
        verify=options.verify,
        controls="none",
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - ticks
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(results.samples):,} cells, average {results.average:.4f}: {cpu:.0f} CPU seconds, "
        f"{1000 * cpu / len(results.samples):.1f} ms each, {seconds:.0f} s by the clock, at most "
        f"{peak:,.0f} MB"
    )
    found = verify(results)
    assert found is not None
    print("\n".join(found.lines))
    picture = results.path / "heatmap.png"
    save_heatmaps(results, picture)
    print(picture)


if __name__ == "__main__":
    main()
