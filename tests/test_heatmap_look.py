"""How heatmaps look: their size, what they share, numbers, hatches, a second axis, fonts."""

import re
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox
from matplotlib.text import Text
from PIL import Image
from runs import PUBLISHED_DIR, make_run, write_run

from vniah.analysis.plot import heatmap, panels, save_heatmaps, save_retention_curves
from vniah.analysis.plot.marks import FAILED_HATCH, PARTIAL_HATCH, short_number
from vniah.analysis.plot.second_axis import second_labels
from vniah.cli import main
from vniah.errors import InputError
from vniah.grid import Cell
from vniah.results import CellScore, Results, load_results

LONGVA = PUBLISHED_DIR / "longva-7b_vniah.json"
TEXT = PUBLISHED_DIR / "qwen2-7b-224k_niah_distractor0.json"
CM = 1 / 2.54
NAME = "organisation/model-7b-instruct-finetuned-on-long-text-checkpoint-000123000"


def new_axes(width=8.0, height=4.0):
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def with_errors(c, k):
    """No sample could be run at 16 frames and depth 0, some at 16 and 1, none has run at 32."""
    if c.num_frames == 32:
        return None
    if c.num_frames == 16:
        return "out of memory" if c.depth == 0 or k < 3 else k > 5
    return k % 2 == 0


@pytest.fixture
def drawn(monkeypatch):
    """Draws what is saved, and gives its figure, as it is before it is written."""
    figures = []

    def keep(figure, path, **options):
        figure.canvas.draw()
        figure.clear = lambda: None
        figures.append(figure)

    monkeypatch.setattr(panels, "write_figure", keep)

    def draw(save, *arguments, **options):
        save(*arguments, "picture.png", **options)
        return figures[-1]

    return draw


def shown_texts(figure):
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def maps_of(figure):
    return [ax for ax in figure.axes if ax.get_title() or (ax.collections and ax.texts)]


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "width", "columns", "options"),
    [
        (1, 8, 1, {"annotate": True, "second_axis": "seconds", "training_tokens": 48}),
        (4, 8, 2, {"training_tokens": 48}),
        (4, 17, 4, {"second_axis": "tokens"}),
    ],
)
def test_picture_of_a_given_width_has_nothing_cut_and_nothing_that_overlaps(
    drawn, count, width, columns, options
):
    run = make_run("8,16,32", "0,0.5,1", outcome=with_errors, controls=["no-needle"])
    runs = [run, replace(run, name=NAME), make_run("8,16,32", "0,0.5,1"), run][:count]
    figure = drawn(save_heatmaps, runs, width=width * CM, **options)
    assert figure.get_size_inches()[0] == pytest.approx(width * CM)
    texts = shown_texts(figure)
    boxes = [text.get_window_extent() for text in texts]
    assert min(text.get_fontsize() for text in texts) >= 6
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (one, its_box), (other, other_box) in combinations(zip(texts, boxes, strict=True), 2):
        width_in_common = min(its_box.x1, other_box.x1) - max(its_box.x0, other_box.x0)
        height_in_common = min(its_box.y1, other_box.y1) - max(its_box.y0, other_box.y0)
        assert min(width_in_common, height_in_common) <= 0.5, (one, other)
    lefts = {round(ax.get_position().x0, 3) for ax in maps_of(figure)}
    assert len(lefts) == columns


def test_files_have_exactly_the_width_that_is_asked_for(tmp_path):
    run = make_run("8,16", "0,1")
    svg = save_heatmaps([run], tmp_path / "a.svg", width=8 * CM, caption=False).read_text()
    assert float(re.search(r'<svg [^>]*width="([0-9.]+)pt"', svg)[1]) == pytest.approx(
        226.772, 1e-4
    )
    with Image.open(save_heatmaps([run], tmp_path / "a.png", width=8 * CM)) as picture:
        assert picture.width / picture.info["dpi"][0] == pytest.approx(8 * CM, rel=1e-4)
    pdf = save_heatmaps([run], tmp_path / "a.pdf", width=3.5).read_bytes()
    assert float(re.search(rb"/MediaBox \[ 0 0 ([0-9.]+) ", pdf)[1]) == pytest.approx(252)


