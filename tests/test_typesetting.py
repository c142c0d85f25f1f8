"""Texts of pictures: names that are cut, escapes, and the fonts of what DejaVu lacks."""

import re
from dataclasses import replace

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, fontManager
from runs import make_run

from vniah.analysis.plot import (
    checkpoint_curves,
    difference_map,
    heatmap,
    length_curves,
    needle_map,
    retention_curves,
    save_checkpoint_curves,
    save_heatmaps,
    save_length_curves,
    save_needle_maps,
)
from vniah.analysis.plot.typesetting import NO_BREAK, Fonts, _other_families, text_width
from vniah.errors import shortened

NAME = "organisation/model-7b-instruct-finetuned-on-long-text-checkpoint-000123000"


def new_axes():
    figure = Figure(figsize=(8, 4))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def test_long_names_are_wrapped_and_cut_in_the_middle():
    fonts = Fonts()
    style = fonts.style(9.0)
    assert fonts.wrap_name("short", 100.0, style, most=2) == ["short"]
    lines = fonts.wrap_name(NAME, 150.0, style, most=2)
    assert len(lines) == 2 and max(text_width(line, style) for line in lines) <= 150
    name = "".join(lines)
    assert name.startswith("organisation/") and name.endswith("checkpoint-000123000")
    assert name.count("\u2026") == 1 and len(name) < len(NAME)
    assert fonts.wrap_name(NAME, 1000.0, style, most=2) == [NAME]
    odd = Fonts(missing=frozenset("\u7ea2")).wrap_name("\u7ea2" * 5000, 80.0, style, most=1)
    assert re.fullmatch(r"(\\u7ea2)+\u2026(\\u7ea2)*", odd[0]), "no escape is cut"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("a cat (average~0.82)", 80.0, ["a cat", "(average 0.82)"]),
        (
            "a cat (average~0.82~over~3~of~4~cells)",
            96.0,
            ["a cat", "(average 0.82 over", "3 of 4 cells)"],
        ),
        ("in runs/a-long-one/of-two", 80.0, ["in runs/a-long-", "one/of-two"]),
        ("in /runs-of-all-others/a", 80.0, ["in /runs-of-all-", "others/a"]),
        ("all of undividablewordsandothers", 80.0, ["all of", "undividableword", "sandothers"]),
    ],
)
def test_lines_break_where_parts_end(text, width, lines):
    """A tilde stands for a space at which no line is to be broken."""
    found = Fonts().wrap(text.replace("~", NO_BREAK), width, Fonts().style(9.0))
    assert [line.replace(NO_BREAK, " ") for line in found] == lines


@pytest.mark.parametrize(
    "text", ["\u0926\u0940\u0930" * 9, "a \U0001e900 b\U0001e900-" * 4, "\x1b" * 30]
)
@pytest.mark.parametrize("is_escaped", [True, False])
def test_escapes_are_never_cut(text, is_escaped):
    escaped = text.encode("unicode_escape").decode()
    fonts = Fonts(missing=frozenset(text) - set("ab -"))
    style, given = fonts.style(9.0), escaped if is_escaped else text
    whole = re.compile(r"(\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})|[ab \u2026.-])*")
    for width in (66.0, 80.0, 97.0, 150.0):
        wrapped, name = (
            fonts.wrap(given, width, style),
            fonts.wrap_name(given, width, style, most=2),
        )
        assert "".join(wrapped).replace(" ", "") == escaped.replace(" ", "")
        assert name[0] and len("".join(name)) <= len(escaped)
        for line in (*wrapped, *name, fonts.cut(given, width, style)):
            assert whole.fullmatch(line) and text_width(line, style) <= width, line
    assert all(whole.fullmatch(shortened(escaped, most)) for most in range(13, 40))


