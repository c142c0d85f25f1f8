"""Reports: what stands in the page, and that nothing from outside can become markup."""

import configparser
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from runs import PUBLISHED_DIR, make_run, write_run

import vniah
from vniah.analysis.palettes import contrast
from vniah.analysis.report import make_report, page, samples
from vniah.analysis.report.command import command_of
from vniah.analysis.report.escaping import isolated, script_json, source_hash, visible_text
from vniah.cli import main
from vniah.cli.arguments import parse
from vniah.errors import InputError
from vniah.results import load_results

ROOT = Path(__file__).parent.parent
LONGVA = PUBLISHED_DIR / "longva-7b_vniah.json"
HOSTILE = (
    "</script><script>bad()</script> <!-- '\"><img src=x onerror=bad()> \x1b[0m \u202e\u2028 "
    "\u05e9\u05dc\u05d5\u05dd &amp;"
)
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, dict(attributes), parent
        self.children, self.texts = [], []

    def all(self, tag=None):
        found = [self] if tag in (None, self.tag) else []
        return found + [inner for child in self.children for inner in child.all(tag)]

    @property
    def text(self):
        return "".join(part if isinstance(part, str) else part.text for part in self.texts)

    def get(self, name):
        return self.attributes.get(name)


class Page(HTMLParser):
    """The elements of a page; every one has to be closed."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.root = self.here = Element("root", {}, None)
        self.feed(html)
        self.close()
        assert self.here is self.root, f"{self.here.tag} is not closed"

    def handle_starttag(self, tag, attributes):
        found = Element(tag, attributes, self.here)
        self.here.children.append(found)
        self.here.texts.append(found)
        if tag not in VOID:
            self.here = found

    def handle_endtag(self, tag):
        assert self.here.tag == tag, f"{tag} closes {self.here.tag}"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.texts.append(data)

    def all(self, tag=None):
        return self.root.all(tag)

    def by_id(self, name):
        (found,) = (one for one in self.all() if one.get("id") == name)
        return found

    @property
    def data(self):
        return json.loads(self.by_id("data").text)


def page_of(*runs, **options):
    return Page(make_report(runs, pictures=False, **options).html)


def hostile(results, **changes):
    """The run with hostile texts in all of its samples."""
    changed = [
        replace(
            sample,
            question=f"{HOSTILE} question",
            answer=f"{HOSTILE} answer",
            prediction=None if sample.error else f"{HOSTILE} prediction",
            error=sample.error and f"{HOSTILE} error",
            fields={**sample.fields, f"{HOSTILE} field": f"{HOSTILE} value"},
        )
        for sample in results.samples
    ]
    manifest = {
        **results.manifest,
        "model": {"name": f"{HOSTILE} model", HOSTILE: HOSTILE},
        "haystack": {"name": f"{HOSTILE} film", "kind": "video"},
        "needles": {**results.manifest["needles"], "name": f"{HOSTILE} set"},
        "notes": [f"{HOSTILE} note"],
    }
    return replace(
        results, name=f"{HOSTILE} name", samples=tuple(changed), manifest=manifest, **changes
    )


def samples_in(data, number=0):
    """The samples of a run as the page's data has them, in the words of `SampleResult`."""
    run, texts = data["runs"][number], data["texts"]

    def value(columns, name, index):
        column = columns[name]
        return column[index] if isinstance(column, list) else column

    def text(number):
        return None if number < 0 else texts[number]

    for index in range(run["num_samples"]):
        prefix, num_frames, row, needle_index = run["places"][value(run["columns"], "place", index)]
        control = value(run["columns"], "control", index)
        yield {
            "sample_id": prefix + text(value(run["columns"], "name", index)),
            "num_frames": num_frames,
            "needle_index": needle_index,
            "row": row,
            "control": None if control < 0 else run["controls"][control],
            "correct": [False, True, None][value(run["columns"], "outcome", index)],
            "needle_id": text(value(run["columns"], "needle", index)),
            **{
                name: text(value(run["columns"], name, index))
                for name in ("question", "answer", "prediction", "error", "variant")
            },
            **{name: value(run["columns"], name, index) for name in ("logprob", "margin", "rank")},
            "fields": {
                name: text(value(run["fields"], name, index))
                for name in run["fields"]
                if value(run["fields"], name, index) >= 0
            },
        }


