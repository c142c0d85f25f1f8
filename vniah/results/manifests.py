"""The manifest of a run: which fields its readers rely on, and of which types they must be."""

import json
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from vniah.errors import ResultsError, RunMismatchError, short_repr
from vniah.files import to_json
from vniah.options.approximation import WindowUnit
from vniah.results.details import TaskDetails
from vniah.results.plan import GridRecord, planned_ids, read_grid
from vniah.schema import parse_json, read_json, require_type

FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)

MANIFEST_NAME = "manifest.json"
DAMAGED_NAME = "manifest.damaged"
PERPLEXITY_NAME = "perplexity.json"
"""In place of a manifest, in a folder of `vniah.results.perplexity`."""

ENVIRONMENT_KEY = "environment"
NOTES_KEY = "notes"
ADAPTIVE_KEY = "adaptive"
STOPPED_KEY = "stopped_early"
VERIFICATION_KEY = "verification"
# These sections may differ when a run is resumed.
_FREE_SECTIONS = (ENVIRONMENT_KEY, NOTES_KEY, ADAPTIVE_KEY, STOPPED_KEY, VERIFICATION_KEY)
# In the environment: where the run was started again.
LATER_KEY = "later_starts"

# Fields that manifests of some versions lack: version 0.1 recorded the adapter's class, which may
# have moved since; earlier ones did not say of a task what is known of it, nor results of
# perplexity for which length a model with eyes was trained.
_NOT_IN_ALL = ("model.class", "task_details.asks_needles", "model.trained_tokens")

_MOST_BYTES = 2**28
"""A manifest lists all samples: this is enough for ten million of them."""


_INT_BOUND = 2**127
"""Whole numbers in a manifest are smaller; operations of a large model take more than 64 bits."""


class ModelRecord(TypedDict):
    """What was measured; a model adds settings of its own."""

    name: str
    dtype: NotRequired[str | None]
    tokens_per_frame: NotRequired[Annotated[int, Meta(ge=1)] | None]
    rope_theta: NotRequired[Annotated[float, Meta(gt=0)]]
    rope_scaling: NotRequired[str]


class NeedlesRecord(TypedDict):
    """The needle set."""

    ids: list[str]
    name: NotRequired[str]
    sha256: NotRequired[str]
    declared_sha256: NotRequired[str]


class ScorerRecord(TypedDict):
    """How answers were generated."""

    max_new_tokens: NotRequired[Annotated[int, Meta(ge=1)] | None]
    stop_ids: NotRequired[list[int]]


class ApproximationRecord(TypedDict):
    """How far a run is approximate; exact runs have none (`vniah.options.approximation`)."""

    share: Literal["one-pass"]
    window: Annotated[int, Meta(ge=0)]
    window_unit: WindowUnit
    verify: Annotated[int, Meta(ge=1)]


class InterventionRecord(TypedDict):
    """What each sample of the test was run with once more; most runs have none.

    ``function`` is ``package.module:function``, and ``sha256`` is of the file that holds it.
    """

    function: Annotated[str, Meta(min_length=1, max_length=1000)]
    sha256: Annotated[str, Meta(min_length=64, max_length=64)]


class TriedWindow(TypedDict):
    """How exactly computed samples agree with those of another window than the run's own."""

    window: Annotated[int, Meta(ge=0)]
    samples: Annotated[int, Meta(ge=1)]
    equal: Annotated[int, Meta(ge=0)]


class AttentionTraceRecord(TypedDict):
    """Of a run that keeps the attention to needles: of which rows, and when one was seen."""

    rows: str
    seen: str


class VerificationRecord(TypedDict):
    """How an approximate run agrees with its exact samples, of which most is computed anew.

    Where they agree too seldom, windows were tried, and ``enough_window`` is the one that would
    have been enough; None if none is that leaves something to share.
    """

    tried_windows: NotRequired[Annotated[list[TriedWindow], Meta(min_length=1)]]
    enough_window: NotRequired[Annotated[int, Meta(ge=0)] | None]


class EnvironmentRecord(TypedDict):
    """Where the run was started, and where it was started again."""

    later_starts: NotRequired[list[dict[str, Any]]]
    forward: NotRequired[dict[str, Any]]


class AdaptiveRecord(TypedDict):
    """What an adaptive run looks for, and what it took; only runs that were begun so have it.

    ``guess`` is the length that an earlier run gave, where the search began (`vniah.sweep.search`).
    Its ``flops`` are the operations of all rounds, and ``flops_of_grid`` those of the whole grid.
    """

    precision: str
    threshold: Annotated[float, Meta(ge=0, le=1)]
    guess: NotRequired[Annotated[int, Meta(ge=0)]]
    rounds: NotRequired[Annotated[int, Meta(ge=0)]]
    flops: NotRequired[Annotated[int, Meta(ge=0)]]
    flops_of_grid: NotRequired[Annotated[int, Meta(ge=0)]]


class StoppedRecord(TypedDict):
    """Of a run that was stopped early, as it is worse than a baseline: when, and why.

    Its numbers of samples are those of the test. It stays when the run is completed.
    """

    baseline: str
    samples: Annotated[int, Meta(ge=0)]
    planned_samples: Annotated[int, Meta(ge=1)]
    reason: str


