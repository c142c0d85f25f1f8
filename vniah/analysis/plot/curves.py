"""Curves of accuracy against the time since the needle."""

from collections.abc import Iterator
from fractions import Fraction
from math import ceil, log2
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from vniah.analysis.labels import like_these, these
from vniah.analysis.plot.axes import SpacedLocator, count_labels, depth_label
from vniah.analysis.plot.captions import default_title, own_title
from vniah.analysis.plot.lines import (
    MARK_SIZE,
    MARKERS,
    style_curves,
    write_legend,
)
from vniah.analysis.plot.style import INK, LABEL_SIZE, write_caption, write_title
from vniah.analysis.plot.typesetting import tell_of_missing
from vniah.analysis.retention import retention
from vniah.analysis.table_notes import approximate_note
from vniah.analysis.verdict import controls_caption
from vniah.errors import counted
from vniah.results import AnyResults, Results, one_result

if TYPE_CHECKING:
    import pandas as pd

_MOST_TIMES = 3  # that a sentence names
_MOST_NAMED = 12  # with more curves the legend names some of them
_LAST_COLOR = 0.8  # the end of the colour map is too bright on white
_WIDEST = 3.0  # points, by which the first of many curves is wider than the last
_LOG_FROM = 16.0  # times that span more than this factor are drawn on a logarithmic axis


@tell_of_missing()
def retention_curves(
    results: AnyResults,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    caption: bool = True,
) -> Axes:
    """Draws accuracy against the seconds since the needle onto ``ax`` and gives it back.

    There is a curve for each depth, or position: the score of these needles on this film, with the
    interval of 95 % for needles like these at each point. Times that span more than a factor of 16
    are on a logarithmic axis, with 0 at its beginning. Never saves, shows or sizes a figure.

    Args:
        results: a run, or its path, of a task whose samples have a ``needle_index``.
        ax: where to draw; by default the current axes of pyplot.
        title: the text above the axes; by default the name and the average, ``""`` for none.
        caption: whether to write below the axes what points and bars are of.

    Raises:
        ResultsError: no sample of the run has a ``needle_index``.
    """
    results = one_result(results)
    frame = retention(results)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    return draw_retention(ax, frame, results, title=title, caption=caption)


def draw_retention(
    ax: Axes, frame: "pd.DataFrame", results: Results, *, title: str | None, caption: bool
) -> Axes:
    """Draws what `retention` gives of the results; arguments as `retention_curves`."""
    handles = _draw_curves(ax, results, frame)
    _scale_time(ax, sorted(set(frame["seconds"])))
    ax.set_ylim(-0.03, 1.03)
    unit = "Seconds" if results.axis == "frames" else results.axis.capitalize()
    ax.set_xlabel(f"{unit} since the needle", fontsize=LABEL_SIZE, color=INK)
    style_curves(ax, label="Accuracy")
    below = write_legend(ax, handles, title=_legend_title(results)) if len(handles) > 1 else None
    if caption:
        lines = (*_about(frame, results), *controls_caption(results))
        write_caption(ax, "\n".join(lines), below=below)
    write_title(ax, default_title(results) if title is None else own_title(results, title))
    return ax


def _draw_curves(ax: Axes, results: Results, frame: "pd.DataFrame") -> list[ErrorbarContainer]:
    """A line for each row of the map, coloured from the first to the last.

    Each is thinner than the one before it, so that of curves that coincide all are seen.

    Returns:
        Those that the legend names.
    """
    row_name = "position" if results.has_positions else "depth"
    groups = list(frame.dropna(subset="accuracy").groupby(row_name))
    colors = matplotlib.colormaps["viridis"]
    handles: list[ErrorbarContainer] = []
    for k, (row, points) in enumerate(groups):
        seconds, accuracy = points["seconds"], points["accuracy"]
        behind = len(groups) - 1 - k  # curves that are drawn over this one
        wider = min(1.0 * behind, _WIDEST * behind / len(groups))
        below, above = accuracy - points["low"], points["high"] - accuracy
        container = ax.errorbar(
            seconds.to_numpy(),
            accuracy.to_numpy(),
            yerr=[below.clip(lower=0).to_numpy(), above.clip(lower=0).to_numpy()],
            color=colors(_LAST_COLOR * k / max(1, len(groups) - 1)),
            marker=MARKERS[k % len(MARKERS)],
            markersize=MARK_SIZE + 1.5 * wider,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.5 + wider,
            elinewidth=0.9,
            label=f"{row:,}" if results.has_positions else depth_label(_exact(results, float(row))),
        )
        handles.append(container)
    return handles[:: max(1, ceil(len(groups) / _MOST_NAMED))]


