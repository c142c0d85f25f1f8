"""Several runs by one file: killed, failed, taken up; what is printed and written about all."""

import json

import pytest
from PIL import Image

from vniah.cli import main
from vniah.results import load_results

pytestmark = pytest.mark.usefixtures("quick_pictures", "checked_once")

# Models that answer right, wrong, or not at all; each says when it is loaded.
MODELS = """
import os

class Model:
    revision = "1"

    def __init__(self, name, answer):
        self.name, self._answer, self._theta = name, answer, None
        self.num_answers = 0
        with open("loaded.txt", "a") as file:
            file.write(name + "\\n")

    @property
    def settings(self):
        return {} if self._theta is None else {"rope_theta": self._theta}

    def override_rope(self, theta, scaling):
        if theta == 13:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        self._theta = theta

    def with_rope(self, theta):
        self.override_rope(theta, None)
        return self

    def answer(self, frames, question):
        self.num_answers += 1
        if self._answer == "killed" and not os.path.exists("go on") and self.num_answers > 5:
            raise KeyboardInterrupt
        return "7" if self._answer == "right" or self._theta == 5 else "no"

def right():
    return Model("right", "right")

def wrong():
    return Model("wrong", "wrong")

def killed(rope_theta):
    return Model("killed", "killed").with_rope(rope_theta)

def broken():
    return [][0]
"""


@pytest.fixture
def drawn(monkeypatch):
    """The names of the results in each picture and report, by its path, in place of them."""
    from vniah.analysis import plot, report

    found = {}

    def save(results, path, **_):
        path.write_bytes(b"a picture")
        found[str(path)] = [one.name for one in results]
        return path

    monkeypatch.setattr(plot, "save_heatmaps", save)
    monkeypatch.setattr(report, "save_report", save)
    return found


@pytest.fixture
def in_folder(tmp_path, monkeypatch, image_folder, needle_folder):
    monkeypatch.chdir(tmp_path)
    # Modules that were imported stay, so that the models of every test are others.
    name = f"models_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    (tmp_path / "sweep.toml").write_text(
        f"""
        needles = "{needle_folder}"
        haystack = "{image_folder}"
        depths = "0,1"
        controls = "none"
        output = "out"
        quiet = true

        [models.right]
        model = "{name}:right"
        [models.tuned]
        model = "{name}:wrong"
        rope-theta = [5, 13]
        [models.broken]
        model = "{name}:broken"
        [models.missing]
        model = "missing-model"

        [tasks.short]
        frames = "4"
        [tasks.long]
        frames = "4,6"

        [[exclude]]
        model = ["broken", "missing"]
        task = "long"
        """
    )
    return tmp_path


def index(folder="out"):
    content = json.loads((folder / "sweep.json").read_text())
    return {run["name"]: run for run in content["runs"]}


def test_runs_go_on_when_some_fail_and_all_are_said(in_folder, drawn, capsys):
    assert main(["run", "--config", "sweep.toml"]) == 2
    output = capsys.readouterr()
    film = next(in_folder.glob("out/right__*")).name.split("__")[1]
    runs = index(in_folder / "out")
    assert {name.replace(f"__{film}", ""): run["state"] for name, run in runs.items()} == {
        **dict.fromkeys(["right__short", "right__long"], "complete"),
        **dict.fromkeys(["tuned__short__rope-theta-5", "tuned__long__rope-theta-5"], "complete"),
        **dict.fromkeys(["tuned__short__rope-theta-13", "tuned__long__rope-theta-13"], "failed"),
        **dict.fromkeys(["broken__short", "missing__short"], "failed"),
    }
    for name, run in runs.items():
        assert (in_folder / "out" / name).exists() == (run["state"] == "complete")
        if run["state"] == "complete":
            results = load_results(in_folder / "out" / run["folder"])
            assert run["average"] == results.average == pytest.approx(1 / 3)
            assert results.manifest["model"].get("rope_theta") == run["rope_theta"]
    assert runs[f"tuned__{film}__long__rope-theta-5"]["rope_theta"] == 5
    assert (in_folder / "loaded.txt").read_text().split() == ["right", "wrong"]

    lines = output.out.splitlines()
    (heading,) = (k for k, line in enumerate(lines) if line.lstrip().startswith("mean over"))
    table = "\n".join(lines[heading:])
    assert "right, short" in table and "tuned, long, RoPE base 5" in table
    assert "not run: tuned__" in table and "and 1 other run: RuntimeError: CUDA out of" in table
    assert "not run: missing__" in table and "there is no model 'missing-model'" in table
    assert lines[-1] == "heatmap: out/heatmap.png"
    assert "error in missing__" in output.err and "; the other runs go on" in output.err
    markdown = (in_folder / "out" / "summary.md").read_text()
    assert "| right, long, RoPE of the checkpoint |" in markdown and "missing" not in markdown
    assert drawn["out/report.html"] == drawn["out/heatmap.png"]
    assert drawn["out/heatmap.png"] == [
        *("right, short, RoPE of the checkpoint", "right, long, RoPE of the checkpoint"),
        *("tuned, short, RoPE base 5", "tuned, long, RoPE base 5"),
    ]


