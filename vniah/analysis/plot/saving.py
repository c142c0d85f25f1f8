"""Pictures other than heatmaps, as files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from vniah.analysis.plot.files import one_each, training_position
from vniah.analysis.plot.lengths import length_curves
from vniah.analysis.plot.panels import Panel, save_panels
from vniah.analysis.plot.table import CORRECT
from vniah.paths import picture_path
from vniah.results import Results

_CURVES_SIZE = (5.2, 3.2)  # of the axes, in inches


def save_length_curves(
    results: Sequence[Results],
    path: Path,
    *,
    value: str = CORRECT,
    training_tokens: int | Sequence[int | None] | None = None,
    tokens_per_frame: int | None = None,
) -> Path:
    """Draws a score or a measure against the number of frames, all results onto the same axes.

    The file is whole or not there, and the same results give the same file, as with
    `save_heatmaps`.

    Args:
        results: at least one, all of frames or all of tokens.
        path: the file; its suffix chooses PNG, PDF or SVG, and missing folders are made.
        value: as for `length_curves`.
        training_tokens: the length at which the model was trained, drawn as a dotted line; or one
            for each result, None for no line.
        tokens_per_frame: turns tokens into frames; by default what each run's manifest says.

    Raises:
        InputError: as `length_curves`; or the suffix is unknown, or the number of tokens of a frame
            is not known.
        ResultsError: the samples of a result have no number of the name ``value``.
    """
    path = picture_path(path)
    positions = [
        training_position(result, tokens, tokens_per_frame)
        for result, tokens in zip(results, one_each(training_tokens, len(results)), strict=True)
    ]
    draw = partial(_length_curves, results, value, positions)
    save_panels([Panel(_CURVES_SIZE, draw)], path)
    return path


def _length_curves(
    results: Sequence[Results], value: str, positions: Sequence[float | None], ax: Axes
) -> None:
    length_curves(results, ax, value=value, training_frames=positions)
