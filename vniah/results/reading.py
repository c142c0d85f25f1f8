"""Reads the folder of a run."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vniah.errors import ResultsError
from vniah.results.plan import planned_ids, read_depth, read_grid
from vniah.results.records import Results, SampleResult

FORMAT_VERSION = 2
_READ_VERSIONS = (1, 2)

MANIFEST_NAME = "manifest.json"

SAMPLES_NAME = "samples.jsonl"

RANK_SAMPLES_GLOB = "samples.rank-*.jsonl"

# This section of the manifest may differ when a run is resumed.
ENVIRONMENT_KEY = "environment"


def rank_paths(directory: Path) -> list[Path]:
    """The files of ranks that are not merged yet; an earlier start may have had more ranks."""
    return sorted(directory.glob(RANK_SAMPLES_GLOB))


def as_results(path: Path, manifest: Mapping[str, Any], samples: Iterable[SampleResult]) -> Results:
    """The results of a run, with its samples in the order of the plan."""
    ordered = in_order(samples, manifest)
    return Results(
        str(manifest["model"]["name"]),
        path,
        manifest,
        samples=tuple(sample for sample in ordered if sample.control is None),
        control_samples=tuple(sample for sample in ordered if sample.control is not None),
    )


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
        raise ResultsError(f"{directory} has no {MANIFEST_NAME}: it is not the folder of a run")
    manifest = read_manifest(manifest_path)
    return as_results(directory, manifest, read_all_samples(directory, manifest).values())


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a file.

    Raises:
        ResultsError: it is not the manifest of a run, or it has a later format version.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read as JSON: {error}") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version not in _READ_VERSIONS:
        raise ResultsError(
            f"{path} has format_version {version!r}; this vniah reads "
            f"{' and '.join(map(str, _READ_VERSIONS))}"
        )
    for name, is_right in _fields_needed(manifest).items():
        section, _, key = name.partition(".")
        found = manifest.get(section)
        value = found.get(key) if key and isinstance(found, dict) else found
        if (key and not isinstance(found, dict)) or not is_right(value):
            raise ResultsError(f"{path} has no proper {name}: it is not a run's manifest")
    return dict(manifest)


def _is_list_of(*kinds: type) -> Callable[[Any], bool]:
    def is_right(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(type(v) in kinds for v in value)

    return is_right


def _fields_needed(manifest: Mapping[str, Any]) -> dict[str, Callable[[Any], bool]]:
    """The fields that a manifest must have, each with a test of its value."""
    needed = dict(_MANIFEST_FIELDS)
    if manifest["format_version"] != 1:
        needed |= {"task": _is_text, "sample_ids": _is_text}
    grid = manifest.get("grid")
    if isinstance(grid, dict) and "positions" in grid:
        return {**needed, "grid.positions": _is_list_of(int), "grid": _is_grid}
    return {**needed, "grid.depths": _are_depths, "grid": _is_grid}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_grid(value: Any) -> bool:
    try:
        read_grid(value)
    except (TypeError, ValueError, ArithmeticError):
        return False
    return True


def _are_depths(value: Any) -> bool:
    if not _is_list_of(int, float, str)(value):
        return False
    try:
        return all(read_depth(depth) >= 0 for depth in value)
    except (ValueError, ArithmeticError):
        return False


_MANIFEST_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "model.name": _is_text,
    "needles.ids": _is_list_of(str),
    "grid.frames": _is_list_of(int),
    "haystack": lambda value: isinstance(value, dict),
    "protocol": lambda value: isinstance(value, dict),
}


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, such as ``model.name``."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def read_all_samples(directory: Path, manifest: Mapping[str, Any]) -> dict[str, SampleResult]:
    """All samples in the files of a run, by their ids; a score is preferred to a later error.

    Raises:
        ResultsError: a line is not a sample, or not a sample of this run.
    """
    ids = planned_ids(manifest)
    # The files of ranks are read first: one that is gone by then was merged into the main file.
    of_ranks = [_read_samples(path, manifest, ids) for path in rank_paths(directory)]
    main = _read_samples(directory / SAMPLES_NAME, manifest, ids)
    samples: dict[str, SampleResult] = {}
    for sample in itertools.chain(main, *of_ranks):
        earlier = samples.get(sample.sample_id)
        if earlier is None or earlier.error is not None or sample.error is None:
            samples[sample.sample_id] = sample
    return samples


def _read_samples(
    path: Path, manifest: Mapping[str, Any], ids: Mapping[str, int]
) -> list[SampleResult]:
    """The samples of all complete lines; none if there is no such file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    samples = []
    # The file is split as bytes, as its last line may be cut inside a character; that line has no
    # newline and is ignored. str.splitlines would also split at U+2028, which JSON does not escape.
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            sample = SampleResult.from_json(line.decode("utf-8"))
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise ResultsError(f"{path}, line {number}, is not a sample: {error}") from error
        _require_planned(sample, manifest, ids, f"{path}, line {number},")
        samples.append(sample)
    return samples


def _require_planned(
    sample: SampleResult, manifest: Mapping[str, Any], ids: Mapping[str, int], where: str
) -> None:
    """Raises `ResultsError` unless a line belongs to the run that the manifest describes.

    Args:
        sample: what the line holds.
        manifest: of the run.
        ids: what `planned_ids` gives for it.
        where: file and line, for the message.
    """
    if sample.task != manifest.get("task"):
        found = f"the task {sample.task!r}, and the run is of {manifest.get('task')!r}"
    elif sample.sample_id not in ids:
        found = f"the sample {sample.sample_id!r}, which is not part of this run's plan"
    else:
        return
    raise ResultsError(f"{where} holds {found}; remove the line, or choose another folder")
