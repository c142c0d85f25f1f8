"""``vniah compare``."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.cli.printing import show_lines, tell
from vniah.errors import InputError, VniahError

if TYPE_CHECKING:
    from vniah.analysis.compare.rules import Thresholds

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def compare(options: argparse.Namespace) -> int:
    """Prints whether a candidate is worse than a baseline, and where."""
    from vniah.analysis.compare.comparison import compare_runs
    from vniah.analysis.compare.formats import FORMATS, as_markdown

    try:
        comparison = compare_runs(
            options.baseline, options.candidate, options.rules, _thresholds(options)
        )
    except VniahError as error:
        _show_error(str(error), options.format)
        raise
    if comparison.warning:
        tell(f"warning: {comparison.warning}")
    show_lines(FORMATS[options.format](comparison))
    if path := os.environ.get(_STEP_SUMMARY):
        _append(Path(path), as_markdown(comparison))
    return 0 if comparison.passed else 1


def _show_error(message: str, style: str) -> None:
    """Why nothing is known, for a job that reads the output, and on its page."""
    from vniah.analysis.compare.formats import ERROR_FORMATS, error_as_markdown

    if style in ERROR_FORMATS:
        show_lines(ERROR_FORMATS[style](message))
    if path := os.environ.get(_STEP_SUMMARY):
        _append(Path(path), error_as_markdown(message))


def _thresholds(options: argparse.Namespace) -> "Thresholds":
    found: Thresholds = {}
    if options.significance is not None:
        found["significance"] = options.significance
    if options.significant_drop is not None:
        found["significant_drop"] = options.significant_drop
    if options.max_drop is not None:
        found["max_drop"] = options.max_drop
    if options.max_mean_drop is not None:
        found["max_mean_drop"] = options.max_mean_drop
    if options.min_mean is not None:
        found["min_mean"] = options.min_mean
    if options.min_effective_length is not None:
        found["min_effective_length"] = options.min_effective_length
    if options.floor:
        found["floors"] = dict(options.floor)
        if len(found["floors"]) < len(options.floor):
            raise InputError("--floor names a number of frames twice")
    if options.keep_cell:
        found["keep_cells"] = options.keep_cell
    if options.allowed_errors is not None:
        found["allowed_errors"] = options.allowed_errors
    if options.unpaired:
        found["unpaired"] = True
    return found


def _append(path: Path, text: str) -> None:
    """The verdict is what counts: a page that cannot be written is only said."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        tell(f"warning: {_STEP_SUMMARY} cannot be written: {error.strerror or error}")
