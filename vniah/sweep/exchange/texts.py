"""Exports the samples of a task of text: whole prompts, for other harnesses and hosted models."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from vniah.errors import InputError, ResultsError, counted
from vniah.files import to_json
from vniah.grid import Grid
from vniah.haystacks.text import TextHaystack
from vniah.models.tokenizers import TokenCounter
from vniah.needles import NeedleSet
from vniah.paths import user_path
from vniah.results.manifests import as_read_back
from vniah.sweep.exchange.export import Export, accepted_answers, in_megabytes
from vniah.sweep.exchange.folder import (
    FORMAT_VERSION,
    METADATA_NAME,
    ExportFolder,
    ExportManifest,
    PlanRecord,
    TaskRecord,
    TokenizerRecord,
)
from vniah.sweep.exchange.records import in_readable_order, metadata_rows, plan_line
from vniah.sweep.manifest import environment_record, plan_record
from vniah.sweep.outcomes import require_readable
from vniah.tasks import Sample, Task, load_task
from vniah.tasks.base import is_of_text
from vniah.tasks.controls import ChosenControls, plan_samples
from vniah.tasks.parsing import Option


def export_texts(
    haystack: TextHaystack,
    needles: NeedleSet,
    grid: Grid,
    *,
    tokenizer: TokenCounter,
    output: str | Path,
    task: str | Task = "niah",
    task_options: Mapping[str, Option] | None = None,
    controls: ChosenControls = "default",
    overwrite: bool = False,
) -> Export:
    """Writes the samples of a grid of texts as lines of ``metadata.jsonl``, each with its prompt.

    `vniah.sweep.exchange.importing.import_answers` makes a run of what a model answers.

    Args:
        haystack: at least ``grid.max_frames`` tokens long.
        needles: what is inserted, with its questions and answers.
        grid: numbers of tokens, and depths.
        tokenizer: that of the model that is to answer; it counts the tokens.
        output: the folder.
        task: as `vniah.run_sweep`.
        task_options: as `vniah.run_sweep`.
        controls: as `vniah.run_sweep`.
        overwrite: discard what an earlier export has left in the folder.

    Raises:
        RunMismatchError: the folder holds an export with other settings.
        ResultsError: the folder holds something else, cannot be written to, or lacks the space.
        HaystackTooShortError: the haystack is shorter than the grid needs.
        InputError: the task shows frames.
        TaskError: there is no such task, or its samples are invalid.
    """
    folder = user_path(output, "the output")
    loaded = load_task(task, task_options)
    if not is_of_text(loaded):
        raise InputError(
            f"the task {loaded.name} shows frames, of which export_samples makes videos; give a "
            "task of text, such as niah"
        )
    remarks: list[str] = []
    text = haystack.read_by(tokenizer, grid.max_frames)
    samples = plan_samples(loaded, grid, needles, text, controls, on_note=remarks.append)
    require_readable(loaded, samples, needles)
    plan = [plan_line(sample, text.count(sample.prompt)) for sample in samples]
    manifest = ExportManifest(
        format_version=FORMAT_VERSION,
        task=TaskRecord(
            source=task if isinstance(task, str) else None,
            options=dict(task_options or {}),
            controls=controls if isinstance(controls, str) else None,
        ),
        plan=cast("PlanRecord", plan_record(haystack, needles, grid, loaded, samples)),
        tokenizer=TokenizerRecord(name=tokenizer.name, sha256=tokenizer.sha256),
        plan_sha256=hashlib.sha256(b"".join(plan)).hexdigest(),
        environment=environment_record(None),
        notes=remarks,
    )
    export = ExportFolder(
        folder, cast("ExportManifest", as_read_back(manifest)), overwrite=overwrite
    )
    rows = metadata_rows(samples, accepted_answers(loaded, samples), loaded.name)
    metadata = folder / METADATA_NAME
    with export.open(plan):
        is_there = metadata.exists()
        if not is_there:
            _require_space(samples, folder)
            export.finish(_lines(in_readable_order(rows), samples))
        notes = tuple(export.notes)
    num_written = 0 if is_there else len(samples)
    return Export(folder, len(samples), 0, metadata.stat().st_size, num_written, notes)


def _lines(rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample]) -> Iterator[bytes]:
    """The lines of the metadata; prompts are put together one by one, as they may be long."""
    by_id = {sample.sample_id: sample for sample in samples}
    for row in rows:
        yield to_json({"prompt": by_id[row["sample_id"]].prompt, **row}) + b"\n"


def _require_space(samples: Sequence[Sample], folder: Path) -> None:
    """Raises `ResultsError` if the disk has no space for all prompts."""
    needed = sum(len(sample.prompt.encode()) for sample in samples)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResultsError(
            f"{counted(len(samples), 'prompt')}, {in_megabytes(needed)} in all, do not fit on the "
            f"disk of {folder}, which has {in_megabytes(free)} left; choose another --output, or a "
            "coarser grid"
        )
