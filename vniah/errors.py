"""What can go wrong, as a tree.

VniahError
├── InputError            an invalid argument (also a ValueError)
├── MissingDependencyError  an optional package is needed and not installed (also an ImportError)
├── HaystackError         a haystack that cannot be read as frames
│   ├── VideoDamagedError     bytes are missing or undecodable
│   └── HaystackTooShortError it has fewer frames than the grid asks for
├── NeedleError           a needle set that cannot be used
├── TaskError             a task that cannot be found, or gives samples that cannot be asked
├── ModelError            a checkpoint or plug-in that cannot be loaded or run
│   └── CheckError            vniah's forward pass gives other numbers than the model's own
├── ServerError           a server that is not asked any further
│   └── RequestLimitError     as many requests were sent as allowed
├── CacheError            an embedding cache that belongs to something else
└── ResultsError          a results folder that cannot be read
    ├── RunMismatchError      it holds a run with other settings
    └── CannotCompareError    two runs that do not measure the same thing

Every message is one line: what was wrong, the value that was given, what to do.
"""


class VniahError(Exception):
    """Base of everything that vniah raises on purpose."""


class InputError(VniahError, ValueError):
    """An argument has an invalid value."""


class MissingDependencyError(VniahError, ImportError):
    """An optional package is needed for what was asked.

    Args:
        package: the name one would import.
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
    """A video lacks bytes or holds some that do not decode."""


class HaystackTooShortError(HaystackError):
    """A haystack has fewer frames than were asked for; it is never looped."""


class NeedleError(VniahError):
    """A needle set cannot be used."""


class TaskError(VniahError):
    """A task cannot be found, or gives samples that cannot be asked."""


class ModelError(VniahError):
    """A model cannot be loaded or run."""


class CheckError(ModelError):
    """The forward pass of vniah does not give what the model's own gives."""


class ServerError(VniahError):
    """A server is not asked any further: nobody is there, it refuses the key or has no such model.

    It is no `ModelError`, which concerns one question and leaves the others.
    """


class RequestLimitError(ServerError):
    """As many requests were sent to a server as allowed."""


class CacheError(VniahError):
    """An embedding cache was made from something else than what it is used for."""


class ResultsError(VniahError):
    """A results folder or file cannot be read."""


class RunMismatchError(ResultsError):
    """A results folder holds a run that was started with other settings."""


class CannotCompareError(ResultsError):
    """Two runs do not measure the same thing, or one of them is not whole."""


def first_line(error: BaseException) -> str:
    """What an error says in one line; its class's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def short_repr(value: object) -> str:
    """The repr of a value, cut at 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
