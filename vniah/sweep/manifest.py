"""The manifest of a run: everything that is needed to repeat it."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch

from vniah.engines.base import ARGMAX, Engine
from vniah.engines.interventions import Intervention
from vniah.files import PACKAGE_DIR
from vniah.grid import Grid
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.library import VideoLibrary
from vniah.needles import Needle, NeedleSet
from vniah.options import Decoding
from vniah.options.approximation import Approximation
from vniah.protocol import (
    HAYSTACK,
    AnyModel,
    blended_source,
    class_path,
    class_record,
    needle_source,
    tokens_per_frame,
)
from vniah.results import FORMAT_VERSION, grid_record
from vniah.tasks.base import Sample, Task, is_of_text
from vniah.tasks.controls import ChosenControls
from vniah.tasks.details import details_of

_INSERTION = "needle inserted before frame floor(depth x num_frames), none replaced"
_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "av", "datasets", "pillow")

ATTENTION_TRACE = {
    "rows": "all tokens behind the last frame, or behind the text",
    "seen": "mass on needle and token behind it over halfway from equal attention to 1",
}
"""What a run with ``--trace-attention`` keeps, as its manifest says it."""

EARLIER_DEFAULT = ["no-needle"]
"""The default controls of the built-in task before there were others."""


def make_manifest(
    model: AnyModel,
    haystack: AnyHaystack,
    needles: NeedleSet,
    grid: Grid,
    engine: Engine,
    task: Task,
    samples: Sequence[Sample],
    approximation: Approximation | None = None,
    intervention: Intervention | None = None,
    *,
    traces_attention: bool = False,
) -> dict[str, Any]:
    """Everything that is needed to repeat the run, as JSON values.

    When a run is resumed, everything but ``environment`` has to be the same.

    Args:
        model: the model that is measured.
        haystack: the video.
        needles: what is inserted, with its questions and answers.
        grid: numbers of frames, and depths or positions.
        engine: reads the candidate answers.
        task: makes and scores the samples.
        samples: all samples, controls included.
        approximation: how far the run is approximate; None for an exact one.
        intervention: with which each sample of the test is run once more; None for most runs.
        traces_attention: whether the attention to the needle is kept.
    """
    return manifest_of_plan(
        plan_record(haystack, needles, grid, task, samples),
        model_record(model),
        criterion=_criterion(engine, task),
        scorer=None if engine.decoding is None else _scorer_record(engine.decoding),
        approximation=None if approximation is None else approximation.record(),
        intervention=None if intervention is None else intervention.record(),
        attention_trace=ATTENTION_TRACE if traces_attention else None,
        environment={
            **environment_record(getattr(model, "device", None)),
            **origin_record(haystack),
        },
    )


def model_record(model: AnyModel) -> dict[str, Any]:
    """What a manifest says of the model that is measured."""
    dtype = getattr(model, "dtype", None)
    return {
        "name": model.name,
        "revision": None if model.revision is None else str(model.revision),
        **class_record(model),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "tokens_per_frame": tokens_per_frame(model),
        **_text_values(getattr(model, "settings", {})),
        **_text_values(getattr(model, "encoding", {})),
    }


def plan_record(
    haystack: AnyHaystack, needles: NeedleSet, grid: Grid, task: Task, samples: Sequence[Sample]
) -> dict[str, Any]:
    """What a manifest says of the samples, which is the same for every model.

    Args:
        haystack: as `make_manifest`.
        needles: as `make_manifest`.
        grid: as `make_manifest`.
        task: as `make_manifest`.
        samples: as `make_manifest`.
    """
    details = details_of(task)
    return {
        "task": task.name,
        "axes": list(task.axes),
        "controls": list(dict.fromkeys(s.control for s in samples if s.control is not None)),
        **({"task_details": details} if details else {}),
        "haystack": {"name": haystack.name, **haystack.identity()},
        "needles": _needles_record(needles, samples),
        "grid": grid_record(grid),
        "protocol": {
            **({"frame_rate": rate} if (rate := _frame_rate(task)) else {}),
            "insertion": str(getattr(task, "insertion", _INSERTION)),
        },
        "sample_ids": " ".join(sample.sample_id for sample in samples),
    }


def _frame_rate(task: Task) -> str | None:
    """Which pictures of a video are its frames; None for a task of text."""
    if is_of_text(task):
        return None
    return str(getattr(task, "frame_rate", "1 FPS"))


def manifest_of_plan(
    plan: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    criterion: str,
    environment: Mapping[str, Any],
    scorer: Mapping[str, Any] | None = None,
    approximation: Mapping[str, Any] | None = None,
    intervention: Mapping[str, Any] | None = None,
    attention_trace: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a run, with its sections in the order in which people read them.

    Args:
        plan: of `plan_record`.
        model: what was measured.
        criterion: what makes an answer right.
        environment: where the run was made.
        scorer: how answers were generated, where that is known.
        approximation: how far the run is approximate; None for an exact one.
        intervention: what was applied, for samples of its own; None for most runs.
        attention_trace: what is kept of the attention to needles; None for nothing.
    """
    first = ("task", "axes", "controls", "task_details")
    return {
        "format_version": FORMAT_VERSION,
        **{name: plan[name] for name in first if name in plan},
        "model": dict(model),
        **{name: plan[name] for name in ("haystack", "needles", "grid")},
        "protocol": {**plan["protocol"], "criterion": criterion},
        **({} if scorer is None else {"scorer": dict(scorer)}),
        **({} if approximation is None else {"approximation": dict(approximation)}),
        **({} if intervention is None else {"intervention": dict(intervention)}),
        **({} if attention_trace is None else {"attention_trace": dict(attention_trace)}),
        "sample_ids": plan["sample_ids"],
        "environment": dict(environment),
    }


