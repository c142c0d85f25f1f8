"""A sweep: every needle in every cell, one flushed line each, going on where it stopped."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vniah.embeddings import FrameStore, encode_haystack, encode_needles
from vniah.errors import ModelError, first_line
from vniah.grid import Grid
from vniah.haystacks import Haystack
from vniah.models.loading import require_protocol
from vniah.models.protocol import (
    AnyModel,
    ChatModel,
    EncodingModel,
    FrameSegment,
)
from vniah.needles import NeedleSet
from vniah.results import FORMAT_VERSION, Results, RunFolder, Sample, grid_record
from vniah.scoring import Score, score_chat, score_sequence
from vniah.tasks.visual import TASK_NAME, Question, questions

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""

_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "av", "datasets", "pillow")


def run_sweep(
    model: AnyModel,
    haystack: Haystack,
    needles: NeedleSet,
    grid: Grid,
    *,
    output: str | Path,
    cache: Path | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Results:
    """Measures every cell of the grid with every needle.

    Encodes what is not encoded yet, then asks one question after the other, and writes each answer
    to ``output`` at once. Started again on the same folder it asks only what is missing.

    Args:
        model: of any of the three levels of `vniah.models.protocol`.
        haystack: at least ``grid.max_frames`` frames long.
        needles: what is inserted and asked.
        grid: numbers of frames and depths.
        output: the run's folder.
        cache: folder for the haystack's embeddings; by default under the user's cache.
        overwrite: throw away what the folder holds instead of going on.
        on_progress: called as work is done.

    Raises:
        RunMismatchError: the folder holds a run with other settings.
        HaystackTooShortError: the haystack is shorter than the grid needs.
    """
    require_protocol(model)
    report = on_progress or (lambda stage, done, total: None)
    manifest = make_manifest(model, haystack, needles, grid)
    folder = RunFolder(Path(output), manifest, overwrite=overwrite)
    todo = [q for q in questions(grid, needles) if not _is_done(folder, q)]
    if not todo:
        return folder.results()
    asker: _Asker
    if isinstance(model, EncodingModel):
        asker, notes = _prepare_cache(model, haystack, needles, grid.max_frames, cache, report)
    else:
        asker, notes = _prepare_chat(model, haystack, needles, grid.max_frames)
    total = len(grid.cells) * len(needles)
    with folder.open(notes):
        for done, question in enumerate(todo, start=total - len(todo) + 1):
            folder.append(_ask(asker, question))
            report("sweep", done, total)
    return folder.results()


_Asker = Callable[[Question], Score]


def _prepare_cache(
    model: EncodingModel,
    haystack: Haystack,
    needles: NeedleSet,
    num_frames: int,
    directory: Path | None,
    report: Progress,
) -> tuple[_Asker, Sequence[str]]:
    """Encodes everything; gives what asks one question, and remarks for the manifest."""
    frame_cache = encode_haystack(
        model,
        haystack,
        num_frames,
        directory=directory,
        on_progress=lambda done, total: report("encode", done, total),
    )
    needle_dir = None if directory is None else directory / f"needles-{needles.sha256[:12]}"
    needle_cache = encode_needles(model, needles, directory=needle_dir)
    source = f"haystack/{haystack.sha256[:12]}"
    needle_segments = {
        n.needle_id: FrameSegment(f"needles/{needles.name}/{n.needle_id}", 0) for n in needles
    }
    store = FrameStore(
        {source: (frame_cache, 0)}
        | {
            segment.source: (needle_cache, index)
            for index, segment in enumerate(needle_segments.values())
        }
    )
    segments = [FrameSegment(source, index) for index in range(num_frames)]

    def ask(question: Question) -> Score:
        needle = question.needle
        shown = question.insert(segments, needle_segments[needle.needle_id])
        sequence = model.compose(shown, needle.question, needle.answer)
        return score_sequence(model, sequence, store)

    return ask, frame_cache.notes()


def _prepare_chat(
    model: ChatModel, haystack: Haystack, needles: NeedleSet, num_frames: int
) -> tuple[_Asker, Sequence[str]]:
    """Reads all frames into memory once: a chat model wants pictures, not embeddings."""
    notes: list[str] = []
    images = [f.image for f in haystack.frames(stop=num_frames, on_damage=notes.append)]

    def ask(question: Question) -> Score:
        needle, index = question.needle, question.cell.needle_index
        picture = np.asarray(needle.image)
        shown = [*images[:index], picture, *images[index : question.cell.num_frames]]
        return score_chat(model, shown, needle.question, needle.answer)

    return ask, notes


def _ask(asker: _Asker, question: Question) -> Sample:
    """One sample; what could not be run for want of memory or of the model's reach is an error."""
    cell, needle = question.cell, question.needle
    asked = Sample(
        task=TASK_NAME,
        num_frames=cell.num_frames,
        depth=cell.depth,
        needle_index=cell.needle_index,
        needle_id=needle.needle_id,
        question=needle.question,
        answer=needle.answer,
    )
    try:
        score = asker(question)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return _with_error(asked, f"out of memory: {first_line(error)}")
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what torch says on the CPU
            raise
        return _with_error(asked, f"out of memory: {first_line(error)}")
    except ModelError as error:
        return _with_error(asked, first_line(error))
    return _with_score(asked, score)


