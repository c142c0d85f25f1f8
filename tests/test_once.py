"""What is computed from results is kept with them, and only with them."""

from dataclasses import replace

import pytest
from runs import make_run

from vniah import summarize
from vniah.analysis.statistics.table import sample_table
from vniah.analysis.table_rows import all_cells
from vniah.errors import InputError
from vniah.results.once import once


def test_a_value_is_kept_for_its_results_and_arguments():
    calls = []

    @once
    def mean(results, digits):
        calls.append(digits)
        return round(results.average, digits)

    run = make_run("8", "0", num_needles=3, outcome=lambda cell, k: k < 1)
    assert [mean(run, 2), mean(run, 2), mean(run, 1), mean(run, digits=1)] == [0.33, 0.33, 0.3, 0.3]
    other = replace(run, samples=run.samples[:1])
    assert mean(other, 2) == 1.0 and mean(run, 2) == 0.33
    assert calls == [2, 1, 1, 2]


def test_results_made_of_others_are_computed_anew():
    run = make_run()
    first = summarize(run), all_cells(run), sample_table(run), run.planned_cells
    again = summarize(run), all_cells(run), sample_table(run), run.planned_cells
    assert all(one is other for one, other in zip(first, again, strict=True))
    half = replace(run, samples=run.samples[:15])
    assert len(sample_table(half).values) == 15 and half.num_planned_cells == 6
    assert [found.num_samples for found in all_cells(half)] == [10, 5, 0, 0, 0, 0]
    fewer = {**run.manifest, "sample_ids": " ".join(s.sample_id for s in run.samples[:15])}
    assert len(replace(run, manifest=fewer, samples=()).planned_cells) == 2
    assert summarize(half).these_needles == 1.0 and summarize(half) is not summarize(run)
    assert summarize(run, confidence=0.9).needles_like_these != first[0].needles_like_these


def test_a_refused_argument_is_refused_each_time():
    run = make_run("8", "0")
    for _ in range(2):
        with pytest.raises(InputError, match="confidence"):
            summarize(run, confidence=2)
