"""Accuracy over the checkpoints of a training run: a line for each kind of run."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from vniah.analysis.labels import like_these, these
from vniah.analysis.plot.axes import SpacedLocator
from vniah.analysis.plot.lines import (
    MOST_LINES,
    draw_line,
    line_style,
    num_over,
    style_curves,
    wrapped_name,
    write_legend,
)
from vniah.analysis.plot.panels import Panel, save_panels
from vniah.analysis.plot.series import Series
from vniah.analysis.plot.style import FAINT, INK, LABEL_SIZE, write_caption, write_title
from vniah.analysis.plot.typesetting import Fonts, tell_of_missing
from vniah.analysis.statistics.summary import summarize
from vniah.errors import InputError, printable
from vniah.paths import picture_path
from vniah.results import Results

_SIZE = (5.2, 3.2)  # inches
_LAST_NUMBER = re.compile(r"([0-9]{1,15})(?!.*[0-9])", re.DOTALL)

Checkpoints = Sequence[tuple[str, Results]]
"""Names of checkpoints in the order of training, each with a run of it."""


@tell_of_missing()
def checkpoint_curves(
    runs: Mapping[str, Checkpoints], ax: Axes | None = None, *, baseline: Results | None = None
) -> Axes:
    """Draws the average of runs against the steps of their checkpoints onto ``ax``; gives it back.

    The mean over the cells is the score of these needles on this film; the band is the 95 %
    interval for needles like these, where samples say which needle they are about. A step is the
    last number in a checkpoint's name. Where a name has none, or two have the same, checkpoints
    stand side by side. Marks are hollow where planned samples are missing. Never saves, shows or
    sizes a figure.

    Args:
        runs: for each line its label, and what it is of. A single line has no legend.
        ax: where to draw; by default the current axes of pyplot.
        baseline: a run whose average is drawn as a dotted line.

    Raises:
        InputError: there are no runs, or more lines than can be told apart.
    """
    if not 1 <= len(runs) <= MOST_LINES or not all(runs.values()):
        raise InputError(
            f"a picture of checkpoints has 1 to {MOST_LINES} lines, each of at least one checkpoint"
        )
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    names = list(dict.fromkeys(name for line in runs.values() for name, _ in line))
    steps = _steps(names)
    places = steps or {name: number for number, name in enumerate(names)}
    series = [_series(line, places) for line in runs.values()]
    handles = [
        draw_line(ax, one, line_style(number), label=label, over=over)
        for number, (label, one, over) in enumerate(
            zip(_line_labels(ax, runs), series, num_over(series), strict=True)
        )
    ]
    if baseline is not None and baseline.average is not None:
        name = _label(ax, f"{baseline.short_name} (baseline)", [baseline])
        handles.append(
            ax.axhline(baseline.average, color=FAINT, linestyle=":", linewidth=1.6, label=name)
        )
    _scale_steps(ax, places, is_number=bool(steps))
    style_curves(ax, label="Accuracy")
    ax.set_ylim(-0.03, 1.03)
    measured = [run for line in runs.values() for _, run in line]
    sentences = [f"mean over cells, {' or '.join(dict.fromkeys(map(these, measured)))}"]
    if mark := _mark(measured):
        sentences[0] += f", {mark}"
        if len(handles) == 1:  # no legend says it
            write_title(ax, mark)
    if any(one.has_interval for one in series):
        corrected = ", of means that exactly computed samples correct" * bool(mark)
        sentences.append(f"band: 95 % for {like_these(measured)}{corrected}")
    if not all(one.is_whole.all() for one in series):
        sentences.append("hollow marks: planned samples are missing")
    below = write_legend(ax, handles) if len(handles) > 1 else None
    write_caption(ax, "\n".join(sentences), below=below)
    return ax


def save_checkpoint_curves(
    runs: Mapping[str, Checkpoints], path: Path, *, baseline: Results | None = None
) -> Path:
    """Draws the averages of checkpoints into a PNG, PDF or SVG file.

    Args:
        runs: as for `checkpoint_curves`.
        path: the file; missing folders above it are made.
        baseline: as for `checkpoint_curves`.

    Raises:
        InputError: as `checkpoint_curves`, or the suffix is unknown.
    """
    path = picture_path(path)
    save_panels([Panel(_SIZE, partial(_draw, runs, baseline))], path)
    return path


def _draw(runs: Mapping[str, Checkpoints], baseline: Results | None, ax: Axes) -> None:
    checkpoint_curves(runs, ax, baseline=baseline)


def _line_labels(ax: Axes, runs: Mapping[str, Checkpoints]) -> list[str]:
    return [_label(ax, name, [run for _, run in line]) for name, line in runs.items()]


def _label(ax: Axes, name: str, runs: Sequence[Results]) -> str:
    """The name of some runs, which says it where they are approximate, in lines that fit."""
    mark = _mark(runs)
    return wrapped_name(ax, f"{name} ({mark})" if mark and mark not in name else name, mark)


def _mark(runs: Sequence[Results]) -> str:
    """How far some runs are approximate; empty if none is."""
    found = dict.fromkeys(run.approximation for run in runs)
    texts = [one.text for one in found if one is not None]
    return ", or ".join([*texts, *(["exact"] if None in found else [])]) if texts else ""


def _steps(names: Sequence[str]) -> dict[str, int] | None:
    """The last number in each name; None if one has none, or two have the same."""
    found = {name: _LAST_NUMBER.search(name) for name in names}
    steps = {name: int(match[1]) for name, match in found.items() if match is not None}
    return steps if len(set(steps.values())) == len(names) else None


def _series(line: Checkpoints, places: Mapping[str, int]) -> Series:
    ordered = sorted(((places[name], results) for name, results in line), key=itemgetter(0))
    values, lows, highs = [], [], []
    for _, results in ordered:
        like_these = summarize(results).needles_like_these
        interval = None if like_these is None else like_these.interval
        values.append(np.nan if results.average is None else results.average)
        lows.append(np.nan if interval is None else interval.low)
        highs.append(np.nan if interval is None else interval.high)
    return Series(
        tuple(place for place, _ in ordered),
        np.array(values),
        np.array(lows),
        np.array(highs),
        np.array([_is_whole(results) for _, results in ordered]),
        "needles",
    )


def _is_whole(results: Results) -> bool:
    is_scored = results.num_scored_cells == results.num_planned_cells
    return is_scored and not results.num_partial_cells


def _scale_steps(ax: Axes, places: Mapping[str, int], *, is_number: bool) -> None:
    """Ticks at checkpoints, with their steps or their names."""
    ordered = sorted((place, name) for name, place in places.items())
    labels = [f"{place:,}" if is_number else printable(name) for place, name in ordered]
    fonts = Fonts.covering(labels)
    labels = list(map(fonts.writable, labels))
    label_at = dict(zip([place for place, _ in ordered], labels, strict=True))
    # matplotlib makes the texts of ticks when it draws, so that their fonts are chosen here.
    ax.tick_params(axis="x", labelfontfamily=fonts.behind(ax.xaxis.label))
    ax.xaxis.set_major_locator(
        SpacedLocator([place for place, _ in ordered], labels, [1] * len(labels))
    )
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: label_at.get(round(x), "")))
    ax.set_xlabel("Step" if is_number else "Checkpoint", fontsize=LABEL_SIZE, color=INK)
