"""Exports the samples of a grid as videos with questions, for other harnesses and hosted models."""

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import cast

from vniah.engines.base import Pictures
from vniah.errors import ResultsError, VniahError, counted, first_line
from vniah.files import to_json
from vniah.grid import Grid
from vniah.haystacks.haystack import Haystack
from vniah.haystacks.library import VideoLibrary
from vniah.needles import NeedleSet
from vniah.options import DEFAULT_QUANTIZER
from vniah.paths import user_path
from vniah.protocol import FrameSpan
from vniah.results.manifests import as_read_back
from vniah.scoring import GeneratedText, Reading
from vniah.sweep.exchange.folder import (
    FORMAT_VERSION,
    ExportFolder,
    ExportManifest,
    PlanRecord,
    TaskRecord,
)
from vniah.sweep.exchange.records import in_readable_order, metadata_rows, plan_line, video_name
from vniah.sweep.exchange.videos import (
    PictureStore,
    StoredPicture,
    VideoFormat,
    size_of_video,
)
from vniah.sweep.manifest import environment_record, origin_record, plan_record
from vniah.sweep.outcomes import require_readable
from vniah.sweep.progress import Bars, OnProgress
from vniah.tasks import Sample, Task, load_task
from vniah.tasks.controls import ChosenControls, plan_samples
from vniah.tasks.parsing import Option

