"""The manifest of a run: everything that is needed to make it again."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import torch

from vniah.files import PACKAGE_DIR
from vniah.grid import Grid
from vniah.haystacks.haystack import Haystack
from vniah.needles import NeedleSet
from vniah.options import Decoding
from vniah.protocol import AnyModel, EncodingModel, class_record
from vniah.results import FORMAT_VERSION, grid_record
from vniah.tasks.vniah import TASK_NAME

_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "av", "datasets", "pillow")


def make_manifest(
    model: AnyModel,
    haystack: Haystack,
    needles: NeedleSet,
    grid: Grid,
    decoding: Decoding | None = None,
) -> dict[str, Any]:
    """Everything that is needed to make the run again, as JSON values.

    All but ``environment`` has to agree when a run is gone on with.

    Args:
        model: what is measured.
        haystack: on which video.
        needles: what is inserted and asked.
        grid: numbers of frames, and depths or positions.
        decoding: how answers are generated; None where the argmax decides, or a chat model answers.
    """
    frame_shape = getattr(model, "frame_shape", None)
    dtype = getattr(model, "dtype", None)
    return {
        "format_version": FORMAT_VERSION,
        "task": TASK_NAME,
        "model": {
            "name": model.name,
            "revision": model.revision,
            **class_record(model),
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
            if isinstance(model, EncodingModel) and decoding is None
            else "generated text",
        },
        **({} if decoding is None else {"scorer": _scorer_record(decoding)}),
        "environment": _environment(getattr(model, "device", None)),
    }


def _scorer_record(decoding: Decoding) -> dict[str, Any]:
    return {
        "name": "generate",
        "decoding": "greedy",
        "max_new_tokens": decoding.max_new_tokens,
        "stop_ids": list(decoding.stop_ids),
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
    here = PACKAGE_DIR
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
