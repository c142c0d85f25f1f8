"""Controls beside the map: what is drawn against the tables."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from runs import PUBLISHED_DIR, make_run, make_sample, write_run

from vniah.analysis.plot import control_names, control_picture, save_controls
from vniah.analysis.plot.controls import control_series, control_table
from vniah.analysis.table_rows import control_rows
from vniah.analysis.verdict import verdict
from vniah.cli import main
from vniah.errors import InputError, ResultsError
from vniah.results import load_results


def new_axes():
    figure = Figure(figsize=(4, 3))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def with_controls(broken=()):
    """A run with a control along the lengths, one without video, and one with cells."""
    run = make_run("8,16", "0,1", controls=["no-needle", "blind", "other-needle"])
    samples = []
    for k in range(10):
        for length in (8, 16, None):
            name = "blind" if length is None else "no-needle"
            outcome = "out of memory" if (name, length) in broken else k < (length or 4) // 4
            one = make_sample(run.cells[0].cell, k, outcome)
            fields = {"num_frames": length, "needle_id": f"needle-{k}"}
            where = "-" if length is None else f"{length}/-"
            sample_id = f"{where}/needle-{k}/{name}"
            samples.append(
                replace(one, cell=None, control=name, fields=fields, sample_id=sample_id)
            )
        for found in run.cells:
            one = make_sample(found.cell, k, k < found.cell.num_frames // 8)
            sample_id = f"{one.sample_id}/other-needle"
            samples.append(replace(one, control="other-needle", sample_id=sample_id))
    return replace(run, control_samples=tuple(samples))


def caption_of(ax):
    return ax.texts[-1].get_text().replace("\n", " ")


def test_control_without_cells_is_a_line_with_its_interval():
    run = with_controls()
    assert control_names(run) == ("no-needle", "blind", "other-needle")
    ax = new_axes()
    assert control_picture(run, "no-needle", ax) is ax
    rows = [row for row in control_rows(run) if row["control"] == "no-needle"]
    series = control_series(run, "no-needle")
    assert list(series.lengths) == [8, 16]
    assert series.values.tolist() == [row["score"] for row in rows] == [0.2, 0.4]
    assert series.low.tolist() == [row["low"] for row in rows]
    drawn = [[tuple(p) for p in line.get_xydata()] for line in ax.lines]
    assert [(8, 1.0), (16, 1.0)] in drawn, "the test"
    assert [(8, 0.2), (16, 0.4)] in drawn
    assert [(8, rows[0]["high"]), (16, rows[1]["high"])] in drawn
    assert ax.get_title() == "no-needle\n0.30 right"
    assert "n = 20; line: these needles on this film, band: 95 % for needles like" in caption_of(ax)
    (said,) = (one.summary for one in verdict(run).findings if one.control == "no-needle")
    assert said in caption_of(ax)


def test_control_without_a_video_is_level():
    run = with_controls()
    series = control_series(run, "blind")
    assert series.lengths == (8, 16) and series.values.tolist() == [0.1, 0.1]
    ax = control_picture(run, "blind", new_axes())
    assert "nothing is shown, so the same at all lengths; n = 10" in caption_of(ax)


def test_control_with_cells_is_a_map_of_its_own_samples():
    run = with_controls()
    table = control_table(run, "other-needle")
    np.testing.assert_allclose(table.values, [[0.1, 0.2], [0.1, 0.2]])
    ax = control_picture(run, "other-needle", new_axes())
    np.testing.assert_allclose(ax.collections[0].get_array().ravel(), [0.1, 0.2, 0.1, 0.2])
    assert ax.get_title() == "other-needle\n0.15 right"
    assert control_table(run, "no-needle") is None


def test_errors_of_controls_are_counted():
    run = with_controls(broken={("no-needle", 16), ("blind", None)})
    ax = control_picture(run, "no-needle", new_axes())
    assert "10 errors" in caption_of(ax) and "n = 10;" in caption_of(ax)
    ax = control_picture(run, "blind", new_axes())
    assert ax.get_title() == "blind\nno sample could be run"


def test_what_is_no_control_of_the_run_is_refused():
    with pytest.raises(ResultsError, match="has no control 'shuffled'; it has no-needle, blind, o"):
        control_picture(with_controls(), "shuffled", new_axes())
    for odd in (make_run(), load_results(PUBLISHED_DIR / "longva-7b_vniah.json")):
        with pytest.raises(ResultsError, match="has no control 'blind'; it has none"):
            control_picture(odd, "blind", new_axes())
        with pytest.raises(ResultsError, match="has no samples of controls"):
            save_controls(odd, "x.png")


def test_file_has_a_panel_for_the_map_and_for_each_control(tmp_path):
    text = save_controls(with_controls(), tmp_path / "a.svg", width=6.7).read_text()
    for name in ("tiny", "no-needle", "blind", "other-needle"):
        assert f"<!-- {name} -->" in text
    assert text.count("<!-- Accuracy -->") == 1, "one colour bar"
    with pytest.raises(InputError, match="the palette must be"):
        save_controls(with_controls(), tmp_path / "b.svg", palette="x")
    assert not (tmp_path / "b.svg").exists()


def test_plot_of_controls(tmp_path, capsys):
    run = write_run(tmp_path / "run", "8", "0", num_needles=1)
    assert main(["plot", str(run), "--kind", "controls"]) == 2
    assert "has no samples of controls; give a run with controls" in capsys.readouterr().err
    assert main(["plot", str(run), str(run), "--kind", "controls"]) == 2
    assert "is of exactly 1 result, got 2" in capsys.readouterr().err