def test_numbers_are_in_all_panels_or_in_none(drawn, caplog):
    wide, narrow = (
        make_run(frames, "0,1", outcome=lambda c, k: k < 3) for frames in ("8,16", "8:192:8")
    )

    def written(runs, width):
        figure = drawn(save_heatmaps, runs, width=width * CM, annotate=True)
        return [sum(text.get_text() == ".3" for text in ax.texts) for ax in maps_of(figure)]

    assert written([wide, wide], 8) == [4, 4] and not caplog.messages
    assert written([wide, narrow], 8) == [0, 0]
    (message,) = caplog.messages
    assert message.startswith("52 cells are too small for a number")
    (ax,) = maps_of(drawn(save_heatmaps, [load_results(LONGVA)], width=8 * CM, annotate=True))
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text() in (".4", ".8")]
    free = ax.bbox.width / 15 - max(box.width for box in boxes)
    assert free >= 2.4 * ax.figure.dpi / 72, "they do not touch the borders of their cells"


def test_letters_have_the_same_size_however_many_panels_there_are(drawn):
    run = make_run("8,16", "0,1")
    sizes = [
        {text.get_fontsize() for text in shown_texts(drawn(save_heatmaps, [run] * count, **size))}
        for count, size in ((1, {}), (2, {"width": 17 * CM}))
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 1.0}, r"from 2 to 60 inches \(5.08 to 152.4 cm\), got 1 inches"),
        ({"width": float("nan")}, "from 2 to 60 inches .*, got nan"),
        ({"width": "8cm"}, "from 2 to 60 inches .*, got '8cm'"),
        ({"columns": 0}, "at least 1 panel in a row, got 0"),
        ({"columns": 1.5}, "at least 1 panel in a row, got 1.5"),
        ({"columns": 3, "width": 3.0}, "3 panels side by side have no room in a width of 3 inches"),
        ({"palette": "jet"}, "palette must be safe or published, got 'jet'"),
        ({"second_axis": "hours"}, "second axis is seconds or tokens, got 'hours'"),
    ],
)
def test_size_or_look_that_is_not_possible_is_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        save_heatmaps([make_run("8", "0")] * 3, tmp_path / "a.png", **options)
    assert list(tmp_path.iterdir()) == []


def test_panels_share_labels_and_a_colour_bar_and_begin_at_one_height(drawn):
    runs = [replace(make_run("8,16", "0,1"), name=name) for name in ("a", NAME * 2, "b")]
    figure = drawn(save_heatmaps, runs, width=17 * CM)
    *maps, bar = figure.axes
    assert bar.get_ylabel() == "Accuracy" and len(maps) == 3
    assert [text.get_text() for text in figure.texts] == ["Number of frames"]
    assert [ax.get_ylabel() for ax in maps] == ["Needle depth", "", ""]
    labelled = [[text for text in ax.get_yticklabels() if text.get_visible()] for ax in maps]
    assert [len(labels) for labels in labelled] == [2, 0, 0]
    for texts in ([ax.title for ax in maps], [ax.texts[-1] for ax in maps]):
        assert np.ptp([text.get_window_extent().y1 for text in texts]) < 0.1, "first lines"
    assert np.ptp([ax.get_position().size for ax in maps], axis=0).max() < 1e-3


def test_panels_with_other_axes_have_their_own_labels(drawn):
    runs = [make_run("8,16", "0,1"), load_results(TEXT)]
    figure = drawn(save_heatmaps, runs)
    labels = [ax.get_xlabel() for ax in figure.axes[:2]]
    assert labels == ["Number of frames", "Context length (tokens)"]
    assert all(ax.get_yticklabels()[0].get_visible() for ax in figure.axes[:2])
    assert figure.texts == []


def test_heatmaps_of_a_measure_have_one_scale(drawn):
    def run(most):
        found = make_run("8,16", "0,1")
        samples = [replace(s, logprob=-most * s.cell.num_frames) for s in found.samples]
        return replace(found, samples=tuple(samples))

    *maps, bar = drawn(save_heatmaps, [run(1), run(2)], value="logprob").axes
    assert {ax.collections[0].get_clim() for ax in maps} == {(-32.0, 0.0)}
    assert bar.get_ylim() == (-32.0, 0.0)


