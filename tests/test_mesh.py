"""The mesh of processes: who is where, and what they share. Real processes, on the loopback."""

import json
import os
import time

import pytest
import torch
import torch.distributed as dist
from jobs import JOB, run_ranks, start_torchrun

from vniah.errors import InputError, VniahError
from vniah.sweep import mesh as mesh_module
from vniah.sweep.mesh import open_mesh

COUNT = 12


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    """No test takes itself for a part of the job that the tests run in."""
    for name in JOB:
        monkeypatch.delenv(name, raising=False)


# --- where a process stands ----------------------------------------------------------------------


@pytest.mark.parametrize("variables", [{}, {"RANK": "0", "WORLD_SIZE": "1"}, "torchrun"])
def test_mesh_of_one_process_starts_no_group(variables, monkeypatch):
    if variables == "torchrun":
        variables = dict(zip(JOB, ("0", "1", "127.0.0.1", "1", "0"), strict=True))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with open_mesh(device="cpu") as mesh:
        assert not dist.is_initialized()
        assert (mesh.rank, mesh.size, mesh.is_leader) == (0, 1, True)
        assert (mesh.data_rank, mesh.data_size) == (0, 1)
        assert (mesh.context_rank, mesh.context_size, mesh.context_group) == (0, 1, None)
        assert mesh.device == torch.device("cpu")
        assert list(mesh.claim("branches", 3)) == [0, 1, 2]
        assert [mesh.count("done", n) for n in (2, 0, 3)] == [2, 2, 5]
        mesh.barrier()
        mesh.announce("ready")
        mesh.wait_for("ready")


def test_mesh_when_fresh_has_all_names_again():
    with open_mesh() as mesh:
        for _ in range(3):
            turn = mesh.fresh()
            assert list(turn.claim("branches", 2)) == [0, 1]
            assert turn.count("done", 1) == 1
            turn.announce("ready")


@pytest.mark.parametrize("use", [lambda m: m.claim("a", 2), lambda m: m.announce("a")])
def test_mesh_when_a_name_is_used_twice(use):
    with open_mesh() as mesh:
        use(mesh)
        with pytest.raises(AssertionError, match=r"a was used before; take mesh.fresh\(\)"):
            use(mesh)


def write_place(rank, context_parallel, directory):
    """One round of everything, in two meshes one after the other."""
    found = []
    for _ in range(2):
        with open_mesh(context_parallel=context_parallel, device="cpu") as mesh:
            turn = mesh.fresh()
            numbers = list(turn.claim("branches", COUNT))
            turn.count("done", 1)
            turn.barrier()
            total = torch.tensor([mesh.rank + 1])
            if mesh.context_group is not None:
                dist.all_reduce(total, group=mesh.context_group)
            found.append(
                {
                    "rank": mesh.rank,
                    "place": [mesh.data_rank, mesh.context_rank],
                    "shape": [mesh.data_size, mesh.context_size],
                    "claimed": numbers,
                    "done": turn.count("done"),
                    "group_total": int(total.item()),
                }
            )
        assert not dist.is_initialized()
    (directory / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.distributed
@pytest.mark.parametrize(("data_size", "context_size"), [(2, 1), (1, 2), (2, 2)])
def test_mesh_gives_every_number_to_one_worker(data_size, context_size, tmp_path):
    size = data_size * context_size
    run_ranks(write_place, size, context_size, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)]
    for turn in range(2):
        claimed = {}
        for rank, turns in enumerate(ranks):
            found = turns[turn]
            data_rank = rank // context_size
            first = data_rank * context_size
            group = range(first, first + context_size) if context_size > 1 else [rank]
            assert found["rank"] == rank
            assert found["place"] == [data_rank, rank % context_size]
            assert found["shape"] == [data_size, context_size]
            assert found["done"] == size
            assert found["group_total"] == sum(r + 1 for r in group)
            assert claimed.setdefault(data_rank, found["claimed"]) == found["claimed"]
            assert found["claimed"] == sorted(found["claimed"])
        assert sorted(n for numbers in claimed.values() for n in numbers) == list(range(COUNT))


def claim_slowly(rank, directory):
    """Rank 1 is slow with its first piece of work: until rank 0 has done nine."""
    with open_mesh(device="cpu") as mesh:
        numbers = []
        if mesh.is_leader:
            mesh.wait_for("the slow one has begun")
        for number in mesh.claim("branches", 10):
            numbers.append(number)
            if not mesh.is_leader:
                mesh.announce("the slow one has begun")
                mesh.wait_for("the fast one is done")
        if mesh.is_leader:
            mesh.announce("the fast one is done")
    (directory / f"{rank}.json").write_text(json.dumps(numbers))


