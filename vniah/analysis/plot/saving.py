"""Pictures other than heatmaps, as files.

The files are whole or not there, and the same results give the same file, as with `save_heatmaps`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from vniah.analysis.plot.captions import CORRECT, default_title
from vniah.analysis.plot.colorbar import colors_of, share_colorbar
from vniah.analysis.plot.controls import control_names, control_picture
from vniah.analysis.plot.curves import draw_retention
from vniah.analysis.plot.difference import draw_difference, resolve_difference
from vniah.analysis.plot.files import one_each, titles_of, training_position
from vniah.analysis.plot.heatmaps import Look, draw_table
from vniah.analysis.plot.lengths import length_curves
from vniah.analysis.plot.marks import tell_left_out, write_numbers
from vniah.analysis.plot.needles import NeedleTable, draw_needles, resolve_needles
from vniah.analysis.plot.panels import Panel, require_layout, save_panels
from vniah.analysis.plot.second_axis import require_tokens_given
from vniah.analysis.plot.style import DEFAULT_PALETTE
from vniah.analysis.plot.table import resolve
from vniah.analysis.retention import retention
from vniah.errors import ResultsError
from vniah.options import Palette
from vniah.paths import picture_path
from vniah.results import AnyResults, Results, one_result, several_results

if TYPE_CHECKING:
    import pandas as pd

# Of axes, in inches.
_CURVES_SIZE = (4.2, 2.6)
_SMALL_SIZE = (2.6, 1.8)
_ROW_HEIGHT = 0.14
_HEIGHTS = (1.0, 9.0)


def save_length_curves(
    results: AnyResults | Sequence[AnyResults],
    path: Path,
    *,
    value: str = CORRECT,
    training_tokens: int | Sequence[int | None] | None = None,
    tokens_per_frame: int | None = None,
    width: float | None = None,
    caption: bool = True,
) -> Path:
    """Draws a score or a measure against the number of frames, all results onto the same axes.

    Args:
        results: one or several, or their paths; all of frames or all of tokens.
        path: the file; its suffix chooses PNG, PDF or SVG, and missing folders are made.
        value: as for `length_curves`.
        training_tokens: the length at which the model was trained, drawn as a dotted line; or one
            for each result, None for no line.
        tokens_per_frame: turns tokens into frames; by default what each run's manifest says.
        width: as for `save_heatmaps`.
        caption: as for `length_curves`.

    Raises:
        InputError: as `length_curves`; or the suffix is unknown, the number of tokens of a frame
            is not known, or the width is out of range.
        ResultsError: the samples of a result have no number of the name ``value``.
    """
    path = picture_path(path)
    require_layout(width, None)
    runs = several_results(results)
    require_tokens_given(runs, tokens_per_frame)
    positions = [
        training_position(result, tokens, tokens_per_frame)
        for result, tokens in zip(runs, one_each(training_tokens, len(runs)), strict=True)
    ]
    draw = partial(_length_curves, runs, value, positions, caption)
    save_panels([Panel(_CURVES_SIZE, draw)], path, width=width)
    return path


def _length_curves(
    results: Sequence[Results],
    value: str,
    positions: Sequence[float | None],
    caption: bool,
    ax: Axes,
) -> None:
    length_curves(results, ax, value=value, training_frames=positions, caption=caption)


def save_difference_map(
    before: AnyResults,
    after: AnyResults,
    path: Path,
    *,
    level: float = 0.05,
    limit: float | None = None,
    width: float | None = None,
    caption: bool = True,
    allow_approximate: bool = False,
) -> Path:
    """Draws how the score of every cell changed from one run to another.

    Args:
        before: the first run, or published table, or its path.
        after: the second.
        path: as for `save_length_curves`.
        level: as for `difference_map`.
        limit: as for `difference_map`.
        width: as for `save_heatmaps`.
        caption: as for `difference_map`.
        allow_approximate: as for `difference_map`.

    Raises:
        CannotCompareError: as `difference_map`.
        InputError: as `difference_map`; or the suffix is unknown, or the width is out of range.
    """
    path = picture_path(path)
    require_layout(width, None)
    first, second = one_result(before), one_result(after)
    found = resolve_difference(
        first, second, level=level, limit=limit, allow_approximate=allow_approximate
    )

    def draw(ax: Axes) -> None:
        draw_difference(ax, found, first, second, caption=caption)

    save_panels([Panel(_CURVES_SIZE, draw)], path, width=width)
    return path


def save_controls(
    results: AnyResults,
    path: Path,
    *,
    palette: Palette = DEFAULT_PALETTE,
    width: float | None = None,
    columns: int | None = None,
    caption: bool = True,
) -> Path:
    """Draws the heatmap of a run, and beside it a panel for each of its controls.

    Args:
        results: a run with controls, or its path.
        path: as for `save_length_curves`.
        palette: as for `vniah.heatmap`.
        width: as for `save_heatmaps`.
        columns: as for `save_heatmaps`.
        caption: as for `save_heatmaps`.

    Raises:
        ResultsError: the run has no controls.
        InputError: the suffix is unknown, or an option has an invalid value.
    """
    path = picture_path(path)
    require_layout(width, columns)
    run = one_result(results)
    names = control_names(run)
    if not names:
        raise ResultsError(f"{run.path} has no samples of controls; give a run with controls")
    table = resolve(run)
    colors_of(table, palette)  # raises before anything is drawn
    look, title = Look(palette, caption=caption), default_title(run)

    def draw(ax: Axes) -> None:
        draw_table(ax, table, run, title=title, look=look)

    def draw_control(name: str, ax: Axes) -> None:
        control_picture(run, name, ax, colorbar=False, palette=palette, caption=caption)

    panels = [Panel(_SMALL_SIZE, draw)]
    panels += [Panel(_SMALL_SIZE, partial(draw_control, name)) for name in names]
    save_panels(panels, path, width=width, columns=columns)
    return path


def save_needle_maps(
    results: AnyResults | Sequence[AnyResults],
    path: Path,
    *,
    palette: Palette = DEFAULT_PALETTE,
    annotate: bool = False,
    titles: Sequence[str] | None = None,
    width: float | None = None,
    columns: int | None = None,
    caption: bool = True,
) -> Path:
    """Draws which needles are found at which lengths, a panel for each result.

    Args:
        results: one or several, or their paths.
        path: as for `save_length_curves`.
        palette: as for `vniah.heatmap`.
        annotate: whether to write the values into the cells, as for `vniah.heatmap`.
        titles: as for `save_heatmaps`.
        width: as for `save_heatmaps`.
        columns: as for `save_heatmaps`.
        caption: as for `save_heatmaps`.

    Raises:
        ResultsError: the samples of a result do not say which needle they are about.
        InputError: there are no results, the suffix is unknown, or an option has an invalid value.
    """
    path = picture_path(path)
    require_layout(width, columns)
    runs = several_results(results)
    titles = titles_of(runs, titles, CORRECT)
    tables = [resolve_needles(result) for result in runs]
    colors = colors_of(tables[0].table, palette)  # raises before anything is drawn
    look = Look(palette, colorbar=len(runs) == 1, caption=caption)

    def draw(found: NeedleTable, result: Results, title: str, ax: Axes) -> None:
        draw_needles(ax, found, result, title=title, look=look)

    def finish(axes: Sequence[Axes]) -> None:
        tell_left_out(write_numbers(axes, [found.table for found in tables], colors))

    panels = [
        Panel(
            _needles_size(found),
            partial(draw, found, result, title),
            keeps_height=True,
        )
        for found, result, title in zip(tables, runs, titles, strict=True)
    ]
    share = partial(share_colorbar, tables[0].table) if len(runs) > 1 else None
    save_panels(
        panels,
        path,
        width=width,
        columns=columns,
        share=share,
        finish=finish if annotate else None,
    )
    return path


def _needles_size(found: NeedleTable) -> tuple[float, float]:
    """Width and height of axes; where there are not many needles, each has room for its name."""
    low, high = _HEIGHTS
    return _SMALL_SIZE[0], min(max(len(found.names) * _ROW_HEIGHT, low), high)


def save_retention_curves(
    results: AnyResults | Sequence[AnyResults],
    path: Path,
    *,
    titles: Sequence[str] | None = None,
    width: float | None = None,
    columns: int | None = None,
    caption: bool = True,
) -> Path:
    """Draws accuracy against the time since the needle, a panel for each result.

    Args:
        results: one or several, or their paths.
        path: as for `save_length_curves`.
        titles: as for `save_heatmaps`.
        width: as for `save_heatmaps`.
        columns: as for `save_heatmaps`.
        caption: as for `save_heatmaps`.

    Raises:
        InputError: there are no results, the suffix is unknown, or an option has an invalid value.
        ResultsError: the samples of a result have no ``needle_index``.
    """
    path = picture_path(path)
    require_layout(width, columns)
    runs = several_results(results)
    titles = titles_of(runs, titles, CORRECT)
    frames = [retention(result) for result in runs]  # raises before anything is drawn

    def draw(found: "pd.DataFrame", result: Results, title: str, ax: Axes) -> None:
        draw_retention(ax, found, result, title=title, caption=caption)

    panels = [
        Panel(_CURVES_SIZE, partial(draw, found, result, title))
        for found, result, title in zip(frames, runs, titles, strict=True)
    ]
    save_panels(panels, path, width=width, columns=columns)
    return path
