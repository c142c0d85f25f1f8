"""Accuracy over checkpoints: what is drawn where, against the statistics."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from runs import make_run

from vniah.analysis.plot import checkpoint_curves, save_checkpoint_curves
from vniah.analysis.statistics.summary import summarize
from vniah.errors import InputError


def new_axes():
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def run_with(num_right, **options):
    return make_run(num_needles=10, outcome=lambda cell, k: k < num_right, **options)


def lines_of(ax):
    return [line for line in ax.lines if line.get_marker() not in ("None", "")]


def test_points_are_averages_at_the_last_numbers_of_the_names():
    line = [("run2-step-900", run_with(4)), ("run2-step-1000", run_with(7))]
    ax = checkpoint_curves({"film": line[::-1]}, new_axes())
    (drawn,) = lines_of(ax)
    assert drawn.get_xydata() == pytest.approx(np.array([(900, 0.4), (1000, 0.7)]))
    assert ax.get_xlabel() == "Step" and ax.get_legend() is None
    intervals = [summarize(run).needles_like_these.interval for _, run in line]
    ends = np.concatenate([path.vertices for band in ax.collections for path in band.get_paths()])
    for x, interval in zip((900, 1000), intervals, strict=True):
        ys = ends[ends[:, 0] == x, 1]
        assert (ys.min(), ys.max()) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("names", [("warm-1", "final"), ("a-5", "b-5"), ("first", "last")])
def test_names_without_steps_of_their_own_stand_side_by_side(names):
    line = [(name, run_with(number)) for number, name in enumerate(names)]
    ax = checkpoint_curves({"film": line}, new_axes())
    ax.figure.canvas.draw()
    assert list(lines_of(ax)[0].get_xdata()) == [0, 1]
    assert [label.get_text() for label in ax.get_xticklabels()] == list(names)
    assert ax.get_xlabel() == "Checkpoint"


def test_kinds_of_runs_and_the_baseline_are_in_the_legend():
    one, other = [("s-1", run_with(5)), ("s-2", run_with(6))], [("s-2", run_with(2))]
    ax = checkpoint_curves({"near": one, "far": other}, new_axes(), baseline=run_with(9))
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["near", "far", "tiny (baseline)"]
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert list(dotted[-1].get_ydata()) == [0.9, 0.9]


def test_runs_without_scores_or_with_missing_samples_are_drawn():
    part = make_run(outcome=lambda cell, k: None if cell.num_frames > 8 else True)
    errors = make_run(outcome=lambda cell, k: "oh")
    ax = checkpoint_curves({"x": [("1", part), ("2", errors), ("3", run_with(3))]}, new_axes())
    first = lines_of(ax)[0]
    assert np.array_equal(first.get_ydata(), [1.0, np.nan, 0.3], equal_nan=True)
    hollow = [line for line in lines_of(ax) if line.get_markerfacecolor() == "white"]
    assert list(hollow[0].get_xdata()) == [1]


@pytest.mark.parametrize("runs", [{}, {"a": []}, {str(k): [("1", None)] for k in range(99)}])
def test_what_cannot_be_drawn_is_one_line(runs):
    with pytest.raises(InputError, match="a picture of checkpoints has 1 to 28 lines"):
        checkpoint_curves(runs, new_axes())


def test_file_is_whole_and_hostile_names_are_text(tmp_path):
    names = ["$x_1$", "\x1b[2J", "名前", "a" * 80]
    line = [(name, run_with(number)) for number, name in enumerate(names)]
    path = save_checkpoint_curves({"$\\frac$": line, "b": line}, tmp_path / "new" / "curve.svg")
    assert "<svg" in path.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="cannot be saved as"):
        save_checkpoint_curves({"a": line}, Path("curve.txt"))
