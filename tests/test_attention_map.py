"""The picture of layers x heads: which samples it is of, and what it says."""

import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from runs import cell, make_grid, make_manifest, make_sample, write_run

from vniah.analysis.plot import attention_map, save_attention_maps
from vniah.analysis.plot.attention import resolve_attention
from vniah.analysis.sentences import format_attention
from vniah.cli import main
from vniah.errors import InputError, ResultsError
from vniah.results import RunFolder, load_run
from vniah.results.attention import AttentionTrace
from vniah.scoring import NeedleAttention

LENGTHS, DEPTHS = (8, 16), ("0", "0.5", "1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Needles 0 and 1 are right; the mass says the length, the depth and the needle."""
    grid = make_grid("8,16", "0,0.5,1")
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run", make_manifest(grid, num_needles=4))
    with folder.open():
        for one in grid.cells:
            for k in range(4):
                sample = make_sample(one, k, k < 2, needle_attention=value(one, k))
                mass = np.zeros((3, 5, 2), np.float32)
                mass[2, 4] = value(one, k)
                mass[1] = np.nan
                attention = NeedleAttention(mass, np.zeros_like(mass), 1, 4, 1, 400)
                trace = AttentionTrace.of(sample.sample_id, attention)
                seen = "seen" if trace.is_seen else "not seen"
                folder.append(
                    make_sample(one, k, k < 2, needle_attention=value(one, k), needle_seen=seen),
                    trace,
                )
    return folder.directory


def value(one, k: int) -> float:
    return one.num_frames / 64 + float(one.depth) / 4 + (k < 2) / 4


def mean(chosen, needles) -> float:
    return float(np.mean([value(one, k) for one in chosen for k in needles]))


@pytest.mark.parametrize("judged", ["all", "right", "wrong"])
@pytest.mark.parametrize("where", [None, "*/*", "8/0.5", "16/*", "*/1", "*/1.0"])
def test_table_is_the_mean_over_the_samples_that_are_asked_for(run, judged, where):
    length, depth = (where or "*/*").split("/")
    chosen = [
        cell(n, d)
        for n in LENGTHS
        for d in DEPTHS
        if length in ("*", str(n)) and (depth == "*" or float(depth) == float(d))
    ]
    needles = {"all": range(4), "right": range(2), "wrong": range(2, 4)}[judged]
    found = resolve_attention(load_run(run), judged, cell=where)
    assert found.num_samples == len(chosen) * len(needles)
    assert found.values.shape == (3, 5)
    assert found.values[2, 4] == pytest.approx(mean(chosen, needles), rel=1e-3)
    assert np.isnan(found.values[1]).all() and (found.values[0] == 0).all()
    # More than halfway from 5 of 400 tokens to all.
    assert found.num_seen == sum(
        value(one, k) > (1 + 5 / 400) / 2 for one in chosen for k in needles
    )


def test_picture_has_a_row_for_each_layer_and_says_how_many_needles_were_seen(run):
    ax = attention_map(run, Figure(figsize=(4, 3)).subplots(), judged="right", cell="16/*")
    (cells,) = ax.collections
    assert cells.get_array().shape == (3, 5)
    assert cells.get_array().mask[1].all() and not cells.get_array().mask[[0, 2]].any()
    assert cells.get_clim() == (0, 1)
    assert ax.get_ylim() == (3, 0) and ax.get_xlim() == (0, 5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Head", "Layer")
    assert "seen in 4 of 6" in " ".join(ax.get_title().split())
    caption = " ".join(ax.texts[0].get_text().split())
    assert "mean over 6 samples of the largest share of attention" in caption
    assert "blank: no attention in this layer" in caption
    bare = attention_map(
        run, Figure().subplots(), title="", colorbar=False, caption=False, judged="wrong"
    )
    assert not bare.texts and not bare.get_title() and len(bare.figure.axes) == 1


def test_file_has_a_panel_for_right_and_one_for_wrong_samples(run, tmp_path):
    paths = [save_attention_maps(run, tmp_path / f"{n}.png", width=4.0) for n in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    svg = save_attention_maps([run], tmp_path / "a.svg", cell="8/0").read_text()
    assert svg.count("right samples") == svg.count("wrong samples") > 0


def test_command_draws_it(run, tmp_path, capsys, quick_pictures):
    output = str(tmp_path / "a.png")
    draw = ["plot", str(run), "--kind", "attention", "--output", output]
    assert main([*draw, "--cell", "16/0.5"]) == 0
    assert f"attention: {output}" in capsys.readouterr().out
    assert main([*draw, "--cell", "16"]) == 2
    assert "such as 256/0.5, 256/* or */0.5, got '16'" in capsys.readouterr().err
    assert main([*draw, "--annotate"]) == 2
    assert "--annotate is for pictures of the kinds heatmap, needles" in capsys.readouterr().err
    assert main(["plot", str(run), "--cell", "8/0", "--output", output]) == 2
    assert "--cell is for pictures of the kinds attention" in capsys.readouterr().err
    assert main(["plot", str(run), "--value", "needle_attention", "--output", output]) == 0


def test_what_cannot_be_drawn_is_refused(run, tmp_path):
    plain = write_run(tmp_path / "plain", "8", "0")
    with pytest.raises(ResultsError, match="run it with --trace-attention"):
        save_attention_maps(plain, tmp_path / "a.png")
    with pytest.raises(ResultsError, match="no sample in the cell 9/0; its lengths are 8, 16"):
        resolve_attention(load_run(run), cell="9/0")
    for wrong in ("a/0", "8/b", "8/2", "/", ""):
        with pytest.raises(InputError, match="a cell is its number of frames and its depth"):
            resolve_attention(load_run(run), cell=wrong)


def test_attention_that_was_lost_is_not_left_out_in_silence(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "attention.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))
    with pytest.raises(ResultsError, match=r"has lost the attention of \d+ of \d+ samples, such"):
        resolve_attention(load_run(tmp_path / "run"))


def test_sentence_counts_what_was_seen_in_right_and_wrong_samples(run):
    assert format_attention(load_run(run)) == (
        "attention: the needle was seen in 6 of 12 right samples; of 12 wrong ones it was seen and "
        "not used in 0, and not seen in 12"
    )
