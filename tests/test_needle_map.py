"""A row for each needle: what is drawn against the samples."""

from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from runs import PUBLISHED_DIR, make_run, write_run

from vniah.analysis.plot import needle_map, panels, save_needle_maps
from vniah.analysis.plot.needles import resolve_needles
from vniah.analysis.plot.table import resolve
from vniah.analysis.table_rows import needle_rows
from vniah.cli import main
from vniah.errors import ResultsError
from vniah.results import load_results


def new_axes():
    figure = Figure(figsize=(4, 4))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def uneven(cell, k):
    """The first needles are easier; one has errors, and one has none but errors at 16 frames."""
    if k == 4 and cell.num_frames == 16:
        return "out of memory"
    if k == 3 and (cell.num_frames, cell.depth) == (8, 0):
        return "out of memory"
    return k == 0 or cell.num_frames * (cell.depth + 1) < 40 / k


def test_cells_are_means_over_depths_with_the_hardest_needle_on_top():
    run = make_run("8,16,32", "0,0.5,1", num_needles=5, outcome=uneven)
    found = resolve_needles(run)
    expected = {}
    for k, name in enumerate(found.names):
        for column, length in enumerate(found.table.frames):
            some = [
                s.correct
                for s in run.samples
                if s.needle_id == name and s.cell.num_frames == length and s.correct is not None
            ]
            expected[k, column] = fmean(some) if some else np.nan
    for (row, column), score in expected.items():
        assert found.table.values[row, column] == pytest.approx(score, nan_ok=True)
    means = [np.nanmean(row) for row in found.table.values]
    assert means == sorted(means) and found.names[-1] == "needle-0"
    assert set(found.names) == {row["needle"] for row in needle_rows(run)}
    row = found.names.index("needle-4")
    assert np.argwhere(found.table.failed).tolist() == [[row, 1]]
    assert np.argwhere(found.table.partial).tolist() == [[found.names.index("needle-3"), 0]]


def test_map_is_drawn_with_the_names_of_the_needles():
    run = make_run("8,16,32", "0,0.5,1", num_needles=5, outcome=uneven)
    found, ax = resolve_needles(run), new_axes()
    assert needle_map(run, ax) is ax
    drawn = ax.collections[0].get_array()
    np.testing.assert_allclose(drawn.filled(np.nan).reshape(5, 3), found.table.values)
    assert ax.collections[0].get_clim() == (0.0, 1.0)
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_yticklabels()] == list(found.names)
    assert ax.get_ylabel() == "Needle"
    caption = ax.texts[-1].get_text().replace("\n", " ")
    assert "the mean over depths of one needle on this film, n = 2-3; hardest on top" in caption


