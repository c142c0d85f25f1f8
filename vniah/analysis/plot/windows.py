"""Agreement and cost of one pass over a haystack against the window behind needles."""

from functools import partial
from math import sqrt
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vniah.analysis.plot.axes import SpacedLocator
from vniah.analysis.plot.lines import MARK_SIZE, line_style, style_curves, write_legend
from vniah.analysis.plot.panels import Panel, require_layout, save_panels
from vniah.analysis.plot.style import INK, LABEL_SIZE, write_caption, write_title
from vniah.analysis.windows import WindowCurve
from vniah.errors import counted, printable
from vniah.options.approximation import LEAST_AGREEMENT
from vniah.paths import picture_path

_SIZE = (3.4, 2.2)  # inches
_ROOM = 1.3  # times, above and below operations
_LEAST_SPAN = (
    20.0  # from the lower to the upper end of their axis, so that ticks have round numbers
)
_HIGHEST = 1.04  # of the axis of agreement, so that marks at 1 are whole


def save_window_curve(curve: WindowCurve, path: Path, *, width: float | None = None) -> Path:
    """Draws agreement and operations against the window into a PNG, PDF or SVG file.

    Args:
        curve: what was measured.
        path: the file; missing folders above it are made.
        width: of the picture in inches, exactly; by default as wide as it needs.

    Raises:
        InputError: the suffix is unknown, or the width is out of range.
    """
    path = picture_path(path)
    require_layout(width, None)
    save_panels(
        [Panel(_SIZE, partial(draw_agreement, curve)), Panel(_SIZE, partial(draw_cost, curve))],
        path,
        width=width,
    )
    return path


def draw_agreement(curve: WindowCurve, ax: Axes) -> None:
    """Draws the share of samples with the exact outcome onto ``ax``; a dotted line is at 99 %."""
    _draw(ax, curve, [trial.agreement.share for trial in curve.trials], place=0)
    (least,) = ax.plot(
        _ends(curve),
        [LEAST_AGREEMENT] * 2,
        color=INK,
        linestyle=":",
        linewidth=1.0,
        label=f"enough: {LEAST_AGREEMENT}",
    )
    ax.set_ylim(0, _HIGHEST)
    style_curves(ax, label="Agreement with exact outcomes")
    below = write_legend(ax, [least])
    exact = counted(curve.whole.agreement.num_pairs, "sample")
    found = curve.enough
    enough = "no window that leaves something to share is enough"
    if found is not None:
        enough = f"a window of {counted(found.window, curve.unit[:-1])} is enough"
    write_caption(
        ax,
        f"{exact} of {curve.branches}\n{enough}",
        below=below,
    )
    name = printable(curve.model_name)
    write_title(ax, f"{name}\none pass over {printable(curve.haystack_name)}", num_names=1)


def draw_cost(curve: WindowCurve, ax: Axes) -> None:
    """Draws the operations of one pass for the whole grid onto ``ax``, beside those of others."""
    handles = [_draw(ax, curve, [trial.flops for trial in curve.trials], "one pass", place=1)]
    for number, (label, flops) in enumerate(
        (("tree", curve.flops_of_tree), ("sample by sample", curve.flops_alone)), start=1
    ):
        handles += ax.plot(
            _ends(curve),
            [flops] * 2,
            color=INK,
            linestyle=line_style(7 * number).dashes,
            linewidth=1.0,
            label=label,
        )
    ax.set_yscale("log")
    found = [*(trial.flops for trial in curve.trials), curve.flops_of_tree, curve.flops_alone]
    low, high = min(found) / _ROOM, max(found) * _ROOM
    wider = max(1.0, sqrt(_LEAST_SPAN * low / high))
    ax.set_ylim(low / wider, high * wider)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0e}"))
    style_curves(ax, label="Floating-point operations")
    below = write_legend(ax, handles)
    write_caption(ax, f"all {curve.num_samples:,} samples, {curve.grid}", below=below)


def _draw(
    ax: Axes, curve: WindowCurve, values: list[float] | list[int], label: str = "", *, place: int
) -> Line2D:
    """A line over the windows, whose axis is logarithmic from 1 on, with 0 beside it."""
    style = line_style(place)
    windows = [trial.window for trial in curve.trials]
    ax.set_xscale("symlog", linthresh=1, linscale=0.5, base=2)
    (line,) = ax.plot(
        windows,
        values,
        color=style.color,
        marker=style.marker,
        markersize=MARK_SIZE,
        label=label,
        clip_on=False,
        zorder=3,
    )
    last = len(windows) - 1
    weights = [1.0 if number in (0, last) else 0.0 for number in range(last + 1)]
    ax.xaxis.set_major_locator(SpacedLocator(windows, curve.window_texts, weights))
    ax.xaxis.set_minor_locator(NullLocator())
    texts = dict(zip(windows, curve.window_texts, strict=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: texts.get(round(x), "")))
    ax.set_xlim(*_ends(curve))
    ax.set_xlabel(f"Window behind each needle ({curve.unit})", fontsize=LABEL_SIZE, color=INK)
    return line


def _ends(curve: WindowCurve) -> list[int]:
    return [0, curve.whole.window]