_LOG = logging.getLogger("vniah")


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        path: the folder.
        num_samples: lines of its ``metadata.jsonl``.
        num_videos: its videos; samples that show the same frames share one.
        num_bytes: of all videos; of texts, of ``metadata.jsonl``.
        num_written: videos, or lines of texts, that this start wrote; the others were there
            already.
        notes: remarks on the haystack, such as damage that was kept.
    """

    path: Path
    num_samples: int
    num_videos: int
    num_bytes: int
    num_written: int
    notes: tuple[str, ...] = ()


def export_samples(
    haystack: Haystack | VideoLibrary,
    needles: NeedleSet,
    grid: Grid,
    *,
    output: str | Path,
    task: str | Task = "vniah",
    task_options: Mapping[str, Option] | None = None,
    controls: ChosenControls = "default",
    frame_size: tuple[int, int] | None = None,
    quantizer: int = DEFAULT_QUANTIZER,
    overwrite: bool = False,
    progress: bool = True,
    on_progress: OnProgress | None = None,
) -> Export:
    """Writes the samples of a grid as videos, with their questions in ``metadata.jsonl``.

    The folder has the layout that `datasets` calls *videofolder*. A video has one picture for each
    second, and samples that show the same frames share it. Started again on the same folder it
    writes only what is missing. `import_answers` makes a run of what a model answers.

    Args:
        haystack: at least ``grid.max_frames`` frames long; or the videos of a question set.
        needles: what is inserted, with its questions and answers.
        grid: numbers of frames, and depths or positions.
        output: the folder.
        task: as `vniah.run_sweep`.
        task_options: as `vniah.run_sweep`.
        controls: as `vniah.run_sweep`.
        frame_size: (width, height) of the videos in pixels; by default that of the haystack's first
            frame. Pictures of another size are fitted into it, undistorted, with black bars; a side
            of an odd number of pixels gets one more.
        quantizer: of H.264, from 1 to 51: a smaller one gives better pictures and larger files.
        overwrite: discard what an earlier export has left in the folder.
        progress: whether to show progress bars on stderr, or in the notebook.
        on_progress: called in place of the bars as work is done.

    For a task of text see `vniah.sweep.exchange.texts.export_texts`.

    Raises:
        RunMismatchError: the folder holds an export with other settings.
        ResultsError: the folder holds something else, cannot be written to, or lacks the space.
        HaystackTooShortError: the haystack is shorter than the grid needs.
        InputError: an option is invalid.
        TaskError: there is no such task, or its samples are invalid.
    """
    folder = user_path(output, "the output")
    loaded = load_task(task, task_options)
    remarks: list[str] = []
    samples = plan_samples(loaded, grid, needles, haystack, controls, on_note=remarks.append)
    require_readable(loaded, samples, needles)
    plan = [plan_line(sample) for sample in samples]
    video_format = VideoFormat.fitting(frame_size or _size_of(haystack), quantizer)
    source = task if isinstance(task, str) else None
    manifest = ExportManifest(
        format_version=FORMAT_VERSION,
        task=TaskRecord(
            source=source,
            options=dict(task_options or {}),
            controls=controls if isinstance(controls, str) else None,
        ),
        plan=cast("PlanRecord", plan_record(haystack, needles, grid, loaded, samples)),
        video=video_format.record(),
        plan_sha256=hashlib.sha256(b"".join(plan)).hexdigest(),
        environment=environment_record(None) | origin_record(haystack),
        notes=remarks,
    )
    export = ExportFolder(
        folder, cast("ExportManifest", as_read_back(manifest)), overwrite=overwrite
    )
    rows = metadata_rows(samples, accepted_answers(loaded, samples), loaded.name)
    lines = [to_json(row) + b"\n" for row in in_readable_order(rows)]
    shown = {name: s.shown for s in samples if (name := video_name(s.shown)) is not None}
    with Bars(progress and on_progress is None) as bars, export.open(plan):
        missing = {name: spans for name, spans in shown.items() if not (folder / name).exists()}
        if missing:
            makers = (haystack, needles, grid.max_frames, video_format)
            _write_missing(export, missing, *makers, on_progress or bars.show)
        export.finish(lines)
        num_bytes = sum((folder / name).stat().st_size for name in shown)
        notes = tuple(export.notes)
    return Export(folder, len(samples), len(shown), num_bytes, len(missing), notes)


def _size_of(haystack: Haystack | VideoLibrary) -> tuple[int, int]:
    """(width, height) of the first frame."""
    (frame,) = haystack.frames(stop=1)
    height, width = frame.image.shape[:2]
    return width, height


def accepted_answers(task: Task, samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """For each sample those of its candidates that its task counts as right when they are written.

    Where the task cannot score a text, that is said once; a run with a chat model has the same
    error in each of these samples.
    """
    found: list[tuple[str, ...]] = []
    faults: dict[str, str] = {}
    for sample in samples:
        right = []
        for text in dict.fromkeys((*sample.candidates, sample.answer)):
            try:
                score = task.score(sample, (Reading(0.0, generated=GeneratedText(text)),))
            except Exception as error:  # noqa: BLE001  # somebody's task may raise anything
                reason = first_line(error)
                is_known = isinstance(error, VniahError)
                faults[sample.sample_id] = (
                    reason if is_known else f"{type(error).__name__}: {reason}"
                )
                break
            if score.correct:
                right.append(text)
        if not right:
            faults.setdefault(sample.sample_id, "its own answer is not right when it is written")
        found.append(tuple(right) or (sample.answer,))
    if faults:
        first, reason = next(iter(faults.items()))
        _LOG.warning(
            f"{counted(len(faults), 'sample')} cannot be scored from a written answer, the first "
            f"is {first}: {reason}"
        )
    return found


def _write_missing(
    export: ExportFolder,
    missing: Mapping[str, Sequence[FrameSpan]],
    haystack: Haystack | VideoLibrary,
    needles: NeedleSet,
    num_frames: int,
    video_format: VideoFormat,
    report: OnProgress,
) -> None:
    """Encodes every picture, then writes the videos, if the disk has space for all of them."""
    notes = list(export.notes_of_plan)
    with PictureStore.open(video_format, export.path) as store:
        pictures: Pictures[StoredPicture] = Pictures.of(
            haystack,
            needles,
            num_frames,
            store.add,
            notes=notes,
            shown=chain.from_iterable(missing.values()),
            most_of_library=None,
            on_progress=lambda done, total: report("encode", done, total),
        )
        export.record(notes)
        needed = sum(size_of_video(pictures.show(spans)) for spans in missing.values())
        free = shutil.disk_usage(export.path).free
        in_words = f"{counted(len(missing), 'video')}, {in_megabytes(needed)} in all"
        if needed > free:
            raise ResultsError(
                f"{in_words}, do not fit on the disk of {export.path}, which has "
                f"{in_megabytes(free)} left; choose another --output, a coarser grid, a smaller "
                "--frame-size or a larger --quantizer"
            )
        _LOG.info(f"{in_words}, to write")
        for done, (name, spans) in enumerate(missing.items()):
            report("write", done, len(missing))
            store.write_video(export.path / name, pictures.show(spans))
        report("write", len(missing), len(missing))


def in_megabytes(num_bytes: int) -> str:
    """A size for a message."""
    return f"{num_bytes / 1e6:,.1f} MB"