def _with_score(asked: Sample, score: Score) -> Sample:
    return Sample(**{**_fields(asked), **_fields(score)})


def _with_error(asked: Sample, error: str) -> Sample:
    return Sample(**{**_fields(asked), "error": error})


def _fields(record: Any) -> dict[str, Any]:
    return dict(vars(record))


def _is_done(folder: RunFolder, question: Question) -> bool:
    """Whether there is a score; what ended in an error is tried again."""
    key = (
        TASK_NAME,
        question.cell.num_frames,
        question.cell.depth,
        question.needle.needle_id,
        None,
    )
    sample = folder.samples.get(key)
    return sample is not None and sample.error is None


def make_manifest(
    model: AnyModel,
    haystack: Haystack,
    needles: NeedleSet,
    grid: Grid,
) -> dict[str, Any]:
    """Everything that is needed to make the run again, as JSON values.

    All but ``environment`` has to agree when a run is gone on with.
    """
    frame_shape = getattr(model, "frame_shape", None)
    dtype = getattr(model, "dtype", None)
    return {
        "format_version": FORMAT_VERSION,
        "task": TASK_NAME,
        "model": {
            "name": model.name,
            "revision": model.revision,
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
            "tokens_per_frame": None
            if frame_shape is None
            else int(frame_shape[-2])
            if len(frame_shape) > 1
            else 1,
            **_text_values(getattr(model, "settings", {})),
            **_text_values(getattr(model, "encoding", {})),
        },
        "haystack": {"name": haystack.name, **haystack.identity()},
        "needles": {
            "name": needles.name,
            "sha256": needles.sha256,
            "ids": list(needles.ids),
        },
        "grid": grid_record(grid),
        "protocol": {
            "frame_rate": "1 FPS",
            "insertion": "needle inserted before frame floor(depth x num_frames), none replaced",
            "criterion": "argmax at every position of the answer span"
            if isinstance(model, EncodingModel)
            else "generated text",
        },
        "environment": _environment(getattr(model, "device", None)),
    }


def _text_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, str | int | float | bool) else str(v) for k, v in values.items()}


def _environment(device: Any) -> dict[str, Any]:
    """Where the run was made: recorded, but free to differ when it is gone on with."""
    name = str(device) if device is not None else None
    if name is not None and name.startswith("cuda"):
        name = f"{name} ({torch.cuda.get_device_name(device)})"
    return {
        "vniah": importlib.metadata.version("vniah"),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": name,
        "threads": torch.get_num_threads(),
        "packages": {package: importlib.metadata.version(package) for package in _PACKAGES},
    }


def _git_revision() -> str | None:
    """The commit of this package's checkout, "-dirty" if files changed; None for a wheel."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:
        found = subprocess.run(
            [
                "git",
                "-C",
                str(here),
                "describe",
                "--always",
                "--dirty",
                "--abbrev=40",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
