"""The folder of a run that is being written: new, or resumed."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from io import FileIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vniah.errors import ResultsError, RunMismatchError, short_repr
from vniah.files import atomic_path, write_json
from vniah.results.reading import (
    ENVIRONMENT_KEY,
    MANIFEST_NAME,
    RANK_SAMPLES_GLOB,
    SAMPLES_NAME,
    as_results,
    flatten,
    in_order,
    rank_paths,
    read_all_samples,
    read_manifest,
)
from vniah.results.records import Results, SampleResult

LOCK_NAME = ".lock"

LATER_KEY = "later_starts"
NOTES_KEY = "notes"
_FREE_SECTIONS = (ENVIRONMENT_KEY, NOTES_KEY)
"""Sections of the manifest that may differ when a run is resumed."""

_CLASS_FIELD = "model.class"


class RunFolder:
    """A run that is being written, one line for each sample; it resumes where it was stopped.

    The constructor only reads: it loads what an earlier start wrote, and refuses another run. In
    the block of `open`, which writes the manifest if there is none, samples can be appended. `open`
    also removes a last line that was cut in the middle, so no incomplete line is ever read.

    A run of several processes has one file for each rank while it is going on. If it is killed
    before they are merged, the next start merges them, with any number of processes.

    Args:
        directory: the run's folder; need not exist yet.
        manifest: what `vniah.sweep.manifest.make_manifest` returns. Only its ``environment`` may
            differ from that of the manifest in the folder.
        overwrite: ignore what the folder holds; `open` removes it.

    Raises:
        RunMismatchError: the folder holds a run with other settings; the message names the first.
    """

    def __init__(
        self, directory: Path, manifest: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self._environment = manifest.get(ENVIRONMENT_KEY, {})
        self.samples: dict[str, SampleResult] = {}
        self._manifest_path = directory / MANIFEST_NAME
        self._samples_path = directory / SAMPLES_NAME
        self._overwrite = overwrite
        self._is_upgraded = False
        self._file: FileIO | None = None
        self._num_ranks = 1
        _require_writable(directory)
        if not overwrite:
            self._load()

    def _load(self) -> None:
        """Reads what an earlier start wrote."""
        if self._manifest_path.exists():
            earlier = read_manifest(self._manifest_path)
            _require_same_settings(earlier, self.manifest, self.directory)
            self._is_upgraded = earlier["format_version"] != self.manifest["format_version"]
            kept = {name: earlier[name] for name in _FREE_SECTIONS if name in earlier}
            self.manifest = {**self.manifest, **kept} if self._is_upgraded else earlier
            self.samples = read_all_samples(self.directory, self.manifest)
        elif files := _samples_paths(self.directory):
            raise ResultsError(
                f"{self.directory} has {files[0].name} but no {MANIFEST_NAME}, so its settings are "
                "unknown; choose another --output or add --overwrite"
            )

    @contextmanager
    def open(
        self,
        notes: Sequence[str] = (),
        *,
        environment: Mapping[str, Any] | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> Iterator[None]:
        """A block in which samples can be appended, by one process or by the processes of one job.

        Of several processes, rank 0 leads: it alone locks the folder, writes the manifest, and
        merges what an earlier start left into ``samples.jsonl``. The others enter their blocks
        while the leader is in its own, append to files of their own, and leave before the leader
        calls `merge`. All processes must have made their `RunFolder` before any of them appends, so
        that all see the same samples as done.

        Args:
            notes: remarks on the run, such as damage in its video; the leader writes them into the
                manifest.
            environment: what is known of the environment only now; the leader adds it to that of
                the manifest. If the run was begun in another environment, this one is added to its
                ``later_starts``.
            rank: number of this process, in ``[0, num_ranks)``.
            num_ranks: number of processes that write.

        Raises:
            ResultsError: another process writes to the folder, or wrote since this one read it.
        """
        assert 0 <= rank < num_ranks, f"rank {rank} of {num_ranks}"
        self._num_ranks = num_ranks
        path = self._samples_path if num_ranks == 1 else _rank_path(self.directory, rank)
        with self._lead(notes, environment or {}) if rank == 0 else nullcontext():
            _cut_unfinished_line(path)
            try:
                with path.open("ab", buffering=0) as self._file:
                    yield
            finally:
                self._file = None

    @contextmanager
    def _lead(self, notes: Sequence[str], environment: Mapping[str, Any]) -> Iterator[None]:
        """Prepares the folder for all processes that write, and locks it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if self._overwrite:
                for path in (*_samples_paths(self.directory), self._manifest_path):
                    path.unlink(missing_ok=True)
            else:
                self._require_no_progress()
            self._record(notes, environment)
            self._merge_ranks()
            _cut_unfinished_line(self._samples_path)
            yield

    def _require_no_progress(self) -> None:
        """Raises `ResultsError` if another process has written since this one read the folder."""
        before = _done(self.samples)
        self._load()
        if _done(self.samples) != before:
            raise ResultsError(
                f"another process has written to {self.directory} meanwhile; start the same "
                "command again, and it runs the remaining samples"
            )

    def _record(self, notes: Sequence[str], environment: Mapping[str, Any]) -> None:
        """Writes a new run's manifest, or adds a changed environment to that of a resumed run."""
        now = json.loads(json.dumps({**self._environment, **environment}))  # as it is read back
        if not self._manifest_path.exists():
            self.manifest = {**self.manifest, ENVIRONMENT_KEY: now, NOTES_KEY: list(notes)}
            write_json(self._manifest_path, self.manifest)
            return
        changed = self._is_upgraded
        if environment:
            first = dict(self.manifest.get(ENVIRONMENT_KEY, {}))
            later = first.pop(LATER_KEY, [])
            if now not in (first, *later):
                first[LATER_KEY] = [*later, now]
                self.manifest = {**self.manifest, ENVIRONMENT_KEY: first}
                changed = True
        if changed:
            write_json(self._manifest_path, self.manifest)

    def merge(self) -> None:
        """Merges the files of all ranks into ``samples.jsonl``, in the order of the plan.

        The leader calls it at the end of its `open` block, when the others have left theirs. With
        one process there is nothing to merge, and the lines stay in the order of running.
        """
        assert self._file is not None, "RunFolder.merge outside of its open block"
        if self._num_ranks > 1:
            self._file.close()
            self._file = None
            self._merge_ranks()

    def _merge_ranks(self) -> None:
        """Makes one file of all; a kill at any moment leaves every sample in at least one file."""
        paths = rank_paths(self.directory)
        if not paths:
            return
        self.samples = read_all_samples(self.directory, self.manifest)
        lines = (
            sample.to_json() + "\n" for sample in in_order(self.samples.values(), self.manifest)
        )
        with (
            atomic_path(self._samples_path, is_locked=True) as path,
            path.open("w", encoding="utf-8") as file,
        ):
            file.writelines(lines)
        for path in paths:
            path.unlink()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Locks the folder; the lock ends with the process, however it ends."""
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

    def append(self, sample: SampleResult) -> None:
        """Writes one line at once; only inside the block of `open`."""
        assert self._file is not None, "RunFolder.append outside of its open block"
        line = (sample.to_json() + "\n").encode("utf-8")
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise ResultsError(
                f"{self.directory} cannot be written to: {error.strerror}. What was written is "
                "kept; free some space, and the same command resumes the run"
            ) from error
        self.samples[sample.sample_id] = sample

    def has_score(self, sample_id: str) -> bool:
        """True if this sample has a score. Samples that ended in an error are run again."""
        sample = self.samples.get(sample_id)
        return sample is not None and sample.error is None

    def results(self) -> Results:
        """What was there and what this process wrote; after `merge`, all that the folder holds."""
        return as_results(self.directory, self.manifest, self.samples.values())


def _require_writable(directory: Path) -> None:
    """Raises `ResultsError` before hours of work if the folder cannot be written to."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ResultsError(f"{existing} is a file; the output of a run must be a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ResultsError(
            f"{existing} cannot be written to: {error.strerror}; choose another --output"
        ) from error


