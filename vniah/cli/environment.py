"""Variables and settings that were meant for other programs do not decide how a command runs."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from vniah.errors import InputError, first_line

# A plotting backend and settings for interactive work; the settings of other programs' bars, which
# tqdm reads when it is imported, and ends the program if it cannot; filters for warnings in code
# under development, which would turn those of torch into errors.
_OF_OTHERS = ("MPLBACKEND", "MATPLOTLIBRC", "PYTHONWARNINGS")
_PREFIX_OF_OTHERS = "TQDM_"


@contextmanager
def own_environment() -> Iterator[None]:
    """Takes the variables of other programs out of the environment; at the end they are back."""
    names = [n for n in os.environ if n in _OF_OTHERS or n.startswith(_PREFIX_OF_OTHERS)]
    taken = {name: os.environ.pop(name) for name in names}
    added = {}
    if sys.stderr is None or not sys.stderr.isatty():  # no bars in log files
        added = {
            name: "1"
            for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
            if name not in os.environ
        }
    os.environ.update(added)
    try:
        with warnings.catch_warnings():
            if "PYTHONWARNINGS" in taken:
                _use_default_filters()
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        os.environ.update(taken)


def _use_default_filters() -> None:
    """Those that Python has without options."""
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)


def load_plot() -> ModuleType:
    """`vniah.analysis.plot`, without settings of matplotlib that lie around."""
    load_matplotlib()
    from vniah.analysis import plot

    return plot


def load_matplotlib() -> None:
    """Imports matplotlib without settings that lie around.

    matplotlib reads a file ``matplotlibrc`` when it is imported: one in the working folder, else
    the one that MATPLOTLIBRC names, else the user's. A broken one would end the command.
    """
    spec = find_spec("matplotlib")
    if "matplotlib" not in sys.modules and spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "mpl-data"
        os.environ["MATPLOTLIBRC"] = str(folder / "matplotlibrc")
        try:
            with chdir(folder):
                import matplotlib
        finally:
            del os.environ["MATPLOTLIBRC"]
        assert matplotlib


@contextmanager
def explained_imports() -> Iterator[None]:
    """Turns the errors of packages that cannot be imported into one line."""
    try:
        yield
    except (ImportError, OSError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"a package that vniah needs cannot be imported: {first_line(error)}. Look at the "
            "variables that are set for it, such as HF_..., and at its installation"
        ) from error
