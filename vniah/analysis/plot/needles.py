"""Which needles are found at which lengths: a row for each needle."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from vniah.analysis.plot.axes import ColumnFormatter, ThinnedLocator
from vniah.analysis.plot.captions import about_missing, own_title
from vniah.analysis.plot.heatmaps import Look, draw_table
from vniah.analysis.plot.marks import tell_left_out, write_numbers
from vniah.analysis.plot.style import (
    DEFAULT_PALETTE,
    INK,
    LABEL_SIZE,
    TICK_SIZE,
    fit_texts,
    score_colors,
)
from vniah.analysis.plot.table import Table, default_title
from vniah.analysis.plot.typesetting import Fonts, tell_of_missing
from vniah.analysis.statistics.table import index_samples
from vniah.analysis.table_notes import approximate_note
from vniah.analysis.table_rows import partly_measured_lengths
from vniah.errors import ResultsError, printable
from vniah.options import Palette
from vniah.results import AnyResults, Results, one_result

_LONGEST_NAME = 84.0  # points
_MOST_CELLS = 10_000_000


@dataclass(frozen=True)
class NeedleTable:
    """The scores of needles.

    Attributes:
        names: of the needles, the hardest first.
        table: a row for each needle, a column for each number of frames.
    """

    names: tuple[str, ...]
    table: Table


@tell_of_missing()
def needle_map(
    results: AnyResults,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    training_frames: float | None = None,
    colorbar: bool = True,
    palette: Palette = DEFAULT_PALETTE,
    annotate: bool = False,
    caption: bool = True,
) -> Axes:
    """Draws how well each needle is found at each length onto ``ax`` and gives it back.

    There is a row for each needle, the hardest on top, and a column for each number of frames. A
    cell is the mean over the depths of this needle on this film, in the colours of `vniah.heatmap`:
    all needles have one scale. Cells with errors are hatched, and those without a sample are blank.
    Never saves, shows or sizes a figure.

    Args:
        results: a run, or its path, whose samples say which needle they are about.
        ax: where to draw; by default the current axes of pyplot.
        title: the text above the axes; by default the name and the average, ``""`` for none.
        training_frames: as for `vniah.heatmap`.
        colorbar: whether to draw a colour bar beside the axes.
        palette: as for `vniah.heatmap`.
        annotate: whether to write the values into the cells, as for `vniah.heatmap`.
        caption: whether to write below the axes what a cell is.

    Raises:
        ResultsError: the samples do not say which needle they are about, or there are too many.
        InputError: there is no such palette.
    """
    results = one_result(results)
    found = resolve_needles(results)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    look = Look(palette, training_frames, None, colorbar, caption)
    draw_needles(ax, found, results, title=title, look=look)
    if annotate:
        tell_left_out(write_numbers([ax], [found.table], score_colors(palette)))
    return ax


def draw_needles(
    ax: Axes, found: NeedleTable, results: Results, *, title: str | None, look: Look
) -> None:
    """Draws the numbers of `resolve_needles`; arguments as `needle_map`."""
    heading = default_title(results) if title is None else own_title(results, title)
    draw_table(ax, found.table, results, title=heading, look=look)
    labels, families = _short(found.names)
    ax.tick_params(axis="y", labelfontfamily=families)
    ax.yaxis.set_major_locator(ThinnedLocator(labels, horizontal=False))
    ax.yaxis.set_major_formatter(ColumnFormatter(labels))
    ax.set_ylabel(results.cluster.capitalize(), fontsize=LABEL_SIZE, color=INK)
    ax.yaxis.set_visible(True)
    fit_texts(ax)  # the title has the room of the names


def resolve_needles(results: Results) -> NeedleTable:
    """The scores of the needles of a run at each length.

    Raises:
        ResultsError: the samples do not say which needle they are about, or there are too many.
    """
    index = index_samples(results)
    done = index.table(lambda sample: sample.correct)
    everything = index.table(lambda _: 0.0)
    if not everything.knows_needles:
        raise ResultsError(
            f"{results.path} does not say how each needle did: give a run whose samples name one "
            "needle each"
        )
    lengths = everything.lengths
    grid = results.grid
    frames = tuple(sorted({*lengths, *(() if grid is None else grid.frames)}))
    shape = len(everything.needles), len(frames)
    if shape[0] * shape[1] > _MOST_CELLS:
        raise ResultsError(
            f"{results.path} has {shape[0]:,} needles at {shape[1]:,} lengths, a picture has at "
            f"most {_MOST_CELLS:,} cells"
        )
    places = {name: k for k, name in enumerate(everything.needles)}
    columns = {length: k for k, length in enumerate(frames)}
    values = np.full(shape, np.nan)
    num_all, num_done = np.zeros(shape, np.intp), np.zeros(shape, np.intp)
    for some, counts in ((everything, num_all), (done, num_done)):
        rows = np.array([places[name] for name in some.needles], np.intp)[some.needle]
        at = np.array([columns[cell.num_frames] for cell in some.cells], np.intp)[some.cell]
        np.add.at(counts, (rows, at), 1)
    without_mean = partly_measured_lengths(results)
    is_blank = [length in without_mean for length in frames]
    num_all[:, is_blank] = num_done[:, is_blank] = 0
    for length in sorted(set(done.lengths) - without_mean):
        part = done.at_length(length)
        for needle in np.unique(part.needle):
            own = part.where(part.needle == needle)
            values[places[done.needles[needle]], columns[length]] = own.mean
    means = np.array([np.nanmean(row) if (~np.isnan(row)).any() else np.inf for row in values])
    order = np.argsort(np.round(means, 9), kind="stable")
    table = Table(
        frames,
        tuple(Fraction(k) for k in range(shape[0])),
        values[order],
        failed=((num_all > 0) & (num_done == 0))[order],
        partial=((num_done > 0) & (num_done < num_all))[order],
        limits=(0.0, 1.0),
        label="Accuracy",
        caption=_about(results, num_done),
        has_positions=False,
        chance=results.chance,
    )
    return NeedleTable(tuple(everything.needles[k] for k in order), table)


def _about(results: Results, num_done: npt.NDArray[np.intp]) -> str:
    """What a cell is, and how many samples are missing."""
    counts = num_done[num_done > 0]
    if not len(counts):
        has_errors = any(found.num_errors for found in results.cells)
        what = "no sample could be run" if has_errors else "no sample has been run yet"
    else:
        low, high = int(counts.min()), int(counts.max())
        num = f"n = {low:,}" if low == high else f"n = {low:,}-{high:,}"
        one = f"the mean over depths of one needle on this {results.haystack_noun}"
        if not results.has_depths:
            one = f"the mean of one {results.cluster}"
        what = f"each cell: {one}, {num}; hardest on top"
    lines = (what, approximate_note(results), ", ".join(about_missing(results)))
    return "\n".join(filter(None, lines))


def _short(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names as labels, cut in the middle where they are long, and the fonts that have them."""
    shown = [printable(name) for name in names]
    fonts = Fonts.covering(shown)
    style = fonts.style(TICK_SIZE)
    labels = [fonts.wrap_name(name, _LONGEST_NAME, style, most=1) for name in shown]
    # Labels of ticks would be read as mathematics between two dollar signs.
    return ["".join(lines).replace("$", r"\$") for lines in labels], style.get_family()
