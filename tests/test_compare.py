import json
import shutil
from dataclasses import replace
from fractions import Fraction

import pytest
from runs import PUBLISHED_DIR, cell, make_run, make_sample, write_run

from vniah.analysis.compare import compare
from vniah.errors import CannotCompareError, InputError
from vniah.results import MANIFEST_NAME, SAMPLES_NAME, load_results

# What is left out is a warning, too; one test of its own has it.
pytestmark = pytest.mark.filterwarnings("ignore:left out of both runs:UserWarning")

LONGVA = PUBLISHED_DIR / "longva-7b_vniah.json"
QWEN = PUBLISHED_DIR / "qwen2-7b-224k_niah_distractor0.json"


def first_right(counts):
    """The first needles of a cell are right: as many as ``counts`` says, else all."""
    return lambda c, k: k < counts.get((c.num_frames, float(c.depth)), 10)


def test_compare_of_a_run_with_itself_holds(tmp_path):
    run = write_run(tmp_path / "run", outcome=first_right({(16, 0.5): 3}))
    comparison = compare(run, str(run))
    assert comparison.passed
    assert comparison.fallen == ()
    assert len(comparison.changes) == 6
    assert comparison.table() == ""
    assert comparison.summary() == (
        "passed: none of 6 cells fell, average 0.8833 -> 0.8833 (tiny -> tiny)"
    )


def test_compare_with_a_worse_run_gives_the_worst_cell_first():
    baseline = make_run()
    worse = make_run(
        outcome=first_right({(8, 0.5): 8, (16, 0): 4, (16, 1): 8}), model__name="tiny-2"
    )
    comparison = compare(baseline, worse, max_drop=0)
    assert not comparison.passed
    assert [change.cell for change in comparison.fallen] == [
        cell(16, "0"),
        cell(8, "0.5"),
        cell(16, "1"),
    ]
    worst = comparison.fallen[0]
    assert (worst.before, worst.after, worst.drop) == (1, Fraction(2, 5), Fraction(3, 5))
    assert (worst.num_before, worst.num_after) == (10, 10)
    assert comparison.summary() == (
        "regression: 3 of 6 cells fell by more than 0, average 1.0000 -> 0.8333 (tiny -> tiny-2)"
    )
    assert comparison.table().splitlines() == [
        "frames  depth  before   n  after   n  change      p",
        "    16      0   1.000  10  0.400  10  -0.600  0.094  *",
        "     8    0.5   1.000  10  0.800  10  -0.200      1  *",
        "    16      1   1.000  10  0.800  10  -0.200      1  *",
    ]


def test_compare_with_a_better_run_holds():
    comparison = compare(make_run(outcome=first_right({(16, 0): 4})), make_run())
    assert comparison.passed
    assert min(change.drop for change in comparison.changes) == Fraction(-3, 5)


@pytest.mark.parametrize(
    ("right_before", "right_after", "max_drop", "holds"),
    [
        (10, 9, 0.1, True),  # 1.0 - 0.9 is above 0.1 in floats only for some tenths ...
        (9, 8, 0.1, True),
        (8, 7, 0.1, True),  # ... such as 0.8 - 0.7
        (3, 2, 0.1, True),
        (10, 9, 0.09, False),
        (10, 8, 0.1, False),
        (10, 0, 1, True),
        (10, 10, 0, True),
        (10, 9, 0, False),
    ],
)
def test_compare_holds_when_the_fall_is_exactly_max_drop(
    right_before, right_after, max_drop, holds
):
    baseline = make_run("8", "0", outcome=lambda c, k: k < right_before)
    candidate = make_run("8", "0", outcome=lambda c, k: k < right_after)
    assert compare(baseline, candidate, max_drop=max_drop).passed is holds


def test_compare_when_the_candidate_has_more_cells():
    baseline = make_run("8", "0,1")
    wider = make_run("8,16", "0,0.5,1", outcome=lambda c, k: c.num_frames == 8)
    comparison = compare(baseline, wider)
    assert comparison.passed
    assert [change.cell for change in comparison.changes] == [cell(8, "0"), cell(8, "1")]


def test_compare_of_runs_with_positions(tmp_path):
    baseline = write_run(tmp_path / "run", "6,7", positions="0,2,5")
    worse = make_run("6,7,8", positions="0,2,5,8", outcome=lambda c, k: k < c.needle_index * 2)
    comparison = compare(baseline, worse)
    assert len(comparison.changes) == 6
    assert [change.cell for change in comparison.fallen] == [
        cell(6, "0"),
        cell(7, "0"),
        cell(6, "1/3"),
        cell(7, "2/7"),
    ]
    assert comparison.table().splitlines()[4].split()[:2] == ["7", "2/7"]
    assert comparison.table().endswith("corrected for their number"), "all are by the worst cell"
    with pytest.raises(CannotCompareError, match="the cell of 6 frames, depth 5/6 is not in"):
        compare(baseline, make_run("6,7", positions="0,2"))


