"""Members of a sweep in a job: processes leave out the same ones."""

import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch.distributed import HashStore

from vniah.cli.sweeps import session
from vniah.cli.sweeps.members import Member, Plan
from vniah.cli.sweeps.session import Session
from vniah.errors import InputError, ModelError
from vniah.options.rope import RopeChoice
from vniah.sweep.mesh import Mesh

NAMES = ("good", "broken", "small", "other")


def member(name):
    return Member(name, name, Namespace(model=name), RopeChoice())


@pytest.fixture
def loads(monkeypatch):
    """Models by name, some of which not every process can load."""

    def load(options, rope, mesh):
        if options.model == "broken":
            raise ModelError("there is no such model")
        if options.model == "small" and mesh.rank == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return Namespace(name=options.model)

    monkeypatch.setattr(session, "load_named_model", load)
    monkeypatch.setattr("vniah.sweep.mesh.POLL_SECONDS", 0.001)
    monkeypatch.setattr(Session, "needles_of", lambda self, member: None)


@pytest.mark.usefixtures("loads")
def test_processes_of_a_job_leave_out_what_one_of_them_cannot_load(capsys):
    plan = Plan(tuple(map(member, NAMES)), None, is_isolated=True)
    store = HashStore()

    def work_as(rank):
        done, failed = [], []
        mesh = Mesh(torch.device("cpu"), data_rank=rank, data_size=2, _store=store)
        one = Session(plan, mesh, lambda member, found: failed.append((member.name, found)))
        one.each(lambda member, model, mesh: done.append((member.name, model.name)))
        return done, failed, one.failures

    with ThreadPoolExecutor(2) as pool:
        leader, other = pool.map(work_as, range(2))
    assert leader[0] == other[0] == [("good", "good"), ("other", "other")]
    assert leader[1] == [
        ("good", None),
        ("broken", "there is no such model"),
        ("small", "it could not be prepared in another process of the job"),
        ("other", None),
    ]
    assert other[1] == []
    assert other[2]["small"] == "OutOfMemoryError: CUDA out of memory."
    said = capsys.readouterr().err.splitlines()
    assert sorted(said) == [
        "vniah: error in broken: there is no such model; the other runs go on",
        "vniah: error in small, process 1: OutOfMemoryError: CUDA out of memory.",
        "vniah: error in small: it could not be prepared in another process of the job; the other "
        "runs go on",
    ]


def in_two_processes(plan, work, **mesh):
    """What a session gives in each of two processes, which are threads here: ended, failures."""
    store = HashStore()

    def run_as(rank):
        ended = []
        one = Session(
            plan,
            Mesh(torch.device("cpu"), data_rank=rank, data_size=2, _store=store),
            lambda member, found: ended.append((member.name, found)),
        )
        one.each(work)
        return ended, one.failures

    with ThreadPoolExecutor(2) as pool:
        return [*pool.map(run_as, range(2))]


WAITS = {
    "barrier": lambda mesh: mesh.fresh().barrier(),
    "announcement": lambda mesh: mesh.fresh().wait_for("encoded"),
    "work": lambda mesh: [time.sleep(0.01) for _ in mesh.fresh().claim("batches", 10**6)],
}


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("failing", [0, 1])
def test_run_that_fails_in_one_process_ends_in_all_and_the_next_goes_on(wait, failing, capsys):
    def work(member, model, mesh):
        if member.name == "first" and mesh.rank == failing:
            raise InputError("it does not fit")
        if member.name == "first":
            wait(mesh)
        mesh.fresh().barrier()
        return f"{member.name} by {model.name}"

    plan = Plan((member("first"), member("second")), None, is_isolated=True)
    leader, other = in_two_processes(plan, work)
    elsewhere = "it failed in another process of the job"
    reasons = ["it does not fit", elsewhere] if failing == 0 else [elsewhere, "it does not fit"]
    assert leader[0] == [("first", reasons[0]), ("second", "second by second")]
    assert other[0] == [], "only the leader writes down what came of it"
    assert [found["first"] for _, found in (leader, other)] == reasons
    assert "second" not in leader[1] | other[1]
    said = capsys.readouterr().err
    assert said.count("it does not fit") == 1
    assert f"error in first: {reasons[0]}; the other runs go on" in said


@pytest.mark.usefixtures("loads")
def test_run_that_fails_in_all_processes_is_said_once(capsys):
    def work(member, model, mesh):
        if member.name == "first":
            raise torch.OutOfMemoryError("CUDA out of memory.")

    plan = Plan((member("first"), member("second")), None, is_isolated=True)
    leader, other = in_two_processes(plan, work)
    assert leader[1] == other[1] == {"first": "OutOfMemoryError: CUDA out of memory."}
    assert leader[0][1] == ("second", None)
    assert capsys.readouterr().err.count("CUDA out of memory") == 1


@pytest.mark.usefixtures("loads")
def test_film_that_one_process_cannot_open_is_opened_again_for_the_next_run(monkeypatch):
    has_failed = []

    def open_film(options, num_frames, bars):
        if not has_failed:
            has_failed.append(True)
            raise OSError(5, "Input/output error", "film.mp4")
        return Namespace(identity=dict)

    monkeypatch.setattr(session, "open_named", open_film)
    monkeypatch.setattr(session, "parse_grid", lambda options: Namespace(max_frames=4))
    members = tuple(
        replace(member(name), options=Namespace(model=name, haystack=("film.mp4",)))
        for name in ("first", "second")
    )
    films = []

    def work(member, model, mesh):
        opened[mesh.rank].haystack_of(member, Namespace(), mesh)
        films.append((member.name, mesh.rank))
        mesh.fresh().barrier()

    opened = {}
    real = Session.__init__

    def init(self, plan, mesh, on_end):
        real(self, plan, mesh, on_end)
        opened[mesh.rank] = self

    monkeypatch.setattr(Session, "__init__", init)
    leader, other = in_two_processes(Plan(members, None, is_isolated=True), work)
    assert [*leader[1]] == [*other[1]] == ["first"]
    assert sorted(films) == [("second", 0), ("second", 1)]


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize("is_isolated", [True, False])
def test_error_of_a_run_ends_a_job_that_computes_forward_passes_together(is_isolated):
    """The others may wait for this one inside a forward pass, where nobody could tell them."""

    def fail(member, model, mesh):
        raise InputError("it does not fit")

    plan = Plan((member("good"),), None, is_isolated=is_isolated)
    mesh = Mesh(torch.device("cpu"), context_rank=0, context_size=2, _store=HashStore())
    one = Session(plan, mesh, lambda member, found: None)
    one._agree = lambda group, reason: None
    with pytest.raises(InputError, match="it does not fit"):
        one.each(fail)


@pytest.mark.usefixtures("loads")
def test_of_a_model_without_override_no_run_with_several_ropes_is_made():
    members = tuple(
        Member(f"good-{theta}", "good", Namespace(model="good"), RopeChoice(theta=theta))
        for theta in (5.0, 6.0)
    )
    done = []
    plan = Plan(members, None, is_isolated=True)
    one = Session(plan, Mesh(torch.device("cpu")), lambda *_: None)
    one.each(lambda member, model, mesh: done.append(member.name))
    assert done == []
    assert ["has no override_rope" in reason for reason in one.failures.values()] == [True] * 2
