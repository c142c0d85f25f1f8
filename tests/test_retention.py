from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from runs import PUBLISHED_DIR, make_run, write_run

from vniah.analysis.plot import retention_curves, save_retention_curves
from vniah.analysis.plot.table import resolve
from vniah.analysis.plot.typesetting import NO_BREAK
from vniah.analysis.retention import retention
from vniah.analysis.statistics import wilson_interval
from vniah.analysis.verdict import controls_caption
from vniah.cli import main
from vniah.errors import InputError, ResultsError
from vniah.results import load_results

REFERENCE_RUN = Path(__file__).resolve().parents[1] / "results" / "reference-short"


def forgets(cell, k):
    """Right for as many needles as the time since the needle leaves of ten."""
    return k < 10 - (cell.num_frames - cell.needle_index) // 4


def new_axes():
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def test_time_is_that_of_the_haystack_behind_the_needle():
    frame = retention(make_run("8,16,32", positions="0,8,16", outcome=forgets))
    points = {
        position: list(zip(curve["seconds"], curve["num_correct"], strict=True))
        for position, curve in frame.groupby("position")
    }
    assert points == {
        0: [(8, 8), (16, 6), (32, 2)],
        8: [(0, 10), (8, 8), (24, 4)],
        16: [(0, 10), (16, 6)],
    }
    assert (frame["accuracy"] * 10 == frame["num_correct"]).all()


def test_curves_of_depths_and_their_intervals():
    frame = retention(make_run("8,16", "0,0.75,1", outcome=forgets), confidence=0.9)
    assert list(frame["depth"]) == [0.0, 0.0, 0.75, 0.75, 1.0]
    assert list(frame["seconds"]) == [8, 16, 2, 4, 0]
    assert list(frame["num_samples"]) == [10, 10, 10, 10, 20], "depth 1 has one time: one point"
    expected = wilson_interval(8, 10, confidence=0.9)
    assert tuple(frame.loc[0, ["low", "high"]]) == (expected.low, expected.high)
    both = frame.loc[4, ["low", "high"]]
    assert tuple(both) == pytest.approx((wilson_interval(10, 10, confidence=0.9).low, 1.0)), (
        "two samples of each of ten needles are ten observations"
    )


def test_samples_that_could_not_be_run_are_counted_and_in_no_mean():
    def outcome(cell, k):
        if cell.num_frames == 16:
            return "out of memory"
        return "out of memory" if k == 0 else k < 4

    frame = retention(make_run("8,16", "0", outcome=outcome))
    assert list(frame["num_samples"]) == [9, 0]
    assert list(frame["num_errors"]) == [1, 10]
    assert frame.loc[0, "accuracy"] == pytest.approx(3 / 9)
    assert np.isnan(frame.loc[1, "accuracy"])


def test_points_have_no_interval_where_samples_share_needles():
    run = make_run("8,16", "0,1", outcome=forgets)
    shared = tuple(
        replace(s, fields={"needle_ids": ["a", "b"], "needle_index": s.cell.needle_index})
        for s in run.samples
    )
    frame = retention(replace(run, samples=shared))
    assert frame["low"].isna().all() and frame["high"].isna().all()
    assert list(frame["accuracy"]) == list(retention(run)["accuracy"])
    ax = retention_curves(replace(run, samples=shared), new_axes())
    assert "no bars, as samples do not say" in ax.texts[-1].get_text().replace("\n", " ")


def test_run_without_a_needle_index_is_refused():
    run = make_run("8", "0")
    samples = tuple(replace(sample, fields={"needle_id": "a"}) for sample in run.samples)
    for odd in (
        replace(run, samples=samples),
        load_results(PUBLISHED_DIR / "longva-7b_vniah.json"),
    ):
        with pytest.raises(ResultsError, match="has a needle_index, so the time since the needle"):
            retention(odd)


def lines_of(ax):
    return [
        [tuple(point) for point in container.lines[0].get_xydata()] for container in ax.containers
    ]


def test_curves_are_drawn_with_their_intervals():
    run = make_run("8,16,32", positions="0,8,16", outcome=forgets)
    ax = new_axes()
    assert retention_curves(run, ax) is ax
    assert lines_of(ax) == [
        [(8, 0.8), (16, 0.6), (32, 0.2)],
        [(0, 1.0), (8, 0.8), (24, 0.4)],
        [(0, 1.0), (16, 0.6)],
    ]
    bars = ax.containers[0].lines[2][0].get_segments()
    interval = wilson_interval(8, 10)
    assert bars[0][:, 1] == pytest.approx([interval.low, interval.high])
    legend = ax.get_legend()
    assert legend.get_title().get_text() == "Needle before frame"
    assert [text.get_text() for text in legend.get_texts()] == ["0", "8", "16"]
    assert ax.get_xlabel() == "Seconds since the needle"
    assert ax.get_xscale() == "linear"
    assert [text.get_text() for text in ax.texts] == [
        "these needles on this film, n = 10 per point; bars: 95 % for needles like these"
    ]


