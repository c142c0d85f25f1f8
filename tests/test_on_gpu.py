"""The benchmark of a GPU, on the CPU with a tiny decoder: that it measures, and goes on."""

import json
import subprocess

import pytest
import torch

from benchmarks import on_gpu
from vniah.forward import kernels


@pytest.fixture
def quick(monkeypatch):
    """Kernels are timed on small blocks."""
    monkeypatch.setattr(kernels, "_TIMED_BLOCK", (1, 64, 512, False))


def run(path, *more):
    on_gpu.main(["--tiny", "--device", "cpu", "--output", str(path), *more])


@pytest.mark.usefixtures("quick")
def test_every_section_is_measured_once(tmp_path, monkeypatch, capsys):
    path = tmp_path / "found.json"
    run(path)
    sections = json.loads(path.read_text())["sections"]
    assert list(sections) == list(on_gpu.MEASURES) == list(on_gpu.LIMITS)
    rows = {name: [found for _, found, _ in rows] for name, rows in sections.items()}
    assert "as the formula" in rows["kernels"][1] and "chosen" in rows["kernels"][1]
    assert "of the matrix product" in rows["prefill"][1]
    for place in (1, 3):  # the tree, and one pass with a whole window, against each by itself
        assert float(rows["sharing"][place].rsplit(" ", 1)[1]) < 1e-4
    assert "logits equal to the last bit: True" in rows["offload"][0]
    assert len(rows["decode"]) == 2 and "tokens/s" in rows["decode"][1]
    printed = capsys.readouterr().out
    assert all(found in printed for found in rows["sharing"])

    asked = []
    monkeypatch.setattr(
        on_gpu,
        "MEASURES",
        {name: lambda _, name=name: asked.append(name) or [] for name in on_gpu.MEASURES},
    )
    run(path)
    assert asked == [] and rows["decode"][0] in capsys.readouterr().out
    run(path, "--again", "decode")
    assert asked == ["decode"]
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "machine": "a GPU"}))
    with pytest.raises(SystemExit, match=r"found.json is of a GPU, not of CPU, .*: name another"):
        run(path)
    path.write_text("{")
    with pytest.raises(SystemExit, match="found"):
        run(path)


def test_memory_that_runs_out_leaves_what_was_measured(monkeypatch):
    def measure(_):
        yield "one", "1", ""
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setitem(on_gpu.MEASURES, "decode", measure)
    rows = on_gpu.measure_section("decode", on_gpu.tiny(torch.device("cpu")))
    assert rows[0] == ("one", "1", "") and rows[1][1].startswith("out of memory: CUDA out of mem")


def test_a_section_that_takes_too_long_is_left_to_the_next_start(tmp_path, monkeypatch, capsys):
    def run_apart(name, arguments, *, limit):
        assert limit == on_gpu.LIMITS[name] and "--output" in arguments
        raise subprocess.TimeoutExpired(name, limit)

    monkeypatch.setattr(on_gpu, "run_apart", run_apart)
    setting = on_gpu.tiny(torch.device("cpu"))
    assert on_gpu.measure_missing(tmp_path / "none", setting, is_apart=True)["sections"] == {}
    assert (
        "prefill failed: Command 'prefill' timed out after 210 seconds" in capsys.readouterr().out
    )


def test_all_sections_together_take_less_than_eight_minutes():
    assert sum(on_gpu.LIMITS.values()) <= 8 * 60


def test_the_decoder_has_the_size_of_qwen2_7b():
    setting = on_gpu.real(torch.device("cpu"))
    assert setting.weight_bytes == pytest.approx(15.2e9, rel=0.01)
    assert setting.num_tokens == 3000 * setting.per_frame
    smaller = setting.with_layers(27)
    assert setting.weight_bytes - smaller.weight_bytes == setting.layer_bytes
    assert 0.4e9 < setting.layer_bytes < 0.5e9


def test_the_whole_decoder_is_refused_on_the_cpu(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        on_gpu.main(["--device", "cpu", "--output", str(tmp_path / "found.json")])
    assert "--tiny runs on a CPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
