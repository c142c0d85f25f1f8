"""Runs that several processes write: real processes, killed at the worst moments."""

import itertools
import multiprocessing
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
from jobs import start
from runs import cell, files_up_to, make_manifest, make_sample, write_run

from vniah.analysis.plot import save_heatmaps
from vniah.errors import ResultsError, RunMismatchError
from vniah.grid import Grid
from vniah.results import MANIFEST_NAME, SAMPLES_NAME, RunFolder, load_results, reading

GRID = Grid.parse("8,16", "0,0.5,1")
MANIFEST = make_manifest(GRID)
ALL = [(c, k) for c in GRID.cells for k in range(10)]


def names(directory):
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def append_all(folder, todo):
    for c, k in todo:
        folder.append(make_sample(c, k))


def write_ranks(directory, num_ranks, todo=ALL, *, is_merged=True):
    """Every rank in turn writes its share of what is to do, the last cells first."""
    leader = RunFolder(directory, MANIFEST)
    todo = [(c, k) for c, k in todo if make_sample(c, k).sample_id not in leader.samples]
    with leader.open(num_ranks=num_ranks):
        for rank in range(1, num_ranks):
            folder = RunFolder(directory, MANIFEST)
            with folder.open(rank=rank, num_ranks=num_ranks):
                append_all(folder, todo[rank::num_ranks][::-1])
        append_all(leader, todo[::num_ranks][::-1])
        if is_merged:
            leader.merge()
    return leader


# --- files ---------------------------------------------------------------------------------------


def test_ranks_write_files_of_their_own(tmp_path):
    write_ranks(tmp_path, 3, is_merged=False)
    of_ranks = [f"samples.rank-000{rank}.jsonl" for rank in range(3)]
    assert names(tmp_path) == [MANIFEST_NAME, *of_ranks]
    assert [len(p.read_bytes().splitlines()) for p in sorted(tmp_path.glob("*.rank-*"))] == [20] * 3
    assert load_results(tmp_path).is_complete


def test_merge_gives_one_file_in_the_order_of_the_grid(tmp_path):
    leader = write_ranks(tmp_path / "three", 3)
    one = write_run(tmp_path / "one")
    assert names(tmp_path / "three") == names(one) == [MANIFEST_NAME, SAMPLES_NAME]
    for name in names(one):
        assert (tmp_path / "three" / name).read_bytes() == (one / name).read_bytes()
    assert leader.results() == load_results(tmp_path / "three")
    assert leader.results().samples == load_results(one).samples


def test_merge_when_one_process_writes_keeps_the_order_of_asking(tmp_path):
    folder = RunFolder(tmp_path, MANIFEST)
    with folder.open():
        append_all(folder, ALL[::-1])
        before = (tmp_path / SAMPLES_NAME).read_bytes()
        folder.merge()
        assert (tmp_path / SAMPLES_NAME).read_bytes() == before


def test_merge_is_the_last_act(tmp_path):
    folder = RunFolder(tmp_path, MANIFEST)
    with pytest.raises(AssertionError, match="merge outside of its open block"):
        folder.merge()
    with folder.open(num_ranks=2):
        folder.merge()
        with pytest.raises(AssertionError, match="append outside of its open block"):
            folder.append(make_sample(*ALL[0]))


def test_open_when_not_the_leader_touches_its_own_file_only(tmp_path):
    write_ranks(tmp_path, 2, ALL[:30], is_merged=False)
    with RunFolder(tmp_path, MANIFEST).open():
        pass
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for overwrite in (False, True):
        folder = RunFolder(tmp_path, MANIFEST, overwrite=overwrite)
        with folder.open(["a note"], rank=7, num_ranks=8):
            append_all(folder, ALL[30:32])
    own = tmp_path / "samples.rank-0007.jsonl"
    assert len(own.read_bytes().splitlines()) == 4
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p != own} == before


def test_open_with_overwrite_removes_the_files_of_all_ranks(tmp_path):
    write_ranks(tmp_path, 3, is_merged=False)
    folder = RunFolder(tmp_path, MANIFEST, overwrite=True)
    assert folder.samples == {} and len(load_results(tmp_path).samples) == 60
    with folder.open(num_ranks=2):
        assert names(tmp_path) == [MANIFEST_NAME, "samples.rank-0000.jsonl"]
        assert load_results(tmp_path).samples == ()


def test_run_folder_when_the_manifest_of_ranks_is_gone(tmp_path):
    write_ranks(tmp_path, 2, is_merged=False)
    (tmp_path / MANIFEST_NAME).unlink()
    with pytest.raises(ResultsError, match=r"has samples.rank-0000.jsonl but no manifest.json"):
        RunFolder(tmp_path, MANIFEST)