def test_curves_take_a_width_too(drawn):
    figure = drawn(save_retention_curves, [make_run("8,16,32", "0,1")] * 2, width=17 * CM)
    assert figure.get_size_inches()[0] == pytest.approx(17 * CM)


# --- numbers, hatches ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "is_share", "text"),
    [
        (0.8, True, ".8"),
        (0.25, True, ".25"),
        (1 / 3, True, ".33"),
        (1.0, True, "1"),
        (0.0, True, "0"),
        (0.997, True, "<1"),
        (0.004, True, ">0"),
        (0.5, False, ".5"),
        (-0.25, False, "-.25"),
        (1234.5, False, "1.23e+03"),
        (12.34, False, "12.3"),
    ],
)
def test_numbers_in_cells_are_short_and_never_round_to_a_whole_share(value, is_share, text):
    assert short_number(value, is_share=is_share) == text


def test_numbers_are_black_or_white_as_can_be_read(caplog):
    ax = heatmap(
        make_run("8,16", "0,1", outcome=lambda c, k: c.depth == 1), new_axes(), annotate=True
    )
    numbers = [text for text in ax.texts if text.get_text() in "01"]
    assert [(text.get_text(), text.get_color()) for text in numbers] == [
        *[("0", "#ffffff"), ("1", "#000000")] * 2
    ]
    assert caplog.messages == []
    plain = heatmap(make_run("8,16", "0,1"), new_axes())
    assert not any(text.get_text() == "1" for text in plain.texts)


def test_numbers_that_have_no_room_are_left_out_and_that_is_said(caplog):
    ax = heatmap(load_results(LONGVA), new_axes(1.5, 1.5), annotate=True)
    assert len(ax.texts) == 1, "the caption"
    assert caplog.messages == [
        "90 cells are too small for a number in letters of 6 points, and have none; a wider "
        "picture has more room"
    ]
    caplog.clear()
    ax = heatmap(make_run("8,64", positions="0,1,2,64"), new_axes(), annotate=True)
    assert sum(text.get_text() == "1" for text in ax.texts) == 5
    assert caplog.messages[0].startswith("2 cells are too small"), "positions 0 and 1 of 64"


def hatches(ax):
    return {cells.get_hatch(): len(cells.get_paths()) for cells in ax.collections[1:]}


def legend_of(ax):
    boxes = ax.findobj(AnnotationBbox)
    return [text.get_text() for box in boxes for text in box.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("places", [{"depths": "0,1"}, {"positions": "0,8"}])
def test_cells_with_errors_are_hatched_and_explained(places):
    def outcome(c, k):
        if c.num_frames == 32:
            return None
        if c.num_frames == 16:
            return "out of memory" if c.depth == 0 or k < 3 else True
        return True

    ax = heatmap(make_run("8,16,32", outcome=outcome, **places), new_axes())
    assert hatches(ax) == {FAILED_HATCH: 1, PARTIAL_HATCH: 1}
    expected = ["errors only", "some errors", "not measured"]
    assert legend_of(ax) == expected
    whole = heatmap(make_run("8,16", **places), new_axes())
    assert hatches(whole) == {} and legend_of(whole) == []


def test_hatches_can_be_seen_on_dark_and_on_light_cells():
    def outcome(c, k):
        return "oh" if k == 0 else c.num_frames == 8

    ax = heatmap(make_run("8,16", "0", outcome=outcome), new_axes())
    colors = {tuple(cells.get_edgecolor()[0]) for cells in ax.collections[1:]}
    assert colors == {to_rgba("#000000"), to_rgba("#ffffff")}


# --- the second axis -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "texts", "title"),
    [
        ((8, 32, 60), ("8 s", "32 s", "1 min"), "Length of the video"),
        ((600, 3000), ("10 min", "50 min"), "Length of the video"),
        ((3600, 4800, 7200), ("1 h", "1 h 20 min", "2 h"), "Length of the video"),
        ((200, 3000), ("3:20", "50:00"), "Length of the video (min:s)"),
        ((600, 3661), ("0:10:00", "1:01:01"), "Length of the video (h:min:s)"),
    ],
)
def test_seconds_are_spelled_in_one_way_along_an_axis(frames, texts, title):
    labels = second_labels(make_run("8", "0"), frames, "seconds")
    assert (labels.texts, labels.title) == (texts, title)


