import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image
from runs import PUBLISHED_DIR, make_run

from vniah.analysis.labels import result_labels, rope_remarks
from vniah.analysis.palettes import SAFE_COLORS
from vniah.analysis.plot import (
    COLORS,
    heatmap,
    heatmaps,
    panels,
    save_heatmaps,
    save_needle_maps,
    save_retention_curves,
)
from vniah.analysis.plot.axes import evenly_thinned
from vniah.analysis.plot.typesetting import NO_BREAK
from vniah.errors import InputError, ResultsError
from vniah.grid import Cell, Grid
from vniah.results import CellScore, Results, load_results

LONGVA = PUBLISHED_DIR / "longva-7b_vniah.json"
QWEN = PUBLISHED_DIR / "qwen2-7b-224k_niah_distractor0.json"


def new_axes(width=8.0, height=4.0):
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def tick_labels(axis):
    axis.axes.figure.canvas.draw()
    return [label.get_text() for label in axis.get_ticklabels() if label.get_text()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def table(frames, depths=("0",), score=1.0, axis="frames"):
    cells = tuple(CellScore(Cell(n, Fraction(d)), score, None) for n in frames for d in depths)
    return Results("table", LONGVA, {}, published=cells, axis=axis)


def test_heatmap_gives_back_the_axes_it_was_given():
    ax = new_axes()
    assert heatmap(make_run(), ax) is ax
    assert tuple(ax.figure.get_size_inches()) == (8.0, 4.0)


def test_heatmap_draws_the_scores_with_depth_downwards():
    results = make_run("8,16,32", "0,1", outcome=lambda c, k: k < c.num_frames // 8 + 5 * c.depth)
    ax = heatmap(results, new_axes())
    np.testing.assert_allclose(
        ax.collections[0].get_array().filled(np.nan).reshape(2, 3),
        [[0.1, 0.2, 0.4], [0.6, 0.7, 0.9]],
    )
    bottom, top = ax.get_ylim()
    assert bottom > top
    assert tick_labels(ax.yaxis) == ["0", "1"]
    assert tick_labels(ax.xaxis) == ["8", "16", "32"]


@pytest.mark.parametrize(
    ("score", "palette", "color"),
    [
        *((score, "published", COLORS[k]) for k, score in enumerate((0.0, 0.5, 1.0))),
        *((k / 10, "safe", color) for k, color in enumerate(SAFE_COLORS)),
    ],
)
def test_heatmap_colors_are_fixed_to_scores(score, palette, color):
    ax = heatmap(table([200], score=score), new_axes(), palette=palette)
    ax.figure.canvas.draw()
    assert ax.collections[0].get_facecolor()[0] == pytest.approx(to_rgba(color), abs=0.01)
    assert ax.collections[0].get_clim() == (0.0, 1.0)


def test_heatmap_leaves_cells_blank_when_they_are_missing_or_have_errors_only():
    def outcome(c, k):
        if c.num_frames == 16 and c.depth == 0:
            return "out of memory"
        return None if c.num_frames == 32 else k > 0

    ax = heatmap(make_run("8,16,32", "0,1", outcome=outcome), new_axes())
    blank = np.ma.getmaskarray(ax.collections[0].get_array()).reshape(2, 3)
    assert blank.tolist() == [[False, True, True], [False, False, True]]


def test_heatmap_when_nothing_was_measured_is_blank():
    ax = heatmap(make_run("8,16", "0,1", outcome=lambda c, k: None), new_axes())
    assert np.ma.getmaskarray(ax.collections[0].get_array()).all()
    assert texts(ax) == ["0 of 40 samples have been run"]
    assert ax.get_title() == "tiny"


@pytest.mark.parametrize(
    ("outcome", "caption"),
    [
        (lambda c, k: True, ["n = 10 per cell"]),
        (lambda c, k: "oh" if k < 2 and c.depth else True, ["n = 8-10 per cell, 4 errors"]),
        (lambda c, k: "oh" if k < 1 and c == Cell(8, Fraction(1)) else True, None),
        (lambda c, k: "oh" if c.depth else True, ["n = 10 per cell, 20 errors"]),
        (
            lambda c, k: None if c.depth else True,
            ["n = 10 per cell, 20 of 40 samples have been run"],
        ),
    ],
)
def test_heatmap_caption_says_what_is_behind_a_cell(outcome, caption):
    ax = heatmap(make_run("8,16", "0,1", outcome=outcome), new_axes())
    assert [text.split("\n")[0] for text in texts(ax)] == (
        caption or ["n = 9-10 per cell, 1 error"]
    )


def test_heatmap_caption_names_both_questions_about_the_needles():
    ax = heatmap(load_results(PUBLISHED_DIR.parent / "reference-short"), new_axes(12))
    assert texts(ax)[0].split("\n")[:3] == [
        "n = 10 per cell",
        "average: of these needles; for needles like these 0.31 to 0.39 (95 %, 10 needles)",
        "effective length (score \u2265 0.9): 32 frames with these needles, with needles like "
        "these \u2264 32",
    ]
    few = heatmap(make_run("8", "0", num_needles=2), new_axes(12))
    assert "(95 %, 2 needles, too few to know it to 0.1)" in texts(few)[0]


def test_heatmap_of_a_published_table():
    ax = heatmap(load_results(LONGVA), new_axes(12))
    assert texts(ax) == ["effective length (score \u2265 0.9): 2,200 frames"]
    assert ax.get_title() == "longva-7b_vniah\naverage 0.9089"
    assert tick_labels(ax.yaxis) == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert tick_labels(ax.xaxis)[:6] == ["200", "400", "600", "800", "1,000", "1,200"]
    assert ax.get_xlabel() == "Number of frames"
    assert np.mean(ax.collections[0].get_array()) == pytest.approx(0.9089, abs=5e-5)


def test_heatmap_of_a_published_text_table():
    ax = heatmap(load_results(QWEN), new_axes(12))
    assert tick_labels(ax.xaxis) == [f"{32 * k},000" for k in range(1, 17)]
    assert ax.get_xlabel() == "Context length (tokens)"


@pytest.mark.parametrize(
    ("frames", "labels"),
    [
        ((200, 1000), ["200", "1,000"]),
        ((100, 12000), ["100", "12,000"]),
        ((50, 1000), ["50", "1,000"]),
        ((250, 500), ["250", "500"]),
        ((1000, 1001), ["1,000", "1,001"]),
        ((1, 131072), ["1", "131,072"]),
    ],
)
def test_heatmap_labels_of_frames_are_exact(frames, labels):
    assert tick_labels(heatmap(table(frames), new_axes()).xaxis) == labels


@pytest.mark.parametrize(
    ("depth", "label"),
    [
        ("0", "0"),
        ("0.05", "0.05"),
        ("0.125", "0.125"),
        ("0.333", "0.333"),
        ("1/3", "1/3"),
        ("0.29", "0.29"),
        ("0.30000000000000004", "0.3"),
        ("1", "1"),
    ],
)
def test_heatmap_labels_of_depths_are_exact(depth, label):
    assert tick_labels(heatmap(table([8], [depth]), new_axes()).yaxis) == [label]


@pytest.mark.parametrize(("width", "height"), [(2.5, 2), (4, 3), (8, 4), (20, 12)])
@pytest.mark.parametrize("frames", ["8:400:8", "200:6000:200", "100000:100039:1"])
def test_heatmap_labels_never_overlap(width, height, frames):
    ax = new_axes(width, height)
    heatmap(make_run(frames, "0:1:0.025", num_needles=1, outcome=lambda c, k: None), ax)
    labels = tick_labels(ax.xaxis)
    assert labels and len(labels) <= 50
    last = ax.xaxis.get_major_formatter().seq[-1]
    assert labels[-1] == last, "the longest is what is asked for"
    for axis, side in ((ax.xaxis, 0), (ax.yaxis, 1)):
        ticks = axis.get_ticklabels()
        boxes = sorted(label.get_window_extent().get_points()[:, side].tolist() for label in ticks)
        assert all(end < start for (_, end), (start, _) in pairwise(boxes))


def test_heatmap_labels_are_thinned_anew_when_the_figure_grows():
    ax = heatmap(table(range(200, 8200, 200)), new_axes(4))
    few = tick_labels(ax.xaxis)
    ax.figure.set_size_inches(30, 4)
    many = tick_labels(ax.xaxis)
    assert len(few) < len(many) == 40
    step = many[::-1].index(few[-2])
    assert few == many[::-step][::-1] and few[-1] == "8,000"


@pytest.mark.parametrize(
    ("count", "least", "kept"),
    [
        (0, 1, []),
        (1, 1, [0]),
        (10, 1, list(range(10))),
        (10, 2, [0, 3, 6, 9]),  # both ends have a label, with a step that is a little larger
        (11, 2, [0, 2, 4, 6, 8, 10]),
        (12, 2, [1, 3, 5, 7, 9, 11]),  # no such step leads from the first to the last
        (12, 4, [3, 7, 11]),
        (10, 4, [1, 5, 9]),  # with both ends there would be no other
        (100, 12, [0, 33, 66, 99]),
        (12, 6, [0, 11]),
        (2, 2, [1]),
    ],
)
def test_labels_of_even_places_are_even(count, least, kept):
    found = evenly_thinned(range(count), lambda one, other: other - one >= least)
    assert list(found) == kept


def training_lines(ax):
    return [line for line in ax.lines if line.get_linestyle() == ":"]


@pytest.mark.parametrize(
    ("training_frames", "position"),
    [
        (200, 0.5),
        (300, 1.0),
        (400, 1.5),
        (700, 2.0),
        (850, 2.25),
        (1000, 2.5),
    ],
)
def test_heatmap_training_line_lies_between_uneven_columns(training_frames, position):
    ax = heatmap(table((200, 400, 1000)), new_axes(), training_frames=training_frames)
    (line,) = training_lines(ax)
    assert line.get_xdata() == pytest.approx([position, position])
    assert texts(ax)[0] == "training length"


@pytest.mark.parametrize("training_frames", [None, 199.9, 1000.1, float("nan")])
def test_heatmap_training_line_is_not_drawn_outside_of_the_columns(training_frames):
    ax = heatmap(table((200, 400, 1000)), new_axes(), training_frames=training_frames)
    assert training_lines(ax) == []
    assert not any("training" in text for text in texts(ax))


@pytest.mark.parametrize(("title", "drawn"), [("a $b$ c", "a $b$ c"), ("", "")])
def test_heatmap_title_is_what_was_given(title, drawn):
    ax = heatmap(make_run(), new_axes(), title=title)
    assert ax.get_title() == drawn
    ax.figure.canvas.draw()


@pytest.mark.parametrize(("colorbar", "num_axes"), [(True, 2), (False, 1)])
def test_heatmap_colorbar_when_asked_for(colorbar, num_axes):
    ax = heatmap(make_run(), new_axes(), colorbar=colorbar)
    assert len(ax.figure.axes) == num_axes


# --- grids of positions --------------------------------------------------------------------------


def spans_and_scores(ax):
    """Per column, from where to where each cell reaches, and its score (None: blank)."""
    cells = ax.collections[0]
    columns = {}
    for path, score in zip(cells.get_paths(), cells.get_array().filled(np.nan), strict=True):
        (left, top), (right, bottom) = path.vertices.min(0), path.vertices.max(0)
        assert right == left + 1
        score = None if np.isnan(score) else round(float(score), 6)
        span = (round(float(top), 6), round(float(bottom), 6), score)
        columns.setdefault(int(left), []).append(span)
    return columns


def test_heatmap_of_positions_has_the_depths_of_each_column():
    run = make_run("4,8", positions="0,4,8", outcome=lambda c, k: k < c.num_frames - c.needle_index)
    ax = heatmap(run, new_axes())
    assert spans_and_scores(ax) == {
        0: [(0.0, 0.5, 0.4), (0.5, 1.0, 0.0)],
        1: [(0.0, 0.25, 0.8), (0.25, 0.75, 0.4), (0.75, 1.0, 0.0)],
    }
    assert ax.get_xlim() == (0, 2)
    assert ax.get_ylim() == (1, 0)


@pytest.mark.parametrize(
    ("num_frames", "positions", "borders"),
    [
        (8, "0", [0, 1]),
        (8, "3", [0, 1]),
        (8, "3,5", [0.25, 0.5, 0.75]),
        (10, "0,4,8", [0, 0.2, 0.6, 1]),  # the next would be beyond the end
        (16, "0,4,8", [0, 0.125, 0.375, 0.625]),  # 12 was not measured
        (16, "8,12,16", [0.375, 0.625, 0.875, 1]),
        (10, "0,1,5,10", [0, 0.05, 0.3, 0.75, 1]),
    ],
)
def test_heatmap_of_positions_borders_lie_midway(num_frames, positions, borders):
    ax = heatmap(make_run(str(num_frames), positions=positions), new_axes())
    spans = [(top, bottom) for top, bottom, _ in spans_and_scores(ax)[0]]
    assert spans == [pytest.approx(pair) for pair in pairwise(borders)]


def test_heatmap_of_positions_leaves_cells_blank_when_there_is_no_score():
    def outcome(c, k):
        if c.needle_index == 4:
            return "out of memory"
        return None if c.num_frames == 4 else True

    ax = heatmap(make_run("4,8", positions="0,4,8", outcome=outcome), new_axes())
    scores = {k: [s for *_, s in cells] for k, cells in spans_and_scores(ax).items()}
    assert scores == {0: [None, None], 1: [1.0, None, 1.0]}
    ax.figure.canvas.draw()
    assert ax.collections[0].get_facecolor()[0][3] == 0
    assert texts(ax)[0].startswith("n = 10 per cell, 20 errors, 40 of 50 samples have been run\n")


def test_heatmap_of_positions_looks_like_one_of_depths():
    depths = heatmap(make_run("4,8", "0,0.5,1"), new_axes())
    positions = heatmap(make_run("4,8", positions="0,4,8"), new_axes(), training_frames=6)
    for ax in (depths, positions):
        ax.figure.canvas.draw()
    ours, theirs = positions.collections[0], depths.collections[0]
    assert ours.get_clim() == theirs.get_clim() == (0.0, 1.0)
    assert ours.get_facecolor()[0] == pytest.approx(theirs.get_facecolor()[0])
    assert tuple(ours.get_edgecolor()[0]) == to_rgba("white")
    assert set(ours.get_linewidth()) == set(theirs.get_linewidth()) == {0.8}
    bars = [ax.figure.axes[1] for ax in (depths, positions)]
    assert bars[0].get_ylabel() == bars[1].get_ylabel() == "Accuracy"
    assert bars[0].get_yticks().tolist() == bars[1].get_yticks().tolist()
    for axis in ("x", "y"):
        assert getattr(depths, f"get_{axis}label")() == getattr(positions, f"get_{axis}label")()
    assert tick_labels(positions.xaxis) == ["4", "8"]
    assert tick_labels(positions.yaxis) == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert list(positions.yaxis.get_majorticklocs()) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    (line,) = training_lines(positions)
    assert line.get_xdata() == pytest.approx([1.0, 1.0])


def test_heatmap_of_positions_has_fewer_depth_labels_when_it_is_small():
    ax = heatmap(make_run("4,8", positions="0,4,8"), new_axes(3, 0.9))
    assert tick_labels(ax.yaxis) == ["0.2", "0.6", "1"]


def test_heatmap_of_positions_draws_no_lines_between_very_thin_cells():
    ax = heatmap(make_run("40,400", positions="0:400:1", num_needles=1), new_axes())
    assert list(ax.collections[0].get_linewidth()) == [0.8] * 41 + [0.0] * 401


def test_heatmap_of_positions_without_colorbar():
    ax = heatmap(make_run("4,8", positions="0,4"), new_axes(), colorbar=False)
    assert ax.figure.axes == [ax]


def test_save_heatmaps_of_positions_beside_depths(tmp_path):
    runs = [make_run("4,8", positions="0,4,8"), make_run()]
    svg = save_heatmaps(runs, tmp_path / "a.svg", caption=False)
    assert svg.read_bytes() == save_heatmaps(runs, tmp_path / "b.svg", caption=False).read_bytes()
    assert svg.read_text().count("<!-- 0.5 -->") == 1, "the second one has depths of its own"


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "magic"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")]
)
def test_save_heatmaps_by_suffix_gives_the_same_bytes_twice(tmp_path, name, magic):
    path = tmp_path / "new" / name
    assert save_heatmaps([make_run()], path) == path
    assert path.read_bytes().startswith(magic)
    assert [entry.name for entry in path.parent.iterdir()] == [name]
    assert save_heatmaps([make_run()], tmp_path / name).read_bytes() == path.read_bytes()


def pixel_size(path):
    with Image.open(path) as image:
        return image.size


def test_save_heatmaps_draws_several_in_one_file(tmp_path):
    longva = load_results(LONGVA)
    one = pixel_size(save_heatmaps([longva], tmp_path / "1.png", caption=False))
    three = pixel_size(save_heatmaps([longva] * 3, tmp_path / "3.png", caption=False))
    assert one[0] < three[0] < 2 * one[0], "they share the colour bar and the labels"
    assert one[1] < three[1] <= 2 * one[1]


@pytest.mark.parametrize("frames", ["1", "8:400:8"])
def test_save_heatmaps_stays_in_a_sensible_size(tmp_path, frames):
    run = make_run(frames, "0:1:0.02", num_needles=1)
    width, height = pixel_size(save_heatmaps([run], tmp_path / "a.png"))
    assert 600 <= width <= 2400
    assert 500 <= height <= 2000


def dotted_line_share(svg):
    """Where the dotted line stands between the left and the right edge of the axes."""
    (line,) = re.findall(r'<path d="M ([0-9.]+) [^"]*"[^>]*stroke-dasharray', svg)
    left, right = re.search(
        r'id="axes_1">\s*<g id="patch_\d+">\s*<path d="M ([0-9.]+) \S+\s+L ([0-9.]+)', svg
    ).groups()
    return (float(line) - float(left)) / (float(right) - float(left))


@pytest.mark.parametrize(
    ("results", "options"),
    [
        (table((200, 400)), {"training_tokens": 43200, "tokens_per_frame": 144}),
        (make_run("8,16", "0"), {"training_tokens": 48}),  # the manifest says 4 tokens a frame
        (table((32000, 64000), axis="tokens"), {"training_tokens": np.int64(48000)}),
    ],
)
def test_save_heatmaps_draws_the_training_length_in_the_middle(tmp_path, results, options):
    svg = save_heatmaps([results], tmp_path / "a.svg", **options).read_text()
    assert dotted_line_share(svg) == pytest.approx(0.5, abs=1e-4)


def test_tokens_of_a_frame_are_for_results_that_do_not_say_it(tmp_path):
    run, other, path = make_run("8,16", "0"), table((200, 400)), tmp_path / "a.svg"
    pairs = replace(table((200, 400)), unit=2, frame_tokens=72)
    look = {"training_tokens": 28800, "tokens_per_frame": 144}
    assert save_heatmaps([run, other], path, **look).read_text().count("stroke-dasharray") == 1
    with pytest.raises(InputError, match="says that a frame has 4 tokens, got 144: leave out"):
        save_heatmaps(run, path, **look)
    with pytest.raises(InputError, match="a frame has 72 tokens, 144 for 2 frames, got 144"):
        save_heatmaps(pairs, path, **look)
    assert dotted_line_share(
        save_heatmaps(pairs, path, training_tokens=21600).read_text()
    ) == pytest.approx(0.5, abs=1e-4)


def test_one_result_or_its_path_is_drawn_like_a_list_of_one(tmp_path):
    run = LONGVA
    first, second = (
        save_heatmaps(given, tmp_path / "a.svg").read_bytes()
        for given in ([load_results(run)], run)
    )
    assert first == second
    with pytest.raises(InputError, match=r"results must be those that load_results gives, .* got "):
        heatmap([load_results(run)])


def test_save_heatmaps_draws_a_training_length_for_each_result(tmp_path):
    runs, look = [make_run("8,16", "0")] * 2, {"caption": False}
    one = save_heatmaps(runs, tmp_path / "a.svg", training_tokens=[48, None], **look).read_text()
    both = save_heatmaps(runs, tmp_path / "b.svg", training_tokens=48, **look).read_text()
    assert one.count("stroke-dasharray") == 1
    assert both.count("stroke-dasharray") == 2
    axes = {number: one.index(f'id="axes_{number}"') for number in (1, 2)}
    assert axes[1] < one.index("stroke-dasharray") < axes[2]


@pytest.mark.parametrize(
    ("count", "num_frames", "in_a_row"), [(1, 8, 1), (4, 8, 4), (5, 8, 3), (4, 15, 2), (3, 40, 2)]
)
def test_save_heatmaps_fills_rows_equally(tmp_path, monkeypatch, count, num_frames, in_a_row):
    drawn = []
    monkeypatch.setattr(panels, "arrange", lambda layout, sizes, is_fixed: drawn.append(layout))
    monkeypatch.setattr(panels, "write_figure", lambda *arguments, **options: None)
    frames = tuple(range(100, 100 * (num_frames + 1), 100))
    save_heatmaps([table(frames)] * count, tmp_path / "a.svg")
    places = [ax.get_subplotspec() for ax in drawn[0].axes]
    assert len(places) == count
    assert len({place.colspan.start for place in places}) == in_a_row


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.jpg", {}, r"cannot be saved as 'a.jpg': use one of .png, .pdf, .svg"),
        ("a", {}, "cannot be saved as 'a': use one of"),
        ("a.png", {"titles": ["x", "y"]}, "2 titles for 1 results"),
        ("a.png", {"training_tokens": 12.5}, "training length is 12.5: give a whole number"),
        ("a.png", {"training_tokens": "48"}, "training length is '48': give a whole number"),
        ("a.png", {"training_tokens": [1, 2]}, "2 training lengths for 1 results: give one"),
        (
            "a.png",
            {"training_tokens": 1000},
            "a training length of 1,000 tokens .* --tokens-per-frame",
        ),
        ("a.png", {"training_tokens": 0}, "training length must be at least 1 token, got 0"),
        ("a.png", {"training_tokens": 1, "tokens_per_frame": 0}, "at least 1, got 0"),
    ],
)
def test_save_heatmaps_when_the_input_cannot_be_meant(tmp_path, name, options, message):
    with pytest.raises(InputError, match=message):
        save_heatmaps([load_results(LONGVA)], tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_save_heatmaps_when_there_is_nothing_to_draw(tmp_path):
    with pytest.raises(InputError, match="no results to draw"):
        save_heatmaps([], tmp_path / "a.png")


def test_save_heatmaps_when_writing_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(IsADirectoryError):
        save_heatmaps([make_run()], tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_save_heatmaps_leaves_pyplot_and_its_settings_alone(tmp_path, monkeypatch):
    from matplotlib import pyplot

    plain = save_heatmaps([make_run()], tmp_path / "a.png").read_bytes()
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    monkeypatch.setitem(matplotlib.rcParams, "savefig.bbox", "tight")
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    assert save_heatmaps([make_run()], tmp_path / "b.png").read_bytes() == plain
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == backend


def test_heatmap_without_axes_uses_those_of_pyplot():
    from matplotlib import pyplot

    matplotlib.use("agg")
    figure = pyplot.figure()
    try:
        assert heatmap(make_run()) is figure.axes[0]
    finally:
        pyplot.close(figure)


def test_heatmap_draws_the_whole_grid_of_a_run():
    run = make_run("8,16", "0,1")
    part = replace(run, samples=run.samples[:3])
    ax = heatmap(part, new_axes())
    assert ax.collections[0].get_array().size == len(Grid.parse("8,16", "0,1").cells)


def runs_of_ropes(*models, name="tiny"):
    return [make_run(model={"name": name, "revision": "1", **model}) for model in models]


def titles_of(results, tmp_path, monkeypatch):
    """What stands above each heatmap of a file, before it is wrapped."""
    titles = []

    def keep(ax, text, **options):
        titles.append(text.replace(NO_BREAK, " "))

    monkeypatch.setattr(heatmaps, "write_title", keep)
    monkeypatch.setattr(panels, "arrange", lambda *arguments, **options: None)
    monkeypatch.setattr(panels, "write_figure", lambda *arguments, **options: None)
    save_heatmaps(results, tmp_path / "all.svg")
    return titles


def test_runs_of_one_model_are_told_apart_by_their_rope(tmp_path, monkeypatch):
    runs = runs_of_ropes({"rope_theta": 3e6}, {"rope_theta": 1e9})
    assert titles_of(runs, tmp_path, monkeypatch) == [
        "tiny\nRoPE base 3e6 (average 1.0000)",
        "tiny\nRoPE base 1e9 (average 1.0000)",
    ]


def test_titles_of_several_runs_are_the_labels_of_tables(tmp_path, monkeypatch):
    one, tiny, other = (
        *runs_of_ropes({"rope_theta": 3e6}, name="one"),
        *runs_of_ropes({"rope_theta": 1e9}, {"rope_theta": 1e9}),
    )
    runs = [one, tiny, replace(other, path=Path("runs/b")), make_run()]
    assert rope_remarks(runs) == ("",) * 4, "the last says nothing of RoPE"
    labels, titles = result_labels(runs), titles_of(runs, tmp_path, monkeypatch)
    assert len(set(labels)) == 4 and titles[0] == "one\naverage 1.0000"
    for label, title in zip(labels, titles, strict=True):
        assert title.replace("\n", " ").split("average")[0].rstrip(" (") == label
    assert titles[2] == "tiny\nin runs/b (average 1.0000)"
    assert titles_of([tiny], tmp_path, monkeypatch) == ["tiny\naverage 1.0000"]


def title_of(ax):
    return ax.get_title().replace("\n", " ")


def test_every_kind_of_panels_tells_runs_of_one_name_apart(tmp_path, monkeypatch):
    runs = [replace(make_run("8,16", "0,1"), path=Path("runs", name)) for name in "ab"]
    titles = []
    monkeypatch.setattr(panels, "arrange", lambda *arguments, **options: None)
    monkeypatch.setattr(
        panels, "write_figure", lambda figure, *_, **__: titles.extend(map(title_of, figure.axes))
    )
    for save in (save_heatmaps, save_needle_maps, save_retention_curves):
        titles.clear()
        save(runs, tmp_path / "picture.svg")
        assert [
            f"in runs/{name}" in title for name, title in zip("ab", titles[:2], strict=True)
        ] == [True] * 2


def test_rope_scaling_is_told_as_far_as_it_differs():
    yarn = '{"factor":4.0,"original_max_position_embeddings":64,"rope_type":"yarn"}'
    runs = runs_of_ropes({"rope_theta": 5.0}, {"rope_theta": 5.0, "rope_scaling": yarn})
    assert rope_remarks(runs) == ("no scaling", "yarn:4")
    longer = yarn.replace("64", "128")
    runs += runs_of_ropes({"rope_theta": 7.0, "rope_scaling": longer})
    assert rope_remarks(runs) == (
        "RoPE base 5, no scaling",
        "RoPE base 5, yarn:4, original_max_position_embeddings 64",
        "RoPE base 7, yarn:4, original_max_position_embeddings 128",
    )


def test_title_says_over_how_many_cells_the_average_is():
    run = make_run("8,16", "0,1", outcome=lambda c, k: "oh" if c.num_frames == 16 else True)
    ax = heatmap(run, new_axes())
    assert ax.get_title() == "tiny\naverage 1.0000 over 2 of 4 cells"
    stopped = make_run("8,16", "0,1", outcome=lambda c, k: True if c.num_frames == 8 else None)
    assert "over 2 of 4 cells" in heatmap(stopped, new_axes()).get_title()
    assert heatmap(make_run(), new_axes()).get_title() == "tiny\naverage 1.0000"


@pytest.mark.parametrize(
    "name", ["\ud800", "a\x00b", "\x1b[2J", "x" * 200_000, "\u202eevil", "a\nb"]
)
def test_odd_names_are_drawn(tmp_path, name):
    run = replace(make_run("8", "0", num_needles=1), name=name)
    *lines, last = heatmap(run, new_axes()).get_title().split("\n")
    assert all(map(str.isprintable, lines)) and len(lines) <= 2 and last == "average 1.0000"
    assert save_heatmaps([run], tmp_path / "map.svg", titles=[name[:99]]).exists()


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ("yarn", "cannot be read as JSON"),
        ("[1]", "must be an object"),
        ('{"rope_type": 3}', "rope_type must be text"),
        ('{"rope_type": "yarn", "factor": "4"}', "factor must be a number"),
        ("[" * 5000, "nested too deeply|is nested more"),
    ],
)
def test_rope_of_a_manifest_that_cannot_be_read_is_one_line(scaling, message):
    odd = make_run(model__rope_theta=1e6, model__rope_scaling=scaling)
    with pytest.raises(ResultsError, match=f"model.rope_scaling of its manifest.*({message})"):
        rope_remarks([odd, make_run(model__rope_theta=1e6)])
