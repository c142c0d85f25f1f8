"""Branches in the memory that there is: places, chunks, and what happens when it runs out."""

import ctypes
import errno
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from decoder_models import (
    DecoderStandIn,
    ask,
    largest_difference,
    make_runner,
    plain,
    plain_sweep,
    run,
    sweep_of,
)
from jobs import run_ranks, start
from test_prefill import allocated_bytes, build_decoder

from vniah.engines.planning import make_plan
from vniah.errors import ModelError
from vniah.forward import memory, rotation
from vniah.forward import prefill as prefill
from vniah.forward import runner as branches
from vniah.forward.costs import DecoderShape
from vniah.forward.kv_cache import KeyValueStore, Layout, Stored
from vniah.forward.memory import is_out_of_memory
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.needles import load_needles
from vniah.sweep.run import run_sweep

NEAR = 1e-4
M_MMAP_THRESHOLD = -3  # of malloc.h


@pytest.fixture(scope="module")
def model():
    return DecoderStandIn(build_decoder("qwen2"))


def in_branches(model, sequences):
    """Everything that can have a pass of its own has one."""
    return make_plan(model, sequences, max_suffix_tokens=0)


def test_places_give_bitwise_equal_logits(model, tmp_path):
    sequences = sweep_of(model)
    plan = in_branches(model, sequences)
    found = {
        place: run(model, sequences, plan, kv_location=place, scratch_dir=tmp_path, chunk_size=16)
        for place in ("device", "host", "disk")
    }
    for place in ("host", "disk"):
        assert all(map(torch.equal, found[place], found["device"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 4096])
def test_chunk_size_changes_no_result(model, chunk_size):
    sequences = sweep_of(model)[::3]
    found = run(model, sequences, in_branches(model, sequences), chunk_size=chunk_size)
    assert largest_difference(found, plain(model, sequences)) < NEAR


def test_branch_that_is_run_alone_chooses_for_itself(model):
    sequences = sweep_of(model)[:4]
    found = run(model, sequences)
    assert largest_difference(found, plain(model, sequences)) < NEAR


def test_location_and_chunk_size_are_chosen_by_what_is_free(model, monkeypatch):
    sequences = sweep_of(model)
    roots = in_branches(model, sequences).branches
    kept = DecoderShape.of(model.decoder).kept_bytes(roots)
    assert make_runner(model, sequences).choose(roots) == (2048, "device")
    monkeypatch.setattr(memory, "free_bytes", lambda device: kept)
    assert make_runner(model, sequences).choose(roots) == (256, "disk")
    assert make_runner(model, sequences, chunk_size=5, kv_location="host").choose(roots) == (
        5,
        "host",
    )


def store_and_wait(connection, folder):
    like = torch.zeros(1, dtype=torch.bfloat16)
    layers = [[Stored((1, 2, 500, 16))] * 2] * 2
    store = KeyValueStore(layers, like=like, kv_location="disk", directory=folder)
    for rows in store.tensors(1):
        rows.fill_(1)
    connection.send(store.num_bytes)
    time.sleep(60)


@pytest.mark.distributed
def test_file_on_disk_never_has_a_name_that_could_stay(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    process = start(store_and_wait, theirs, tmp_path)
    theirs.close()
    assert ours.recv() == 2 * 2 * 2 * 500 * 16 * 2
    assert list(tmp_path.iterdir()) == []
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [0, 5])
def test_store_moves_with_what_it_holds(dtype, num_rows, tmp_path):
    like = torch.zeros(1, dtype=dtype)
    layers = [[Stored((1, 2, num_rows, 4))] * 2] * 3
    store = KeyValueStore(layers, like=like, kv_location="device")
    rows = torch.randn(3, 2, 1, 2, num_rows, 4).to(dtype)
    for layer in range(3):
        for tensor, part in zip(store.tensors(layer), rows[layer], strict=True):
            tensor.copy_(part)
    for place in ("host", "disk", "device"):
        store.move(place, like=like, directory=tmp_path / "new")
        assert store.kv_location == place and rows.nbytes <= store.num_bytes < rows.nbytes + 6 * 256
        for layer in range(3):
            k, v = store.tensors(layer)
            assert torch.equal(k, rows[layer, 0]) and torch.equal(v, rows[layer, 1])


def fill_the_disk(monkeypatch):
    def no_room(descriptor, offset, num_bytes):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_room)


