"""Nobody reads an approximate number without seeing that it is one, wherever it comes out."""

import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vniah.analysis.compare import compare, compare_early
from vniah.analysis.compare.early import require_can_stop_early
from vniah.analysis.compare.formats import FORMATS
from vniah.analysis.convert import convert_results
from vniah.analysis.labels import result_labels
from vniah.analysis.plot.checkpoints import checkpoint_curves
from vniah.analysis.plot.controls import control_names, control_picture
from vniah.analysis.plot.curves import retention_curves
from vniah.analysis.plot.difference import difference_map
from vniah.analysis.plot.files import titles_of
from vniah.analysis.plot.heatmaps import heatmap
from vniah.analysis.plot.lengths import length_curves
from vniah.analysis.plot.needles import needle_map
from vniah.analysis.plot.typesetting import own_settings
from vniah.analysis.report.page import make_report
from vniah.analysis.retention import retention
from vniah.analysis.statistics.summary import summarize
from vniah.analysis.statistics.verification import verify
from vniah.analysis.table_formats import format_results
from vniah.analysis.table_rows import table
from vniah.cli import main
from vniah.cli.display import format_comparison
from vniah.cli.measures import format_measure
from vniah.cli.outcomes import show_results
from vniah.cli.sweeps.index import _numbers
from vniah.cli.watching import _in_short
from vniah.errors import CannotCompareError
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.options.approximation import Approximation
from vniah.results import Results, facet_results, load_results
from vniah.results.manifests import VERIFICATION_KEY
from vniah.show.facts import Facts
from vniah.sweep.rescoring.rescoring import rescore
from vniah.sweep.run import run_sweep
from vniah.tasks import Sample

pytestmark = pytest.mark.usefixtures("quick_pictures")

