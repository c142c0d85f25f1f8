"""A comparison that may stop early: its evidence, how often it alarms, and what it says."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from math import cosh, exp, prod, sqrt
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from decoder_models import DecoderStandIn
from PIL import Image
from runs import PUBLISHED_DIR, cell, make_run, make_sample, write_run
from test_prefill import build_decoder
from torch.distributed import HashStore

import vniah
from benchmarks.gate import CELLS as BENCHMARK_CELLS
from benchmarks.gate import Setting, table_of
from benchmarks.stop_early import FALLS, PARTS, simulate
from vniah.analysis.compare import compare, compare_early
from vniah.analysis.compare.comparison import compare_by
from vniah.analysis.compare.rules import Rules
from vniah.analysis.plot.captions import caption, default_title
from vniah.analysis.plot.series import length_series
from vniah.analysis.statistics.paired import paired_table
from vniah.analysis.statistics.sequential import (
    MOST_PARTS,
    early_test,
    parts_of,
    symmetry_e_value,
)
from vniah.analysis.table_formats import format_results
from vniah.analysis.table_rows import table_rows
from vniah.cli import main
from vniah.errors import CannotCompareError, InputError
from vniah.grid import Cell, Grid
from vniah.haystacks.haystack import open_haystack
from vniah.needles import load_needles
from vniah.results import load_results
from vniah.sweep.mesh import Mesh
from vniah.sweep.run import run_sweep

pytestmark = pytest.mark.usefixtures("quick_pictures", "checked_once")

GRID = {"frames": "8,16,32,64", "depths": "0,0.2,0.4,0.6,0.8,1", "num_needles": 20}
CELLS = [found.cell for found in make_run(**GRID).cells]
ORDER = parts_of(CELLS)


def run(num_parts, is_right=lambda c, k: True, **options):
    """A run whose first parts are done."""
    done = {c for part in ORDER[:num_parts] for c in part}
    return make_run(
        **{**GRID, **options}, outcome=lambda c, k: is_right(c, k) if c in done else None
    )


def worse(c, k):
    """Three of ten samples of every needle fall."""
    return (c.num_frames // 8 + c.needle_index + k) % 10 > 2


def e_value_one_by_one(values):
    size = sqrt(sum(value**2 for value in values) / len(values))
    products = [
        prod(exp(-stake * value / size) / cosh(stake * value / size) for value in values)
        for stake in (0.5, 1, 2, 4, 8)
    ]
    return sum(products) / 5


def test_e_value_is_the_mean_of_products_over_needles():
    values = [-0.3, 0.1, 0.0, -0.25, -0.5, 0.02]
    assert symmetry_e_value(values) == pytest.approx(e_value_one_by_one(values))
    assert symmetry_e_value([0.0] * 5) == symmetry_e_value([]) == 1
    assert symmetry_e_value([-1.0] * 40) == pytest.approx(2.0**40 / 5 * 3, rel=0.5)
    assert 0 <= symmetry_e_value([1.0] * 1000) < 1e-100


@pytest.mark.parametrize("spread", [1, 9])
def test_mean_over_all_swaps_of_the_two_runs_is_one_at_every_look(spread):
    rng = np.random.default_rng(spread)
    differences = np.clip(rng.integers(-spread, 2, (6, 90)), -1, 1).astype(float)
    found = []
    for signs in itertools.product((1, -1), repeat=6):
        found.append(early_test(table_of(differences * np.array(signs)[:, None]), PARTS))
    assert np.mean([test.e_values for test in found], axis=0) == pytest.approx(
        np.ones(len(PARTS) - 1)
    )
    assert np.mean([test.evidence for test in found]) == pytest.approx(1)


def test_evidence_is_that_of_complete_parts_and_only_grows():
    differences = -np.ones((12, 90))
    whole = early_test(table_of(differences), PARTS)
    assert len(whole.e_values) == whole.num_looks == len(PARTS) - 1
    table = table_of(differences)
    seen = {c for part in PARTS[:3] for c in part[: len(part)]} - {PARTS[2][0]}
    is_seen = np.array([table.cells[place] in seen for place in table.cell])
    part = early_test(table.where(is_seen), PARTS)
    assert part.e_values == whole.e_values[:2] and part.evidence < whole.evidence
    assert whole.is_fall(0.005) and whole.can_find(0.005 / 4) and not part.is_fall(0.00001)
    few = early_test(table_of(-np.ones((7, 90))), PARTS)
    assert not few.can_find(0.005) and not few.is_fall(0.005)


def test_parts_hold_every_cell_once_and_each_position_in_one():
    for cells in (CELLS, BENCHMARK_CELLS, Grid.parse("64:960:64", positions="0:960:64").cells):
        parts = parts_of(cells)
        assert sorted(itertools.chain(*parts)) == sorted(cells)
        assert 8 <= len(parts) <= MOST_PARTS and max(map(len, parts)) <= len(cells) / 4
        positions = [{c.needle_index for c in part} for part in parts]
        assert sum(map(len, positions)) == len(set.union(*positions))
        assert parts_of(reversed(cells)) == parts
    assert parts_of([]) == () and parts_of([CELLS[0]]) == ((CELLS[0],),)
    assert parts_of([Cell(8, c.depth) for c in CELLS[:3]]) == tuple(
        (cell(8, depth),) for depth in ("0.4", "0", "0.2")
    ), "the order stays in later versions, as runs that go on rely on it"


def test_a_year_of_nights_of_the_same_model_with_a_look_after_each_part_has_hardly_an_alarm():
    nights = simulate(FALLS[0], Setting(365, 20, 0.3, 1), whole=False)
    assert sum(night.is_fall for night in nights) <= 1
    nights = simulate(FALLS[0], Setting(60, 20, 0.2, 2))
    assert sum(night.is_fall for night in nights) <= 1


def test_a_fall_of_thirty_points_takes_a_fifth_of_the_samples_and_one_of_ten_is_still_found():
    nights = simulate(FALLS[3], Setting(60, 20, 0.2, 3), whole=False)
    assert all(night.is_fall for night in nights)
    assert np.mean([night.stopped_at for night in nights]) < 0.2
    nights = simulate(FALLS[2], Setting(40, 20, 0.2, 4))
    assert sum(night.is_fall for night in nights) >= 38
    assert sum(night.stopped_at is not None for night in nights) >= 15


def test_a_run_that_is_going_on_is_undecided_until_a_fall_is_shown():
    before = run(len(ORDER))
    found = [compare_early(before, run(num, worse)) for num in range(1, len(ORDER))]
    verdicts = [early.verdict for early in found]
    assert verdicts[0] == "undecided" and verdicts[5:] == ["regression"] * 2
    assert sorted(verdicts, reverse=True) == verdicts, "it stays"
    assert [early.num_done for early in found[:2]] == [60, 120] and not found[0].is_decided
    assert "average to quote" in found[-1].summary() and "go on" in found[0].summary()
    assert "average 1" not in found[-1].summary()
    assert {compare_early(before, run(num)).verdict for num in range(len(ORDER))} == {"undecided"}


def test_a_fall_that_the_rest_cannot_undo_is_found_with_few_needles():
    before = run(10, num_needles=10)
    found = compare_early(before, run(5, lambda c, k: False, num_needles=10))
    assert found.verdict == "regression"
    broken = {one.rule for one in found.findings if not one.passed}
    assert broken == {"needles_lost", "average_of_these_needles"}
    assert "were all missing samples right" in found.summary()
    half = run(5, lambda c, k: k > 0 or c.depth > 0.5, num_needles=11)
    assert compare_early(run(10, num_needles=11), half).verdict == "undecided"


def test_a_complete_run_is_compared_with_what_is_left_of_the_significance():
    before, after = run(len(ORDER)), run(len(ORDER), worse)
    early = compare_early(before, after)
    assert early.comparison == compare(before, after, significance=0.005 * 0.75)
    assert early.verdict == "regression" and early.summary() == early.comparison.summary()
    assert compare_early(before, before, max_drop=0.1).verdict == "passed"
    controls = {**before.manifest, "controls": ["blind"]}
    controls["sample_ids"] += " -/-/needle-0/blind"
    waiting = make_run(**GRID, controls=["blind"], sample_ids=controls["sample_ids"])
    assert not waiting.is_complete and compare_early(before, waiting).verdict == "passed"


@pytest.mark.parametrize(
    ("significance", "plain", "needed"), [(0.5, 4, 4), (0.05, 7, 8), (0.005, 10, 11)]
)
def test_fewer_needles_than_the_complete_run_takes_are_refused_before_anything_is_measured(
    significance, plain, needed
):
    for num in range(3, 13):
        few = {"frames": "8", "depths": "0,1", "num_needles": num}
        before = make_run(**few)
        whole = make_run(**few, outcome=lambda c, k: c.depth > 0 or k > 0)
        waiting = [
            make_run(**few, outcome=lambda c, k: None),
            make_run(**few, outcome=lambda c, k: k > 0 if c.depth < 1 else None),
        ]
        assert compare_early(before, waiting[1], max_drop=0.5).verdict == "undecided"
        assert compare_early(before, whole, max_drop=0.5).verdict == "passed"
        assert compare_early(before, before, significance=significance).verdict == "passed"
        if num >= needed:
            assert {
                compare_early(before, one, significance=significance).verdict for one in waiting
            } == {"undecided"}
            assert compare_early(before, whole, significance=significance).comparison is not None
            continue
        for one in (*waiting, whole):
            with pytest.raises(CannotCompareError) as refused:
                compare_early(before, one, significance=significance)
            told = str(refused.value)
            assert f"a quarter of the significance of {significance:g}, and the tests" in told
            assert f"at least {needed} needles, and the baseline has {num}. Without" in told
            can = "only" if num >= plain else "at least"
            assert f"vniah compare of the whole run takes {can} {plain}" in told
        if num >= plain:
            assert compare(before, whole, significance=significance).passed


def test_a_significance_that_no_number_of_needles_reaches_is_said():
    few = {"frames": "8", "depths": "0,1", "num_needles": 30}
    before = make_run(**few)
    after = make_run(**few, outcome=lambda c, k: k > 0 or c.depth > 0)
    going = make_run(**few, outcome=lambda c, k: True if c.depth else None)
    no_number = r"no number of needles is enough.* take a significance above "
    with pytest.raises(CannotCompareError, match=f"of 0.0004 {no_number}0.0005. Give max_drop"):
        compare(before, after, significance=0.0004)
    assert compare(before, after, significance=0.0006).passed
    for one in (going, after):
        with pytest.raises(CannotCompareError, match=f"{no_number}0.000667. .* takes only 14"):
            compare_early(before, one, significance=0.0006)
        assert compare_early(before, one, significance=0.000668).verdict != "regression"


def test_a_large_fall_that_may_be_chance_names_the_share_of_the_complete_run():
    few = {"frames": "8", "depths": "0", "num_needles": 11}
    before = make_run(**few, outcome=lambda c, k: k < 3)
    after = make_run(**few, outcome=lambda c, k: k < 1)
    with pytest.raises(CannotCompareError, match=r"against 0.00075, as stopping early takes a qu"):
        compare_early(before, after)
    with pytest.raises(CannotCompareError, match=r"against 0.001\)"):
        compare(before, after)


def test_other_rules_are_decided_where_missing_samples_cannot_change_them():
    before = run(len(ORDER))
    half = run(5, lambda c, k: c.num_frames < 64)
    assert compare_early(before, half, max_drop=0.1).verdict == "regression"
    assert compare_early(before, half, max_mean_drop=0.3).verdict == "undecided"
    assert compare_early(before, half, min_mean=0.95).verdict == "regression"
    early = compare_early(before, run(5), min_mean=0.4)
    assert early.verdict == "passed" and "were all missing samples wrong" in early.summary()
    assert compare_early(before, run(5), min_mean=0.7, floors={8: 0.1}).verdict == "undecided"
    assert compare_early(before, run(5), keep_cells=["64:1"], significance=0.01).verdict == (
        "undecided"
    )
    with pytest.raises(InputError, match=r"keep_cells .* names 9:1, which is not compared"):
        compare_early(before, run(5), keep_cells=["9:1"])


def test_cells_that_only_the_candidate_has_count_for_its_own_rules():
    before = make_run(frames="8,16", depths="0,0.2,0.4,0.6,0.8,1", num_needles=20)
    after = run(5, lambda c, k: c.num_frames < 32)
    assert compare_early(before, after, min_mean=0.9).verdict == "regression"
    assert compare_early(before, after, max_drop=0.9).verdict == "undecided"


def test_samples_that_could_not_be_run_are_missing():
    before = run(len(ORDER))
    failed = run(3, lambda c, k: "no memory" if c == ORDER[1][0] and k == 2 else worse(c, k))
    early = compare_early(before, failed)
    assert early.test is not None and len(early.test.e_values) == 1
    blank = run(len(ORDER), lambda c, k: "no memory" if c == ORDER[1][0] else True)
    assert len(compare_early(blank, run(7, worse)).test.e_values) == 7


def not_run_by_either(c, k):
    """A sample of the first part, and a whole cell of the second."""
    return (c == ORDER[0][0] and k == 3) or c == ORDER[1][0]


def test_samples_that_neither_run_could_answer_give_no_evidence_and_hold_nothing_up():
    def with_errors(is_right, error="no memory"):
        return lambda c, k: error if not_run_by_either(c, k) else is_right(c, k)

    before, rest = run(len(ORDER), with_errors(lambda c, k: True)), Rules(significance=0.00375)
    parts = parts_of({found.cell for found in before.cells if found.score is not None})
    for error in ("no memory", None):  # tried, and not tried yet
        whole = run(len(ORDER), with_errors(worse, error))
        pairs = early_test(paired_table(before, whole), parts)
        for num in (2, 5):
            part = run(num, with_errors(worse, error))
            test = compare_early(before, part).test
            done = {found.cell for found in part.cells if found.score is not None}
            whole_parts = [*itertools.takewhile(lambda one: done.issuperset(one), parts)]  # noqa: B023
            assert test.e_values == pairs.e_values[: len(whole_parts)]
        early = compare_early(before, whole)
        tried = run(len(ORDER), with_errors(worse))
        assert early.comparison.findings == compare_by(before, tried, rest).findings
        assert early.verdict == "regression"
        same = compare_early(before, run(len(ORDER), with_errors(lambda c, k: True, error)))
        assert same.verdict == "passed" and same.comparison is not None
    assert early.num_done == early.num_planned - 21


def test_what_the_baseline_lacks_is_missing_for_rules_about_the_candidate_alone():
    before = run(8, lambda c, k: "no memory" if c == ORDER[0][0] else True)
    after = run(8, lambda c, k: None if c == ORDER[0][0] else True)
    assert compare_early(before, after).verdict == "passed"
    assert compare_early(before, after, min_mean=0.9).verdict == "passed"
    assert compare_early(before, after, min_mean=0.98).verdict == "undecided"
    assert compare_early(before, after, min_mean=0.98, significance=0.005).verdict == "undecided"
    wider = run(8, lambda c, k: True)
    part = {c for c in CELLS if c.num_frames < 64}
    narrow = make_run(**{**GRID, "frames": "8,16,32"})
    only = make_run(**GRID, outcome=lambda c, k: worse(c, k) if c in part else None)
    assert compare_early(narrow, only).verdict == "regression"
    assert compare_early(wider, only).verdict == "regression"


def test_samples_that_only_the_candidate_could_not_run_are_named_as_what_holds_it_up():
    before = run(len(ORDER))
    light = run(4, lambda c, k: "no memory" if (c, k) == (ORDER[1][0], 2) else c.depth > 0 or k > 2)
    early = compare_early(before, light)
    assert early.verdict == "undecided" and len(early.test.e_values) == 1
    assert "1 sample that the candidate could not run, and the baseline could" in early.summary()
    assert "could not run" not in compare_early(before, run(4)).summary()


def test_what_cannot_be_compared_early_is_one_line():
    before, after = run(len(ORDER)), run(3)
    with pytest.raises(CannotCompareError, match=r"the baseline .* is not complete"):
        compare_early(after, after)
    names = [f"other-{k}" for k in range(20)]
    others = {"needles__sha256": "dd", "needles__ids": names}
    with pytest.raises(CannotCompareError, match="other needles than the baseline"):
        compare_early(before, run(3, **others))
    with pytest.raises(CannotCompareError, match=r"differ in haystack\.sha256"):
        compare_early(before, run(3, haystack__sha256="ff"))
    fallen = {"outcome": lambda c, k: k > 0 or c.depth > 0, "num_needles": 5}
    one, old = (
        make_run(**{**GRID, **fallen, "controls": ["blind"]}),
        make_run(**GRID | {"num_needles": 5}),
    )
    planned = {**one.manifest, "sample_ids": f"{one.manifest['sample_ids']} -/-/needle-0/blind"}
    with pytest.raises(CannotCompareError, match=r"takes at least 11 needles, and .* has 5"):
        compare_early(old, replace(one, manifest=planned))
    with pytest.raises(CannotCompareError, match="from 5 needles: stopping early takes a quarter"):
        compare_early(old, one)
    nothing = compare_early(before, run(0))
    assert nothing.verdict == "undecided" and nothing.num_done == 0
    one = make_run("8", "0", num_needles=20)
    empty = make_run("8", "0", num_needles=20, outcome=lambda c, k: None)
    assert "0 of 0 looks" in compare_early(one, empty).summary()


def test_needles_that_samples_share_are_refused():
    def shared(results):
        samples = [make_sample(s.cell, 0, sample_id=s.sample_id) for s in results.samples]
        strip = [{"needle_ids": ["a", "b"]} for _ in samples]
        return type(results)(
            results.name,
            results.path,
            {**results.manifest, "task": "order"},
            tuple(
                make_sample(s.cell, 0, sample_id=s.sample_id, fields=fields, task="order")
                for s, fields in zip(samples, strip, strict=True)
            ),
        )

    for num in (0, 5):
        with pytest.raises(CannotCompareError, match="share needles"):
            compare_early(shared(run(len(ORDER))), shared(run(num)))


def test_command_line_formats_and_exit_codes(tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))

    def written(name, num_parts, is_right, **options):
        done = {c for part in ORDER[:num_parts] for c in part}
        outcome = lambda c, k: is_right(c, k) if c in done else None  # noqa: E731
        return str(write_run(tmp_path / name, **GRID, outcome=outcome, **options))

    old = written("old", len(ORDER), lambda c, k: True)
    going = written("going", 2, lambda c, k: True, model__name="a|b <i>\u202e")
    fallen = written("fallen", 7, worse)
    whole = written("whole", len(ORDER), lambda c, k: True)
    codes = [main(["compare", old, name, "--stop-early"]) for name in (going, fallen, whole)]
    assert codes == [3, 1, 0]
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("undecided after 120 of 480 samples: no significant fall")
    assert out[1].startswith("regression after 400 of 480") and out[2].startswith("passed: none")
    assert main(["compare", old, going, "--stop-early", "--format", "json"]) == 3
    record = json.loads(capsys.readouterr().out)
    assert record["verdict"] == "undecided" and record["passed"] is None
    assert record["num_looks"] == 2 and record["num_samples"] == 120
    for name, kind in ((going, "skipped"), (fallen, "failure"), (whole, "testcase")):
        main(["compare", old, name, "--stop-early", "--format", "junit"])
        root = ElementTree.fromstring(capsys.readouterr().out)
        assert root.find(f".//{kind}") is not None
    main(["compare", old, going, "--stop-early", "--format", "markdown"])
    assert capsys.readouterr().out.startswith("### undecided: tiny → a\\|b \\<i\\>")
    assert page.read_text().count("### ") == 8
    assert main(["compare", old, going]) == 2, "without the option it has to be complete"
    assert main(["compare", fallen, old, "--stop-early"]) == 2


NUM_NEEDLES = 16


class Counting:
    """Reads the green of the one frame that is not grey, and may have forgotten most of them."""

    revision = "1"

    def __init__(self, name, forgets=False):
        self.name, self._forgets = name, forgets

    def answer(self, frames, question):
        (place,) = [k for k, frame in enumerate(frames) if frame[0, 0, 0] > 200]
        green = int(frames[place][0, 0, 1])
        return "nothing" if self._forgets and (place + len(frames)) % 3 else str(green)


def load_steady():
    return Counting("steady")


def load_forgetful():
    return Counting("forgetful", forgets=True)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Options of a run on sixteen needles, and a baseline."""
    folder = tmp_path_factory.mktemp("material")
    film, needles = folder / "film", folder / "needles"
    film.mkdir(), needles.mkdir()
    for k in range(12):
        Image.new("RGB", (8, 8), (40 + 9 * k,) * 3).save(film / f"{k:02d}.png")
    rows = []
    for k in range(NUM_NEEDLES):
        green = 10 + 12 * k
        Image.new("RGB", (8, 8), (250, green, 0)).save(needles / f"{k}.png")
        row = {"file_name": f"{k}.png", "needle_id": f"card-{k}", "answer": str(green)}
        rows.append(json.dumps({**row, "question": f"What is on card {k}?"}) + "\n")
    (needles / "metadata.jsonl").write_text("".join(rows))
    options = ["--haystack", str(film), "--needles", str(needles), "--controls", "none"]
    options += ["--frames", "4,8,12", "--depths", "0,0.25,0.5,0.75,1"]
    baseline = str(folder / "baseline")
    command = ["run", "--model", "test_stop_early:load_steady", *options, "--output", baseline]
    assert main(command) == 0
    return options, baseline


