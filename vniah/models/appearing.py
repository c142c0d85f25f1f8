"""Checkpoints that a training run writes: which are there, and which are wholly written."""

import re
from collections.abc import Iterator
from pathlib import Path

from vniah.errors import ModelError
from vniah.files import hash_text
from vniah.models.adapters import find_adapter
from vniah.models.configs import read_config
from vniah.models.weights import ADAPTER_WEIGHTS, read_header, weight_files

_CONFIGS = ("config.json", "adapter_config.json")
_UNFINISHED_NAMES = (".", "tmp-", "tmp_")  # that training programs rename at the end
_DIGITS = re.compile(r"([0-9]+)")


def find_checkpoints(folder: Path) -> list[Path]:
    """The folders inside one that hold a checkpoint, or a part of it; ``step-900`` before
    ``step-1000``.

    A checkpoint has a ``config.json``, an ``adapter_config.json`` or safetensors files. Folders
    whose names begin with ``.`` or ``tmp-`` are left out.

    Raises:
        OSError: the folder cannot be listed.
    """
    inside = [path for path in folder.iterdir() if not path.name.startswith(_UNFINISHED_NAMES)]
    return sorted(filter(_is_checkpoint, inside), key=lambda path: natural_key(path.name))


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts names by the numbers in them.

    >>> sorted(["step-1000", "step-900", "final"], key=natural_key)
    ['final', 'step-900', 'step-1000']
    """
    parts = _DIGITS.split(name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def why_unfinished(folder: Path) -> str | None:
    """Why a checkpoint is not wholly written, as far as its files say; None if it is.

    Whole is a checkpoint whose configuration is JSON, with the weights that its index names, or all
    shards of a set, or one file; and each of these files has all bytes that its header describes.
    Whether another file is still to come, such as that of a tokenizer, only time shows: compare
    `files_key` at two moments.
    """
    try:
        adapter = find_adapter(folder)
        if adapter is not None:
            read_config(folder, "adapter_config.json")
            read_header(folder / ADAPTER_WEIGHTS)
        if (folder / "config.json").is_file():
            read_config(folder)
            for path in weight_files(folder):
                read_header(path)
        elif adapter is None:
            return "it has no config.json"
    except ModelError as error:
        return str(error)
    except OSError as error:  # a file was removed, or renamed, just now
        return f"{error.filename or folder}: {error.strerror or error}"
    return None


def files_key(folder: Path) -> str:
    """A text that is the same as long as no file of a folder changes: a hash over their names,
    sizes and times.
    """
    return hash_text("\n".join(sorted(_files(folder))))[:16]


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        try:
            state = path.stat()
        except OSError:  # it is gone already
            continue
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            yield f"{name!r} {state.st_size} {state.st_mtime_ns}"


def _is_checkpoint(path: Path) -> bool:
    try:
        return path.is_dir() and (
            any((path / name).is_file() for name in _CONFIGS) or any(path.glob("*.safetensors"))
        )
    except OSError:
        return False
