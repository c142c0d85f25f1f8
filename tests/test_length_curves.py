"""Lines along the lengths: what is drawn against the statistics."""

from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from math import inf

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from runs import PUBLISHED_DIR, make_run, write_run
from scipy.stats import binom

from vniah.analysis.plot import (
    difference_map,
    length_curves,
    needle_map,
    retention_curves,
    save_length_curves,
)
from vniah.analysis.plot.axes import SpacedLocator
from vniah.analysis.plot.lines import MOST_LINES, line_style
from vniah.analysis.plot.needles import resolve_needles
from vniah.analysis.statistics.means import score_interval
from vniah.analysis.statistics.medians import (
    cluster_medians,
    median_interval,
    num_needles_of_median,
)
from vniah.analysis.statistics.summary import summarize
from vniah.analysis.table_rows import length_rows
from vniah.cli import main
from vniah.errors import InputError, ResultsError
from vniah.results import load_results

LONGVA = PUBLISHED_DIR / "longva-7b_vniah.json"
TEXT = PUBLISHED_DIR / "qwen2-7b-224k_niah_distractor0.json"


def new_axes(width=6.0, height=4.0):
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def fades(cell, k):
    """Fewer needles are found in longer films, and in the middle of them."""
    return k < 12 - cell.num_frames // 8 - 2 * (0 < cell.depth < 1)


def lines_of(ax):
    """The lines with a mark at each value."""
    return [
        line for line in ax.lines if line.get_linestyle() != "None" and line.get_marker() != "None"
    ]


def points(line):
    return [tuple(point) for point in line.get_xydata()]


def bands_of(ax):
    """The lower and the upper ends of each band, by its places."""
    found = []
    for band in ax.collections:
        ends = {}
        for path in band.get_paths():
            for x, y in path.vertices:
                low, high = ends.get(x, (inf, -inf))
                ends[x] = min(low, y), max(high, y)
        found.append(ends)
    return found


def caption_of(ax):
    return ax.texts[-1].get_text().replace("\n", " ")


def with_fields(run, **fields):
    """The run, with other fields of its samples, each of which may be a function of the sample."""
    return replace(
        run,
        samples=tuple(
            replace(s, fields={n: f(s) if callable(f) else f for n, f in fields.items()})
            for s in run.samples
        ),
    )


def test_lines_and_bands_are_those_of_the_statistics():
    runs = [make_run("8,16,64", outcome=fades), make_run("16,32", outcome=fades, num_needles=20)]
    ax = new_axes()
    assert length_curves(runs, ax) is ax
    lines, bands = lines_of(ax), bands_of(ax)
    assert len(lines) == len(bands) == 2
    for run, line, band in zip(runs, lines, bands, strict=True):
        expected = summarize(run).by_length
        assert points(line) == [(n, pytest.approx(one.mean)) for n, one in expected.items()]
        assert band == {
            n: pytest.approx((one.interval.low, one.interval.high)) for n, one in expected.items()
        }
    assert "95 % for needles like these (10 needles)" in caption_of(ax)
    assert "95 % for needles like these (20 needles)" in caption_of(ax)
    assert "these needles on this film" in caption_of(ax)


def test_lines_differ_in_more_than_their_colour():
    looks = [line_style(k) for k in range(MOST_LINES)]
    assert len({(look.color, str(look.dashes)) for look in looks}) == MOST_LINES
    for look, after in pairwise(looks):
        assert look.marker != after.marker and look.dashes != after.dashes


def test_published_table_is_a_line_without_a_band():
    table = load_results(LONGVA)
    ax = length_curves([make_run("200,1000,3000"), table], new_axes())
    assert len(bands_of(ax)) == 1
    line = lines_of(ax)[1]
    cells = [found.score for found in table.cells if found.cell.num_frames == 2600]
    assert dict(points(line))[2600] == pytest.approx(np.mean(cells))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "tiny",
        "longva-7b_vniah (published)",
    ]
    assert "longva-7b_vniah: no band, as a published table has no samples" in caption_of(ax)


def test_band_is_for_other_depths_where_samples_share_needles():
    shared = with_fields(make_run("8,16", outcome=fades), needle_ids=("a", "b"))
    ax = length_curves(shared, new_axes())
    assert summarize(shared).by_length[8].interval is None
    depths = score_interval([1.0, 0.9, 1.0])
    assert bands_of(ax)[0][8] == pytest.approx((depths.low, depths.high))
    assert "95 % for the same needles at other depths (3 depths)" in caption_of(ax)


