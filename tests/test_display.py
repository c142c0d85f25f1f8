"""The log as the command line shows it."""

import logging

from runs import make_run

from vniah.cli.display import format_average, shown_log
from vniah.sweep.progress import Bars


def test_warnings_are_lines_on_stderr_while_they_are_shown(capsys):
    log = logging.getLogger("vniah")
    with shown_log(), Bars() as bars:
        bars.show("sweep", 1, 4)
        log.warning("memory ran out: 100 % of it")
        log.info("one tree for all")
        log.debug("nothing of interest")
    written = capsys.readouterr()
    assert written.out == ""
    lines = written.err.replace("\r", "\n").splitlines()
    assert "vniah: warning: memory ran out: 100 % of it" in lines
    assert "vniah: one tree for all" in lines
    assert "nothing of interest" not in written.err
    assert log.handlers == [] and log.level == logging.NOTSET


def test_other_processes_of_a_job_say_who_they_are(capsys):
    with shown_log(" in process 3"):
        logging.getLogger("vniah").warning("short of memory")
    assert capsys.readouterr().err == "vniah: warning in process 3: short of memory\n"


def test_bar_that_is_full_is_closed_and_stays_so(capsys):
    with Bars() as bars:
        bars.show("encode", 30, 40)
        bars.show("encode", 40, 40)
        closed = capsys.readouterr().err
        assert closed.endswith("\n") and "40/40" in closed
        bars.show("encode", 40, 40)
        assert capsys.readouterr().err == ""
        bars.show("sweep", 1, 2)
    assert "1/2" in capsys.readouterr().err


def test_average_counts_only_the_cells_that_have_a_score():
    run = make_run("3,4", "0,1", outcome=lambda c, k: "too long" if c.num_frames == 4 else True)
    assert format_average(run) == "average: 1.0000 over 2 of 4 cells"
