"""What can go wrong, as a tree.

VniahError
├── InputError            an invalid argument (also a ValueError)
├── MissingDependencyError  an optional package is needed and not installed (also an ImportError)
├── HaystackError         a haystack that cannot be read as frames
│   ├── VideoDamagedError     bytes are missing or undecodable
│   └── HaystackTooShortError it has fewer frames than the grid needs
├── NeedleError           a needle set that cannot be used
├── TaskError             a task that cannot be found, or gives samples that cannot be asked
├── ModelError            a checkpoint or plug-in that cannot be loaded or run
│   └── CheckError            vniah's forward pass gives other numbers than the model's own
├── ServerError           a server that cannot answer any question
│   └── RequestLimitError     as many requests were sent as allowed
├── CacheError            an embedding cache made from other inputs
├── JobError              a job of several processes cannot go on
│   ├── LostContactError      one of them has ended
│   └── GivenUpError          one of them gave up what they do together
└── ResultsError          a results folder that cannot be read
    ├── RunMismatchError      it holds a run with other settings
    └── CannotCompareError    two runs that measure different things

Every message is one line: what was wrong, the value that was given, what to do.
"""

import difflib
import os
import re
from collections.abc import Sequence

_JOINERS = "\u200c\u200d"
_OF_THE_HUB = (
    *("HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy"),
    *("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"),
)
_ESCAPE = re.compile(r"\\(?:[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_LONGEST_ESCAPE = 10  # characters


class VniahError(Exception):
    """Base of all errors that vniah raises on purpose."""


class InputError(VniahError, ValueError):
    """An argument has an invalid value."""


class MissingDependencyError(VniahError, ImportError):
    """An optional package is needed and not installed.

    Args:
        package: its name in an import statement.
        extra: the extra of vniah that installs it.
        purpose: what it is needed for, e.g. ``"--decoder decord"``.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'vniah[{extra}]'"
        )


class HaystackError(VniahError):
    """A haystack cannot be read as frames."""


class VideoDamagedError(HaystackError):
    """Bytes of a video are missing or cannot be decoded."""


class HaystackTooShortError(HaystackError):
    """A haystack has fewer frames than are needed; it is never repeated to fill up."""


class NeedleError(VniahError):
    """A needle set cannot be used."""


class TaskError(VniahError):
    """A task cannot be found, or gives samples that cannot be asked."""


class ModelError(VniahError):
    """A model cannot be loaded or run."""


class CheckError(ModelError):
    """The forward pass of vniah gives other results than the model's own."""


class ServerError(VniahError):
    """A server cannot answer any question: it is not there, refuses the key or lacks the model.

    The run stops. A `ModelError`, in contrast, is about one question; the others are still sent.
    """


class RequestLimitError(ServerError):
    """The largest allowed number of requests was sent to a server."""


class CacheError(VniahError):
    """An embedding cache was made from other frames, or by another model, than it is used for."""


class JobError(VniahError):
    """The processes of a job cannot go on together."""


class LostContactError(JobError):
    """Another process of the job has ended."""


class GivenUpError(JobError):
    """Another process of the job gave up the piece of work that this one shares with it."""


class ResultsError(VniahError):
    """A results folder or file cannot be read."""


class RunMismatchError(ResultsError):
    """A results folder holds a run that was started with other settings."""


class CannotCompareError(ResultsError):
    """Two runs measure different things, or one of them is not complete."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has none.

    A line that ends in a colon is followed by the next one, which says what it announces. Cut at
    400 characters: libraries quote whatever they were given.
    """
    if isinstance(error, KeyError) and error.args:
        return f"nothing is called {quoted(str(error.args[0]), 100)}"
    line, *others = str(error).strip().splitlines() or [type(error).__name__]
    if line.endswith(":") and others:
        line = f"{line} {others[0].strip()}"
    return shortened(line, 400)


def hub_reason(error: BaseException) -> str:
    """Why the Hugging Face hub gave nothing, and which variables its client was directed by.

    Their values are not shown: those of proxies may hold passwords.
    """
    reason = first_line(error).rstrip(".")
    names = [name for name in _OF_THE_HUB if os.environ.get(name)]
    return f"{reason} (with {', '.join(names)} set)" if names else reason


def did_you_mean(name: str, names: Sequence[str], otherwise: str = "") -> str:
    """What may be meant by a name that is not among those that there are, for errors.

    Args:
        name: what was given.
        names: those that there are.
        otherwise: what is said where none of them is like it; by default all of them.
    """
    if close := difflib.get_close_matches(name, names, 1):
        return f"do you mean {close[0]}?"
    return otherwise or f"there are {', '.join(names)}"


def short_repr(value: object) -> str:
    """The repr of a value, cut at 100 characters."""
    return shortened(repr(value), 100)


def quoted(text: str, most: int) -> str:
    """The text in quotes, cut at ``most`` characters."""
    return repr(shortened(text, most))


def shortened(text: str, most: int) -> str:
    """The text, with three dots in place of its end if it has more than ``most`` characters."""
    return text if len(text) <= most else f"{text[: escape_at(text, most - 3)[0]]}..."


def escape_at(text: str, place: int) -> tuple[int, int]:
    r"""Where the escape, as of `printable`, begins and ends that a cut at this place would divide.

    Both are the place where there is none.

    >>> escape_at(r"a\u202eb", 4), escape_at(r"a\u202eb", 1)
    ((1, 7), (1, 1))
    """
    start, end = max(0, place - _LONGEST_ESCAPE), place + _LONGEST_ESCAPE
    spans = (found.span() for found in _ESCAPE.finditer(text, start, end))
    return next((span for span in spans if span[0] < place < span[1]), (place, place))


def counted(number: int, what: str) -> str:
    """A number of things: ``"3 packets"``, ``"1 packet"``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    r"""The text in one line, with every character that cannot be seen written as an escape.

    Text from servers, manifests and file names may hold escapes that move the cursor or rename the
    terminal, marks that turn the order of letters around, line ends, or lone surrogates, which no
    stream can write. What `repr` escapes is escaped here: ``"\x1b[2J"``, ``"\u202e"``.

    The two joiners of letters, U+200C and U+200D, stay where they stand between letters or pictures
    that are not ASCII: Persian, the scripts of India and emoji are spelled with them.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or (c in _JOINERS and _is_between(text, place)) else _escape(c)
        for place, c in enumerate(text)
    )


def _is_between(text: str, place: int) -> bool:
    """Whether visible characters that are not ASCII stand on both sides of a place."""
    beside = text[max(0, place - 1) : place + 2]
    return len(beside) == 3 and all(c.isprintable() and not c.isascii() for c in beside[::2])


def without_surrogates(text: str) -> str:
    r"""The text with lone surrogates, which UTF-8 does not have, written as ``"\udc80"``."""
    return text.encode("utf-8", "backslashreplace").decode()


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
