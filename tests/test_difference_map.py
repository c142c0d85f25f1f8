"""Two runs cell by cell: what is compared, marked and drawn."""

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from runs import PUBLISHED_DIR, cell, make_run, write_run

from vniah.analysis.compare import compare
from vniah.analysis.compare.shared import compare_shared_cells
from vniah.analysis.palettes import CHANGE_COLORS
from vniah.analysis.plot import difference_map
from vniah.analysis.statistics.paired import paired_difference
from vniah.cli import main
from vniah.errors import CannotCompareError, InputError
from vniah.results import load_results

LONGVA = PUBLISHED_DIR / "longva-7b_vniah.json"
TEXT = PUBLISHED_DIR / "qwen2-7b-224k_niah_distractor0.json"


def falls(c, k):
    """All needles are lost in one cell, and half of them in another."""
    return (c.num_frames, c.depth) != (16, 1) and (k < 10 or (c.num_frames, c.depth) != (8, 0))


def rises(c, k):
    return (c.num_frames, c.depth) != (8, 1)


def test_changes_are_those_of_compare():
    before = make_run(num_needles=20, outcome=rises)
    after = make_run(num_needles=20, outcome=falls)
    shared = compare_shared_cells(before, after)
    assert shared.changes == compare(before, after, max_drop=1).changes
    assert shared.is_paired and not (shared.only_before or shared.only_after)
    assert shared.num_left_out == 0
    by_cell = {change.cell: change.p_value for change in shared.changes}
    # Exact McNemar tests of 20, 10 and 20 pairs, and Holm over the six cells.
    assert by_cell[cell(16, "1")] == by_cell[cell(8, "1")] == pytest.approx(6 * 0.5**20)
    assert by_cell[cell(8, "0")] == pytest.approx(5 * 0.5**10)
    assert shared.significant() == {cell(16, "1"), cell(8, "1"), cell(8, "0")}
    assert shared.significant(0.005) == {cell(16, "1"), cell(8, "1")}
    assert shared.can_be_significant() and shared.can_be_significant(1e-4)
    assert shared.difference() == paired_difference(before, after)
    assert shared.mean_change == pytest.approx(paired_difference(before, after).estimate)
    with pytest.raises(InputError, match="the level must be above 0 and below 1, got 5"):
        shared.significant(5)


def test_only_samples_with_two_scores_are_compared():
    def before(c, k):
        return "out of memory" if k == 0 and c.num_frames == 8 else True

    def after(c, k):
        if (c.num_frames, c.depth) == (16, 1):
            return "out of memory"
        return None if c.num_frames == 16 and k > 4 else k % 2 == 0

    one = make_run("8,16", "0,1", outcome=before)
    other = make_run("8,16,32", "0,1", outcome=after)
    shared = compare_shared_cells(one, other)
    numbers = {c.cell: (c.num_before, c.num_after, c.after) for c in shared.changes}
    assert numbers == {
        cell(8, "0"): (9, 9, pytest.approx(4 / 9)),
        cell(8, "1"): (9, 9, pytest.approx(4 / 9)),
        cell(16, "0"): (5, 5, pytest.approx(3 / 5)),
    }
    assert shared.only_before == {cell(16, "1")}
    assert shared.only_after == {cell(32, "0"), cell(32, "1")}
    assert shared.num_left_out == 2 + 5 + 10 + 20, "at 8 frames, at 16 in both cells, at 32"
    assert not shared.significant()
    assert shared.can_be_significant(), "nine falls in three cells: 3 / 2**9 is below 0.025"
    assert not shared.can_be_significant(0.01)


def test_runs_with_other_needles_are_compared_cell_by_cell():
    names = {"needles__sha256": "cc" * 32, "needles__ids": [f"other-{k}" for k in range(10)]}
    other = make_run("8,16", outcome=falls, **names)
    samples = tuple(
        replace(s, sample_id=s.sample_id.replace("needle", "other"), fields={"needle_id": f"o{k}"})
        for k, s in enumerate(other.samples)
    )
    shared = compare_shared_cells(make_run("8,16,32"), replace(other, samples=samples))
    assert not shared.is_paired and shared.difference() is None
    assert len(shared.changes) == 6 and len(shared.only_before) == 3
    assert shared.significant() == {cell(16, "1")}, "Fisher's test of 10 and 0 of 10, six cells"
    assert shared.can_be_significant()


