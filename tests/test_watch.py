"""Checkpoints as they appear: when one is whole, that it is measured once, and what is said."""

import json
import os
import shutil
import sys
import time

import pytest
from checkpoints import write_checkpoint
from PIL import Image

from vniah.cli import main
from vniah.cli.arguments import parse
from vniah.models.appearing import files_key, find_checkpoints, why_unfinished
from vniah.results import load_results

pytestmark = pytest.mark.usefixtures("quick_pictures", "checked_once")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A checkpoint of three shards with an index."""
    folder = tmp_path_factory.mktemp("sharded") / "step-1"
    write_checkpoint(folder, num_shards=3)
    return folder


@pytest.fixture
def shards(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "step-1")


def test_checkpoints_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("step-1000", "step-900", "final", "tmp-checkpoint-5", ".hidden", "ema/deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    (tmp_path / "step-1100").mkdir()
    (tmp_path / "step-1100" / "model-00001-of-00002.safetensors").touch()
    (tmp_path / "adapter-7").mkdir()
    (tmp_path / "adapter-7" / "adapter_config.json").touch()
    (tmp_path / "logs").mkdir()
    (tmp_path / "config.json").touch()
    names = [path.name for path in find_checkpoints(tmp_path)]
    assert names == ["adapter-7", "final", "step-900", "step-1000", "step-1100"]


def test_whole_checkpoint_is_whole(shards, checkpoint):
    assert why_unfinished(shards) is None
    assert why_unfinished(checkpoint) is None


def without(name):
    return lambda folder: (folder / name).unlink()


def cut(name, size=-1):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def only_shards(folder):
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00003-of-00003.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without("config.json"), "it has no config.json"),
        (cut("config.json"), "config.json cannot be read as JSON"),
        (cut("config.json", 0), "config.json cannot be read as JSON"),
        (without("model-00002-of-00003.safetensors"), "lacks model-00002-of-00003.safetensors"),
        (cut("model-00003-of-00003.safetensors"), "cannot be read as safetensors"),
        (cut("model-00003-of-00003.safetensors", 5), "cannot be read as safetensors"),
        (cut("model-00001-of-00003.safetensors", 0), "cannot be read as safetensors"),
        (cut("model.safetensors.index.json"), "index.json cannot be read as JSON"),
        (only_shards, "has 2 of 3 files of weights"),
    ],
)
def test_half_written_checkpoint_is_not_whole(shards, damage, reason):
    damage(shards)
    assert reason in why_unfinished(shards)


def test_adapter_without_its_weights_is_not_whole(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "adapter_model.safetensors cannot be read" in why_unfinished(tmp_path)


def test_key_of_files_changes_with_each_of_them(shards):
    keys = [files_key(shards)]
    assert files_key(shards) == keys[0]
    (shards / "new.json").write_text("{}")
    keys.append(files_key(shards))
    (shards / "new.json").write_text("{ }")
    keys.append(files_key(shards))
    os.utime(shards / "new.json", ns=(0, 0))
    keys.append(files_key(shards))
    assert len(set(keys)) == 4


@pytest.fixture
def watched(tmp_path, monkeypatch, sharded, image_folder, needle_folder):
    """A folder with checkpoints, and the options with which they are measured in a moment."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sharded, tmp_path / "run" / "step-20")
    (tmp_path / "rules.toml").write_text("max_drop = 0")
    return [
        *("watch", "run", "--once", "--interval", "0.01", "--device", "cpu"),
        *("--frames", "4", "--depths", "0,1", "--controls", "none", "--quiet"),
        *("--haystack", str(image_folder), "--needles", str(needle_folder)),
    ]


