"""Accuracy, or a measure such as an error in seconds, against the length: a line for each run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from vniah.analysis.labels import result_labels
from vniah.analysis.plot.captions import CORRECT, default_title, own_title
from vniah.analysis.plot.line_captions import about_lines
from vniah.analysis.plot.lines import (
    MOST_LINES,
    draw_line,
    line_style,
    mark_sizes,
    num_over,
    scale_lengths,
    style_curves,
    wrapped_name,
    write_legend,
)
from vniah.analysis.plot.series import Series, is_score, length_series
from vniah.analysis.plot.style import FAINT, INK, SMALL_SIZE, TITLE_PAD, write_caption, write_title
from vniah.analysis.plot.typesetting import tell_of_missing
from vniah.analysis.statistics.effective import find_effective_length
from vniah.analysis.statistics.table import SampleIndex, index_samples
from vniah.errors import InputError, printable
from vniah.results import AnyResults, Results, several_results

_RING_GAP = 5.5  # points between a mark and its ring, both sides together
_NEXT_RING = 4.5  # points by which a ring around another one is larger
_GUESS = "a guess"

TRAINING_PAD = 10.0
"""Points that the words at a training length take above the axes."""


@tell_of_missing()
def length_curves(
    results: AnyResults | Sequence[AnyResults],
    ax: Axes | None = None,
    *,
    value: str = CORRECT,
    title: str | None = None,
    labels: Sequence[str] | None = None,
    training_frames: float | Sequence[float | None] | None = None,
    threshold: float = 0.9,
    confidence: float = 0.95,
    caption: bool = True,
) -> Axes:
    """Draws a score, or a measure, against the number of frames onto ``ax`` and gives it back.

    There is a line for each of the results: the mean over its cells at each length, which is the
    score of these needles on this film, with a band, its interval for needles like these. Where
    samples do not say which needle they are about, the band is for the same needles at other
    depths; a published table has none. The caption says which. A ring marks the effective length. A
    measure that is no share of samples is drawn as its median over needles, beside that of the
    measure that it is compared with, such as a guess. Marks are hollow where planned samples are
    missing. Never saves, shows or sizes a figure.

    Args:
        results: one or several, all of frames or all of tokens.
        ax: where to draw; by default the current axes of pyplot.
        value: what is drawn: ``"correct"``, or a measure such as ``"error_seconds"``, as
            `Results.measure`.
        title: the text above the axes; by default the name and the average of a single result, and
            none of several. ``""`` for none.
        labels: a name for each line; by default as in tables.
        training_frames: where to draw dotted lines, in the units of the horizontal axis: one
            length, or one for each result.
        threshold: the score of the effective length.
        confidence: of the bands.
        caption: whether to write below the axes what the lines and bands are of.

    Raises:
        InputError: there are no results, too many, some of frames and some of tokens, or one
            without cells; or another number of labels.
        ResultsError: the samples of a result have no number of the name ``value``.
    """
    runs = several_results(results)
    found = _resolve(runs, labels, value, threshold, confidence)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    scale_lengths(ax, [one.lengths for one in found.series], axis=runs[0].axis)
    handles = [
        draw_line(ax, one, line_style(place), label=label, over=over)
        for place, (one, label, over) in enumerate(
            zip(
                found.series,
                _line_labels(ax, found.names, runs),
                num_over(found.series),
                strict=True,
            )
        )
    ]
    handles += _draw_references(ax, found.references)
    _draw_rings(ax, found.series, found.effective)
    has_training = _draw_training(ax, training_frames, found.series)
    style_curves(ax, label=_axis_label(runs, value))
    _limit_values(ax, found, is_share=is_score(runs[0], value))
    below = write_legend(ax, handles) if len(handles) > 1 else None
    if caption:
        rings = threshold if any(length is not None for length in found.effective) else None
        sentences = about_lines(found.names, found.series, runs, value, confidence, rings=rings)
        write_caption(ax, "\n".join(sentences), below=below)
    if title is None:
        title = _title(runs[0], found.names[0], value) if len(runs) == 1 else ""
    elif len(runs) == 1:
        title = own_title(runs[0], title)
    write_title(ax, title, pad=TITLE_PAD + TRAINING_PAD * has_training)
    return ax


@dataclass(frozen=True)
class _Lines:
    """What is drawn.

    Attributes:
        names: one for each of the results.
        series: their lines.
        references: the lines that they are compared with, such as those of a guess, by name.
        effective: the effective length of each of the results, if it has one; empty of measures.
    """

    names: Sequence[str]
    series: Sequence[Series]
    references: Sequence[tuple[str, Series]]
    effective: Sequence[int | None]


def _resolve(
    runs: Sequence[Results],
    labels: Sequence[str] | None,
    value: str,
    threshold: float,
    confidence: float,
) -> _Lines:
    """The numbers of `length_curves`."""
    names = _require_together(runs, labels)
    indexes = [index_samples(run) for run in runs]
    series = [
        length_series(run, value, confidence=confidence, index=index)
        for run, index in zip(runs, indexes, strict=True)
    ]
    effective = [
        find_effective_length(run, threshold=threshold, index=index).num_frames
        for run, index in zip(runs, indexes, strict=True)
        if value == CORRECT
    ]
    return _Lines(names, series, list(_references(runs, indexes, value)), effective)


def _require_together(runs: Sequence[Results], labels: Sequence[str] | None) -> Sequence[str]:
    """A name for each of the results.

    Raises:
        InputError: they cannot be drawn onto the same axes, or there is another number of labels.
    """
    if not runs:
        raise InputError("there are no results to draw: give at least one")
    if len(runs) > MOST_LINES:
        raise InputError(
            f"one picture shows at most {MOST_LINES} lines, which is how many can be told apart, "
            f"got {len(runs)} results: draw some of them"
        )
    for other in runs:
        if other.axis != runs[0].axis:
            raise InputError(
                f"{runs[0].path} counts {runs[0].axis} and {other.path} counts {other.axis}, which "
                "have no axis in common: draw them one by one"
            )
    if labels is not None and len(labels) != len(runs):
        raise InputError(f"{len(labels)} labels for {len(runs)} results: give one for each")
    names = result_labels(runs) if labels is None else labels
    return [printable(run.named(name)) for run, name in zip(runs, names, strict=True)]


def _title(results: Results, name: str, value: str) -> str:
    """The average belongs to a mean, and not to a line of medians."""
    return default_title(results, value=value) if is_score(results, value) else name


def _line_labels(ax: Axes, names: Sequence[str], runs: Sequence[Results]) -> list[str]:
    """The names in lines that fit below the axes; published tables are told from runs."""
    is_mixed = len({bool(run.published) for run in runs}) > 1
    marks = [" (published)" * (is_mixed and bool(run.published)) for run in runs]
    full = [f"{name}{mark}" for name, mark in zip(names, marks, strict=True)]
    approximations = [run.approximation for run in runs]
    return [
        wrapped_name(ax, name, "" if found is None else found.text)
        for name, found in zip(full, approximations, strict=True)
    ]


def _references(
    runs: Sequence[Results], indexes: Sequence[SampleIndex], value: str
) -> Iterator[tuple[str, Series]]:
    """The lines that the values are compared with, such as those of a guess, each once."""
    seen = set()
    for run, index in zip(runs, indexes, strict=True):
        if value == CORRECT:
            if run.chance is None:
                continue
            found = length_series(run, index=index)
            name, values = _GUESS, np.full(len(found.lengths), run.chance)
        else:
            reference = run.measure(value).reference
            if reference is None:
                continue
            found = length_series(run, reference.name, index=index)
            name, values = printable(reference.label), found.values
        key = name, found.lengths, tuple(values)
        if key not in seen:
            seen.add(key)
            yield name, found.without_intervals(values)


def _draw_references(ax: Axes, references: Sequence[tuple[str, Series]]) -> list[Line2D]:
    """Draws them all alike; gives a line of each name, for the legend."""
    handles: dict[str, Line2D] = {}
    for name, one in references:
        (line,) = ax.plot(
            one.lengths,
            one.values,
            color=FAINT,
            linestyle=(0, (1, 2)),
            linewidth=1.6,
            marker="_" if len(one.lengths) == 1 else "",
            markersize=12,
            label=name,
            zorder=1.5,
        )
        handles.setdefault(name, line)
    return list(handles.values())


def _draw_rings(
    ax: Axes,
    series: Sequence[Series],
    lengths: Sequence[int | None],
) -> None:
    """Marks the effective length of each line that has one; rings at one place go around another.

    Args:
        ax: where to draw.
        series: the lines.
        lengths: the effective length of each; none of measures.
    """
    marks = [mark_sizes(over) for over in num_over(series)]
    sizes: dict[tuple[int, float], float] = {}
    for place, length in enumerate(lengths):
        if length is not None:
            one = series[place]
            column = one.lengths.index(length)
            value = float(one.values[column])
            at = length, round(value, 6)
            size = max(float(marks[place][column]) + _RING_GAP, sizes.get(at, 0.0) + _NEXT_RING)
            sizes[at] = size
            ax.plot(
                [length],
                [value],
                linestyle="none",
                marker="o",
                markersize=size,
                markerfacecolor="none",
                markeredgecolor=line_style(place).color,
                markeredgewidth=1.2,
                clip_on=False,
                zorder=4,
            )


def _draw_training(
    ax: Axes, training: float | Sequence[float | None] | None, series: Sequence[Series]
) -> bool:
    """Draws training lengths that lie among the lengths; True if there is one."""
    lengths = sorted({length for one in series for length in one.lengths})
    given = training if isinstance(training, Sequence) else [training]
    inside = sorted(
        {
            float(one)
            for one in given
            if one is not None and not isnan(one) and lengths[0] <= one <= lengths[-1]
        }
    )
    if inside:
        draw_training(ax, inside, alignment=_toward_the_middle(inside[0], lengths))
    return bool(inside)


def draw_training(ax: Axes, lengths: Sequence[float], *, alignment: str) -> None:
    """Draws dotted lines at training lengths, with words above the first of them.

    Args:
        ax: where to draw.
        lengths: at least one, ascending, in the units of the horizontal axis.
        alignment: of the words, as matplotlib's ``horizontalalignment``.
    """
    for length in lengths:
        ax.axvline(length, color=INK, linestyle=":", linewidth=1.4, zorder=1.2)
    ax.annotate(
        "training length" if len(lengths) == 1 else "training lengths",
        xy=(lengths[0], 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        horizontalalignment=alignment,
        verticalalignment="bottom",
        fontsize=SMALL_SIZE,
        color=FAINT,
        annotation_clip=False,
    )


def _toward_the_middle(place: float, lengths: Sequence[int]) -> str:
    middle = (lengths[0] * lengths[-1]) ** 0.5
    return "left" if place < middle / 2 else "right" if place > middle * 2 else "center"


def _limit_values(ax: Axes, found: _Lines, *, is_share: bool) -> None:
    """The whole range of shares; else from 0, or from the least value below it."""
    if is_share:
        ax.set_ylim(-0.03, 1.03)
        return
    series = (*found.series, *(one for _, one in found.references))
    known = [end for one in series for ends in (one.values, one.low) for end in ends]
    low = min((end for end in known if not isnan(end)), default=0.0)
    if low >= 0:
        ax.set_ylim(bottom=0)


def _axis_label(runs: Sequence[Results], value: str) -> str:
    if value == CORRECT:
        return "Accuracy"
    label = printable(runs[0].measure(value).label)
    return label if is_score(runs[0], value) else f"{label}, median"