@pytest.mark.usefixtures("drawn")
def test_killed_sweep_goes_on_where_it_stopped(in_folder, capsys):
    text = (in_folder / "sweep.toml").read_text()
    text = text.replace(":wrong", ":killed").replace("[5, 13]", "17")
    text = text.replace("[models.missing]", "[models.last]").replace("missing-model", "reference-x")
    (in_folder / "sweep.toml").write_text(text.replace('"missing"', '"last"'))
    assert main(["run", "--config", "sweep.toml"]) == 130
    assert "stopped; the same command goes on from here" in capsys.readouterr().err
    states = [run["state"] for run in index(in_folder / "out").values()]
    assert states == ["complete"] * 2 + ["not run"] * 4
    (begun,) = in_folder.glob("out/tuned__*short*/samples.jsonl")
    lines = begun.read_bytes().splitlines()
    (in_folder / "go on").touch()
    assert main(["run", "--config", "sweep.toml"]) == 2
    printed = capsys.readouterr().out
    assert begun.read_bytes().splitlines()[: len(lines)] == lines
    assert len(lines) >= 4
    assert len(load_results(begun.parent).samples) == 6
    states = [run["state"] for run in index(in_folder / "out").values()]
    assert states == ["complete"] * 4 + ["failed"] * 2
    assert "not run: broken__" in printed and "IndexError: list index out of range" in printed
    written = {path: path.read_bytes() for path in in_folder.glob("out/*/samples.jsonl")}

    # Another order, and without what failed: the same folders, and nothing to do.
    text = (in_folder / "sweep.toml").read_text()
    start, end = text.index("[models.right]"), text.index("[models.tuned]")
    broken, tasks = text.index("[models.broken]"), text.index("[tasks.short]")
    text = text[:start] + text[end:broken] + text[start:end] + text[tasks : text.index("[[ex")]
    (in_folder / "sweep.toml").write_text(text)
    assert main(["run", "--config", "sweep.toml"]) == 0
    assert {p: p.read_bytes() for p in in_folder.glob("out/*/samples.jsonl")} == written
    assert [run["model"] for run in index(in_folder / "out").values()] == [
        *("tuned", "tuned", "right", "right"),
    ]


@pytest.mark.usefixtures("drawn")
def test_run_of_other_settings_in_its_folder_fails_alone(in_folder, capsys):
    text = (in_folder / "sweep.toml").read_text()
    start, end = text.index("[models.tuned]"), text.index("[tasks.short]")
    text = text[:start] + text[end : text.index("[[ex")]
    (in_folder / "sweep.toml").write_text(text)
    assert main(["run", "--config", "sweep.toml"]) == 0
    (in_folder / "sweep.toml").write_text(text.replace('frames = "4,6"', 'frames = "4,5"'))
    capsys.readouterr()
    assert main(["run", "--config", "sweep.toml"]) == 2
    assert "grid" in capsys.readouterr().err
    assert [run["state"] for run in index(in_folder / "out").values()] == ["complete", "failed"]


def test_broken_index_is_written_anew(in_folder):
    (in_folder / "out").mkdir()
    (in_folder / "out" / "sweep.json").write_text("{")
    text = (in_folder / "sweep.toml").read_text()
    text = text[: text.index("[models.tuned]")] + "[tasks.short]\nframes = 4"
    (in_folder / "sweep.toml").write_text(text)
    assert main(["run", "--config", "sweep.toml"]) == 0
    assert [run["state"] for run in index(in_folder / "out").values()] == ["complete"]
    with Image.open("out/heatmap.png") as picture:
        assert min(picture.size) > 200
    assert "<html" in (in_folder / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("short_measurements")
def test_estimate_has_a_line_for_each_run_and_says_what_is_not_known(in_folder, checkpoint, capsys):
    (in_folder / "sweep.toml").write_text(
        f"""
        device = "cpu"
        models = ["{checkpoint}", "missing-model"]
        [tasks.small]
        frames = 8
        [tasks.large]
        frames = 64
        """
    )
    assert main(["estimate", "--config", "sweep.toml", "--depths", "0.5"]) == 2
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert " ".join(lines[0].split()) == "run samples longest work at least memory free"
    small, large = (line.split() for line in lines[1:3])
    assert (small[0], large[0]) == ("tiny__generated__small", "tiny__generated__large")
    assert small[1] == large[1] and int(large[2]) - int(small[2]) == 56 * 4
    assert lines[3].lstrip().startswith("2 runs")
    assert "not known: missing-model__generated__small and 1 other run: there is no m" in output
