"""What is printed passes through one place, and nothing from outside reaches a terminal raw."""

import ast
import io
import re
import sys
from pathlib import Path

import pytest

import vniah
from vniah.analysis.tables import format_columns
from vniah.cli import main, printing
from vniah.cli.display import shown_log
from vniah.errors import first_line, printable

PACKAGE_DIR = Path(vniah.__file__).parent

# Modules that may write to a stream: the one place for the command line, and progress bars, which
# have no text from outside.
WRITERS = ("cli/printing.py", "sweep/progress.py")

RAW = {
    "colour": ("\x1b[31mred", "\\x1b[31mred"),
    "title of the terminal": ("\x1b]0;mine\x07", "\\x1b]0;mine\\x07"),
    "one byte escape": ("\x9b2J", "\\x9b2J"),
    "carriage return": ("right\rwrong", "right\\rwrong"),
    "backspace and delete": ("a\x08\x7f", "a\\x08\\x7f"),
    "line end": ("one\ntwo", "one\\ntwo"),
    "line separators": ("a\u2028b\u2029c\x85", "a\\u2028b\\u2029c\\x85"),
    "other direction": ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
    "isolated direction": ("\u2066x\u2069", "\\u2066x\\u2069"),
    "unseen": ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
    "tag letters": ("\U000e0041", "\\U000e0041"),
    "joiners of plain letters": ("a\u200db\u200c", "a\\u200db\\u200c"),
    "joiners at an end": ("\u200dक\u200d", "\\u200dक\\u200d"),
    "joiners beside marks": ("क\u200d\u202eक", "क\\u200d\\u202eक"),
    "lone surrogate": ("\udcff\ud800", "\\udcff\\ud800"),
}
FINE = ["", "plain text", "naïve – “quoted”", "東京 한국어 हिन्दी", "back\\slash", "😀"]
FINE += ["می\u200cخوانید", "क्\u200dष", "👩\u200d👩\u200d👧"]


@pytest.mark.parametrize("case", RAW)
def test_printable_escapes_what_cannot_be_seen(case):
    raw, expected = RAW[case]
    assert printable(raw) == expected
    assert printable(expected) == expected


@pytest.mark.parametrize("text", FINE)
def test_printable_keeps_what_can_be_read(text):
    assert printable(text) == text


def test_lines_of_the_log_and_errors_are_escaped(capsys):
    import logging
    import warnings

    with shown_log(), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("vniah").warning("server said: \x1b[2J\u202e")
        warnings.warn("file \x1b[31m", stacklevel=1)
    assert main(["plot", "/nowhere/\x1b]0;x\x07\udcff"]) == 2
    assert main(["run", "--speed\x1b[0m", "1"]) == 2
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 4
    assert all(line.isprintable() for line in written.splitlines())
    assert "\\x1b[2J\\u202e" in written and "\\udcff" in written


def test_names_in_tables_stay_in_their_cells():
    lines = format_columns([["name", "score"], ["a\nb\x1b[0m", "1"]]).splitlines()
    assert [line.split() for line in lines] == [["name", "score"], ["a\\nb\\x1b[0m", "1"]]


def test_help_and_version_pass_through_the_same_place(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(printing, "_write", lambda stream, text: seen.append(text))
    for arguments in (["--help"], ["--version"], ["compare", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert len(seen) == 3 and "usage: vniah compare" in seen[2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_streams_that_lack_a_character_get_an_escape(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    printing.show("東京 – \ud800")
    stream.flush()
    written = stream.buffer.getvalue().decode(encoding)
    if encoding == "utf-8":
        assert written == "東京 – \\ud800\n"
    else:
        assert written.startswith("\\u6771\\u4eac ") and written.endswith("\\ud800\n")


def test_closed_stdout_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["models"]) == 0


def test_long_message_is_cut(capsys):
    printing.tell("error: " + "x" * 200_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 2100 and " ... xxx" in line


def test_work_is_announced_on_a_terminal_and_erased(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with printing.working("loading \x1b[31m"):
        assert terminal.getvalue() == "vniah: loading \\x1b[31m ..."
    assert terminal.getvalue().endswith("\r")
    with printing.working("loading"):
        printing.tell("a note")
    assert "\rvniah: a note\n" in terminal.getvalue(), "the note begins on an empty line"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with printing.working("loading"):
        assert sys.stderr.getvalue() == ""


def writers_in(source: str) -> list[str]:
    """What a module's text does that writes to a stream: calls of print, and the streams' names."""
    found: list[str] = []
    if not re.search(r"\b(print|tqdm|sys)\b", source):
        return found  # most modules, whose syntax takes a while to read
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in ("print", "tqdm"):
            found.append(node.id)
        is_stream = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
        if is_stream and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and node.module == "sys":
            found.append("from sys import")
    return found


def test_only_one_module_writes_to_the_terminal():
    wrong = {}
    for path in PACKAGE_DIR.rglob("*.py"):
        name = path.relative_to(PACKAGE_DIR).as_posix()
        allowed = {"sys.stdout", "sys.stderr"} if name in ASKERS else set()
        if name not in WRITERS and (found := set(writers_in(path.read_text())) - allowed):
            wrong[name] = found
    assert wrong == {}


# These only ask a stream whether it is a terminal, or speak with another process.
ASKERS = (
    *("cli/__init__.py", "cli/commands.py", "cli/environment.py"),
    "haystacks/video/decord.py",
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print('x')", ["print"]),
        ("import sys\nsys.stderr.write('x')", ["sys.stderr"]),
        ("from sys import stdout", ["from sys import"]),
        ("def f():\n    from tqdm import tqdm\n    tqdm.write('x')", ["tqdm"]),
        ("show('x')", []),
    ],
)
def test_the_search_for_writers_can_fail(source, expected):
    assert writers_in(source) == expected


def test_reason_that_stands_on_the_next_line_is_shown():
    assert first_line(ValueError("\nfield 'eps':\n    must be positive\nmore")) == (
        "field 'eps': must be positive"
    )
    assert first_line(ValueError("only this:")) == "only this:"