def test_tables_are_compared_without_tests():
    table = load_results(LONGVA)
    worse = replace(
        table,
        published=tuple(replace(found, score=found.score / 2) for found in table.published[:-1]),
    )
    shared = compare_shared_cells(table, worse)
    assert len(shared.changes) == len(table.cells) - 1 and len(shared.only_before) == 1
    assert not shared.significant() and not shared.can_be_significant()
    assert shared.difference() is None and shared.mean_change < -0.4


def test_what_cannot_be_compared_is_refused_in_one_line():
    run = make_run("8", "0")
    for other, message in (
        (make_run("8", "0", haystack__sha256="dd" * 32), "the runs differ in haystack.sha256"),
        (make_run("16", "0"), "have no sample with a score in common"),
        (make_run("8", "0", outcome=lambda c, k: "oh"), "have no sample with a score in common"),
        (load_results(LONGVA), "is a published table"),
    ):
        with pytest.raises(CannotCompareError, match=message):
            compare_shared_cells(run, other)
    with pytest.raises(CannotCompareError, match="the runs differ in axis"):
        compare_shared_cells(load_results(LONGVA), load_results(TEXT))


# --- the picture ---------------------------------------------------------------------------------


def new_axes():
    figure = Figure(figsize=(5, 4))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def caption_of(ax):
    return ax.texts[-1].get_text().replace("\n", " ")


def columns_of(patch):
    return {int(corners[:, 0].min()) for corners in patch.get_path().to_polygons()}


def boxes(collection):
    """The columns and rows of the cells."""
    corners = [path.vertices for path in collection.get_paths()]
    return {(int(c[:, 0].min()), int(c[:, 1].min())) for c in corners}


def test_map_shows_changes_signs_and_frames():
    before = make_run(num_needles=20, outcome=rises)
    after = make_run(num_needles=20, outcome=falls)
    ax = new_axes()
    assert difference_map(before, after, ax) is ax
    cells, signs, frames = ax.collections[:3]
    places = [tuple(path.vertices.min(axis=0)) for path in cells.get_paths()]
    values = dict(zip(places, cells.get_array(), strict=True))
    changes = {
        (column, row): float(-change.drop)
        for change in compare_shared_cells(before, after).changes
        for column, row in [((8, 16).index(change.cell.num_frames), 2 * float(change.cell.depth))]
    }
    assert values == pytest.approx(changes)
    assert cells.get_clim() == (-1.0, 1.0)
    middles = [tuple(segment.mean(axis=0)) for segment in signs.get_segments()]
    assert sorted(middles) == [(0.5, 0.5), (0.5, 2.5), (0.5, 2.5), (1.5, 2.5)], "-, + and -"
    assert boxes(frames) == {(0, 0), (0, 2), (1, 2)}
    assert ax.get_title() == "tiny in runs/tiny (2)\nminus tiny in runs/tiny (1)"
    difference = paired_difference(before, after)
    low, high = difference.interval.low, difference.interval.high
    assert (
        f"mean change {difference.estimate:+.3f} over 6 cells, these needles on this film; needles "
        f"like these: {low:+.2f} to {high:+.2f} (95 %, 20 needles)" in caption_of(ax)
    )
    assert (
        "framed: p at most 0.025 in its direction (exact McNemar test, Holm over 6 cells)"
        in caption_of(ax)
    )


def test_both_names_are_cut_in_the_middle_and_grey_is_explained():
    run = make_run()
    long = [replace(run, name=f"{'a-very-long-name-' * 20}step-{k}00") for k in (4, 9)]
    ax = difference_map(*long, new_axes())
    title = ax.get_title().replace("\n", "")
    assert re.search("step-900minus.*step-400$", title) and title.count("\u2026") == 2
    assert "light grey: no change" in caption_of(ax)
    lost = make_run(outcome=lambda c, k: False)
    assert "light grey" not in caption_of(difference_map(run, lost, new_axes()))