def test_compare_of_positions_with_the_same_cells_named_by_depths():
    positions, depths = make_run("8", positions="0,4,8"), make_run("8", "0,0.5,1")
    assert compare(positions, depths).passed
    assert compare(depths, positions).passed


def test_compare_when_the_model_and_the_environment_differ():
    other = make_run(
        model__name="tiny-2", model__dtype="bfloat16", environment={}, haystack__name="copy.mp4"
    )
    assert compare(make_run(), other).passed


def test_compare_when_generated_answers_are_cut_off_elsewhere():
    words = {"protocol__criterion": "generated text"}
    one, many = (make_run(**words, scorer={"max_new_tokens": n}) for n in (1, 32))
    message = "scorer.max_new_tokens: 32 in the baseline, 1 in the candidate"
    with pytest.raises(CannotCompareError, match=message):
        compare(many, one)
    assert compare(one, one).passed
    assert compare(make_run(**words), one).passed  # a chat model's words have no such end


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "niah"}, "differ in task: 'vniah' in the baseline, 'niah' in the candidate"),
        ({"haystack__sha256": "cc"}, "differ in haystack.sha256: 'aaaa.*' in the .*, 'cc' in the"),
        ({"haystack__sampling": "longva"}, "haystack.sampling: 'clock' in the .*, 'longva' in the"),
        ({"haystack__decoder": "decord"}, "haystack.decoder: 'pyav' in the baseline, 'decord'"),
        ({"haystack__keep_damaged": True}, "haystack.keep_damaged: False in the baseline, True"),
        ({"haystack__fps": {"rate": 2}}, "haystack.fps.rate: None in the baseline, 2 in the"),
        ({"needles__sha256": "dd"}, "needles.sha256: 'bbbb.*' in the baseline, 'dd' in the"),
        ({"num_needles": 5}, r"needles.ids: \['needle-0', .*\.\.\. in the baseline"),
        ({"protocol__criterion": "generated text"}, "differ in protocol.criterion: 'argmax at"),
    ],
)
def test_compare_when_something_else_was_measured_names_the_field(changes, message):
    with pytest.raises(CannotCompareError, match=message) as caught:
        compare(make_run(), make_run(**changes))
    assert "\n" not in str(caught.value)


def test_compare_when_a_run_is_not_complete(tmp_path):
    whole = write_run(tmp_path / "whole")
    part = write_run(tmp_path / "part", outcome=lambda c, k: None if c.num_frames > 8 else True)
    with pytest.raises(
        CannotCompareError,
        match=r"the candidate .*part is not complete: 30 of 60 samples; run it again to go on",
    ):
        compare(whole, part)
    with pytest.raises(CannotCompareError, match=r"the baseline .*part is not complete"):
        compare(part, whole)


def test_compare_when_the_last_line_was_cut(tmp_path):
    whole, cut = write_run(tmp_path / "whole"), tmp_path / "cut"
    shutil.copytree(whole, cut)
    (cut / SAMPLES_NAME).write_bytes((whole / SAMPLES_NAME).read_bytes()[:-20])
    with pytest.raises(CannotCompareError, match="59 of 60 samples"):
        compare(whole, cut)


def test_compare_when_the_candidate_lacks_a_cell():
    with pytest.raises(
        CannotCompareError,
        match=r"the cell of 8 frames, depth 0.5 is not in the candidate .*on every cell",
    ):
        compare(make_run("8,16", "0,0.5"), make_run("8,16", "0,1"))


def test_compare_when_a_cell_of_the_candidate_has_only_errors():
    candidate = make_run(outcome=lambda c, k: "out of memory" if c.num_frames > 8 else True)
    with pytest.raises(CannotCompareError, match="16 frames, depth 0 has only errors in the can"):
        compare(make_run(), candidate)


def test_compare_when_samples_of_the_candidate_have_errors_is_refused():
    """Else a wrong answer could hide behind an error."""
    candidate = make_run(outcome=lambda c, k: "timeout" if k == 0 and c.depth == 0 else True)
    with pytest.raises(
        CannotCompareError, match=r"could not run the sample 8/0/needle-0, .*: timeout"
    ):
        compare(make_run(), candidate)
    assert compare(candidate, candidate).passed, "the baseline had the same errors"


def test_compare_leaves_out_cells_of_the_baseline_that_have_only_errors():
    baseline = make_run(outcome=lambda c, k: "out of memory" if c.num_frames > 8 else True)
    assert len(compare(baseline, make_run()).changes) == 3


def test_compare_when_the_baseline_has_no_score_at_all():
    baseline = make_run(outcome=lambda c, k: "out of memory")
    with pytest.raises(CannotCompareError, match=r"the baseline .* has no cell with a score"):
        compare(baseline, make_run())


def test_compare_of_a_published_table_with_itself():
    comparison = compare(LONGVA, LONGVA)
    assert comparison.passed
    assert len(comparison.changes) == 90


