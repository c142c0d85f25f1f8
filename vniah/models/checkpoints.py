"""What loading any checkpoint needs: device and dtype by name, and errors of one line."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from vniah.errors import InputError, ModelError, VniahError, first_line, quoted
from vniah.options import LoadOptions

# What torch raises for a device that is not there; the module of a backend may be missing as well.
_NO_DEVICE = (RuntimeError, AssertionError, ImportError, AttributeError, ValueError, TypeError)


def find_device(name: str | None) -> torch.device:
    """The device with that name; without a name, CUDA where there is some, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that torch once had
            device = torch.device(name)
        torch.empty(1, device=device).fill_(1)
        if device.type == "meta" or (device.type == "cpu" and device.index):
            raise RuntimeError("not a device that computes")
    except _NO_DEVICE as error:
        raise InputError(f"device {quoted(name, 60)} cannot be used here; try cpu") from error
    return device


def torch_dtype(options: LoadOptions) -> torch.dtype | None:
    """The dtype that the options name; None if they leave it to the checkpoint."""
    dtype: torch.dtype | None = None if options.dtype is None else getattr(torch, options.dtype)
    return dtype


@contextmanager
def reported(folder: Path, what: str) -> Iterator[None]:
    """Turns every error of a library about a folder into a `ModelError` with one line.

    Whatever a file of somebody else's makes a library raise is an error of that file:
    transformers raises nearly every kind, and the tokenizers library raises plain ``Exception``,
    and ends a panic of its Rust code with a ``BaseException`` of its own.

    Args:
        folder: the folder that is loaded.
        what: which part of it is read, e.g. ``"the tokenizer in"``.
    """
    try:
        yield
    except VniahError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{what} {folder} cannot be loaded: {first_line(error)}") from error