def _needles_record(needles: NeedleSet, samples: Sequence[Sample]) -> dict[str, Any]:
    """The needle set; with what it declares where the samples of the test may depend on that.

    They cannot where each shows no other picture than that of its own needle, and asks its
    question. So the manifests of such runs are the same as before needles declared anything.
    """
    record = {"name": needles.name, "sha256": needles.sha256, "ids": list(needles.ids)}
    declared = needles.declared_sha256
    if declared is not None:
        tests = (sample for sample in samples if sample.control is None)
        if any(_goes_beyond_its_needle(sample, needles) for sample in tests):
            record["declared_sha256"] = declared
    return record


def _goes_beyond_its_needle(sample: Sample, needles: NeedleSet) -> bool:
    """Whether a sample shows other pictures than its needle's, or asks something else."""
    needle = needles.pictures.get(str(sample.fields.get("needle_id")))
    if not isinstance(needle, Needle) or sample.question != needle.question:
        return True
    own = {HAYSTACK, needle_source(needle.needle_id)}
    own |= {blended_source(needle.needle_id, number) for number in range(needle.num_frames)}
    return any(span.source not in own for span in sample.shown)


def run_key(manifest: Mapping[str, Any], model: AnyModel, *, controls: ChosenControls) -> str:
    """Eight hexadecimal digits that are the same for the same settings, for a folder's name.

    They are computed from what version 0.1 had in a manifest, so that runs it began are found. A
    run with other controls than the default ones of then has a folder of its own.
    """
    of_version_1 = ("task", "haystack", "needles", "grid", "protocol", "scorer")
    # The last three no run of then has.
    named = (*of_version_1, "approximation", "intervention", "attention_trace")
    settings = {name: manifest[name] for name in named if name in manifest}
    settings["needles"] = {n: settings["needles"][n] for n in ("name", "sha256", "ids")}
    if own := manifest.get("task_details", {}).get("settings"):
        settings["task_settings"] = own
    settings |= {"format_version": 1, "model": {"class": class_path(model), **manifest["model"]}}
    if controls != "default" or manifest["controls"] not in ([], EARLIER_DEFAULT):
        settings["controls"] = manifest["controls"]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _criterion(engine: Engine, task: Task) -> str:
    """What makes an answer right; a task may have its own where the argmax does not decide."""
    own = getattr(task, "criterion", engine.criterion)
    return str(own) if engine.criterion == ARGMAX else engine.criterion


def _scorer_record(decoding: Decoding) -> dict[str, Any]:
    return {
        "name": "generate",
        "decoding": "greedy",
        "max_new_tokens": decoding.max_new_tokens,
        "stop_ids": list(decoding.stop_ids),
    }


def _text_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON values; what JSON cannot hold, or a reader would refuse, is text."""
    return {str(name): v if _is_plain(v) else str(v) for name, v in values.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < 2**63)


def environment_record(device: Any) -> dict[str, Any]:
    """Where the run was made: recorded, but free to differ when the run is resumed."""
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


def origin_record(haystack: AnyHaystack) -> dict[str, Any]:
    """Where a question set is from, if it is a data set; its bytes decide, and not its origin."""
    origin = dict(haystack.origin) if isinstance(haystack, VideoLibrary) else {}
    return {"questions": origin} if origin else {}


def _git_revision() -> str | None:
    """The commit of this package's checkout, "-dirty" if files changed; None for a wheel."""
    if not (PACKAGE_DIR.parent / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=PACKAGE_DIR,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
