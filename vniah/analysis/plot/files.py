"""Pictures of results as files: one panel for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from vniah.analysis.labels import label_endings
from vniah.analysis.plot.captions import CORRECT, default_title, own_title, reference_title
from vniah.analysis.plot.colorbar import colors_of, share_colorbar
from vniah.analysis.plot.heatmaps import Look, draw_table
from vniah.analysis.plot.marks import tell_left_out, write_numbers
from vniah.analysis.plot.panels import Panel, require_layout, save_panels
from vniah.analysis.plot.second_axis import require_tokens_given, second_labels, tokens_of_frame
from vniah.analysis.plot.style import DEFAULT_PALETTE
from vniah.analysis.plot.table import Table, resolve, resolve_reference
from vniah.errors import InputError
from vniah.options import Palette, SecondAxis
from vniah.paths import picture_path
from vniah.results import AnyResults, Results, several_results

# In inches.
_CELL_SIZE = 0.36
_MIN_AXES = (2.0, 1.4)
_MAX_AXES = (6.0, 4.2)


def save_heatmaps(
    results: AnyResults | Sequence[AnyResults],
    path: Path,
    *,
    value: str = CORRECT,
    training_tokens: int | Sequence[int | None] | None = None,
    tokens_per_frame: int | None = None,
    titles: Sequence[str] | None = None,
    palette: Palette = DEFAULT_PALETTE,
    annotate: bool = False,
    second_axis: SecondAxis | None = None,
    width: float | None = None,
    columns: int | None = None,
    caption: bool = True,
) -> Path:
    """Draws one heatmap per result, side by side, into a PNG, PDF or SVG file.

    Heatmaps of a measure have one scale, and beside each stands the heatmap of the measure that it
    is compared with, such as that of a guess, unless that is the same as the one before. Heatmaps
    with the same scale share one colour bar, and those with the same axes their labels.

    The file is whole or not there; pyplot and its backend are not touched. The settings of
    matplotlib are its defaults, so that a run gives the same picture everywhere with the same
    fonts.

    Args:
        results: one or several, or their paths.
        path: the file; its suffix chooses the format, and missing folders above it are made.
        value: what is drawn, as for `vniah.heatmap`.
        training_tokens: the length at which the model was trained, drawn as a dotted line; or one
            length for each result, None for no line.
        tokens_per_frame: turns tokens into frames; by default what each run's manifest says.
        titles: one for each result; by default its name and average, and what tells results of the
            same name apart: their RoPE if that differs, else their paths.
        palette: the colours of scores, as for `vniah.heatmap`.
        annotate: whether to write the values into the cells, as for `vniah.heatmap`.
        second_axis: what is counted above the axes, as for `vniah.heatmap`.
        width: of the picture in inches, exactly; by default as wide as its cells need. Letters have
            the same size in either case.
        columns: number of heatmaps in a row; by default as many as have room.
        caption: whether to write below each heatmap what is behind it, as for `vniah.heatmap`.

    Raises:
        InputError: the suffix is unknown, there are no results, the number of tokens of a frame
            is not known, or an option has an invalid value.
        ResultsError: the samples of a result have no number of the name ``value``.
    """
    path = picture_path(path)
    require_layout(width, columns)
    runs = several_results(results)
    require_tokens_given(runs, tokens_per_frame)
    titles = titles_of(runs, titles, value)
    maps = []
    lengths = one_each(training_tokens, len(runs))
    for result, title, tokens in zip(runs, titles, lengths, strict=True):
        position = training_position(result, tokens, tokens_per_frame)
        found = list(_maps(result, value, title, Look(palette, position, caption=caption)))
        if second_axis is not None:
            second = second_labels(result, found[0].table.frames, second_axis, tokens_per_frame)
            found = [replace(one, look=replace(one.look, second=second)) for one in found]
        maps += found
    maps = _on_one_scale(_without_repeats(maps))
    shared = None
    if len(maps) > 1 and len({_scale(one.table) for one in maps}) == 1:
        shared = partial(share_colorbar, maps[0].table)
        maps = [replace(one, look=replace(one.look, colorbar=False)) for one in maps]
    tables = [one.table for one in maps]

    def finish(axes: Sequence[Axes]) -> None:
        tell_left_out(write_numbers(axes, tables, colors_of(tables[0], palette)))

    save_panels(
        [_panel(one) for one in maps],
        path,
        width=width,
        columns=columns,
        share=shared,
        finish=finish if annotate else None,
    )
    return path


def titles_of(
    results: Sequence[Results], titles: Sequence[str] | None, value: str
) -> Sequence[str]:
    """The title of each result.

    Raises:
        InputError: there are no results, or another number of titles.
    """
    if not results:
        raise InputError("there are no results to draw: give at least one")
    if titles is None:
        endings = zip(results, label_endings(results), strict=True)
        return [default_title(result, ending, value=value) for result, ending in endings]
    if len(titles) != len(results):
        raise InputError(f"{len(titles)} titles for {len(results)} results: give one for each")
    return [own_title(result, title) for result, title in zip(results, titles, strict=True)]


@dataclass(frozen=True)
class _Map:
    """One heatmap of a file; the arguments of `draw_table`."""

    table: Table
    results: Results
    title: str
    look: Look
    is_reference: bool = False


def _maps(results: Results, value: str, title: str, look: Look) -> Iterator[_Map]:
    """The heatmap of a result, and that of the measure that its measure is compared with."""
    yield _Map(resolve(results, value), results, title, look)
    reference = resolve_reference(results, value)
    if reference is not None:
        yield _Map(reference, results, reference_title(results, value), look, True)


def _without_repeats(maps: Sequence[_Map]) -> list[_Map]:
    """All maps but the references that are the same as the one before: runs may share a grid."""
    kept: list[_Map] = []
    latest: Table | None = None
    for one in maps:
        if one.is_reference:
            if latest is not None and _is_same(one.table, latest):
                continue
            latest = one.table
        kept.append(one)
    return kept


def _on_one_scale(maps: Sequence[_Map]) -> list[_Map]:
    """The same with the colours of all between the smallest and the largest of their values."""
    lows, highs = zip(*(one.table.limits for one in maps), strict=True)
    limits = (min(lows), max(highs))
    return [replace(one, table=replace(one.table, limits=limits)) for one in maps]


def _is_same(one: Table, other: Table) -> bool:
    places = (one.frames, one.rows) == (other.frames, other.rows)
    return places and np.array_equal(one.values, other.values, equal_nan=True)


def _panel(one: _Map) -> Panel:
    rows = (one.table.rows, one.table.has_positions)
    return Panel(_heatmap_size(one.table), partial(_draw_map, one), rows=rows)


def _draw_map(one: _Map, ax: Axes) -> None:
    draw_table(ax, one.table, one.results, title=one.title, look=one.look)


def _scale(table: Table) -> tuple[object, ...]:
    """What a colour bar shows."""
    return table.limits, table.label, table.is_score, table.chance


def one_each(training_tokens: object, count: int) -> list[Any]:
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


def training_position(
    results: Results, training_tokens: int | None, tokens_per_frame: int | None
) -> float | None:
    """The training length in the units of the horizontal axis."""
    if training_tokens is None:
        return None
    if training_tokens < 1:
        raise InputError(f"the training length must be at least 1 token, got {training_tokens}")
    if results.axis == "tokens":
        return float(training_tokens)
    what = f"a training length of {training_tokens:,} tokens among its {results.axis}"
    return training_tokens / tokens_of_frame(results, tokens_per_frame, what)


def _heatmap_size(table: Table) -> tuple[float, float]:
    """Width and height of the axes: cells are square, within the limits of an axes' size."""
    return _limit(len(table.frames), 0), _limit(len(table.rows), 1)


def _limit(num_cells: int, side: int) -> float:
    return min(max(num_cells * _CELL_SIZE, _MIN_AXES[side]), _MAX_AXES[side])