MARK = "approximate: one pass, window of 0 frames"
KINDS = ("lengths", "cells", "needles", "controls")
LONG = "/".join(["organisation-with-a-name", "x" * 300, "step-1000"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two runs of one model on one small grid: exact, and blind behind a needle."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "haystack").mkdir()
    random = np.random.default_rng(0)
    for number in range(16):
        pixels = random.integers(0, 255, (3, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / "haystack" / f"{number:02}.png")
    model = load_model("reference-short", device="cpu")
    haystack = open_haystack(folder / "haystack")
    needles, grid = load_needles("cards"), Grid.parse("8,16", "0,0.5,1")
    for name, controls, options in (
        ("exact", "no-needle", {}),
        ("blind", "no-needle,other-needle", {"share": "one-pass", "window": 0, "verify": 8}),
    ):
        run_sweep(
            model,
            haystack,
            needles,
            grid,
            output=folder / name,
            cache=folder / "cache",
            controls=controls,
            progress=False,
            **options,
        )
    return folder


@pytest.fixture(scope="module")
def exact(folder) -> Results:
    return load_results(folder / "exact")


@pytest.fixture(scope="module")
def blind(folder) -> Results:
    return load_results(folder / "blind")


@pytest.fixture(scope="module")
def near(exact, blind) -> Results:
    """As a window that is large enough has it: all approximate outcomes are the exact ones."""
    approximation = Approximation(1, 8)
    return replace(
        blind,
        name=approximation.marked("reference-short"),
        manifest={**blind.manifest, "approximation": approximation.record()},
        samples=tuple(replace(one, approximate=True) for one in exact.samples),
    )


def without_exact(results: Results, *lengths: int) -> Results:
    """The results of a run that has not run the exact samples at some lengths, or any."""
    kept = tuple(
        one
        for one in results.control_samples
        if one.control != "exact" or (lengths and one.num_frames not in lengths)
    )
    return replace(results, control_samples=kept)


def words(draw, *results, **options) -> str:
    """All that is written in a picture, in one line."""
    with own_settings():
        figure = Figure(figsize=(5, 5))
        draw(*results, figure.add_subplot(), **options)
        texts = [text.get_text() for text in figure.findobj(Text)]
    return " ".join(" ".join(texts).split())


# --- the run itself ---


def test_a_blind_run_is_corrected_by_what_it_computed_exactly(blind, exact):
    found = verify(blind)
    assert exact.average == 1.0 and blind.average < 0.6
    assert found.all.share < 0.5
    assert found.corrected.these.low <= 1.0 <= found.corrected.these.high
    assert found.corrected.mean > 0.8
    assert all(one.like.high == 1.0 for one in found.corrected_by_length.values())


def test_its_name_its_repr_and_its_frames_say_it(blind, exact, near):
    assert blind.name == f"reference-short ({MARK})" and blind.is_approximate
    assert f"({MARK})" in repr(blind) and "approximate average" in repr(blind)
    assert "depth (approximate)" in blind._repr_html_()
    assert blind.to_pandas(cells=True)["approximate"].all()
    samples = blind.to_pandas().set_index("sample_id")["approximate"]
    tests = [one.sample_id for one in blind.samples if one.fields["needle_index"] < one.num_frames]
    assert samples.dtype == bool and samples[tests].all()
    copies = [one.sample_id for one in blind.control_samples if one.control == "exact"]
    assert copies and not samples[copies].any()
    assert not exact.is_approximate and "approximate" not in repr(exact) + exact._repr_html_()
    for cells in (True, False):
        assert "approximate" not in exact.to_pandas(cells=cells)


def test_a_long_name_is_never_cut_where_it_says_so(blind, exact, folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("manifest.json", "samples.jsonl"):
        text = (folder / "blind" / name).read_text()
        (run / name).write_text(text.replace('"name": "reference-short"', f'"name": "{LONG}"', 1))
    long = load_results(run)
    assert len(long.name) > 300
    assert long.short_name.endswith(f"... ({MARK})") and len(long.short_name) < 160
    assert f"({MARK})" in repr(long)
    both = replace(long, path=tmp_path / "other")
    for label in (*result_labels([long]), *result_labels([long, both])):
        assert f"({MARK})" in label and len(label) < 400
    title = titles_of([long], None, "correct")[0]
    assert title.split("\n")[1].startswith("approximate average")
    assert f"({MARK})" in words(length_curves, [long, exact], caption=False)
    paths = convert_results(long, "lmms-eval", output=tmp_path / "lmms")
    assert all("approximate" in str(path.parent.name) for path in paths)


def test_what_a_run_prints_says_it_in_each_part(blind, exact, capsys):
    show_results(blind, [])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["depth", "(approximate)"]
    assert any(re.match(r" *corrected +[01]\.\d\d", line) for line in lines)
    assert any("scores are approximate (one pass, window of 0 frames)" in line for line in lines)
    assert any("other-needle (approximate)" in line for line in lines)
    assert any(line.startswith("approximate average: 0.") for line in lines)
    assert any(line.startswith("corrected average: ") for line in lines)
    assert any("approximate effective visual context length" in line for line in lines)
    assert not any(line.startswith(("average:", "effective")) for line in lines)
    show_results(exact, [])
    assert "approximate" not in capsys.readouterr().out


def test_a_summary_as_a_frame_says_that_its_scores_are_corrected(blind, exact):
    frame = summarize(blind).to_pandas()
    assert frame["approximate"].all() and frame["corrected"].all()
    assert frame["these_needles"][0] == pytest.approx(verify(blind).corrected.mean)
    assert "corrected" not in summarize(exact).to_pandas()


def test_what_an_effective_length_takes_is_said(near):
    length = summarize(near).effective_length
    assert length.num_verified == 8 and length.has_interval
    assert (
        "not known from 10 needles and 8 exactly computed branches, which takes 51 needles or more "
        "and --verify 51 or more (102 where every branch has one length) (95 %)" in length.text
    )
    many = replace(length, num_needles=60)
    assert "branches, which takes --verify 51 or more (102" in many.text
    none = summarize(without_exact(near))
    assert "10 needles and 0 exactly computed branches" in none.effective_length.text
    assert any("how far they are right is not known" in line for line in none.lines)
    # As many as are said are enough, if all agree, and one fewer are not.
    below = [2**0.5 * 3.8415 / (num + 3.8415) for num in (50, 51)]
    assert below[0] > 0.1 >= below[1]


def test_how_many_needles_it_takes_is_said_only_where_all_agree(near, blind):
    assert "which takes about 24 needles with --verify 24" in "\n".join(summarize(near).lines)
    line = next(line for line in summarize(blind).lines if line.startswith("corrected"))
    assert line.endswith(
        "10 needles and 8 exactly computed branches are too few to know it to within 0.1"
    )


# --- tables ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["text", "markdown", "latex", "csv", "json"])
def test_every_table_says_it(blind, exact, kind, style):
    assert "approximate" in format_results([blind], kind, style).lower()
    assert "approximate" in format_results([exact, blind], kind, style).lower()
    assert "approximate" not in format_results([exact], kind, style).lower()


def test_rows_say_which_are_approximate(blind, exact):
    for kind in ("lengths", "cells", "needles"):
        frame = table([exact, blind], kind)
        names = frame["result"].map({exact.name: False, blind.name: True})
        assert (frame["approximate"] == names).all()
        assert "approximate" not in table(exact, kind)
    controls = table(blind, "controls").set_index("control")["approximate"]
    assert not controls[["exact", "no-needle"]].any() and controls["other-needle"].all()


def test_intervals_are_of_corrected_means_and_others_are_left_out(blind):
    found = verify(blind)
    lengths = table(blind, "lengths")
    assert lengths["corrected"][0] == pytest.approx(found.corrected.mean)
    assert lengths["low"][0] == found.corrected.like.low
    assert lengths["score"][0] == pytest.approx(blind.average)
    one = lengths.set_index("num_frames").loc[8]
    assert (one["low"], one["high"]) == (
        found.corrected_by_length[8].like.low,
        found.corrected_by_length[8].like.high,
    )
    for kind in ("cells", "needles"):
        assert table(blind, kind)["low"].isna().all()
    controls = table(blind, "controls").set_index("control")["low"]
    assert controls[["other-needle", "exact"]].isna().all()
    assert controls["no-needle"].notna().all()


def test_a_length_without_exact_samples_has_no_interval_and_a_note_says_why(blind):
    part = without_exact(blind, 16)
    by_length = table(part, "lengths").set_index("num_frames")
    assert np.isnan(by_length.loc[16]["low"]) and not np.isnan(by_length.loc[8]["low"])
    text = format_results([part], "cells", "text")
    assert "1 length without such samples has none" in text
    assert re.search(r"\n *from +0\.\d\d +\.\n", text)
    nothing = format_results([without_exact(blind)], "cells", "text")
    assert "no sample of these was computed exactly" in nothing and "from" not in nothing
    assert "no band" in words(length_curves, [without_exact(blind)])


def test_json_has_what_a_program_needs(blind, exact):
    content = json.loads(format_results([exact, blind], "lengths", "json"))
    one, other = content["results"]
    assert (one["approximate"], other["approximate"]) == (False, True)
    assert other["approximation"] == Approximation(0, 8).record()
    assert other["verification"]["samples"] > other["verification"]["equal"]
    assert other["corrected_average"] > other["average"]
    assert "approximation" not in one


def test_parts_and_names_of_a_sweep_say_it(blind, exact):
    text = format_comparison(["theta 1", "theta 2"], [exact, blind])
    assert f"theta 2 ({MARK})" in text and "theta 1 " in text
    assert f"{blind.name}: scores are approximate" in format_comparison([blind.name], [blind])


def test_index_watch_and_measures_say_it(blind, exact):
    record = _numbers(blind)
    assert record["approximate"] is True and record["approximation"]["window"] == 0
    assert record["corrected_average"] > record["average"]
    assert "approximate" not in _numbers(exact)
    assert _in_short(blind).startswith("approximate (one pass, window of 0 frames): average 0.")
    measure = format_measure(blind, "logprob").splitlines()
    assert measure[1].split()[:2] == ["depth", "(approximate)"]
    assert measure[-1].startswith("logprob, approximate: ")
    assert "approximate" not in format_measure(exact, "logprob") + _in_short(exact)


# --- pictures ---


@pytest.mark.parametrize("title", [None, ""])
@pytest.mark.parametrize("draw", [heatmap, length_curves, needle_map, retention_curves])
def test_pictures_say_it_whatever_their_title_and_without_a_caption(blind, exact, draw, title):
    text = words(draw, blind, title=title, caption=False)
    assert "approximate" in text and "one pass, window of 0 frames" in text
    assert text.count("one pass") == 1
    assert "approximate" not in words(draw, exact, title=title)


def test_a_title_of_ones_own_is_followed_by_it(blind, exact):
    text = words(heatmap, blind, title="My model", caption=False)
    assert f"My model {MARK}" in text
    assert titles_of([blind, exact], ["one", "two"], "correct") == [f"one\n{MARK}", "two"]


def test_captions_give_the_agreement_and_corrected_means(blind, near):
    text = words(heatmap, near)
    assert "10 of 10 exactly computed samples agree; corrected average 1.00" in text
    assert "for these needles" in text and "approximate effective length" in text
    found = verify(blind)
    assert f"corrected average {found.corrected.mean:.2f}, " in words(heatmap, blind)
    assert "how far scores are right is not known" in words(heatmap, without_exact(blind))
    bars = words(retention_curves, blind)
    assert "no bars, as scores are approximate" in bars


def test_lines_say_it_by_their_names(blind, exact):
    text = words(length_curves, [exact, blind], labels=["one", "two"], caption=False)
    assert f"two ({MARK})" in text
    caption = words(length_curves, [blind, exact])
    assert f"{blind.name}: scores are approximate" in caption
    series = words(length_curves, [blind], value="logprob")
    assert "no band for a median" in series


def test_controls_say_which_of_them_are_approximate(blind):
    assert set(control_names(blind)) == {"no-needle", "other-needle", "exact"}
    for name, is_approximate in (("other-needle", True), ("no-needle", False), ("exact", False)):
        with own_settings():
            ax = Figure(figsize=(5, 5)).add_subplot()
            control_picture(blind, name, ax, caption=False)
        assert ("approximate" in ax.get_title()) == is_approximate, name


def test_lines_of_checkpoints_say_it(blind, near, exact):
    alone = words(checkpoint_curves, {"checkpoints": [("step-1", blind), ("step-2", blind)]})
    assert MARK in alone
    mixed = {
        "a": [("step-1", exact), ("step-2", exact)],
        "b": [("step-1", blind), ("step-2", near)],
    }
    text = words(checkpoint_curves, mixed)
    assert f"b ({MARK}, or approximate: one pass, window of 1 frame)" in text
    plain = words(checkpoint_curves, {"a": mixed["a"]}, baseline=exact)
    assert "approximate" not in plain
    assert MARK in words(checkpoint_curves, {"a": mixed["a"]}, baseline=blind)


# --- comparisons ---


def test_an_approximate_run_is_refused_against_another_kind(blind, near, exact, folder, capsys):
    for before, after in ((exact, blind), (blind, exact), (blind, near)):
        for judge in (compare, compare_early):
            with pytest.raises(CannotCompareError, match=r"--allow-approximate") as caught:
                judge(before, after, max_drop=0.5)
            assert "\n" not in str(caught.value)
        with pytest.raises(CannotCompareError, match="may be the approximation"):
            difference_map(before, after, Figure().add_subplot())
    with pytest.raises(CannotCompareError, match="give an exact baseline"):
        require_can_stop_early(blind)
    assert main(["compare", str(folder / "exact"), str(folder / "blind")]) == 2
    assert "is approximate (one pass, window of 0 frames)" in capsys.readouterr().err


def test_where_it_is_allowed_everything_says_it(blind, near, exact, folder, tmp_path, capsys):
    with pytest.warns(UserWarning, match="the second run is approximate"):
        found = compare(exact, blind, max_drop=0.5, min_mean=0.9, allow_approximate=True)
    assert "approximate average" in found.summary()
    assert all(one.text.startswith("by approximate scores ") for one in found.findings)
    for style, write in FORMATS.items():
        text = write(found)
        assert MARK in text, style
    assert json.loads(FORMATS["json"](found))["approximate"] is True
    with pytest.warns(UserWarning, match="the first by one pass, window of 0 frames, the second"):
        compare(blind, near, max_drop=0.5, allow_approximate=True)
    with pytest.warns(UserWarning, match="both runs are approximate"):
        assert compare(near, near, max_drop=0.5).passed
    rules = tmp_path / "rules.toml"
    rules.write_text("max_drop = 1.0\nallow_approximate = true\n")
    runs = [str(folder / "exact"), str(folder / "blind")]
    assert main(["compare", *runs, "--rules", str(rules)]) == 0
    assert main(["compare", *runs, "--max-drop", "1", "--allow-approximate"]) == 0
    assert capsys.readouterr().out.count("approximate average") == 2
    exact_only = json.loads(FORMATS["json"](compare(exact, exact, max_drop=0.5)))
    assert "approximate" not in json.dumps(exact_only)


def test_a_map_of_changes_says_what_is_approximate(blind, near, exact):
    text = words(difference_map, exact, blind, allow_approximate=True, caption=False)
    assert "(approximate: one pass, window of 0 frames) minus" in text
    text = words(difference_map, exact, blind, allow_approximate=True, title="mine")
    assert "mine the second run is approximate (one pass, window of 0 frames)" in text
    text = words(difference_map, near, near, title="mine")
    assert "mine both runs are approximate (one pass, window of 1 frame)" in text
    assert "of approximate scores, 95 %" in text


# --- what is written for others ---


def test_a_report_says_it_and_has_what_verifies_it(blind, exact):
    html = make_report([blind], pictures=False).html
    assert "the scores of this run are approximate (one pass, window of 0 frames)" in html
    assert '<section id="verification"' in html
    assert "Agreement of approximate and exact results, by number of frames" in html
    assert "Means that exactly computed samples correct" in html
    assert "Approximate accuracy by depth" in html
    assert "--share one-pass --window 0 --verify 8" in html
    assert "does not come with vniah" not in html
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    (run,) = data["runs"]
    assert run["is_approximate"] is True
    assert all(cell[2] is None for cell in run["cells"])
    assert sum(run["columns"]["approximate"]) == sum(
        bool(one.approximate) for one in (*blind.samples, *blind.control_samples)
    )
    plain = make_report([exact], pictures=False).html
    assert 'id="verification"' not in plain and "one pass" not in plain
    unverified = make_report([without_exact(blind)], pictures=False).html
    assert "how far they are right is not known" in unverified


def test_converted_runs_say_it(blind, exact, tmp_path):
    (path,) = convert_results(blind, "inspect", output=tmp_path / "log.json")
    log = json.loads(path.read_text())
    assert log["eval"]["model"].endswith(f"({MARK})")
    assert log["eval"]["metadata"]["approximate"] is True
    by_name = {score["name"]: score["metadata"] for score in log["results"]["scores"]}
    assert by_name["vniah"]["approximate"] is True
    assert "approximate" not in by_name["vniah/exact"]
    results, *_ = convert_results(blind, "lmms-eval", output=tmp_path / "lmms")
    content = json.loads(results.read_text())
    assert results.parent.name.endswith("__approximate")
    assert content["results"]["vniah"]["alias"] == "vniah (approximate)"
    assert content["configs"]["vniah"]["metadata"]["approximate"] is True
    (plain,) = convert_results(exact, "inspect", output=tmp_path / "exact.json")
    assert "approximate" not in plain.read_text()


def test_a_run_that_is_judged_anew_is_verified_anew(blind, folder, tmp_path):
    found = rescore(folder / "blind", answer_rules="rank:1000000", output=tmp_path / "again")
    assert found.results.is_approximate and found.results.average == 1.0
    again = load_results(tmp_path / "again")
    assert again.manifest["approximation"] == blind.manifest["approximation"]
    assert again.manifest[VERIFICATION_KEY] == verify(again).record()
    assert verify(again).all.share == 1.0 > verify(blind).all.share


def test_the_curve_of_retention_and_the_folder_say_it(blind, exact, capsys, folder):
    frame = retention(blind)
    assert frame["approximate"].all() and frame["low"].isna().all()
    assert "approximate" not in retention(exact) and retention(exact)["low"].notna().all()
    assert main(["plot", str(folder / "blind"), "--output", str(folder / "picture.png")]) == 0
    assert capsys.readouterr().out.startswith(f"reference-short ({MARK}): approximate average")
    assert (folder / "picture.png").read_bytes()[:4] == BytesIO(b"\x89PNG").read()


def test_a_shown_sample_says_it(blind, exact):
    sample = blind.samples[0]
    asked = Sample(sample.sample_id, sample.cell, (), "which?", ("a", "b"))
    for results, is_approximate in ((blind, True), (exact, False)):
        facts = Facts(asked, "vniah", run="runs/a", result=results.samples[0])
        assert facts.outcome.startswith("approximate (haystack states were") == is_approximate


def test_parts_of_an_approximate_run_say_it(blind):
    (part, *_) = facet_results(blind, "needle_id").values()
    assert part.is_approximate and f"({MARK})" in repr(part)
    text = format_results([part, blind], "lengths", "text", intervals=True)
    assert "known of the whole run, not of this part" in text