def test_rings_are_at_the_effective_lengths_and_dotted_lines_at_training_lengths():
    runs = [make_run("8,16,64", outcome=fades), make_run("8", outcome=lambda c, k: False)]
    ax = length_curves(runs, new_axes(), training_frames=[20.0, 1e9])
    rings = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    length = summarize(runs[0]).effective_length.num_frames
    assert [line.get_xdata()[0] for line in rings] == [length] == [16]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [20.0]
    assert "training length" in [text.get_text() for text in ax.texts]
    assert "rings: effective length (at least 0.9 up to there)" in caption_of(ax)


def test_marks_and_rings_at_one_place_are_all_seen():
    runs = [make_run("8,16,32", outcome=lambda c, k: c.num_frames <= 16) for _ in range(3)]
    ax = length_curves([*runs, make_run("8,16,32", outcome=lambda c, k: False)], new_axes())
    rings = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    sizes = [ring.get_markersize() for ring in rings]
    assert len(rings) == 3 and min(abs(a - b) for a, b in pairwise(sorted(sizes))) >= 3
    at_16 = [
        max(
            line.get_markersize()
            for line in ax.lines
            if line.get_color() == line_style(k).color
            and 16 in line.get_xdata()
            and line.get_markerfacecolor() != "none"
        )
        for k in range(4)
    ]
    assert at_16[0] > at_16[1] > at_16[2] == at_16[3], "those that lie over others are smaller"
    assert len({line.get_markersize() for line in ax.get_legend().get_lines()}) == 1


def test_what_is_said_of_all_lines_is_of_lines():
    failed, good = make_run(outcome=lambda c, k: "out of memory"), make_run(outcome=fades)
    labels = ["failed", "good"]
    text = caption_of(length_curves([failed, good], new_axes(), labels=labels))
    assert text.startswith("mean over cells, these needles on this film; band: 95 % for needles")
    assert "failed: no line, as no sample could be run" in text
    both = caption_of(length_curves([failed, failed], new_axes()))
    assert "these needles on this film; no line, as no sample could be run" in both


def test_chance_is_a_line_of_its_own():
    run = make_run("8,16", outcome=fades)
    guessing = with_fields(run, needle_id=lambda s: s.fields["needle_id"], num_options=4)
    ax = length_curves([run, guessing, replace(guessing, name="other")], new_axes())
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[-1] == "a guess" and len(labels) == 4
    (line,) = (line for line in ax.lines if line.get_label() == "a guess")
    assert points(line) == [(8, 0.25), (16, 0.25)]


def test_hollow_marks_are_where_planned_samples_are_missing():
    def outcome(cell, k):
        if cell.num_frames == 16:
            return "out of memory"
        if cell.num_frames == 32 and cell.depth == 1:
            return None
        return "out of memory" if cell.num_frames == 64 and k == 3 and cell.depth == 0 else k > 0

    ax = length_curves(make_run("8,16,32,64", outcome=outcome), new_axes())
    (line,) = (line for line in lines_of(ax))
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False, False]
    (hollow,) = (line for line in ax.lines if line.get_markerfacecolor() == "white")
    assert list(hollow.get_xdata()) == [32, 64]
    assert "hollow marks: planned samples are missing" in caption_of(ax)
    bars = [container for container in ax.containers if container.has_yerr]
    assert [list(bar.lines[0].get_xdata()) for bar in bars] == [[8.0]], "a band of one point"


@pytest.mark.parametrize("num_needles", [1, 3])
def test_one_cell_is_a_point_with_a_bar(num_needles):
    run = make_run("8", "0", num_needles=num_needles)
    ax = length_curves(run, new_axes())
    (bar,) = ax.containers
    interval = summarize(run).by_length[8].interval
    ends = bar.lines[2][0].get_segments()[0][:, 1]
    assert tuple(ends) == pytest.approx((interval.low, interval.high))
    assert ax.get_legend() is None and "tiny" in ax.get_title()


def test_run_in_which_nothing_could_be_run_has_no_line():
    broken = make_run("8,16", outcome=lambda c, k: "out of memory")
    ax = length_curves([broken, make_run("8,16")], new_axes())
    assert np.isnan(lines_of(ax)[0].get_ydata()).all()
    assert "no line, as no sample could be run" in caption_of(ax)
    length_curves(broken, new_axes()).figure.canvas.draw()


