"""The gate that decides whether a model is worse, its rules, and how it is printed."""

import itertools
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from runs import PUBLISHED_DIR, cell, make_run, write_run
from scipy.stats import fisher_exact

import vniah
from benchmarks.gate import FALLS, nights, table_of
from vniah.analysis.compare import compare
from vniah.analysis.compare.comparison import MOST_ROWS
from vniah.analysis.statistics.falls import paired_tests, unpaired_tests
from vniah.analysis.statistics.paired import sign_flip_p_value
from vniah.cli import main
from vniah.errors import CannotCompareError, InputError

PUBLISHED = PUBLISHED_DIR / "longva-7b_vniah.json"
NONE_RIGHT = {"outcome": lambda c, k: c != cell(16, "0.5")}


def rate(fall, is_paired, num_nights):
    found = nights(
        fall, num_nights=num_nights, num_needles=20, icc=0.2, is_paired=is_paired, seed=3
    )
    return np.mean([tests.is_fall(0.005) for tests in found])


@pytest.mark.parametrize("is_paired", [True, False])
def test_a_year_of_nights_of_the_same_model_has_hardly_an_alarm(is_paired):
    assert rate(FALLS[0], is_paired, 365) <= 0.01


@pytest.mark.parametrize("fall", FALLS[1:3], ids=lambda fall: fall.name)
def test_a_fall_of_ten_points_and_one_in_two_of_ninety_cells_are_found(fall):
    assert rate(fall, True, 80) >= 0.95


def test_paired_tests_are_those_of_every_sign_change():
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 2, (7, 90)).astype(float)
    found = paired_tests(table_of(values))
    assert found.average == pytest.approx(
        sign_flip_p_value(values.mean(axis=1), alternative="less")
    )
    signs = np.array(list(itertools.product((1, -1), repeat=7)))
    worst = (signs @ values / 7).min(axis=1)
    assert found.worst_cell == pytest.approx(np.mean(worst <= values.mean(axis=0).min() + 1e-9))
    assert found.least == 1 / 128 and not found.can_find(0.005)


def test_unpaired_tests_are_those_of_every_deal():
    rng = np.random.default_rng(1)
    before, after = (rng.integers(0, 2, (num, 90)).astype(float) for num in (5, 4))
    found = unpaired_tests(table_of(before), table_of(after))
    every, differences = np.concatenate((before, after)), []
    for places in itertools.combinations(range(9), 4):
        others = [k for k in range(9) if k not in places]
        differences.append(every[list(places)].mean(axis=0) - every[others].mean(axis=0))
    seen = after.mean(axis=0) - before.mean(axis=0)
    averages, worst = np.mean(differences, axis=1), np.min(differences, axis=1)
    assert found.average == pytest.approx(np.mean(averages <= seen.mean() + 1e-9))
    assert found.worst_cell == pytest.approx(np.mean(worst <= seen.min() + 1e-9))
    right = [(int(values[:, 0].sum()), len(values)) for values in (after, before)]
    counts = [[num_right, num - num_right] for num_right, num in right]
    p_value = fisher_exact(counts, alternative="less").pvalue
    first = next(iter(found.cells.values())).fall
    assert first == pytest.approx(min(1, 90 * p_value)) or first >= p_value


def test_unpaired_tests_where_a_needle_lacks_samples_are_close_to_those_with_all():
    rng = np.random.default_rng(2)
    before, after = rng.integers(0, 2, (2, 12, 90)).astype(float)
    whole = unpaired_tests(table_of(before), table_of(after))
    table = table_of(after)
    part = unpaired_tests(table_of(before), table.where(np.arange(len(table.values)) != 5))
    assert part.average == pytest.approx(whole.average, abs=0.05)


def test_a_cell_that_all_ten_needles_lose_is_a_regression_by_default():
    comparison = compare(make_run(), make_run(**NONE_RIGHT))
    assert not comparison.passed
    (finding,) = comparison.findings
    assert finding.rule == "significance" and finding.cells == (cell(16, "0.5"),)
    assert "the same samples, 10 needles" in finding.text
    assert comparison.table().splitlines()[1].endswith("*")