def _legend_title(results: Results) -> str:
    return f"Needle before {results.axis[:-1]}" if results.has_positions else "Needle depth"


def _exact(results: Results, depth: float) -> Fraction:
    """The depth of the run that is this float."""
    return next(found.cell.depth for found in results.cells if float(found.cell.depth) == depth)


def _scale_time(ax: Axes, seconds: list[int]) -> None:
    """A linear axis, or one of doublings where the times span many."""
    positive = [second for second in seconds if second > 0]
    is_linear = not positive or positive[-1] <= _LOG_FROM * positive[0]
    if is_linear:
        is_alone = len(seconds) == 1  # else there were ticks at parts of a second
        ax.xaxis.set_major_locator(FixedLocator(seconds) if is_alone else MaxNLocator(integer=True))
    else:
        first = 2 ** int(log2(positive[0]))
        ticks = [first * 2**k for k in range(int(log2(positive[-1] / first)) + 1)]
        ax.set_xscale("symlog", base=2, linthresh=first, linscale=0.7)
        if seconds[0] == 0:
            ticks = [0, *ticks]
        ax.xaxis.set_major_locator(SpacedLocator(ticks, count_labels(ticks), [0] * len(ticks)))
        ax.xaxis.set_minor_locator(NullLocator())
    # Times without a point are on the axis, too.
    ax.update_datalim([(seconds[0], 0.0), (seconds[-1], 0.0)], updatey=False)
    ax.autoscale_view(scaley=False)
    if not is_linear and seconds[0] > 0:
        ax.set_xlim(left=first * 0.9)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def _about(frame: "pd.DataFrame", results: Results) -> Iterator[str]:
    """What points and bars are of, and how many samples could not be, or were not yet, run."""
    counts = [int(count) for count in frame["num_samples"] if count]
    if not counts:
        yield (
            "no points, as no sample could be run"
            if frame["num_errors"].any()
            else ("no points, as no sample has been run yet")
        )
    else:
        low, high = min(counts), max(counts)
        num = f"n = {low:,}" if low == high else f"n = {low:,}-{high:,}"
        bars = (
            f"bars: 95 % for {like_these([results])}"
            if frame["low"].notna().any()
            else "no bars, as samples do not say which needle they are about"
        )
        if results.is_approximate:
            bars = f"no bars, as {approximate_note(results)}"
        yield f"{these(results)}, {num} per point; {bars}"
        yield from _about_pooled(frame, results)
    if num_errors := int(frame["num_errors"].sum()):
        yield counted(num_errors, "error")
    if num_pending := int(frame["num_pending"].sum()):
        yield f"{counted(num_pending, 'sample')} not run yet"


def _about_pooled(frame: "pd.DataFrame", results: Results) -> Iterator[str]:
    """Which points are the mean over several lengths, as the needle has the same time at each.

    At depth 1 the question follows the needle at once, whatever the length.
    """
    name = "position" if "position" in frame else "depth"
    pooled = frame[frame["num_lengths"] > 1]
    for row, points in pooled.groupby(name):
        num = int(points["num_lengths"].max())
        times = [f"{time:,}" for time in points["seconds"][:_MOST_TIMES]]
        unit = "s" if results.axis == "frames" else results.axis
        at = ", ".join(f"{time} {unit}" for time in times)
        at += ", ..." * (len(points) > _MOST_TIMES)
        yield f"{name} {row:g} at {at}: one point for {num:,} lengths, the mean over their samples"
