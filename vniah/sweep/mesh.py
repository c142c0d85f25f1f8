"""The processes of a job as a mesh: independent workers, each of one or several processes.

rank           a process's number in the job, 0 is the leader
data_rank      which worker it belongs to; workers do different work and never wait for each other
context_rank   which part of its worker's forward pass it computes

Ranks go along the context first, so that the processes of one worker are neighbours on a machine:
with ``--context-parallel 2`` and four processes, worker 0 is ranks 0 and 1.

Workers talk through the job's key-value store only. Collectives need all ranks at the same place
within minutes; one forward pass, or encoding a film, may take hours.
"""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from vniah.errors import InputError, VniahError

POLL_SECONDS = 0.05

# Who lost the others waits, so that the one with the cause can say it: torchrun ends all processes
# as soon as one of them has ended.
_CAUSE_SPEAKS_FIRST_SECONDS = 8.0

_JOB_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_meshes_opened = itertools.count()


@dataclass(frozen=True, eq=False)
class Mesh:
    """Where this process stands in its job, and what it shares with the others.

    One process by itself has the same object, with a store of its own. Names of claims and
    announcements are used once; `fresh` frees them all for the next piece of work.

    Attributes:
        device: where this process computes: its model has to be there.
        data_rank: its worker, in ``[0, data_size)``.
        data_size: number of workers.
        context_rank: its part of each forward pass, in ``[0, context_size)``.
        context_size: number of processes that compute one forward pass together.
        context_group: process group of its worker; None where it computes alone.
    """

    device: torch.device
    data_rank: int = 0
    data_size: int = 1
    context_rank: int = 0
    context_size: int = 1
    context_group: dist.ProcessGroup | None = None
    _store: Store = field(default_factory=lambda: _own_store(), repr=False)
    _used: set[str] = field(default_factory=set, repr=False)
    _turns: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @property
    def rank(self) -> int:
        """This process, in ``[0, size)``."""
        return self.data_rank * self.context_size + self.context_rank

    @property
    def size(self) -> int:
        """Number of processes in the job."""
        return self.data_size * self.context_size

    @property
    def is_leader(self) -> bool:
        """Whether this is the one process that does what has to be done once."""
        return self.rank == 0

    def fresh(self) -> "Mesh":
        """The same processes with all names and counters new, for one more piece of work.

        All ranks call it equally often, and in the same order.
        """
        store = PrefixStore(f"turn-{next(self._turns)}", self._store)
        return replace(self, _store=store, _used=set(), _turns=itertools.count())

    def claim(self, name: str, count: int) -> Iterator[int]:
        """Numbers from ``0..count-1``, in rising order, each for one worker of the job only.

        A number is taken when it is asked for, so a slow worker gets fewer. All processes of a
        worker get the same numbers; they have to ask equally often.

        Args:
            name: of this list of work; the same on all ranks, once per mesh.
            count: length of the list.
        """
        self._use_once(f"claim/{name}")
        return self._claim(f"claim/{name}", count)

    def _claim(self, key: str, count: int) -> Iterator[int]:
        while (number := self._tell(self._next(key))) < count:
            yield number

    def _next(self, key: str) -> int:
        """The next number for this worker; its first process asks for all."""
        return self._add(key, 1) - 1 if self.context_rank == 0 else 0

    def _tell(self, number: int) -> int:
        """What the first process of this worker says."""
        if self.context_group is None:
            return number
        said = torch.tensor([number])
        dist.broadcast(
            said, src=dist.get_global_rank(self.context_group, 0), group=self.context_group
        )
        return int(said.item())

    def announce(self, name: str) -> None:
        """Lets go on all that `wait_for` the name; one rank, once per mesh."""
        self._use_once(f"said/{name}")
        with _lost_contact():
            self._store.set(f"said/{name}", "yes")

    def wait_for(self, name: str) -> None:
        """Returns when some rank has announced the name, however long that takes.

        It asks again and again instead of sleeping in the store: so Ctrl-C works, and no time
        limit ends a job in which one rank encodes for hours.
        """
        with _lost_contact():
            while not self._store.check([f"said/{name}"]):
                time.sleep(POLL_SECONDS)

    def count(self, name: str, n: int = 0) -> int:
        """Adds ``n`` to a counter of all ranks and gives its value; counters start at 0."""
        return self._add(f"count/{name}", n)

    def barrier(self) -> None:
        """Returns when all ranks have come here, however long that takes."""
        name = f"barrier-{next(self._turns)}"
        if self.count(name, 1) == self.size:
            self.announce(name)
        self.wait_for(name)

    def _add(self, key: str, n: int) -> int:
        with _lost_contact():
            return int(self._store.add(key, n))

    def _use_once(self, key: str) -> None:
        assert key not in self._used, f"{key} was used before; take mesh.fresh() for another round"
        self._used.add(key)