def test_times_of_many_doublings_are_on_a_logarithmic_axis():
    ax = retention_curves(make_run("8,64,1024", "0,0.5,1", num_needles=1), new_axes())
    ax.figure.canvas.draw()
    assert ax.get_xscale() == "symlog"
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["0", "4", "8", "16", "32", "64", "128", "256", "512", "1,024"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "0.5", "1"]


@pytest.mark.parametrize("outcome", [True, "out of memory"])
def test_one_time_has_one_tick(outcome):
    ax = retention_curves(make_run("8", "0.5", outcome=lambda c, k: outcome), new_axes())
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["4"]


def test_curves_that_coincide_are_all_seen():
    """Each is thinner than those that it is drawn over."""
    ax = retention_curves(make_run("8,16", "0,0.5,1"), new_axes())
    widths = [curve.lines[0].get_linewidth() for curve in ax.containers]
    assert len(widths) == 3 and all(a >= b + 1 for a, b in pairwise(widths))


def test_captions_name_the_controls_and_the_verdict():
    results = load_results(REFERENCE_RUN)
    (caption,) = [text.get_text() for text in retention_curves(results, new_axes()).texts]
    of_measure = resolve(results, "logprob").caption
    for line in controls_caption(results):
        assert line.replace(NO_BREAK, " ") in caption.split("\n")
        assert line in of_measure.split("\n")
    assert any(line.startswith("verdict: ") for line in controls_caption(results))
    assert "right answers with controls:" in of_measure, "they are no values of the measure"


def test_legend_names_some_of_many_curves():
    ax = retention_curves(make_run("64", "0:1:0.025", num_needles=1), new_axes())
    assert len(ax.containers) == 41
    assert len(ax.get_legend().get_texts()) == 11


def test_run_in_which_nothing_could_be_run_has_no_curve():
    ax = retention_curves(make_run("8,16", "0", outcome=lambda c, k: "out of memory"), new_axes())
    assert ax.containers == [] and ax.get_legend() is None
    said = "no points, as no sample could be run\n20 errors"
    assert [text.get_text() for text in ax.texts] == [said]
    assert ax.get_xlim()[1] > 15, "the times are on the axis"


def test_points_over_several_lengths_are_said_to_be_that():
    run = make_run("8,16,32", "0,1", outcome=lambda c, k: c.num_frames < 32)
    frame = retention(run)
    assert frame.query("depth == 1")[["seconds", "num_lengths", "num_samples"]].values.tolist() == [
        [0, 3, 30]
    ]
    assert set(frame.query("depth == 0")["num_lengths"]) == {1}
    text = retention_curves(run, new_axes()).texts[-1].get_text().replace("\n", " ")
    assert "depth 1 at 0 s: one point for 3 lengths, the mean over their samples" in text
    single = retention_curves(make_run("8,16", "0,0.5"), new_axes()).texts[-1].get_text()
    assert "one point for" not in single


def test_legend_has_marks_that_lines_do_not_hide():
    ax = retention_curves(make_run("8,16", "0:1:0.1"), new_axes())
    for line in ax.get_legend().get_lines():
        assert line.get_linewidth() < line.get_markersize() / 2 and line.get_marker() != "None"


def test_file_of_several_runs_is_the_same_every_time(tmp_path):
    runs = [make_run("8,16", "0,1"), make_run("8,64", positions="0,8")]
    path = save_retention_curves(runs, tmp_path / "a.svg", caption=False)
    again = save_retention_curves(runs, tmp_path / "b.svg", caption=False)
    assert path.read_bytes() == again.read_bytes()
    with pytest.raises(InputError, match="1 titles for 2 results"):
        save_retention_curves(runs, tmp_path / "c.svg", titles=["x"])
    with pytest.raises(InputError, match="no results to draw"):
        save_retention_curves([], tmp_path / "c.svg")
    with pytest.raises(ResultsError, match="needle_index"):
        save_retention_curves([load_results(PUBLISHED_DIR / "longva-7b_vniah.json")], path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.svg", "b.svg"]


def test_plot_of_retention(tmp_path, capsys):
    run = write_run(tmp_path / "run", "8,16", "0,1", num_needles=2)
    assert main(["plot", str(run), "--kind", "retention"]) == 0
    assert f"retention: {run / 'retention.png'}" in capsys.readouterr().out
    assert (run / "retention.png").read_bytes().startswith(b"\x89PNG")
    for option in (["--value", "logprob"], ["--training-length", "48"], ["--groups"]):
        assert main(["plot", str(run), "--kind", "retention", *option]) == 2
        message = f"{option[0]} is for pictures of the kinds heatmap, lengths; leave it out"
        assert message in capsys.readouterr().err