def test_each_checkpoint_is_measured_once_when_it_is_whole(watched, tmp_path, sharded, capsys):
    unfinished = shutil.copytree(sharded, tmp_path / "run" / "step-100")
    last = unfinished / "model-00003-of-00003.safetensors"
    content = last.read_bytes()
    last.write_bytes(content[:-9])
    assert main(watched) == 2
    first = capsys.readouterr()
    (line,) = first.out.splitlines()
    results = load_results("results/run/step-20")
    assert len(results.samples) == 6
    assert line.startswith(f"step-20: average {results.average:.4f} over 2 cells, effective length")
    assert first.err.count("step-100: waiting, as it is not whole") == 1
    assert not (tmp_path / "results" / "run" / "step-100").exists()
    written = (results.path / "samples.jsonl").stat().st_mtime_ns

    last.write_bytes(content)
    assert main([*watched, "--rules", "rules.toml"]) == 0
    second = capsys.readouterr()
    assert second.err == ""
    lines = second.out.splitlines()
    assert lines[0] == f"{line}; not compared, as no checkpoint comes before it"
    assert lines[1].startswith("step-100: average ")
    assert "; passed: none of 2 cells fell by more than 0" in lines[1]
    assert lines[1].endswith("(step-20 -> step-100)")
    assert (results.path / "samples.jsonl").stat().st_mtime_ns == written
    runs = json.loads((tmp_path / "results" / "run" / "sweep.json").read_text())["runs"]
    assert [run["name"] for run in runs] == ["step-20", "step-100"]
    assert [run["state"] for run in runs] == ["complete"] * 2
    assert [run["verdict"] and run["verdict"]["passed"] for run in runs] == [None, True]
    with Image.open("results/run/curve.png") as picture:
        assert min(picture.size) > 200


def test_checkpoint_that_fell_or_failed_is_said_by_the_exit_code(watched, tmp_path, capsys):
    assert main(watched) == 0
    capsys.readouterr()
    assert main([*watched, "--frames", "3"]) == 2  # not the results of other settings
    found = capsys.readouterr()
    assert "average" not in found.out and "grid" in found.err
    assert main([*watched, "--frames", "3", "--overwrite"]) == 0
    assert main([*watched, "--overwrite"]) == 0
    run = tmp_path / "results" / "run" / "step-20"
    shutil.copytree(run, tmp_path / "baseline")
    (tmp_path / "rules.toml").write_text("min_mean = 1")
    capsys.readouterr()
    assert main([*watched, "--baseline", "baseline", "--rules", "rules.toml"]) == 1
    assert "; regression: " in capsys.readouterr().out

    (tmp_path / "run" / "step-20" / "config.json").write_text('{"model_type": "unknown"}')
    shutil.rmtree(run)
    assert main(watched) == 2
    assert "has model_type 'unknown'" in capsys.readouterr().err


def test_checkpoints_are_measured_without_and_with_an_intervention(watched, tmp_path, capsys):
    name = f"mine_of_{tmp_path.name}"
    source = "def fewer(changes):\n    changes.frames(lambda frames: frames[:, :2])\n"
    (tmp_path / f"{name}.py").write_text(source)
    applied = [*watched, "--apply", f"{name}:fewer"]
    assert main(applied) == 0
    (line,) = capsys.readouterr().out.splitlines()
    results = load_results("results/run/step-20")
    assert len(results.samples) == len(results.control_samples) == 6
    assert ", with fewer: " in line
    written = (results.path / "samples.jsonl").stat().st_mtime_ns
    assert main(applied) == 0
    assert capsys.readouterr().out == f"{line}\n", "of the same file it is known already"
    (tmp_path / f"{name}.py").write_text(f"# another remark\n{source}")
    assert main(applied) == 2
    assert "was changed since it was imported" in capsys.readouterr().err
    del sys.modules[name]  # as in another process
    assert main(applied) == 2
    assert "intervention.sha256" in capsys.readouterr().err
    assert (results.path / "samples.jsonl").stat().st_mtime_ns == written


def test_files_that_change_while_a_model_is_loaded_are_not_measured(
    watched, tmp_path, monkeypatch, capsys
):
    from vniah.cli.sweeps import session

    def load(*arguments, load=session.load_named_model):
        (tmp_path / "run" / "step-20" / "tokenizer.json").touch()
        return load(*arguments)

    monkeypatch.setattr(session, "load_named_model", load)
    assert main(watched) == 2
    assert "step-20 changed while it was loaded" in capsys.readouterr().err
    assert not (tmp_path / "results" / "run" / "step-20").exists()


