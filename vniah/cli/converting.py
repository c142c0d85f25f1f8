"""The command ``vniah convert``."""

import argparse

from vniah.cli.printing import show, tell
from vniah.errors import counted
from vniah.results import load_results


def convert(options: argparse.Namespace) -> int:
    """Writes a run in the format of another harness."""
    from vniah.analysis.convert import convert_results

    results = load_results(options.result)
    files = convert_results(results, options.to, output=options.output)
    if not results.is_complete:
        planned, done = results.num_planned or 0, results.num_done or 0
        tell(
            f"warning: the run is not complete, {counted(planned - done, 'sample')} of "
            f"{planned:,} have no line yet; {options.to} is told so"
        )
    for path in files:
        show(f"{options.to}: {path}")
    return 0