def test_one_needle_less_is_no_regression_by_default():
    comparison = compare(make_run(), make_run(outcome=lambda c, k: k > 0 or c.depth > 0))
    assert comparison.passed and len(comparison.fallen) == 2
    assert "no significant fall" in comparison.summary()


def test_one_of_ten_needles_lost_in_every_cell_is_what_max_drop_lets_through():
    lost = make_run(outcome=lambda c, k: k != c.needle_index % 10)
    assert compare(make_run(), lost, max_drop=0.1).passed


def test_a_fall_is_not_judged_where_nothing_can_be_known():
    few = {"num_needles": 5}
    with pytest.raises(CannotCompareError, match=r"from 5 needles: .* at least 10\. Give max_drop"):
        compare(make_run(**few), make_run(**few, **NONE_RIGHT))
    assert compare(make_run(**few), make_run(**few)).passed
    assert compare(PUBLISHED, PUBLISHED).passed


def test_changes_are_shown_in_both_directions():
    before = make_run(outcome=lambda c, k: c.depth < 1)
    after = make_run(outcome=lambda c, k: c.depth > 0)
    comparison = compare(before, after, min_mean=0.1)
    assert [change.cell.depth for change in comparison.fallen] == [0, 0]
    assert [change.cell.depth for change in comparison.risen] == [1, 1]
    changes = [line.split()[6] for line in comparison.table().splitlines()[1:]]
    assert changes == ["-1.000", "-1.000", "+1.000", "+1.000"]
    assert {change.p_value for change in comparison.changes if change.drop} == {6 / 2**10}


def test_a_long_table_counts_what_it_leaves_out():
    wide = {"frames": ",".join(str(8 * k) for k in range(1, 12)), "num_needles": 2}
    comparison = compare(make_run(**wide), make_run(**wide, outcome=lambda c, k: False), max_drop=0)
    lines = comparison.table().splitlines()
    assert len(lines) == MOST_ROWS + 2 and lines[-1] == "and 13 cells more that fell"


def test_runs_with_other_needles_are_compared_as_two_sets():
    others = make_run(needles__sha256="dd")
    with pytest.raises(CannotCompareError, match=r"differ in needles.*unpaired compares runs with"):
        compare(make_run(), others)
    comparison = compare(make_run(), others, unpaired=True)
    assert comparison.passed and not comparison.is_paired
    assert "other needles" in comparison.warning
    worse = compare(make_run(), make_run(**NONE_RIGHT, needles__sha256="dd"), unpaired=True)
    assert not worse.passed and "other needles, not paired" in worse.summary()
    names = [f"other-{k}" for k in range(10)]
    distinct = make_run(needles__sha256="dd", needles__ids=names)
    assert not compare(make_run(), distinct).is_paired, "they share no needle"
    with pytest.raises(CannotCompareError, match=r"differ in needles\.sha256"):
        compare(make_run(), others, unpaired=True, max_drop=0.1)


@pytest.mark.parametrize(
    ("rule", "value", "good"),
    [
        ("max_mean_drop", 0.1, 0.2),
        ("min_mean", 0.9, 0.8),
        ("min_effective_length", 16, 8),
        ("floors", {16: 0.7}, {16: 0.6}),
        ("keep_cells", ["16:0.5"], ["8:0.5", "16:0"]),
    ],
)
def test_each_rule_by_itself(rule, value, good):
    candidate = make_run(**NONE_RIGHT)
    comparison = compare(make_run(), candidate, **{rule: value})
    assert [(f.rule, f.passed) for f in comparison.findings] == [(rule, False)]
    assert compare(make_run(), candidate, **{rule: good}).passed