def test_checkpoint_that_is_removed_is_forgotten(watched, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda _: shutil.rmtree(tmp_path / "run" / "step-20"))
    assert main(watched) == 2, "nothing was measured"
    assert capsys.readouterr().err == "vniah: there is no checkpoint in run\n"


def test_stopped_while_it_waits_ends_cleanly(watched, monkeypatch, capsys):
    def stop(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    watched.remove("--once")
    assert main(watched) == 130
    assert capsys.readouterr().err == "vniah: stopped; the same command goes on from here\n"


BAD = {
    "no folder": (["watch", "nowhere"], "nowhere is no folder; give the one in which"),
    "model": (["watch", "run", "--model", "a"], "unrecognized arguments: --model a"),
    "interval": (
        ["watch", "run", "--interval", "0"],
        "--interval: must be above 0 and",
    ),
    "models": (["watch", "run", "--config", "m.toml"], "m.toml names models, but watch measures"),
    "shared": (["watch", "run", "--config", "s.toml"], "s.toml names models, but watch measures"),
    "baseline": (["watch", "run", "--baseline", "b"], "no results at b: give a run folder"),
    "several": (
        ["watch", "run", "--baseline", "b", "--config", "two.toml"],
        "--baseline is one run, and there are 2 of each checkpoint",
    ),
    "rules": (["watch", "run", "--rules", "none.toml"], "'none.toml' cannot be read"),
    "settings": (["watch", "run", "--frames", "x"], "frames must be"),
    "stop early": (["watch", "run", "--stop-early", "b"], "--stop-early is for vniah run"),
    "parallel": (["watch", "run", "--context-parallel", "2"], "--context-parallel 2 is for vniah"),
    "parallel file": (["watch", "run", "--config", "p.toml"], "--context-parallel 2 is for vniah"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_meant_is_one_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "m.toml").write_text("models = ['a']")
    (tmp_path / "s.toml").write_text("model = 'a'")
    (tmp_path / "p.toml").write_text("context-parallel = 2")
    (tmp_path / "two.toml").write_text("tasks = ['vniah', 'count']")
    arguments, message = BAD[name]
    assert main([*arguments, "--once"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_help_of_watch_leaves_out_what_it_always_refuses(capsys):
    texts = {}
    for command in ("run", "watch"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        texts[command] = capsys.readouterr().out
    for option in ("--stop-early", "--context-parallel"):
        assert option in texts["run"] and option not in texts["watch"]
    assert "--adaptive" in texts["watch"] and "--attn" in texts["watch"]


def test_options_of_watch_are_those_of_run():
    given = ["--frames", "4", "--dtype", "float32", "--rope-theta", "5,6"]
    watch, run = parse(["watch", "run", *given]), parse(["run", *given])
    names = vars(run).keys() - {"model", "prog", "command", "by_all_processes", "sweep"}
    of_servers = names - vars(watch).keys()
    assert of_servers == {
        *("frames_as", "max_tokens", "concurrency", "max_requests", "timeout_seconds"),
        *("num_retries", "key_variable", "needs_usage", "tokenizer"),
    }
    for name in names - of_servers:
        assert vars(watch)[name] == vars(run)[name], name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "vniahh"], "there is no task 'vniahh'"),
        (["--controls", "foo"], "there is no control 'foo'"),
        (["--needles", "nowhere"], "there is no needle set 'nowhere'"),
        (["--haystack", "nowhere.mp4"], "there is no file nowhere.mp4"),
        (["--frames", "x"], "error: frames must be numbers, got 'x'"),
        (["--output", "a-file"], "a-file is a file where a folder is needed"),
        (["--output", "a-file/inside"], "a-file/inside is a file where a folder is needed"),
    ],
)
def test_what_no_checkpoint_could_be_measured_with_is_said_at_once(
    tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("")
    (tmp_path / "checkpoints").mkdir()
    watched = ["watch", "checkpoints", "--device", "cpu", "--output", "results/run"]
    assert main([*watched, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "results").exists()
