"""The weights of a checkpoint: safetensors into modules, in their dtype, never twice in memory.

One set of weights is read, never a mixture: the files that the index names, else
``model.safetensors``, else shards that are all there. Pickles are never read.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vniah.errors import ModelError, first_line
from vniah.forward.sharding import fill_share, rows_held
from vniah.models.configs import read_file

ADAPTER_WEIGHTS = "adapter_model.safetensors"

_INDEX_NAME = "model.safetensors.index.json"
_WHOLE_NAME = "model.safetensors"
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.gguf", "*.npz")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_WHOLE_NUMBERS = ("I64", "I32", "BOOL")
# Buffers that older versions of libraries stored with the weights.
_BUFFERS = ("position_ids", "num_batches_tracked", "relative_position_index")


class _WeightIndex(TypedDict):
    """A model.safetensors.index.json."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header of its file describes it.

    Attributes:
        path: the file.
        dtype: as safetensors writes it, e.g. ``"BF16"``.
        shape: its sizes.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]


def weights_settings(load_in: str | None, adapter: str | None) -> dict[str, str]:
    """What was done to the stored weights, for the manifest.

    Args:
        load_in: in how many bits they are held; None as they are.
        adapter: the record of what was merged into them; None if nothing was.
    """
    settings = {"load_in": load_in, "adapter_weights": adapter}
    return {name: value for name, value in settings.items() if value is not None}


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up a checkpoint, by its index where there is one.

    Raises:
        ModelError: there are none, more than one set of them, or one is missing.
    """
    whole = folder / _WHOLE_NAME
    if (folder / _INDEX_NAME).is_file():
        names = sorted(set(_read_index(folder).values()))
        if whole.is_file() and names != [_WHOLE_NAME]:
            raise ModelError(
                f"{folder} has two sets of weights: {_WHOLE_NAME}, and the files that "
                f"{_INDEX_NAME} names; remove one of them"
            )
        paths = tuple(folder / name for name in names)
        _require_files(folder, paths, "which its index names")
        return paths
    if whole.is_file():
        return (whole,)
    paths = tuple(path for path in sorted(folder.glob("*.safetensors")) if _is_of_model(path))
    if not paths:
        raise ModelError(f"{folder} has no *.safetensors weights{_other_format(folder)}")
    _require_one_set(folder, paths)
    return paths


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """What the headers of a checkpoint's weights describe, by the names of the tensors.

    Raises:
        ModelError: a header cannot be read, a tensor is stored twice, or it is not where the index
            says; or the weights are quantized, by their dtypes.
    """
    found: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        for name, stored in read_header(path).items():
            if name in found:
                raise ModelError(
                    f"{folder} holds the weight {name!r} twice, in {found[name].path.name} and in "
                    f"{path.name}; remove the files that do not belong to it"
                )
            found[name] = stored
    if (folder / _INDEX_NAME).is_file():
        for name, file_name in _read_index(folder).items():
            if name not in found or found[name].path.name != file_name:
                raise ModelError(
                    f"{folder / _INDEX_NAME} says that {name!r} is in {file_name}, and it is not; "
                    "the index and the weights are of different checkpoints"
                )
    _require_plain(folder, found)
    return found


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors that the header of a safetensors file describes, by their names."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - a handle
        return {
            name: StoredTensor(path, str(part.get_dtype()), tuple(part.get_shape()))
            for name, part in slices.items()
        }


def count_stored(folder: Path) -> int:
    """How many numbers the weights hold, read from the headers of their files."""
    return sum(prod(stored.shape) for stored in stored_tensors(folder).values())


def stored_dtype(folder: Path) -> torch.dtype:
    """The floating-point dtype in which the weights are stored: that of the first tensor found."""
    for stored in stored_tensors(folder).values():
        if stored.dtype in _FLOATS:
            return _FLOATS[stored.dtype]
    raise ModelError(f"{folder} holds no floating-point weights")


def load_weights(
    folder: Path,
    parts: Mapping[str, nn.Module],
    *,
    rename: Callable[[str], tuple[str, str] | None],
    dtype: torch.dtype,
    device: torch.device,
    read: Collection[str] | None = None,
    optional: frozenset[str] = frozenset(),
    stays_in_host: Callable[[str, str], bool] = lambda part, name: False,
) -> None:
    """Fills modules that were built on the meta device, tensor by tensor.

    Names and shapes of all parts are compared first, by the headers of the files. Of weights that
    are shared (`vniah.forward.sharding.describe_shares`) only the rows of this process are read.

    Args:
        folder: a checkpoint folder with safetensors weights.
        parts: modules by the names that ``rename`` uses.
        rename: gives (part, name in the part) for a tensor's name, or None to skip it.
        dtype: to which every floating-point tensor is converted while it is read.
        device: where the weights are put.
        read: the parts that are filled, by default all. Of the others no tensor is read.
        optional: names (``part.name``) that may be missing, such as that of a tied head.
        stays_in_host: called with part and name in the part; True leaves it in host memory.

    Raises:
        ModelError: a weight is missing, unknown or of another shape; the message names it.
    """
    empty = {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    wanted = {name: tensor.shape for name, tensor in empty.items()}
    targets: dict[str, tuple[str, str]] = {}
    for name, described in stored_tensors(folder).items():
        target = rename(name)
        if target is None:
            continue
        shape = wanted.pop(".".join(target), None)
        if shape is None:
            raise ModelError(f"{folder} holds the weight {name!r}, which the model does not have")
        if shape != described.shape:
            raise ModelError(
                f"{folder} holds {name!r} of shape {list(described.shape)}, "
                f"its config.json makes it {list(shape)}"
            )
        targets[name] = target
    if missing := sorted(wanted.keys() - optional):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{folder} lacks the weight {missing[0]!r}{more}")
    states: dict[str, dict[str, Tensor]] = {part: {} for part in read or parts}
    rows = {
        name: rows_held(empty[".".join(target)])
        for name, target in targets.items()
        if target[0] in states
    }
    for name, stored in _tensors(folder, rows):
        part, own = targets[name]
        tensor = stored if stays_in_host(part, own) else stored.to(device)
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if rows[name] is not None:
            tensor = fill_share(empty[f"{part}.{own}"], tensor)
        states[part][own] = tensor
    for part, state in states.items():
        parts[part].load_state_dict(state, strict=False, assign=True)
        parts[part].requires_grad_(False).eval()


def read_rows(folder: Path, name: str, rows: Sequence[int]) -> Tensor:
    """Some rows of a matrix among a checkpoint's weights, ``[len(rows), width]``, as stored.

    Args:
        folder: a checkpoint folder with safetensors weights.
        name: of the matrix, or how its name ends, e.g. ``"embed_tokens.weight"``.
        rows: their numbers.

    Raises:
        ModelError: there is no such matrix, more than one, or it has fewer rows.
    """
    found = {
        key: stored
        for key, stored in stored_tensors(folder).items()
        if key == name or key.endswith(f".{name}")
    }
    if len(found) != 1:
        raise ModelError(f"{folder} holds {len(found)} weights {name!r}, one is needed")
    (key, stored), last = next(iter(found.items())), max(rows)
    if len(stored.shape) != 2 or last >= stored.shape[0]:
        raise ModelError(
            f"{folder} holds {key!r} of shape {list(stored.shape)}, which has no row {last}"
        )
    with _opened(stored.path) as file:
        part = file.get_slice(key)
        return torch.cat([part[row : row + 1] for row in rows])


def _tensors(folder: Path, wanted: Mapping[str, slice | None]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors; a tensor is read from the file when it is copied or used.

    ``wanted`` says for each name which rows are read; None for all.
    """
    for path in weight_files(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - a handle, not a dictionary
                if name in wanted:
                    rows = wanted[name]
                    yield (
                        name,
                        file.get_tensor(name) if rows is None else file.get_slice(name)[rows],
                    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The handle of a safetensors file; errors of the library are one line."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {first_line(error)}") from error


def _read_index(folder: Path) -> Mapping[str, str]:
    """The files of all tensors, as the index names them."""
    path = folder / _INDEX_NAME
    places = read_file(path, _WeightIndex)["weight_map"]
    for name in places.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{path} names {name!r}, which is no safetensors file of its folder")
    if not places:
        raise ModelError(f"{path} names no weights; download the checkpoint again")
    return places


def _is_of_model(path: Path) -> bool:
    return not path.name.startswith((".", "adapter_"))


def _require_one_set(folder: Path, paths: Sequence[Path]) -> None:
    """Raises `ModelError` unless the files are one, or all the shards of one checkpoint."""
    if len(paths) == 1 and _SHARD.fullmatch(paths[0].name) is None:
        return
    shards = [_SHARD.fullmatch(path.name) for path in paths]
    kinds = {(shard[1], shard[3]) if shard else (None, None) for shard in shards}
    if len(kinds) > 1 or None in next(iter(kinds)):
        raise ModelError(
            f"{folder} has more than one set of weights: {paths[0].name} and {paths[-1].name}; "
            f"keep one, as {_WHOLE_NAME} or with its {_INDEX_NAME}"
        )
    stem, total = next(iter(kinds))
    expected = [f"{stem}-{n:05d}-of-{total}.safetensors" for n in range(1, len(paths) + 1)]
    if int(str(total)) != len(paths) or [path.name for path in paths] != expected:
        raise ModelError(
            f"{folder} has {len(paths)} of {int(str(total))} files of weights; download the "
            "checkpoint again"
        )


def _require_files(folder: Path, paths: Sequence[Path], why: str) -> None:
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ModelError(f"{folder} lacks {missing[0]}, {why}; download the checkpoint again")


def _other_format(folder: Path) -> str:
    """A remark on weights of a format that is not read, if there are some."""
    others = sorted(path for pattern in _OTHER_FORMATS for path in folder.glob(pattern))
    if not others:
        return ""
    first = next((path for path in others if path.suffix in _PICKLES), others[0])
    if first.suffix in _PICKLES:
        return f" ({first.name} is a pickle, which vniah never loads)"
    return f" ({first.name} is of a format that vniah does not read)"


def _require_plain(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Raises `ModelError` if weights are stored as anything but floats of 16 bits or more."""
    for name, stored in tensors.items():
        is_buffer = name.rpartition(".")[2] in _BUFFERS and stored.dtype in _WHOLE_NUMBERS
        if stored.dtype not in _FLOATS and not is_buffer:
            raise ModelError(
                f"{stored.path} holds {name!r} as {stored.dtype}: its weights are quantized or "
                "damaged; use the full checkpoint, with --load-in 8bit or 4bit"
            )
