"""Checkpoint folders: weights from safetensors into modules, in their dtype, never twice in memory.

Also the device and dtype that options name, and one-line errors for a folder that cannot be loaded.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vniah.errors import InputError, ModelError, VniahError, first_line
from vniah.files import hash_file, hash_text
from vniah.options import LoadOptions

_SMALL_FILES = (".json", ".model", ".txt", ".jinja")
_INDEX_NAME = "model.safetensors.index.json"


def find_device(name: str | None) -> torch.device:
    """The device with that name; without a name, CUDA where there is some, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).fill_(1)
        if device.type == "meta" or (device.type == "cpu" and device.index):
            raise RuntimeError("not a device that computes")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {name!r} cannot be used here; try cpu") from error
    return device


def torch_dtype(options: LoadOptions) -> torch.dtype | None:
    """The dtype that the options name; None if they leave it to the checkpoint."""
    dtype: torch.dtype | None = None if options.dtype is None else getattr(torch, options.dtype)
    return dtype


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The ``config.json`` of a checkpoint folder, or another such file.

    Raises:
        ModelError: it is missing or not JSON.
    """
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{folder} has no {name}: it is not a checkpoint folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object")
    return config


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up a checkpoint, by its index where there is one.

    Raises:
        ModelError: there are none, or the index names one that is missing.
    """
    index_path = folder / _INDEX_NAME
    if index_path.is_file():
        try:
            names = sorted(set(json.loads(index_path.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index_path} is not an index of safetensors files") from error
        paths = tuple(folder / name for name in names)
    else:
        paths = tuple(sorted(folder.glob("*.safetensors")))
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ModelError(
            f"{folder} lacks {missing[0]}, which its index names; download the checkpoint again"
        )
    if not paths:
        pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
        hint = f" ({pickled[0].name} is a pickle, which vniah never loads)" if pickled else ""
        raise ModelError(f"{folder} has no *.safetensors weights{hint}")
    return paths


def fingerprint(folder: Path) -> str:
    """A short hash over the content of configuration, tokenizer and weights."""
    inside = read_config(folder).get("mm_vision_tower")
    folders = [folder, folder / inside] if isinstance(inside, str) else [folder]
    paths = [
        path
        for inner in folders
        for path in sorted(inner.glob("*"))
        if path.suffix in _SMALL_FILES and path.is_file()
    ]
    paths += weight_files(folder)

    with ThreadPoolExecutor() as pool:
        names = (path.relative_to(folder).as_posix() for path in paths)
        digests = list(zip(names, pool.map(hash_file, paths), strict=True))
    return hash_text(repr(digests))[:16]


def count_stored(folder: Path) -> int:
    """How many numbers the weights hold, read from the headers of their files."""
    total = 0
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - a handle, not a dictionary
                    total += prod(file.get_slice(name).get_shape())
        except SafetensorError as error:
            raise ModelError(f"{path} cannot be read as safetensors: {error}") from error
    return total


def stored_dtype(folder: Path) -> torch.dtype:
    """The floating-point dtype in which the weights are stored: that of the first tensor found."""
    for _, tensor in _tensors(folder, lambda name: True):
        if tensor.is_floating_point():
            return tensor.dtype
    raise ModelError(f"{folder} holds no floating-point weights")


def load_weights(
    folder: Path,
    parts: Mapping[str, nn.Module],
    *,
    rename: Callable[[str], tuple[str, str] | None],
    dtype: torch.dtype,
    device: torch.device,
    optional: frozenset[str] = frozenset(),
    stays_in_host: Callable[[str, str], bool] = lambda part, name: False,
) -> None:
    """Fills modules that were built on the meta device, tensor by tensor.

    Args:
        folder: a checkpoint folder with safetensors weights.
        parts: modules by the names that ``rename`` uses.
        rename: gives (part, name in the part) for a tensor's name, or None to skip it.
        dtype: to which every floating-point tensor is converted while it is read.
        device: where the weights are put.
        optional: names (``part.name``) that may be missing, such as that of a tied head.
        stays_in_host: called with part and name in the part; True leaves it in host memory.

    Raises:
        ModelError: a weight is missing, unknown or of another shape; the message names it.
    """
    wanted = {
        f"{part}.{name}": tensor.shape
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    states: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for name, stored in _tensors(folder, lambda name: rename(name) is not None):
        target = rename(name)
        assert target is not None
        shape = wanted.pop(".".join(target), None)
        if shape is None:
            raise ModelError(f"{folder} holds the weight {name!r}, which the model does not have")
        if shape != stored.shape:
            raise ModelError(
                f"{folder} holds {name!r} of shape {list(stored.shape)}, "
                f"its config.json makes it {list(shape)}"
            )
        tensor = stored if stays_in_host(*target) else stored.to(device)
        states[target[0]][target[1]] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    if missing := sorted(wanted.keys() - optional):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{folder} lacks the weight {missing[0]!r}{more}")
    for part, module in parts.items():
        module.load_state_dict(states[part], strict=False, assign=True)
        module.requires_grad_(False).eval()


@contextmanager
def reported(folder: Path, what: str) -> Iterator[None]:
    """Turns errors of transformers about a folder into a `ModelError` with one line.

    Args:
        folder: the folder that is loaded.
        what: which part of it is read, e.g. ``"the tokenizer in"``.
    """
    try:
        yield
    except VniahError:
        raise
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ImportError,
        ArithmeticError,
        AssertionError,
        MemoryError,
        RuntimeError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        raise ModelError(f"{what} {folder} cannot be loaded: {first_line(error)}") from error


def _tensors(folder: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors; a tensor is read from the file when it is copied or used."""
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 - a handle, not a dictionary
                    if is_wanted(name):
                        yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{path} cannot be read as safetensors: {error}") from error