def test_load_run_when_a_line_of_a_rank_is_no_sample(tmp_path):
    write_ranks(tmp_path, 2, is_merged=False)
    path = tmp_path / "samples.rank-0001.jsonl"
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(ResultsError, match=r"samples.rank-0001.jsonl, line 1, is not a sample"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    ("main", "ranks", "kept"),
    [
        ([True], [["late error"]], None),
        (["early error"], [[True]], None),
        (["early error"], [["late error"]], "late error"),
        ([], [["an error"], [True]], None),
        ([], [[True], ["an error"]], None),
        ([], [["first"], ["second"]], "second"),
        (["first", "second", True, "third"], [], None),
    ],
)
def test_samples_of_one_key_when_there_are_several(tmp_path, main, ranks, kept):
    write_run(tmp_path, outcome=lambda c, k: None)
    files = [SAMPLES_NAME] + [f"samples.rank-{rank:04d}.jsonl" for rank in range(len(ranks))]
    for name, outcomes in zip(files, [main, *ranks], strict=True):
        lines = [make_sample(cell(8, "0"), 0, outcome).to_json() for outcome in outcomes]
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    assert [s.error for s in load_results(tmp_path).samples] == [kept]
    folder = RunFolder(tmp_path, MANIFEST)
    with folder.open():
        assert [s.error for s in folder.samples.values()] == [kept]
    assert [s.error for s in load_results(tmp_path).samples] == [kept]


@pytest.mark.parametrize("num_read", [0, 1, 2])
def test_load_run_when_files_are_folded_meanwhile_sees_every_sample(
    tmp_path, num_read, monkeypatch
):
    write_ranks(tmp_path, 2, ALL[:20], is_merged=False)
    other = RunFolder(tmp_path, MANIFEST)
    read, calls = reading._read_samples, []

    def read_and_fold(path, members):
        calls.append(path)
        if len(calls) == num_read + 1:
            with other.open():
                pass
        return read(path, members)

    monkeypatch.setattr(reading, "_read_samples", read_and_fold)
    assert len(load_results(tmp_path).samples) == 20
    assert names(tmp_path) == [MANIFEST_NAME, SAMPLES_NAME], "it was folded"


# --- others meanwhile, and full disks ------------------------------------------------------------


def test_open_when_another_process_wrote_meanwhile_asks_to_start_again(tmp_path):
    late = RunFolder(tmp_path, MANIFEST)
    with RunFolder(tmp_path, MANIFEST).open():
        pass
    with late.open():
        append_all(late, ALL[:3])
    later = RunFolder(tmp_path, MANIFEST)
    with late.open():
        append_all(late, ALL[3:4])
    before = (tmp_path / SAMPLES_NAME).read_bytes()
    with pytest.raises(ResultsError, match=r"another process has written to .* start the same"):
        later.open().__enter__()
    assert (tmp_path / SAMPLES_NAME).read_bytes() == before
    with RunFolder(tmp_path, MANIFEST).open():
        pass


def test_open_when_another_run_took_the_folder_meanwhile_is_refused(tmp_path):
    late = RunFolder(tmp_path, make_manifest(GRID, needles__sha256="cc" * 32))
    with RunFolder(tmp_path, MANIFEST).open():
        pass
    with pytest.raises(RunMismatchError, match=r"needles.sha256 = 'bb.*this one has 'cc"):
        late.open().__enter__()


def test_starts_in_another_environment_are_recorded_once_each(tmp_path):
    def start_with(**environment):
        folder = RunFolder(tmp_path, MANIFEST)
        with folder.open(["a note"], environment=environment):
            pass
        return folder.manifest

    start_with(forward={"processes": 2})
    for processes in (2, 4, 2, 1, 4):
        manifest = start_with(forward={"processes": processes})
    start_with()  # nothing was left to do
    assert manifest == load_results(tmp_path).manifest
    first = manifest["environment"]
    assert (first["python"], first["forward"]) == ("3.11", {"processes": 2})
    assert first["later_starts"] == [
        {"python": "3.11", "forward": {"processes": processes}} for processes in (4, 1)
    ]
    assert manifest["notes"] == ["a note"]


def test_an_environment_is_compared_as_it_is_read_back(tmp_path):
    for _ in range(3):
        folder = RunFolder(tmp_path, MANIFEST)
        with folder.open(environment={"forward": {"ways": ("prefill", "tree")}}):
            pass
    assert "later_starts" not in folder.manifest["environment"]


