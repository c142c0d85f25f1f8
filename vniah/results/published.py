"""Reads the published ``all_accuracies.json`` tables, so that they can be drawn and compared."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from vniah.errors import ResultsError, counted
from vniah.grid import Cell, as_depth, format_depth
from vniah.results.records import CellScore, Results, require_table_size
from vniah.schema import read_json, require_type

_Count = Annotated[int, Meta(ge=1, le=10**12)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_VisualEntry = TypedDict(
    "_VisualEntry", {"Num. Frame": _Count, "Frame Depth": float, "Score": _Share}
)
_TextEntry = TypedDict(
    "_TextEntry", {"Context Length": _Count, "Document Depth": float, "Score": _Share}
)

_MOST_IN_A_UNIT = 1000  # frames; no model merges as many


class _Unit(TypedDict):
    num_frames: Annotated[int, Meta(ge=1, le=_MOST_IN_A_UNIT)]
    num_tokens: NotRequired[Annotated[int, Meta(ge=1, le=10**9)]]
    source: Annotated[str, Meta(min_length=1)]


class _WithUnit(TypedDict):
    unit: _Unit
    table: list[dict[str, Any]]


_HINT = "expected a run folder, or a list of {Num. Frame, Frame Depth, Score}"


def load_published(path: Path) -> Results:
    """The cell means in a file of the published scripts, in which depths are in percent.

    Where the script counted groups of frames as frames, the list stands in an object that says so:
    ``{"unit": {"num_frames": 2, "num_tokens": 144, "source": "..."}, "table": [...]}``. Its entries
    are as published, and the cells have their numbers of frames. ``num_tokens``, which may be left
    out, is what the model reads for such a group.

    Raises:
        ResultsError: it is not such a file.
    """
    rows: Any = read_json(path, object, ResultsError)
    unit, num_tokens = 1, None
    if isinstance(rows, dict) and "unit" in rows:
        content = require_type(rows, _WithUnit, ResultsError, str(path))
        unit, rows = content["unit"]["num_frames"], content["table"]
        num_tokens = content["unit"].get("num_tokens")
        if num_tokens is not None and num_tokens % unit:
            raise ResultsError(
                f"{path} has a unit of {unit} frames with {num_tokens} tokens, which are not whole "
                "tokens for a frame: leave out num_tokens"
            )
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ResultsError(f"{path} is not a table of results: {_HINT}")
    axis: Literal["frames", "tokens"] = "tokens" if "Context Length" in rows[0] else "frames"
    if axis == "tokens" and unit > 1:
        raise ResultsError(
            f"{path} counts tokens, and its unit says {unit} frames: remove the unit"
        )
    scores: dict[Cell, float] = {}
    for number, row in enumerate(rows):
        where = f"{path}, entry {number}"
        cell, score = _read_entry(row, axis, unit, where)
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
    return require_table_size(
        Results(
            name,
            path,
            {},
            published=cells,
            axis=axis,
            unit=unit,
            frame_tokens=None if num_tokens is None else num_tokens // unit,
        )
    )


def _read_entry(
    row: Mapping[str, Any], axis: Literal["frames", "tokens"], unit: int, where: str
) -> tuple[Cell, float]:
    """The cell of an entry, which counts units of so many frames, and its score."""
    kind: Any
    if axis == "frames":
        kind, count, depth = _VisualEntry, "Num. Frame", "Frame Depth"
    else:
        kind, count, depth = _TextEntry, "Context Length", "Document Depth"
    if not {count, depth, "Score"} <= row.keys():
        raise ResultsError(f"{where} has other fields: {_HINT}")
    require_type(row, kind, ResultsError, where)
    try:
        cell = Cell(row[count] * unit, as_depth(Fraction(str(row[depth])) / 100))
    except ValueError as error:
        raise ResultsError(f"{where}: {error}") from error
    return cell, float(row["Score"])
