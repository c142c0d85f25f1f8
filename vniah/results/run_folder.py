"""The folder of a run that is being written: new, or resumed."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from vniah.errors import ResultsError
from vniah.files import atomic_path, flush_folder, write_json
from vniah.results.attention import (
    AttentionTrace,
    attention_path,
    attention_paths,
    merge_attention,
)
from vniah.results.folders import require_no_export, require_no_perplexity, require_writable
from vniah.results.manifests import (
    ADAPTIVE_KEY,
    DAMAGED_NAME,
    ENVIRONMENT_KEY,
    LATER_KEY,
    MANIFEST_NAME,
    NOTES_KEY,
    as_read_back,
    is_cut,
    kept_sections,
    read_manifest,
    require_manifest,
    require_same_settings,
)
from vniah.results.membership import Membership
from vniah.results.reading import (
    RANK_SAMPLES_GLOB,
    SAMPLES_NAME,
    as_results,
    has_lines,
    in_order,
    rank_paths,
    read_all_samples,
)
from vniah.results.records import Results
from vniah.results.sample_file import (
    SampleFile,
    count_lines,
    cut_unfinished_line,
    locked,
    writing_to,
)
from vniah.results.samples import SampleResult

_LOG = logging.getLogger("vniah")


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
        ResultsError: the folder cannot be written to, holds something that is not a run, or the
            manifest could not be read back.
    """

    def __init__(
        self, directory: Path, manifest: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.directory = directory
        self.manifest: Mapping[str, Any] = require_manifest(
            as_read_back(manifest), "the manifest of this run"
        )
        self._settings = self.manifest
        self._environment = self.manifest.get(ENVIRONMENT_KEY, {})
        self.samples: dict[str, SampleResult] = {}
        self._manifest_path = directory / MANIFEST_NAME
        self._samples_path = directory / SAMPLES_NAME
        self._overwrite = overwrite
        self._is_upgraded = False
        self._is_cut = False
        self._file: SampleFile | None = None
        self._attention_path: Path | None = None
        self._attention_file: SampleFile | None = None
        self._num_ranks = 1
        require_writable(directory, "a run")
        require_no_export(directory)
        require_no_perplexity(directory)
        if not overwrite:
            self._load()

    def _load(self) -> None:
        """Reads what an earlier start wrote."""
        has_manifest = self._manifest_path.exists()
        self._is_cut = has_manifest and is_cut(self._manifest_path)
        if has_manifest and not self._is_cut:
            earlier = read_manifest(self._manifest_path)
            require_same_settings(earlier, self._settings, self.directory)
            self._is_upgraded = earlier["format_version"] != self._settings["format_version"]
            self.manifest = (
                {**self._settings, **kept_sections(earlier)} if self._is_upgraded else earlier
            )
            self.samples = read_all_samples(self.directory, Membership(self.manifest))
        elif has_lines(self.directory):
            found = f"an empty or cut {MANIFEST_NAME}" if self._is_cut else f"no {MANIFEST_NAME}"
            raise ResultsError(
                f"{self.directory} has {_samples_paths(self.directory)[0].name} but {found}, so "
                f"its settings are unknown: put the {MANIFEST_NAME} back, choose another --output "
                "or add --overwrite"
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
        self._attention_path = attention_path(self.directory, rank, num_ranks)
        with self._lead(notes, environment or {}) if rank == 0 else nullcontext():
            with writing_to(self.directory):
                file = self._file = SampleFile(path, self._manifest_path)
            try:
                yield
            finally:
                self._file = None
                with writing_to(self.directory):
                    file.close()
                    self._close_attention()

    @contextmanager
    def _lead(self, notes: Sequence[str], environment: Mapping[str, Any]) -> Iterator[None]:
        """Prepares the folder for all processes that write, and locks it."""
        with writing_to(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            flush_folder(self.directory.parent)
        with locked(self.directory):
            with writing_to(self.directory):
                if self._overwrite:
                    for path in (
                        *_samples_paths(self.directory),
                        *attention_paths(self.directory),
                        self._manifest_path,
                    ):
                        path.unlink(missing_ok=True)
                else:
                    self._require_no_progress()
                self._record(notes, environment)
                if rank_paths(self.directory):
                    self._merge_files()
                cut_unfinished_line(self._samples_path)
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
        now = as_read_back({**self._environment, **environment})
        if self._is_cut and not self._overwrite:
            self._set_aside()
        if not self._manifest_path.exists():
            self.manifest = {**self.manifest, ENVIRONMENT_KEY: now, NOTES_KEY: list(notes)}
            write_json(self._manifest_path, self.manifest)
            return
        changed = self._take_adaptive(self._settings.get(ADAPTIVE_KEY)) or self._is_upgraded
        if environment:
            first = dict(self.manifest.get(ENVIRONMENT_KEY, {}))
            later = first.pop(LATER_KEY, [])
            if now not in (first, *later):
                first[LATER_KEY] = [*later, now]
                self.manifest = {**self.manifest, ENVIRONMENT_KEY: first}
                changed = True
        if changed:
            write_json(self._manifest_path, self.manifest)

    def record(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes sections into the manifest that say how the run ended; only inside `open`."""
        assert self._file is not None, "RunFolder.record outside of its open block"
        new = {
            name: section
            for name, section in sections.items()
            if not section.items() <= self.manifest.get(name, {}).items()  # else it is known
        }
        if new:
            self.manifest = {**self.manifest, **new}
            with writing_to(self.directory):
                write_json(self._manifest_path, self.manifest)

    def _take_adaptive(self, record: Mapping[str, Any] | None) -> bool:
        """Takes up what is known of an adaptive run; None if it is none. Whether that is new."""
        earlier = self.manifest.get(ADAPTIVE_KEY)
        if record is not None and earlier is not None and record.items() <= earlier.items():
            return False  # what it took was recorded at its end
        if record == earlier:
            return False
        others = {name: value for name, value in self.manifest.items() if name != ADAPTIVE_KEY}
        self.manifest = others if record is None else {**others, ADAPTIVE_KEY: dict(record)}
        return True

    def _set_aside(self) -> None:
        """Gives a manifest that was cut another name, so that a new one can be written."""
        if self._manifest_path.stat().st_size:
            self._manifest_path.replace(self.directory / DAMAGED_NAME)
        else:
            self._manifest_path.unlink()
        _LOG.warning(
            "%s was empty or cut, as after a power cut, and there was no sample: the run starts "
            "anew",
            self._manifest_path,
        )

    def merge(self) -> None:
        """Merges the files of all ranks into ``samples.jsonl``, in the order of the plan.

        The leader calls it at the end of its `open` block, when the others have left theirs. The
        file then holds one line for each sample: an error is gone whose sample was run again. With
        one process and no such error the lines stay in the order of running.
        """
        assert self._file is not None, "RunFolder.merge outside of its open block"
        self._file.require_in_place()
        with writing_to(self.directory):
            is_repeated = count_lines(self._samples_path) > len(self.samples)
            if self._num_ranks > 1 or is_repeated:
                self._file.close()
                self._file = None
                self._close_attention()
                self._merge_files()

    def _merge_files(self) -> None:
        """Makes one file of all; a kill at any moment leaves every sample in at least one file."""
        paths = rank_paths(self.directory)
        self.samples = read_all_samples(self.directory, Membership(self.manifest))
        ordered = in_order(self.samples.values(), self.manifest)
        with atomic_path(self._samples_path, is_locked=True) as path, path.open("wb") as file:
            file.writelines(map(_line, ordered))
        merge_attention(self.directory, (sample.sample_id for sample in ordered))
        for path in paths:
            path.unlink()

    def append(self, sample: SampleResult, attention: AttentionTrace | None = None) -> None:
        """Writes one line at once; only inside the block of `open`.

        Args:
            sample: the result.
            attention: that of the sample to its needle, if it was traced; it is written first.

        Raises:
            ResultsError: the disk is full or cannot be written to, or the folder is gone.
        """
        assert self._file is not None, "RunFolder.append outside of its open block"
        with writing_to(self.directory):
            if attention is not None:
                if self._attention_file is None:
                    assert self._attention_path is not None
                    self._attention_file = SampleFile(self._attention_path, self._manifest_path)
                self._attention_file.append(attention.to_json() + b"\n")
            self._file.append(_line(sample))
        self.samples[sample.sample_id] = sample

    def _close_attention(self) -> None:
        if self._attention_file is not None:
            self._attention_file.close()
            self._attention_file = None

    def has_score(self, sample_id: str) -> bool:
        """True if this sample has a score. Samples that ended in an error are run again."""
        sample = self.samples.get(sample_id)
        return sample is not None and sample.error is None

    def results(self) -> Results:
        """What was there and what this process wrote; after `merge`, all that the folder holds."""
        return as_results(self.directory, self.manifest, self.samples.values())


def _line(sample: SampleResult) -> bytes:
    return sample.to_json().encode() + b"\n"


def _done(samples: Mapping[str, SampleResult]) -> set[str]:
    return {key for key, sample in samples.items() if sample.error is None}


def _rank_path(directory: Path, rank: int) -> Path:
    return directory / RANK_SAMPLES_GLOB.replace("*", f"{rank:04d}")


def _samples_paths(directory: Path) -> list[Path]:
    """All files of samples, those with the oldest lines first."""
    path = directory / SAMPLES_NAME
    return ([path] if path.exists() else []) + rank_paths(directory)