def test_compare_of_published_tables_by_their_cells(tmp_path):
    rows = json.loads(LONGVA.read_text())
    rows[0]["Score"] = 0.8
    worse = tmp_path / "worse.json"
    worse.write_text(json.dumps(rows))
    comparison = compare(LONGVA, worse, max_drop=0.1)
    assert comparison.table().splitlines()[1:] == [
        "   200      0   1.000  ?  0.800  ?  -0.200  .  *"
    ]
    assert compare(LONGVA, worse, max_drop=0.2).passed


def test_compare_of_a_table_in_tokens_heads_its_column_so(tmp_path):
    rows = json.loads(QWEN.read_text())
    rows[0]["Score"] = 0.0
    worse = tmp_path / "worse.json"
    worse.write_text(json.dumps(rows))
    assert compare(QWEN, worse, max_drop=0).table().split()[0] == "tokens"


def test_compare_of_a_visual_table_with_one_in_tokens():
    with pytest.raises(CannotCompareError, match="differ in axis: 'frames' in the baseline, 'tok"):
        compare(LONGVA, QWEN)


def test_compare_of_a_published_table_with_a_run():
    for pair in ((LONGVA, make_run()), (make_run(), LONGVA)):
        with pytest.raises(
            CannotCompareError,
            match=r"longva-7b_vniah.json is a published table, which does not say on which hay",
        ):
            compare(*pair)


def test_compare_when_one_cannot_be_read(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(CannotCompareError, match="the candidate cannot be read: no results at"):
        compare(run, tmp_path / "nowhere")
    (tmp_path / "half").mkdir()
    with pytest.raises(
        CannotCompareError, match=r"the baseline cannot be read: .*no manifest.json"
    ):
        compare(tmp_path / "half", run)
    (tmp_path / "half" / MANIFEST_NAME).write_text('{"format_version": 1, "mod')
    with pytest.raises(CannotCompareError, match=r"the baseline cannot be read: .*as JSON"):
        compare(tmp_path / "half", run)


def test_compare_when_a_run_has_no_samples_yet(tmp_path):
    run, begun = write_run(tmp_path / "run"), tmp_path / "begun"
    begun.mkdir()
    shutil.copy(run / MANIFEST_NAME, begun)
    with pytest.raises(CannotCompareError, match="0 of 60 samples"):
        compare(run, begun)


@pytest.mark.parametrize("max_drop", [-0.1, 5, float("nan")])
def test_compare_when_max_drop_cannot_be_meant(max_drop):
    with pytest.raises(
        InputError, match=f"max_drop must be between 0 and 1, got {max_drop}: write"
    ):
        compare(make_run(), make_run(), max_drop=max_drop)


def test_compare_does_not_mind_the_order_of_needles():
    run = make_run()
    ids = list(reversed(run.manifest["needles"]["ids"]))
    other = replace(
        run, manifest={**run.manifest, "needles": {**run.manifest["needles"], "ids": ids}}
    )
    assert compare(run, other).passed


def test_compare_takes_results_and_paths_alike(tmp_path):
    path = write_run(tmp_path / "run")
    assert compare(load_results(path), path) == compare(path, load_results(path))


def test_compare_when_a_cell_has_other_samples_is_refused():
    candidate = make_run(num_needles=10)
    more = make_sample(cell(8, "0"), 10)
    more = replace(candidate, samples=(*candidate.samples, more))
    with pytest.raises(CannotCompareError, match="only the candidate has the sample 8/0/needle-10"):
        compare(make_run(), more)


def test_compare_with_a_baseline_that_has_errors_warns_and_counts_them():
    baseline = make_run(outcome=lambda c, k: "out of memory" if c.num_frames > 8 else True)
    comparison = compare(baseline, make_run())
    assert comparison.warning.startswith(
        "left out of both runs: 30 samples and with them 3 cells, which"
    )
    assert "average 1.0000 -> 1.0000 over 3 of 6 cells" in comparison.summary()
    assert compare(make_run(), make_run()).warning == ""
    assert " over " not in compare(make_run(), make_run()).summary()


def test_compare_takes_the_samples_that_both_could_run():
    """The baseline's only wrong answer of a cell must not be weighed against other samples."""
    baseline = make_run(outcome=lambda c, k: "timeout" if k == 0 else k != 1)
    same = make_run(outcome=lambda c, k: k not in (0, 1))
    (first, *_) = changes = compare(baseline, same).changes
    assert {(c.before, c.after) for c in changes} == {(Fraction(8, 9), Fraction(8, 9))}
    assert (first.num_before, first.num_after) == (9, 9)
    better = make_run(outcome=lambda c, k: k != 1)
    assert compare(baseline, better).changes == changes
    assert compare(baseline, better).warning.startswith("left out of both runs: 6 samples, which")


def test_compare_counts_errors_that_both_have():
    run = make_run(outcome=lambda c, k: "timeout" if k == 0 and c.depth == 0 else True)
    assert compare(run, run).num_left_out == 2 and compare(run, run).passed


@pytest.mark.parametrize("name", ["manifest.json", "samples.jsonl"])
def test_folder_in_place_of_a_file_is_said_without_a_number(tmp_path, name):
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises(CannotCompareError, match=rf"cannot be read: Is a directory: .*{name}$"):
        compare(run, run)
