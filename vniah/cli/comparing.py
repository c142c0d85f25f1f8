"""``vniah compare``."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vniah.cli.printing import show_lines, tell
from vniah.errors import CannotCompareError, InputError, VniahError

if TYPE_CHECKING:
    from vniah.analysis.compare import Comparison
    from vniah.analysis.compare.rules import Thresholds
    from vniah.results import Results

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"

EXIT_CODES = {"passed": 0, "regression": 1, "undecided": 3}
"""Of a comparison that may stop early, by its verdict."""


def compare(options: argparse.Namespace) -> int:
    """Prints whether a candidate is worse than a baseline, and where."""
    if options.applied and options.stop_early:
        raise InputError("--applied is of complete runs: leave out --stop-early")
    judge = _compare_early if options.stop_early else _compare
    try:
        return judge(options)
    except VniahError as error:
        _show_error(str(error), options.format)
        raise


def _compare(options: argparse.Namespace) -> int:
    from vniah.analysis.compare.comparison import compare_by
    from vniah.analysis.compare.rules import make_rules

    rules = make_rules(options.rules, _thresholds(options))
    comparison = compare_by(options.baseline, _candidate(options), rules)
    _show(comparison, options.format)
    return 0 if comparison.passed else 1


def _candidate(options: argparse.Namespace) -> "Path | Results":
    """The candidate, or with --applied its samples that were run with its intervention."""
    if not options.applied:
        return cast("Path", options.candidate)
    from vniah.analysis.compare.pairing import load
    from vniah.results.applied import applied_results

    found = applied_results(load(options.candidate, "candidate"))
    if found is None:
        raise CannotCompareError(
            f"the candidate {options.candidate} has no samples with an intervention: give a run "
            "with --apply, or leave out --applied"
        )
    return found


def _compare_early(options: argparse.Namespace) -> int:
    """The same of a run that may be going on."""
    from vniah.analysis.compare import compare_early
    from vniah.analysis.compare.formats import EARLY_FORMATS

    early = compare_early(
        options.baseline, options.candidate, rules=options.rules, **_thresholds(options)
    )
    if early.comparison is not None:
        _show(early.comparison, options.format)
    else:
        show_lines(EARLY_FORMATS[options.format](early))
        _add_to_page(EARLY_FORMATS["markdown"](early))
    return EXIT_CODES[early.verdict]


def _show(comparison: "Comparison", how: str) -> None:
    """Prints a comparison, and adds it to the page of a job."""
    from vniah.analysis.compare.formats import FORMATS

    if comparison.warning:
        tell(f"warning: {comparison.warning}")
    show_lines(FORMATS[how](comparison))
    _add_to_page(FORMATS["markdown"](comparison))


def _show_error(message: str, style: str) -> None:
    """Why nothing is known, for a job that reads the output, and on its page."""
    from vniah.analysis.compare.formats import ERROR_FORMATS, error_as_markdown

    if style in ERROR_FORMATS:
        show_lines(ERROR_FORMATS[style](message))
    _add_to_page(error_as_markdown(message))


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
            raise InputError("--floor names a length twice")
    if options.keep_cell:
        found["keep_cells"] = options.keep_cell
    if options.allowed_errors is not None:
        found["allowed_errors"] = options.allowed_errors
    if options.unpaired:
        found["unpaired"] = True
    if options.allow_approximate:
        found["allow_approximate"] = True
    return found


def _add_to_page(text: str) -> None:
    """The verdict is what counts: a page that cannot be written is only said."""
    path = os.environ.get(_STEP_SUMMARY)
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        tell(f"warning: {_STEP_SUMMARY} cannot be written: {error.strerror or error}")
