"""The folder of a run: written line by line, taken up again, and read."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from vniah.errors import ResultsError, RunMismatchError
from vniah.results.records import Results, Sample, SampleKey, read_depth

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SAMPLES_NAME = "samples.jsonl"
LOCK_NAME = ".lock"

# Sections of the manifest that may differ when a run is gone on with.
ENVIRONMENT_KEY = "environment"
NOTES_KEY = "notes"


class RunFolder:
    """A run being written: one flushed line per sample, going on where an earlier start stopped.

    Making one only reads: what is there is taken in, and refused if it is another run. `open`
    writes the manifest, if it is not there yet, and takes `append`. A last line that was cut in the
    middle is removed then, so nothing half-written is ever read back.

    Args:
        directory: the run's folder; need not exist yet.
        manifest: what `vniah.sweep.make_manifest` gives. Its ``environment`` may differ from the
            one that is there; nothing else may.
        overwrite: take what is there for nothing; it is removed by `open`.

    Raises:
        RunMismatchError: the folder holds a run with other settings; the message names the first.
    """

    def __init__(
        self, directory: Path, manifest: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.samples: dict[SampleKey, Sample] = {}
        self._manifest_path = directory / MANIFEST_NAME
        self._samples_path = directory / SAMPLES_NAME
        self._overwrite = overwrite
        self._file: TextIO | None = None
        _refuse_unwritable(directory)
        if not overwrite:
            self._take_in()

    def _take_in(self) -> None:
        """Reads what an earlier start left."""
        if self._manifest_path.exists():
            earlier = _read_manifest(self._manifest_path)
            _refuse_difference(earlier, self.manifest, self.directory)
            self.manifest = earlier
            self.samples = {s.key: s for s in _read_samples(self._samples_path)}
        elif self._samples_path.exists():
            raise ResultsError(
                f"{self.directory} has {SAMPLES_NAME} but no {MANIFEST_NAME}, so nobody can say "
                "what it measured; choose another --output or add --overwrite"
            )

    @contextmanager
    def open(self, notes: Sequence[str] = ()) -> Iterator[None]:
        """Room to append samples, for one process at a time.

        Args:
            notes: remarks on the run, such as damage in its video; they go into the manifest.

        Raises:
            ResultsError: another process writes to the folder.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if self._overwrite:
                self._samples_path.unlink(missing_ok=True)
                self._manifest_path.unlink(missing_ok=True)
            if not self._manifest_path.exists():
                self.manifest = {**self.manifest, NOTES_KEY: list(notes)}
                write_json(self._manifest_path, self.manifest)
            _cut_unfinished_line(self._samples_path)
            try:
                with self._samples_path.open("a", encoding="utf-8") as self._file:
                    yield
            finally:
                self._file = None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Ends with the process, however that ends."""
        lock = FileLock(self.directory / LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ResultsError(
                f"another process is writing to {self.directory}; wait for it, or choose another "
                "--output"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def append(self, sample: Sample) -> None:
        """Writes one line and flushes it; within `open` only."""
        assert self._file is not None, "RunFolder.append outside of its open block"
        self._file.write(sample.to_json() + "\n")
        self._file.flush()
        self.samples[sample.key] = sample

    def results(self) -> Results:
        """What the folder holds now."""
        return _as_results(self.directory, self.manifest, self.samples.values())


def _refuse_unwritable(directory: Path) -> None:
    """Says now, before hours of work, that nothing can be written there."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ResultsError(f"{existing} is a file; the output of a run must be a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ResultsError(f"{existing} cannot be written to; choose another --output")


def _cut_unfinished_line(path: Path) -> None:
    """Removes what follows the last newline: a line that a kill cut in the middle."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON under a temporary name and renames it, so that it is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _as_results(path: Path, manifest: Mapping[str, Any], samples: Iterable[Sample]) -> Results:
    """Samples and their manifest, in the order of the grid."""
    ordered = sorted(samples, key=lambda sample: (sample.cell, sample.needle_id))
    return Results(str(manifest["model"]["name"]), path, manifest, tuple(ordered))


def load_run(directory: Path) -> Results:
    """The run that lies in a folder.

    Raises:
        ResultsError: it is not the folder of a run, or a line of it cannot be read.
    """
    manifest_path, samples_path = directory / MANIFEST_NAME, directory / SAMPLES_NAME
    if not manifest_path.exists():
        raise ResultsError(f"{directory} has no {MANIFEST_NAME}: it is not the folder of a run")
    manifest = _read_manifest(manifest_path)
    samples = {sample.key: sample for sample in _read_samples(samples_path)}
    return _as_results(directory, manifest, samples.values())


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read as JSON: {error}") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise ResultsError(
            f"{path} has format_version {version!r}; this vniah reads {FORMAT_VERSION}"
        )
    for name, is_right in _MANIFEST_FIELDS.items():
        section, _, key = name.partition(".")
        found = manifest.get(section)
        value = found.get(key) if key and isinstance(found, dict) else found
        if not isinstance(found, dict) or not is_right(value):
            raise ResultsError(f"{path} has no proper {name}: it is not a run's manifest")
    return dict(manifest)


def _is_list_of(*kinds: type) -> Callable[[Any], bool]:
    def is_right(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(type(v) in kinds for v in value)

    return is_right


def _are_depths(value: Any) -> bool:
    if not _is_list_of(int, float, str)(value):
        return False
    try:
        return all(read_depth(depth) >= 0 for depth in value)
    except (ValueError, ArithmeticError):
        return False


_MANIFEST_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "model.name": lambda value: isinstance(value, str),
    "needles.ids": _is_list_of(str),
    "grid.frames": _is_list_of(int),
    "grid.depths": _are_depths,
    "haystack": lambda value: isinstance(value, dict),
    "protocol": lambda value: isinstance(value, dict),
}


def _refuse_difference(earlier: Mapping[str, Any], now: Mapping[str, Any], directory: Path) -> None:
    """Names the first setting in which the two manifests differ."""
    before, after = flatten(earlier), flatten(json.loads(json.dumps(now)))
    for name in sorted(before.keys() | after.keys()):
        if name.split(".")[0] in (ENVIRONMENT_KEY, NOTES_KEY) or name == "haystack.name":
            continue
        if before.get(name) != after.get(name):
            raise RunMismatchError(
                f"{directory} holds a run with {name} = {before.get(name)!r}, this one has "
                f"{after.get(name)!r}; choose another --output, or start anew with --overwrite"
            )


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, such as ``model.name``."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _read_samples(path: Path) -> list[Sample]:
    """The samples of all lines that are whole; none without a file."""
    if not path.exists():
        return []
    samples = []
    # Bytes, as a line may be cut inside a character; what follows the last newline is such a line.
    # str.splitlines would also cut at U+2028 and others that JSON leaves as they are.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            samples.append(Sample.from_json(line.decode("utf-8")))
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise ResultsError(f"{path}, line {number}, is not a sample: {error}") from error
    return samples
