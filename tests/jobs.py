"""Jobs of several real processes on this machine, as torchrun would start them."""

import multiprocessing
import os
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

# What the processes of a job load beside vniah and the models, and what takes longest.
PRELOADED = (
    *("torch", "torch.distributed.run", "torch.distributed.fsdp", "torch.distributed.tensor"),
    *("pytest", "datasets", "seaborn", "PIL.ImageFont"),
)
JOB = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")


def run_ranks(work: Callable[..., None], size: int, *args: Any) -> None:
    """Runs ``work(rank, *args)``, a module's function, in ``size`` processes of one job."""
    job = start_ranks(work, size, *args)
    while not job.join():
        pass


def start_ranks(
    work: Callable[..., None], size: int, *args: Any
) -> torch.multiprocessing.ProcessContext:
    """The same job, still running.

    Its method ``join`` ends all processes when one has failed, as torchrun does.
    """
    _forking_server()
    return torch.multiprocessing.start_processes(
        _enter,
        (work, size, _free_port(), dict(os.environ), *args),
        nprocs=size,
        join=False,
        start_method="forkserver",
    )


def start(work: Callable[..., Any], *args: Any) -> BaseProcess:
    """Starts a process that runs ``work(*args)``, with nothing on its stdout and stderr."""
    process = _forking_server().Process(target=_work, args=(work, dict(os.environ), *args))
    process.start()
    return process


def start_torchrun(size: int, command: Sequence[str], output: Path) -> BaseProcess:
    """Starts ``torchrun`` with ``size`` processes of a command, in the ways that it has for each.

    A module, ``-m NAME ...``, runs in a new Python each, which loads for seconds. A script runs in
    forks of torchrun. What all of them print to stdout and stderr goes to the files
    ``<output>.out`` and ``<output>.err``.
    """
    way = [] if command[0] == "-m" else ["--run-path", "--start-method", "fork"]
    launch = ["--standalone", "--nproc-per-node", str(size), *way, *command]
    process = _forking_server().Process(target=_launch, args=(dict(os.environ), launch, output))
    process.start()
    return process


def _forking_server() -> ForkServerContext:
    """Forks a process that has imported what is imported here and has done nothing else.

    Starting one so costs milliseconds, in place of the seconds that torch and transformers load.
    Their files stand in `PROCESSES` of conftest.py, so that one worker alone has such a server.
    """
    heavy = [name for name in sys.modules if name.startswith(("transformers.models.", "vniah."))]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, *heavy, "frozen"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # of `frozen`
        forkserver.ensure_running()
    return context


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _enter(
    rank: int,
    work: Callable[..., None],
    size: int,
    port: int,
    environment: dict[str, str],
    *args: Any,
) -> None:
    values = map(str, (rank, size, "127.0.0.1", port, rank))
    _set_environment(environment | dict(zip(JOB, values, strict=True)))
    os.environ["GLOO_SOCKET_IFNAME"] = socket.if_nameindex()[0][1]  # the loopback
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    work(rank, *args)


def _work(work: Callable[..., Any], environment: dict[str, str], *args: Any) -> None:
    _set_environment(environment)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        work(*args)


def _launch(environment: dict[str, str], arguments: list[str], output: Path) -> None:
    _set_environment(environment)
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        with Path(f"{output}.{name}").open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    from torch.distributed.run import main

    main(arguments)


def _set_environment(environment: dict[str, str]) -> None:
    """In place of that of the first test that forked something."""
    os.environ.clear()
    os.environ.update(environment)
