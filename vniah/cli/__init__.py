"""The command line: arguments, printing, exit codes.

Exit codes: 0 done, 1 regression (`compare`) or no sample could be run, 2 something was asked that
cannot be done, 130 stopped by Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vniah.cli.arguments import build_parser
from vniah.errors import (
    CannotCompareError,
    HaystackError,
    InputError,
    NeedleError,
    ResultsError,
    VniahError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # so that --model mymodule:factory finds ./mymodule.py
    try:
        return int(options.command(options))
    except CannotCompareError as error:
        return _fail(f"cannot compare: {error}")
    except (InputError, HaystackError, NeedleError, ResultsError) as error:
        return _fail(str(error), is_alike=True)
    except VniahError as error:
        return _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more
        return 2
    except (FileExistsError, NotADirectoryError) as error:
        return _fail(f"{error.filename} is a file where a folder is needed")
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except KeyboardInterrupt:
        print("\nvniah: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _fail(message: str, *, is_alike: bool = False) -> int:
    """Says what was wrong, in one line; what all processes of a job find alike, the first says."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        print(f"vniah: error: {' '.join(message.split())}", file=sys.stderr)
    elif not is_alike:
        print(f"vniah: error in process {rank}: {' '.join(message.split())}", file=sys.stderr)
    return 2
