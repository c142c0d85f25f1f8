"""Claim: the default gate of `vniah compare` alarms rarely, and finds a fall of 10 points.

Simulates nights in which a model is compared with an earlier one, on needles of different
difficulty: each needle has an effect that all its samples share, and another one in each run (a
probit model). Prints the share of nights with an alarm: for a model that is the same, for a fall of
10 points that is spread over all cells, and for a fall of 10 points, or to nothing, in two cells.

    python -m benchmarks.gate [--nights 365] [--needles 5,10,20,50] [--icc 0.0,0.2]
        [--own-share 0.1] [--seed 0]
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from vniah.analysis.compare.rules import SIGNIFICANCE
from vniah.analysis.compare.significance import GateTests
from vniah.analysis.statistics.falls import paired_tests, unpaired_tests
from vniah.analysis.statistics.losses import losses_of
from vniah.analysis.statistics.table import SampleTable
from vniah.grid import Cell

LENGTHS, DEPTHS, MEAN = 15, 6, 0.85
CELLS = tuple(
    Cell(64 * length, Fraction(depth, DEPTHS - 1))
    for length in range(1, LENGTHS + 1)
    for depth in range(DEPTHS)
)
LEVELS = np.repeat(np.linspace(0.97, 2 * MEAN - 0.97, LENGTHS), DEPTHS)
OWN_SHARE = 0.1


@dataclass(frozen=True)
class Fall:
    """What is planted.

    Attributes:
        name: what it is, for tables.
        points: how many points the score falls.
        num_cells: in how many cells, the first ones; None for all.
        num_needles: of how many needles, the first ones; None for all.
    """

    name: str
    points: float
    num_cells: int | None = None
    num_needles: int | None = None


FALLS = (
    Fall("the same model", 0.0),
    Fall("0.1 in all cells", 0.1),
    Fall("to 0 in two cells", 1.0, 2),
    Fall("0.5 in two cells", 0.5, 2),
    Fall("one length to 0", 1.0, DEPTHS),
    Fall("one needle lost", 1.0, None, 1),
    Fall("all needles but one lost", 1.0, None, -1),
)


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    Attributes:
        num_nights: number of nights.
        num_needles: number of needles of each run; others every night.
        icc: the share of the variance of a sample that is its needle's.
        seed: of the simulation.
        is_paired: whether both runs of a night have the same needles.
        own_share: the share of a needle's effect that is another one in each run.
    """

    num_nights: int
    num_needles: int
    icc: float
    seed: int
    is_paired: bool = True
    own_share: float = OWN_SHARE


def nights(fall: Fall, setting: Setting) -> Iterator[GateTests]:
    """The tests of each night."""
    for before, after in outcomes(fall, setting):
        if setting.is_paired:
            changes = table_of(after - before)
            yield GateTests(paired_tests(changes), losses_of(changes, after.ravel()))
        else:
            yield GateTests(unpaired_tests(table_of(before), table_of(after)))


def outcomes(
    fall: Fall, setting: Setting
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Both runs of each night, ``[num_needles, num_cells]``, 1 for right and 0 for wrong."""
    rng, shape = np.random.default_rng(setting.seed), (setting.num_needles, 1)
    own_share, icc = setting.own_share, setting.icc
    after = LEVELS.copy()
    places = slice(None) if fall.num_cells is None else slice(0, fall.num_cells)
    after[places] = np.maximum(0, after[places] - fall.points)
    for _ in range(setting.num_nights):
        shared = rng.standard_normal(shape)
        runs = []
        for levels in (LEVELS, after):
            known = shared if setting.is_paired else rng.standard_normal(shape)
            own = rng.standard_normal(shape)
            effect = np.sqrt(1 - own_share) * known + np.sqrt(own_share) * own
            noise = rng.standard_normal((setting.num_needles, len(LEVELS)))
            strength = np.sqrt(icc) * effect + np.sqrt(1 - icc) * noise
            right = strength < ndtri(levels)
            if levels is after and fall.num_needles is not None:
                right[fall.num_needles :] = (strength < ndtri(LEVELS))[fall.num_needles :]
            runs.append(right.astype(np.float64))
        yield runs[0], runs[1]


def table_of(values: NDArray[np.float64]) -> SampleTable:
    """``[num_needles, num_cells]`` as a table of samples."""
    num_needles, num_cells = values.shape
    return SampleTable(
        CELLS,
        tuple(f"needle-{k:02}" for k in range(num_needles)),
        np.tile(np.arange(num_cells), num_needles),
        np.repeat(np.arange(num_needles), num_cells),
        values.ravel(),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each number of needles, and a column for each fall."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--needles", default="5,10,20,50")
    parser.add_argument("--icc", default="0.0,0.2")
    parser.add_argument("--own-share", type=float, default=OWN_SHARE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(f"| needles | ICC | pairs | {' | '.join(fall.name for fall in FALLS)} |")
    print(f"|---|---|---|{'---|' * len(FALLS)}")
    for num in map(int, options.needles.split(",")):
        for icc in map(float, options.icc.split(",")):
            for is_paired in (True, False):
                setting = Setting(
                    options.nights, num, icc, options.seed, is_paired, options.own_share
                )
                rates = [
                    np.mean([tests.is_fall(SIGNIFICANCE) for tests in nights(fall, setting)])
                    for fall in FALLS
                ]
                which = "same needles" if is_paired else "others"
                shown = " | ".join(f"{rate:.3f}" for rate in rates)
                print(f"| {num} | {icc:g} | {which} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
