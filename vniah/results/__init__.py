"""Reads runs and published tables, and writes runs.

A run is a folder with ``manifest.json``, and ``samples.jsonl`` with one line for each sample. The
score of a cell is always computed from its samples and never stored.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from vniah.errors import InputError, ResultsError, short_repr
from vniah.paths import user_path
from vniah.results.debiased import DebiasedScore
from vniah.results.facets import facet_results, facet_values, group_results
from vniah.results.format_schema import format_schema
from vniah.results.manifests import (
    ENVIRONMENT_KEY,
    FORMAT_VERSION,
    MANIFEST_NAME,
    NOTES_KEY,
    flatten,
)
from vniah.results.measures import CellMeasure, Measure
from vniah.results.membership import asked_name, contradiction
from vniah.results.plan import grid_record, read_grid
from vniah.results.published import load_published
from vniah.results.reading import SAMPLES_NAME, load_run
from vniah.results.records import Axis, CellScore, ControlScore, Results
from vniah.results.run_folder import RunFolder
from vniah.results.samples import MOST_LINE_BYTES, SampleResult

__all__ = [
    "ENVIRONMENT_KEY",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "MOST_LINE_BYTES",
    "NOTES_KEY",
    "SAMPLES_NAME",
    "AnyResults",
    "Axis",
    "CellMeasure",
    "CellScore",
    "ControlScore",
    "DebiasedScore",
    "Measure",
    "Results",
    "RunFolder",
    "SampleResult",
    "asked_name",
    "contradiction",
    "facet_results",
    "facet_values",
    "flatten",
    "format_schema",
    "grid_record",
    "group_results",
    "load_results",
    "load_run",
    "one_result",
    "read_grid",
    "several_results",
]

AnyResults: TypeAlias = Results | str | Path
"""Results, or where they lie."""


def load_results(path: str | Path) -> Results:
    """A run folder, or a published ``all_accuracies.json`` (visual or text form).

    Raises:
        ResultsError: there is no such file, or it is neither of the two.
        InputError: the text is empty, or can be no path.
    """
    path = user_path(path, "a result")
    if path.is_dir():
        return load_run(path)
    if path.name == MANIFEST_NAME or path.suffix == ".jsonl":
        raise ResultsError(f"{path} is a file of a run: give the folder, {path.parent}")
    if path.is_file():
        return load_published(path)
    raise ResultsError(
        f"no results at {path}: give a run folder, or the JSON file of a published table"
    )


def one_result(given: AnyResults) -> Results:
    """The results, or those of a path.

    Raises:
        ResultsError: they cannot be read.
        InputError: it is something else, such as a list.
    """
    if isinstance(given, Results):
        return given
    if isinstance(given, str | Path):
        return load_results(given)
    raise InputError(
        "results must be those that load_results gives, or the path of a run folder or of a "
        f"published table, got {short_repr(given)}"
    )


def several_results(given: AnyResults | Iterable[AnyResults]) -> list[Results]:
    """One or several results, or those of paths.

    Raises:
        ResultsError: some cannot be read.
        InputError: some are something else.
    """
    if isinstance(given, Results | str | Path) or not isinstance(given, Iterable):
        return [one_result(given)]
    return [one_result(one) for one in given]