def test_cells_of_one_run_only_are_dotted_and_counted():
    ax = difference_map(make_run("8,16"), make_run("16,32", outcome=falls), new_axes())
    assert {path.vertices[:, 0].min() for path in ax.collections[0].get_paths()} == {1}
    (dotted,) = ax.patches
    assert dotted.get_hatch() == "...."
    assert columns_of(dotted) == {0, 2}, "the first and the last"
    assert "only the first or only the second has a score (3 and 3)" in caption_of(ax)
    assert "60 samples left out" in caption_of(ax)


def test_caption_says_what_cannot_be_tested():
    before, after = make_run(num_needles=3), make_run(num_needles=3, outcome=lambda c, k: k > 0)
    ax = difference_map(before, after, new_axes())
    assert "with 3 samples a cell no change can be significant" in caption_of(ax)
    assert "no cell changed" in caption_of(difference_map(before, before, new_axes()))
    table = load_results(LONGVA)
    cells = tuple(replace(found, score=found.score / 2) for found in table.published)
    ax = difference_map(table, replace(table, published=cells), new_axes())
    assert "not tested, as published tables have no samples" in caption_of(ax)
    shared = [
        replace(run, samples=tuple(replace(s, fields={"needle_ids": "ab"}) for s in run.samples))
        for run in (before, after)
    ]
    assert "not tested, as samples share needles" in caption_of(difference_map(*shared, new_axes()))


def test_large_maps_have_stripes_on_falls_in_place_of_signs():
    frames = "1:50:1"
    before = make_run(frames, "0,1", num_needles=1, outcome=lambda c, k: c.num_frames > 9)
    after = make_run(frames, "0,1", num_needles=1, outcome=lambda c, k: c.num_frames < 40)
    ax = difference_map(before, after, new_axes())
    assert not [one for one in ax.collections if isinstance(one, LineCollection)]
    (stripes,) = ax.patches
    assert columns_of(stripes) == set(range(39, 50)), "from 40 frames on"
    assert "striped: fell" in caption_of(ax)


def test_positions_are_drawn_at_their_depths():
    runs = [make_run("8,16", positions="0,8", outcome=lambda c, k, n=n: k < n) for n in (10, 4)]
    ax = difference_map(*runs, new_axes())
    assert ax.get_ylim() == (1.0, 0.0)
    assert len(ax.collections[0].get_paths()) == 4
    np.testing.assert_allclose(ax.collections[0].get_array(), -0.6)


def test_colours_of_changes_are_as_light_on_both_sides():
    colors = np.array([to_rgb(color) for color in CHANGE_COLORS])
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    np.testing.assert_allclose(lightness, lightness[::-1], atol=0.3)
    assert (np.diff(lightness[:6]) > 9).all()


def test_limit_of_the_colours_can_be_given():
    run, other = make_run(), make_run(outcome=lambda c, k: k > 0)
    assert difference_map(run, other, new_axes()).collections[0].get_clim() == (-0.2, 0.2)
    given = difference_map(run, other, new_axes(), limit=0.5)
    assert given.collections[0].get_clim() == (-0.5, 0.5)
    with pytest.raises(InputError, match="the limit of a change must be above 0"):
        difference_map(run, other, new_axes(), limit=0)


def test_plot_of_a_difference(tmp_path, capsys):
    runs = [str(write_run(tmp_path / name, "8,16", "0", num_needles=2)) for name in ("a", "b")]
    output = tmp_path / "difference.svg"
    assert main(["plot", *runs, "--kind", "difference", "--output", str(output)]) == 0
    assert f"difference: {output}" in capsys.readouterr().out
    assert main(["plot", runs[0], "--kind", "difference"]) == 2
    assert "is of exactly 2 results, got 1" in capsys.readouterr().err
    assert main(["plot", *runs, "--kind", "difference", "--by", "needle_id"]) == 2
    assert "--by is for pictures of the kinds" in capsys.readouterr().err
