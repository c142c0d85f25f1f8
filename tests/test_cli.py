"""The command line: what is printed, what is drawn, and one line for everything wrong."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from jobs import start
from PIL import Image
from runs import make_run

from vniah.cli import main
from vniah.cli.display import format_table
from vniah.cli.outcomes import draw_heatmap
from vniah.models.families import FAMILIES
from vniah.results import load_results

pytestmark = pytest.mark.usefixtures("quick_pictures", "checked_once")

RESULTS = Path(__file__).parent.parent / "results"
PUBLISHED = RESULTS / "published" / "longva-7b_vniah.json"


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def material(checkpoint, image_folder, needle_folder):
    """Options for a tiny real run."""
    return [
        *("--model", str(checkpoint), "--device", "cpu"),
        *("--haystack", str(image_folder)),
        *("--frames", "4,12", "--depths", "0:1:0.5"),
        *("--needles", str(needle_folder)),
    ]


def without_needles(material):
    return material[: material.index("--depths")]


def test_run_prints_the_table_the_average_and_the_picture(in_folder, material, capsys):
    assert main(["run", *material, "--output", "out"]) == 0
    output = capsys.readouterr()
    assert re.search(r"depth +4 +12\n", output.out)
    assert re.search(r"  0\.5 +\d\.\d\d +\d\.\d\d\n", output.out)
    assert re.search(r"average: \d\.\d{4} over 6 cells \(\d+ of 18 samples", output.out)
    assert "27 samples in" in output.out
    assert "heatmap: out/heatmap.png" in output.out
    assert "sweep" in output.err, "the progress bar"
    with Image.open("out/heatmap.png") as picture:
        assert min(picture.size) > 200
    assert len(load_results("out").samples) == 18


def test_run_with_positions_prints_them_and_goes_on(in_folder, material, capsys):
    where = material.index("--depths")
    material[where : where + 2] = ["--positions", "0:12:4"]
    assert main(["run", *material, "--output", "out"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"position +4 +12\n +0 +\d\.\d\d +\d\.\d\d\n", output)
    assert re.search(r"\n +8 {7,}\d\.\d\d\n +12 {7,}\d\.\d\d\n", output), "no cell at 4 frames"
    assert "over 6 cells" in output
    assert {(s.num_frames, s.fields["needle_index"]) for s in load_results("out").samples} == {
        *((4, 0), (4, 4)),
        *((12, 0), (12, 4), (12, 8), (12, 12)),
    }
    with Image.open("out/heatmap.png") as picture:
        assert min(picture.size) > 200
    drawn = Path("out/heatmap.png").stat().st_mtime_ns
    assert main(["run", *material, "--output", "out"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert Path("out/heatmap.png").stat().st_mtime_ns == drawn, "it shows every sample already"
    assert main(["plot", "out", "--output", "again.svg"]) == 0
    assert main(["compare", "out", "out"]) == 0


@pytest.mark.parametrize("newer", ["manifest.json", "samples.jsonl", "heatmap.png", None])
def test_heatmap_is_drawn_again_unless_it_is_the_newest_file_of_the_run(tmp_path, newer):
    """Where two files have one time, nobody can say which was written first."""
    shutil.copytree(RESULTS / "reference-long", tmp_path / "run")
    picture = tmp_path / "run" / "heatmap.png"
    for name in ("manifest.json", "samples.jsonl", "heatmap.png"):
        os.utime(tmp_path / "run" / name, ns=(10**18, 10**18 + (name == newer)))
    picture.write_bytes(b"old")
    os.utime(picture, ns=(10**18, 10**18 + (newer == "heatmap.png")))
    assert draw_heatmap(load_results(tmp_path / "run"), tmp_path / "run") == picture
    assert (picture.read_bytes() == b"old") == (newer == "heatmap.png")


def test_heatmap_is_drawn_where_there_is_none(tmp_path):
    shutil.copytree(RESULTS / "reference-long", tmp_path / "run")
    (tmp_path / "run" / "heatmap.png").unlink()
    draw_heatmap(load_results(tmp_path / "run"), tmp_path / "run")
    with Image.open(tmp_path / "run" / "heatmap.png") as picture:
        assert min(picture.size) > 200


def test_table_of_positions_when_a_sample_has_an_error():
    run = make_run(
        "3,4", positions="0,4", outcome=lambda c, k: "oh" if c.needle_index == 4 else k < 5
    )
    assert format_table(run).splitlines() == [
        "position     3     4",
        "       0  0.50  0.50",
        "       4           .",
        "    mean  0.50  0.50",
        "    from  0.24  0.24",
        "      to  0.76  0.76",
        "from, to: the 95 % interval of the mean for needles like these",
    ]


def test_run_with_several_rope_bases_makes_a_run_each_and_one_picture(in_folder, material, capsys):
    several = ["run", *material, "--rope-theta", "500,1e9", "--output", "out"]
    assert main(several) == 0
    output = capsys.readouterr()
    assert output.out.count("27 samples in") == 2
    assert output.err.count("encode: 12 of 12") == 1, "encoded once"
    lines = output.out.splitlines()
    (where,) = (k for k, line in enumerate(lines) if line.startswith("mean over depth"))
    heading = r"mean over depth +4 +12 +average +95 % +effective length +95 %"
    assert re.fullmatch(heading, lines[where])
    for label, line in zip(("500", "1e9"), lines[where + 1 : where + 3], strict=True):
        results = load_results(f"out/rope-theta-{label}")
        assert results.manifest["model"]["rope_theta"] == float(label)
        assert re.fullmatch(rf" *RoPE base {label}( +\d\.\d\d)+ +{results.average:.4f} .*", line)
    assert lines[-1] == "heatmap: out/heatmap.png"
    with Image.open("out/heatmap.png") as both, Image.open("out/rope-theta-500/heatmap.png") as one:
        assert both.width > 1.5 * one.width
    assert main(several) == 0
    assert capsys.readouterr().out.count("nothing to do") == 2
    assert main(["plot", *map(str, Path("out").glob("rope-*")), "--output", "again.svg"]) == 0
    printed = capsys.readouterr().out
    assert "tiny, RoPE base 500: average" in printed and "tiny, RoPE base 1e9: average" in printed


def test_each_of_several_rope_bases_is_the_run_that_it_would_be_alone(in_folder, material, capsys):
    two = [*("--rope-theta", "500,1e6"), *("--rope-scaling", "none,yarn:4")]
    assert main(["run", *material, *two, "--output", "all"]) == 0
    assert len(list((in_folder / "all").iterdir())) == 5
    for theta, scaling in (("1e6", "none"), ("500", "yarn:4")):
        own = f"{theta}-{scaling.replace(':', '-')}"
        one = ["--rope-theta", theta, "--rope-scaling", scaling, "--output", own]
        assert main(["run", *material, *one]) == 0
        folder = f"all/rope-theta-{theta}_rope-scaling-{scaling.replace(':', '-')}"
        several, alone = load_results(folder), load_results(own)
        assert [{**vars(s), "seconds": None} for s in several.samples] == [
            {**vars(s), "seconds": None} for s in alone.samples
        ]
        assert several.manifest["model"] == alone.manifest["model"]
        assert ("rope_scaling" in alone.manifest["model"]) == (scaling != "none")


def test_default_folders_of_several_rope_bases_are_those_of_each_alone(in_folder, material, capsys):
    assert main(["run", *material, "--rope-theta", "500"]) == 0
    (first,) = (in_folder / "results").iterdir()
    assert main(["run", *material, "--rope-theta", "500,1e6"]) == 0
    output = capsys.readouterr().out
    assert output.count("nothing to do") == 1
    assert first.name in output
    assert len(list((in_folder / "results").iterdir())) == 3, "two runs, and what they share"
    assert re.search(r"heatmap: results/tiny-vniah-rope-\w{8}/heatmap.png\n$", output)


def test_rope_that_is_not_for_the_model_is_refused_before_any_of_several_is_run(
    in_folder, material, capsys
):
    scalings = 'none,{"rope_type":"linear","factor":2,"beta_fast":1}'
    assert main(["run", *material, "--rope-scaling", scalings, "--output", "out"]) == 2
    assert "Unrecognized keys" in capsys.readouterr().err
    assert not (in_folder / "out").exists()


@pytest.mark.parametrize("command", ["check", "estimate", "encode"])
def test_commands_that_take_one_rope_say_so(in_folder, checkpoint, capsys, command):
    arguments = [command, "--model", str(checkpoint), "--device", "cpu", "--rope-theta", "5,6"]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "name 2 RoPEs, and only run and perplexity measure take" in line


def test_dynamic_rope_runs_every_cell_by_itself(in_folder, material, capsys):
    assert main(["run", *material, "--rope-scaling", "dynamic:2", "--output", "out"]) == 0
    forward = load_results("out").manifest["environment"]["forward"]
    assert forward["not_shared_because"].startswith("RoPE of the kind 'dynamic' depends on")


def test_second_run_says_that_there_is_nothing_to_do(in_folder, material, capsys):
    assert main(["run", *material]) == 0
    first = capsys.readouterr().out
    before = next(in_folder.glob("results/*/samples.jsonl")).read_bytes()
    assert main(["run", *material]) == 0
    second = capsys.readouterr()
    assert "nothing to do: every sample of this run is there already" in second.out
    assert "sweep" not in second.err
    assert next(in_folder.glob("results/*/samples.jsonl")).read_bytes() == before
    assert first.splitlines()[-8:] == second.out.splitlines()[-8:]


def test_encode_fills_the_cache_and_says_how_fast(in_folder, material, capsys):
    assert main(["encode", *without_needles(material)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"12 frames encoded, \d+\.\d frames/s", out)
    assert main(["encode", *without_needles(material)]) == 0
    again = capsys.readouterr().out
    assert "nothing to do: 12 frames are already encoded" in again
    assert out.splitlines()[-1] == again.splitlines()[-1]


def test_run_with_placement_and_kernel_of_ones_own_gives_the_same_scores(
    in_folder, material, capsys
):
    assert main(["run", *material, "--output", "usual"]) == 0
    chosen = ["--offload", "always", "--attn", "plain"]
    assert main(["run", *material, *chosen, "--output", "own"]) == 0
    assert "layers fetched from the host one by one" in capsys.readouterr().err
    usual, own = (load_results(name) for name in ("usual", "own"))
    for one, other in zip(usual.samples, own.samples, strict=True):
        assert one.predicted_ids == other.predicted_ids
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    records = [run.manifest["environment"]["forward"] for run in (usual, own)]
    assert [record["attention"] for record in records] == ["torch CPU flash", "plain formula"]
    assert [record.get("layer_weights_on") for record in records] == [None, "host"]
    assert main(["check", *material[:4], *chosen]) == 0


def test_other_processes_of_a_job_leave_to_the_first_what_it_does_alone(
    in_folder, material, capsys, monkeypatch
):
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "RANK": "1"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert main(["plot", str(in_folder / "nowhere")]) == 0
    monkeypatch.setenv("RANK", "0")
    assert main(["plot", str(in_folder / "nowhere")]) == 2


def test_plot_of_the_published_table_prints_its_average(in_folder, capsys):
    assert main(["plot", str(PUBLISHED), "--output", "longva.png"]) == 0
    assert "average: 0.9089" in capsys.readouterr().out
    assert (in_folder / "longva.png").stat().st_size > 10_000


def test_plot_of_several_with_a_training_length(in_folder, material, capsys):
    main(["run", *material, "--output", "a"])
    arguments = ["plot", "a", str(PUBLISHED), "--training-length", "224000"]
    assert main(arguments) == 2
    assert "give --tokens-per-frame" in capsys.readouterr().err
    assert main([*arguments, "--tokens-per-frame", "144", "--output", "both.svg"]) == 0
    assert "<svg" in (in_folder / "both.svg").read_text()


def test_compare_exits_with_0_1_or_2(in_folder, material, capsys):
    main(["run", *material, "--output", "good"])
    worse = in_folder / "worse"
    worse.mkdir()
    (worse / "manifest.json").write_text(Path("good/manifest.json").read_text())
    samples = [json.loads(line) for line in Path("good/samples.jsonl").read_text().splitlines()]
    good = in_folder / "good" / "samples.jsonl"
    for sample in samples:
        sample |= {"correct": True, "rank": 1}
    good.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    samples[0] |= {"correct": False, "rank": 2}
    (worse / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    capsys.readouterr()

    assert main(["compare", "good", "good"]) == 0
    assert "passed" in capsys.readouterr().out
    assert main(["compare", "good", "worse"]) == 2
    assert "1 of 6 cells fell, and whether that is chance" in capsys.readouterr().err
    assert main(["compare", "good", "worse", "--max-drop", "0"]) == 1
    assert "regression: 1 of 6 cells fell" in capsys.readouterr().out
    assert main(["compare", "good", "worse", "--max-drop", "0.34"]) == 0
    assert main(["compare", "good", "nowhere"]) == 2
    (worse / "samples.jsonl").write_text(json.dumps(samples[0]))
    capsys.readouterr()
    assert main(["compare", "good", "worse"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vniah: error: cannot compare:") and "0 of 27 samples" in error


def test_haystack_make_writes_the_film_and_its_manifest(in_folder, capsys):
    assert main(["haystack", "make", "film.mp4", "--seconds", "3", "--seed", "5"]) == 0
    assert "haystack: film.mp4" in capsys.readouterr().out
    assert (in_folder / "film.mp4").stat().st_size > 1000
    assert json.loads((in_folder / "film.json").read_text())["recipe"]["seed"] == 5
    assert main(["haystack", "make", "film.mp4", "--seconds", "3"]) == 2
    assert "--overwrite" in capsys.readouterr().err


PLUG_IN = """
import torch
from vniah.models.protocol import TextSegment, TokenSequence