def test_allowed_errors_count_as_wrong():
    candidate = make_run(outcome=lambda c, k: "timeout" if (c.num_frames, k) == (8, 0) else True)
    with pytest.raises(CannotCompareError, match="3 samples that the baseline could, and allowed_"):
        compare(make_run(), candidate, allowed_errors=2)
    comparison = compare(make_run(), candidate, allowed_errors=3, max_drop=0.1)
    assert comparison.passed and comparison.num_forgiven == 3
    assert len(comparison.fallen) == 3 and "count as wrong" in comparison.warning
    assert not compare(make_run(), candidate, allowed_errors=3, min_mean=0.99).passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_drp = 0.1", r"rules.toml: there is no rule 'max_drp'; do you mean max_drop\?"),
        ("max_drop = 5", "max_drop must be between 0 and 1, got 5"),
        ("max_drop = 'a'", "max_drop must be a number, got 'a'"),
        ("min_mean = nan", "min_mean must be between 0 and 1, got nan"),
        ("significance = 0", "significance must be above 0 and at most 0.5, got 0"),
        ("keep_cells = ['a']", "keep_cells must hold cells as FRAMES:DEPTH, such as 512:0.5, got"),
        ("keep_cells = ['8:25']", "write 0.25, not 25"),
        ("[floors]\nlong = 0.9", "floors must be named by numbers of frames, got 'long'"),
        ("[floors]\n8 = 2", "the floor of 8 frames must be between 0 and 1, got 2"),
        ("[floors]\n9 = 0.5", "floors names 9 frames, which the candidate has no score at"),
        ("keep_cells = ['8:0.3']", "keep_cells names 8:0.3, which is not compared"),
        ("allowed_errors = -1", "allowed_errors"),
        ("min_effective_length = 0.5", "min_effective_length must be a whole number"),
        ("allowed_errors = 1", "has no rule that a candidate could fail"),
        ("max_drop = ", "cannot be read as TOML"),
        ("", "has no rule that a candidate could fail"),
    ],
)
def test_bad_rules_are_one_clear_line(tmp_path, text, message):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        compare(make_run(), make_run(), rules=path)
    assert "\n" not in str(caught.value)


def test_arguments_replace_rules_of_a_file(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text("max_drop = 0\nmin_mean = 0.5\n")
    comparison = compare(make_run(), make_run(**NONE_RIGHT), rules=path, max_drop=1.0)
    assert comparison.passed and len(comparison.findings) == 2
    with pytest.raises(InputError, match="cannot be read: No such file"):
        compare(make_run(), make_run(), rules=tmp_path / "nowhere.toml")


def test_assert_no_regression_raises_with_the_table():
    vniah.assert_no_regression(make_run(), make_run(**NONE_RIGHT), max_drop=0.1)
    with pytest.raises(AssertionError, match=r"(?s)^regression: .*-1\.000"):
        vniah.assert_no_regression(make_run(**NONE_RIGHT), make_run())


def test_formats_on_the_command_line_and_the_step_summary(tmp_path, capsys, monkeypatch):
    name = "a|b <i>\x7f\u202e"
    old = str(write_run(tmp_path / "old"))
    new = str(write_run(tmp_path / "new", **NONE_RIGHT, model__name=name))
    page = tmp_path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    assert main(["compare", old, new, "--format", "json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["passed"] is False and record["candidate"]["name"] == name
    assert len(record["cells"]) == 6 and record["findings"][0]["cells"] == ["16:0.5"]
    floors = ["--floor", "8=0.9", "--floor", "16=0.9", "--keep-cell", "8:0"]
    assert main(["compare", old, new, "--format", "junit", *floors]) == 1
    root = ElementTree.fromstring(capsys.readouterr().out)
    assert root.get("tests") == "3" and root.get("failures") == "1"
    assert len({case.get("name") for case in root.iter("testcase")}) == 3
    assert main(["compare", old, old, "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("### passed: tiny")
    assert main(["compare", old, new, "--floor", "8=1", "--floor", "8=0"]) == 2
    text = page.read_text()
    assert text.count("###") == 3 and "a\\|b &lt;i&gt;\\\\x7f" in text and "**fails**" in text
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    capsys.readouterr()
    assert main(["compare", old, old]) == 0
    assert "GITHUB_STEP_SUMMARY cannot be written" in capsys.readouterr().err
