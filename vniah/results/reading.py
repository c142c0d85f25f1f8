"""Reads the folder of a run."""

import gc
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vniah.errors import ResultsError, short_repr
from vniah.options import PAGE_KINDS
from vniah.options.approximation import approximation_in
from vniah.results.manifests import MANIFEST_NAME, PERPLEXITY_NAME, is_cut, read_manifest
from vniah.results.membership import Membership
from vniah.results.plan import planned_ids
from vniah.results.records import Axis, Results, require_table_size
from vniah.results.samples import MOST_LINE_BYTES, SampleReader, SampleResult

SAMPLES_NAME = "samples.jsonl"

RANK_SAMPLES_GLOB = "samples.rank-*.jsonl"

_MANY_SAMPLES = 5_000  # of a file: more are worth it that the collector is told of them


def rank_paths(directory: Path) -> list[Path]:
    """The files of ranks that are not merged yet; an earlier start may have had more ranks."""
    return sorted(directory.glob(RANK_SAMPLES_GLOB))


def as_results(path: Path, manifest: Mapping[str, Any], samples: Iterable[SampleResult]) -> Results:
    """The results of a run, with its samples in the order of the plan."""
    ordered = in_order(samples, manifest)  # by the plan, which the results keep
    name = str(manifest["model"]["name"])
    if (record := manifest.get("approximation")) is not None:  # nowhere is it shown without this
        name = approximation_in(record).marked(name)
    results = Results(
        name,
        path,
        manifest,
        axis=_axis(manifest),
        samples=tuple(sample for sample in ordered if sample.control is None),
        control_samples=tuple(sample for sample in ordered if sample.control is not None),
    )
    assert results.num_planned is not None, "a run has a plan"
    return require_table_size(results)


def _axis(manifest: Mapping[str, Any]) -> Axis:
    """What the lengths of a run count."""
    if manifest.get("axes", ("",))[0] == "num_tokens":
        return "tokens"
    return "pages" if manifest["haystack"].get("kind") in PAGE_KINDS else "frames"


def in_order(samples: Iterable[SampleResult], manifest: Mapping[str, Any]) -> list[SampleResult]:
    """The samples in the order of the plan."""
    place_of = planned_ids(manifest)
    return sorted(samples, key=lambda sample: place_of[sample.sample_id])


def load_run(directory: Path) -> Results:
    """The results in a run's folder. The run may still be going on, or have been killed.

    Raises:
        ResultsError: it is not the folder of a run, or one of its lines cannot be read.
    """
    manifest_path = directory / MANIFEST_NAME
    if not manifest_path.exists():
        if (directory / PERPLEXITY_NAME).exists():
            raise ResultsError(
                f"{directory} holds perplexity and no run: read it with vniah perplexity table, or "
                "vniah perplexity plot"
            )
        raise ResultsError(f"{directory} has no {MANIFEST_NAME}: it is not the folder of a run")
    if is_cut(manifest_path) and not has_lines(directory):
        raise ResultsError(
            f"{manifest_path} cannot be read as JSON, because it is empty or cut, and there is no "
            "sample: this run has not begun; start it again"
        )
    manifest = read_manifest(manifest_path)
    members = Membership(manifest)  # keeps the plan, which samples and results share
    return as_results(directory, manifest, read_all_samples(directory, members).values())


def has_lines(directory: Path) -> bool:
    """True if a file of samples holds at least one complete line."""
    for path in (directory / SAMPLES_NAME, *rank_paths(directory)):
        if path.exists():
            with path.open("rb") as file:
                if len(line := file.readline(MOST_LINE_BYTES)) == MOST_LINE_BYTES:
                    return True
                if line.endswith(b"\n"):
                    return True
    return False


def read_all_samples(directory: Path, members: Membership) -> dict[str, SampleResult]:
    """All samples in the files of a run, by their ids; a score is preferred to a later error.

    Args:
        directory: of the run.
        members: says which lines belong to it.

    Raises:
        ResultsError: a line is not a sample, or not a sample of this run.
    """
    # The files of ranks are read first: one that is gone by then was merged into the main file.
    of_ranks = [_read_samples(path, members) for path in rank_paths(directory)]
    samples = _read_samples(directory / SAMPLES_NAME, members)
    for sample in itertools.chain.from_iterable(found.values() for found in of_ranks):
        if not _keep(samples, sample):
            raise _disagreement(sample, f"{directory}")
    return samples


def _keep(samples: dict[str, SampleResult], sample: SampleResult) -> bool:
    """Adds a sample; of several lines for one a score is preferred to an error.

    Returns:
        False if two lines disagree on whether the sample is right. No run writes both.
    """
    earlier = samples.get(sample.sample_id)
    if earlier is None or earlier.error is not None:
        samples[sample.sample_id] = sample
    elif sample.error is None:
        samples[sample.sample_id] = sample
        return sample.correct == earlier.correct
    return True


def _disagreement(sample: SampleResult, where: str) -> ResultsError:
    return ResultsError(
        f"{where} holds the sample {short_repr(sample.sample_id)} twice, once right and once "
        "wrong, as if lines of two runs were in one file; remove the line that does not belong to "
        "this run"
    )


@contextmanager
def _no_collection(made: Sized) -> Iterator[None]:
    """A block that makes many objects and no cycles, in which Python need not look for cycles.

    Args:
        made: what the block fills with objects.
    """
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            # All objects become old ones, which are rarely searched. As new ones, hundreds of
            # thousands of samples would be searched three times within a second. For few it is not
            # worth the question whether others keep frozen objects, which must stay frozen: Python
            # counts these one by one.
            if len(made) >= _MANY_SAMPLES and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _read_samples(path: Path, members: Membership) -> dict[str, SampleResult]:
    """The samples of all complete lines, by their ids; none if there is no such file."""
    samples: dict[str, SampleResult] = {}
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return samples
    reader = SampleReader(members.plan)
    with file, _no_collection(samples):
        # Read as bytes, as the last line may be cut inside a character; without a newline it is
        # ignored. str.splitlines would also split at U+2028, which JSON does not escape.
        for number in itertools.count(1):
            line = file.readline(MOST_LINE_BYTES)
            if not line.endswith(b"\n"):
                if len(line) < MOST_LINE_BYTES:
                    return samples
                raise ResultsError(
                    f"{path}, line {number}, has more than {MOST_LINE_BYTES:,} bytes, so it is not "
                    "a sample; remove the line"
                )
            try:
                sample = reader.read(line)
            except ResultsError as error:
                reason = str(error).removeprefix("the line: ")
                raise ResultsError(
                    f"{path}, line {number}, is not a sample: {reason}; remove the line, and the "
                    "same command runs its sample again"
                ) from error
            if fault := members.fault(sample):
                raise ResultsError(
                    f"{path}, line {number}, holds {fault}; remove the line, or choose another "
                    "folder"
                )
            if not _keep(samples, sample):
                raise _disagreement(sample, f"{path}, line {number},")
    raise AssertionError("a file has an end")
