"""The gate that decides whether a model is worse, its rules, and how it is printed."""

import itertools
import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from runs import PUBLISHED_DIR, cell, make_run, write_run
from scipy.stats import binomtest, fisher_exact
from statsmodels.stats.multitest import multipletests

import vniah
from benchmarks.gate import FALLS, Setting, nights, table_of
from vniah.analysis.compare import compare
from vniah.analysis.compare.comparison import MOST_ROWS
from vniah.analysis.compare.formats import as_json, as_junit, as_markdown, as_text
from vniah.analysis.statistics.falls import paired_tests, unpaired_tests
from vniah.analysis.statistics.losses import losses_of
from vniah.analysis.statistics.paired import sign_flip_p_value
from vniah.cli import main
from vniah.errors import CannotCompareError, InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:the two runs have other needles:UserWarning"),
    pytest.mark.filterwarnings("ignore:3 samples of the candidate could not:UserWarning"),
]

PUBLISHED = PUBLISHED_DIR / "longva-7b_vniah.json"
NONE_RIGHT = {"outcome": lambda c, k: c != cell(16, "0.5")}


def rate(fall, is_paired, num_nights, *, num_needles=20, icc=0.2, own_share=0.1):
    setting = Setting(num_nights, num_needles, icc, 3, is_paired, own_share)
    return np.mean([tests.is_fall(0.005) for tests in nights(fall, setting)])


@pytest.mark.parametrize(("is_paired", "num_nights"), [(True, 365), (False, 200)])
def test_a_year_of_nights_of_the_same_model_has_hardly_an_alarm(is_paired, num_nights):
    assert rate(FALLS[0], is_paired, num_nights) <= 0.01


@pytest.mark.parametrize(("icc", "own_share"), [(0.0, 0.1), (0.2, 0.25)])
def test_chance_in_each_sample_or_each_needle_is_hardly_ever_an_alarm(icc, own_share):
    assert rate(FALLS[0], True, 365, num_needles=10, icc=icc, own_share=own_share) <= 0.01


@pytest.mark.parametrize("fall", FALLS[1:3], ids=lambda fall: fall.name)
def test_a_fall_of_ten_points_and_one_in_two_of_ninety_cells_are_found(fall):
    assert rate(fall, True, 80) >= 0.95


@pytest.mark.parametrize("fall", FALLS[4:], ids=lambda fall: fall.name)
def test_a_length_a_needle_and_all_needles_but_one_are_found_if_lost(fall):
    assert rate(fall, True, 20) >= 0.95, "one needle in twenty had little to lose"


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
    finding, lost, average = comparison.findings
    assert finding.rule == "significance" and finding.cells == (cell(16, "0.5"),)
    assert "the same samples, 10 needles" in finding.text
    assert (lost.rule, lost.passed, lost.text) == ("needles_lost", True, "no needle is lost")
    assert average.rule == "average_of_these_needles" and not average.passed
    assert "fell by 0.1667, which is more than 0.1 (p = 0.00098, against 0.001)" in average.text
    assert comparison.table().splitlines()[1].endswith("*")


def test_one_needle_less_is_no_regression_by_default():
    comparison = compare(make_run(), make_run(outcome=lambda c, k: k > 0 or c.depth > 0))
    assert comparison.passed and len(comparison.fallen) == 2
    assert "no significant fall" in comparison.summary()


WIDE = {"frames": "8,16,24,32,40,48", "depths": "0,0.2,0.4,0.6,0.8,1"}


def test_one_of_ten_needles_lost_everywhere_is_found_by_default_and_let_through_by_max_drop():
    lost = make_run(**WIDE, outcome=lambda c, k: k != 3)
    assert compare(make_run(**WIDE), lost, max_drop=0.1).passed
    comparison = compare(make_run(**WIDE), lost)
    assert [(f.rule, f.passed) for f in comparison.findings] == [
        ("significance", True),
        ("needles_lost", False),
        ("average_of_these_needles", True),
    ]
    finding = comparison.findings[1]
    assert finding.text == "1 needle lost: needle-3 (right 36 -> 0 of 36)"
    assert finding.needles == ("needle-3",) and finding.text in comparison.summary()
    for format_it in (as_text, as_json, as_junit, as_markdown):
        assert "needle-3" in format_it(comparison)
    assert json.loads(as_json(comparison))["findings"][1]["needles"] == ["needle-3"]


def test_as_many_needles_gained_as_lost_are_no_regression():
    before = make_run(**WIDE, outcome=lambda c, k: k != 2)
    after = make_run(**WIDE, outcome=lambda c, k: k != 3)
    comparison = compare(before, after)
    assert comparison.passed and comparison.fallen == ()
    text = "1 needle lost: needle-3 (right 36 -> 0 of 36); 1 gained: needle-2 (right 0 -> 36 of 36)"
    assert comparison.findings[1].text == text
    two = compare(before, make_run(**WIDE, outcome=lambda c, k: k not in (3, 4)))
    assert not two.passed and two.findings[1].needles == ("needle-3", "needle-4")