def test_full_disk_costs_only_what_needs_it(model, monkeypatch, tmp_path):
    fill_the_disk(monkeypatch)
    sequences, notes = sweep_of(model), []
    plan = in_branches(model, sequences)
    found = run(
        model, sequences, plan, kv_location="disk", scratch_dir=tmp_path, on_note=notes.append
    )
    read = [index for index, outcome in enumerate(found) if not isinstance(outcome, str)]
    trunks = {i for root in plan.branches for suffix in root.suffixes for i in suffix.sequences}
    assert set(read) == trunks and 0 < len(trunks) < len(sequences)
    expected = plain(model, [sequences[index] for index in read])
    assert largest_difference([found[index] for index in read], expected) < NEAR
    for outcome in found:
        assert not isinstance(outcome, str) or outcome == (
            f"no room for 0.0 GB of keys and values, neither in memory nor in {tmp_path}; make "
            "room there, set VNIAH_CACHE to a folder on another disk, or use --share none"
        )
    assert len(notes) == 1 and "some sequences cannot be run: no room for" in notes[0]
    assert list(tmp_path.iterdir()) == []


class ShortMemory:
    """A prefill that runs out of memory by a rule; a real one cannot be made to at will."""

    def __init__(self, monkeypatch, is_too_much):
        self.real, self.is_too_much = branches.prefill, is_too_much
        self.calls = []
        monkeypatch.setattr(branches, "prefill", self)

    def __call__(self, decoder, hidden, position_ids, suffixes, **options):
        past = options["past"]
        stop = (past[-1].stop if past else 0) + len(hidden)
        places = [kept.store.kv_location for kept in past]
        if options["cache"] is not None:
            places.append(options["cache"].store.kv_location)
        call = {"chunk_size": options["chunk_size"], "places": places, "stop": stop}
        self.calls.append(call)
        if self.is_too_much(call):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return self.real(decoder, hidden, position_ids, suffixes, **options)


def test_memory_that_runs_out_makes_tiles_smaller(model, monkeypatch):
    memory = ShortMemory(monkeypatch, lambda call: call["chunk_size"] > 300)
    sequences, notes = sweep_of(model), []
    found = run(
        model, sequences, in_branches(model, sequences), chunk_size=2048, on_note=notes.append
    )
    assert largest_difference(found, plain_sweep("qwen2")) < NEAR
    assert [c["chunk_size"] for c in memory.calls[:5]] == [2048, 1024, 512, 256, 256]
    assert notes == [
        f"memory ran out: going on with chunks of {size} tokens" for size in (1024, 512, 256)
    ]


def test_then_it_moves_what_is_kept_to_the_disk(model, monkeypatch, tmp_path):
    def is_too_much(call):
        return call["stop"] > 40 and "device" in call["places"]

    ShortMemory(monkeypatch, is_too_much)
    sequences, notes = sweep_of(model), []
    options = {"kv_location": "device", "chunk_size": 256, "scratch_dir": tmp_path}
    plan = in_branches(model, sequences)
    found = run(model, sequences, plan, on_note=notes.append, **options)
    assert largest_difference(found, plain_sweep("qwen2")) < NEAR
    assert notes == ["memory ran out: keeping keys and values on disk from here"]


def test_what_a_branch_goes_on_from_moves_too(model, monkeypatch, tmp_path):
    """The trunk fits beside its own pass, not beside that of a branch."""
    memory = ShortMemory(
        monkeypatch, lambda call: len(call["places"]) > 1 and "device" in call["places"]
    )
    frames = 12
    sequences = [ask(model, frames, ("a", 2)), ask(model, frames, ("b", 2), question="other")]
    sequences += [ask(model, frames, ("b", 6)), ask(model, 2 * frames, None)]
    sequences += [ask(model, frames, ("a", 2), question="what then?")]
    plan, notes = in_branches(model, sequences), []
    assert any(child.branches for root in plan.branches for child in root.branches)
    options = {"kv_location": "host", "chunk_size": 256, "scratch_dir": tmp_path}
    found = run(
        model, sequences, plan, on_note=notes.append, **{**options, "kv_location": "device"}
    )
    assert largest_difference(found, plain(model, sequences)) < NEAR
    assert notes == ["memory ran out: keeping keys and values on disk from here"]
    assert memory.calls[0]["places"] == ["device"] and memory.calls[-1]["places"][0] == "disk"