def test_second_axis_is_drawn_above_the_columns():
    ax = heatmap(make_run("8,16", "0"), new_axes(), second_axis="tokens", training_frames=12)
    ax.figure.canvas.draw()
    (top,) = ax.child_axes
    assert top.get_xlabel() == "Visual tokens"
    assert [text.get_text() for text in top.get_xticklabels()] == ["32", "64"]
    assert legend_of(ax) == ["training length"], "where it is not in the way"
    assert ax.title.get_window_extent().y0 >= top.xaxis.label.get_window_extent().y1
    told = heatmap(load_results(LONGVA), new_axes(), second_axis="tokens", tokens_per_frame=144)
    assert told.child_axes[0].xaxis.get_major_formatter()(0.5) == "28,800"


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        (LONGVA, {"second_axis": "seconds"}, "does not say how many seconds of video a frame"),
        (LONGVA, {"second_axis": "tokens"}, "does not say how many tokens .* --tokens-per-frame"),
        (LONGVA, {"second_axis": "tokens", "tokens_per_frame": 0}, "at least 1, got 0"),
        (TEXT, {"second_axis": "seconds"}, "counts tokens of text, so it has no second axis"),
        (TEXT, {"second_axis": "tokens"}, "counts tokens of text, so it has no second axis"),
    ],
)
def test_second_axis_that_is_not_known_is_refused(path, options, message):
    ax = new_axes()
    with pytest.raises(InputError, match=message):
        heatmap(load_results(path), ax, **options)
    assert not ax.has_data() and ax.get_title() == "", "nothing is half drawn"


# --- odd input, and the command line -------------------------------------------------------------


@pytest.mark.parametrize(
    "run",
    [
        make_run("8", "0", num_needles=1),
        make_run("1000", "0:1:0.1"),
        make_run("8,16", "0.5", outcome=lambda c, k: "out of memory"),
        make_run("8", "0,1", outcome=lambda c, k: None),
        make_run("8,64", positions="0,8,64", outcome=with_errors),
    ],
)
def test_unusual_runs_are_drawn_with_everything(tmp_path, run):
    path = save_heatmaps(
        [run],
        tmp_path / "a.svg",
        annotate=True,
        second_axis="seconds",
        width=8 * CM,
        training_tokens=40,
    )
    assert path.read_text().count("</svg>") == 1


def test_a_hundred_by_a_hundred_cells(tmp_path):
    cells = tuple(
        CellScore(Cell(100 * n, Fraction(k, 99)), k / 99 if n > 50 else 1.0, None)
        for n in range(1, 101)
        for k in range(100)
    )
    results = Results("table", LONGVA, {}, published=cells)
    path = save_heatmaps([results], tmp_path / "a.png", width=8 * CM, annotate=True)
    with Image.open(path) as picture:
        assert picture.width == 945


def test_plot_takes_all_of_it(tmp_path, capsys):
    run = write_run(tmp_path / "run", "60,120", "0,1", num_needles=2)
    picture = tmp_path / "a.png"
    look = ["--width", "80mm", "--palette", "published", "--annotate", "--no-caption"]
    look += ["--second-axis", "seconds"]
    assert (
        main(["plot", str(run), str(run), "--output", str(picture), "--columns", "1", *look]) == 0
    )
    with Image.open(picture) as image:
        assert image.width == 945 < image.height
    capsys.readouterr()
    for width in ("8", "-3cm", "nancm", "8 furlongs", "1e9cm", "", "9" * 500 + "cm"):
        assert main(["plot", str(run), "--width", width]) == 2
        message = "argument --width: must be a number above 0 with its unit, such as 8cm, 80mm or"
        assert message in (line := capsys.readouterr().err) and line.count("\n") == 1
    for width in ("0cm", "1cm", "5cm", "153cm", "999999999mm"):
        assert main(["plot", str(run), "--width", width]) == 2
        message = f"must be from 2 to 60 inches (5.08 to 152.4 cm), got '{width}'"
        assert message in capsys.readouterr().err
    assert main(["plot", str(run), "--kind", "retention", "--annotate"]) == 2
    assert "--annotate is for pictures of the kinds heatmap" in capsys.readouterr().err