@pytest.mark.parametrize(
    ("num_needles", "never_found", "still_found"),
    [(10, 1, 0), (10, 0, 1), (20, 0, 12), (5, 0, 0), (3, 1, 0), (11, 5, 0), (10, 9, 0)],
)
def test_a_collapse_is_a_regression_whatever_needles_like_these_would_do(
    num_needles, never_found, still_found
):
    many = {"num_needles": num_needles, **WIDE}
    before = make_run(**many, outcome=lambda c, k: k >= never_found)
    after = make_run(**many, outcome=lambda c, k: never_found <= k < never_found + still_found)
    comparison = compare(before, after)
    assert not comparison.passed
    num_lost = num_needles - never_found - still_found
    lost = next(finding for finding in comparison.findings if finding.rule == "needles_lost")
    assert len(lost.needles) == num_lost and f"{num_lost} needle" in lost.text


def test_a_collapse_that_cannot_be_told_from_chance_is_no_pass():
    """Of runs with other needles, the needles that have something to lose are too few."""
    found_by = {"needles__sha256": "dd", "num_needles": 6, **WIDE}
    before = make_run(**WIDE, num_needles=6, outcome=lambda c, k: k > 0)
    message = (
        r"fell from 0\.8333 to 0\.0000, .* cannot be told from 6 needles \(p = 0\.0076, against "
        r"0\.0017\); it takes about 9 like these\. Give max_mean_drop"
    )
    with pytest.raises(CannotCompareError, match=message):
        compare(before, make_run(**found_by, outcome=lambda c, k: False), unpaired=True)
    one_left = make_run(**found_by, outcome=lambda c, k: k == 0)
    with pytest.raises(CannotCompareError, match="cannot be told from 6 needles"):
        compare(make_run(**WIDE, num_needles=6), one_left, unpaired=True)
    nine = {**found_by, "num_needles": 9, "outcome": lambda c, k: False}
    nine_before = make_run(**WIDE, num_needles=9, outcome=lambda c, k: k > 0)
    assert not compare(nine_before, make_run(**nine), unpaired=True).passed
    one_cell = {"frames": "8", "depths": "0"}
    with pytest.raises(CannotCompareError, match="cannot be told from 10 needles"):
        compare(make_run(**one_cell), make_run(**one_cell, outcome=lambda c, k: k < 2))


def test_the_size_of_a_significant_drop_is_a_rule():
    few = make_run(**WIDE, outcome=lambda c, k: k > 1 or c.depth > 0)  # 12 of 360 samples
    assert compare(make_run(**WIDE), few).passed
    comparison = compare(make_run(**WIDE), few, significant_drop=0.02)
    assert [f.rule for f in comparison.findings if not f.passed] == ["average_of_these_needles"]


def test_losses_are_exact_sign_tests_of_each_needle_with_holms_correction():
    rng = np.random.default_rng(4)
    before = rng.integers(0, 2, (7, 90))
    after = np.where(rng.random((7, 90)) < 0.3, rng.integers(0, 2, (7, 90)), before)
    before[0, :60], before[2, :60], after[2] = 1, 0, 1
    after[0], after[1] = 0, before[1] * (np.arange(90) % 3 > 0)
    found = losses_of(table_of((after - before).astype(float)), after.ravel().astype(float))
    p_values = []
    for old, new in zip(before, after, strict=True):
        down, up = int((old > new).sum()), int((old < new).sum())
        p_values.append(binomtest(down, down + up, alternative="greater").pvalue)
    adjusted = multipletests(p_values, method="holm")[1]
    fallen = [k for k in range(7) if after[k].sum() < before[k].sum()]
    assert [one.needle for one in found.fallen] == [f"needle-{k:02}" for k in fallen]
    assert [one.p_value for one in found.fallen] == pytest.approx([adjusted[k] for k in fallen])
    assert [one.needle for one in found.lost(0.001)] == ["needle-00"], "a third is not half"
    assert [one.needle for one in found.gained(0.001)] == ["needle-02"]
    assert not found.are_more_lost(0.001), "one is lost, and one gained"
    down, up = int((before > after).sum()), int((before < after).sum())
    assert found.p_value == pytest.approx(binomtest(down, down + up, alternative="greater").pvalue)
    assert found.drop == pytest.approx((before.mean(axis=0) - after.mean(axis=0)).mean())
    assert found.num_right_before == before.sum()


