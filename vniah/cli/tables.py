"""The command ``table``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.cli.printing import show, show_lines
from vniah.errors import InputError, quoted
from vniah.files import atomic_path

if TYPE_CHECKING:
    from vniah.options import TableFormat

_SUFFIXES: "dict[str, TableFormat]" = {
    ".txt": "text",
    ".md": "markdown",
    ".tex": "latex",
    ".csv": "csv",
    ".json": "json",
}


def table(options: argparse.Namespace) -> int:
    """Prints or writes a table of runs or published tables."""
    style = options.format or style_of(options.output)
    from vniah.analysis.table_formats import format_results
    from vniah.results import facet_results, load_results

    runs = [load_results(path) for path in options.results]
    if options.by is not None:
        runs = [part for run in runs for part in (*facet_results(run, options.by).values(), run)]
    text = format_results(runs, options.kind, style, intervals=options.intervals)
    write_table(text, options.output)
    return 0


def write_table(text: str, output: Path | None) -> None:
    """Writes a table to a file, or to stdout if there is none."""
    if output is None:
        show_lines(text)
        return
    with atomic_path(output) as temporary:
        temporary.write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"))
    show(f"table: {output}")


def style_of(output: Path | None) -> "TableFormat":
    """The format that the name of a file says; text without a file.

    Raises:
        InputError: its suffix is of no format.
    """
    if output is None:
        return "text"
    if (style := _SUFFIXES.get(output.suffix.lower())) is None:
        raise InputError(
            f"the format of {quoted(output.name, 60)} is not known: use one of "
            f"{', '.join(_SUFFIXES)}, or add --format"
        )
    return style