def test_append_when_the_disk_is_full_keeps_what_was_written(tmp_path):
    write_run(tmp_path, outcome=lambda c, k: True if k < 3 else None)
    folder = RunFolder(tmp_path, MANIFEST)
    size = (tmp_path / SAMPLES_NAME).stat().st_size
    with (
        pytest.raises(ResultsError, match=f"{tmp_path} cannot be written to: File too large. What"),
        folder.open(),
    ):
        folder.append(make_sample(cell(8, "0"), 5))
        with files_up_to(size + 300):
            append_all(folder, ALL)
    assert len(load_results(tmp_path).samples) == 19
    write_ranks(tmp_path, 2)
    assert load_results(tmp_path).is_complete


# --- kills ---------------------------------------------------------------------------------------


def write_half(connection, directory, rank, num_ranks, half):
    """A rank that writes half of its share and then a part of a line, and waits."""
    warnings.simplefilter("error")
    folder = RunFolder(directory, MANIFEST)
    todo = [(c, k) for c, k in ALL if make_sample(c, k).sample_id not in folder.samples]
    todo = todo[rank::num_ranks]
    with folder.open(rank=rank, num_ranks=num_ranks):
        connection.send("open")
        connection.recv()
        for c, k in todo[: len(todo) // 2]:
            folder.append(make_sample(c, k, prediction="针"))
        if half:
            line = make_sample(*todo[-1], prediction="针").to_json()
            folder._file.write(line[:-half].encode())
        connection.send("half")
        time.sleep(60)


def fold_until_killed(connection, directory, method, calls_left):
    """Opens the folder, and kills itself in place of a certain call of a method of paths."""
    warnings.simplefilter("error")
    calls = itertools.count()
    done = getattr(Path, method)

    def kill_or_do(*args, **options):
        if next(calls) == calls_left:
            os.kill(os.getpid(), signal.SIGKILL)
        return done(*args, **options)

    folder = RunFolder(directory, MANIFEST)
    setattr(Path, method, kill_or_do)
    with folder.open():
        pass


def start_process(work, *args):
    """A process that runs ``work(connection, *args)``, and the other end of its connection."""
    ours, theirs = multiprocessing.Pipe()
    process = start(work, theirs, *args)
    theirs.close()  # else nothing ends the wait for a process that died
    return process, ours


def kill(process):
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def run_and_kill(directory, num_ranks, num_bytes_cut):
    """All ranks write half of their share, and some of the next line; then all are killed."""
    started = []
    for rank in range(num_ranks):
        started.append(start_process(write_half, directory, rank, num_ranks, num_bytes_cut))
        assert started[-1][1].recv() == "open"
    for _, connection in started:
        connection.send("go")
    for _, connection in started:
        assert connection.recv() == "half"
    for process, _ in reversed(started):
        kill(process)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("before", "num_bytes_cut", "after"), [(3, 0, 1), (1, 30, 3), (3, 17, 2), (2, 1, 5)]
)
def test_run_when_all_ranks_were_killed_goes_on(tmp_path, before, num_bytes_cut, after):
    run_and_kill(tmp_path, before, num_bytes_cut)
    written = {sample.sample_id for sample in load_results(tmp_path).samples}
    assert len(written) == sum((len(ALL[rank::before])) // 2 for rank in range(before))
    leader = write_ranks(tmp_path, after)
    assert names(tmp_path) == [MANIFEST_NAME, SAMPLES_NAME]
    lines = (tmp_path / SAMPLES_NAME).read_bytes().splitlines()
    assert len(lines) == 60, "nothing twice"
    results = load_results(tmp_path)
    assert results.is_complete and results == leader.results()
    kept = {sample.sample_id for sample in results.samples if sample.prediction == "针"}
    assert kept == written, "nothing was asked again"


@pytest.mark.distributed
def test_run_when_killed_again_and_again_loses_nothing(tmp_path):
    counts = []
    for num_ranks in (2, 3, 1):
        run_and_kill(tmp_path, num_ranks, 9)
        counts.append(len(load_results(tmp_path).samples))
    assert counts == [30, 45, 52]


@pytest.mark.distributed
@pytest.mark.parametrize(("method", "calls_done"), [("replace", 0), ("unlink", 0), ("unlink", 1)])
def test_run_when_killed_while_folding_loses_nothing(tmp_path, method, calls_done):
    write_ranks(tmp_path, 2, ALL[:20])
    write_ranks(tmp_path, 3, ALL[:50], is_merged=False)
    process, _ = start_process(fold_until_killed, tmp_path, method, calls_done)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob("samples.rank-*"))) == 3 - calls_done
    assert len(load_results(tmp_path).samples) == 50
    write_ranks(tmp_path, 2)
    assert names(tmp_path) == [MANIFEST_NAME, SAMPLES_NAME]
    one = write_run(tmp_path / "one")
    assert (tmp_path / SAMPLES_NAME).read_bytes() == (one / SAMPLES_NAME).read_bytes()


