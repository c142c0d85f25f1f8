"""Members of a sweep in a job: processes leave out the same ones."""

from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor

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
    monkeypatch.setattr(Session, "needles_of", lambda self, member: None)


@pytest.mark.usefixtures("loads")
def test_processes_of_a_job_leave_out_what_one_of_them_cannot_load(capsys):
    plan = Plan(tuple(map(member, NAMES)), None, is_isolated=True)
    store = HashStore()

    def work_as(rank):
        done, failed = [], []
        mesh = Mesh(torch.device("cpu"), data_rank=rank, data_size=2, _store=store)
        one = Session(plan, mesh, lambda member, reason: failed.append((member.name, reason)))
        one.each(lambda member, model: done.append((member.name, model.name)))
        return done, failed, one.failures

    with ThreadPoolExecutor(2) as pool:
        leader, other = pool.map(work_as, range(2))
    assert leader[0] == other[0] == [("good", "good"), ("other", "other")]
    assert leader[1] == [
        ("broken", "there is no such model"),
        ("small", "it could not be prepared in another process of the job"),
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


@pytest.mark.usefixtures("loads")
def test_error_of_a_run_ends_a_job_of_several_processes():
    """The others wait for this one at the next barrier, where nobody could tell them."""

    def fail(member, model):
        raise InputError("it does not fit")

    plan = Plan((member("good"),), None, is_isolated=True)
    mesh = Mesh(torch.device("cpu"), data_rank=0, data_size=2, _store=HashStore())
    one = Session(plan, mesh, lambda member, reason: None)
    one._agree = lambda group: None
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
    one.each(lambda member, model: done.append(member.name))
    assert done == []
    assert ["has no override_rope" in reason for reason in one.failures.values()] == [True] * 2
