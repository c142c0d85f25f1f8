"""Paths that a user names: an empty one is never the working folder."""

from pathlib import Path

import pytest

import vniah
from vniah.cli import main
from vniah.errors import InputError
from vniah.haystacks.haystack import make_haystack
from vniah.paths import user_path

IMPOSSIBLE = {
    "empty": ("", "must not be empty, got ''"),
    "spaces": ("  \t", "must not be empty"),
    "line end": ("\n", "must not be empty"),
    "zero byte": ("a\0b", "holds a zero byte"),
    "unknown user": ("~nobody-of-this-name/x", "a user who is not known here"),
    "long": ("x/" * 100_000, "200,000 characters is too long"),
    "long name": ("é" * 150, "a name of 300 bytes"),
    "lone surrogate": ("a\ud800", "characters that no file name can have"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_path_that_is_none_is_refused(case):
    text, message = IMPOSSIBLE[case]
    with pytest.raises(InputError, match="a film") as caught:
        user_path(text, "a film")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250


def test_other_paths_stay_what_they_are(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a b") == Path("/home/me/a b")
    assert user_path(Path("a")) == Path("a")
    assert user_path(".") == Path()
    assert user_path("\udcff") == Path("\udcff"), "bytes that are no UTF-8, as Python has them"


ARGUMENTS = {
    "haystack": ["run", "--haystack", "{}"],
    "second haystack": ["run", "--haystack", "a.mp4", "{}"],
    "haystack to encode": ["encode", "--haystack", "{}"],
    "needles": ["run", "--needles", "{}"],
    "needles to check": ["check", "--needles", "{}"],
    "needles to estimate": ["estimate", "--needles", "{}"],
    "output": ["run", "--output", "{}"],
    "picture": ["plot", "a", "--output", "{}"],
    "cache": ["run", "--cache", "{}"],
    "model": ["run", "--model", "{}"],
    "result": ["plot", "{}"],
    "second result": ["plot", "a", "{}"],
    "baseline": ["compare", "{}", "a"],
    "candidate": ["compare", "a", "{}"],
    "film": ["haystack", "make", "{}", "--seconds", "1"],
}


@pytest.mark.parametrize("text", ["", " ", "~nobody-of-this-name/x"])
@pytest.mark.parametrize("case", ARGUMENTS)
def test_argument_without_a_path_is_one_line(case, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([part.format(text) for part in ARGUMENTS[case]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vniah: error: argument ")
    assert "must not be empty" in line or "is not known here" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "x" * 200_000, "~nobody-of-this-name"])
@pytest.mark.parametrize(
    "call",
    [
        vniah.open_haystack,
        lambda text: vniah.open_haystack(["/dev/null", text]),
        vniah.load_needles,
        vniah.load_results,
        vniah.load_model,
        lambda text: vniah.compare(text, text),
        lambda text: vniah.run_sweep(None, None, None, None, output=text),
        lambda text: make_haystack(text, seconds=1),
    ],
    ids=["haystack", "second", "needles", "results", "model", "compare", "output", "film"],
)
def test_function_without_a_path_says_so(call, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(vniah.VniahError) as caught:
        call(text)
    assert isinstance(caught.value, InputError)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
