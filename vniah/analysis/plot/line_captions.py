"""What pictures with lines along the lengths say in words."""

from collections.abc import Iterator, Sequence

from vniah.analysis.labels import like_these, these, unit_notes
from vniah.analysis.plot.captions import CORRECT, averaged_over
from vniah.analysis.plot.series import Series, is_score
from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.statistics.means import FEW_NEEDLES
from vniah.analysis.statistics.medians import num_needles_of_median
from vniah.analysis.table_notes import APPROXIMATE, approximate_note
from vniah.analysis.table_rows import partly_measured_lengths
from vniah.analysis.verdict import controls_caption
from vniah.errors import counted
from vniah.results import Results

_NO_LINE = "no line, as no sample could be run"


def about_lines(
    names: Sequence[str],
    series: Sequence[Series],
    runs: Sequence[Results],
    value: str,
    confidence: float,
    *,
    rings: float | None = None,
) -> Iterator[str]:
    """What lines along the lengths are of, a sentence a line.

    Args:
        names: one for each line.
        series: the lines.
        runs: the results behind them.
        value: what is drawn, as for `length_curves`.
        confidence: of the bands.
        rings: the score of the effective lengths that have rings; None for no rings.
    """
    yield from _about_bands(names, series, runs, value, confidence)
    if rings is not None:
        some = ", of approximate scores where that is said" * any(r.is_approximate for r in runs)
        yield f"rings: effective length (at least {rings:g} up to there{some})"
    yield from _about_missing(series)
    if any(map(partly_measured_lengths, runs)):
        yield "lengths of which an adaptive run measured some depths only have no mark"
    yield from _about_controls(runs, value)
    yield from _about_facets(names, runs)
    yield from unit_notes(runs, names)


def _about_bands(
    names: Sequence[str],
    series: Sequence[Series],
    runs: Sequence[Results],
    value: str,
    confidence: float,
) -> Iterator[str]:
    """One sentence for all that is the same, and one for each that differs."""
    is_share = is_score(runs[0], value)
    what = (
        "mean over cells"
        if is_share
        else "median over needles of each needle's median over its depths"
    )
    about: dict[str, list[str]] = {}
    for name, one, run in zip(names, series, runs, strict=True):
        about.setdefault(_about_band(one, run, confidence, is_share=is_share), []).append(name)
    drawn = [text for text in about if text != _NO_LINE]  # what is said of all is of lines
    # That some are approximate is said with their names, and not of all.
    exact = [text for text in drawn if not text.startswith(APPROXIMATE)]
    most = max(exact or drawn or about, key=lambda text: len(about[text]))
    of = " or ".join(dict.fromkeys(map(these, runs)))
    yield f"{what}, {of}; {most}"
    for text, those in about.items():
        if text != most:
            yield f"{', '.join(those)}: {text}"


def _about_band(one: Series, run: Results, confidence: float, *, is_share: bool) -> str:
    if run.published:
        return "no band, as a published table has no samples"
    if not one.has_value:
        return _NO_LINE
    if run.is_approximate:
        return _about_corrected(one, run, confidence, is_share=is_share)
    unit = run.cluster if one.estimand == "needles" else "depth"
    clusters = counted(one.num_clusters, unit)
    if not one.has_interval:
        least = num_needles_of_median(confidence)
        are = "is" if one.num_clusters == 1 else "are"
        return f"no band, as {clusters} {are} too few for that of a median, which takes {least}"
    percent = percent_of(confidence)
    if one.estimand == "needles":
        few = ", too few for a claim" if one.num_clusters < FEW_NEEDLES else ""
        return f"band: {percent} for {like_these([run])} ({clusters}{few})"
    return (
        f"band: {percent} for the same needles at other depths ({clusters}), as samples do not say "
        "which needle they are about"
    )


def _about_corrected(one: Series, run: Results, confidence: float, *, is_share: bool) -> str:
    """The band of an approximate run, which has one only where samples were computed exactly."""
    note = approximate_note(run)
    if not one.has_interval:
        why = "" if is_share else " for a median"
        return f"{note}; no band{why}"
    return (
        f"{note}; band: {percent_of(confidence)} for {like_these([run])}, of means that these "
        f"samples correct ({counted(one.num_clusters, run.cluster)}), at lengths that have some"
    )


def _about_missing(series: Sequence[Series]) -> Iterator[str]:
    if any(one.has_value and not one.is_whole.all() for one in series):
        yield "hollow marks: planned samples are missing"


def _about_facets(names: Sequence[str], runs: Sequence[Results]) -> Iterator[str]:
    """What samples of one cell differ in, with the names of those lines of which it is said."""
    about: dict[str, list[str]] = {}
    for name, run in zip(names, runs, strict=True):
        about.setdefault("; ".join(averaged_over(run)), []).append(name)
    for text, those in about.items():
        if text:
            yield text if len(about) == 1 else f"{', '.join(those)}: {text}"


def _about_controls(runs: Sequence[Results], value: str) -> tuple[str, ...]:
    """What the controls of a single run say; those of several have no room."""
    controls = controls_caption(runs[0]) if len(runs) == 1 else ()
    is_of_measure = bool(controls) and value != CORRECT
    return (*("right answers with controls:" for _ in range(is_of_measure)), *controls)
