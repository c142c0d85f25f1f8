"""Finds the sample that is to be shown among those of a task."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from vniah.errors import InputError, short_repr
from vniah.grid import Grid, read_depth
from vniah.protocol import needle_of
from vniah.results import Results
from vniah.results.plan import planned_ids
from vniah.tasks.base import Sample

_NUM_NEAREST = 3
_MOST_COMPARED = 20_000


def narrowed(grid: Grid, sample_id: str) -> Grid:
    """A grid with only the place that an id begins with, where it names one; else the same grid.

    A sample does not depend on what else the grid holds, so a plan of one cell is enough to make
    it, and the cell need not be one of the grid.

    Args:
        grid: gives what the id leaves open, such as the depths of a control.
        sample_id: e.g. ``"600/0.2/red-7"``, ``"600/1/3/red-7"`` at depth 1/3, or
            ``"600/-/red-7/no-needle"``.
    """
    frames, *places = sample_id.split("/")
    counts: Sequence[str | int] = [frames] if frames.isascii() and frames.isdigit() else grid.frames
    names = places[:1] + (["/".join(places[:2])] if len(places) > 1 else [])
    depths = []
    for name in names:
        try:
            depths.append(read_depth(name))
        except InputError:
            continue
    try:
        if depths:
            return Grid.of(counts, depths)
        if grid.positions:
            return Grid.of(counts, positions=grid.positions)
        return Grid.of(counts, grid.depths)
    except InputError:
        return grid


def find_sample(
    samples: Sequence[Sample], sample_id: str | None = None, *, needle_id: str | None = None
) -> Sample:
    """The sample with an id; without one the first, or the first that shows a needle.

    Args:
        samples: all samples of a plan.
        sample_id: its id.
        needle_id: a needle that the sample is about, or that it shows.

    Raises:
        InputError: there is no such sample; the message names those with the most similar ids.
    """
    if sample_id is not None:
        for sample in samples:
            if sample.sample_id == sample_id:
                return sample
        raise unknown_sample((sample.sample_id for sample in samples), sample_id)
    if needle_id is None:
        return samples[0]
    for sample in samples:
        shown = (needle_of(span.source) for span in sample.shown)
        if needle_id in (sample.fields.get("needle_id"), *shown):
            return sample
    raise InputError(
        f"no sample shows or asks about the needle {short_repr(needle_id)}; give one of the needle "
        "set, or the id of a sample"
    )


def unknown_sample(ids: Iterable[str], sample_id: str) -> InputError:
    """The error for an id that no sample has; it names the most similar ones.

    Args:
        ids: of all samples; those that ask the same at another place are preferred.
        sample_id: the id.
    """
    known = list(ids)
    name = sample_id.rpartition("/")[2]
    alike = [one for one in known if one.endswith(f"/{name}")] or known
    some = alike[:_MOST_COMPARED]
    nearest = get_close_matches(sample_id, some, n=_NUM_NEAREST, cutoff=0.4) or some[:_NUM_NEAREST]
    return InputError(
        f"there is no sample {short_repr(sample_id)}; the nearest are {', '.join(nearest)}"
    )


def planned_id(results: Results, sample_id: str | None) -> str:
    """The id of a sample of a run's plan: the given one, or that of the first sample.

    Raises:
        InputError: the run has no such sample; the message names those with the most similar ids.
    """
    ids = planned_ids(results.manifest)
    if sample_id is None:
        return next(iter(ids))
    if sample_id not in ids:
        raise unknown_sample(ids, sample_id)
    return sample_id