def font_with(path, characters, *, weight=400):
    """A file of a font that has only these characters, in one weight."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 500), (500, 500), (500, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = {ord(c): f"glyph{k}" for k, c in enumerate(characters)}
    glyphs = {name: pen.glyph() for name in (".notdef", *names.values())}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap(names)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Zzz Test", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=weight)
    builder.setupPost()
    builder.save(path)
    return path


UNUSUAL = "\U00010380\U0001e900"  # Ugaritic and Adlam, which few systems have


def test_characters_that_no_font_has_are_escapes(caplog):
    ax = heatmap(replace(make_run("8", "0"), name=f"model {UNUSUAL}"), new_axes())
    assert ax.get_title().startswith("model ") and r"\U0001e900" in ax.get_title()
    (message,) = caplog.messages
    assert message.startswith("no font of this system has") and "\U0001e900" in message


def named(run, name):
    """The run with this name, of its model and of a needle."""
    samples = [
        replace(s, fields={**s.fields, "needle_id": name}) if s.needle_id == "needle-0" else s
        for s in run.samples
    ]
    return replace(run, name=name, samples=tuple(samples))


def pictures_of(name):
    """For each kind of picture, what draws it with a name: some onto axes, some into files."""
    run, other = (make_run("8,16", "0,1", num_needles=2) for _ in range(2))
    run = named(run, name)
    lines = {name: [("step-1", other)], "other": [("step-1", other)]}
    places = {"one": [(name, other), ("last", other)]}
    return {
        "heatmap": lambda path: heatmap(run, new_axes()),
        "needles": lambda path: needle_map(replace(run, name="other"), new_axes()),
        "legend": lambda path: length_curves([run, other], new_axes()),
        "retention": lambda path: retention_curves(run, new_axes()),
        "difference": lambda path: difference_map(run, other, new_axes()),
        "checkpoints": lambda path: checkpoint_curves(lines, new_axes()),
        "places": lambda path: checkpoint_curves(places, new_axes()),
        "files of lines": lambda path: save_length_curves([run, other], path),
        "files of needles": lambda path: save_needle_maps([run, other], path),
        "files of checkpoints": lambda path: save_checkpoint_curves(lines, path),
    }


@pytest.mark.parametrize("kind", pictures_of("x"))
def test_characters_that_no_font_has_are_told_once_of_every_kind(kind, tmp_path, caplog):
    pictures_of(f"name {UNUSUAL}")[kind](tmp_path / "picture.svg")
    (message,) = caplog.messages
    assert message.startswith("no font of this system has 2 characters")


def test_characters_come_from_any_font_that_has_them(tmp_path, caplog):
    run = named(make_run("8", "0", num_needles=1), f"model {UNUSUAL}")
    other = make_run("8", "0", num_needles=1)
    before = list(fontManager.ttflist)
    try:
        fontManager.addfont(font_with(tmp_path / "test.ttf", UNUSUAL, weight=500))
        paths = [
            save_heatmaps([run], tmp_path / name, caption=False)
            for name in ("a.pdf", "b.pdf", "c.svg")
        ]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        paths.append(save_length_curves([run, other], tmp_path / "d.svg", caption=False))
        paths.append(save_needle_maps([run], tmp_path / "e.svg", titles=["a"], caption=False))
        for path in paths[2:]:
            assert f"model {UNUSUAL}" in path.read_text(), path
        assert caplog.messages == []
        title = heatmap(run, new_axes()).title
        legend = length_curves([run, other], new_axes()).get_legend()
        for text in (title, legend.get_texts()[0]):
            assert text.get_text().split("\n")[0] == f"model {UNUSUAL}"
            assert "Zzz Test" in text.get_fontfamily()
        assert not [record for record in caplog.records if record.name == "vniah"]
    finally:
        fontManager.ttflist[:] = before


def test_fonts_of_the_usual_weight_come_first():
    """Of a family, as of several, the letters that are neither bold nor narrow are taken."""
    before = list(fontManager.ttflist)
    entry = {"style": "normal", "variant": "normal", "size": "scalable"}
    fonts = (
        ("Aaa Only Medium", 500, "normal"),
        ("Aaa Narrow", 400, "condensed"),
        ("Bbb", 700, "normal"),
        ("Bbb", 400, "normal"),
        ("Ccc", "regular", "normal"),
    )
    try:
        fontManager.ttflist[:] = [
            FontEntry(fname=f"{name}-{weight}", name=name, weight=weight, stretch=stretch, **entry)
            for name, weight, stretch in fonts
        ]
        found = _other_families()
    finally:
        fontManager.ttflist[:] = before
    assert list(found) == ["Bbb", "Ccc", "Aaa Only Medium", "Aaa Narrow"]
    assert found["Bbb"] == "Bbb-400"