def test_tasks_whose_samples_share_needles_are_judged_by_their_average():
    def run(outcome):
        made = make_run(**WIDE, outcome=outcome)
        fields = {"needle_ids": ["a", "b"], "needle_index": 0}
        samples = (replace(one, fields=fields) for one in made.samples)
        return replace(made, samples=tuple(samples))

    whole = run(lambda c, k: True)
    comparison = compare(whole, run(lambda c, k: k < 5))
    assert [f.rule for f in comparison.findings] == ["average_of_these_needles"]
    assert not comparison.passed
    with pytest.raises(CannotCompareError, match="because samples of this task share needles"):
        compare(whole, run(lambda c, k: k > 0))


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
    with pytest.raises(CannotCompareError, match=r"give unpaired \(--unpaired\), which compares"):
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
        ("keep_cells = ['a']", "keep_cells must hold cells as LENGTH:DEPTH, such as 512:0.5, got"),
        ("keep_cells = ['8:25']", "write 0.25, not 25"),
        (
            "[floors]\nlong = 0.9",
            "floors must be named by lengths .numbers of frames, pages or tokens., got 'long'",
        ),
        ("[floors]\n8 = 'x'", "the floor of '8' must be a number, got 'x'"),
        ("[floors]\n8 = true", "the floor of '8' must be a number, got True"),
        ("[floors]\n8 = 2", "the floor of the length 8 must be between 0 and 1, got 2"),
        (
            "[floors]\n9 = 0.5",
            r"floors \(--floor\) names 9 frames, which the candidate has no score at",
        ),
        (
            "keep_cells = ['8:0.3']",
            r"\(--keep-cell\) names 8:0.3, which is not compared; there are 8:0, 8:0.5, 8:1$",
        ),
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


def test_what_is_left_out_is_a_warning_of_python_also_where_the_rules_hold(recwarn):
    before = make_run(outcome=lambda c, k: "timeout" if k == 0 else True)
    with pytest.warns(UserWarning, match="left out of both runs: 6 samples") as caught:
        assert vniah.compare(before, make_run()).passed
        vniah.assert_no_regression(make_run(), before)
    assert [one.filename for one in caught] == [__file__] * 2
    vniah.assert_no_regression(make_run(), make_run())
    assert not recwarn.list
    with pytest.raises(AssertionError, match="warning: left out of both runs"):
        vniah.assert_no_regression(make_run(outcome=lambda c, k: False), before)


def test_an_assertion_has_no_character_that_cannot_be_seen():
    worse = make_run(model__name="a\x1b[2J\nb\u202e", outcome=lambda c, k: False)
    with pytest.raises(AssertionError) as caught:
        vniah.assert_no_regression(worse, make_run())
    lines = str(caught.value).splitlines()
    assert all(line.isprintable() for line in lines) and r"a\x1b[2J\nb\u202e" in lines[0]


@pytest.mark.parametrize("style", ["text", "json", "junit", "markdown"])
def test_what_cannot_be_compared_is_said_in_every_format(style, tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    old = str(write_run(tmp_path / "old"))
    assert main(["compare", old, str(tmp_path / "no<where"), "--format", style]) == 2
    out, error = capsys.readouterr()
    assert "cannot compare: the candidate cannot be read" in error
    assert page.read_text().startswith("### not compared\n\nthe candidate cannot be read")
    if style == "json":
        record = json.loads(out)
        assert record["passed"] is None and "no<where" in record["error"]
    elif style == "junit":
        root = ElementTree.fromstring(out)
        assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("1", "0", "1")
        (found,) = root.iter("error")
        assert "no<where" in found.get("message") and found.text == found.get("message")
    elif style == "markdown":
        assert out.startswith("### not compared") and "no\\<where" in out
    else:
        assert not out


def test_rules_of_cells_for_other_needles_are_refused_with_a_way_out(tmp_path, capsys):
    old = str(write_run(tmp_path / "old"))
    new = str(write_run(tmp_path / "new", needles__sha256="d" * 64))
    assert main(["compare", old, new, "--max-drop", "0.1"]) == 2
    error = capsys.readouterr().err
    assert "dddddddddddd..." in error and "d" * 20 not in error
    assert "Without these rules, unpaired (--unpaired) compares runs with other needles" in error
    assert main(["compare", old, new, "--unpaired"]) == 0


def test_one_cell_is_called_the_only_one():
    one = make_run("8", "0")
    assert "the only cell did not fall, average" in compare(one, one).summary()
    text = compare(one, one, max_drop=0.1).summary()
    assert "the only cell did not fall by more than 0.1" in text
    assert "no cell to keep fell (8:0)" in compare(one, one, keep_cells=["8:0"]).summary()


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
    assert text.count("###") == 4 and "a\\|b \\<i\\>\\\\x7f" in text and "**fails**" in text
    assert text.endswith("### not compared\n\n\\--floor names a length twice\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    capsys.readouterr()
    assert main(["compare", old, old]) == 0
    assert "GITHUB_STEP_SUMMARY cannot be written" in capsys.readouterr().err