def _own_store() -> Store:
    """A store of one process."""
    store: Store = dist.HashStore()  # type: ignore[attr-defined]  # torch's stubs lack it
    return store


@contextmanager
def open_mesh(*, context_parallel: int = 1, device: str | torch.device = "cpu") -> Iterator[Mesh]:
    """The mesh of the job that this process belongs to; for one process, if it was not torchrun.

    A job is seen by the variables that torchrun sets: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
    On CUDA each process has the GPU ``cuda:LOCAL_RANK``, which is made the current one;
    the caller puts the model on `Mesh.device`. At the end the leader waits for all the others, and
    no process group is left.

    Args:
        context_parallel: processes that compute one forward pass together.
        device: where the model shall be; without an index where there are several processes.

    Raises:
        InputError: the processes of the job do not make such a mesh.
        VniahError: the processes lost each other.
    """
    if context_parallel < 1:
        raise InputError(f"--context-parallel must be at least 1, got {context_parallel}")
    size = int(os.environ["WORLD_SIZE"]) if _is_job() else 1
    _refuse_impossible(context_parallel, size)
    if size == 1:
        yield Mesh(torch.device(device))
        return
    own_device = _own_device(torch.device(device), context_parallel)
    with _lost_contact():
        mesh = _connect(own_device, context_parallel)
    try:
        with _lost_contact():
            yield mesh
    except BaseException:
        # On CUDA this could wait for ranks that will never come; the process is about to end.
        if own_device.type != "cuda":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()
    _leave(mesh)


def _is_job() -> bool:
    return all(name in os.environ for name in _JOB_VARIABLES)


def _refuse_impossible(context_parallel: int, size: int) -> None:
    if size == 1 and context_parallel > 1:
        raise InputError(
            f"--context-parallel {context_parallel} needs as many processes, this is one; start it "
            f"with: torchrun --nproc-per-node {context_parallel} -m vniah run ..."
        )
    if size % context_parallel:
        divisors = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
        raise InputError(
            f"--context-parallel {context_parallel} does not divide the {size} processes of this "
            f"job; choose one of {divisors}"
        )


def _own_device(device: torch.device, context_parallel: int) -> torch.device:
    """The device of this process among those of its machine."""
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        if context_parallel > 1:
            raise InputError(f"--context-parallel works on cpu and cuda, got --device {device}")
        return device
    if str(device) != "cuda":
        raise InputError(
            f"--device {device} names one GPU for several processes; write --device cuda, and each "
            "takes its own"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"process {local_rank} of this machine has no GPU: there are "
            f"{torch.cuda.device_count()}; use torchrun --nproc-per-node "
            f"{torch.cuda.device_count()}, or --device cpu"
        )
    return torch.device("cuda", local_rank)


def _connect(device: torch.device, context_parallel: int) -> Mesh:
    """Meets the other processes; all of them come here."""
    if dist.is_initialized():
        raise InputError(
            "torch.distributed already has a process group in this process; vniah opens its own: "
            "end the other one first, with torch.distributed.destroy_process_group()"
        )
    base, rank, size = _job_store()
    store = PrefixStore(f"vniah-{next(_meshes_opened)}", base)
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if on_cuda else "gloo",
        store=PrefixStore("groups", store),
        rank=rank,
        world_size=size,
    )
    shape = (size // context_parallel, context_parallel)
    grid = init_device_mesh("cuda" if on_cuda else "cpu", shape, mesh_dim_names=("data", "context"))
    return Mesh(
        device=device,
        data_rank=grid.get_local_rank("data"),
        data_size=shape[0],
        context_rank=grid.get_local_rank("context"),
        context_size=shape[1],
        context_group=grid.get_group("context") if context_parallel > 1 else None,
        _store=PrefixStore("mesh", store),
    )


@cache
def _job_store() -> tuple[Store, int, int]:
    """The job's store, with this process's rank and the number of processes.

    Kept as long as the process: a second one would meet the end of the first on the same port.
    """
    store, rank, size = next(rendezvous("env://"))
    return store, rank, size


def _leave(mesh: Mesh) -> None:
    """The leader goes last, as the store may live in its process."""
    num_gone = mesh.count("gone", 1)
    while mesh.is_leader and num_gone < mesh.size:
        time.sleep(POLL_SECONDS)
        num_gone = mesh.count("gone")


@contextmanager
def _lost_contact() -> Iterator[None]:
    """Says in one line that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        time.sleep(_CAUSE_SPEAKS_FIRST_SECONDS)
        raise VniahError(
            "this process lost the others of its job; see what they said, then start the same "
            "command again: what was written is kept"
        ) from error


def _is_lost(error: RuntimeError) -> bool:
    """Whether a process that this one talked to is gone; gloo has no class for that."""
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    return "gloo/transport" in str(error)
