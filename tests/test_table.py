"""Tables of results: the numbers, what is said of missing ones, and the formats."""

import csv
import io
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from runs import PUBLISHED_DIR, make_run, make_sample, write_run

import vniah
from vniah.analysis.labels import result_labels
from vniah.analysis.statistics import wilson_interval
from vniah.analysis.statistics.intervals import Interval
from vniah.analysis.statistics.means import score_interval
from vniah.analysis.table_formats import escape_latex, escape_markdown, format_results
from vniah.analysis.table_rows import table_rows
from vniah.cli import main
from vniah.cli.display import format_comparison, format_controls, format_gaps, format_table
from vniah.errors import InputError, ResultsError
from vniah.results import load_results

LONGVA = PUBLISHED_DIR / "longva-7b_vniah.json"
KINDS = ("lengths", "cells", "needles", "controls")
HOSTILE = 'a|b & c_d %e $f# {g}~^\\ <h> `i` "j" *k* [l]\n\x1b[0m \u05d0\u4e2d \u202e'


def uneven(cell, k):
    """Right for needles that are few enough for the depth."""
    return k < 10 * (1 - cell.depth) + 2 * (cell.num_frames < 16)


def with_controls(results, num_errors=0):
    samples = []
    for k in range(10):
        sample = make_sample(results.cells[0].cell, k, "oh" if k < num_errors else k == 9)
        fields = {"num_frames": 8, "needle_id": f"needle-{k}"}
        sample = replace(sample, cell=None, control="no-needle", fields=fields)
        samples.append(replace(sample, sample_id=f"8/-/needle-{k}/no-needle"))
    return replace(results, control_samples=tuple(samples))


def renamed(results, name):
    return replace(results, name=name)


# --- the numbers ---------------------------------------------------------------------------------


def test_cells_have_wilson_intervals():
    rows = table_rows([make_run(outcome=uneven)], "cells")
    assert [(row["num_frames"], row["depth"]) for row in rows] == [
        (n, d) for n in (8, 16) for d in (0.0, 0.5, 1.0)
    ]
    for row in rows:
        found = wilson_interval(row["num_correct"], 10)
        assert (row["low"], row["high"]) == (found.low, found.high)
        assert row["score"] == row["num_correct"] / 10 and row["num_samples"] == 10
    assert [row["num_correct"] for row in rows] == [10, 7, 2, 10, 5, 0]


def test_lengths_have_intervals_over_needles_and_the_run_comes_first():
    results = make_run(outcome=uneven)
    whole, *rows = table_rows([results], "lengths")
    assert [row["num_frames"] for row in (whole, *rows)] == [None, 8, 16]
    for row in (whole, *rows):
        own = [s for s in results.samples if row["num_frames"] in (None, s.num_frames)]
        means = [fmean(s.correct for s in own if s.needle_id == f"needle-{k}") for k in range(10)]
        expected = score_interval(np.array(means))
        assert row["score"] == pytest.approx(fmean(means), abs=1e-12)
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
        assert (row["num_needles"], row["num_samples"]) == (10, len(own))
    assert whole["score"] == results.average
    assert (whole["num_cells"], whole["num_planned_cells"]) == (6, 6)


def test_needles_have_intervals_over_depths():
    results = make_run(outcome=uneven)
    rows = table_rows([results], "needles")
    assert [row["needle"] for row in rows] == [f"needle-{k}" for k in range(10)]
    for row in rows:
        own = [sample for sample in results.samples if sample.needle_id == row["needle"]]
        depths = [
            fmean(sample.correct for sample in own if sample.cell.depth == depth)
            for depth in (0, Fraction(1, 2), 1)
        ]
        expected = score_interval(np.array(depths))
        assert row["score"] == pytest.approx(fmean(depths))
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
        assert row["num_samples"] == 6


