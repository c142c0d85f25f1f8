"""Two runs cell by cell: what is compared, marked and drawn."""

from dataclasses import replace

import pytest
from runs import PUBLISHED_DIR, cell, make_run

from vniah.analysis.compare import compare
from vniah.analysis.compare.shared import compare_shared_cells
from vniah.analysis.statistics.paired import paired_difference
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
