"""Claim: a plan costs time and memory by spans, not by frames.

Plans one grid on the embedded reference model in two ways, each in a process of its own: with every
frame a segment of its own, and with spans of frames. Prints how many times as much processor time
and memory the first takes, and whether both are the same passes. Then plans a grid of 10,000 cells
in spans alone. What tasks ask and what the model composes are counted in; importing and loading are
not. Memory is the peak of the process above what it held before.

    python -m benchmarks.planning [--frames 100:1000:100] [--depths 0:0.9:0.1]
                                  [--many-frames 100:10000:100] [--many-depths 0:0.99:0.01]
                                  [--needles counterfactual]
    python -m benchmarks.planning --way spans --frames 10:3000:10 --positions 0:3000:1
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from vniah import Grid, load_model, load_needles
from vniah.engines.inputs import compose_candidates, segment_size
from vniah.engines.planning import SampleSequences, make_plan, path_of
from vniah.forward.prefix_tree import Branch, Path, build_tree, by_themselves, cost_of
from vniah.protocol import TokenSequence
from vniah.tasks.controls import plan_samples
from vniah.tasks.vniah import VisualNeedle

WAYS = {"frames": "frame by frame", "spans": "in spans"}


def main() -> None:
    """Plans the small grid in both ways, and the large one in spans."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--frames", default="100:1000:100")
    parser.add_argument("--depths", default="0:0.9:0.1")
    parser.add_argument("--positions")
    parser.add_argument("--many-frames", default="100:10000:100")
    parser.add_argument("--many-depths", default="0:0.99:0.01")
    parser.add_argument("--needles", default="counterfactual")
    parser.add_argument("--way", choices=WAYS, help="plan the first grid in this way only")
    options = parser.parse_args()
    if options.way:
        where = (options.frames, None if options.positions else options.depths)
        grid = Grid.parse(*where, positions=options.positions)
        print(json.dumps(measure(grid, options.needles, options.way)))
        return
    small = ["--needles", options.needles, "--frames", options.frames, "--depths", options.depths]
    one, other = (run_apart(way, small) for way in WAYS)
    is_equal = all(one[key] == other[key] for key in ("passes", "rows", "rows_alone", "pairs"))
    print(
        f"  times as much as in spans: cpu x{one['seconds'] / other['seconds']:.1f}, "
        f"memory x{one['bytes'] / other['bytes']:.1f}; same passes: {is_equal}"
    )
    many = ["--frames", options.many_frames, "--depths", options.many_depths]
    run_apart("spans", ["--needles", options.needles, *many])


def run_apart(way: str, arguments: Sequence[str]) -> dict[str, float]:
    """Measures one way in a process of its own, and prints it."""
    command = [sys.executable, "-m", "benchmarks.planning", "--way", way, *arguments]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    print(
        f"  {WAYS[way]:16s} {found['sequences']:9,} sequences, {found['passes']:7,} passes: "
        f"cpu {found['seconds']:6.2f} s, memory {found['bytes'] / 1e6:6.0f} MB"
    )
    return found


def measure(grid: Grid, needles: str, way: str) -> dict[str, float]:
    """Plans a grid; the embedded model declares that its positions need not be compared."""
    model, cards = load_model("reference-long", device="cpu"), load_needles(needles)
    before, started = peak_bytes(), time.process_time()
    asked = SampleSequences()
    for sample in plan_samples(VisualNeedle(), grid, cards, None):
        asked.add(compose_candidates(model, sample))
    if way == "spans":
        plan = make_plan(model, asked.sequences, groups=asked.groups)
        branches, alone = plan.branches, plan.alone
    else:
        paths = [frame_by_frame(path_of(sequence)) for sequence in asked.sequences]
        size = segment_size(model)
        branches, alone = build_tree(paths, size), by_themselves(paths, size, None, asked.groups)
    seconds, cost = time.process_time() - started, cost_of(branches)
    return {
        "sequences": len(asked.sequences),
        "passes": sum(1 for root in branches for _ in root.passes()),
        "segments": sum(map(num_segments, branches)),
        "rows": cost.num_tokens,
        "pairs": cost.num_pairs,
        "rows_alone": cost_of(alone).num_tokens,
        "seconds": seconds,
        "bytes": peak_bytes() - before,
    }


def frame_by_frame(path: Path) -> Path:
    """The same with every frame a segment."""
    return Path(TokenSequence(path.body, (0,)).segments, path.tail)


def num_segments(root: Branch) -> int:
    """Segments that all its passes compute."""
    return sum(len(branch.segments) for branch in root.passes())


def peak_bytes() -> int:
    """The most that the process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
