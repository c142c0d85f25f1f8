"""The command line: arguments, printing, exit codes.

Exit codes: 0 done, 1 regression (`compare`) or a sample could not be run, 2 an error in what was
given, 130 stopped by Ctrl-C.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vniah.cli import printing
from vniah.cli.arguments import parse
from vniah.cli.display import shown_log
from vniah.cli.environment import own_environment
from vniah.errors import CannotCompareError, InputError, VniahError
from vniah.factories import local_modules
from vniah.sweep.launchers import job_rank, job_size, require_known_launcher

_LEADER_SPEAKS_FIRST_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    if arguments is None:  # the process is this command
        sys.excepthook = printing.show_traceback
    try:
        try:
            with own_environment():
                return _run(arguments)
        finally:  # also after --help; where the reader of a pipe has gone, this finds out
            if sys.stdout is not None:
                sys.stdout.flush()
    except CannotCompareError as error:
        return _fail(f"cannot compare: {error}")
    except VniahError as error:
        return _fail(str(error))
    except BrokenPipeError:
        printing.reader_has_gone()
        return 2
    except (FileExistsError, NotADirectoryError) as error:
        return _fail(f"{error.filename} is a file where a folder is needed")
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except KeyboardInterrupt:
        if job_rank() == "0":
            printing.tell("stopped; the same command goes on from here")
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    options = parse(arguments)
    job_size()
    if job_rank() != "0" and not options.by_all_processes:
        return 0  # the first process runs it
    require_known_launcher()
    printing.set_quiet(options.quiet)
    with local_modules(_working_folder()), shown_log(_where(), is_quiet=options.quiet):
        return int(options.command(options))


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise InputError("the working folder does not exist any more; change to another") from error


def _fail(message: str) -> int:
    """Prints an error in one line and returns the exit code.

    In a job, most errors occur in all processes. So the first prints its error at once and the
    others wait: torchrun ends them when the first has ended. An error of only one is still printed.
    """
    if _where():
        time.sleep(_LEADER_SPEAKS_FIRST_SECONDS)
    printing.tell(f"error{_where()}: {message}")
    return 2


def _where() -> str:
    """The process, for messages, if it is not the first of its job."""
    return "" if job_rank() == "0" else f" in process {job_rank()}"
