"""Jobs of several real processes on this machine, as torchrun would start them."""

import multiprocessing
import os
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch

JOB = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")


def run_ranks(work: Callable[..., None], size: int, *args: Any) -> None:
    """Runs ``work(rank, *args)``, a module's function, in ``size`` processes of one job.

    They are forked from a process that has imported what is imported here and has done nothing
    else: starting a rank costs milliseconds in place of the seconds that torch and transformers
    take to load.
    """
    heavy = [name for name in sys.modules if name.startswith(("transformers.models.", "vniah."))]
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "pytest", *heavy])
    torch.multiprocessing.start_processes(
        _enter,
        (work, size, _free_port(), dict(os.environ), *args),
        nprocs=size,
        start_method="forkserver",
    )


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
    os.environ.clear()  # that of the first job, from which all are forked
    values = map(str, (rank, size, "127.0.0.1", port, rank))
    os.environ.update(environment | dict(zip(JOB, values, strict=True)))
    os.environ["GLOO_SOCKET_IFNAME"] = socket.if_nameindex()[0][1]  # the loopback
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    work(rank, *args)
