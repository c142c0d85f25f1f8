"""The log, and the progress, as the command line shows them."""

import io
import logging
import sys

from runs import make_run

from vniah.analysis.sentences import format_average
from vniah.cli.display import format_comparison, format_gaps, shown_log
from vniah.sweep import progress
from vniah.sweep.progress import Bars


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self):
        return True


def be_on_terminal(monkeypatch):
    """Makes stderr a terminal; called in the test itself, since pytest replaces it before."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_warnings_are_lines_on_stderr_while_they_are_shown(monkeypatch):
    terminal = be_on_terminal(monkeypatch)
    log = logging.getLogger("vniah")
    with shown_log(), Bars() as bars:
        bars.show("sweep", 1, 4)
        log.warning("memory ran out: 100 % of it")
        log.info("one tree for all")
        log.debug("nothing of interest")
    lines = terminal.getvalue().replace("\r", "\n").splitlines()
    assert "vniah: warning: memory ran out: 100 % of it" in lines
    assert "vniah: one tree for all" in lines
    assert any("1/4" in line for line in lines), "the bar"
    assert "nothing of interest" not in terminal.getvalue()
    assert log.handlers == [] and log.level == logging.NOTSET


def test_quiet_log_has_warnings_only(capsys):
    log = logging.getLogger("vniah")
    with shown_log(is_quiet=True):
        log.info("one tree for all")
        log.warning("short of memory")
    assert capsys.readouterr().err == "vniah: warning: short of memory\n"


def test_other_processes_of_a_job_say_who_they_are(capsys):
    with shown_log(" in process 3"):
        logging.getLogger("vniah").warning("short of memory")
    assert capsys.readouterr().err == "vniah: warning in process 3: short of memory\n"


def test_bar_that_is_full_is_closed_and_stays_so(monkeypatch):
    terminal = be_on_terminal(monkeypatch)
    with Bars() as bars:
        bars.show("encode", 30, 40)
        bars.show("encode", 40, 40)
        closed = terminal.getvalue()
        assert closed.endswith("\n") and "40/40" in closed
        bars.show("encode", 40, 40)
        assert terminal.getvalue() == closed
        bars.show("sweep", 1, 2)
    assert "1/2" in terminal.getvalue()


def test_progress_in_a_log_file_is_a_few_lines(capsys, monkeypatch):
    seconds = iter(range(10_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))
    with Bars() as bars:
        for done in range(101):
            bars.show("encode", done, 100)
        bars.show("draw", 1, 2)
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert "\r" not in written and len(lines) < 10
    assert lines[0].startswith("vniah: encode: 0 of 100 frames")
    assert lines[-2].startswith("vniah: encode: 100 of 100 frames, ")
    assert lines[-1].startswith("vniah: draw: 1 of 2 s")


def test_progress_counts_pages_of_a_document(capsys):
    with Bars(unit="page") as bars:
        bars.show("encode", 2, 2)
        bars.unit = "frame"
        bars.show("read", 1, 1)
        bars.show("sweep", 1, 1)
    written = capsys.readouterr().err
    assert "encode: 2 of 2 pages" in written
    assert "read: 1 of 1 frames" in written and "sweep: 1 of 1 samples" in written


def test_progress_that_is_not_to_be_shown_writes_nothing(capsys):
    with Bars(False) as bars:
        bars.show("encode", 1, 2)
    assert capsys.readouterr().err == ""


def test_average_counts_only_the_cells_that_have_a_score():
    run = make_run("3,4", "0,1", outcome=lambda c, k: "too long" if c.num_frames == 4 else True)
    assert format_average(run) == (
        "average: 1.0000 over 2 of 4 cells, for these needles on this film"
    )


def test_average_says_how_many_cells_lack_samples():
    run = make_run(
        "3,4", "0,1", outcome=lambda c, k: "oh" if k == 0 and c.num_frames == 4 else True
    )
    assert format_average(run) == (
        "average: 1.0000 over 4 cells, 2 of them without the samples that could not be run, for "
        "these needles on this film"
    )
    assert format_gaps(run) == [
        "at 4 frames the mean is over 2 of 2 cells, without 2 samples that could not be run"
    ]
    assert format_gaps(make_run()) == []


def test_average_of_a_run_that_was_stopped_counts_the_planned_cells():
    run = make_run("3,4,5", "0,1", outcome=lambda c, k: True if c.num_frames < 5 else None)
    assert format_average(run).startswith("average: 1.0000 over 4 of 6 cells")
    assert "4 of 6 cells" in repr(run)


def test_gaps_of_many_lengths_are_counted():
    frames = ",".join(map(str, range(1, 10)))
    run = make_run(frames, "0", num_needles=1, outcome=lambda c, k: "out of memory")
    lines = format_gaps(run)
    assert len(lines) == 6 and lines[-1] == "and so at 4 other places"
    assert lines[0].startswith("at 1 frame the mean is over 0 of 1 cell, without 1 sample ")


def test_comparison_says_what_averages_are_over_if_not_all_are_over_all_cells():
    whole = make_run("3,4", "0,1")
    part = make_run("3,4", "0,1", outcome=lambda c, k: "oh" if c.num_frames == 4 else True)
    assert "over" not in format_comparison(["a", "b"], [whole, whole]).replace(
        "mean over depth", ""
    )
    lines = format_comparison(["a", "b"], [whole, part]).splitlines()
    assert [line[29:] for line in lines[:3]] == [
        "average       95 %  effective length  95 %          over",
        " 1.0000  0.72-1.00              >= 4     .       4 cells",
        " 1.0000  0.72-1.00                 3     .  2 of 4 cells",
    ]
    assert lines[3] == "95 %: the interval of what stands before it, for needles like these"