@pytest.fixture
def no_pictures(monkeypatch):
    """Heatmaps of the command are not drawn; what they say of stopped runs is tested as text."""
    from vniah.analysis import plot

    def save(results, path, **_):
        path.write_bytes(b"a picture")
        return path

    monkeypatch.setattr(plot, "save_heatmaps", save)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_is_worse_stops_and_is_completed_by_the_command_without_the_option(
    settings, tmp_path, capsys
):
    options, baseline = settings
    folder = tmp_path / "worse"
    command = ["run", "--model", "test_stop_early:load_forgetful", *options]
    command += ["--output", str(folder)]
    assert main([*command, "--stop-early", baseline]) == 1
    output = capsys.readouterr()
    found = load_results(folder)
    assert 0 < found.num_done < found.num_planned == 15 * NUM_NEEDLES
    assert len({s.cell for s in found.samples}) * NUM_NEEDLES == len(found.samples)
    assert "stopped after" in output.err and "measures the rest" in output.err
    assert "the average is not to be quoted" in output.out and "regression after" in output.out
    lines = [line for line in output.out.splitlines() if f"{found.average:.4f}" in line]
    assert lines and all(line.index("not to be quoted") < line.index("0.") for line in lines)
    assert "from" not in output.out.split("heatmap")[0].split("stopped early")[0]
    assert found.manifest["stopped_early"]["samples"] == found.num_done
    summary = vniah.summarize(found)
    assert summary.needles_like_these is None and not summary.by_length
    assert all(row["low"] is None for row in table_rows([found], "lengths"))
    assert not length_series(found).has_interval
    number = f"{found.average:.4f}"
    texts = [caption(found), default_title(found), format_results([found], "lengths", "markdown")]
    assert all("to quote" in text or "not to be quoted" in text for text in texts)
    assert not any(number in text for text in texts)
    assert main([*command, "--stop-early", baseline]) == 1, "it stays stopped"
    assert load_results(folder).num_done == found.num_done
    assert "nothing to do" in capsys.readouterr().out
    assert main(["compare", str(folder), baseline]) == 2, "a stopped run is no baseline"
    assert "is not complete" in capsys.readouterr().err
    assert main(command) == 0
    capsys.readouterr()
    whole = load_results(folder)
    assert whole.is_complete and not whole.stopped_early and not whole.is_selected
    assert main([*command, "--stop-early", baseline]) == 1, "it is worse in the end, too"
    assert "a significant fall (average p" in capsys.readouterr().out


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_is_no_worse_is_measured_whole(settings, tmp_path, capsys):
    options, baseline = settings
    command = ["run", "--model", "test_stop_early:load_steady", *options, "--stop-early", baseline]
    assert main([*command, "--output", str(tmp_path / "same")]) == 0
    assert "passed: none of 15 cells fell" in capsys.readouterr().out
    found = load_results(tmp_path / "same")
    assert found.is_complete and "stopped_early" not in found.manifest
    earlier = load_results(baseline)
    assert [s.sample_id for s in found.samples] == [s.sample_id for s in earlier.samples]
    assert main([*command, "--output", str(tmp_path / "other"), "--frames", "4,8"]) == 2
    assert "lacks" in (told := capsys.readouterr().err) or "is not in the candidate" in told
    assert main([*command, "--output", str(tmp_path / "other"), "--adaptive"]) == 2
    assert "cannot stop early as well" in capsys.readouterr().err
    nowhere = [*command[:-1], str(tmp_path / "nowhere"), "--output", str(tmp_path / "other")]
    assert main(nowhere) == 2
    assert "the baseline cannot be read: no results at" in capsys.readouterr().err


