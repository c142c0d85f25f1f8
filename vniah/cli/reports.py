"""The command ``report``."""

import argparse
from pathlib import Path

from vniah.cli.environment import load_plot
from vniah.cli.printing import show, tell

_NAME = "report.html"


def report(options: argparse.Namespace) -> int:
    """Writes a report of runs or published tables."""
    from vniah.analysis.report import make_report
    from vniah.needles import load_needles
    from vniah.results import load_results

    runs = [load_results(path) for path in options.results]
    needles = [load_needles(name) for name in options.needles]
    output = options.output
    if output is None:
        first = runs[0].path
        output = first / _NAME if first.is_dir() and len(runs) == 1 else Path(_NAME)
    load_plot()
    made = make_report(runs, needles=needles)
    made.save(output)
    for note in made.notes:
        tell(f"note: {note}")
    show(f"report: {output}")
    return 0
