"""Sweeps by several processes against the same sweep by one: samples, files, and what is said."""

import contextlib
import functools
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from jobs import JOB, run_ranks, start_ranks, start_torchrun
from PIL import Image
from runs import draw_quickly
from torch.multiprocessing import ProcessExitedException

import vniah.sweep.mesh
from vniah.cli import main
from vniah.errors import InputError, VniahError
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.options.precision import DEFAULT_PRECISION
from vniah.protocol import TextSegment, TokenSequence
from vniah.results import load_results
from vniah.results.applied import applied_results
from vniah.sweep.mesh import open_mesh
from vniah.sweep.run import run_sweep

pytestmark = pytest.mark.distributed

# Ten passes, so that there is something to share out.
FRAMES, POSITIONS = "20,30,40", "0,2,5,20"
NUM_SAMPLES = 48  # 36 of the cells, 9 without a needle, 3 without a video
APPLIED_FUNCTION = "vniah.interventions:every_second_token"
WAYS, RING_WAYS = ["prefill", "tree", "suffixes"], ["ring of 2", "suffixes in a ring of 2"]
GRIDS = {
    "depths": Grid.of([10, 20, 30, 40], [0, 0.25, 0.5, 1]),
    "positions": Grid.parse(FRAMES, positions=POSITIONS),
}


class FirstLevel:
    """A model that runs its own forward pass: its logits depend on the number of frames only."""

    name, revision, frame_shape = "first", "1", (1, 2)

    def encode_frames(self, frames):
        return torch.zeros(len(frames), 1, 2)

    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((0,)), *frames), (1,))

    def answer_logits(self, sequence, embeds):
        return torch.tensor([[len(embeds) / 7, 3.0]])


class Chat:
    """A model that says how many pictures it saw."""

    name, revision = "chat", "1"

    def answer(self, frames, question):
        return str(len(frames))


class Wordless(Chat):
    """A chat model that says nothing."""

    def answer(self, frames, question):
        return None


PLUG_INS = {"first": FirstLevel, "chat": Chat}


@pytest.fixture(autouse=True)
def outside_of_jobs(monkeypatch, own_cache):
    """No test takes itself for a part of the job that the tests run in."""
    for name in JOB:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many as every process of a job has, so that sums are the same to the last bit."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def sources(checkpoint, image_folder, needle_folder):
    return checkpoint, image_folder, needle_folder


