"""Reads the published ``all_accuracies.json`` tables, so that they can be drawn and compared."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Literal

from vniah.errors import ResultsError
from vniah.grid import Cell, as_depth
from vniah.results.records import CellScore, Results

_PUBLISHED_KEYS = (("Num. Frame", "Frame Depth"), ("Context Length", "Document Depth"))


def load_published(path: Path) -> Results:
    """The cell means in a file of the published scripts, in which depths are in percent."""
    hint = "expected a run folder, or a list of {Num. Frame, Frame Depth, Score}"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read as JSON: {hint}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ResultsError(f"{path} is not a table of results: {hint}")
    keys = next((keys for keys in _PUBLISHED_KEYS if set(keys) <= rows[0].keys()), None)
    scores: dict[Cell, list[float]] = {}
    for number, row in enumerate(rows):
        if keys is None or not {*keys, "Score"} <= row.keys():
            raise ResultsError(f"{path}, entry {number}: {hint}, got {json.dumps(row)[:80]}")
        if type(row["Score"]) not in (int, float) or not 0 <= row["Score"] <= 1:
            raise ResultsError(
                f"{path}, entry {number}: Score must be between 0 and 1, got {row['Score']!r}"
            )
        if type(row[keys[0]]) is not int or row[keys[0]] < 1:
            raise ResultsError(
                f"{path}, entry {number}: {keys[0]} must be a whole number of at least 1, "
                f"got {row[keys[0]]!r}"
            )
        try:
            cell = Cell(row[keys[0]], as_depth(Fraction(str(row[keys[1]])) / 100))
        except (ValueError, TypeError, ArithmeticError) as error:
            raise ResultsError(f"{path}, entry {number}: {error}") from error
        scores.setdefault(cell, []).append(float(row["Score"]))
    cells = tuple(
        CellScore(cell, sum(values) / len(values), num_samples=None)
        for cell, values in sorted(scores.items())
    )
    # The published scripts call every table all_accuracies.json; the folder has the model's name.
    name = path.resolve().parent.name if path.stem == "all_accuracies" else path.stem
    axis: Literal["frames", "tokens"] = "frames" if keys == _PUBLISHED_KEYS[0] else "tokens"
    return Results(name, path, {}, published=cells, axis=axis)
