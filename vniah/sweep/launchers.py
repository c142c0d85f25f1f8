"""Programs that start several processes of one command, and what each tells its processes."""

import os
import re
import socket
from dataclasses import dataclass

from vniah.errors import InputError, quoted

JOB_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets in every process."""

_FIRST_SPECIAL_STEP = 4294967280
"""Slurm's steps with such numbers are a batch script or a shell, which is one process."""


_LARGEST_PORT = 65535


@dataclass(frozen=True)
class _Launcher:
    """One of those that vniah takes no processes from.

    Attributes:
        name: of its command.
        size: variable with the number of processes; only set in processes that it started.
        rank: variable with the number of this process.
    """

    name: str
    size: str
    rank: str


_LAUNCHERS = (
    _Launcher("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    _Launcher("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    _Launcher("mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    _Launcher("mpirun", "PMI_SIZE", "PMI_RANK"),
    _Launcher("jsrun", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
    _Launcher("flux run", "FLUX_JOB_SIZE", "FLUX_TASK_RANK"),
)


def is_in_job() -> bool:
    """True if torchrun started this process: it sets RANK and WORLD_SIZE together."""
    return bool(os.environ.get("RANK") and os.environ.get("WORLD_SIZE"))


def job_rank() -> str:
    """The number of this process in its job, as torchrun says it; without it, ``"0"``."""
    return os.environ["RANK"] if is_in_job() else "0"


def job_size() -> int:
    """The number of processes of this process's job, as torchrun says it; without it, 1.

    Raises:
        InputError: the variables of torchrun are not all there, or contradict one another.
    """
    if not is_in_job():
        return 1
    given = {name: os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)}
    numbers = {name: _number(given[name]) for name in ("RANK", "WORLD_SIZE")}
    rank, size = numbers.values()
    if rank is None or size is None or not 0 <= rank < size:
        raise InputError(
            f"RANK={quoted(given['RANK'], 40)} and WORLD_SIZE={quoted(given['WORLD_SIZE'], 40)} "
            "must be whole numbers, RANK below WORLD_SIZE, as torchrun sets them; unset them for a "
            "single process"
        )
    port = _number(given.get("MASTER_PORT"))
    if size > 1 and "MASTER_PORT" in given and (port is None or port > _LARGEST_PORT):
        raise InputError(
            f"MASTER_PORT={quoted(given['MASTER_PORT'], 40)} must be a number up to "
            f"{_LARGEST_PORT}, as torchrun sets it; unset WORLD_SIZE for a single process"
        )
    if size > 1 and (missing := [name for name in JOB_VARIABLES if name not in given]):
        raise InputError(
            f"WORLD_SIZE={size} says that there are {size} processes, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set: start them with torchrun, or unset "
            "WORLD_SIZE for a single process"
        )
    return size


def require_known_address() -> None:
    """Requires that the machine of rank 0 has an address; torch would look for it for minutes.

    Raises:
        InputError: nothing is known under the name in MASTER_ADDR.
    """
    name = os.environ.get("MASTER_ADDR", "")
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"MASTER_ADDR={quoted(name, 80)} is no machine that is known here ({error}); it must "
            "be the name or the address of the machine of rank 0, as torchrun sets it"
        ) from error


def require_known_launcher() -> None:
    """Requires that this process is alone, or was started by torchrun.

    Otherwise every process of the job would take itself for the only one and do all the work.

    Raises:
        InputError: another program started several processes of this command.
    """
    if is_in_job():
        job_size()
        return
    for launcher in _LAUNCHERS:
        size = _number(os.environ.get(launcher.size))
        if size is None or size < 2 or _number(os.environ.get(launcher.rank)) is None:
            continue
        if launcher.name == "srun" and _is_shell_of_slurm():
            continue
        raise InputError(_refusal(launcher, size))


def _is_shell_of_slurm() -> bool:
    """Whether this process runs in a shell or script of Slurm's, and not as one of its tasks."""
    step = _number(os.environ.get("SLURM_STEP_ID"))
    return step is None or step >= _FIRST_SPECIAL_STEP or "SLURM_PTY_PORT" in os.environ


def _refusal(launcher: _Launcher, size: int) -> str:
    nodes = _number(os.environ.get("SLURM_STEP_NUM_NODES")) or 1
    if launcher.name != "srun":
        command = f"torchrun --nproc-per-node {size} -m vniah ..."
        where = " (on one machine; for several see docs/slurm.md)"
    elif nodes < 2:
        command = f"srun --ntasks 1 torchrun --standalone --nproc-per-node {size} -m vniah ..."
        where = ""
    else:
        command = (
            f"srun --nodes {nodes} --ntasks {nodes} torchrun --nnodes {nodes} --nproc-per-node "
            f"{-(-size // nodes)} --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m vniah ..., "
            "where HOST is the first of the nodes"
        )
        where = " (see docs/slurm.md)"
    return (
        f"{launcher.name} started {size} processes of this command ({launcher.size}={size}), which "
        "do not know of one another: each would do all the work. vniah takes its processes from "
        f"torchrun: {command}{where}. For {size} separate runs, set RANK=0 and WORLD_SIZE=1"
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,10}", text) else None
