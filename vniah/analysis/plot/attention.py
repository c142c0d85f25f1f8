"""Which layers and heads attend to the needle: a row for each layer, a column for each head."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar

from vniah.analysis.plot.axes import ColumnFormatter, ThinnedLocator
from vniah.analysis.plot.panels import Panel, require_layout, save_panels
from vniah.analysis.plot.style import (
    COLORBAR,
    INK,
    LABEL_SIZE,
    SMALL_SIZE,
    TICK_SIZE,
    measure_colors,
    write_caption,
    write_title,
)
from vniah.analysis.plot.typesetting import tell_of_missing
from vniah.errors import InputError, ResultsError, counted, printable, short_repr
from vniah.grid import read_depth
from vniah.options import Judged
from vniah.paths import picture_path
from vniah.results import AnyResults, Results, SampleResult, one_result, several_results
from vniah.results.attention import AttentionTrace, read_attention

_LABEL = "Attention on the needle"
_TICKS = (0, 0.25, 0.5, 0.75, 1)
_ALL = "*"
_CELL_SIZE = 0.13  # of axes, in inches
_SIZES = (1.6, 6.0)


@dataclass(frozen=True)
class AttentionTable:
    """The attention of some samples to their needles.

    Attributes:
        values: mean over the samples of the mass ``reached``
            (`vniah.results.attention.AttentionTrace`), ``[layers, heads]``; NaN in layers without
            attention.
        num_samples: how many samples these are.
        num_seen: in how many of them the needle was seen.
    """

    values: npt.NDArray[np.float64]
    num_samples: int
    num_seen: int


def resolve_attention(
    results: Results, judged: Judged = "all", *, cell: str | None = None
) -> AttentionTable | None:
    """The attention of the samples of a run; None if there is no such sample.

    Args:
        results: a run with ``--trace-attention``.
        judged: only the right samples, only the wrong ones, or all.
        cell: only those of a cell, as its number of frames and its depth: ``"256/0.5"``. ``"*"`` in
            the place of one of them is any: a whole row, or a whole column.

    Raises:
        InputError: it is no cell.
        ResultsError: the run has no attention, or its samples have different numbers of heads.
    """
    traces = read_attention(results.path) if results.path.is_dir() else {}
    if not traces:
        raise ResultsError(
            f"{results.path} does not say what was attended to: run it with --trace-attention"
        )
    is_right = {"all": (True, False), "right": (True,), "wrong": (False,)}[judged]
    traced = [
        sample.sample_id
        for sample in _in_cell(results, cell)
        if sample.correct in is_right and sample.needle_attention is not None
    ]
    if lost := [sample_id for sample_id in traced if sample_id not in traces]:
        raise ResultsError(
            f"{results.path} has lost the attention of {len(lost):,} of {len(traced):,} samples, "
            f"such as {lost[0]}: its attention.jsonl is damaged; run it again with --overwrite"
        )
    found = [traces[sample_id] for sample_id in traced]
    if not found:
        return None
    masses = [trace.masses["reached"].astype(np.float64) for trace in found]
    if len({mass.shape for mass in masses}) > 1:
        raise ResultsError(
            f"{results.path} holds attention of models with different numbers of layers and heads"
        )
    return AttentionTable(np.mean(masses, 0), len(found), sum(map(_is_seen, found)))


def _is_seen(trace: AttentionTrace) -> bool:
    return trace.is_seen


def _in_cell(results: Results, cell: str | None) -> Sequence[SampleResult]:
    """The samples of a cell, of a row or of a column."""
    if cell is None:
        return results.samples
    length, slash, depth = cell.partition("/")
    try:
        wanted = None if length == _ALL else int(length)
        place = None if depth == _ALL else read_depth(depth)
        if not slash:
            raise ValueError
    except (ValueError, InputError):
        raise InputError(
            "a cell is its number of frames and its depth, such as 256/0.5, 256/* or */0.5, got "
            f"{short_repr(cell)}"
        ) from None
    found = [
        sample
        for sample in results.samples
        if wanted in (None, sample.num_frames) and place in (None, sample.depth)
    ]
    if not found:
        lengths = ", ".join(str(n) for n in sorted({c.num_frames for c in results.planned_cells}))
        raise ResultsError(
            f"{results.path} has no sample in the cell {printable(cell)}; its lengths are {lengths}"
        )
    return found


@tell_of_missing()
def attention_map(
    results: AnyResults,
    ax: Axes | None = None,
    *,
    judged: Judged = "all",
    cell: str | None = None,
    title: str | None = None,
    colorbar: bool = True,
    caption: bool = True,
) -> Axes:
    """Draws which layers and heads attend to the needle onto ``ax`` and gives it back.

    There is a row for each layer, the first on top, and a column for each head. A cell is the
    largest share of attention that any token of the question or the answer pays to the needle and
    to the token right behind it, as the mean over samples. Colours always span 0 to 1. Layers
    without attention are blank. Never saves, shows or sizes a figure.

    Args:
        results: a run with ``--trace-attention``, or its path.
        ax: where to draw; by default the current axes of pyplot.
        judged: as for `resolve_attention`.
        cell: as for `resolve_attention`.
        title: the text above the axes; by default the name and the samples, ``""`` for none.
        colorbar: whether to draw a colour bar beside the axes.
        caption: whether to write below the axes what a cell is.

    Raises:
        InputError: as `resolve_attention`.
        ResultsError: as `resolve_attention`; or there is no such sample.
    """
    run = one_result(results)
    table = resolve_attention(run, judged, cell=cell)
    if table is None:
        raise ResultsError(f"{run.path} has no {judged} sample with a needle here")
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    title = _title(run, table, judged, cell) if title is None else title
    _draw(table, title, caption, colorbar, ax)
    return ax


def save_attention_maps(
    results: AnyResults | Sequence[AnyResults],
    path: Path,
    *,
    cell: str | None = None,
    width: float | None = None,
    columns: int | None = None,
    caption: bool = True,
) -> Path:
    """Draws which layers and heads attend to the needle, in right and in wrong samples.

    There are up to two panels for each result.

    Args:
        results: one or several with ``--trace-attention``, or their paths.
        path: as for `vniah.analysis.plot.save_length_curves`.
        cell: as for `resolve_attention`.
        width: as for `save_heatmaps`.
        columns: as for `save_heatmaps`.
        caption: as for `save_heatmaps`.

    Raises:
        InputError: there are no results, the suffix is unknown, or an option has an invalid value.
        ResultsError: as `resolve_attention`; or there is no sample.
    """
    path = picture_path(path)
    require_layout(width, columns)
    panels = []
    choices: tuple[Judged, ...] = ("right", "wrong")
    for run in several_results(results):
        found = {judged: resolve_attention(run, judged, cell=cell) for judged in choices}
        if not any(found.values()):
            raise ResultsError(f"{run.path} has no sample with a needle here")
        for judged, table in found.items():
            if table is not None:
                title = _title(run, table, judged, cell)
                panels.append(_panel(table, partial(_draw, table, title, caption, False)))
    save_panels(panels, path, width=width, columns=columns, share=_share_colorbar)
    return path


def _panel(table: AttentionTable, draw: "partial[None]") -> Panel:
    num_layers, num_heads = table.values.shape
    sizes = (num_heads * _CELL_SIZE, num_layers * _CELL_SIZE)
    width, height = (min(max(size, _SIZES[0]), _SIZES[1]) for size in sizes)
    return Panel((width, height), draw, rows=("layers", num_layers))


def _title(results: Results, table: AttentionTable, judged: Judged, cell: str | None) -> str:
    where = f" at {cell}" if cell is not None else ""
    part = f", {results.part}" if results.part else ""
    name = {"all": "all samples", "right": "right samples", "wrong": "wrong samples"}[judged]
    below = f"{name}{where}{part}: seen in {table.num_seen:,} of {table.num_samples:,}"
    return f"{printable(results.name)}\n{printable(below)}"


def _draw(table: AttentionTable, title: str, caption: bool, colorbar: bool, ax: Axes) -> None:
    values = np.ma.masked_invalid(table.values)
    cells = ax.pcolormesh(values, cmap=measure_colors(), vmin=0, vmax=1)
    num_layers, num_heads = table.values.shape
    ax.set(xlim=(0, num_heads), ylim=(num_layers, 0))
    for axis, count in ((ax.xaxis, num_heads), (ax.yaxis, num_layers)):
        labels = [str(number) for number in range(count)]
        axis.set_major_locator(ThinnedLocator(labels, horizontal=axis is ax.xaxis))
        axis.set_major_formatter(ColumnFormatter(labels))
    ax.spines[:].set(visible=True, color="#cccccc", linewidth=0.6)
    ax.tick_params(length=0, labelsize=TICK_SIZE, labelcolor=INK, labelrotation=0)
    ax.set_xlabel("Head", fontsize=LABEL_SIZE, color=INK)
    ax.set_ylabel("Layer", fontsize=LABEL_SIZE, color=INK)
    if colorbar:
        _style_bar(ax.figure.colorbar(cells, ax=ax, ticks=_TICKS, **COLORBAR))
    if caption:
        about = (
            f"mean over {counted(table.num_samples, 'sample')} of the largest share of attention "
            "that a token of the question or the answer pays to the needle and the token behind it"
        )
        if np.isnan(table.values).any():
            about += "\nblank: no attention in this layer"
        write_caption(ax, about)
    write_title(ax, title)


def _share_colorbar(bar: Axes, first: Axes, is_upright: bool) -> None:
    orientation = "vertical" if is_upright else "horizontal"
    cells = first.collections[0]
    _style_bar(bar.figure.colorbar(cells, cax=bar, orientation=orientation, ticks=_TICKS))


def _style_bar(bar: Colorbar) -> None:
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=SMALL_SIZE, labelcolor=INK)
    bar.set_label(_LABEL, fontsize=LABEL_SIZE, color=INK)
