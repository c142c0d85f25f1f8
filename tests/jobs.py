"""Jobs of several real processes on this machine, as torchrun would start them."""

import os
import socket
import warnings
from collections.abc import Callable
from typing import Any

import torch

JOB = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")


def run_ranks(work: Callable[..., None], size: int, *args: Any) -> None:
    """Runs ``work(rank, *args)``, a module's function, in ``size`` processes of one job."""
    torch.multiprocessing.spawn(_enter, (work, size, _free_port(), *args), nprocs=size)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _enter(rank: int, work: Callable[..., None], size: int, port: int, *args: Any) -> None:
    values = map(str, (rank, size, "127.0.0.1", port, rank))
    os.environ |= dict(zip(JOB, values, strict=True))
    os.environ["GLOO_SOCKET_IFNAME"] = socket.if_nameindex()[0][1]  # the loopback
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    work(rank, *args)
