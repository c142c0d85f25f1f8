"""Progress of a sweep: bars on a terminal or in a notebook, now and then a line in a log file."""

import sys
import time
from collections.abc import Callable
from typing import Any

OnProgress = Callable[[str, int, int], None]
"""Called with (name of the stage, number of steps done, number of all steps)."""

_UNITS = {
    "sweep": "sample",
    "encode": "frame",
    "draw": "s",
    "open": "video",
    "write": "video",
    "read": "frame",
    "perplexity": "document",
}
_SECONDS_BETWEEN_LINES = 30.0


class Bars:
    """A tqdm bar for the current stage; it is closed when it is full or the next stage begins.

    Where stderr is a file or a pipe there is no bar, which would fill it with carriage returns:
    lines say when a stage begins and ends, and every half minute how far it is.

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
        if not self._is_shown:
            return
        if stage != self._stage:
            self._close()
            self._stage = stage
            self._bar = _open_bar(stage, done, total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _open_bar(stage: str, done: int, total: int) -> Any:
    if "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty()):
        from tqdm.auto import tqdm

        return tqdm(desc=stage, total=total, initial=done, unit=f" {_UNITS[stage]}")
    return _Lines(stage, done, total)


class _Lines:
    """In place of a bar: lines on stderr, with the methods of a bar that `Bars` uses.

    Attributes:
        n: number of steps done.
    """

    def __init__(self, stage: str, done: int, total: int) -> None:
        self.n = done
        self._stage, self._total = stage, total
        self._started = time.monotonic()
        self._write()

    def update(self, steps: int) -> None:
        self.n += steps
        if time.monotonic() > self._written + _SECONDS_BETWEEN_LINES:
            self._write()

    def close(self) -> None:
        if self.n != self._n_written:
            self._write()

    def _write(self) -> None:
        self._written, self._n_written = time.monotonic(), self.n
        unit = _UNITS[self._stage] if self._stage == "draw" else f"{_UNITS[self._stage]}s"
        seconds = self._written - self._started
        took = f", {seconds:.0f} s" if seconds >= 1 else ""
        if sys.stderr is not None:
            sys.stderr.write(f"vniah: {self._stage}: {self.n:,} of {self._total:,} {unit}{took}\n")
            sys.stderr.flush()
