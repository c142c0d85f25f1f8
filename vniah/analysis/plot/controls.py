"""The controls of a run: each as a map where it has cells, else along the lengths."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from vniah.analysis.labels import like_these, these
from vniah.analysis.plot.captions import own_title
from vniah.analysis.plot.heatmaps import Look, draw_table
from vniah.analysis.plot.lines import LineStyle, draw_line, scale_lengths, style_curves
from vniah.analysis.plot.series import Series, length_series
from vniah.analysis.plot.style import DEFAULT_PALETTE, FAINT, write_caption, write_title
from vniah.analysis.plot.table import Table, resolve
from vniah.analysis.plot.typesetting import tell_of_missing
from vniah.analysis.table_rows import ALL_ORDERS, control_rows
from vniah.analysis.verdict import verdict
from vniah.errors import ResultsError, counted, printable, short_repr
from vniah.options import Palette
from vniah.results import AnyResults, Results, one_result

_STYLE = LineStyle("#0072B2", "-", "o")
_LEVEL_STYLE = LineStyle("#0072B2", "-", "None")
_LABEL = "Share right"


def control_names(results: Results) -> tuple[str, ...]:
    """The controls of a run that have samples, in the order of the run.

    The last is the accuracy over all orders of the options, if the run has it.
    """
    return tuple(dict.fromkeys(row["control"] for row in control_rows(results)))


@tell_of_missing()
def control_picture(
    results: AnyResults,
    control: str,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    colorbar: bool = True,
    palette: Palette = DEFAULT_PALETTE,
    caption: bool = True,
) -> Axes:
    """Draws one control of a run onto ``ax`` and gives it back.

    A control whose samples have cells is a map like that of the test, with the same colours. Others
    are a line along the lengths, with a band, the 95 % interval for needles like these, and beside
    it the accuracy of the test, dashed. A control that shows nothing is a level line. Docs say
    which answers of a control count as right. Never saves, shows or sizes a figure.

    Args:
        results: a run with controls, or its path.
        control: its name, one of those of `control_names`.
        ax: where to draw; by default the current axes of pyplot.
        title: the text above the axes; by default the name and the share; ``""`` for none.
        colorbar: whether a map has a colour bar beside it.
        palette: as for `vniah.heatmap`.
        caption: whether to write below the axes what is drawn, and what the control found.

    Raises:
        ResultsError: the run has no such control.
    """
    results = one_result(results)
    names = control_names(results)
    if control not in names:
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise ResultsError(f"{results.path} has no control {short_repr(control)}; {has}")
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    table = control_table(results, control)
    about = "\n".join(_about(results, control, is_map=table is not None))
    heading = _title(results, control) if title is None else title
    if _is_approximate(results, control):
        heading = own_title(results, heading)
    if table is not None:
        table = replace(table, caption=about)
        draw_table(
            ax, table, results, title=heading, look=Look(palette, None, None, colorbar, caption)
        )
        return ax
    series = control_series(results, control)
    test = length_series(results)
    scale_lengths(ax, [series.lengths, test.lengths], axis=results.axis)
    ax.plot(
        test.lengths, test.values, color=FAINT, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1.5
    )
    draw_line(ax, series, _STYLE if _shows_haystack(results, control) else _LEVEL_STYLE)
    style_curves(ax, label=_LABEL)
    ax.set_ylim(-0.03, 1.03)
    if caption:
        write_caption(ax, about)
    write_title(ax, heading)
    return ax


def _is_approximate(results: Results, control: str) -> bool:
    """Whether the results of a control are approximate: in such a run some controls are exact."""
    return any(
        sample.approximate
        for sample in results.control_samples
        if control in (sample.control, ALL_ORDERS)
    )


def control_table(results: Results, control: str) -> Table | None:
    """The map of a control; None if its samples have no cells."""
    if control == ALL_ORDERS:
        found = results.debiased_by_cell
        whole = resolve(results)
        scores = {(results.row_of(cell), cell.num_frames): one.score for cell, one in found.items()}
        values = np.array(
            [[scores.get((row, length), np.nan) for length in whole.frames] for row in whole.rows]
        )
        nowhere = np.zeros(values.shape, bool)
        return replace(whole, values=values, failed=nowhere, partial=nowhere, label=_LABEL)
    samples = tuple(s for s in results.control_samples if s.control == control)
    if not any(sample.cell is not None for sample in samples):
        return None
    own = replace(results, samples=samples, control_samples=())
    return replace(resolve(own), chance=None, label=_LABEL)


def control_series(results: Results, control: str) -> Series:
    """The line of a control along the lengths; a level one for a control that shows nothing."""
    rows = [row for row in control_rows(results) if row["control"] == control]
    lengths = tuple(row["num_frames"] for row in rows if row["num_frames"] is not None)
    if not lengths:
        cells = results.planned_cells.union(found.cell for found in results.cells)
        lengths = tuple(sorted({cell.num_frames for cell in cells}))
        rows = rows * len(lengths)
    else:
        rows = [row for row in rows if row["num_frames"] is not None]

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)

    is_whole = np.array([not row["num_errors"] for row in rows])
    return Series(lengths, column("score"), column("low"), column("high"), is_whole, "needles")


def _title(results: Results, control: str) -> str:
    if control == ALL_ORDERS:
        debiased = results.debiased
        return ALL_ORDERS if debiased is None else f"{control}\n{debiased.score:.2f} right"
    found = [score for score in results.controls if score.control == control]
    num_samples = sum(score.num_samples for score in found)
    if not num_samples:
        return f"{printable(control)}\nno sample could be run"
    share = sum(score.num_correct for score in found) / num_samples
    return f"{printable(control)}\n{share:.2f} right"


def _shows_haystack(results: Results, control: str) -> bool:
    return any(s.num_frames is not None for s in results.controls if s.control == control)


def _about(results: Results, control: str, *, is_map: bool) -> Iterator[str]:
    """The sentences of the caption: what it is of, and what the control found."""
    found = [score for score in results.controls if score.control == control]
    num_samples = sum(score.num_samples for score in found)
    of = these(results)
    if control == ALL_ORDERS:
        debiased = results.debiased
        if debiased is not None:
            yield f"a guess is right in {debiased.chance:.2f}"
        return
    if not is_map:
        where = (
            ""
            if _shows_haystack(results, control)
            else "nothing is shown, so the same at all lengths; "
        )
        band = f"band: 95 % for {like_these([results])}"
        if _is_approximate(results, control):
            band = "no band, as scores are approximate"
        yield (
            f"{where}n = {num_samples:,}; line: {of}, {band}, "
            f"dashed: the {'approximate ' * results.is_approximate}test"
        )
    else:
        yield f"n = {num_samples:,}, {of}; colours as for the test"
    if num_errors := sum(score.num_errors for score in found):
        yield counted(num_errors, "error")
    said = verdict(results)
    for one in () if said is None else said.findings:
        if one.control == control:
            yield printable(one.summary)
