"""The processes of a job as a mesh: independent workers, each of one or several processes.

rank           number of a process in the job; 0 is the leader
data_rank      number of its worker; workers do different work and never wait for each other
context_rank   which part of its worker's forward pass the process computes

Consecutive ranks belong to one worker, so that its processes are neighbours on a machine: with
``--context-parallel 2`` and four processes, worker 0 is ranks 0 and 1.

Workers communicate only through the job's key-value store. Collectives would time out: they need
all ranks within minutes, and one forward pass, or the encoding of a video, may take hours.
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

from vniah.errors import GivenUpError, InputError, LostContactError
from vniah.sweep.launchers import job_size, require_known_address, require_known_launcher

POLL_SECONDS = 0.05

# A process that lost the others waits, so that the one with the cause can report it: torchrun ends
# all processes as soon as one of them has ended.
_CAUSE_SPEAKS_FIRST_SECONDS = 8.0

_meshes_opened = itertools.count()


@dataclass(frozen=True, eq=False)
class Mesh:
    """The place of this process in its job, and the store that it shares with the others.

    A single process has a mesh as well, with a store of its own. Each name of a claim or an
    announcement is used once; `fresh` makes all names available again for the next piece of work.
    Work of a mesh from `piece_of_work` ends in all processes if one of them gives it up.

    Attributes:
        device: the device on which this process computes; its model has to be there.
        data_rank: number of its worker, in ``[0, data_size)``.
        data_size: number of workers.
        context_rank: number of its part of each forward pass, in ``[0, context_size)``.
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
    _piece: Store | None = field(default=None, repr=False)
    _used: set[str] = field(default_factory=set, repr=False)
    _turns: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @property
    def rank(self) -> int:
        """Number of this process, in ``[0, size)``."""
        return self.data_rank * self.context_size + self.context_rank

    @property
    def size(self) -> int:
        """Number of processes in the job."""
        return self.data_size * self.context_size

    @property
    def is_leader(self) -> bool:
        """Whether this is the one process that does what must be done only once."""
        return self.rank == 0

    def fresh(self) -> "Mesh":
        """The same mesh with unused names and counters at 0, for one more piece of work.

        All ranks call it equally often, and in the same order.
        """
        store = PrefixStore(f"turn-{next(self._turns)}", self._store)
        return replace(self, _store=store, _used=set(), _turns=itertools.count())

    def piece_of_work(self) -> "Mesh":
        """A fresh mesh for work that each process can `give_up`."""
        turn = self.fresh()
        return replace(turn, _piece=turn._store)

    def give_up(self) -> None:
        """Ends this piece of work: all who wait for others in it, or claim, get `GivenUpError`.

        It does not reach processes that compute one forward pass with this one.
        """
        assert self._piece is not None, "give_up outside of a piece of work"
        with _lost_contact():
            self._piece.set("given up", "yes")

    def _require_going_on(self) -> None:
        if self._piece is not None and self._piece.check(["given up"]):
            raise GivenUpError("another process of the job could not go on with this")

    def claim(self, name: str, count: int) -> Iterator[int]:
        """Numbers from ``0..count-1``, in rising order, each for only one worker of the job.

        A number is claimed when the iterator reaches it, so a slow worker gets fewer. All processes
        of a worker get the same numbers, and all have to iterate equally often.

        Args:
            name: of this list of work; the same on all ranks, used once per mesh.
            count: length of the list.
        """
        self._use_once(f"claim/{name}")
        return self._claim(f"claim/{name}", count)

    def _claim(self, key: str, count: int) -> Iterator[int]:
        while (number := self._next(key)) < count:
            yield number

    def _next(self, key: str) -> int:
        """The next number for this worker: its first process claims it and broadcasts it."""
        with _lost_contact():
            self._require_going_on()
        number = self._add(key, 1) - 1 if self.context_rank == 0 else 0
        if self.context_group is None:
            return number
        claimed = torch.tensor([number])
        dist.broadcast(
            claimed, src=dist.get_global_rank(self.context_group, 0), group=self.context_group
        )
        return int(claimed.item())

    def announce(self, name: str) -> None:
        """Releases all ranks that `wait_for` the name; called by one rank, once per mesh."""
        self._use_once(f"said/{name}")
        with _lost_contact():
            self._store.set(f"said/{name}", "yes")

    def wait_for(self, name: str) -> None:
        """Returns when some rank has announced the name, however long that takes.

        It polls the store instead of blocking in it. So Ctrl-C works, and no time limit ends a job
        in which one rank encodes for hours.
        """
        with _lost_contact():
            while not self._store.check([f"said/{name}"]):
                self._require_going_on()
                time.sleep(POLL_SECONDS)

    def count(self, name: str, n: int = 0) -> int:
        """Adds ``n`` to a counter that all ranks share, and returns its value; it starts at 0."""
        return self._add(f"count/{name}", n)

    def barrier(self) -> None:
        """Returns when all ranks have called it, however long that takes."""
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
    """The store of a single process."""
    store: Store = dist.HashStore()  # type: ignore[attr-defined]  # torch's stubs lack it
    return store


@contextmanager
def open_mesh(*, context_parallel: int = 1, device: str | torch.device = "cpu") -> Iterator[Mesh]:
    """The mesh of this process's job; without torchrun, the job is this process alone.

    torchrun describes a job by the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. On CUDA
    each process uses the GPU ``cuda:LOCAL_RANK``, which becomes the current one; the caller puts
    the model on `Mesh.device`. At the end the leader waits for all other processes, and no process
    group remains.

    Args:
        context_parallel: number of processes that compute one forward pass together.
        device: the device of the model; without an index where there are several processes.

    Raises:
        InputError: the processes of the job do not form such a mesh, or were not started by
            torchrun.
        LostContactError: a process of the job has ended.
    """
    if context_parallel < 1:
        raise InputError(f"--context-parallel must be at least 1, got {context_parallel}")
    require_known_launcher()
    size = job_size()
    _require_divisible(context_parallel, size)
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
        # On CUDA this could wait forever for the other ranks; the process is about to end anyway.
        if own_device.type != "cuda":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()
    _leave(mesh)


def _require_divisible(context_parallel: int, size: int) -> None:
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
    """The device that this process uses."""
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
    """Connects this process with the others; all of them call it."""
    if dist.is_initialized():
        raise InputError(
            "torch.distributed already has a process group in this process; vniah opens its own: "
            "end the other one first, with torch.distributed.destroy_process_group()"
        )
    require_known_address()
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

    It is kept as long as the process, as a second store could not open while the first still closes
    the same port.
    """
    store, rank, size = next(rendezvous("env://"))
    return store, rank, size


def _leave(mesh: Mesh) -> None:
    """Waits in the leader until all others have left, as the store may live in its process."""
    num_gone = mesh.count("gone", 1)
    while mesh.is_leader and num_gone < mesh.size:
        time.sleep(POLL_SECONDS)
        num_gone = mesh.count("gone")


@contextmanager
def _lost_contact() -> Iterator[None]:
    """Raises `LostContactError` in place of torch's errors where another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        time.sleep(_CAUSE_SPEAKS_FIRST_SECONDS)
        raise LostContactError(
            "this process lost the others of its job; read their messages, then start the same "
            "command again: what was written is kept"
        ) from error


def _is_lost(error: RuntimeError) -> bool:
    """Whether the error says that another process is gone; gloo has no class for that."""
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    return "gloo/transport" in str(error)