def load_nothing():
    raise AssertionError("no model is to be loaded")


def test_a_baseline_of_ten_needles_is_refused_before_a_model_is_loaded(tmp_path, capsys):
    baseline, output = str(write_run(tmp_path / "ten")), tmp_path / "out"
    command = ["run", "--model", "test_stop_early:load_nothing", "--output", str(output)]
    assert main([*command, "--stop-early", baseline]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "it takes at least 11 needles, and the baseline has 10" in told
    assert "vniah compare of the whole run takes only 10" in told and "max" not in told
    going = write_run(tmp_path / "going", outcome=lambda c, k: k < 3 or None)
    table = PUBLISHED_DIR / "longva-7b_vniah.json"
    for path, why in ((going, "is not complete: 18 of 60"), (table, "is a published table")):
        assert main([*command, "--stop-early", str(path)]) == 2
        assert why in capsys.readouterr().err
    assert not output.exists()


def test_a_sweep_in_python_refuses_a_baseline_of_ten_needles(stand_in, tmp_path):
    with pytest.raises(CannotCompareError, match="at least 11 needles, and the baseline has 10"):
        stand_in(tmp_path / "out", stop_early=make_run())
    assert not (tmp_path / "out").exists()


@pytest.fixture
def stand_in(settings):
    """Sweeps a small random decoder, which gets everything wrong; and a run with all right."""
    options, _ = settings
    haystack, needles = open_haystack(options[1]), load_needles(options[3])
    grid, decoder = Grid.parse("4", "0,0.5,1"), build_decoder("qwen2")

    def sweep(output, **how):
        model = DecoderStandIn(deepcopy(decoder))  # one for each process
        how = {"on_progress": lambda stage, done, total: None, **how}
        return run_sweep(model, haystack, needles, grid, output=output, controls="none", **how)

    return sweep


def all_right(results):
    assert not any(sample.correct for sample in results.samples)
    return replace(results, samples=tuple(replace(s, correct=True) for s in results.samples))


def scores_of(results):
    return {s.sample_id: (s.correct, s.predicted_ids) for s in results.samples}


def test_a_decoder_is_stopped_early_after_it_was_killed_and_by_several_processes(
    stand_in, tmp_path
):
    whole = stand_in(tmp_path / "whole")
    baseline = all_right(whole)
    first, *_ = parts_of([found.cell for found in whole.cells])
    assert 0 < len(first) < len(whole.cells)

    def kill(stage, done, total):
        if stage == "sweep" and done >= 5:
            raise KeyboardInterrupt

    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        stand_in(folder, stop_early=baseline, on_progress=kill)
    assert 5 <= load_results(folder).num_done < NUM_NEEDLES * len(first)

    store = HashStore()

    def go_on(rank):
        mesh = Mesh(torch.device("cpu"), data_rank=rank, data_size=2, _store=store)
        return stand_in(folder, stop_early=baseline, mesh=mesh)

    with ThreadPoolExecutor(2) as pool:
        leader, other = pool.map(go_on, range(2))
    assert leader.manifest["stopped_early"]["samples"] == NUM_NEEDLES * len(first)
    assert {sample.cell for sample in leader.samples} == set(first)
    assert scores_of(leader) == scores_of(other)
    assert scores_of(leader).items() <= scores_of(whole).items()
    assert compare_early(baseline, folder).verdict == "regression"
    rest = stand_in(folder)
    assert rest.is_complete and not rest.stopped_early
    assert scores_of(rest) == scores_of(whole)


@pytest.mark.parametrize("num_models", [1, 2])
def test_runs_of_a_file_are_not_stopped_early(num_models, tmp_path, capsys):
    path = tmp_path / "sweep.toml"
    models = ["reference-long", "reference-short"][:num_models]
    path.write_text(f"stop-early = '{tmp_path}'\nmodels = {models}\n")
    assert main(["run", "--config", str(path)]) == 2
    told = capsys.readouterr().err
    assert f"{path}: runs of a file are measured whole" in told and "remove stop-early" in told
    several = ["run", "--rope-theta", "1e6,1e9", "--stop-early", str(tmp_path)]
    assert main(several) == 2
    assert "these are 2: one for each RoPE" in capsys.readouterr().err