class _OfAllVersions(TypedDict):
    """The fields of a manifest that are read; it may have others."""

    model: ModelRecord
    haystack: dict[str, Any]
    needles: NeedlesRecord
    grid: GridRecord
    protocol: dict[str, Any]
    scorer: NotRequired[ScorerRecord]
    approximation: NotRequired[ApproximationRecord]
    intervention: NotRequired[InterventionRecord]
    attention_trace: NotRequired[AttentionTraceRecord]
    verification: NotRequired[VerificationRecord]
    environment: NotRequired[EnvironmentRecord]
    notes: NotRequired[list[str]]
    adaptive: NotRequired[AdaptiveRecord]
    stopped_early: NotRequired[StoppedRecord]


class ManifestOfVersion1(_OfAllVersions):
    """A manifest of version 0.1."""

    task: NotRequired[str]


class Manifest(_OfAllVersions):
    """Since version 2 a manifest lists all samples."""

    task: str
    sample_ids: str
    axes: NotRequired[Annotated[list[str], Meta(min_length=2, max_length=2)]]
    controls: NotRequired[list[str]]
    task_details: NotRequired[TaskDetails]


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a file.

    Raises:
        ResultsError: it is not the manifest of a run, or it has a later format version.
    """
    return require_manifest(
        read_json(path, dict[str, Any], ResultsError, most_bytes=_MOST_BYTES, int_bound=_INT_BOUND),
        str(path),
    )


def oddness_in(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The oddness of needles as the run recorded it when it was started last; empty without any."""
    environment = manifest.get(ENVIRONMENT_KEY, {})
    for start in (*reversed(environment.get(LATER_KEY, ())), environment):
        forward = start.get("forward", {})
        found = forward.get("oddness") if isinstance(forward, dict) else None
        if isinstance(found, dict):
            numbers = found.items()
            return {k: float(v) for k, v in numbers if type(v) in (int, float) and 0 <= v <= 1}
    return {}


def require_manifest(manifest: dict[str, Any], where: str) -> dict[str, Any]:
    """The manifest, if everything that is read of it has the declared type.

    Args:
        manifest: as JSON gives it.
        where: names it in a message.

    Raises:
        ResultsError: it is not the manifest of a run, or it has a later format version.
    """
    version = manifest.get("format_version")
    if type(version) is not int or version not in READ_VERSIONS:
        raise ResultsError(
            f"{where} has format_version {short_repr(version)}; this vniah reads "
            f"{' and '.join(map(str, READ_VERSIONS))}"
        )
    require_type(manifest, Manifest if version > 1 else ManifestOfVersion1, ResultsError, where)
    try:
        read_grid(manifest["grid"])
        if "sample_ids" not in manifest:  # else the plan is a list, and not a product
            planned_ids(manifest)
    except ValueError as error:
        raise ResultsError(f"{where}: grid: {error}") from error
    return manifest


def as_read_back(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file of JSON gives them: lists for tuples, and text as it can be written.

    Raises:
        ResultsError: JSON cannot hold them.
    """
    try:
        text = to_json(content)
    except (TypeError, ValueError) as error:
        raise ResultsError(
            f"the settings of this run cannot be written as JSON: {error}"
        ) from error
    if len(text) > _MOST_BYTES:
        raise ResultsError(
            f"the manifest of this run has {len(text):,} bytes, and at most {_MOST_BYTES:,} can be "
            "read: measure fewer samples"
        )
    return parse_json(
        text, dict[str, Any], ResultsError, "the manifest of this run", int_bound=_INT_BOUND
    )


def is_cut(path: Path) -> bool:
    """True if a manifest is what a power cut leaves of it: empty, zeros, or JSON that is cut."""
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES).strip(b"\0 \t\r\n")
    if not content.startswith(b"{"):
        return not content
    try:
        json.loads(content)
    except RecursionError:
        return False
    except ValueError:
        return True
    return False


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, such as ``model.name``."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def kept_sections(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that a resumed run keeps from its first start."""
    return {name: manifest[name] for name in _FREE_SECTIONS if name in manifest}


def require_same_settings(
    earlier: Mapping[str, Any], now: Mapping[str, Any], directory: Path, *, kind: str = "a run"
) -> None:
    """Raises `RunMismatchError` that names the first setting in which two manifests differ.

    Args:
        earlier: the manifest in the folder.
        now: that of this start, as it would be read back.
        directory: the folder, for the message.
        kind: what the folder holds, for the message.
    """
    before, after = flatten(earlier), flatten(now)
    free = {"haystack.name", "frames.haystack.name"}  # the latter of results of perplexity
    if earlier["format_version"] == 1:  # it lacks these settings
        free |= {"format_version", "axes", "controls", "sample_ids"}
    for name in sorted(before.keys() | after.keys()):
        if name.split(".")[0] in _FREE_SECTIONS or name in free:
            continue
        if name in _NOT_IN_ALL and not (name in before and name in after):
            continue
        if before.get(name) != after.get(name):
            if name == "sample_ids":
                planned = (str(ids.get(name)).split() for ids in (before, after))
                first = next(a or b for a, b in zip_longest(*planned) if a != b)
                raise RunMismatchError(
                    f"{directory} holds a run of other samples, the first is {short_repr(first)}; "
                    "choose another --output, or start anew with --overwrite"
                )
            old, new = before.get(name), after.get(name)
            held = f"without {name}" if old is None else f"with {name} = {short_repr(old)}"
            raise RunMismatchError(
                f"{directory} holds {kind} {held}, this one has "
                f"{'none' if new is None else short_repr(new)}; choose another --output, or start "
                "again with --overwrite"
            )
