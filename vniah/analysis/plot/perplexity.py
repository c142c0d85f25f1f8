"""Perplexity against the position of a token: a line for each result."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vniah.analysis.perplexity import (
    Bucket,
    about_tokens,
    default_bucket,
    describe_documents,
    first_counted,
    format_perplexity,
    perplexity_between,
    perplexity_by_position,
    perplexity_labels,
    perplexity_of,
)
from vniah.analysis.plot.axes import SpacedLocator, count_labels
from vniah.analysis.plot.lengths import TRAINING_PAD, draw_training
from vniah.analysis.plot.lines import (
    GRID_COLOR,
    MOST_LINES,
    LineStyle,
    draw_line,
    legend_room,
    line_style,
    num_over,
    style_curves,
    write_legend,
)
from vniah.analysis.plot.panels import Panel, require_layout, save_panels
from vniah.analysis.plot.series import Series
from vniah.analysis.plot.style import (
    INK,
    LABEL_SIZE,
    SMALL_SIZE,
    TITLE_PAD,
    write_caption,
    write_title,
)
from vniah.analysis.plot.typesetting import Fonts
from vniah.analysis.statistics.estimates import percent_of
from vniah.errors import InputError, counted, printable
from vniah.paths import picture_path
from vniah.results.perplexity import PerplexityResults

_SIZE = (4.2, 2.6)  # inches
_LOG_FROM = 8.0  # perplexities that span more than this factor are on a logarithmic axis
_LARGEST = 1e100  # what matplotlib can place on a logarithmic axis
_MOST_MARKS = 32  # of a line; more would touch one another
_MOST_POINTS = 128  # of a line of full width
_THIN = 0.5  # points
_MOST_OF_FIVES = 1000.0  # perplexities that span more have ticks at powers of ten only


def perplexity_curves(
    results: PerplexityResults | Sequence[PerplexityResults],
    ax: Axes | None = None,
    *,
    bucket: int | None = None,
    training_tokens: int | None = None,
    confidence: float = 0.95,
    caption: bool = True,
) -> Axes:
    """Draws the perplexity of tokens against their position onto ``ax`` and gives it back.

    A mark stands in the middle of each bucket where there are at most 32; the band is the
    t-interval over documents, where there are several. A dotted line marks the training length.
    Where all documents follow as many tokens of frames, these are shaded. Where perplexities span
    more than a factor of 8, their axis is logarithmic. Never saves, shows or sizes a figure.

    Args:
        results: one or several, each of at least one document.
        ax: where to draw; by default the current axes of pyplot.
        bucket: positions of a bucket; by default as `perplexity_by_position`.
        training_tokens: where the dotted line is; by default what each model's configuration says.
        confidence: of the bands.
        caption: whether to write below the axes what the lines and bands are of.

    Raises:
        InputError: there are no results, or too many; or an argument is out of range.
        ResultsError: a result has no document yet.
    """
    runs = [results] if isinstance(results, PerplexityResults) else list(results)
    if not 1 <= len(runs) <= MOST_LINES:
        raise InputError(
            f"a picture of perplexity has from 1 to {MOST_LINES} lines, got {len(runs)} results"
        )
    columns = [perplexity_by_position(run, bucket, confidence=confidence) for run in runs]
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    series = list(map(_series, columns))
    names = [printable(name) for name in perplexity_labels(runs)]
    over = num_over(series)
    handles = [
        draw_line(ax, one, _style(place, len(one.lengths)), label=label, over=over[place])
        for place, (one, label) in enumerate(zip(series, _wrapped(ax, names), strict=True))
    ]
    borders = sorted({0, *(one.stop for column in columns for one in column)})
    _scale_positions(ax, borders)
    is_cut = _scale_perplexities(ax, series)
    shaded = _shaded(runs)
    if shaded:
        ax.axvspan(0, shaded, color=GRID_COLOR, linewidth=0, zorder=0.4)
    given = {run.trained_tokens if training_tokens is None else training_tokens for run in runs}
    inside = sorted(float(one) for one in given if one is not None and 0 < one < borders[-1])
    if inside:
        share = inside[0] / borders[-1]
        alignment = "left" if share < 1 / 4 else "right" if share > 3 / 4 else "center"
        draw_training(ax, inside, alignment=alignment)
    style_curves(ax, label="Perplexity")
    below = write_legend(ax, handles) if len(handles) > 1 else None
    if caption:
        write_caption(
            ax,
            "\n".join(_about(runs, names, columns, confidence, bucket=bucket, is_cut=is_cut)),
            below=below,
        )
    title = _title(runs[0], names[0]) if len(runs) == 1 else ""
    write_title(ax, title, pad=TITLE_PAD + TRAINING_PAD * bool(inside))
    return ax


def save_perplexity_curves(
    results: Sequence[PerplexityResults],
    path: Path,
    *,
    bucket: int | None = None,
    training_tokens: int | None = None,
    width: float | None = None,
    caption: bool = True,
) -> Path:
    """Draws the perplexity of tokens against their position into a PNG, PDF or SVG file.

    Args:
        results: as for `perplexity_curves`.
        path: the file; missing folders above it are made.
        bucket: as for `perplexity_curves`.
        training_tokens: as for `perplexity_curves`.
        width: of the picture in inches, exactly; by default as wide as it needs.
        caption: as for `perplexity_curves`.

    Raises:
        InputError: as `perplexity_curves`; or the suffix is unknown, or the width is out of range.
        ResultsError: a result has no document yet.
    """
    path = picture_path(path)
    require_layout(width, None)
    draw = partial(_draw, results, bucket, training_tokens, caption)
    save_panels([Panel(_SIZE, draw)], path, width=width)
    return path


def _draw(
    results: Sequence[PerplexityResults],
    bucket: int | None,
    training_tokens: int | None,
    caption: bool,
    ax: Axes,
) -> None:
    perplexity_curves(results, ax, bucket=bucket, training_tokens=training_tokens, caption=caption)


def _shaded(runs: Sequence[PerplexityResults]) -> int:
    """How many tokens of frames and their prompt every document follows; 0 if not all as many."""
    found = {first_counted(run) if run.num_frames else 0 for run in runs}
    return found.pop() if len(found) == 1 else 0


def _series(column: Sequence[Bucket]) -> Series:
    """The line of a result, at the middles of its buckets."""
    ends = [(one.interval.low, one.interval.high) if one.interval else None for one in column]
    return Series(
        tuple((one.start + one.stop) // 2 for one in column),
        np.array([_placed(one.nats) for one in column]),
        np.array([np.nan if both is None else _placed(both[0]) for both in ends]),
        np.array([np.nan if both is None else _placed(both[1]) for both in ends]),
        np.full(len(column), True),
        "needles",
    )


def _style(place: int, num_points: int) -> LineStyle:
    style = line_style(place)
    if num_points <= _MOST_MARKS:
        return style
    return replace(style, marker="", width=style.width if num_points <= _MOST_POINTS else _THIN)


def _placed(nats: float) -> float:
    return min(perplexity_of(nats), _LARGEST)


def _wrapped(ax: Axes, names: Sequence[str]) -> list[str]:
    """The names in lines that fit below the axes."""
    fonts = Fonts.covering(names)
    style, room = fonts.style(SMALL_SIZE), legend_room(ax)
    return ["\n".join(fonts.wrap_name(name, room, style, most=2)) for name in names]


def _scale_positions(ax: Axes, borders: Sequence[int]) -> None:
    """Ticks at borders of buckets, as far as their labels have room."""
    ax.set_xlim(0, borders[-1])
    weights = [(border & -border) if border else 0 for border in borders]  # round ones first
    ax.xaxis.set_major_locator(SpacedLocator(borders, count_labels(borders), weights))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.set_xlabel("Position (tokens before it)", fontsize=LABEL_SIZE, color=INK)


def _scale_perplexities(ax: Axes, series: Sequence[Series]) -> bool:
    """The vertical axis; a band of few documents may be endless, and the lines are to be seen.

    Returns:
        Whether a band goes on beyond the axis.
    """
    values = np.concatenate([one.values for one in series])
    ends = np.concatenate([end for one in series for end in (one.values, one.low, one.high)])
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    least, most = float(values.min()), float(values.max())
    if most > _LOG_FROM * least:
        ax.set_yscale("log")
        ax.set_ylim(max(low, least / 2) / 1.1, min(high, 2 * most) * 1.1)
        ax.yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if most <= _MOST_OF_FIVES * least else (1,))
        )
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.set_ylim(0, min(high, 2 * most) * 1.05)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))
    bottom, top = ax.get_ylim()
    return bool(low < bottom or high > top)


def _about(
    runs: Sequence[PerplexityResults],
    names: Sequence[str],
    columns: Sequence[Sequence[Bucket]],
    confidence: float,
    *,
    bucket: int | None,
    is_cut: bool,
) -> list[str]:
    """What the lines and bands are of, in lines."""
    found = [printable(f"{describe_documents(run)} of {run.haystack_name}") for run in runs]
    lines = found[:1]
    if len({*found}) > 1:
        lines = [f"{name}: {sentence}" for name, sentence in zip(names, found, strict=True)]
    lines += _about_means(runs, names, columns, bucket)
    if _shaded(runs):
        lines.append("shaded: the prompt before the text, whose tokens do not count")
    lines += about_tokens(names, runs)
    for name, run in zip(names, runs, strict=True):
        lines += [f"{name}: " * (len(runs) > 1) + printable(note) for note in run.notes]
    buckets = [one for column in columns for one in column]
    if any(one.perplexity > _LARGEST for one in buckets):
        lines.append(f"perplexities above {_LARGEST:.0e} are drawn there")
    if any(one.interval is not None for one in buckets):
        beyond = ", which goes on beyond the axes" * is_cut
        lines.append(f"band: {percent_of(confidence)} t-interval over documents{beyond}")
    return lines


def _about_means(
    runs: Sequence[PerplexityResults],
    names: Sequence[str],
    columns: Sequence[Sequence[Bucket]],
    bucket: int | None,
) -> list[str]:
    """How many positions the means are over: a line for all results of one size of buckets."""
    groups: dict[tuple[int, ...], tuple[list[str], set[int]]] = {}
    for name, run, column in zip(names, runs, columns, strict=True):
        size = default_bucket(run) if bucket is None else bucket
        counts = {one.num_tokens for one in column}
        # Where no bucket is whole, they are what they are.
        key = (size,) if size in counts else tuple(sorted(counts))
        those, ends = groups.setdefault(key, ([], set()))
        those.append(name)
        ends |= counts - {*key}
    lines = []
    for key, (those, ends) in groups.items():
        which = f"{'; '.join(those)}: " * (len(groups) > 1)
        what = counted(key[0], "position") if len(key) == 1 else f"{_span_of(key)} positions"
        at_ends = f" ({_span_of(sorted(ends))} at the ends of a line)" if ends else ""
        lines.append(f"{which}mean over the tokens of {what}{at_ends}, each in one pass")
    return lines


def _span_of(counts: Sequence[int]) -> str:
    """Ascending numbers in words: ``"46"``, ``"46 and 74"``, ``"12 to 74"`` for more than two."""
    if len(counts) > 2:
        return f"{counts[0]:,} to {counts[-1]:,}"
    return " and ".join(f"{one:,}" for one in counts)


def _title(results: PerplexityResults, name: str) -> str:
    whole = perplexity_between(results, 0, results.num_tokens)
    assert whole is not None, "a document has tokens that count"
    return f"{name}\nperplexity {format_perplexity(whole, interval=False)}"
