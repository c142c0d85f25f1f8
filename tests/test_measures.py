"""Numbers of samples besides right and wrong: means, tables, pictures, and what is refused."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from runs import make_grid, make_manifest, make_run, make_sample

from vniah.analysis.plot import heatmap, save_heatmaps
from vniah.cli import main
from vniah.cli.measures import format_measure
from vniah.errors import ResultsError
from vniah.results import RunFolder, SampleResult, load_results

pytestmark = pytest.mark.usefixtures("quick_pictures")

DETAILS = {
    "measures": ["distance", "hit", "guess"],
    "references": {"distance": "guess"},
    "labels": {"distance": "Error (s)", "guess": "a guess"},
}
GRID = make_grid("8,16", "0,1")


def values_of(cell, k):
    """The error grows with depth and needle; the second needle has none."""
    values = {"hit": k > 0, "guess": cell.num_frames / 4}
    return values if k == 1 else {**values, "distance": float(cell.depth) + 2 * k}


def samples_of(cells=GRID.cells, values=values_of):
    return [
        make_sample(
            cell,
            k,
            task="odd",
            fields={"needle_index": cell.needle_index, "needle_id": f"needle-{k}"}
            | values(cell, k),
            logprob=-1.0 - k,
        )
        for cell in cells
        for k in range(3)
    ]


def manifest(**changes):
    return make_manifest(GRID, num_needles=3, task="odd", task_details={**DETAILS, **changes})


def write(directory, samples):
    folder = RunFolder(directory, manifest())
    with folder.open():
        for sample in samples:
            folder.append(sample)
    return directory


@pytest.fixture
def run(tmp_path):
    return load_results(write(tmp_path / "run", samples_of()))


def new_axes():
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


# --- means ---------------------------------------------------------------------------------------


def test_mean_of_a_cell_is_over_the_samples_that_have_a_value(run):
    error = run.measure("distance")
    assert [(found.mean, found.num_samples, found.num_missing) for found in error.cells] == [
        (2.0, 2, 1),
        (3.0, 2, 1),
        (2.0, 2, 1),
        (3.0, 2, 1),
    ]
    assert (error.average, error.num_samples, error.num_missing) == (2.5, 8, 4)
    assert (error.label, error.is_share) == ("Error (s)", False)
    assert error.reference.label == "a guess"
    assert [found.mean for found in error.reference.cells] == [2.0, 2.0, 4.0, 4.0]


def test_truth_values_are_shares_and_other_numbers_have_means_too(run):
    hit = run.measure("hit")
    assert hit.is_share and hit.average == pytest.approx(2 / 3)
    assert hit.reference is None and hit.label == "hit"
    assert run.measure("logprob").average == -2.0
    assert run.measure("needle_index").average == 6.0
    assert not run.measure("needle_index").is_share


def test_measures_with_a_table_of_their_own_are_no_references(run):
    assert run.measures == ("distance", "hit")
    assert make_run().measures == ()


def test_sample_that_could_not_be_run_is_in_no_mean():
    samples = samples_of()
    failed = make_sample(samples[0].cell, 0, "out of memory", task="odd")
    results = replace(make_run("8,16", "0,1"), manifest=manifest(), samples=(failed, *samples[1:]))
    (first, *_) = results.measure("distance").cells
    assert (first.mean, first.num_samples, first.num_missing) == (4.0, 1, 1)


def test_measure_of_a_run_without_samples_has_no_mean():
    results = replace(make_run("8", "0"), manifest=manifest(), samples=())
    assert results.measure("distance").average is None
    assert format_measure(results, "distance").endswith("Error (s): none, no sample has a value")


def test_name_that_no_sample_has_a_number_of_is_refused(run):
    with pytest.raises(ResultsError, match="a number called 'speed'; there are distance, guess, "):
        run.measure("speed")
    with pytest.raises(ResultsError, match="'needle_id'"):
        run.measure("needle_id")
    huge = replace(run, samples=tuple(samples_of(values=lambda cell, k: {"distance": 1e200})))
    with pytest.raises(ResultsError, match=r"'distance' of a sample of .* is 1e.200; means can be"):
        huge.measure("distance")


def test_measures_are_columns_of_the_data_frame(run):
    frame = run.to_pandas()
    assert frame.groupby("num_frames")["guess"].first().to_dict() == {8: 2.0, 16: 4.0}
    assert frame["distance"].isna().sum() == 4


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ['"2.5"', "[2.5]"])
def test_measure_that_is_no_number_is_refused_when_it_is_read(tmp_path, value):
    directory = write(tmp_path / "run", samples_of())
    path = directory / "samples.jsonl"
    text = path.read_text()
    changed = re.sub(r'("distance": ?)4\.0', rf"\g<1>{value}", text, count=1)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(ResultsError, match=r"line .* measure distance = .*, which is no number"):
        load_results(directory)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1}, "'odd' is .* must be text, a number, true, false or null, or a list of these"),
        ([[1]], "'odd' is .*, and must be text"),
        ([0] * 100_001, "'odd' lists 100,001 values, and at most 100,000"),
    ],
)
def test_field_that_is_neither_scalar_nor_list_is_refused(value, message):
    record = {**samples_of()[0].record(), "odd": value}
    with pytest.raises(ResultsError, match=message):
        SampleResult.from_json(json.dumps(record))


def test_list_of_numbers_is_read_as_it_was_written():
    sample = samples_of(values=lambda cell, k: {"shares": [0.25, 0.75, None]})[0]
    assert SampleResult.from_json(sample.to_json()).fields["shares"] == [0.25, 0.75, None]


# --- tables and pictures -------------------------------------------------------------------------


def test_table_has_the_reference_beneath_the_mean(run):
    assert format_measure(run, "distance").splitlines() == [
        "Error (s)",
        "  depth     8    16",
        "      0  2.00  2.00",
        "      1  3.00  3.00",
        "   mean  2.50  2.50",
        "a guess  2.00  4.00",
        "Error (s): 2.50 (a guess: 3.00), over 8 of 12 samples: the others have no value",
    ]
    assert format_measure(run, "hit").splitlines()[-1] == "hit: 0.67"


def test_heatmap_of_a_measure_spans_its_values_and_those_of_its_reference(run):
    ax = heatmap(run, new_axes(), value="distance")
    cells = ax.collections[0]
    np.testing.assert_array_equal(cells.get_array().reshape(2, 2), [[2, 2], [3, 3]])
    assert cells.get_clim() == (0.0, 4.0)
    assert ax.figure.axes[1].get_ylabel() == "Error (s)"
    assert ax.get_title() == "tiny\nmean 2.5"
    assert [text.get_text() for text in ax.texts] == ["n = 2 per cell, 4 samples without a value"]


def test_heatmap_of_a_share_and_of_negative_numbers(run):
    assert heatmap(run, new_axes(), value="hit").collections[0].get_clim() == (0.0, 1.0)
    assert heatmap(run, new_axes(), value="logprob").collections[0].get_clim() == (-2.0, 0.0)
    still = replace(run, samples=tuple(samples_of(values=lambda cell, k: {"distance": 0})))
    assert heatmap(still, new_axes(), value="distance").collections[0].get_clim() == (0.0, 1.0)


def test_heatmap_of_a_measure_over_positions():
    grid = make_grid("8,16", "", "0,8,16")
    samples = samples_of(grid.cells, lambda cell, k: {"distance": cell.needle_index})
    run = replace(
        make_run("8,16", positions="0,8,16"),
        manifest=make_manifest(grid, num_needles=3, task="odd", task_details=DETAILS),
        samples=tuple(samples),
    )
    ax = heatmap(run, new_axes(), value="distance")
    assert ax.collections[0].get_array().tolist() == [0, 8, 0, 8, 16]
    assert ax.collections[0].get_clim() == (0.0, 16.0)


def test_heatmap_says_over_which_cells_the_mean_is(run):
    part = replace(run, samples=tuple(s for s in run.samples if s.cell.num_frames == 8))
    title = heatmap(part, new_axes(), value="distance").get_title()
    assert title == "tiny\nmean 2.5 over 2 of 4 cells"


def test_file_has_the_reference_beside_the_measure_once(tmp_path, run):
    def titles(results, value):
        svg = save_heatmaps(results, tmp_path / "a.svg", value=value).read_text()
        means = (r"mean 2\.5", "mean 3")
        return [len(re.findall(rf"<!-- (?:.*\()?{mean}\)? -->", svg)) for mean in means]

    assert titles([run], "distance") == [1, 1]
    assert titles([run, run], "distance") == [2, 1]
    other = replace(run, samples=tuple(s for s in run.samples if s.cell.num_frames == 8))
    assert titles([run, other, run], "distance") == [2, 2]
    svg = save_heatmaps([run], tmp_path / "b.svg", value="hit").read_text()
    assert "a guess" not in svg


def test_plot_draws_a_value_that_is_named(tmp_path, run, capsys):
    assert main(["plot", str(run.path), "--value", "distance"]) == 0
    printed = capsys.readouterr().out
    assert "tiny: Error (s): 2.50 (a guess: 3.00), over 8 of 12 samples" in printed
    assert (run.path / "heatmap-distance.png").exists()
    assert main(["plot", str(run.path), "--value", "speed"]) == 2
    assert "has a number called 'speed'" in capsys.readouterr().err
    assert not (run.path / "heatmap-speed.png").exists()


def test_label_with_odd_text_is_drawn(tmp_path, run):
    odd = manifest(labels={"distance": "a\x1b[2J $b$", "guess": "\ud800"})
    picture = save_heatmaps([replace(run, manifest=odd)], tmp_path / "a.png", value="distance")
    assert picture.exists()
