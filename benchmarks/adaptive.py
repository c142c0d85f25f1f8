"""Claim: an adaptive sweep finds the effective length with a third of the operations, or less.

First replays results that are there: the cells are chosen as in a sweep, and operations counted.
Those of published tables, whose scores are those of real models, are counted for a decoder of the
shape of LongVA-7B, without its weights, with the published needles and 144 tokens a frame. Then
runs embedded models both ways, the whole grid and adaptively, into folders that a later call goes
on with, and prints both effective lengths with their intervals. Operations are those of all rounds,
each of which begins anew at the first frame, against those of one tree for the whole grid.

    python -m benchmarks.adaptive [--models reference-short,reference-long] [--precision 25%]
        [--frames 32:512:32] [--depths 0:1:0.2] [--output DIR] [--replay-only]
"""

import argparse
import tempfile
from collections.abc import Collection, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks.controls import Shape
from vniah import Grid, generated_haystack, load_model, load_needles, load_results
from vniah.analysis.statistics.effective import EffectiveLength, find_effective_length
from vniah.analysis.statistics.lengths import exact_score
from vniah.analysis.statistics.partial import LengthBounds, PartialLength, partial_lengths
from vniah.engines.inputs import compose_candidates
from vniah.engines.planning import SampleSequences, make_plan
from vniah.forward.costs import DecoderShape
from vniah.grid import Cell
from vniah.models.loading import embedded_models
from vniah.needles import NeedleSet
from vniah.options.precision import DEFAULT_PRECISION, Precision
from vniah.protocol import DecoderModel
from vniah.results import Results
from vniah.sweep.adaptive import THRESHOLD
from vniah.sweep.run import run_sweep
from vniah.sweep.search import next_cells
from vniah.tasks.vniah import VisualNeedle

RESULTS = Path(__file__).resolve().parent.parent / "results"
FRAMES_IN_ONE = {"qwen2-vl": 2}  # of the film, in one "frame" of these tables


def replay(results: Results, precision: Precision) -> tuple[LengthBounds, list[tuple[Cell, ...]]]:
    """What an adaptive sweep would have known and measured, of a whole grid."""
    rounds: list[tuple[Cell, ...]] = []
    while True:
        seen = {cell for cells in rounds for cell in cells}
        known = partial_lengths(results, among=seen) if results.samples else of_table(results, seen)
        bounds = LengthBounds(known, threshold=THRESHOLD)
        if not (cells := next_cells(bounds, precision)):
            return bounds, rounds
        rounds.append(cells)


def of_table(results: Results, seen: Collection[Cell]) -> Iterator[PartialLength]:
    """The same as `partial_lengths` of a published table, which does not know its needles."""
    scores = {found.cell: exact_score(found) or Fraction(0) for found in results.cells}
    for num_frames in sorted({cell.num_frames for cell in scores}):
        cells = tuple(sorted(cell for cell in scores if cell.num_frames == num_frames))
        yield PartialLength(num_frames, cells, {c: scores[c] for c in cells if c in seen})


def flops_of(model: DecoderModel, needles: NeedleSet, cells: Sequence[Cell]) -> int:
    """The operations of one tree over every needle in some cells."""
    task, wanted = VisualNeedle(), set(cells)
    asked = SampleSequences()
    for num_frames in sorted({cell.num_frames for cell in cells}):
        depths = sorted({cell.depth for cell in cells if cell.num_frames == num_frames})
        for sample in task.samples(Grid((num_frames,), tuple(depths)), needles, None):
            assert sample.cell in wanted
            asked.add(compose_candidates(model, sample))
    plan = make_plan(model, asked.sequences, groups=asked.groups)
    return DecoderShape.of(model.decoder).flops_of(plan.branches).total


def scaled(cells: Sequence[Cell], factor: int) -> list[Cell]:
    """Cells in frames of the film."""
    return [Cell(cell.num_frames * factor, cell.depth) for cell in cells]


def replays(precision: Precision) -> Iterator[tuple[str, ...]]:
    """A row for each published table of V-NIAH, and for each baseline of an embedded model."""
    for path in (*sorted(RESULTS.glob("published/*_vniah.json")), *sorted(RESULTS.glob("ref*"))):
        results = load_results(path)
        needles = load_needles("cards" if results.samples else "counterfactual")
        model: Any = load_model(results.name) if results.samples else Shape()
        factor = FRAMES_IN_ONE.get(path.name.partition("_")[0], 1)
        bounds, rounds = replay(results, precision)
        found, whole = bounds.find(), find_effective_length(results)
        everything = [one.cell for one in results.cells]
        full = flops_of(model, needles, scaled(everything, factor))
        some = sum(flops_of(model, needles, scaled(cells, factor)) for cells in rounds)
        yield (
            path.stem.removesuffix("_vniah"),
            whole.short[0],
            f"{found.at_least or 0}-{found.at_most or 0}",
            f"{sum(map(len, rounds))} of {len(everything)}",
            f"{len(rounds)}",
            f"{full / some:.1f}x",
        )


def runs(
    names: Sequence[str], grid: Grid, precision: Precision, output: Path
) -> Iterator[tuple[str, ...]]:
    """A row for each model, which is run both ways."""
    needles, haystack = load_needles("cards"), generated_haystack(grid.max_frames)
    for name in names:
        model = load_model(name)
        some, whole = (
            run_sweep(model, haystack, needles, grid, output=output / name / way, adaptive=how)
            for way, how in (("adaptive", precision), ("whole", None))
        )
        record = some.manifest["adaptive"]
        pair = [find_effective_length(results) for results in (whole, some)]
        yield (
            name,
            *(" / ".join(found.short) for found in pair),
            f"{len(some.cells)} of {len(whole.cells)}",
            f"{record['rounds']}",
            f"{record['flops_of_grid'] / record['flops']:.1f}x",
            "yes" if is_inside(*pair) else "no",
        )


def is_inside(whole: EffectiveLength, some: EffectiveLength) -> bool:
    """Whether the length of the adaptive sweep is in the interval of the whole grid."""
    return (whole.low or 0) <= (some.num_frames or 0) <= (whole.high or 0)


def show(heading: Sequence[str], rows: Iterator[tuple[str, ...]]) -> None:
    """Prints a table in Markdown, row by row."""
    print(f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(embedded_models()))
    parser.add_argument("--precision", default=str(DEFAULT_PRECISION))
    parser.add_argument("--frames", default="32:512:32")
    parser.add_argument("--depths", default="0:1:0.2")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--replay-only", action="store_true")
    options = parser.parse_args(arguments)
    precision = Precision.read(options.precision)
    shared = ("cells", "rounds", "operations of the whole grid")
    show(("results", "whole grid", "adaptive", *shared), replays(precision))
    if options.replay_only:
        return
    print()
    with tempfile.TemporaryDirectory() as scratch:
        output = options.output or Path(scratch)
        grid = Grid.parse(options.frames, options.depths)
        heading = ("model", "whole grid", "adaptive", *shared, "in its interval")
        show(heading, runs(options.models.split(","), grid, precision, output))


if __name__ == "__main__":
    main()