def test_lengths_and_needles_without_samples_are_blank():
    run = make_run("8,16,32", "0", num_needles=2, outcome=lambda c, k: k > 0 or None)
    assert resolve_needles(run).names == ("needle-1",)
    half = make_run("8,16,32", "0", num_needles=2, outcome=lambda c, k: c.num_frames < 32 or None)
    table = resolve_needles(half).table
    assert table.frames == (8, 16, 32) and np.isnan(table.values[:, 2]).all()
    broken = make_run("8", "0", num_needles=1, outcome=lambda c, k: "oh")
    ax = needle_map(broken, new_axes())
    assert "no sample could be run\n1 error" in [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(
    ("outcome", "missing"),
    [
        (lambda c, k: True, ""),
        (lambda c, k: "oh" if c.num_frames == 16 and k else True, "\n2 errors"),
        (lambda c, k: None if c.num_frames == 16 and k else True, "\n6 of 8 samples have been run"),
        (lambda c, k: (True, "oh")[k] if c.depth else None, "\n2 errors, 4 of 8 samples"),
    ],
)
def test_caption_says_how_many_samples_are_missing_as_that_of_the_heatmap_does(outcome, missing):
    run = make_run("8,16", "0,1", num_needles=2, outcome=outcome)
    caption = resolve_needles(run).table.caption
    assert missing in caption and ("\n" in caption) == bool(missing)
    assert caption.partition("\n")[2] in resolve(run).caption


def test_names_may_hold_anything_and_are_cut_where_they_are_long():
    run = make_run("8", "0", num_needles=2)
    names = {"needle-0": "\u202e$x_1$\x1b[2J <b>", "needle-1": "first-" + "long-" * 60 + "last"}
    samples = tuple(
        replace(s, fields={**s.fields, "needle_id": names[s.needle_id]}) for s in run.samples
    )
    ax = needle_map(replace(run, samples=samples), new_axes())
    ax.figure.canvas.draw()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert any(label.startswith("first-") and label.endswith("last") for label in labels)
    assert any("\\u202e" in label for label in labels)
    assert all(len(label) < 40 for label in labels)


def test_names_with_dollar_signs_are_no_mathematics():
    run = make_run("8", "0", num_needles=2)
    names = {"needle-0": "a$_$b", "needle-1": "price-$5-or-$6"}
    samples = tuple(
        replace(s, fields={**s.fields, "needle_id": names[s.needle_id]}) for s in run.samples
    )
    run = replace(run, samples=samples)
    ax = needle_map(run, new_axes())
    ax.figure.canvas.draw()  # would raise
    shown = {label.get_text().replace(r"\$", "$") for label in ax.get_yticklabels()}
    assert shown == set(names.values())
    assert all(r"\$" in label.get_text() for label in ax.get_yticklabels())


def test_run_that_does_not_tell_needles_apart_is_refused():
    run = make_run("8", "0")
    shared = tuple(replace(s, fields={"needle_ids": ["a", "b"]}) for s in run.samples)
    for odd in (replace(run, samples=shared), load_results(PUBLISHED_DIR / "longva-7b_vniah.json")):
        with pytest.raises(ResultsError, match="does not say how each needle did"):
            needle_map(odd, new_axes())


def test_file_of_needles_keeps_the_height_of_its_rows(tmp_path):
    sizes = {}
    for num in (3, 30):
        run = make_run("8,16", "0", num_needles=num)
        path = save_needle_maps([run], tmp_path / f"{num}.png", width=3.0, caption=False)
        with Image.open(path) as picture:
            sizes[num] = picture.size
    assert sizes[3][0] == sizes[30][0] == 900
    assert sizes[30][1] - sizes[3][1] > 300 * 0.12 * 22, "the rows above the least height"


def test_titles_have_the_room_of_the_names_and_end_where_the_axes_do(tmp_path, monkeypatch):
    boxes = []

    def keep(figure, path, **options):
        figure.canvas.draw()
        boxes.extend(
            (ax.title.get_window_extent(), ax.bbox, ax.get_tightbbox()) for ax in figure.axes[:2]
        )

    monkeypatch.setattr(panels, "write_figure", keep)
    run = make_run("8,16", "0", num_needles=2)
    titles = ["a title that is much wider than the axes of one panel"] * 2
    save_needle_maps([run] * 2, tmp_path / "picture.svg", titles=titles, width=4.6)
    for title, axes, whole in boxes:
        assert title.width > axes.width, "it has the room of the names, too"
        assert whole.x0 - 2 <= title.x0 and title.x1 <= axes.x1 + 2
    assert boxes[0][0].x1 < boxes[1][0].x0


def test_plot_of_needles(tmp_path, capsys):
    run = write_run(tmp_path / "run", "8,16", "0,1", num_needles=2)
    assert main(["plot", str(run), "--kind", "needles"]) == 0
    assert f"needles: {run / 'needles.png'}" in capsys.readouterr().out
    assert main(["plot", str(run), "--kind", "needles", "--value", "logprob"]) == 2
    assert "--value is for pictures of the kinds heatmap, lengths" in capsys.readouterr().err
