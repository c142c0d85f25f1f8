"""What pictures say in words, above and below their axes."""

from vniah.analysis.labels import like_these, unit_notes
from vniah.analysis.plot.typesetting import NO_BREAK
from vniah.analysis.statistics.effective import find_effective_length
from vniah.analysis.statistics.estimates import estimate_table, percent_of
from vniah.analysis.statistics.table import index_samples, is_right
from vniah.analysis.statistics.verification import NOT_VERIFIED, OF_THE_WHOLE, verify
from vniah.analysis.table_notes import approximate_note
from vniah.analysis.verdict import controls_caption
from vniah.errors import counted, printable, shortened
from vniah.results import Measure, Results, facet_values
from vniah.results.facets import label_of, value_label

CORRECT = "correct"
"""The value that is drawn by default: the share of right samples."""

_MOST_OF_A_FACET = 300  # characters


def default_title(results: Results, ending: str | None = None, *, value: str = CORRECT) -> str:
    """The name of the results; below it what tells them from others, if any, and the average.

    Of an approximate run the second line says so: names are cut where they are long, it is not.

    Args:
        results: what is drawn.
        ending: what tells them from others, as `label_endings`; by default the part that they are.
        value: what is drawn of them.
    """
    approximation = results.approximation
    average, name = _average(results, value), results.name
    if approximation is not None:
        name = approximation.unmarked(name)
        average = f"approximate {average}, {approximation.how}" if average else approximation.text
    remark = printable(results.part if ending is None else ending.removeprefix(",").strip())
    if remark and average:
        average = f"({average})".replace(" ", NO_BREAK)
    below = " ".join(filter(None, (remark, average)))
    return "\n".join(filter(None, (printable(name), below)))


def own_title(results: Results, title: str) -> str:
    """A title of somebody's own, below which it is said where the results are approximate."""
    approximation = results.approximation
    if approximation is None or ("approximate" in title and approximation.how in title):
        return title
    return "\n".join(filter(None, (title, approximation.text)))


def reference_title(results: Results, value: str) -> str:
    """The name and the average of the measure that a measure is compared with."""
    reference = results.measure(value).reference
    assert reference is not None, "the measure has a reference"
    label = printable(reference.label)
    return label if reference.average is None else f"{label}\nmean {reference.average:.3g}"


def caption(results: Results, measure: Measure | None = None) -> str:
    """What stands below the axes of a heatmap, a sentence a line.

    Args:
        results: what is drawn.
        measure: which measure is drawn; None for the score.
    """
    lines = [_counts(results, measure)]
    lines += _estimands(results) if measure is None else [approximate_note(results)]
    controls = controls_caption(results)
    if measure is not None and controls:
        lines.append("right answers with controls:")
    below = (*controls, *averaged_over(results), *unit_notes([results]))
    return "\n".join(filter(None, (*lines, *below)))


def _counts(results: Results, measure: Measure | None) -> str:
    """How many samples stand behind a cell, and how many are missing."""
    cells = results.cells if measure is None else measure.cells
    counts = [found.num_samples for found in cells if found.num_samples]
    parts = []
    if counts:
        low, high = min(counts), max(counts)
        parts.append(f"n = {low:,} per cell" if low == high else f"n = {low:,}-{high:,} per cell")
    if measure is None and results.chance is not None:
        parts.append(f"a guess is right in {results.chance:.2f}")
    if measure is not None and measure.num_missing:
        parts.append(f"{counted(measure.num_missing, 'sample')} without a value")
    return ", ".join((*parts, *about_missing(results)))


def about_missing(results: Results) -> list[str]:
    """How many samples could not be run, and how far a run is that has not run all of them."""
    parts = []
    if num_errors := sum(score.num_errors for score in results.cells):
        parts.append(counted(num_errors, "error"))
    if results.is_adaptive:
        measured, planned = len(results.cells), counted(results.num_planned_cells, "cell")
        ending = "" if results.is_finished else ", not finished"
        parts.append(f"measured {measured:,} of {planned}: adaptive{ending}")
    elif results.stopped_early:
        parts.append(results.stopped_early)
    elif not results.is_complete:
        parts.append(results.done_in_words)
    return parts


def _estimands(results: Results) -> list[str]:
    """What the average is of, the interval for needles like these, and the effective length."""
    if results.average is None:
        return []
    index, lines = index_samples(results), []
    table = index.table(is_right)
    has_estimate = len(table.values) and not results.is_selected
    estimate = estimate_table(table) if has_estimate and not results.is_approximate else None
    if results.is_approximate:
        lines.append(_about_verification(results))
    if estimate is not None and (interval := estimate.interval) is not None:
        few = "" if estimate.is_narrow else f", too few to know it to {estimate.half_width:g}"
        lines.append(
            f"average: of these {results.cluster}s; for {like_these([results])} "
            f"{interval.text(around=results.average)} "
            f"({_unbroken(percent_of(estimate.confidence))}, "
            f"{_unbroken(counted(estimate.num_needles, estimate.unit))}{few})"
        )
    length = find_effective_length(results, index=index)
    if length.measured:
        others = length.short[1]
        text = f"{'approximate ' * length.is_approximate}effective length ("
        text += f"{_unbroken(f'score >= {length.threshold:g}')}): "
        text += _unbroken(length.short_with_unit)
        if others != ".":
            text += f" with these {results.cluster}s, with {like_these([results])} "
            text += _unbroken(others)
        lines.append(text)
    return lines


def _about_verification(results: Results) -> str:
    """How far the approximate scores agree with exact ones, and the mean that these correct."""
    found = verify(results)
    if found is None and results.part:
        return f"scores are approximate; {OF_THE_WHOLE}"
    if found is None:
        return f"{NOT_VERIFIED}, so how far scores are right is not known"
    if found.corrected is None:
        return found.short
    these, like = found.corrected.these, found.corrected.like
    percent = _unbroken(percent_of(found.confidence))
    return (
        f"{found.short}; corrected average {found.corrected.mean:.2f}, {these.text()} for these "
        f"{results.cluster}s, {like.text()} for {like_these([results])} ({percent})"
    )


def _unbroken(text: str) -> str:
    """A short text that stays in one line of a picture."""
    return text.replace(">=", "\u2265").replace("<=", "\u2264").replace(" ", NO_BREAK)


def averaged_over(results: Results) -> list[str]:
    """That a cell is the mean over all samples, and their facets, if any has several values."""
    texts = [
        f"{label_of(results, name)}: {', '.join(map(value_label, values))}"
        for name, values in facet_values(results).items()
    ]
    if texts:
        texts[0] = f"mean over all samples; {texts[0]}"
    return [shortened(printable(text), _MOST_OF_A_FACET) for text in texts]


def _average(results: Results, value: str) -> str:
    """The average in words, and what it is over if that is not the whole grid; empty if none."""
    planned = results.num_planned_cells
    if value == CORRECT:
        if results.stopped_early:
            return "stopped early, no average to quote"
        text = "" if results.average is None else f"average {results.average:.4f}"
        num_cells, coverage = results.num_scored_cells, results.coverage
    else:
        measure = results.measure(value)
        text = "" if measure.average is None else f"mean {measure.average:.3g}"
        num_cells = sum(found.mean is not None for found in measure.cells)
        coverage = f"{num_cells} of {planned} cells"
    return text if num_cells == planned or not text else f"{text} over {coverage}"
