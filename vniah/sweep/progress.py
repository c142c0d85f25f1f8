"""Progress bars of a sweep, on stderr or in a notebook."""

from collections.abc import Callable
from typing import Any

OnProgress = Callable[[str, int, int], None]
"""Called with (name of the stage, number of steps done, number of all steps)."""

_UNITS = {"sweep": "sample", "encode": "frame", "draw": "s"}


class Bars:
    """A tqdm bar for the current stage; it is closed when it is full or the next stage begins.

    Args:
        is_shown: False in the processes of a job that do not lead it.
    """

    def __init__(self, is_shown: bool = True) -> None:
        self._is_shown = is_shown
        self._stage = ""
        self._bar: Any = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, stage: str, done: int, total: int) -> None:
        """Moves the stage's bar to ``done`` of ``total``."""
        from tqdm.auto import tqdm

        if not self._is_shown:
            return
        if stage != self._stage:
            self._close()
            self._stage = stage
            self._bar = tqdm(desc=stage, total=total, initial=done, unit=f" {_UNITS[stage]}")
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
