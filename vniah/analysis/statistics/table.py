"""The samples of a test as arrays, and the value of each needle in them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vniah.grid import Cell
from vniah.results import Results, SampleResult
from vniah.results.once import once

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]
    Mask = NDArray[np.bool_]

Value = Callable[[SampleResult], float | None]
"""What is averaged of a sample; None leaves it out."""

UNKNOWN = -1
"""The needle of a sample that names none."""


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Values of the samples of a test, controls left out.

    Attributes:
        cells: the cells that have a sample, ordered by frames, then by depth.
        needles: names of the needles, each independent of the others, in alphabetical order.
        cell: ``[num_samples]``, the place of each sample's cell in ``cells``.
        needle: ``[num_samples]``, the place of its needle in ``needles``, or `UNKNOWN`.
        values: ``[num_samples]``, what is averaged, such as 1.0 for right and 0.0 for wrong.
        unit: what stands in the place of needles, as `Results.cluster`.
    """

    cells: tuple[Cell, ...]
    needles: tuple[str, ...]
    cell: "Indices"
    needle: "Indices"
    values: "Floats"
    unit: str = "needle"

    @cached_property
    def num_frames(self) -> "Indices":
        """``[num_cells]``: the number of frames of each cell."""
        return np.array([cell.num_frames for cell in self.cells], dtype=np.intp)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The different numbers of frames, ascending."""
        return tuple(map(int, np.unique(self.num_frames)))

    @property
    def knows_needles(self) -> bool:
        """Whether every sample names its needle, and there are samples."""
        return bool(len(self.needle)) and bool((self.needle != UNKNOWN).all())

    def where(self, mask: "Mask | Indices") -> "SampleTable":
        """The same with some of the samples, by truth values or by their places."""
        return replace(
            self, cell=self.cell[mask], needle=self.needle[mask], values=self.values[mask]
        )

    def at_length(self, num_frames: int) -> "SampleTable":
        """The samples with one number of frames."""
        return self.where(self.num_frames[self.cell] == num_frames)

    @property
    def mean(self) -> float:
        """The mean of the cells' means, all with the same weight; there must be a sample."""
        counts = np.bincount(self.cell)
        sums = np.bincount(self.cell, self.values)
        return float((sums[counts > 0] / counts[counts > 0]).mean())

    def needle_values(self) -> "Floats":
        """``[num_needles]``: what each needle adds to the mean, whose mean they are.

        Where every needle has equally many samples in every cell, these are the means of the
        needles (`cluster_values`). Needles without a sample are left out.
        """
        return cluster_values(self.cell, self.needle, self.values)

    def row_values(self, row_of: Callable[[Cell], object]) -> "Floats":
        """``[num_rows]``: the same for rows of the map, such as depths, with fixed needles."""
        counts = np.bincount(self.cell, minlength=len(self.cells))
        present = np.flatnonzero(counts)
        means = np.bincount(self.cell, self.values, len(self.cells))[present] / counts[present]
        place_of: dict[object, int] = {}
        names = [row_of(self.cells[place]) for place in present]
        rows = np.array([place_of.setdefault(name, len(place_of)) for name in names])
        return cluster_values(self.num_frames[present], rows, means, by_size=True)


@dataclass(frozen=True, eq=False)
class SampleIndex:
    """Which cell and which needle each sample of a test belongs to; it is costly, and kept.

    Attributes:
        samples: the samples that belong to a cell.
        cells: their cells, ordered by frames, then by depth.
        needles: as in `SampleTable`.
        cell: as in `SampleTable`.
        needle: as in `SampleTable`.
        unit: as in `SampleTable`.
    """

    samples: tuple[SampleResult, ...]
    cells: tuple[Cell, ...]
    needles: tuple[str, ...]
    cell: "Indices"
    needle: "Indices"
    unit: str = "needle"

    def table(self, value: Value) -> SampleTable:
        """The samples that have a value; a ``value`` of None leaves a sample out."""
        found = [value(sample) for sample in self.samples]
        mask = np.array([number is not None for number in found], dtype=np.bool_)
        cells, cell = np.unique(self.cell[mask], return_inverse=True)
        needles, needle = np.unique(self.needle[mask], return_inverse=True)
        is_unknown = self.needle[mask] == UNKNOWN
        return SampleTable(
            tuple(self.cells[place] for place in cells),
            tuple(self.needles[place] for place in needles if place != UNKNOWN),
            cell,
            np.where(is_unknown, UNKNOWN, needle - is_unknown.any()),
            np.array([number for number in found if number is not None], dtype=np.float64),
            self.unit,
        )


def is_right(sample: SampleResult) -> bool | None:
    """Whether a sample is right; None if it could not be run."""
    return sample.correct


def sample_table(results: Results, value: Value = is_right) -> SampleTable:
    """The samples of a run that have a value, by default those that could be run.

    Args:
        results: a run; of a published table there are no samples.
        value: what is averaged; None leaves a sample out.
    """
    return _right_ones(results) if value is is_right else index_samples(results).table(value)


