"""Claim: a comparison that may stop early alarms no more often, and needs fewer samples for a fall.

Simulates the nights of `benchmarks.gate`, on the same needles in both runs, with a look after each
part of the run. Prints for the same model, and for falls of 5, 10 and 30 points in all cells, how
often the comparison alarms at any look, how often at a look or when the run is complete, and the
share of the samples that it takes where it alarms (the mean over these nights).

    python -m benchmarks.stop_early [--nights 365] [--needles 12,20,50] [--icc 0.0,0.2] [--seed 0]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate import CELLS, Fall, Setting, outcomes, table_of
from vniah.analysis.compare.levels import EARLY_SHARE
from vniah.analysis.compare.rules import SIGNIFICANCE
from vniah.analysis.compare.significance import GateTests
from vniah.analysis.statistics.falls import paired_tests
from vniah.analysis.statistics.losses import losses_of
from vniah.analysis.statistics.sequential import early_test, parts_of
from vniah.analysis.statistics.table import SampleTable

PARTS = parts_of(CELLS)
FALLS = tuple(Fall(f"{points:g} in all cells", points) for points in (0.0, 0.05, 0.1, 0.3))


@dataclass(frozen=True)
class Night:
    """What became of a night.

    Attributes:
        stopped_at: the share of the samples after which the run was stopped; None if it was not.
        is_fall: whether there was an alarm, then or at the end.
    """

    stopped_at: float | None
    is_fall: bool


def simulate(fall: Fall, setting: Setting, *, whole: bool = True) -> list[Night]:
    """What becomes of each night; without ``whole`` nothing is tested at the end."""
    ends = np.cumsum([len(part) for part in PARTS]) / len(CELLS)
    found = []
    for before, after in outcomes(fall, setting):
        table = table_of(after - before)
        test = early_test(table, PARTS)
        sums = np.cumsum(test.e_values) / test.num_looks
        looks = np.flatnonzero(sums * SIGNIFICANCE * EARLY_SHARE >= 1)
        if len(looks):
            found.append(Night(float(ends[looks[0]]), True))
        else:
            rest = SIGNIFICANCE * (1 - EARLY_SHARE)
            found.append(Night(None, whole and _gate(table, after).is_fall(rest)))
    return found


def _gate(table: SampleTable, after: NDArray[np.float64]) -> GateTests:
    return GateTests(paired_tests(table), losses_of(table, after.ravel()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each number of needles and fall."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--needles", default="12,20,50")
    parser.add_argument("--icc", default="0.0,0.2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print("| needles | ICC | fall | alarm at a look | alarm at all | samples until it |")
    print("|---|---|---|---|---|---|")
    for num in map(int, options.needles.split(",")):
        for icc in map(float, options.icc.split(",")):
            setting = Setting(options.nights, num, icc, options.seed)
            for fall in FALLS:
                nights = simulate(fall, setting)
                stops = [night.stopped_at for night in nights if night.stopped_at is not None]
                early, all_in_all = len(stops) / len(nights), np.mean([n.is_fall for n in nights])
                share = f"{np.mean(stops):.2f}" if stops else "."
                row = (num, f"{icc:g}", fall.name, f"{early:.3f}", f"{all_in_all:.3f}", share)
                print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