@pytest.fixture(scope="module")
def alone(one_thread, checkpoint, image_folder, needle_folder, tmp_path_factory):
    """The folder of every sweep by one process, by name."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VNIAH_CACHE", str(folder / "cache"))
        for name in (*GRIDS, *PLUG_INS):
            sweep(name, (checkpoint, image_folder, needle_folder), folder / name)
        sources = checkpoint, image_folder, needle_folder
        sweep("applied", sources, folder / "applied", apply=APPLIED_FUNCTION)
    return folder


@functools.cache
def opened(checkpoint, images, needles):
    """What every sweep of a process reads."""
    return load_model(checkpoint, device="cpu"), open_haystack(images), load_needles(needles)


def sweep(name, sources, output, mesh=None, **options):
    """A sweep of the tiny checkpoint over a grid, or of a plug-in over depths."""
    model, haystack, needles = opened(*sources)
    model = PLUG_INS[name]() if name in PLUG_INS else model
    grid = GRIDS.get(name, GRIDS["depths"])
    return run_sweep(model, haystack, needles, grid, output=output, mesh=mesh, **options)


def without_seconds(folder):
    return [{**vars(sample), "seconds": None} for sample in load_results(folder).samples]


def assert_equal_samples(folder, alone, *, is_exact=True):
    """All samples are those of one process; and no file of a rank is left."""
    assert sorted(path.name for path in folder.glob("*samples*")) == ["samples.jsonl"]
    found, expected = without_seconds(folder), without_seconds(alone)
    assert len(found) == len(expected) > 0
    if not is_exact:
        for one, other in zip(found, expected, strict=True):
            for name in ("logprob", "margin"):
                assert one.pop(name) == pytest.approx(other.pop(name), abs=1e-4)
    assert found == expected


def lines_of(folder):
    """The samples as they lie in the file."""
    lines = (folder / "samples.jsonl").read_text().splitlines()
    return [
        (
            s["control"] is not None,
            s.get("num_frames", 10**9),
            s.get("needle_index"),
            s["needle_id"],
        )
        for s in map(json.loads, lines)
    ]


def forward_record(folder):
    return json.loads((folder / "manifest.json").read_text())["environment"]["forward"]


def cut(whole, folder):
    """What a job of three ranks left that was killed: two samples folded, three not, one cut."""
    folder.mkdir()
    shutil.copy(whole / "manifest.json", folder)
    lines = (whole / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:2]))
    (folder / "samples.rank-0000.jsonl").write_text(lines[7] + lines[9])
    (folder / "samples.rank-0002.jsonl").write_text(lines[20] + lines[30][:50])


def run_main(output, *arguments):
    """The command in this process; what it says goes to files, together with its exit code."""
    rank = os.environ["RANK"]
    with (
        pytest.MonkeyPatch.context() as patch,
        Path(f"{output}.out-{rank}").open("w") as out,
        Path(f"{output}.err-{rank}").open("w") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        draw_quickly(patch)
        code = main([str(argument) for argument in arguments])
    Path(f"{output}.code-{rank}").write_text(str(code))


def said(output, size):
    """Exit codes, and what each rank printed to stdout and to stderr."""
    return tuple(
        [Path(f"{output}.{what}-{rank}").read_text() for rank in range(size)]
        for what in ("code", "out", "err")
    )


def run_rank(rank, output, arguments):
    run_main(output, *arguments)


def run_job(size, output, *arguments):
    """The command as a job: its exit code, and what all its ranks print to stdout and to stderr."""
    run_ranks(run_rank, size, output, arguments)
    codes, out, err = said(output, size)
    assert len(set(codes)) == 1, codes
    return int(codes[0]), "".join(out), "".join(err)


# --- two processes -------------------------------------------------------------------------------


def work_of_two(rank, folder, sources, whole):
    with open_mesh() as mesh:
        for name in (*GRIDS, *PLUG_INS):
            results = sweep(name, sources, folder / f"data-{name}", mesh)
            assert results.is_complete, "on every rank"
        sweep("positions", sources, folder / "cut", mesh)
        before = (folder / "cut" / "samples.jsonl").read_bytes()
        sweep("positions", sources, folder / "cut", mesh)
        assert (folder / "cut" / "samples.jsonl").read_bytes() == before, "nothing was left to do"
        sweep("applied", sources, folder / "data-applied", mesh, apply=APPLIED_FUNCTION)
        results = sweep("first", sources, folder / "adaptive", mesh, adaptive=DEFAULT_PRECISION)
        assert results.is_finished and not results.is_complete, "on every rank"
    with open_mesh(context_parallel=2) as mesh:
        output = folder / "adaptive-context"
        sweep("depths", sources, output, mesh, adaptive=DEFAULT_PRECISION)
        for name in GRIDS:
            results = sweep(name, sources, folder / f"context-{name}", mesh)
            assert results.is_complete
        sweep("applied", sources, folder / "context-applied", mesh, apply=APPLIED_FUNCTION)
        with pytest.raises(InputError, match=r"--context-parallel 2 needs a model with a decoder"):
            sweep("first", sources, folder / "context-first", mesh)
    check = ("check", "--needles", sources[2], "--model")
    run_main(folder / "check", *check, sources[0], "--device", "cpu", "--context-parallel", 2)
    run_main(folder / "check-first", *check, "test_jobs:FirstLevel", "--device", "cpu")
    run_main(folder / "check-chat", *check, "test_jobs:Chat")
    run_main(folder / "check-wordless", *check, "test_jobs:Wordless")
    vniah.sweep.mesh._CAUSE_SPEAKS_FIRST_SECONDS = 0
    with (
        pytest.raises(VniahError, match="this process lost the others of its job; read their m"),
        open_mesh(context_parallel=2) as mesh,
    ):
        mesh.barrier()
        if rank == 1:
            os._exit(0)
        sweep("depths", sources, folder / "lost", mesh)
    (folder / "lost.txt").touch()


@pytest.fixture(scope="module")
def two(checkpoint, image_folder, needle_folder, alone, tmp_path_factory):
    """The folder of what two processes did."""
    folder = tmp_path_factory.mktemp("two")
    cut(alone / "positions", folder / "cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VNIAH_CACHE", str(folder / "cache"))
        run_ranks(work_of_two, 2, folder, (checkpoint, image_folder, needle_folder), alone)
    return folder


@pytest.mark.parametrize("name", [*GRIDS, *PLUG_INS])
def test_two_workers_give_the_samples_of_one(two, alone, name):
    assert_equal_samples(two / f"data-{name}", alone / name)
    assert lines_of(two / f"data-{name}") == sorted(lines_of(alone / name)), "in order"


@pytest.mark.parametrize("name", GRIDS)
def test_one_worker_of_two_processes_gives_the_samples_of_one(two, alone, name):
    assert_equal_samples(two / f"context-{name}", alone / name, is_exact=False)


def test_two_workers_choose_the_cells_of_one(two, sources, tmp_path):
    sweep("first", sources, tmp_path / "one", adaptive=DEFAULT_PRECISION)
    assert_equal_samples(two / "adaptive", tmp_path / "one")
    assert lines_of(two / "adaptive") == sorted(lines_of(tmp_path / "one"))
    records = [load_results(f).manifest["adaptive"] for f in (two / "adaptive", tmp_path / "one")]
    assert records[0] == records[1] and records[0]["rounds"] > 3
    sweep("depths", sources, tmp_path / "context", adaptive=DEFAULT_PRECISION)
    assert_equal_samples(two / "adaptive-context", tmp_path / "context", is_exact=False)


@pytest.mark.parametrize("name", ["data-applied", "context-applied"])
def test_two_processes_apply_what_one_applies(two, alone, name):
    is_exact = name == "data-applied"
    assert_equal_samples(two / name, alone / "applied", is_exact=is_exact)
    found, expected = (load_results(folder) for folder in (two / name, alone / "applied"))
    differing = 0
    for copy, other, one in zip(
        applied_results(found).samples,
        applied_results(expected).samples,
        expected.samples,
        strict=True,
    ):
        assert copy.sample_id == other.sample_id == one.sample_id
        assert copy.logprob == pytest.approx(other.logprob, abs=0 if is_exact else 1e-4)
        differing += abs(copy.logprob - one.logprob) > 1e-3
    assert differing > len(expected.samples) / 2, "else nothing was applied"


def test_sweep_that_three_ranks_left_is_ended_by_two(two, alone):
    assert_equal_samples(two / "cut", alone / "positions")
    assert lines_of(two / "cut") == sorted(lines_of(alone / "positions"))


def test_manifest_says_how_the_forward_pass_was_run(two, alone):
    one, data, context = (
        forward_record(folder / name)
        for folder, name in ((alone, "depths"), (two, "data-depths"), (two, "context-depths"))
    )
    assert (one["processes"], data["processes"], context["processes"]) == (1, 2, 2)
    assert (one["context_parallel"], data["context_parallel"]) == (1, 1)
    assert one["attention"] == "torch CPU flash"
    assert context["context_parallel"] == 2
    assert {**data, "processes": 1} == one, "and all else is the same, to the last bit of the check"
    assert [*data["check"]] == WAYS
    assert [*context["check"]] == [*WAYS, *RING_WAYS]
    assert data["passes"] > 2, "else there was nothing to share out"
    first = forward_record(two / "data-first")
    assert first.pop("oddness").keys() == {"a", "b", "c"}
    assert first == {"share": "none", "processes": 2}


def test_context_parallel_with_a_model_without_decoder_writes_nothing(two):
    assert not (two / "context-first").exists()


def test_process_whose_neighbour_in_the_ring_is_gone_says_so(two):
    assert (two / "lost.txt").exists()
    assert not (two / "lost").exists()


def test_check_by_two_processes_is_printed_once(two):
    codes, (out, *others), errors = said(two / "check", 2)
    assert (codes, others, errors) == (["0", "0"], [""], ["", ""])
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "conformance",
        *WAYS,
        *RING_WAYS,
        "sharing",
        "the forward pass gives what the model gives",
    ]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("first", "first runs its own forward pass, every cell by itself; there is nothing to "),
        ("chat", "chat answers in words, e.g. '1'"),
    ],
)
def test_check_of_a_plug_in_by_two_processes(two, name, line):
    codes, (out, *others), errors = said(two / f"check-{name}", 2)
    assert (codes, others, errors) == (["0", "0"], [""], ["", ""])
    *notes, conformance, last = out.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert " things examined, none wrong" in conformance
    assert last.startswith(line)


def test_check_of_a_plug_in_with_a_fault_ends_both_processes(two):
    codes, (out, *others), errors = said(two / "check-wordless", 2)
    assert (codes, others, errors) == (["1", "1"], [""], ["", ""])
    wrong, conformance = out.splitlines()
    assert wrong == "wrong: answer gives NoneType, not text"
    assert " things examined, 1 wrong" in conformance


# --- four processes ------------------------------------------------------------------------------


def work_of_four(rank, folder, sources):
    with open_mesh(context_parallel=2) as mesh:
        sweep("depths", sources, folder / "depths", mesh)
        sweep("positions", sources, folder / "cut", mesh)


def test_two_workers_of_two_processes_give_the_samples_of_one(sources, alone, tmp_path):
    cut(alone / "positions", tmp_path / "cut")
    run_ranks(work_of_four, 4, tmp_path, sources)
    for name, of_one in (("depths", "depths"), ("cut", "positions")):
        assert_equal_samples(tmp_path / name, alone / of_one, is_exact=False)
        assert lines_of(tmp_path / name) == sorted(lines_of(alone / of_one))
    record = forward_record(tmp_path / "depths")
    assert (record["processes"], record["context_parallel"]) == (4, 2)


# --- the real command ----------------------------------------------------------------------------

# The tiny checkpoint, whose every process stops after some samples, for ever.
HOLDING = """
import os, time
from itertools import count
from vniah.models.loading import load_model