@once
def _right_ones(results: Results) -> SampleTable:
    return index_samples(results).table(is_right)


@once
def index_samples(results: Results) -> SampleIndex:
    """The cells and needles of the samples of a run.

    A task may name clusters in place of needles, such as videos (`vniah.tasks.details`). Else a
    sample's needle is its ``needle_id``. Where it has none, but several ``needle_ids``, samples
    that share a needle belong together, directly or through others: only what shares nothing is
    independent. If all of them belong together, no needle is known.
    """
    samples = tuple(sample for sample in results.samples if sample.cell is not None)
    # The samples of a cell share it, and it takes long to hash its depth.
    distinct = {id(sample.cell): sample.cell for sample in samples}
    cells = sorted({cell for cell in distinct.values() if cell is not None})
    place_of = {cell: place for place, cell in enumerate(cells)}
    place_at = {key: place_of[cell] for key, cell in distinct.items() if cell is not None}
    field = results.details.get("clusters")
    names = _needle_names(samples) if field is None else _values_of(samples, field)
    needles = sorted({name for name in names if name is not None})
    needle_at: dict[str | None, int] = {name: place for place, name in enumerate(needles)}
    return SampleIndex(
        samples,
        tuple(cells),
        tuple(needles),
        np.array([place_at[id(sample.cell)] for sample in samples], dtype=np.intp),
        np.array([needle_at.get(name, UNKNOWN) for name in names], dtype=np.intp),
        results.cluster,
    )


def cluster_values(
    strata: "Indices", clusters: "Indices", values: "Floats", *, by_size: bool = False
) -> "Floats":
    """Values of clusters with the mean and the variance of a mean over strata.

    The mean over strata is m, the sum of ``w_c`` times the mean of stratum c. A cluster adds
    ``e_j`` to it, the sum of the deviations of its values from the means of their strata, each with
    its weight. The values are ``m + J e_j`` for J clusters, so that their mean is m, and their
    variance divided by J is the cluster-robust variance of m with the small-sample correction CR2.
    Where every cluster has equally many values in every stratum, they are the means of the
    clusters. Source of CR2: R. M. Bell and D. F. McCaffrey, "Bias reduction in standard errors for
    linear regression with multi-stage samples", Survey Methodology 28 (2002).

    A stratum with one cluster has no deviations of its own; there they are taken from m.

    Args:
        strata: ``[num_values]``, the stratum of each value, such as its cell.
        clusters: ``[num_values]``, its cluster, such as its needle.
        values: ``[num_values]``, at least one.
        by_size: whether strata weigh as much as the number of their values, or all the same.

    Returns:
        ``[num_clusters]``, in the order of their numbers.
    """
    strata = np.unique(strata, return_inverse=True)[1]
    clusters = np.unique(clusters, return_inverse=True)[1]
    num_strata, num = strata.max() + 1, clusters.max() + 1
    sizes = np.bincount(strata)
    means = np.bincount(strata, values) / sizes
    weights = sizes / len(values) if by_size else np.full(num_strata, 1 / num_strata)
    mean = float(weights @ means)
    pairs = np.unique(strata * num + clusters)
    num_inside = np.bincount(pairs // num, minlength=num_strata)
    is_alone = num_inside == 1
    factors = np.ones(num_strata)
    if num > 1:
        factors[~is_alone] = np.sqrt(
            num_inside[~is_alone] / (num_inside[~is_alone] - 1) * ((num - 1) / num)
        )
        means = np.where(is_alone, mean, means)
    deviations = (values - means[strata]) * (weights * factors / sizes)[strata]
    added: Floats = np.bincount(clusters, deviations, num).astype(np.float64)
    found: Floats = mean + num * (added - added.mean())
    return found


def _values_of(samples: Sequence[SampleResult], field: str) -> list[str | None]:
    values = [sample.fields.get(field) for sample in samples]
    return [None if value is None else str(value) for value in values]


def _needle_names(samples: Sequence[SampleResult]) -> list[str | None]:
    """For each sample the name of its needle, or of the needles that belong together."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = parent[above]
            name = above
        return name

    asked = [sample.fields.get("needle_id") for sample in samples]
    if all(isinstance(name, str) for name in asked):
        return asked
    shown = [_needles_shown(sample) for sample in samples]
    for names in shown:
        for name in names[1:]:
            parent[root(name)] = root(names[0])
    found = [root(names[0]) if names else None for names in shown]
    is_one = len(set(found)) == 1 and max(map(len, shown)) > 1
    return [None] * len(found) if is_one else found


def _needles_shown(sample: SampleResult) -> tuple[str, ...]:
    if isinstance(sample.needle_id, str):
        return (sample.needle_id,)
    ids: object = sample.fields.get("needle_ids")
    if isinstance(ids, Iterable) and not isinstance(ids, str):
        return tuple(name for name in ids if isinstance(name, str))
    return ()
