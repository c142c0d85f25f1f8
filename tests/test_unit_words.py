"""What is said of runs that count tokens or pages, or whose clusters are videos, in their words."""

import re
from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from runs import cell, make_run, make_sample

import vniah
from vniah.analysis.plot import (
    checkpoint_curves,
    control_picture,
    difference_map,
    heatmap,
    length_curves,
    needle_map,
    retention_curves,
)
from vniah.analysis.retention import retention
from vniah.analysis.sentences import format_summary
from vniah.analysis.table_layouts import layouts
from vniah.analysis.verdict import verdict
from vniah.errors import ResultsError

OF_FILMS = r"\b(frames?|films?|videos?|seconds?|[\d,]+ s)\b"
KINDS = {
    "tokens": ({"axes": ["num_tokens", "depth"], "task": "niah"}, OF_FILMS + r"|\bvisual\b"),
    "pages": ({"haystack__kind": "pages"}, OF_FILMS),
    "videos": (
        {
            "task": "vqa",
            "task_details": {"clusters": "video"},
            "protocol__frame_rate": "spread evenly",
        },
        r"\b(needles?|depths?|films?|[\d,]+ s)\b",
    ),
}


def run_of(kind, outcome=lambda cell, k: k != 3, *, num_needles=10, **options):
    """A run with the controls no-needle, which lacks a sample, and blind."""
    changes, _ = KINDS[kind]
    depths = "0" if kind == "videos" else "0,0.5,1"
    options = {**changes, "controls": ["no-needle", "blind"], **options}
    run = make_run("400:800:200", depths, outcome=outcome, num_needles=num_needles, **options)
    if kind == "videos":
        named = [{**one.fields, "video": one.needle_id} for one in run.samples]
        pairs = zip(run.samples, named, strict=True)
        run = replace(run, samples=tuple(replace(one, fields=fields) for one, fields in pairs))
    samples = []
    for k in range(num_needles):
        for length in (400, None):
            found = "no memory" if (k, length) == (0, 400) else k == 1
            one = make_sample(cell(400, "0"), k, found, question=f"Which is {k}?")
            name = "blind" if length is None else "no-needle"
            place = "-/-" if length is None else f"{length}/-"
            fields = {"num_frames": length, "needle_id": f"needle-{k}"}
            sample_id = f"{place}/needle-{k}/{name}"
            samples.append(
                replace(one, cell=None, control=name, fields=fields, sample_id=sample_id)
            )
    axis = kind if kind in ("tokens", "pages") else "frames"
    return replace(run, axis=axis, control_samples=tuple(samples))


def broken(cell, k):
    return "no memory" if (cell.num_frames, k) == (600, 2) else cell.num_frames < 800 or k > 3


def words_of(draw, run, *more):
    figure = Figure(figsize=(4, 3))
    FigureCanvasAgg(figure)
    draw(run, *more, figure.add_subplot())
    for ax in figure.axes:
        if not ax.yaxis.get_visible():
            ax.set_ylabel("")
    return [text.get_text() for text in figure.findobj(Text)]


def said_of(run):
    """Sentences, tables, and all that is written in pictures."""
    yield from format_summary(run)
    found = verdict(run)
    yield from (line for line in found.lines if not line.startswith("no-needle:"))
    for kind in ("lengths", "cells", "controls"):
        yield from (one.text for one in layouts([run], kind, intervals=True))
    for draw in (heatmap, length_curves):
        yield from words_of(draw, run)
    for control in ("blind",) if run.cluster == "video" else ("blind", "no-needle"):
        yield from words_of(lambda run, ax, name=control: control_picture(run, name, ax), run)
    yield from words_of(lambda run, ax: checkpoint_curves({"m": [("1", run)]}, ax), run)


def forbidden(kind, texts):
    _, pattern = KINDS[kind]
    own = r"no-needle|needle-\d|grid.frames"
    texts = [re.sub(own, "", text.replace("\n", " ").replace("\xa0", " ")) for text in texts]
    return [text for text in texts if re.search(pattern, text)]


@pytest.mark.parametrize("outcome", [broken, lambda cell, k: None])
@pytest.mark.parametrize("kind", KINDS)
def test_no_sentence_speaks_of_what_the_run_has_not(kind, outcome):
    assert forbidden(kind, said_of(run_of(kind, outcome))) == []


@pytest.mark.parametrize("kind", ["tokens", "pages"])
def test_effective_length_of_an_adaptive_run_counts_what_the_run_counts(kind):
    adaptive = {"precision": "10%", "threshold": 0.9}
    run = run_of(kind, lambda c, k: False if c.num_frames == 400 else None, adaptive=adaptive)
    length = vniah.summarize(run).effective_length
    assert length.axis == kind
    assert "with these needles below 400 " + kind in length.text
    assert forbidden(kind, said_of(run)) == []


def test_words_of_films_are_found_where_they_belong():
    run = make_run("400:800:200", "0,0.5,1", outcome=broken)
    said = " ".join(format_summary(run))
    assert "visual context length" in said and "600 frames (600 s" in said
    _, pattern = KINDS["tokens"]
    assert re.search(pattern, said)


def test_pages_since_the_needle_are_no_seconds():
    run = run_of("pages", broken)
    texts = words_of(retention_curves, run)
    assert "Pages since the needle" in texts
    assert "at 0 pages: one point for" in " ".join(texts).replace("\n", " ")
    assert forbidden("pages", texts) == []
    positions = make_run("8,16", positions="0,8", haystack__kind="pages")
    assert "Needle before page" in words_of(retention_curves, replace(positions, axis="pages"))


@pytest.mark.parametrize("kind", ["tokens", "pages"])
def test_pictures_of_needles_and_of_differences_name_the_haystack(kind):
    run = run_of(kind, broken)
    noun = {"tokens": "text", "pages": "document"}[kind]
    texts = words_of(needle_map, run)
    assert f"of one needle on this {noun}" in " ".join(texts).replace("\n", " ")
    other = run_of(kind, lambda cell, k: k > 5)
    texts += words_of(difference_map, run, other)
    assert forbidden(kind, texts) == []


def test_lines_along_the_lengths_say_what_they_are_the_mean_over():
    run = run_of(
        "tokens",
        task_details={"facets": ["num_distractors"], "labels": {"num_distractors": "Distractors"}},
    )
    samples = tuple(
        replace(one, fields={**one.fields, "num_distractors": 3 * (k % 2)})
        for k, one in enumerate(run.samples)
    )
    run = replace(run, samples=samples)
    in_heatmap, in_lines = (
        " ".join(words_of(draw, run)).replace("\n", " ") for draw in (heatmap, length_curves)
    )
    assert "mean over all samples; Distractors: 0, 3" in in_heatmap
    assert "mean over all samples; Distractors: 0, 3" in in_lines
    plain = run_of("tokens", broken)
    text = " ".join(words_of(length_curves, [run, plain])).replace("\n", " ")
    assert "in runs/tiny (1): mean over all samples; Distractors: 0, 3" in text


def test_time_since_the_needle_is_not_asked_of_a_text():
    run = run_of("tokens", broken)
    bare = tuple(replace(one, fields={"needle_id": one.fields["needle_id"]}) for one in run.samples)
    with pytest.raises(ResultsError, match=r"no sample of .* has a needle_index"):
        retention(replace(run, samples=bare))