# --- the page ------------------------------------------------------------------------------------


def uneven(cell, k):
    """Some right, some wrong, some not run, and one cell without a line."""
    if cell.num_frames == 8 and cell.depth == 1:
        return None
    return "out of memory" if k == 9 else k < 5 + 4 * cell.depth


def test_a_page_is_whole_and_says_what_a_run_says():
    run = make_run(outcome=uneven)
    found = page_of(run)
    text = found.root.text
    for line in vniah.summarize(run).lines:
        assert line in text
    assert f"average: {run.average:.4f}" in text
    assert found.by_id("summary").text.count("50 of 60 samples have been run") == 1
    assert "the run has no controls".lower() in text.lower()


def test_a_run_that_goes_on_counts_its_controls_apart():
    run = make_run(
        outcome=uneven,
        controls=["no-needle"],
        sample_ids=" ".join([make_run().manifest["sample_ids"], "8/-/a/no-needle 8/-/b/no-needle"]),
    )
    done = replace(
        run.samples[0], cell=None, control="no-needle", sample_id="8/-/a/no-needle", fields={}
    )
    text = page_of(replace(run, control_samples=(done,))).root.text
    counted = "50 of 60 samples of the test and 1 of 2 of its controls have been run"
    assert counted in text
    assert "51 of 62" not in text


def test_a_run_without_a_score_says_why():
    begun = page_of(make_run(outcome=lambda cell, k: "no memory")).by_id("summary").text
    assert "average: none, no sample could be scored" in begun
    planned = page_of(make_run(outcome=lambda cell, k: None)).by_id("summary").text
    assert "average: none, no sample has been run yet" in planned


def test_a_table_that_is_wider_than_long_is_turned():
    def rows_of(caption, *runs):
        found = page_of(*runs)
        (table,) = (one for one in found.all("table") if one.all("caption")[0].text == caption)
        return [[cell.text for cell in row.children] for row in table.all("tr")]

    few, many = make_run("8,16"), make_run("8:64:8", num_needles=2)
    by_length = "Mean over depth at each length, average, effective length"
    turned = rows_of(by_length, many)
    assert turned[0] == ["mean over depth", "tiny"]
    assert [row[0] for row in turned[1:9]] == ["8", "16", "24", "32", "40", "48", "56", "64"]
    assert turned[9][:2] == ["average", "1.0000"]
    whole = rows_of(by_length, *(replace(few, name=f"run {k}") for k in range(6)))
    assert whole[0][:4] == ["mean over depth", "8", "16", "average"]
    assert [row[0] for row in whole[1:]] == [f"run {k}" for k in range(6)]
    samples = tuple(
        replace(
            sample,
            cell=None,
            control="no-needle",
            sample_id=f"{8 * k}/-/a/no-needle",
            fields={"num_frames": 8 * k},
        )
        for k, sample in enumerate(many.samples[:9], 1)
    )
    many = replace(many, control_samples=samples)
    head, second, *body = rows_of(
        "Share of right answers with each control at each length",
        many,
        replace(many, name="other"),
    )
    assert head == ["control", "no-needle", "no-needle"] and second == ["result", "tiny", "other"]
    assert [row[0] for row in body] == [str(8 * k) for k in range(1, 10)]
    assert body[0][1] == body[0][2] and body[0][1].startswith("1.00 (")


def test_stretches_from_right_to_left_are_isolated():
    hebrew, arabic = "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627"
    assert isolated(f"/runs/{hebrew}/5: {arabic} {hebrew}, 7 <b>") == (
        f"/runs/<bdi>{hebrew}</bdi>/5: <bdi>{arabic} {hebrew}</bdi>, 7 &lt;b&gt;"
    )
    assert isolated("plain \u202e") == "plain \\u202e"


