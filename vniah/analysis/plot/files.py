"""Pictures of results as files: one panel for each."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vniah.analysis.labels import rope_remarks
from vniah.analysis.plot.heatmaps import heatmap
from vniah.analysis.plot.panels import Panel, picture_path, save_panels
from vniah.analysis.plot.table import Table, default_title, resolve
from vniah.errors import InputError
from vniah.results import Results

# In inches.
_CELL_SIZE = 0.46
_MIN_AXES = (2.4, 1.7)
_MAX_AXES = (7.6, 5.2)


def save_heatmaps(
    results: Sequence[Results],
    path: Path,
    *,
    training_tokens: int | Sequence[int | None] | None = None,
    tokens_per_frame: int | None = None,
    titles: Sequence[str] | None = None,
) -> Path:
    """Draws one heatmap per result, side by side, into a PNG, PDF or SVG file.

    The file is whole or not there; pyplot and its backend are not touched. The settings of
    matplotlib are its defaults, so that a run gives the same picture everywhere.

    Args:
        results: at least one.
        path: the file; its suffix chooses the format, and missing folders above it are made.
        training_tokens: the length at which the model was trained, drawn as a dotted line; or one
            length for each result, None for no line.
        tokens_per_frame: turns tokens into frames; by default what each run's manifest says.
        titles: one for each result; by default its name and average, and its RoPE if results of
            the same name differ in that.

    Raises:
        InputError: the suffix is unknown, there are no results, or the number of tokens of a frame
            is not known.
    """
    path = picture_path(path)
    if not results:
        raise InputError("there are no results to draw: give at least one")
    if titles is not None and len(titles) != len(results):
        raise InputError(f"{len(titles)} titles for {len(results)} results: give one for each")
    if titles is None:
        titles = list(map(default_title, results, rope_remarks(results)))
    positions = [
        _training_position(result, tokens, tokens_per_frame)
        for result, tokens in zip(results, _one_each(training_tokens, len(results)), strict=True)
    ]
    panels = [
        Panel(
            _heatmap_size(resolve(result)),
            partial(heatmap, result, title=title, training_frames=position),
        )
        for result, title, position in zip(results, titles, positions, strict=True)
    ]
    save_panels(panels, path)
    return path


def _one_each(training_tokens: object, count: int) -> list[Any]:
    """The training length of every result, from one for all of them or a list with one for each."""
    if training_tokens is None or isinstance(training_tokens, (int, np.integer)):
        return [training_tokens] * count
    if isinstance(training_tokens, str) or not isinstance(training_tokens, Sequence):
        raise InputError(
            f"the training length is {training_tokens!r}: give a whole number of tokens, or a list "
            "with one for each result"
        )
    if len(training_tokens) != count:
        raise InputError(
            f"{len(training_tokens)} training lengths for {count} results: give one for each"
        )
    return list(training_tokens)


def _training_position(
    results: Results, training_tokens: int | None, tokens_per_frame: int | None
) -> float | None:
    """The training length in the units of the horizontal axis."""
    if training_tokens is None:
        return None
    if training_tokens < 1:
        raise InputError(f"the training length must be at least 1 token, got {training_tokens}")
    if results.axis == "tokens":
        return float(training_tokens)
    if tokens_per_frame is None:
        tokens_per_frame = results.tokens_per_frame
    if tokens_per_frame is None:
        raise InputError(
            f"{results.path} does not say how many tokens a frame has, so a training length of "
            f"{training_tokens:,} tokens has no place among its frames: give --tokens-per-frame"
        )
    if tokens_per_frame < 1:
        raise InputError(f"tokens per frame must be at least 1, got {tokens_per_frame}")
    return training_tokens / tokens_per_frame


def _heatmap_size(table: Table) -> tuple[float, float]:
    """Width and height of the axes: cells are square, within the limits of an axes' size."""
    return _limit(len(table.frames), 0), _limit(len(table.rows), 1)


def _limit(num_cells: int, side: int) -> float:
    return min(max(num_cells * _CELL_SIZE, _MIN_AXES[side]), _MAX_AXES[side])
