"""Runs the members of a sweep one after the other: models, films and needles are opened once."""

import argparse
import gc
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from vniah.cli.haystacks import open_named
from vniah.cli.inputs import (
    load_named_model,
    load_named_needles,
    needles_name,
    parse_grid,
    what_is_read,
)
from vniah.cli.printing import show_traceback, tell
from vniah.cli.sweeps.members import Member, Plan
from vniah.errors import GivenUpError, InputError, JobError, VniahError, counted, first_line
from vniah.options.rope import RopeChoice

if TYPE_CHECKING:
    from vniah.haystacks.frames import AnyHaystack
    from vniah.needles import NeedleSet
    from vniah.protocol import AnyModel
    from vniah.sweep.mesh import Mesh
    from vniah.sweep.progress import Bars

# What goes wrong with one model, one film or one machine, and is said in a line.
_EXPECTED = (VniahError, OSError, MemoryError, RuntimeError)


Work = Callable[[Member, Any, "Mesh"], Any]
"""What is done for a member, with its model and the processes that do it; gives any value."""


class Session:
    """What the members of a plan share while they run.

    Args:
        plan: the runs.
        mesh: the processes of the job.
        on_end: called in the leading process when the work for a member has ended in all: with what
            it gave, or with the reason if it cannot be run.
        needles: sets that were read already, by their names.
        load: gives the model that options name, with a RoPE; by default `load_named_model`.

    Attributes:
        failures: why members could not be run, by their names.
    """

    def __init__(
        self,
        plan: Plan,
        mesh: "Mesh",
        on_end: Callable[[Member, Any], None],
        needles: "Mapping[str, NeedleSet] | None" = None,
        *,
        load: "Callable[[argparse.Namespace, RopeChoice, Mesh], AnyModel] | None" = None,
    ) -> None:
        self.failures: dict[str, str] = {}
        self._plan = plan
        self._mesh = mesh
        self._on_end = on_end
        self._load = load or load_named_model
        self._films: dict[Hashable, AnyHaystack] = {}
        self._needles = dict(needles or {})
        self._has_loaded = False

    def each(self, work: "Work") -> None:
        """Calls ``work`` for each member, with its model and the processes that work on it.

        A model is loaded once for all its runs. Members whose needles, model or RoPE cannot be had
        are left out, and are in `failures`, like those whose work fails in some process.
        """
        for group in self._plan.groups():
            self._run_group(group, work)

    def _run_group(self, group: Sequence[Member], work: "Work") -> None:
        model = self._prepare(group)
        self._agree(group, "it could not be prepared in another process of the job")
        has_several = _has_several(group)
        for member in self._left(group):
            mesh = self._mesh.piece_of_work()
            found: Any = None
            with self._isolated(member, mesh):
                if has_several:
                    override_rope(model, member.rope)
                found = work(member, model, mesh)
            self._agree([member], "it failed in another process of the job")
            if self._mesh.is_leader and member.name not in self.failures:
                self._on_end(member, found)

    def _prepare(self, group: Sequence[Member]) -> Any:
        """The model of a group. What it or one of its runs cannot have is found before any runs."""
        model: Any = None
        for member in group:
            with self._prepared(member):
                self.needles_of(member)
        if ready := self._left(group):
            self._free_memory()
            rope = RopeChoice() if _has_several(group) else ready[0].rope
            with self._prepared(*ready):
                model = self._load(ready[0].options, rope, self._mesh)
            self._has_loaded = True
        if _has_several(group):
            for member in self._left(ready):
                with self._prepared(member):
                    override_rope(model, member.rope)
        return model

    def _agree(self, group: Sequence[Member], reason: str) -> None:
        """In a job of several processes all leave out the runs that failed in one of them."""
        if self._mesh.size == 1 or not self._plan.is_isolated:
            return
        mesh = self._mesh.fresh()
        for member in group:
            has_failed = member.name in self.failures
            mesh.count(member.name, has_failed)
            mesh.count(f"{member.name} of the leader", has_failed and mesh.is_leader)
        mesh.barrier()
        for member in group:
            has_failed = member.name in self.failures
            if not has_failed and mesh.count(member.name):
                self._fail([member], reason)
            elif has_failed and not mesh.count(f"{member.name} of the leader"):
                tell(f"error in {member.name}, process {mesh.rank}: {self.failures[member.name]}")

    def _left(self, members: Sequence[Member]) -> list[Member]:
        return [member for member in members if member.name not in self.failures]

    def needles_of(self, member: Member) -> "NeedleSet":
        """The needle set of a member."""
        name = needles_name(member.options)
        if name not in self._needles:
            self._needles[name] = load_named_needles(name)
        return self._needles[name]

    def haystack_of(self, member: Member, bars: "Bars", mesh: "Mesh") -> "AnyHaystack":
        """The film, text or questions of a member; the leader opens them first, and draws them."""
        from vniah.haystacks.frames import unit_of

        num_frames = parse_grid(member.options).max_frames
        is_made = member.options.haystack is None
        reads = what_is_read(member.options)
        key = (member.film, reads, num_frames if is_made else None)
        if not mesh.is_leader:
            mesh.wait_for("haystack")
        if key not in self._films:
            self._films[key] = open_named(member.options, num_frames, bars)
        if mesh.is_leader:
            mesh.announce("haystack")
        bars.unit = unit_of(self._films[key])
        return self._films[key]

    def _free_memory(self) -> None:
        """Frees what is left of a model that is gone, before another one is loaded."""
        from vniah.forward.devices import give_back_unused

        if self._has_loaded:
            gc.collect()
            give_back_unused(self._mesh.device)

    @contextmanager
    def _isolated(self, member: Member, mesh: "Mesh") -> Iterator[None]:
        """A block whose errors are those of this member in all processes, and do not end the sweep.

        Where several processes compute one forward pass they do: the others may be waiting for
        this one's part of it, where no message reaches them.
        """
        if mesh.context_size > 1:
            yield
            return
        with suppress(GivenUpError), self._prepared(member):
            yield
        if member.name in self.failures:
            mesh.give_up()

    @contextmanager
    def _prepared(self, *members: Member) -> Iterator[None]:
        """A block whose errors are those of these members, and do not end the sweep.

        Where the command line describes the runs, an error ends the command.
        """
        try:
            yield
        except JobError:  # its cause is said by another process
            raise
        except Exception as error:  # whatever it is: the other runs, of hours, are not to be lost
            if not self._plan.is_isolated:
                raise
            if not isinstance(error, _EXPECTED):
                show_traceback(type(error), error, error.__traceback__)
            self._fail(members, str(error) if isinstance(error, VniahError) else _described(error))

    def _fail(self, members: Sequence[Member], reason: str) -> None:
        """Records why runs fail, and says it once in a job."""
        for member in members:
            self.failures[member.name] = reason
        if self._mesh.is_leader:
            for member in members:
                self._on_end(member, reason)
            others = "; the other runs go on" * (len(members) < len(self._plan.members))
            tell(f"error in {in_short(members)}: {reason}{others}")


def in_short(members: Sequence[Member]) -> str:
    """Some runs, in a few words."""
    first, *others = (member.name for member in members)
    return first + (f" and {counted(len(others), 'other run')}" if others else "")


def _has_several(group: Sequence[Member]) -> bool:
    """Whether runs of one model have RoPEs of several kinds."""
    return any(member.rope != group[0].rope for member in group)


def _described(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or ''}".rstrip(": ")
    return f"{type(error).__name__}: {first_line(error)}"


def override_rope(model: "AnyModel", choice: RopeChoice) -> None:
    """Gives a loaded model another RoPE.

    Raises:
        InputError: the model cannot be given one.
    """
    change: Any = getattr(model, "override_rope", None)
    if change is None:
        raise InputError(
            f"{model.name} has no override_rope(theta, scaling), which gives it another RoPE for "
            "the next run; give one value"
        )
    change(choice.theta, choice.scaling)