def test_data_are_the_samples():
    run = make_run(outcome=uneven)
    found = list(samples_in(page_of(run).data))
    assert len(found) == len(run.samples)
    for record, sample in zip(found, run.samples, strict=True):
        assert record["fields"].pop("needle_index") == str(sample.cell.needle_index)
        assert record.pop("fields") == {}
        assert record.pop("row") == f"{float(sample.depth):g}"
        assert record.pop("needle_index") == sample.cell.needle_index
        assert record == {name: getattr(sample, name) for name in record}


def test_data_of_all_example_runs_are_their_samples():
    """With controls, ranks and log-probabilities; runs of version 0.1."""
    for name in ("reference-short", "reference-anyres"):
        run = load_results(ROOT / "results" / name)
        everything = (*run.samples, *run.control_samples)
        found = list(samples_in(page_of(run).data))
        assert [one["sample_id"] for one in found] == [one.sample_id for one in everything]
        for record, sample in zip(found, everything, strict=True):
            assert record["correct"] == sample.correct and record["rank"] == sample.rank
            assert record["logprob"] == pytest.approx(sample.logprob, rel=1e-5)
            assert record["control"] == sample.control and record["answer"] == sample.answer


def test_nothing_from_outside_becomes_markup():
    run = hostile(make_run(outcome=uneven))
    controls = tuple(
        replace(sample, cell=None, control="no-needle", sample_id=f"8/-/{k}/no-needle")
        for k, sample in enumerate(run.samples[:3])
    )
    html = make_report([run, replace(run, control_samples=controls)], pictures=False).html
    found = Page(html)
    plain = page_of(make_run(outcome=uneven), make_run(outcome=uneven))
    assert len(found.all("script")) == len(plain.all("script")) == 2
    assert {one.tag for one in found.all()} <= {one.tag for one in plain.all()} | {"img", "bdi"}
    assert not [name for one in found.all() for name in one.attributes if name.startswith("on")]
    assert not any("bad()" in str(one.get("src")) for one in found.all())
    for part in ("\x1b", "\u202e", "\u2028"):
        assert part not in html
    assert "\\u202e" in found.by_id("summary").text
    shown = visible_text(HOSTILE)
    records = list(samples_in(found.data))
    assert {record["answer"] for record in records} == {f"{shown} answer"}
    assert {f"{shown} error", None} == {record["error"] for record in records}
    assert {name for record in records for name in record["fields"]} == {
        f"{shown} field",
        "needle_index",
    }