@pytest.mark.distributed
def test_claim_when_a_worker_is_slow_gives_it_fewer(tmp_path):
    run_ranks(claim_slowly, 2, tmp_path)
    assert json.loads((tmp_path / "1.json").read_text()) == [0]
    assert json.loads((tmp_path / "0.json").read_text()) == list(range(1, 10))


# --- when it goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "context_parallel", "message"),
    [
        (1, 0, "--context-parallel must be at least 1, got 0"),
        (1, 2, "needs as many processes, this is one; start it with: torchrun --nproc-per-node 2"),
        (4, 3, r"--context-parallel 3 does not divide the 4 processes .*choose one of 1, 2, 4$"),
        (2, 4, "--context-parallel 4 does not divide the 2 processes of this job"),
    ],
)
def test_mesh_when_the_processes_do_not_divide(size, context_parallel, message, monkeypatch):
    if size > 1:
        for name, value in zip(JOB, ("0", str(size), "127.0.0.1", "1", "0"), strict=True):
            monkeypatch.setenv(name, value)
    with (
        pytest.raises(InputError, match=message),
        open_mesh(context_parallel=context_parallel, device="cpu"),
    ):
        pass
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("device", "context_parallel", "message"),
    [
        ("cuda:1", 1, "--device cuda:1 names one GPU for several processes; write --device cuda"),
        ("cuda", 1, "process 99 of this machine has no GPU: there "),
        ("mps", 2, "--context-parallel works on cpu and cuda, got --device mps"),
    ],
)
def test_mesh_when_the_device_cannot_be_shared(device, context_parallel, message, monkeypatch):
    for name, value in zip(JOB, ("0", "2", "127.0.0.1", "1", "99"), strict=True):
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(InputError, match=message),
        open_mesh(context_parallel=context_parallel, device=device),
    ):
        pass


def fail_in_the_middle(rank, directory):
    """Rank 0, which holds the store, fails; rank 1 waits for something that never comes."""
    mesh_module._CAUSE_SPEAKS_FIRST_SECONDS = 0.5  # a process of its own, which ends with this
    try:
        with open_mesh(device="cpu") as mesh:
            mesh.barrier()
            if mesh.is_leader:
                raise KeyError("boom")
            mesh.wait_for("what never comes")
    except KeyError:
        assert not dist.is_initialized()
        os._exit(0)
    except VniahError as error:
        assert not dist.is_initialized()
        (directory / "said.txt").write_text(str(error))


@pytest.mark.distributed
def test_mesh_when_the_leader_is_gone_says_so(tmp_path):
    run_ranks(fail_in_the_middle, 2, tmp_path)
    assert (tmp_path / "said.txt").read_text().startswith("this process lost the others of its job")


def finish_late(rank, directory):
    with open_mesh(device="cpu") as mesh:
        if mesh.is_leader:
            mesh.announce("the leader is done")
        else:
            mesh.wait_for("the leader is done")
            time.sleep(0.3)
            (directory / "late.txt").touch()
    assert (directory / "late.txt").exists(), "it would have taken the store with it"


@pytest.mark.distributed
def test_mesh_when_the_leader_is_done_first_waits_for_the_others(tmp_path):
    run_ranks(finish_late, 2, tmp_path)


# --- as a user starts it -------------------------------------------------------------------------

SCRIPT = """
import json, sys, warnings
from pathlib import Path
from vniah.sweep.mesh import open_mesh

warnings.simplefilter("error")
for turn in range(2):
    with open_mesh(device="cpu") as mesh:
        numbers = list(mesh.claim("branches", 20))
    Path(sys.argv[1], f"{turn}-{mesh.rank}-{mesh.size}.json").write_text(json.dumps(numbers))
"""


@pytest.mark.distributed
def test_mesh_under_torchrun(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    job = start_torchrun(2, [str(script), str(tmp_path)], tmp_path / "said")
    job.join(120)
    assert job.exitcode == 0, (tmp_path / "said.err").read_text()
    for turn in range(2):
        files = sorted(tmp_path.glob(f"{turn}-*.json"))
        assert [path.stem for path in files] == [f"{turn}-0-2", f"{turn}-1-2"]
        numbers = [n for path in files for n in json.loads(path.read_text())]
        assert sorted(numbers) == list(range(20)), "the second mesh starts at 0 again"
