"""Progress of a sweep: bars on a terminal or in a notebook, now and then a line in a log file."""

import sys
import time
from collections.abc import Callable
from typing import Any

OnProgress = Callable[[str, int, int], None]
"""Called with (name of the stage, number of steps done, number of all steps)."""

_OF_PICTURES = ("encode", "read")  # stages of which the haystack says what it consists of
_UNITS = {
    "sweep": "sample",
    "draw": "s",
    "open": "video",
    "write": "video",
    "perplexity": "document",
    "windows": "window",
}
_SECONDS_BETWEEN_LINES = 30.0


class Bars:
    """A tqdm bar for the current stage; it is closed when it is full or the next stage begins.

    Where stderr is a file or a pipe there is no bar, which would fill it with carriage returns:
    lines say when a stage begins and ends, and every half minute how far it is.

    Args:
        is_shown: False in the processes of a job that do not lead it.
        unit: what the haystack consists of, ``"frame"`` or ``"page"``; may be set when it is open.

    Attributes:
        unit: as above.
    """

    def __init__(self, is_shown: bool = True, *, unit: str = "frame") -> None:
        self.unit = unit
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
            unit = self.unit if stage in _OF_PICTURES else _UNITS[stage]
            self._bar = _open_bar(stage, done, total, unit)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _open_bar(stage: str, done: int, total: int, unit: str) -> Any:
    if "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty()):
        from tqdm.auto import tqdm

        return tqdm(desc=stage, total=total, initial=done, unit=f" {unit}")
    return _Lines(stage, done, total, unit)


class _Lines:
    """In place of a bar: lines on stderr, with the methods of a bar that `Bars` uses.

    Attributes:
        n: number of steps done.
    """

    def __init__(self, stage: str, done: int, total: int, unit: str) -> None:
        self.n = done
        self._stage, self._total, self._unit = stage, total, unit
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
        unit = self._unit if self._stage == "draw" else f"{self._unit}s"
        seconds = self._written - self._started
        took = f", {seconds:.0f} s" if seconds >= 1 else ""
        if sys.stderr is not None:
            sys.stderr.write(f"vniah: {self._stage}: {self.n:,} of {self._total:,} {unit}{took}\n")
            sys.stderr.flush()
