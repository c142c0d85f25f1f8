"""The folder of an export: what it holds, whose it is, and that only one process writes it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from vniah.errors import ResultsError, RunMismatchError, short_repr
from vniah.files import TEMPORARY_SUFFIX, atomic_path, write_json
from vniah.results import flatten
from vniah.results.folders import EXPORT_NAME, PLAN_NAME, require_apart, require_writable
from vniah.results.sample_file import LOCK_NAME, locked, writing_to
from vniah.schema import read_json
from vniah.sweep.exchange.records import VIDEOS
from vniah.sweep.exchange.videos import VideoRecord

FORMAT_VERSION = 1

METADATA_NAME = "metadata.jsonl"
_OWN = {EXPORT_NAME, PLAN_NAME, METADATA_NAME, VIDEOS, LOCK_NAME}

_MOST_BYTES = 2**28
# They do not decide what the videos show or what is asked.
_FREE_SECTIONS = ("environment", "notes", "task")
_FREE = ("plan.haystack.name",)


class TaskRecord(TypedDict):
    """How the task and its controls are made again; what was given as an object is null."""

    source: str | None
    options: dict[str, Any]
    controls: str | None


class PlanRecord(TypedDict):
    """What the manifest of every run says that answers this export (`plan_record`)."""

    task: str
    axes: list[str]
    controls: list[str]
    task_details: NotRequired[dict[str, Any]]
    haystack: dict[str, Any]
    needles: dict[str, Any]
    grid: dict[str, Any]
    protocol: dict[str, Any]
    sample_ids: str


class TokenizerRecord(TypedDict):
    """What counted the tokens of texts."""

    name: str
    sha256: str


class ExportManifest(TypedDict):
    """What an export holds: ``video`` where it shows frames, ``tokenizer`` where it shows text."""

    format_version: int
    task: TaskRecord
    plan: PlanRecord
    video: NotRequired[VideoRecord]
    tokenizer: NotRequired[TokenizerRecord]
    plan_sha256: str
    environment: NotRequired[dict[str, Any]]
    notes: NotRequired[list[str]]


def read_export(folder: Path) -> ExportManifest:
    """The manifest of an export that is whole.

    Raises:
        ResultsError: there is none, or the export was not finished.
    """
    if not folder.is_dir():
        raise ResultsError(f"there is no folder {folder}: give the folder of an export")
    if not (folder / EXPORT_NAME).exists():
        raise ResultsError(f"{folder} has no {EXPORT_NAME}: it is not the folder of an export")
    manifest = _read(folder / EXPORT_NAME)
    if not (folder / METADATA_NAME).exists():
        raise ResultsError(
            f"{folder} has no {METADATA_NAME}: the export was stopped; the same command goes on"
        )
    return manifest


def _read(path: Path) -> ExportManifest:
    found = read_json(path, dict[str, Any], ResultsError, most_bytes=_MOST_BYTES)
    if (version := found.get("format_version")) != FORMAT_VERSION:
        raise ResultsError(
            f"{path} has format_version {short_repr(version)}; this vniah reads {FORMAT_VERSION}"
        )
    manifest = read_json(path, ExportManifest, ResultsError, most_bytes=_MOST_BYTES)
    if ("video" in manifest) == ("tokenizer" in manifest):
        raise ResultsError(f"{path} must have one of video and tokenizer; export again")
    return manifest


class ExportFolder:
    """An export that is being written; started again, it goes on with the videos that it lacks.

    Args:
        path: the folder; need not exist yet.
        manifest: of this export.
        overwrite: discard what an earlier export has left.

    Raises:
        RunMismatchError: the folder holds another export; the message names the first difference.
        ResultsError: it holds something else, or cannot be written to.
    """

    def __init__(self, path: Path, manifest: ExportManifest, *, overwrite: bool = False) -> None:
        self.path = path
        self._manifest = manifest
        self._overwrite = overwrite
        require_writable(path, "an export")
        self._require_own()

    def _require_own(self) -> None:
        """Raises unless the folder is empty, or holds this export; or one to be discarded."""
        if not self.path.exists():
            require_apart(self.path, is_run=False)
        elif (self.path / EXPORT_NAME).exists():
            if not self._overwrite:
                _require_same(_read(self.path / EXPORT_NAME), self._manifest, self.path)
        elif others := sorted(item.name for item in self.path.iterdir() if item.name != LOCK_NAME):
            raise ResultsError(
                f"{self.path} holds {short_repr(others[0])} and no {EXPORT_NAME}, so it is not the "
                "folder of an export; choose another --output"
            )
        else:
            require_apart(self.path, is_run=False)

    @contextmanager
    def open(self, plan: Sequence[bytes]) -> Iterator[None]:
        """A block in which the folder is locked, and has its manifest and its plan.

        Args:
            plan: the lines of the plan.

        Raises:
            ResultsError: another process writes to the folder, or it cannot be written to.
        """
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            self._require_own()  # now that nobody else writes
            with writing_to(self.path):
                if self._overwrite:
                    self._discard()
                if not (self.path / EXPORT_NAME).exists():
                    write_json(self.path / EXPORT_NAME, self._manifest)
                self._write_lines(PLAN_NAME, plan)
            yield

    def _discard(self) -> None:
        """Removes what exports write; the manifest last, by which the folder is known."""
        for pattern in ("*.mp4", f".*.mp4{TEMPORARY_SUFFIX}"):
            for video in (self.path / VIDEOS).glob(pattern):
                video.unlink()
        for name in (METADATA_NAME, PLAN_NAME, EXPORT_NAME):
            (self.path / name).unlink(missing_ok=True)

    @property
    def notes_of_plan(self) -> list[str]:
        """Remarks on the samples, such as controls that were left out."""
        return self._manifest.get("notes", [])

    @property
    def notes(self) -> list[str]:
        """All remarks in the manifest."""
        return _read(self.path / EXPORT_NAME).get("notes", [])

    def record(self, notes: Sequence[str]) -> None:
        """Keeps all remarks, such as damage of the haystack, in the manifest."""
        manifest = _read(self.path / EXPORT_NAME)
        if list(notes) != manifest.get("notes", []):
            with writing_to(self.path):
                write_json(self.path / EXPORT_NAME, {**manifest, "notes": list(notes)})

    def finish(self, metadata: Iterable[bytes]) -> None:
        """Writes the lines of metadata, when all videos are there."""
        with writing_to(self.path):
            self._write_lines(METADATA_NAME, metadata)

    def _write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Writes a file, unless it is there."""
        path = self.path / name
        if not path.exists():
            with atomic_path(path, is_locked=True) as unfinished, unfinished.open("wb") as file:
                file.writelines(lines)


def _require_same(earlier: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raises `RunMismatchError` that names the first setting in which two exports differ."""
    again = "choose another --output, or start again with --overwrite"
    before, after = flatten(earlier), flatten(now)
    for name in sorted(before.keys() | after.keys()):
        if name.split(".")[0] in _FREE_SECTIONS or name in _FREE:
            continue
        if before.get(name) != after.get(name):
            if name in ("plan.sample_ids", "plan_sha256"):
                raise RunMismatchError(f"{folder} holds an export of other samples; {again}")
            raise RunMismatchError(
                f"{folder} holds an export with {name.removeprefix('plan.')} = "
                f"{short_repr(before.get(name))}, this one has {short_repr(after.get(name))}; "
                f"{again}"
            )