def load():
    model = load_model(os.environ["TINY"], device="cpu")
    plain, number = model.decode, count()
    def decode(ids):
        if next(number) == int(os.environ.get("HOLD_AFTER", -1)):
            time.sleep(600)
        return plain(ids)
    model.decode = decode
    return model
"""


@pytest.fixture
def command(checkpoint, image_folder, needle_folder, tmp_path, monkeypatch):
    """Arguments of a run, in a folder with the plug-in that holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINY", str(checkpoint))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent), prepend=os.pathsep)
    (tmp_path / "holding.py").write_text(HOLDING)
    return [
        *("run", "--model", "holding:load", "--haystack", str(image_folder)),
        *("--needles", str(needle_folder), "--frames", FRAMES, "--positions", POSITIONS),
    ]


def num_lines(folder):
    """How many samples have a result, controls included."""
    return load_results(folder).num_done


def wait_for_samples(folder, count, processes):
    """Returns when so many are written."""

    def is_reached():
        # Lines are read as samples only when there are enough: that takes longer than to count.
        written = sum(path.read_bytes().count(b"\n") for path in folder.glob("samples*.jsonl"))
        return written >= count and num_lines(folder) >= count

    deadline = time.monotonic() + 200
    while not is_reached():
        assert all(process.is_alive() for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end_of(torchrun, output):
    """What a job of torchrun printed to stdout, and to stderr."""
    torchrun.join(200)
    torchrun.kill()
    return tuple(Path(f"{output}.{name}").read_text() for name in ("out", "err"))


def own_lines(err):
    """What went wrong, by vniah itself, on stderr: torchrun has a lot to say, too."""
    lines = [line for line in err.splitlines() if line.startswith("vniah: ")]
    ordinary = (" passes for ", "vniah: encode: ", "vniah: sweep: ")
    return [line for line in lines if not any(text in line for text in ordinary)]


@pytest.mark.slow
def test_run_killed_then_stopped_goes_on_with_any_number(
    command, alone, tmp_path, capsys, monkeypatch
):
    run, copy, last = tmp_path / "run", tmp_path / "copy", tmp_path / "last"
    monkeypatch.setenv("HOLD_AFTER", "5")
    job = start_ranks(run_rank, 3, tmp_path / "first", [*command, "--output", "run"])
    wait_for_samples(run, 15, job.processes)
    job.processes[1].kill()
    with pytest.raises(ProcessExitedException, match="process 1 terminated with signal SIGKILL"):
        job.join()
    assert [Path(f"{tmp_path / 'first'}.out-{rank}").read_text() for rank in range(3)] == [""] * 3
    err = [Path(f"{tmp_path / 'first'}.err-{rank}").read_text() for rank in range(3)]
    assert own_lines("".join(err)) == []
    assert len(list(run.glob("samples.rank-*"))) == 3, "what was written is kept"
    assert num_lines(run) == 15
    shutil.copytree(run, copy)

    monkeypatch.setenv("HOLD_AFTER", "2")
    job = start_torchrun(2, ["-m", "vniah", *command, "--output", "run"], tmp_path / "second")
    wait_for_samples(run, 19, [job])
    os.kill(job.pid, signal.SIGINT)
    _, err = end_of(job, tmp_path / "second")
    assert job.exitcode != 0
    assert own_lines(err) == ["vniah: stopped; the same command goes on from here"]
    num_before = num_lines(run)
    assert 19 <= num_before < NUM_SAMPLES

    monkeypatch.delenv("HOLD_AFTER")
    code, out, err = run_job(3, last, *command, "--output", "run")
    assert code == 0, err
    assert err.count(f" passes for {NUM_SAMPLES} samples, ") == 1, "by the leader only"
    assert out.count("tiny on ") == out.count("average: ") == out.count("heatmap: ") == 1
    assert f"{NUM_SAMPLES - num_before} samples in " in out, "of all processes"
    assert own_lines(err) == [] and "Warning" not in err and "Traceback" not in err
    assert_equal_samples(run, alone / "positions")
    assert lines_of(run) == sorted(lines_of(alone / "positions"))
    with Image.open(run / "heatmap.png") as picture:
        assert min(picture.size) > 200

    assert main([*command, "--output", "copy"]) == 0, "without torchrun"
    assert f"{NUM_SAMPLES - 15} samples in " in capsys.readouterr().out
    assert_equal_samples(copy, alone / "positions")


@pytest.mark.usefixtures("quick_pictures")
def test_several_rope_bases_by_two_processes_are_those_of_one(command, checkpoint, tmp_path):
    command[command.index("holding:load")] = str(checkpoint)
    command += ["--device", "cpu", "--rope-theta", "500,1e6"]
    assert main([*command, "--output", "alone"]) == 0
    for output, options in (("data", []), ("context", ["--context-parallel", "2"])):
        code, out, err = run_job(2, tmp_path / "job", *command, *options, "--output", output)
        assert code == 0, err
        assert out.count("tiny, RoPE base ") == out.count("average: ") == 2, "by the leader only"
        assert out.count("mean over depth") == 1
        assert out.endswith(f"heatmap: {output}/heatmap.png\n")
        for name in ("rope-theta-500", "rope-theta-1e6"):
            assert_equal_samples(
                tmp_path / output / name, tmp_path / "alone" / name, is_exact=not options
            )


def test_user_error_of_a_job_is_said_by_every_rank(command, tmp_path):
    """The leader says it first; torchrun ends the others before they do."""
    options = ["--context-parallel", "3", "--output", "out"]
    code, out, err = run_job(2, tmp_path / "job", *command, *options)
    assert (code, out) == (2, "")
    leader, other = own_lines(err)
    assert leader.startswith("vniah: error: --context-parallel 3 does not divide the 2 processes")
    assert other == leader.replace("error", "error in process 1", 1)
    assert not (tmp_path / "out").exists()


# It loads faster than the tiny checkpoint.
LIGHT = """
class Model:
    name, revision, frame_shape = "light", "1", (1, 2)
    def encode_frames(self, frames): ...
    def compose(self, frames, question, answer): ...
    def answer_logits(self, sequence, embeds): ...
"""


@pytest.mark.slow
def test_user_error_of_a_job_is_one_line(command, tmp_path):
    (tmp_path / "light.py").write_text(LIGHT)
    command[command.index("holding:load")] = "light:Model"
    command += ["--haystack", "/nowhere.mp4", "--output", "out"]
    (tmp_path / "command.py").write_text("import sys, vniah.cli\nsys.exit(vniah.cli.main())\n")
    job = start_torchrun(2, [str(tmp_path / "command.py"), *command], tmp_path / "said")
    out, err = end_of(job, tmp_path / "said")
    assert job.exitcode not in (None, 0)
    assert out == ""
    line, *others = own_lines(err)
    assert line.startswith("vniah: error: ") and "there is no file /nowhere.mp4" in line
    # On a busy machine the other process says it, too, before torchrun ends it.
    assert others in ([], [line.replace("error", "error in process 1", 1)])
    assert not (tmp_path / "out").exists()


# --- check ---------------------------------------------------------------------------------------

# The tiny checkpoint with a forward pass of its own that its layers know nothing of.
WRONG = """
import os
from vniah.models.loading import load_model

def load():
    model = load_model(os.environ["TINY"], device="cpu")
    body = model.decoder.model
    plain = body.forward
    def forward(*arguments, **options):
        for layer in body.layers:
            layer.self_attn.scaling *= 3
        try:
            return plain(*arguments, **options)
        finally:
            for layer in body.layers:
                layer.self_attn.scaling /= 3
    body.forward = forward
    return model
"""


@pytest.fixture
def wrong(command, tmp_path):
    """Arguments of a run of a model whose forward pass the prefill does not give."""
    (tmp_path / "wrong.py").write_text(WRONG)
    return [argument.replace("holding", "wrong") for argument in command]


def test_check_of_a_checkpoint_holds(checkpoint, needle_folder, capsys):
    check = ["check", "--device", "cpu", "--needles", str(needle_folder)]
    assert main([*check, "--model", str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["conformance", *WAYS, "sharing"]
    assert lines[0].endswith(" things examined, none wrong")
    assert lines[-1] == "the forward pass gives what the model gives"


def test_check_of_a_model_that_the_prefill_does_not_give_exits_with_1(wrong, needle_folder, capsys):
    assert main(["check", "--model", "wrong:load", "--needles", str(needle_folder)]) == 1
    assert "does NOT give what the model gives" in capsys.readouterr().out


def test_run_of_a_model_that_the_prefill_does_not_give_writes_nothing(wrong, tmp_path, capsys):
    assert main([*wrong, "--output", "out"]) == 2
    (line,) = own_lines(capsys.readouterr().err)
    assert line.startswith("vniah: error: the forward pass does not give what tiny itself gives: ")
    assert "Nothing was measured" in line
    assert not (tmp_path / "out").exists()
