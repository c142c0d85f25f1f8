"""Reads the published ``all_accuracies.json`` tables, so that they can be drawn and compared."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from vniah.errors import ResultsError, counted
from vniah.grid import Cell, as_depth, format_depth
from vniah.results.records import CellScore, Results, require_table_size
from vniah.schema import read_json, require_type

_Count = Annotated[int, Meta(ge=1)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_VisualEntry = TypedDict(
    "_VisualEntry", {"Num. Frame": _Count, "Frame Depth": float, "Score": _Share}
)
_TextEntry = TypedDict(
    "_TextEntry", {"Context Length": _Count, "Document Depth": float, "Score": _Share}
)

_HINT = "expected a run folder, or a list of {Num. Frame, Frame Depth, Score}"


def load_published(path: Path) -> Results:
    """The cell means in a file of the published scripts, in which depths are in percent.

    Raises:
        ResultsError: it is not such a file.
    """
    rows: Any = read_json(path, object, ResultsError)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ResultsError(f"{path} is not a table of results: {_HINT}")
    axis: Literal["frames", "tokens"] = "tokens" if "Context Length" in rows[0] else "frames"
    scores: dict[Cell, float] = {}
    for number, row in enumerate(rows):
        where = f"{path}, entry {number}"
        cell, score = _read_entry(row, axis, where)
        if cell in scores:
            raise ResultsError(
                f"{where} has the cell of {counted(cell.num_frames, axis.removesuffix('s'))}, "
                f"depth {format_depth(cell.depth)}, a second time (scores {scores[cell]:g} and "
                f"{score:g}): a table has one score for each cell"
            )
        scores[cell] = score
    cells = tuple(
        CellScore(cell, score, num_samples=None) for cell, score in sorted(scores.items())
    )
    # The published scripts call every table all_accuracies.json; the folder has the model's name.
    name = path.resolve().parent.name if path.stem == "all_accuracies" else path.stem
    return require_table_size(Results(name, path, {}, published=cells, axis=axis))


def _read_entry(
    row: Mapping[str, Any], axis: Literal["frames", "tokens"], where: str
) -> tuple[Cell, float]:
    """The cell of an entry, and its score."""
    kind: Any
    if axis == "frames":
        kind, count, depth = _VisualEntry, "Num. Frame", "Frame Depth"
    else:
        kind, count, depth = _TextEntry, "Context Length", "Document Depth"
    if not {count, depth, "Score"} <= row.keys():
        raise ResultsError(f"{where} has other fields: {_HINT}")
    require_type(row, kind, ResultsError, where)
    try:
        cell = Cell(row[count], as_depth(Fraction(str(row[depth])) / 100))
    except ValueError as error:
        raise ResultsError(f"{where}: {error}") from error
    return cell, float(row["Score"])
