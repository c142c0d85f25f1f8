"""Parts of a run by the values of a field, groups of samples, and how both are shown."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from runs import make_manifest, make_sample

from vniah.analysis.plot import heatmap, save_heatmaps
from vniah.cli import main
from vniah.cli.display import format_parts
from vniah.errors import ResultsError
from vniah.grid import Grid
from vniah.results import (
    Results,
    RunFolder,
    facet_results,
    facet_values,
    group_results,
    load_results,
)

GRID = Grid.parse("8,16", "0,1")
DETAILS = {
    "facets": ["distractors", "distance", "kind"],
    "labels": {"distractors": "Distractors", "depth": "Depth of the group"},
    "all_of": "group",
}
# Three combinations: without distractors there is no distance.
COMBINATIONS = ((0, None), (1, 10), (1, 200))


def outcome(cell, distractors, distance, k):
    """With a distractor close by, needle 0 is lost in long haystacks."""
    return not (distance == 10 and k == 0 and cell.num_frames == 16)


def written(tmp_path, decide=outcome, details=DETAILS, leave_out=(), controls=()):
    """A run with two needles in every cell and combination."""
    samples = [
        make_sample(
            cell,
            k,
            decide(cell, *combination, k),
            task="grouped",
            sample_id=f"{cell.prefix}needle-{k}/{combination[0]}-{combination[1]}",
            fields={
                "distractors": combination[0],
                "distance": combination[1],
                "kind": "card",
                "group": f"{combination[0]}-{combination[1]}",
                "places": [1, combination[0]],
            },
        )
        for cell in GRID.cells
        for combination in COMBINATIONS
        for k in range(2)
    ]
    manifest = make_manifest(GRID, num_needles=2, task="grouped", task_details=details)
    own = [sample.sample_id for sample in samples]
    blind = [f"{n}/-/needle-{k}/blind" for n in (8, 16) for k in range(2)]
    manifest |= {"controls": ["blind"], "sample_ids": " ".join((*own, *blind))}
    folder = RunFolder(tmp_path / "run", manifest)
    with folder.open():
        for sample in samples:
            if sample.sample_id not in leave_out:
                folder.append(sample)
        for sample_id in controls or blind:
            frames = int(sample_id.partition("/")[0])
            folder.append(
                replace(
                    samples[0],
                    sample_id=sample_id,
                    cell=None,
                    control="blind",
                    fields={"num_frames": frames},
                )
            )
    return load_results(tmp_path / "run")


# --- parts ---------------------------------------------------------------------------------------


def test_parts_are_runs_of_their_own_that_hold_every_sample_once(tmp_path):
    results = written(tmp_path)
    parts = facet_results(results, "distractors")
    assert list(parts) == [0, 1]
    assert [len(part.samples) for part in parts.values()] == [8, 16]
    for part in parts.values():
        assert part.is_complete and part.num_planned == len(part.samples)
        assert part.num_planned_cells == 4 and not part.controls
    whole = {sample.sample_id for sample in results.samples}
    assert {s.sample_id for part in parts.values() for s in part.samples} == whole
    assert [part.average for part in parts.values()] == [1.0, 0.875]
    assert results.average == pytest.approx(11 / 12)
    assert (
        repr(parts[1])
        == "<Results tiny, Distractors: 1: 16 of 16 samples, 4 cells, average 0.8750>"
    )


def test_part_scores_are_those_of_its_samples(tmp_path):
    """Against the mean of the samples, computed again from the lines."""
    results = written(tmp_path)
    for value, part in facet_results(results, "distance").items():
        for cell_score in part.cells:
            own = [
                sample.correct
                for sample in results.samples
                if sample.cell == cell_score.cell and sample.fields["distance"] == value
            ]
            assert cell_score.num_samples == len(own) == 2
            assert cell_score.score == sum(own) / len(own)


def test_samples_without_a_value_are_in_no_part(tmp_path):
    parts = facet_results(written(tmp_path), "distance")
    assert list(parts) == [10, 200]
    assert [len(part.samples) for part in parts.values()] == [8, 8]


def test_parts_of_parts(tmp_path):
    part = facet_results(written(tmp_path), "distractors")[1]
    found = facet_results(part, "distance")
    assert [one.part for one in found.values()] == [
        "Distractors: 1, distance: 10",
        "Distractors: 1, distance: 200",
    ]
    assert [len(one.samples) for one in found.values()] == [8, 8]
    assert all(one.is_complete for one in found.values())


def test_values_may_be_texts_and_lists(tmp_path):
    results = written(tmp_path)
    assert list(facet_results(results, "kind")) == ["card"]
    assert list(facet_results(results, "group")) == ["0-None", "1-10", "1-200"]
    parts = facet_results(results, "places")
    assert list(parts) == [(1, 0), (1, 1)]
    assert parts[1, 0].part == "places: 1, 0"


def test_facets_with_one_value_are_not_split(tmp_path):
    results = written(tmp_path)
    assert facet_values(results) == {"distractors": (0, 1), "distance": (10, 200)}
    assert facet_values(facet_results(results, "distractors")[0]) == {}


@pytest.mark.parametrize("name", ["depth", "nothing", "\x1b[2J"])
def test_unknown_field_is_one_line(tmp_path, name):
    with pytest.raises(
        ResultsError, match=r"has a value of .*; there are distance, distractors, g"
    ):
        facet_results(written(tmp_path), name)


def test_part_of_a_run_that_goes_on_is_not_complete(tmp_path):
    results = written(tmp_path, leave_out={"8/0/needle-0/1-10"})
    for part in facet_results(results, "distractors").values():
        assert not part.is_complete
    assert [len(part.samples) for part in facet_results(results, "distractors").values()] == [8, 15]


# --- groups --------------------------------------------------------------------------------------


def test_a_group_is_right_if_all_of_its_samples_are(tmp_path):
    found = group_results(written(tmp_path))
    assert [(cell.num_samples, cell.num_correct) for cell in found.cells] == [
        (3, 3),
        (3, 3),
        (3, 2),
        (3, 2),
    ]
    assert found.average == pytest.approx(5 / 6)
    assert found.is_complete and found.num_planned == 12
    assert found.part == "all of a group right"


def test_group_with_an_error_has_no_score(tmp_path):
    def decide(cell, distractors, distance, k):
        return "out of memory" if (distance, k, cell.num_frames) == (200, 1, 8) else True

    found = group_results(written(tmp_path, decide))
    assert [(cell.num_samples, cell.num_errors) for cell in found.cells] == [(2, 1)] * 2 + [
        (3, 0)
    ] * 2
    assert found.average == 1.0


def test_cell_that_is_not_complete_has_no_groups(tmp_path):
    """Else a group of which one sample is missing would count as right."""
    found = group_results(written(tmp_path, leave_out={"16/1/needle-0/1-10"}))
    assert [cell.num_samples for cell in found.cells] == [3, 3, 3]
    assert not found.is_complete and found.num_planned_cells == 4
    assert found.coverage == "3 of 4 cells"


def test_task_without_groups_has_none(tmp_path):
    assert group_results(written(tmp_path, details={"facets": ["kind"]})) is None


def test_groups_of_a_part(tmp_path):
    part = facet_results(written(tmp_path), "distance")[10]
    assert [cell.score for cell in group_results(part).cells] == [1.0, 1.0, 0.0, 0.0]


def test_control_without_its_name_in_the_ids_hides_no_group(tmp_path):
    """A run of an earlier version may hold such lines, in the cells of the test."""
    results = written(tmp_path)
    first = results.samples[0]
    odd = replace(first, sample_id=f"{first.cell.prefix}odd", control="own")
    planned = f"{results.manifest['sample_ids']} {odd.sample_id}"
    manifest = {**results.manifest, "sample_ids": planned, "controls": ["blind", "own"]}
    with_odd = replace(results, manifest=manifest, control_samples=(*results.control_samples, odd))
    found = group_results(with_odd)
    assert found.average == group_results(results).average == pytest.approx(5 / 6)
    assert found.is_complete and facet_results(with_odd, "distractors")[1].is_complete


# --- what is shown -------------------------------------------------------------------------------


def test_parts_and_groups_are_lines_under_the_table(tmp_path):
    lines = format_parts(written(tmp_path)).splitlines()
    assert [line[:41] for line in lines[:6]] == [
        "     mean over depth     8    16  average",
        "      Distractors: 0  1.00  1.00   1.0000",
        "      Distractors: 1  1.00  0.75   0.8750",
        "        distance: 10  1.00  0.50   0.7500",
        "       distance: 200  1.00  1.00   1.0000",
        "all of a group right  1.00  0.67   0.8333",
    ]


def test_run_without_facets_has_no_such_lines(tmp_path):
    assert format_parts(written(tmp_path, details={"facets": ["kind"]})) == ""
    assert format_parts(Results("table", tmp_path, {})) == ""


def new_axes():
    figure = Figure(figsize=(8, 4))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def test_heatmap_names_what_depth_means_and_what_it_averages_over(tmp_path):
    results = written(tmp_path)
    ax = heatmap(results, new_axes())
    assert ax.get_ylabel() == "Depth of the group"
    (caption,) = [text.get_text() for text in ax.texts]
    assert caption == (
        "n = 6 per cell\neffective length (score \u2265 0.9): 8 frames\nblind 1.00\n"
        "verdict: no better than from the question alone\n"
        "mean over all samples; Distractors: 0, 1\ndistance: 10, 200"
    )
    ax = heatmap(results, new_axes(), value="distance")
    (caption,) = [text.get_text() for text in ax.texts]
    assert caption == (
        "n = 4 per cell, 8 samples without a value\nright answers with controls:\nblind 1.00\n"
        "verdict: no better than from the question alone\n"
        "mean over all samples; Distractors: 0, 1\ndistance: 10, 200"
    )
    part = facet_results(results, "distance")[10]
    ax = heatmap(part, new_axes())
    assert ax.get_title() == "tiny\ndistance: 10 (average 0.7500)"
    (caption,) = [text.get_text() for text in ax.texts]
    assert caption == "n = 2 per cell\neffective length (score \u2265 0.9): 8 frames"
    np.testing.assert_allclose(
        ax.collections[0].get_array().filled(np.nan).reshape(2, 2), [[1, 0.5], [1, 0.5]]
    )
    assert heatmap(group_results(results), new_axes()).get_ylabel() == "Depth of the group"


def test_names_from_a_file_are_drawn_as_they_stand(tmp_path):
    odd = {"facets": ["distance"], "labels": {"distance": "$x^$\x1b[2J", "depth": "$y^$\n"}}
    results = written(tmp_path, details=odd)
    path = save_heatmaps(list(facet_results(results, "distance").values()), tmp_path / "odd.png")
    assert path.stat().st_size > 1000
    assert heatmap(results, new_axes()).get_ylabel() == r"$y^$\n"


def test_plot_draws_a_panel_for_each_value_beside_the_heatmap_of_the_run(tmp_path, capsys):
    written(tmp_path)
    folder = str(tmp_path / "run")
    assert main(["plot", folder, "--by", "distractors"]) == 0
    shown = capsys.readouterr().out
    assert "tiny, Distractors: 0: average: 1.0000 over 4 cells" in shown
    assert "tiny, Distractors: 1: average: 0.8750 over 4 cells" in shown
    assert (tmp_path / "run" / "heatmap-distractors.png").exists()
    assert not (tmp_path / "run" / "heatmap.png").exists()
    assert main(["plot", folder, "--groups"]) == 0
    assert "tiny, all of a group right: average: 0.8333" in capsys.readouterr().out
    assert (tmp_path / "run" / "heatmap-groups.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "colour"], "has a value of 'colour'; there are"),
        (["--groups"], "have no groups; leave out --groups"),
    ],
)
def test_what_a_run_lacks_is_one_line(tmp_path, capsys, words, message):
    written(tmp_path, details={"facets": ["kind"]})
    assert main(["plot", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err


def test_cells_with_depths_that_are_no_decimals_are_grouped(tmp_path):
    """A prefix such as 3/1/3/ has three slashes."""
    grid = Grid.of([3], [Fraction(1, 3)])
    (cell,) = grid.cells
    sample = make_sample(cell, 0, sample_id=f"{cell.prefix}needle-0/x", fields={"group": "x"})
    other = f"{cell.prefix}needle-1/x"
    for ids in ([sample.sample_id], [sample.sample_id, other]):
        manifest = make_manifest(
            grid, num_needles=1, sample_ids=" ".join(ids), task_details=DETAILS
        )
        found = group_results(Results("tiny", tmp_path, manifest, (sample,)))
        assert len(found.cells) == (1 if len(ids) == 1 else 0)