class Model:
    name, revision, frame_shape = "outside", "1", (1, 2)
    def encode_frames(self, frames):
        return torch.zeros(len(frames), 1, 2)
    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((0,)), *frames), (1,))
    def answer_logits(self, sequence, embeds):
        return torch.tensor([[0.0, 1.0]])
"""


def test_plug_in_beside_the_working_folder_is_found(in_folder, material, capsys):
    (in_folder / "my_model.py").write_text(PLUG_IN)
    assert main(["run", "--model", "my_model:Model", *material[4:], "--output", "out"]) == 0
    assert "average: 1.0000" in capsys.readouterr().out


FAULTY_PLUG_IN = """
class Model:
    name, frame_shape = "faulty", [1, 2]
    def encode_frames(self, frames):
        return [0] * len(frames)
    def compose(self, frames, question):
        return frames
    def answer_logits(self, sequence, embeds):
        return embeds
"""


def test_check_lists_all_that_is_wrong_with_a_plug_in_and_exits_with_1(in_folder, capsys):
    (in_folder / "faulty_plug_in.py").write_text(FAULTY_PLUG_IN)
    assert main(["check", "--model", "faulty_plug_in:Model"]) == 1
    output = capsys.readouterr()
    assert output.err == ""
    *wrong, last = output.out.splitlines()
    assert [line.split()[:4] for line in wrong] == [
        ["wrong:", "Model", "lacks", "the"],
        ["wrong:", "frame_shape", "is", "[1,"],
        ["wrong:", "compose(frames,", "question)", "cannot"],
    ]
    assert " things examined, 3 wrong; what builds on these was not examined" in last


def test_check_hands_options_to_a_plug_in_that_takes_them(in_folder, material, capsys):
    source = PLUG_IN.replace("    def encode", "    def __init__(self, dtype): ...\n    def encode")
    (in_folder / "my_typed_model.py").write_text(source)
    needles = material[material.index("--needles") :][:2]
    check = ["check", "--model", "my_typed_model:Model", *needles]
    assert main([*check, "--dtype", "float32"]) == 0
    assert "none wrong" in capsys.readouterr().out
    assert main([*check, "--dtype", "float32", "--rope-theta", "1e6"]) == 2
    assert "my_typed_model:Model takes no rope_theta" in capsys.readouterr().err


WRONG = {
    "no command": ([], "COMMAND"),
    "unknown command": (["fly"], "invalid choice: 'fly'"),
    "unknown option": (
        ["run", "--speed", "9"],
        "unrecognized arguments: --speed 9. See: vniah run --help",
    ),
    "unknown option of compare": (["compare", "a", "b", "--x"], "--x. See: vniah compare --help"),
    "unknown option of a verb": (
        ["haystack", "make", "a.mp4", "--seconds", "1", "--x"],
        "--x. See: vniah haystack make --help",
    ),
    "frames without end": (["run", "--frames", "1:1e999999999:1"], "frames must be numbers"),
    "frames without end or step": (["run", "--frames", "1:1e999999999"], "start:stop:step or"),
    "depths without end": (["run", "--depths", "0:1:1e-9"], "use a larger step"),
    "cells without end": (
        ["estimate", "--frames", "1:100000:1", "--depths", "0:1:1e-4"],
        "more than 1,000,000 cells",
    ),
    "frames of many digits": (["run", "--frames", "9" * 5000], "frames must be numbers, got '999"),
    "film without end": (["haystack", "make", "a.mp4", "--seconds", "1e9"], "at most 1,000,000"),
    "film of many digits": (
        ["haystack", "make", "a.mp4", "--seconds", "9" * 5000],
        "must be one number, got a text of 5,000 characters",
    ),
    "film too fast": (["haystack", "make", "a.mp4", "--seconds", "1", "--fps", "1e9"], "1,000"),
    "seed of many digits": (
        ["haystack", "make", "a.mp4", "--seconds", "1", "--seed", "1e99"],
        "at most 9,223,372,036,854,775,807",
    ),
    "rope theta without end": (["run", "--rope-theta", "1e999"], "must be one number, got '1e999'"),
    "rope theta of many digits": (["run", "--rope-theta", "9" * 400], "a text of 400 characters"),
    "many rope thetas": (
        ["run", "--rope-theta", ",".join(map(str, range(2, 500)))],
        "names 498 values, at most 100",
    ),
    "rope scaling without end": (["run", "--rope-scaling", "yarn:1e999"], "must be a number above"),
    "rope scaling of many digits": (
        ["run", "--rope-scaling", '{"type":"yarn","factor":' + "9" * 5000 + "}"],
        "cannot be read as JSON",
    ),
    "rope scaling nested": (
        ["run", "--rope-scaling", '{"a":' * 5000 + "1" + "}" * 5000],
        "nested",
    ),
    "tokens without end": (
        ["run", "--scorer", "generate", "--max-new-tokens", "1e12"],
        "at most 100,000",
    ),
    "processes without end": (["estimate", "--context-parallel", "1e50"], "at most 4,096"),
    "requests without end": (["run", "--concurrency", "1e9"], "at most 1,000"),
    "patience without end": (["run", "--request-timeout", "1e99"], "at most 1e+06"),
    "long name of a model": (["run", "--model", "x" * 200_000], "is too long for a path"),
    "long name of needles": (["run", "--needles", "x" * 200_000], "is too long for a path"),
    "device that is a plug-in": (["encode", "--device", "privateuseone"], "cannot be used here"),
    "device of another maker": (["encode", "--device", "hpu"], "device 'hpu' cannot be used here"),
    "device out of use": (["encode", "--device", "mkldnn"], "cannot be used here"),
    "device without number": (["encode", "--device", "cuda:99"], "cannot be used here"),
    "frame too large": (["run", "--frame-size", "99999x99999"], "each at most 8,192"),
    "frames are words": (["run", "--frames", "many"], "frames must be numbers, got 'many'"),
    "frames are 0": (["run", "--frames", "0"], "frames must be whole numbers of at least 1"),
    "frames are halves": (["run", "--frames", "2.5"], "frames must be whole numbers"),
    "frames are negative": (["run", "--frames=-3"], "at least 1, got -3"),
    "frames without step": (["run", "--frames", "1:2"], "start:stop:step or a comma list"),
    "step of 0": (["run", "--frames", "1:9:0"], "step above 0"),
    "backwards": (["run", "--frames", "9:1:1"], "stop not below start"),
    "far too many": (["run", "--frames", "1:1e9:1"], "use a larger step"),
    "depth in percent": (["run", "--depths", "25"], "write 0.25, not 25"),
    "depth negative": (["run", "--depths=-0.5"], "between 0 and 1"),
    "unknown model": (["run", "--model", "gpt"], "there is no model 'gpt'"),
    "unknown dtype": (["run", "--dtype", "int4"], "invalid choice: 'int4'"),
    "unknown attention": (["run", "--attn", "fast"], "invalid choice: 'fast'"),
    "attention of another device": (
        ["check", "--device", "cpu", "--attn", "varlen"],
        "attention varlen does not run on cpu; there it may be auto, plain, flash-cpu",
    ),
    "unknown offload": (["run", "--offload", "some"], "invalid choice: 'some'"),
    "unknown bits": (["run", "--load-in", "3bit"], "invalid choice: '3bit'"),
    "bits and offload": (
        ["run", "--load-in", "4bit", "--offload", "always"],
        "offload always and load_in 4bit cannot be combined",
    ),
    "unknown device": (["run", "--device", "gpu7"], "device 'gpu7' cannot be used"),
    "rope theta": (["run", "--rope-theta", "-1"], "rope_theta must be a number above 1"),
    "rope theta words": (["run", "--rope-theta", "big"], "--rope-theta: must be one number, got"),
    "rope thetas": (["run", "--rope-theta", "1e6,,1e7"], "--rope-theta: must be one number, got"),
    "rope theta twice": (["run", "--rope-theta", "1e6,1000000"], "RoPE base 1e6 is given twice"),
    "rope scaling": (["run", "--rope-scaling", "su:4"], "must be of a kind default, linear, dyn"),
    "rope scaling half": (["run", "--rope-scaling", "yarn"], "Missing required keys"),
    "rope scaling words": (["run", "--rope-scaling", "yarn:x"], "a kind and its factor such as"),
    "rope scaling JSON": (["run", "--rope-scaling", '{"rope_type"'], "cannot be read as JSON"),
    "rope factor": (["run", "--rope-scaling", "none,yarn:0.5"], "must be at least 1, got 0.5"),
    "rope scaling twice": (["run", "--rope-scaling", "none,default"], "no scaling is given twice"),
    "several whole numbers": (
        ["run", "--context-parallel", "1,2"],
        "must be one number, got '1,2'",
    ),
    "half a process": (["run", "--context-parallel", "1.5"], "must be one whole number, got '1.5'"),
    "more frames than a film has": (["estimate", "--frames", "1e6,2e6"], "must be at most 1,000"),
    "no needles": (["run", "--needles", "/nowhere"], "/nowhere"),
    "no haystack": (["run", "--haystack", "/nowhere.mp4"], "there is no file /nowhere.mp4"),
    "sampling of the generated film": (["run", "--sampling", "longva"], "add --haystack"),
    "no results": (["plot", "/nowhere"], "no results at /nowhere"),
    "wrong picture": (["plot", str(PUBLISHED), "--output", "a.gif"], "use one of .png, .pdf"),
    "wrong picture of a sample": (
        ["show", "--output", "a.gif"],
        "--output: a picture cannot be saved",
    ),
    "drop above 1": (["compare", "a", "b", "--max-drop", "5"], "between 0 and 1, got 5"),
    "film without length": (["haystack", "make", "a.mp4"], "--seconds"),
    "film of 0 s": (["haystack", "make", "a.mp4", "--seconds", "0"], "at least 1"),
    "film of odd size": (
        ["haystack", "make", "a.mp4", "--seconds", "1", "--size", "33x7"],
        "33x7",
    ),
    "film of any digits": (
        ["haystack", "make", "a.mp4", "--seconds", "1", "--size", "²x²"],
        "WIDTH",
    ),
    "film too large": (
        ["haystack", "make", "a.mp4", "--seconds", "1", "--size", "90000x90000"],
        "at most 4096x4096",
    ),
    "factory that fails": (["run", "--model", "json:loads"], "json:loads failed: TypeError"),
    "no output": (["run", "--output", ""], "argument --output: a path must not be empty"),
    "depths and positions": (
        ["run", "--depths", "0:1:0.5", "--positions", "0:8:4"],
        "--positions: not allowed with argument --depths",
    ),
    "positions are halves": (["run", "--positions", "0:8:0.5"], "positions must be whole numbers"),
    "positions are nothing": (["run", "--positions", ""], "positions must be numbers, got ''"),
    "positions too far": (
        ["run", "--frames", "8", "--positions", "16:64:16"],
        "no position lies within 8 frames",
    ),
    "depth beyond": (["run", "--depths", "0:2:0.5"], "got 1.5"),
    "device without numbers": (["run", "--device", "meta"], "device 'meta' cannot be used"),
    "film of no size": (["haystack", "make", "a.mp4", "--seconds", "1", "--size", "9"], "WIDTHxHE"),
    "film as text": (["haystack", "make", "a.txt", "--seconds", "1"], "a.txt"),
    "film nowhere": (["haystack", "make", "no/a.mp4", "--seconds", "1"], "no"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_exit_2(in_folder, capsys, case):
    arguments, message = WRONG[case]
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse ends the program itself
        code = stop.code
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.strip()]
    assert code == 2
    assert len(lines) == 1, output.err
    assert lines[0].startswith("vniah: error: ") and len(lines[0]) < 2100
    assert message in lines[0]
    assert list(in_folder.iterdir()) == [], "nothing half-written"


def test_output_that_is_a_file_is_one_line(in_folder, material, capsys):
    (in_folder / "out").write_text("mine")
    assert main(["run", *material, "--output", "out"]) == 2
    assert "out is a file" in capsys.readouterr().err
    assert (in_folder / "out").read_text() == "mine"


def test_output_below_a_file_is_refused_before_any_work(in_folder, material, capsys):
    (in_folder / "file").write_text("mine")
    assert main(["run", *material, "--output", "file/out"]) == 2
    error = capsys.readouterr().err
    assert "file is a file; the output of a run must be a folder" in error
    assert "encode" not in error


def test_too_short_haystack_leaves_no_folder(in_folder, material, capsys):
    material[material.index("4,12")] = "4,1200"
    assert main(["run", *material, "--output", "out"]) == 2
    assert "40 frames" in capsys.readouterr().err
    assert not (in_folder / "out").exists()


def test_samples_without_any_score_exit_with_1(in_folder, material, capsys):
    (in_folder / "unable.py").write_text(
        PLUG_IN.replace(
            "return torch.tensor([[0.0, 1.0]])",
            "from vniah.errors import ModelError; raise ModelError('too long for me')",
        )
    )
    arguments = ["run", "--model", "unable:Model", *material[4:], "--output", "out"]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "none of the 24 samples could be run, and all for one reason: too long for me" in out
    assert re.search(r"  0\.5 +\. +\.\n", out)


def kill_when(condition, process) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.distributed
def test_run_killed_in_the_sweep_goes_on_and_ends_the_same(in_folder, material):
    material[material.index("4,12")] = "1:40:2"  # 189 samples, so that the kill falls among them
    killed = start(main, ["run", *material, "--output", "killed"])
    samples = in_folder / "killed" / "samples.jsonl"
    kill_when(lambda: samples.exists() and samples.stat().st_size > 2000, killed)
    num_before = len(load_results("killed").samples)
    assert 0 < num_before < 189
    assert main(["run", *material, "--output", "killed"]) == 0
    assert main(["run", *material, "--output", "whole"]) == 0
    after, whole = (
        [{**vars(sample), "seconds": None} for sample in load_results(name).samples]
        for name in ("killed", "whole")
    )
    assert len(whole) == 189
    assert after == whole


@pytest.mark.distributed
def test_encode_killed_in_the_middle_goes_on_and_ends_the_same(in_folder, checkpoint, own_cache):
    import torch

    from vniah.embeddings.cache import EmbeddingCache

    main(["haystack", "make", "film.mp4", "--seconds", "600", "--fps", "2", "--size", "64x64"])
    arguments = ["encode", "--model", str(checkpoint), "--device", "cpu", "--frames", "600"]
    arguments += ["--haystack", "film.mp4", "--cache"]
    killed = start(main, [*arguments, "killed"])
    kill_when(lambda: any((in_folder / "killed").glob("frames-*.safetensors")), killed)
    assert len(list((in_folder / "killed").glob("frames-*.safetensors"))) < 3
    for folder in ("killed", "whole"):
        assert main([*arguments, folder]) == 0
    caches = []
    for folder in ("killed", "whole"):
        cache = EmbeddingCache(in_folder / folder, {}, (4, 32))
        caches.append(cache.read(0, 600))
    assert torch.equal(*caches)


@pytest.mark.usefixtures("short_measurements")
def test_estimate_says_what_a_run_takes(in_folder, material, capsys):
    where = material.index("--haystack")
    options = [*material[:where], *material[where + 2 :]]
    assert main(["estimate", *options, "--context-parallel", "2"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"27 samples of up to \d+ tokens, \d+ per frame\n", output)
    assert "memory, on each of 2 GPUs" in output
    assert re.search(r"  needed besides the weights( +[\d.]+ [kM]?B){2}\n", output)
    assert re.search(r"  every one by itself +27 +[\d,]+ +[\d.]+ \w+ +[\d.]+ \w+ +\S+ s\n", output)
    assert re.search(r"sharing saves a factor of \d\.\d\d in operations", output)
    assert re.search(r"fit into the free memory: [\d,]+ here, [\d,]+ on 2, ", output)
    assert not list(in_folder.iterdir()), "nothing was run"


def test_quiet_run_prints_results_only(in_folder, material, capsys):
    assert main(["run", *material, "--output", "out", "--quiet"]) == 0
    loud = main(["run", *material, "--output", "loud"])
    assert loud == 0
    capsys.readouterr()
    assert main(["run", *material, "--output", "out", "--quiet"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert re.match(r"note: the control other-needle [^\n]*\n\ndepth +4 +12\n", output.out)
    assert output.out.endswith("heatmap: out/heatmap.png\n")
    assert "nothing to do" not in output.out and " needles -> " not in output.out
    assert main(["encode", *without_needles(material), "--quiet"]) == 0
    output = capsys.readouterr()
    assert output.err == "" and re.fullmatch(r"cache: \S+\n", output.out)
    assert main(["haystack", "make", "film.mp4", "--seconds", "2", "--quiet"]) == 0
    assert capsys.readouterr() == ("haystack: film.mp4\n", "")


def test_models_fit_into_80_columns(monkeypatch, capsys):
    """Also where they are written to a file, and nobody says how wide it is."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 10 + 3 * len(FAMILIES), (
        "columns are made narrower where that costs few lines"
    )


def test_models_that_are_alike_share_a_row(capsys):
    assert main(["models"]) == 0
    assert "\nqwen2_vl, qwen2_5_vl, " in capsys.readouterr().out


def test_models_say_where_answers_of_transformers_differ(capsys):
    assert main(["models"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "qwen2_vl, qwen2_5_vl: transformers 5 gives the text after a video positions" in shown
    assert "qwen3_omni_moe_thinker: without an attention mask, transformers' forward" in shown


def test_reader_that_has_gone_is_no_traceback(tmp_path):
    import subprocess
    import sys

    done = subprocess.run(
        f"{sys.executable} -m vniah run --help | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 2)


def test_working_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert main(["models"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "vniah: error: the working folder does not exist any more; change to another"