def test_a_page_asks_nothing_of_elsewhere():
    html = make_report([make_run(), load_results(LONGVA)], pictures=False).html
    assert not re.findall(r"https?://|//[a-z]+\.|url\(|@import|<link|<iframe", html)
    found = Page(html)
    (policy,) = (
        one.get("content")
        for one in found.all("meta")
        if one.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    script = next(one for one in found.all("script") if one.get("type") is None)
    assert rules["script-src"] == source_hash(script.text)
    (style,) = found.all("style")
    assert rules["style-src"] == source_hash(style.text)
    assert not [one.tag for one in found.all() if one.get("style")], "the policy forbids them"


def test_the_script_never_makes_markup():
    script = page._asset("report.js")
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(", script
    )


def test_headings_tables_and_pictures_are_accessible():
    run = load_results(ROOT / "results" / "reference-short")
    found = page_of(run, load_results(LONGVA))
    assert found.all("html")[0].get("lang") == "en"
    levels = [int(one.tag[1]) for one in found.all() if re.fullmatch("h[1-6]", one.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for table in found.all("table"):
        assert len(table.all("caption")) == 1 and table.all("caption")[0].text.strip()
        assert all(one.get("scope") in ("col", "row") for one in table.all("th"))
    pictures = found.all("img")
    assert pictures and all(one.get("alt") for one in pictures)
    assert len({one.get("id") for one in found.all() if one.get("id")}) == len(
        [one for one in found.all() if one.get("id")]
    )
    targets = {one.get("href")[1:] for one in found.all("a") if one.get("href")[0] == "#"}
    assert targets <= {one.get("id") for one in found.all()}


# --- colours -------------------------------------------------------------------------------------


def test_colours_of_both_themes_can_be_read():
    style = page._asset("report.css")
    themes = re.findall(r"--page: (.*?)\}", style, re.DOTALL)
    assert len(themes) == 3 and themes[1].split() == themes[2].split(), "light, dark, dark"
    for theme in themes:
        colors = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", f"--page: {theme}"))
        for name in ("ink", "faint", "link", "right", "wrong", "error"):
            for below in ("page", "panel"):
                assert contrast(colors[name], colors[below]) >= 4.5, (name, below)
        assert contrast(colors["mark-ink"], colors["mark"]) >= 4.5
        assert contrast(colors["faint"], colors["none"]) >= 4.5


# --- the map -------------------------------------------------------------------------------------


def grid_of(found, number=0):
    maps = [one for one in found.all("table") if one.get("data-run") == str(number)]
    return [[cell.text for cell in row.children] for row in maps[0].all("tr")]


def test_the_map_is_the_table_of_cells():
    assert grid_of(page_of(make_run(outcome=uneven))) == [
        ["depth", "8", "16"],
        ["0", "0.56, 1 not run", "0.56, 1 not run"],
        ["0.5", "0.78, 1 not run", "0.78, 1 not run"],
        ["1", ".", "1.00, 1 not run"],
        ["mean", "0.67", "0.78"],
    ]


def test_positions_end_where_the_video_ends():
    grid = grid_of(page_of(make_run("8,16", positions="0,12")))
    assert grid == [
        ["position", "8", "16"],
        ["0", "1.00", "1.00"],
        ["12", "", "1.00"],
        ["mean", "1.00", "1.00"],
    ]


def test_an_adaptive_run_says_what_was_not_measured():
    run = make_run(
        outcome=lambda cell, k: None if (cell.num_frames, cell.depth) == (16, 1) else k < 6,
        adaptive={"precision": "10%", "threshold": 0.9, "rounds": []},
    )
    assert run.is_adaptive
    found = page_of(run)
    assert grid_of(found)[-2:] == [["1", "0.60", "."], ["mean", "0.60", "."]]
    assert "measured 5 of 6 cells, chosen by their scores" in found.root.text
    assert "still going on" not in found.root.text
    assert "average over 5 of 6 cells, these needles" in found.root.text
    assert "--adaptive" in found.root.text


@pytest.mark.parametrize(
    "run",
    [
        make_run("8", "0", num_needles=1),
        make_run("8", "0", num_needles=1, outcome=lambda cell, k: "no memory"),
        make_run(outcome=lambda cell, k: "no memory"),
        make_run(outcome=lambda cell, k: None),
        make_run(num_needles=1),
        load_results(LONGVA),
        load_results(PUBLISHED_DIR / "qwen2-7b-224k_niah_distractor3.json"),
    ],
    ids=["one cell", "one error", "only errors", "nothing yet", "one needle", "table", "text"],
)
def test_odd_results_have_a_page(run):
    found = page_of(run)
    assert "V-NIAH" in found.all("title")[0].text
    assert found.data["runs"][0]["num_samples"] == len(run.samples)
    together = page_of(run, make_run())
    assert len(together.data["runs"]) == 2


def test_many_cells_are_small_and_have_no_table_of_intervals(monkeypatch):
    monkeypatch.setattr(page, "_MOST_CELLS_IN_TABLES", 400)
    run = make_run("1:27:1", "0:1:0.05", num_needles=1, outcome=lambda cell, k: k == 0)
    found = page_of(run)
    (table,) = (one for one in found.all("table") if one.get("data-run") == "0")
    assert "dense" in table.get("class")
    assert "wide" not in table.get("class")
    labels = [one for one in table.all("tr")[0].all("th")[1:] if one.get("class") != "thin"]
    assert [one.text for one in labels] == [str(n) for n in range(1, 28, 3)], "two digits and a gap"
    tall = page_of(make_run("100:300:100", "0:1:0.03", num_needles=1)).all("table")[0]
    assert {"dense", "wide"} <= set(tall.get("class").split())
    assert not [one for one in tall.all("tr")[0].all("th") if one.get("class") == "thin"]
    assert len([one for one in table.all("td") if one.get("data-cell")]) == len(run.cells)
    assert "Cells, with their intervals" not in found.root.text


# --- what is left out ----------------------------------------------------------------------------


def test_too_many_samples_are_thinned_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr(samples, "MOST_SAMPLES", 40)
    run = make_run(outcome=lambda cell, k: True)
    report = make_report([run], pictures=False)
    (note,) = (one for one in report.notes if "samples" in one)
    assert note.startswith("36 of 60 samples are in this page: the first 6 of each cell")
    assert "samples.jsonl" in note and note in Page(report.html).root.text
    found = list(samples_in(Page(report.html).data))
    kept = [one.sample_id for one in run.samples if int(one.needle_id[-1]) < 6]
    assert [one["sample_id"] for one in found] == kept


def test_long_answers_are_cut_where_they_are_too_many(monkeypatch):
    run = make_run()
    answer = "x" * 10_000
    run = replace(run, samples=(replace(run.samples[0], prediction=answer), *run.samples[1:]))
    (record, *_) = samples_in(page_of(run).data)
    assert record["prediction"] == answer
    monkeypatch.setattr(samples, "MOST_TEXT", 3_000)
    report = make_report([run], pictures=False)
    (record, *_) = samples_in(Page(report.html).data)
    assert record["prediction"] == f"{'x' * 1000} … (9,000 more characters)"
    assert any(
        note.startswith("1 text of more than 1,000 characters is cut") for note in report.notes
    )


# --- needles -------------------------------------------------------------------------------------


def test_pictures_of_needles_that_come_with_vniah():
    run = load_results(ROOT / "results" / "reference-short")
    found = page_of(run)
    pictures = found.data["runs"][0]["pictures"]
    assert set(run.manifest["needles"]["ids"]) <= pictures.keys()
    for element_id in pictures.values():
        assert found.by_id(element_id).get("src").startswith("data:image/")


def test_a_needle_set_that_is_not_found_is_named():
    needles = vniah.load_needles("cards").select(["card-red-7", "sign-star-blue"])
    run = make_run(needles__ids=list(needles.ids), needles__name="three")
    report = make_report([run], pictures=False)
    assert any("no needle pictures" in note and "--needles" in note for note in report.notes)
    assert "Needles" not in [one.text for one in Page(report.html).all("h2")]
    run = make_run(
        needles__ids=list(needles.ids), needles__name="three", needles__sha256=needles.sha256
    )
    report = make_report([run], needles=[needles], pictures=False)
    assert report.notes == ()
    assert set(needles.ids) <= Page(report.html).data["runs"][0]["pictures"].keys()
    other = make_run(needles__ids=list(needles.ids), needles__sha256="00" * 32)
    assert make_report([other], needles=[needles], pictures=False).notes != ()


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reference-long", "reference-short", "reference-anyres"])
def test_the_command_of_an_example_run_gives_its_settings(name):
    run = load_results(ROOT / "results" / name)
    command = command_of(run.manifest)
    options = parse(command.words)
    assert (options.model, options.needles) == (run.name, run.manifest["needles"]["name"])
    assert vniah.Grid.parse(options.frames, options.depths) == run.grid
    assert options.rope_theta == (run.manifest["model"]["rope_theta"],)
    assert shlex.split(command.text) == ["vniah", *command.words]


@pytest.mark.parametrize(
    ("changes", "expected", "remark"),
    [
        (
            {
                "haystack": {
                    "name": "a.mp4+1",
                    "kind": "video",
                    "sampling": "longva",
                    "decoder": "decord",
                    "keep_damaged": "true",
                    "assume_fps": "25",
                }
            },
            {"sampling": "longva", "decoder": "decord", "keep_damaged": True},
            "all of its files",
        ),
        ({"task": "vniah-d"}, {"task": "vniah-d"}, None),
        (
            {
                "task": "count",
                "task_details": {"settings": {"needles": [1, 2], "spacing": "10%", "x": None}},
            },
            {"task_option": [("needles", "1,2"), ("spacing", "10%")]},
            None,
        ),
        ({"task": "mine"}, {"task": "package.module:factory"}, "'mine' does not come with vniah"),
        ({"controls": ["no-needle", "my-own"]}, {"controls": "no-needle"}, "'my-own'"),
        (
            {"model": {"name": "m", "base_url": "http://h:1/v1", "max_tokens": 64}},
            {"model": "openai:http://h:1/v1#m", "max_tokens": 64},
            None,
        ),
        (
            {"model": {"name": "m", "class": "my.models.Mine"}},
            {"model": "my.models:Mine"},
            "my.models.Mine",
        ),
        (
            {"model": {"name": "own/m", "revision": "abc", "dtype": "bfloat16", "load_in": "4bit"}},
            {"model": "own/m", "dtype": "bfloat16", "load_in": "4bit"},
            "revision abc was measured",
        ),
        (
            {
                "model": {
                    "name": "m",
                    "rope_theta": 2.5e7,
                    "rope_scaling": '{"factor":4.0,"rope_type":"yarn"}',
                }
            },
            {"rope_theta": (2.5e7,)},
            None,
        ),
        (
            {"scorer": {"name": "generate", "max_new_tokens": 5}},
            {"scorer": "generate", "max_new_tokens": 5},
            None,
        ),
        ({"needles__name": "-x"}, {"needles": "-x"}, "in place of '-x'"),
        ({"model": {"name": "--output"}}, {"model": "--output"}, None),
    ],
)
def test_commands_of_other_settings_are_parsed(changes, expected, remark):
    command = command_of(make_run(**changes).manifest)
    options = parse(command.words)
    assert {name: getattr(options, name) for name in expected} == expected
    assert remark is None or any(remark in one for one in command.remarks)


def test_published_tables_and_imported_answers_have_no_command():
    assert command_of({}).text == ""
    imported = command_of(make_run(model={"name": "m", "answers": "imported"}).manifest)
    assert imported.text == "" and "vniah import" in imported.remarks[0]


# --- the command line ----------------------------------------------------------------------------


def test_report_writes_a_page_into_the_folder_of_the_run(tmp_path, capsys):
    folder = write_run(tmp_path / "run", "8", "0,1", outcome=lambda cell, k: k < 5)
    assert main(["report", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out == f"report: {folder / 'report.html'}\n"
    assert "no needle pictures" in err
    found = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "0.5000" in found.root.text
    assert found.all("a")[-1].get("href")
    (saved,) = (one for one in found.all("a") if one.get("download"))
    assert saved.get("href").startswith("data:image/png;base64,")


def test_several_results_are_side_by_side(tmp_path):
    runs = [write_run(tmp_path / name, "8", "0,1") for name in ("one", "two")]
    output = vniah.save_report([*runs, LONGVA], tmp_path / "new" / "all.html", pictures=False)
    found = Page(output.read_text(encoding="utf-8"))
    assert [run["label"] for run in found.data["runs"]] == [
        f"tiny in {runs[0]}",
        f"tiny in {runs[1]}",
        "longva-7b_vniah",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no results at nowhere"),
        ([str(LONGVA), "--output", "report.pdf"], "use .html"),
        ([str(LONGVA), "--needles", "nothing-there"], "no needle set 'nothing-there'"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_report_needs_results():
    with pytest.raises(InputError, match="1 to 20 results, got 0"):
        make_report([])


def test_every_part_of_the_page_is_installed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    pattern = config["options.package_data"]["vniah.analysis.report"]
    folder = Path(page.__file__).parent
    assert {path.name for path in folder.glob(pattern)} == {
        "report.css",
        "report.html.jinja",
        "report.js",
    }
    others = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"}
    assert {path for path in others if path.suffix != ".pyc"} == set(folder.glob(pattern))


# --- texts ---------------------------------------------------------------------------------------


def test_texts_keep_their_lines_and_show_what_cannot_be_seen():
    assert visible_text("a\nb\r\nc\x00\u202e\ud800") == "a\nb\nc\\x00\\u202e\\ud800"
    assert visible_text("12345", 3) == "123 … (2 more characters)"
    assert visible_text("1234", 3) == "123 … (1 more character)"


def test_data_in_scripts_hold_no_markup():
    text = script_json({"</script>": "<!-- & \u2028 \ud800"})
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == {"</script>": "<!-- & \u2028 \ud800"}