def _done(samples: Mapping[str, SampleResult]) -> set[str]:
    return {key for key, sample in samples.items() if sample.error is None}


def _rank_path(directory: Path, rank: int) -> Path:
    return directory / RANK_SAMPLES_GLOB.replace("*", f"{rank:04d}")


def _samples_paths(directory: Path) -> list[Path]:
    """All files of samples, those with the oldest lines first."""
    path = directory / SAMPLES_NAME
    return ([path] if path.exists() else []) + rank_paths(directory)


def _cut_unfinished_line(path: Path) -> None:
    """Removes what follows the last newline: a line that a kill cut in the middle."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        if not content.endswith(b"\n"):  # else the file keeps its modification time
            file.truncate(content.rfind(b"\n") + 1)


def _require_same_settings(
    earlier: Mapping[str, Any], now: Mapping[str, Any], directory: Path
) -> None:
    """Raises `RunMismatchError` that names the first setting in which two manifests differ."""
    before, after = flatten(earlier), flatten(json.loads(json.dumps(now)))
    free = {"haystack.name"}
    if earlier["format_version"] == 1:  # it lacks these settings
        free |= {"format_version", "axes", "controls", "sample_ids"}
    for name in sorted(before.keys() | after.keys()):
        if name.split(".")[0] in _FREE_SECTIONS or name in free:
            continue
        if name == _CLASS_FIELD and not (name in before and name in after):
            continue  # version 0.1 recorded the adapter's class as well, which may have moved since
        if before.get(name) != after.get(name):
            if name == "sample_ids":
                planned = (str(ids.get(name)).split() for ids in (before, after))
                first = next(a or b for a, b in zip_longest(*planned) if a != b)
                raise RunMismatchError(
                    f"{directory} holds a run of other samples, the first is {first}; choose "
                    "another --output, or start anew with --overwrite"
                )
            raise RunMismatchError(
                f"{directory} holds a run with {name} = {short_repr(before.get(name))}, this one "
                f"has {short_repr(after.get(name))}; choose another --output, or start again with "
                "--overwrite"
            )