def test_measure_is_a_median_over_needles_beside_the_guess():
    def error(sample):
        k = int(sample.fields["needle_id"].rpartition("-")[2])
        return float(k * k + sample.cell.num_frames + 3 * sample.cell.depth)

    details = {
        "measures": ["error_seconds", "guess_seconds"],
        "references": {"error_seconds": "guess_seconds"},
        "labels": {"error_seconds": "Expected error (s)", "guess_seconds": "a guess"},
    }
    run = with_fields(
        make_run("8,16", task_details=details),
        needle_id=lambda s: s.fields["needle_id"],
        error_seconds=error,
        guess_seconds=30.0,
    )
    ax = length_curves(run, new_axes(), value="error_seconds")
    medians = np.array([k * k + 8 + 1.5 for k in range(10)])
    found = median_interval(medians)
    assert points(lines_of(ax)[0])[0] == (8, pytest.approx(np.median(medians)))
    assert bands_of(ax)[0][8] == pytest.approx((found.low, found.high))
    assert (found.low, found.high) == (medians[1], medians[8])
    (guess,) = (line for line in ax.lines if line.get_label() == "a guess")
    assert points(guess) == [(8, 30.0), (16, 30.0)]
    assert ax.get_ylabel() == "Expected error (s), median"
    few = replace(run, samples=tuple(s for s in run.samples if s.fields["error_seconds"] < 30))
    assert "no band, as 5 needles are too few for that of a median, which takes 6" in caption_of(
        length_curves(few, new_axes(), value="error_seconds")
    )
    with pytest.raises(ResultsError, match="no sample of runs/tiny has a number called 'x'"):
        length_curves(run, new_axes(), value="x")


def test_interval_of_a_median_holds_it_as_often_as_it_says():
    """Known truth: k of n numbers are below the median with a binomial probability."""
    for num in (6, 10, 20, 51):
        values = np.arange(num, dtype=float)[::-1]
        found = median_interval(values)
        below = int(found.low)
        assert found.low + found.high == num - 1
        assert 1 - 2 * binom.cdf(below, num, 0.5) >= 0.95 > 1 - 2 * binom.cdf(below + 1, num, 0.5)
    assert median_interval(np.arange(5.0)) is None
    assert median_interval(np.arange(5.0), confidence=0.9) is not None
    for confidence in (0.5, 0.9, 0.95, 0.99):
        least = num_needles_of_median(confidence)
        assert 1 - 0.5 ** (least - 1) >= confidence > 1 - 0.5 ** (least - 2)


def test_medians_of_clusters_against_numpy():
    rng = np.random.default_rng(3)
    clusters, values = rng.integers(-1, 6, 50), rng.normal(size=50)
    expected = [np.median(values[clusters == k]) for k in np.unique(clusters)]
    assert cluster_medians(clusters, values).tolist() == expected


def test_planned_lengths_without_a_value_are_on_the_axis():
    run = make_run("8,16,1024", outcome=lambda c, k: None if c.num_frames > 16 else True)
    ax = length_curves(run, new_axes())
    ax.figure.canvas.draw()
    assert ax.get_xlim()[1] > 1024 and ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["8", "16", "1,024"]
    even = make_run("100:3000:100", "0", num_needles=1)
    assert length_curves(even, new_axes()).get_xscale() == "linear"


def test_lengths_of_which_an_adaptive_run_chose_some_depths_have_no_mark():
    run = make_run(
        "8,16,32",
        "0,1",
        num_needles=2,
        adaptive={"precision": "10%", "threshold": 0.9},
        outcome=lambda c, k: None if c.num_frames == 16 and c.depth == 0 else True,
    )
    ax = length_curves(run, new_axes())
    (line,) = lines_of(ax)
    rows = {row["num_frames"]: row["score"] for row in length_rows(run)[1:]}
    assert rows == {8: 1.0, 16: None, 32: 1.0}
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False]
    assert "an adaptive run measured some depths only have no mark" in caption_of(ax)
    table = resolve_needles(run).table
    assert np.isnan(table.values).all(axis=0).tolist() == [False, True, False]
    assert not (table.failed | table.partial).any()


