"""The command line: arguments, printing, exit codes.

Exit codes: 0 done, 1 regression (`compare`) or no sample could be run, 2 an error in what was
given, 130 stopped by Ctrl-C.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vniah.cli.arguments import build_parser
from vniah.cli.display import shown_log
from vniah.errors import CannotCompareError, VniahError

_LEADER_SPEAKS_FIRST_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # so that --model mymodule:factory finds ./mymodule.py
    try:
        options = build_parser().parse_args(arguments)
        if _rank() != "0" and not options.by_all_processes:
            return 0  # the first process runs it
        with shown_log(_where()):
            return int(options.command(options))
    except CannotCompareError as error:
        return _fail(f"cannot compare: {error}")
    except VniahError as error:
        return _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has gone
        return 2
    except (FileExistsError, NotADirectoryError) as error:
        return _fail(f"{error.filename} is a file where a folder is needed")
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except KeyboardInterrupt:
        if _rank() == "0":
            print("\nvniah: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    """Prints an error in one line and returns the exit code.

    In a job, most errors occur in all processes. So the first prints its error at once and the
    others wait: torchrun ends them when the first has ended. An error of only one is still printed.
    """
    if _where():
        time.sleep(_LEADER_SPEAKS_FIRST_SECONDS)
    print(f"vniah: error{_where()}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _rank() -> str:
    """The number of this process in its job, as set by torchrun."""
    return os.environ.get("RANK", "0")


def _where() -> str:
    """The process, for messages, if it is not the first of its job."""
    return "" if _rank() == "0" else f" in process {_rank()}"