def test_controls_have_intervals_for_needles_like_these():
    (row,) = table_rows([with_controls(make_run(), num_errors=2)], "controls")
    expected = wilson_interval(1, 8)
    assert (row["control"], row["num_frames"], row["score"]) == ("no-needle", 8, 1 / 8)
    assert (row["low"], row["high"]) == (expected.low, expected.high)
    assert (row["num_samples"], row["num_correct"], row["num_errors"]) == (8, 1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_table_of_pandas_has_the_rows(kind):
    results = with_controls(make_run(outcome=uneven))
    rows, frame = table_rows([results], kind), vniah.table(results, kind)
    assert list(frame.columns) == list(rows[0]) and len(frame) == len(rows)
    assert frame["score"].to_list() == [row["score"] for row in rows]
    assert frame["high"].to_list() == [row["high"] for row in rows]


def test_table_of_a_published_table_and_a_run_has_both(tmp_path):
    run = write_run(tmp_path / "run", "8", "0,1")
    frame = vniah.table([LONGVA, str(run)])
    assert frame["result"].unique().tolist() == ["longva-7b_vniah", "tiny"]
    table = frame[frame["result"] == "longva-7b_vniah"]
    assert len(table) == 16 and round(table["score"].iloc[0], 4) == 0.9089
    assert table[["low", "high", "num_samples", "num_needles"]].isna().all(axis=None)
    text = PUBLISHED_DIR / "qwen2-7b-224k_niah_distractor0.json"
    headings = [
        format_results([load_results(path)], "lengths", "text")[:30] for path in (LONGVA, text)
    ]
    assert ["(tokens)" in heading for heading in headings] == [False, True]
    with pytest.raises(ResultsError, match=r"longva-7b_vniah.json do not say how each needle did"):
        vniah.table(LONGVA, "needles")
    with pytest.raises(ResultsError, match="have no controls; give a run with controls"):
        vniah.table([LONGVA, str(run)], "controls")
    with pytest.raises(
        InputError, match="one of lengths, cells, needles, controls, applied, got 'rows'"
    ):
        vniah.table(LONGVA, "rows")


# --- what is missing -----------------------------------------------------------------------------


def broken():
    """A cell of errors, one without a line yet, one that lacks a sample."""

    def outcome(cell, k):
        place = cell.num_frames, cell.depth
        if place == (8, 1):
            return "oh"
        if place == (16, 1):
            return None
        return "oh" if place == (16, 0) and k == 0 else True

    return make_run(outcome=outcome)


def test_missing_cells_are_unknown_and_never_0():
    rows = table_rows([broken()], "cells")
    assert [row["score"] for row in rows] == [1, 1, None, 1, 1, None]
    assert [row["num_samples"] for row in rows] == [10, 10, 0, 9, 10, 0]
    assert [row["num_errors"] for row in rows] == [0, 0, 10, 1, 0, 0]
    assert [row["low"] is None for row in rows] == [False, False, True, False, False, True]
    frame = vniah.table(broken(), "cells")
    assert frame["score"].isna().to_list() == [False, False, True, False, False, True]
    whole = table_rows([broken()], "lengths")[0]
    assert (whole["score"], whole["num_cells"], whole["num_planned_cells"]) == (1, 4, 6)


@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
@pytest.mark.parametrize("kind", ["lengths", "cells"])
def test_tables_say_what_the_average_is_over(kind, style):
    text = format_results([broken()], kind, style).replace("\\", "")
    assert "the average 1.0000 is over 4 of 6 cells, 1 of them without the samples that" in text
    assert "at 8 frames the mean is over 2 of 3 cells, without 10 samples that could" in text
    assert "0.00" not in text.replace("1.0000", "").replace("(0.00", "")


@pytest.mark.parametrize("outcome", ["oh", None], ids=["errors", "not begun"])
@pytest.mark.parametrize("style", ["text", "markdown", "latex", "csv", "json"])
def test_tables_of_a_run_without_a_score_have_none(outcome, style):
    results = make_run("8", "1", outcome=lambda cell, k: outcome)
    for kind in ("lengths", "cells"):
        text = format_results([results], kind, style)
        assert "1 cell" in text or style in ("csv", "json")
        assert not re.search(r"\b0\.\d", text.replace("0.9", ""))
        assert table_rows([results], kind)[0]["score"] is None


def test_needle_that_could_never_be_run_has_no_score():
    results = make_run("8", "0,1", outcome=lambda cell, k: "oh" if k == 3 else True)
    row = table_rows([results], "needles")[3]
    assert (row["score"], row["low"], row["num_samples"], row["num_errors"]) == (None, None, 0, 2)
    text = format_results([results], "needles", "text")
    assert re.search(r"needle-3 +\.\n", text)
    assert "0 to 2 samples of each needle" in text and "without 2 samples" in text


# --- several results -----------------------------------------------------------------------------


def test_results_of_one_name_are_told_apart():
    run = make_run()
    other = replace(run, path=Path("runs/other"))
    assert result_labels([run, other]) == ("tiny in runs/tiny", "tiny in runs/other")
    assert result_labels([run, run]) == ("tiny in runs/tiny (1)", "tiny in runs/tiny (2)")
    assert result_labels([run, renamed(run, "big")]) == ("tiny", "big")


def test_controls_of_several_results_stand_below_one_another():
    runs = [with_controls(make_run()), renamed(make_run(), "big")]
    text = format_results(runs, "controls", "text")
    assert re.search(r"control  result +8\nno-needle    tiny  0.10\n", text)
    assert text.endswith("big: no controls")


def test_frames_and_tokens_have_tables_of_their_own():
    text_table = PUBLISHED_DIR / "qwen2-7b-224k_niah_distractor5.json"
    runs = [make_run(), load_results(text_table)]
    text = format_results(runs, "lengths", "text")
    frames, tokens = text.split("\n\n")
    assert frames.startswith("number of frames\n") and "32,000" not in frames
    assert tokens.startswith("number of tokens\n") and "0.9205" in tokens


# --- formats -------------------------------------------------------------------------------------


def test_text_is_what_a_run_prints(tmp_path, capsys):
    write_run(tmp_path / "run", outcome=uneven)
    results = load_results(tmp_path / "run")
    assert main(["table", str(tmp_path / "run"), "--kind", "cells"]) == 0
    assert capsys.readouterr().out == format_table(results) + "\n"
    assert main(["table", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith(format_comparison(["tiny"], [results]) + "\n")
    controls = with_controls(results, num_errors=1)
    text = format_results([controls], "controls", "text")
    assert text == f"{format_controls(controls)}\ntiny: {format_gaps(controls)[0]}"


def cells_of_markdown(line):
    """The texts of a row, as Markdown shows them."""
    parts = re.split(r"(?<!\\)\|", line)
    assert parts[0] == parts[-1] == ""
    return [re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", part.strip()) for part in parts[1:-1]]


def test_markdown_shows_names_as_they_are():
    rows = [renamed(make_run("8", "0"), "a|b_c*d*`e`<f>&amp;~g~$h$[i](j)\\|"), make_run("8", "0")]
    lines = format_results(rows, "lengths", "markdown").splitlines()
    heading, rule, first, second = map(cells_of_markdown, lines[:4])
    assert heading[:2] == ["mean over depth", "8"] and rule[:2] == ["---", "---:"]
    assert first[:2] == [rows[0].name, "1.00 (0.72 to 1.00)"] and second[0] == "tiny"
    assert len(heading) == len(rule) == len(first) == len(second)
    assert lines[4] == "" and lines[5].startswith("- 95 %")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain-7b 0.5", "plain-7b 0.5"),
        ("a|b\\", "a\\|b\\\\"),
        ("line\nend\x1b", "line\\\\nend\\\\x1b"),
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("0.42", "0.42"),
        ("\u05d0\u4e2d\u00e9", "\u05d0\u4e2d\u00e9"),
    ],
)
def test_escape_markdown(text, escaped):
    assert escape_markdown(text) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain-7b 0.5", "plain-7b 0.5"),
        ("a_b & 5 % #1 {c}", r"a\_b \& 5 \% \#1 \{c\}"),
        ("~^\\$", r"\textasciitilde{}\textasciicircum{}\textbackslash{}\$"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("[x] *", "{[}x{]} {*}"),
        ("a--b ''", "a-{}-b '{}'"),
        ('`"', r"\textasciigrave{}\symbol{34}"),
        ("line\nend", r"line\textbackslash{}nend"),
        ("\u05d0\u4e2d\u00e9", "\u05d0\u4e2d\u00e9"),
    ],
)
def test_escape_latex(text, escaped):
    assert escape_latex(text) == escaped


@pytest.mark.parametrize("kind", KINDS)
def test_latex_of_hostile_names_has_whole_rows(kind):
    runs = [renamed(with_controls(make_run("8", "0,1")), HOSTILE), make_run("8", "0,1")]
    text = format_results(runs, kind, "latex")
    code = [line for line in text.splitlines() if not line.startswith("%")]
    tables = "\n".join(code).split(r"\end{tabular}")[:-1]
    assert len(tables) == (2 if kind == "cells" else 1)
    for table in tables:
        num_columns = len(re.search(r"\\begin\{tabular\}\{(l?r*)\}", table)[1])
        rows = re.findall(r"^(.*) \\\\$", table, flags=re.MULTILINE)
        about, *rows = rows
        assert about.startswith(rf"\multicolumn{{{num_columns}}}{{l}}{{S")
        assert rf"95 \% intervals for {'this' if kind == 'needles' else 'needles like'}" in about
        assert len(rows) >= 2
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == num_columns - 1
            assert not re.search(r"(?<!\\)[%$#_~^]", row)
            unescaped = re.sub(r"\\[{}]", "", row)
            assert unescaped.count("{") == unescaped.count("}")
            assert row.isprintable()


def test_csv_names_what_intervals_are_for():
    run = with_controls(make_run(outcome=uneven))
    for kind, what in (
        ("lengths", "needles like these"),
        ("cells", "needles like these in this cell"),
        ("needles", "this needle at other places"),
        ("controls", "needles like these"),
    ):
        (row, *_) = csv.DictReader(io.StringIO(format_results([run], kind, "csv")))
        assert row["interval_for"] == what and row["low"]


def test_ends_of_intervals_are_told_apart():
    assert Interval(0.9, 0.95).text() == "0.90 to 0.95"
    assert Interval(0.9012, 0.9049).text() == "0.901 to 0.905"
    assert Interval(0.90001, 0.90002).text("-") == "0.90001-0.90002"
    assert Interval(1.0, 1.0).text() == "1.00 to 1.00"
    assert Interval(0.826, 0.9).text() == "0.83 to 0.90"
    assert Interval(0.826, 0.9).text(around=0.828) == "0.826 to 0.900"
    assert Interval(0.826, 0.9).text(around=0.5) == "0.83 to 0.90", "it is not in the interval"
    change = Interval(-0.15569, -0.04595)
    assert change.text(around=-0.04805, signed=True) == "-0.156 to -0.046"
    assert change.text(around=-0.1, signed=True) == "-0.16 to -0.05"


def test_signs_of_the_effective_length_are_explained():
    short = format_results([make_run(outcome=lambda c, k: k > 4)], "lengths", "text")
    assert "< 8" in short and "effective length: < stands where" in short
    between = make_run("8,16", outcome=lambda c, k: c.num_frames == 8 or k > 1)
    assert "effective length: <" not in format_results([between], "lengths", "text")


@pytest.mark.parametrize("kind", KINDS)
def test_csv_and_json_hold_the_whole_numbers(kind):
    runs = [renamed(with_controls(make_run(outcome=uneven)), HOSTILE), broken()]
    rows = table_rows(runs, kind)
    found = json.loads(format_results(runs, kind, "json"))
    assert found["rows"] == rows and found["kind"] == kind
    assert found["results"][0]["name"] == HOSTILE
    assert found["results"][1]["num_cells"] == 4
    assert found["results"][1]["num_planned_cells"] == 6
    read = list(csv.DictReader(io.StringIO(format_results(runs, kind, "csv"))))
    assert read == [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
    ]


def test_intervals_can_be_left_out_and_added():
    results = make_run("8", "0", outcome=lambda cell, k: k > 0)
    assert "0.60 to 0.98" in format_results([results], "cells", "markdown")
    assert " to 0.98" not in format_results([results], "cells", "latex", intervals=False)
    assert "0.90 (0.60 to 0.98)" in format_results([results], "cells", "text", intervals=True)


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("new/t.md", "| mean over"),
        ("t.TEX", "% Needs"),
        ("t.csv", "result,axis"),
        ("t.json", "{\n"),
        ("t.txt", "mean"),
    ],
)
def test_the_suffix_of_the_file_says_the_format(tmp_path, capsys, name, beginning):
    path = tmp_path / name
    assert main(["table", str(LONGVA), "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"table: {path}\n"
    assert path.read_text(encoding="utf-8").startswith(beginning)
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [path.name]


def test_json_on_the_terminal_is_json_whatever_names_hold(tmp_path, capsys):
    model = {"name": HOSTILE + "\x7f\x85\ud800", "revision": "1", "tokens_per_frame": 4}
    write_run(tmp_path / "run", "8", "0", model=model)
    assert main(["table", str(tmp_path / "run"), "--format", "json"]) == 0
    name = json.loads(capsys.readouterr().out)["results"][0]["name"]
    assert name.encode("utf-8", "surrogatepass") == model["name"].encode("utf-8", "surrogatepass")
    for suffix in ("csv", "md", "tex"):
        path = tmp_path / f"t.{suffix}"
        assert main(["table", str(tmp_path / "run"), "--output", str(path)]) == 0
        assert "\\ud800" in path.read_text(encoding="utf-8").replace("textbackslash{}", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([LONGVA, "--output", "t.xlsx"], "the format of 't.xlsx' is not known: use one of .txt, "),
        ([LONGVA, "--kind", "needles"], "do not say how each needle did"),
        (["nowhere"], "no results at nowhere"),
        ([LONGVA, "--format", "html"], "invalid choice: 'html'"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["table", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_needles_of_a_run_with_errors_only_have_no_score_and_one_line_says_so():
    results = make_run(num_needles=3, outcome=lambda c, k: "no memory")
    rows = table_rows([results], "needles")
    assert [(row["needle"], row["score"], row["num_errors"]) for row in rows] == [
        (f"needle-{k}", None, 6) for k in range(3)
    ]
    text = format_results([results], "needles", "text")
    assert "tiny: none of 3 needles has a score" in text
    assert "tiny: without 18 samples that could not be run" in text