@pytest.mark.distributed
def test_open_when_another_run_of_several_goes_on(tmp_path):
    process, connection = start_process(write_half, tmp_path, 0, 2, 0)
    assert connection.recv() == "open"
    before = names(tmp_path)
    for num_ranks in (1, 2):
        folder = RunFolder(tmp_path, MANIFEST, overwrite=True)
        message = "another process is writing to .*; wait for it, or choose another --output"
        with pytest.raises(ResultsError, match=message), folder.open(num_ranks=num_ranks):
            pass
    assert names(tmp_path) == before
    kill(process)
    with RunFolder(tmp_path, MANIFEST).open():
        pass


def test_run_of_other_samples_is_refused_by_the_first_that_differs(tmp_path):
    with RunFolder(tmp_path, MANIFEST).open():
        pass
    other = {**MANIFEST, "sample_ids": MANIFEST["sample_ids"].replace("8/0.5/needle-3", "8/0.5/x")}
    with pytest.raises(RunMismatchError, match=r"other samples, the first is '8/0\.5/needle-3'"):
        RunFolder(tmp_path, other)


# --- power cuts, and folders that change under a run ---------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4096, b'{\n  "format_version": 2,\n  "task": "vni', b"{\0\0\0", b"  \n"],
)
def test_manifest_that_a_power_cut_left_is_a_run_that_has_not_begun(tmp_path, content, caplog):
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    (tmp_path / SAMPLES_NAME).write_bytes(b"\0" * 100)
    with pytest.raises(ResultsError, match=r"empty or cut, .*: this run has not begun; start it"):
        load_results(tmp_path)
    folder = RunFolder(tmp_path, MANIFEST)
    with folder.open():
        append_all(folder, ALL)
    assert caplog.messages == [
        f"{tmp_path / MANIFEST_NAME} was empty or cut, as after a power cut, and there was no "
        "sample: the run starts anew"
    ]
    assert load_results(tmp_path).is_complete
    kept = tmp_path / "manifest.damaged"
    assert (kept.read_bytes() if content else b"") == content


def test_manifest_that_is_cut_beside_samples_is_an_error_that_says_what_to_do(tmp_path):
    write_run(tmp_path)
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:100])
    before = path.read_bytes()
    with pytest.raises(
        ResultsError, match=r"samples.jsonl but an empty or cut manifest.json.*put the.*--overwrite"
    ):
        RunFolder(tmp_path, MANIFEST)
    assert path.read_bytes() == before
    with RunFolder(tmp_path, MANIFEST, overwrite=True).open():
        pass
    assert load_results(tmp_path).num_done == 0


def test_file_that_is_no_manifest_is_left_alone(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text("my notes")
    with pytest.raises(ResultsError, match="cannot be read as JSON"):
        RunFolder(tmp_path, MANIFEST)
    assert (tmp_path / MANIFEST_NAME).read_text() == "my notes"


def test_zeros_after_the_last_line_are_cut_off(tmp_path):
    write_run(tmp_path)
    path = tmp_path / SAMPLES_NAME
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 3_000_000)
    assert load_results(tmp_path).is_complete
    with RunFolder(tmp_path, MANIFEST).open():
        pass
    assert path.read_bytes() == whole


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_errors_are_gone_from_the_file_when_their_samples_were_run_again(tmp_path, num_ranks):
    write_run(tmp_path, outcome=lambda c, k: "timeout" if k < 2 else True)
    todo = [(c, k) for c, k in ALL if k < 2]
    leader = RunFolder(tmp_path, MANIFEST)
    with leader.open(num_ranks=num_ranks):
        append_all(leader, todo)
        leader.merge()
    lines = (tmp_path / SAMPLES_NAME).read_bytes().splitlines()
    assert len(lines) == 60 and not any(b"timeout" in line for line in lines)
    assert load_results(tmp_path) == leader.results()