@pytest.mark.parametrize("place", ["device", "host"])
def test_nothing_is_moved_to_a_full_disk(model, monkeypatch, place, tmp_path):
    fill_the_disk(monkeypatch)
    ShortMemory(monkeypatch, lambda call: call["stop"] > 40)
    sequences, notes = sweep_of(model)[::3], []
    options = {"kv_location": place, "chunk_size": 256, "scratch_dir": tmp_path}
    plan = in_branches(model, sequences)
    found = run(model, sequences, plan, on_note=notes.append, **options)
    read = [index for index, outcome in enumerate(found) if not isinstance(outcome, str)]
    assert 0 < len(read) < len(sequences)
    expected = plain(model, [sequences[index] for index in read])
    assert largest_difference([found[index] for index in read], expected) < NEAR
    assert notes and all("cannot be run: out of memory" in note for note in notes)


@pytest.mark.parametrize("share", [True, False])
def test_longest_sequences_are_given_up_at_last(model, monkeypatch, share, tmp_path):
    ShortMemory(monkeypatch, lambda call: call["stop"] > 40)
    sequences, notes = sweep_of(model)[::3], []
    found = run(
        model,
        sequences,
        share=share,
        max_suffix_tokens=0,
        chunk_size=256,
        scratch_dir=tmp_path,
        on_note=notes.append,
    )
    for sequence, outcome in zip(sequences, found, strict=True):
        if sequence.num_tokens(3) - len(sequence.answer_ids) > 40:
            assert isinstance(outcome, str) and "\n" not in outcome
            assert "tokens need about 0.0 GB besides the weights, and " in outcome
            assert outcome.endswith(
                "GB are free; measure fewer frames, or use --context-parallel with more processes"
            )
        else:
            assert largest_difference([outcome], plain(model, [sequence])) < NEAR
    moved = [note for note in notes if "on disk" in note]
    assert len(moved) == share, "a pass that keeps nothing has nothing to move"