def test_what_cannot_be_drawn_is_refused_in_one_line():
    run = make_run("8")
    for given, options, message in (
        ([], {}, "there are no results to draw"),
        ([run] * (MOST_LINES + 1), {}, "at most 28 lines.*got 29 results"),
        ([run, load_results(TEXT)], {}, "counts frames and .* counts tokens"),
        ([run], {"labels": ["a", "b"]}, "2 labels for 1 results"),
        (replace(run, samples=(), manifest={}), {}, "has no cells"),
    ):
        with pytest.raises(InputError, match=message):
            length_curves(given, new_axes(), **options)


def test_names_may_hold_anything():
    run = make_run("8,16", model__name="$x_1$ \x1b[2J\u202e " + "long " * 40)
    ax = length_curves([run, make_run("8")], new_axes())
    ax.figure.canvas.draw()
    assert "\\x1b[2J\\u202e" in ax.get_legend().get_texts()[0].get_text().replace("\n", " ")


def test_ticks_stand_at_measured_lengths_and_do_not_overlap():
    run = make_run("200:3000:200", "0", num_needles=1)
    ax = length_curves(run, new_axes(3.1, 3.0))
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels[-1] == "3,000" and 2 < len(labels) < 15
    assert all(a.x1 <= b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize(
    ("groups", "apart"),
    [
        ((range(100, 1001, 100),), 0),
        ((range(10, 1001, 90), range(100, 1001, 180)), 0),
        (([2**k for k in range(3, 14)],), 0),  # on an axis of doublings
        (([0, *(2**k for k in range(3, 14))],), 1),  # the first is apart from the others
        (([10, *range(100, 1001, 100)],), 1),
    ],
)
def test_ticks_of_even_places_are_even(groups, apart):
    places = sorted(set(chain(*groups)))
    ax = new_axes(2.6, 3.0)
    if max(places) > 2000:
        ax.set_xscale("symlog", base=2, linthresh=8, linscale=0.7)
    ax.set_xlim(places[0], places[-1])
    weights = [sum(place in group for group in groups) for place in places]
    ax.xaxis.set_major_locator(SpacedLocator(places, list(map(str, places)), weights))
    at = [places.index(place) for place in ax.xaxis.get_major_locator()()]
    steps = np.diff([k for k in at if k >= apart])
    assert len(steps) > 1 and len(set(steps)) == 1 and max(steps) > 1, at
    assert at[-1] == len(places) - 1


def test_file_is_the_same_every_time(tmp_path):
    runs = [make_run("8,16", outcome=fades), make_run("8,64", positions="0,8")]
    paths = [save_length_curves(runs, tmp_path / name) for name in ("a.svg", "b.svg")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(InputError, match="2 training lengths for 1 results"):
        save_length_curves(runs[:1], tmp_path / "c.svg", training_tokens=[1, 2])


def test_plot_of_lengths(tmp_path, capsys):
    runs = [write_run(tmp_path / name, "8,16", "0,1", num_needles=2) for name in ("a", "b")]
    assert main(["plot", str(runs[0]), "--kind", "lengths", "--training-length", "40"]) == 0
    assert f"lengths: {runs[0] / 'lengths.png'}" in capsys.readouterr().out
    output = tmp_path / "both.pdf"
    given = [*map(str, runs), str(LONGVA), "--kind", "lengths", "--output", str(output)]
    assert main(["plot", *given]) == 0
    assert output.read_bytes().startswith(b"%PDF")
    assert main(["plot", str(runs[0]), str(TEXT), "--kind", "lengths"]) == 2
    assert "have no axis in common" in capsys.readouterr().err


def test_captions_can_be_left_out_of_every_kind_of_picture(tmp_path):
    run = make_run("8,16", "0,1", num_needles=2)
    other = make_run("8,16", "0,1", num_needles=2, outcome=lambda c, k: False)
    for draw in (
        partial(length_curves, run),
        partial(difference_map, run, other),
        partial(needle_map, run),
        partial(retention_curves, run),
    ):
        assert len(draw(new_axes()).texts) == 1
        assert not draw(new_axes(), caption=False).texts
    folder, output = write_run(tmp_path / "run", "8", "0", num_needles=1), tmp_path / "a.svg"
    given = ["--kind", "lengths", "--no-caption", "--width", "8cm", "--output", str(output)]
    assert main(["plot", str(folder), *given]) == 0
    text = output.read_text()
    assert "this film" not in text and 'width="226' in text
