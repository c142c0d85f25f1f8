"""The only place that writes to the terminal: everything passes through `show` or `tell`.

Text may come from servers, manifests and file names. So whatever cannot be seen is escaped before
it is written, and what the stream's encoding lacks is escaped as well.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TextIO

from vniah.errors import printable

_MOST_IN_A_MESSAGE = 2000

_is_quiet = False

_working = ""
"""What stands in the last line of the terminal and is to be erased; empty if nothing does."""


def set_quiet(is_quiet: bool) -> None:
    """Whether `comment` and `working` write nothing from now on."""
    global _is_quiet
    _is_quiet = is_quiet


def comment(text: str = "") -> None:
    """Writes one line to stdout that is no result, unless the command is to be quiet."""
    if not _is_quiet:
        show(text)


def show(text: str = "") -> None:
    """Writes one line to stdout."""
    _write(sys.stdout, printable(text) + "\n")


def show_lines(text: str) -> None:
    """Writes lines to stdout that were composed here; texts from outside in them are one line."""
    _write(sys.stdout, _printable_lines(text) + "\n")


def tell(message: str) -> None:
    """Writes one line to stderr, above a progress bar where one is shown; a long one is cut."""
    if len(message) > _MOST_IN_A_MESSAGE:
        message = f"{message[: _MOST_IN_A_MESSAGE - 200]} ... {message[-200:]}"
    line = printable(" ".join(message.split()))
    if "tqdm" in sys.modules:  # else there can be no bar
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            _write(sys.stderr, f"vniah: {line}\n")
    else:
        _write(sys.stderr, f"vniah: {line}\n")


def write_lines(text: str, file: TextIO | None) -> None:
    """Writes the lines of a help text or a traceback as they stand, without a line end added."""
    _write(file, _printable_lines(text))


@contextmanager
def working(on: str) -> Iterator[None]:
    """Says on a terminal what takes a moment, and erases it at the end. Log files get nothing."""
    global _working
    if _is_quiet or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    line = f"vniah: {printable(on)} ..."
    _write(sys.stderr, line)
    sys.stderr.flush()
    _working = line
    try:
        yield
    finally:
        _erase()


def show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Writes the traceback of an error that nobody expected (a `sys.excepthook`)."""
    write_lines("".join(traceback.format_exception(kind, error, trace)), sys.stderr)


def reader_has_gone() -> None:
    """Sends what is still to be written nowhere: whoever read our stdout has ended."""
    with suppress(OSError, ValueError, AttributeError):  # a stdout that is no file, or closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # the caller closed it
        return
    _erase()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _erase() -> None:
    global _working
    if _working:
        _working, width = "", len(_working)
        sys.stderr.write(f"\r{' ' * width}\r")
        sys.stderr.flush()
