"""Several processes that torchrun did not start are refused; one process is left alone."""

import pytest

from vniah.cli import main
from vniah.errors import InputError
from vniah.sweep import launchers
from vniah.sweep.launchers import (
    job_rank,
    job_size,
    require_known_address,
    require_known_launcher,
)

pytestmark = pytest.mark.usefixtures("quick_pictures")

SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "1",
}
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}

SEVERAL = {
    "srun on one node": (SRUN, "srun --ntasks 1 torchrun --standalone --nproc-per-node 2 -m vniah"),
    "srun on two nodes": (
        {**SRUN, "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"},
        "srun --nodes 2 --ntasks 2 torchrun --nnodes 2 --nproc-per-node 4",
    ),
    "mpirun": (MPIRUN, "torchrun --nproc-per-node 4 -m vniah"),
    "first of srun": ({**SRUN, "SLURM_PROCID": "0"}, "started 2 processes"),
    "MPICH": ({"PMI_SIZE": "3", "PMI_RANK": "2"}, "PMI_SIZE=3"),
    "MVAPICH": ({"MV2_COMM_WORLD_SIZE": "3", "MV2_COMM_WORLD_RANK": "0"}, "mpirun started 3"),
    "jsrun": ({"JSM_NAMESPACE_SIZE": "6", "JSM_NAMESPACE_RANK": "5"}, "jsrun started 6"),
    "flux": ({"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "0"}, "flux run started 2"),
    "torchrun without an address": (
        {"RANK": "0", "WORLD_SIZE": "2"},
        "MASTER_ADDR and MASTER_PORT",
    ),
    "torchrun with an odd port": ({**TORCHRUN, "MASTER_PORT": "abc"}, "MASTER_PORT='abc' must be"),
    "torchrun with a large port": ({**TORCHRUN, "MASTER_PORT": "99999"}, "a number up to 65535"),
    "torchrun without a port": (
        {name: value for name, value in TORCHRUN.items() if name != "MASTER_PORT"},
        "MASTER_PORT is not set",
    ),
    "torchrun with words": ({**TORCHRUN, "WORLD_SIZE": "two"}, "must be whole numbers"),
    "torchrun with a rank too many": ({**TORCHRUN, "RANK": "2"}, "RANK below WORLD_SIZE"),
}

ALONE = {
    "nothing": {},
    "srun of one": {**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    "shell of salloc": {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"},
    "interactive step": {**SRUN, "SLURM_STEP_ID": "4294967290"},
    "script of sbatch": {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
    "shell of srun --pty": {**SRUN, "SLURM_PTY_PORT": "41233"},
    "mpirun of one": {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    "separate runs": {**SRUN, "RANK": "0", "WORLD_SIZE": "1"},
    "no numbers": {"OMPI_COMM_WORLD_SIZE": "many", "OMPI_COMM_WORLD_RANK": ""},
    "a size without a rank": {"WORLD_SIZE": "2", "PMI_SIZE": "2"},
}


@pytest.fixture(autouse=True)
def outside_of_jobs(monkeypatch):
    for name in launchers.JOB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for launcher in launchers._LAUNCHERS:
        monkeypatch.delenv(launcher.size, raising=False)
    monkeypatch.delenv("SLURM_PTY_PORT", raising=False)


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("case", SEVERAL)
def test_processes_of_another_launcher_are_refused(case, monkeypatch):
    variables, message = SEVERAL[case]
    set_all(monkeypatch, variables)
    with pytest.raises(InputError) as caught:
        require_known_launcher()
    assert message in str(caught.value)


@pytest.mark.parametrize("case", ALONE)
def test_single_process_is_left_alone(case, monkeypatch):
    set_all(monkeypatch, ALONE[case])
    require_known_launcher()
    assert job_size() == 1


@pytest.mark.parametrize("around", [{}, SRUN, MPIRUN], ids=["alone", "in srun", "in mpirun"])
def test_processes_of_torchrun_are_taken(around, monkeypatch):
    set_all(monkeypatch, {**around, **TORCHRUN})
    require_known_launcher()
    assert job_size() == 2


@pytest.mark.parametrize("name", ["nosuch.invalid", "a" * 300, ""])
def test_address_of_rank_0_that_is_not_known_is_refused(name, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", name)
    with pytest.raises(InputError, match="is no machine that is known here"):
        require_known_address()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    require_known_address()


@pytest.mark.parametrize("job", [{"RANK": "1"}, {"RANK": "", "WORLD_SIZE": ""}, {"RANK": "x"}])
def test_a_rank_without_a_job_does_not_keep_a_command_from_running(job, monkeypatch, capsys):
    set_all(monkeypatch, job)
    assert main(["compare", "nowhere", "nowhere"]) == 2
    assert "vniah: error: cannot compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("job", "expected"),
    [({}, "0"), ({"RANK": "1"}, "0"), ({"WORLD_SIZE": "2", "RANK": ""}, "0"), (TORCHRUN, "1")],
)
def test_the_rank_is_that_of_torchrun(job, expected, monkeypatch):
    set_all(monkeypatch, job)
    assert job_rank() == expected


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(
    "command", [["run"], ["check"], ["encode"], ["estimate"], ["plot", "nowhere"]]
)
def test_every_process_says_so_at_once_and_writes_nothing(
    command, rank, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    set_all(monkeypatch, {**SRUN, "SLURM_PROCID": rank})
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vniah: error: srun started 2 processes of this command")
    assert "torchrun --standalone --nproc-per-node 2 -m vniah" in line
    assert list(tmp_path.iterdir()) == []


def test_sweep_from_python_is_refused_as_well(monkeypatch):
    from vniah.sweep.mesh import open_mesh
    from vniah.sweep.run import Sweep

    set_all(monkeypatch, SRUN)
    with pytest.raises(InputError, match="srun started 2"), open_mesh():
        pass
    with pytest.raises(InputError, match="srun started 2"):
        Sweep(None, None, None, None)
