"""Weights that are read when they are needed first, such as those of a vision tower.

A run whose frames are all in the cache never needs the tower, so it takes neither time nor memory.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from vniah.errors import ModelError
from vniah.models.checkpoints import reported
from vniah.models.weights import weight_files


class DeferredWeights:
    """Weights of a checkpoint that are read later than the rest of it.

    A model has one revision. So its files must not have changed in the meantime: a run fails then,
    instead of joining parts of two models.

    Args:
        folder: the checkpoint's; this is made before anything else is read of it.
        read: reads the weights, once.
    """

    def __init__(self, folder: Path, read: Callable[[], None]) -> None:
        self._folder = folder
        self._read: Callable[[], None] | None = read
        self._files = _describe_files(folder)

    @property
    def is_read(self) -> bool:
        """True if the weights have been read."""
        return self._read is None

    def read(self, try_it: Callable[[], object]) -> None:
        """Reads the weights unless they have been read.

        Args:
            try_it: called when they were read; raises an error if they cannot be used.

        Raises:
            ModelError: the files have changed, or something of them does not fit.
        """
        if self._read is None:
            return
        if _describe_files(self._folder) != self._files:
            raise ModelError(
                f"the weights in {self._folder} have changed since the model was loaded, so its "
                "vision tower may be of another model; start again"
            )
        read = self._read
        with reported(self._folder, "the vision tower in"):
            with torch.inference_mode(mode=False):  # of frames, not of weights
                read()
            self._read = None
            try:
                try_it()
            except BaseException:
                self._read = read
                raise


@runtime_checkable
class ReadsEncoderLater(Protocol):
    """A model that reads the weights of what encodes frames when the first frame is encoded.

    Attributes:
        encoder_is_read: True if they have been read.
    """

    encoder_is_read: bool

    def read_encoder(self) -> None:
        """Reads these weights now, unless they have been read.

        Raises:
            ModelError: they have changed since the model was loaded, or do not fit.
        """


def _describe_files(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files with the weights."""
    try:
        found = [(path.name, path.stat()) for path in weight_files(folder)]
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror}") from error
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