@pytest.mark.parametrize("how", ["removed", "moved", "file removed", "manifest removed"])
def test_folder_that_vanishes_is_noticed_at_the_next_line(tmp_path, how):
    directory = tmp_path / "run"
    folder = RunFolder(directory, MANIFEST)
    with (
        pytest.raises(ResultsError, match="was deleted or moved while the run was writing to it"),
        folder.open(),
    ):
        append_all(folder, ALL[:3])
        if how == "removed":
            shutil.rmtree(directory)
        elif how == "moved":
            directory.rename(tmp_path / "elsewhere")
        elif how == "file removed":
            (directory / SAMPLES_NAME).unlink()
        else:
            (directory / MANIFEST_NAME).unlink()
        append_all(folder, ALL[3:4])
    assert len(folder.samples) == 3


def test_folder_that_vanishes_before_the_end_is_one_line(tmp_path):
    directory = tmp_path / "run"
    folder = RunFolder(directory, MANIFEST)
    with pytest.raises(ResultsError, match="was deleted or moved while"), folder.open(num_ranks=2):
        append_all(folder, ALL[:3])
        directory.rename(tmp_path / "elsewhere")
        folder.merge()
    assert not directory.exists()
    assert len(load_results(tmp_path / "elsewhere").samples) == 3


def test_full_disk_leaves_no_half_line(tmp_path):
    write_run(tmp_path, outcome=lambda c, k: True if k < 3 else None)
    path = tmp_path / SAMPLES_NAME
    folder = RunFolder(tmp_path, MANIFEST)
    with (
        pytest.raises(ResultsError, match="cannot be written to: File too large"),
        folder.open(),
        files_up_to(path.stat().st_size + 100),
    ):
        append_all(folder, ALL)
    assert path.read_bytes().endswith(b"}\n") and len(path.read_bytes().splitlines()) == 18


def test_lines_are_put_on_the_disk_once_a_second(tmp_path, monkeypatch):
    synced, now = [], [0.0]
    monkeypatch.setattr("os.fsync", synced.append)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    folder = RunFolder(tmp_path, MANIFEST)
    with folder.open():
        before = len(synced)
        assert before >= 3, "the manifest, and the folder of both files"
        append_all(folder, ALL[:5])
        assert len(synced) == before
        now[0] = 1.5
        append_all(folder, ALL[5:9])
        assert len(synced) == before + 1
    assert len(synced) == before + 2


def test_manifest_that_could_not_be_read_back_is_refused_at_the_start(tmp_path):
    with pytest.raises(ResultsError, match=r"manifest of this run: model.name must be text, got 7"):
        RunFolder(tmp_path / "run", make_manifest(GRID, model__name=7))
    with pytest.raises(ResultsError, match=r"cannot be written as JSON: .*not JSON"):
        RunFolder(tmp_path / "run", make_manifest(GRID, model__scale=float("nan")))
    assert not (tmp_path / "run").exists()


# --- text that is not UTF-8 ----------------------------------------------------------------------


def test_lone_surrogates_are_written_and_read_back(tmp_path):
    """As in a file name, an answer or an error from outside."""
    odd = "tiny \udcff \ud800 \x1b[2J"
    manifest = make_manifest(GRID, model__name=odd, haystack__name=odd, notes=[odd])
    samples = [
        make_sample(*ALL[0], prediction=odd),
        make_sample(*ALL[1], odd),
        make_sample(*ALL[2], fields={**make_sample(*ALL[2]).fields, "mood": odd}),
    ]
    for count in range(3):
        folder = RunFolder(tmp_path, manifest)
        assert [folder.samples[s.sample_id] for s in samples[:count]] == samples[:count]
        with folder.open([odd], environment={"forward": {"kernel": odd}}, num_ranks=1 + count % 2):
            folder.append(samples[count])
            folder.merge()
    results = load_results(tmp_path)
    assert results.name == odd and results.samples == tuple(samples)
    (tmp_path / SAMPLES_NAME).read_bytes().decode("utf-8")
    results._repr_html_().encode("utf-8")
    assert results.to_pandas()["prediction"][0] == "tiny \\udcff \\ud800 \x1b[2J"
    picture = save_heatmaps([results], tmp_path / "map.png", titles=None)
    assert picture.stat().st_size > 1000


def test_operations_of_a_large_model_are_more_than_64_bits_hold(tmp_path):
    flops = {"flops": 10**20}
    manifest = make_manifest(Grid.parse("8", depths="0"), environment={"forward": flops})
    folder = RunFolder(tmp_path, manifest)
    with folder.open(environment={"forward": {"flops": 2 * 10**20}}):
        folder.record({"adaptive": {"precision": "1", "threshold": 0.9, **flops}})
    found = load_results(tmp_path).manifest
    assert found["environment"]["forward"]["flops"] == 2 * 10**20
    assert found["adaptive"]["flops"] == 10**20