def test_other_errors_are_not_taken_for_a_lack_of_memory(model, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(branches, "prefill", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(model, [ask(model, 4, None)])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"), True),
        (OSError(errno.ENOSPC, "Auf dem Gerät ist kein Speicherplatz mehr verfügbar"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (KeyError("out"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


class LargeFrames(DecoderStandIn):
    """So that a sequence is too long for a suffix."""

    frame_shape = (32, 64)


def test_sweep_goes_on_with_errors_where_memory_runs_out(
    monkeypatch, image_folder, needle_folder, tmp_path, caplog
):
    model = LargeFrames(build_decoder("qwen2"))
    material = open_haystack(image_folder), load_needles(needle_folder)
    grid = Grid.of([4, 9, 30], [0, 1])
    whole = run_sweep(model, *material, grid, output=tmp_path / "whole")
    assert caplog.records == []
    ShortMemory(monkeypatch, lambda call: call["stop"] > 600)
    results = run_sweep(model, *material, grid, output=tmp_path / "short")
    assert [sample.num_frames for sample in results.samples if sample.error] == [30] * 6
    assert all("GB besides the weights" in s.error for s in results.samples if s.error)
    pairs = zip(whole.samples, results.samples, strict=True)
    for expected, sample in (pair for pair in pairs if pair[1].error is None):
        assert sample.predicted_ids == expected.predicted_ids
        assert sample.logprob == pytest.approx(expected.logprob, abs=1e-4)
    assert [cell.score is None for cell in results.cells] == [False] * 4 + [True] * 2
    warnings = {(record.name, record.levelname) for record in caplog.records}
    assert warnings == {("vniah", "WARNING")}
    assert "going on with chunks of 1024 tokens" in caplog.text
    assert "some sequences cannot be run: out of memory" in caplog.text


def limit_memory(num_bytes: int) -> None:
    """Memory of its own, not that of files, is limited to so much more than it has."""
    used = psutil.Process().memory_info().data
    resource.setrlimit(resource.RLIMIT_DATA, (used + num_bytes, resource.RLIM_INFINITY))


@dataclass(frozen=True)
class Rung:
    """A decoder, sequences, and so little memory that one thing about them does not fit."""

    sizes: dict[str, int]
    lengths: tuple[int, ...]
    num_bytes: int
    note: str
    num_errors: int = 0


WIDE_KEYS = {"head_dim": 128, "num_key_value_heads": 4, "num_hidden_layers": 4}
RUNGS = (
    Rung({"intermediate_size": 3072}, (50, 500), 40_000_000, "going on with chunks of"),
    Rung(WIDE_KEYS, (50, 460), 20_000_000, "keeping keys and values on disk from here"),
    Rung(WIDE_KEYS, (50, 1800), 20_000_000, "cannot be run: out of memory: 5,", num_errors=1),
)


def run_short(_rank, scratch_dir):
    """In a process of its own, as this cannot be undone."""
    assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536), "what is freed is free at once"
    for rung in RUNGS:
        decoder = build_decoder("qwen3", **rung.sizes)
        model, notes = DecoderStandIn(decoder), []
        sequences = [ask(model, length, None) for length in rung.lengths]
        sequences += [ask(model, 450, ("a", 400))]
        plan = in_branches(model, sequences)
        limit_memory(rung.num_bytes)
        found = run(model, sequences, plan, scratch_dir=scratch_dir, on_note=notes.append)
        limit_memory(2_000_000_000)
        assert any(rung.note in note for note in notes), notes
        read = [index for index, outcome in enumerate(found) if not isinstance(outcome, str)]
        assert len(found) - len(read) == rung.num_errors, found
        expected = plain(model, [sequences[index] for index in read])
        assert largest_difference([found[index] for index in read], expected) < 10 * NEAR
        assert list(scratch_dir.iterdir()) == []


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere files count as memory too")
def test_memory_that_really_runs_out(tmp_path):
    run_ranks(run_short, 1, tmp_path)


def test_ring_without_memory_says_so_in_one_line(model, monkeypatch):
    class Alone:
        rank, size = 0, 1

        def layout(self, start, stop):
            return Layout.whole(start, stop)

        def smallest(self, number):
            return number

    ShortMemory(monkeypatch, lambda call: True)
    with pytest.raises(ModelError, match=r"out of memory: 29 tokens need about"):
        run(model, [ask(model, 4, None)], ring=Alone())


def test_memory_of_a_branch_grows_by_its_rows_and_one_layers_keys_and_values(tmp_path, monkeypatch):
    monkeypatch.setattr(rotation, "ROPE_BLOCK", 256)  # far below the length, as for long sequences
    model = DecoderStandIn(build_decoder("qwen2", num_hidden_layers=4))
    peaks = {}
    for num_frames in (300, 900):
        sequences = [
            ask(model, 2 * num_frames, None),
            ask(model, 2 * num_frames, ("a", num_frames)),
        ]
        sequences += [ask(model, num_frames + k, ("a", num_frames)) for k in (1, 50, 250)]
        plan = make_plan(model, sequences)
        (root,) = plan.branches
        (child,) = root.branches
        assert len(root.suffixes) + len(child.suffixes) == 5
        runner = make_runner(model, sequences, chunk_size=64, scratch_dir=Path(tmp_path))
        result = runner.run(root)
        number = num_frames * 3
        peaks[number] = allocated_bytes(
            lambda runner=runner, root=root, result=result: list(runner.run_child(root, result, 0)),
            tmp_path / "trace.json",
        )
    slope = (peaks[2700] - peaks[900]) / 1800
    hidden_bytes, key_value_bytes = 64 * 4, 2 * 2 * 16 * 4
    bound = hidden_bytes + 2 * key_value_bytes  # as many rows before the branch as in it
    assert slope <= 1.5 * bound
    assert slope >= 2 * key_value_bytes, "the measurement misses the buffers"
