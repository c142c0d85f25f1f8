"""The commands ``vniah convert`` and ``vniah schema``."""

import argparse

from vniah.cli.printing import show, show_lines, tell
from vniah.errors import counted
from vniah.files import to_json
from vniah.results import format_schema, load_results


def convert(options: argparse.Namespace) -> int:
    """Writes a run in the format of another harness."""
    from vniah.analysis.convert import convert_results

    results = load_results(options.result)
    files = convert_results(results, options.to, output=options.output)
    if not results.is_complete:
        tell(
            f"warning: the run has lines for {results.num_done:,} of "
            f"{counted(results.num_planned or 0, 'sample')}; {options.to} is told so"
        )
    for path in files:
        show(f"{options.to}: {path}")
    return 0


def schema(options: argparse.Namespace) -> int:
    """Prints the JSON schema of a file of a run."""
    found = format_schema(options.file, options.format_version)
    show_lines(to_json(found, indent=2).decode())
    return 0
