"""Puts a report together: one HTML file that needs nothing from elsewhere."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from vniah.analysis.applied import applied_rows
from vniah.analysis.labels import like_these, result_labels, unit_notes
from vniah.analysis.report.command import Command, command_of
from vniah.analysis.report.escaping import script_json, source_hash, visible_text
from vniah.analysis.report.maps import Map, map_colors, measure_map, score_map
from vniah.analysis.report.needles import make_gallery
from vniah.analysis.report.origin import facts_of, notes_of
from vniah.analysis.report.samples import SampleData
from vniah.analysis.report.tables import PageTable, page_table
from vniah.analysis.report.verified import verification_tables
from vniah.analysis.sentences import (
    format_agreement,
    format_attention,
    format_average,
    format_oddness,
)
from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.statistics.summary import Summary, summarize
from vniah.analysis.table_layouts import layouts, lengths_layout
from vniah.analysis.table_notes import gaps
from vniah.analysis.verdict import Verdict, verdict
from vniah.errors import InputError, ResultsError
from vniah.files import atomic_path
from vniah.needles import NeedleSet, load_needles
from vniah.options import TableKind
from vniah.paths import page_path
from vniah.results import AnyResults, Results, several_results
from vniah.results.facets import parts_of

_MOST_RUNS = 20
_MOST_CELLS_IN_TABLES = 2500
_ASSETS = "assets"
_TABLES: tuple[tuple[TableKind, str, str], ...] = (
    ("lengths", "By length", "Mean over depth at each length, average, effective length"),
    ("applied", "With and without the intervention", "Paired difference"),
    ("needles", "By needle", "Score of each needle over all cells"),
    ("controls", "Controls", "Share of right answers with each control at each length"),
    ("cells", "Cells, with their intervals", "Score of each cell"),
)


@dataclass(frozen=True)
class RunSection:
    """What a report says of one result.

    Attributes:
        label: a name that no other result has.
        path: where it lies.
        is_published: whether it is a published table.
        progress: how much is done, if not all is; else empty.
        figures: the numbers that people look for first, each with its name.
        sentences: the summary.
        remarks: what the means are not over, and the like.
        verdict: that of the controls; None without any.
        maps: its score, and the measures of its task.
        parts: its parts by what the task names; None without any.
        notes: what the run noted about itself.
        command: makes it again.
        approximate: how far an approximate run is one, in a sentence; empty for an exact one.
        verified: tables of what its exactly computed samples say.
        picture: the address of its heatmap as a PNG file; empty without.
    """

    label: str
    path: str
    is_published: bool
    progress: str
    figures: tuple[tuple[str, str], ...]
    sentences: tuple[str, ...]
    remarks: tuple[str, ...]
    verdict: Verdict | None
    maps: tuple[Map, ...]
    parts: PageTable | None
    notes: tuple[str, ...]
    command: Command
    approximate: str = ""
    verified: tuple[PageTable, ...] = ()
    picture: str = ""


@dataclass(frozen=True)
class TableSection:
    """Tables of one kind.

    Attributes:
        heading: above them.
        tables: these.
        is_folded: whether they are unfolded only where somebody wants to see them.
    """

    heading: str
    tables: tuple[PageTable, ...]
    is_folded: bool = False


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        html: the page.
        notes: sentences on what it leaves out.
    """

    html: str
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Writes the page, whole or not at all; missing folders above it are made."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self.html.encode("utf-8", "backslashreplace"))


def save_report(
    results: AnyResults | Sequence[AnyResults],
    path: str | Path,
    *,
    needles: NeedleSet | str | Path | Sequence[NeedleSet | str | Path] = (),
    pictures: bool = True,
) -> Path:
    """Writes a report of one or several results: one HTML file that needs no network.

    It has the summary, the verdict of the controls, the map, tables, what ran and the command that
    makes it again. A script in it shows the samples of each cell, and filters them.

    Args:
        results: runs, also those that are still going on, or published tables, or their paths.
        path: the file, whose name ends in ``.html``; missing folders above it are made.
        needles: needle sets, or where they lie, for their pictures. Those that come with vniah are
            known; others are used if their hash is the one that a run recorded.
        pictures: whether the heatmaps are in it as PNG files as well, to be saved from the page.

    Returns:
        The path of the file.

    Raises:
        ResultsError: results cannot be read.
        NeedleError: a needle set cannot be read.
        InputError: there are no results, or too many for a page, or the path is not that of a page.
    """
    path = page_path(path)
    runs = several_results(results)
    make_report(runs, needles=_needle_sets(needles), pictures=pictures).save(path)
    return path


def make_report(
    runs: Sequence[Results], *, needles: Sequence[NeedleSet] = (), pictures: bool = True
) -> Report:
    """A report of results; arguments as `save_report`.

    Raises:
        InputError: there are no results, or too many for a page.
    """
    if not 1 <= len(runs) <= _MOST_RUNS:
        raise InputError(f"a report is of 1 to {_MOST_RUNS} results, got {len(runs)}")
    labels = result_labels(runs)
    gallery = make_gallery(runs, labels, needles)
    samples = SampleData(runs)
    sections = [
        _section(results, label, pictures) for results, label in zip(runs, labels, strict=True)
    ]
    script, style = _asset("report.js"), f"{_asset('report.css')}\n{map_colors()}\n"
    policy = "; ".join(
        (
            *("default-src 'none'", "base-uri 'none'", "form-action 'none'", "img-src data:"),
            *(f"style-src {source_hash(style)}", f"script-src {source_hash(script)}"),
        )
    )
    facts = facts_of(runs)
    notes = (*gallery.notes, *samples.notes)
    html = _template().render(
        title=_title(labels),
        policy=policy,
        style=style,
        script=script,
        data=script_json(samples.record(labels, gallery.by_run)),
        sections=sections,
        tables=_tables(runs),
        gallery=gallery,
        facts=[fact for fact in facts if not fact.is_detail],
        details=[fact for fact in facts if fact.is_detail],
        notes=notes,
        has_samples=any(results.samples or results.control_samples for results in runs),
        version=_version(),
    )
    return Report(html, notes)


def _section(results: Results, label: str, pictures: bool) -> RunSection:
    axis = "tokens of context" if results.axis == "tokens" else f"number of {results.axis}"
    rows = "position" if results.has_positions else "depth"
    of_depth = results.details.get("labels", {}).get("depth")
    named = f" ({of_depth})" if of_depth else ""
    what = "Approximate accuracy" if results.is_approximate else "Accuracy"
    caption = f"{what} by {rows}{named}, downwards, and {axis}, to the right"
    oddness, attention = format_oddness(results), format_attention(results)
    parts = parts_of(results)
    found = summarize(results)
    return RunSection(
        label=label,
        path=str(results.path),
        is_published=not results.manifest,
        progress=_progress(results),
        figures=_figures(results, found),
        sentences=(format_average(results), *found.lines),
        remarks=(
            *unit_notes([results]),
            *(line for line in gaps(results) if line != results.progress),  # said above
            *format_agreement(results),
            *([] if oddness is None else [oddness]),
            *([] if attention is None else [attention]),
            *_chance(results),
        ),
        verdict=verdict(results),
        maps=(
            score_map(results, caption),
            *(measure_map(results, name) for name in results.measures),
        ),
        parts=_parts_table(parts, label) if parts else None,
        notes=tuple(notes_of(results)),
        command=command_of(results.manifest),
        approximate=_approximate(results),
        verified=verification_tables(results),
        picture=_picture(results) if pictures else "",
    )


def _approximate(results: Results) -> str:
    if results.approximation is None:
        return ""
    return (
        f"the scores of this run are approximate ({results.approximation.how}): haystack states "
        "were computed once and shared by all needles"
    )


def _parts_table(parts: Sequence[Results], label: str) -> PageTable:
    layout = lengths_layout([one.part for one in parts], parts)
    return page_table(layout, f"Mean over depth at each length, for each part of {label}")


def _figures(results: Results, found: Summary) -> tuple[tuple[str, str], ...]:
    """The average, its interval for needles like these, and the effective length."""
    if results.average is None:
        return ()
    is_whole = results.num_scored_cells == results.num_planned_cells
    over = "" if is_whole else f" over {results.coverage}"
    approximate = "approximate " * results.is_approximate
    name = f"{approximate}average{over}, these {results.cluster}s"
    figures = [(name, f"{results.average:.4f}")]
    estimate = found.needles_like_these
    if estimate is not None and estimate.interval is not None:
        ends = estimate.interval.text(around=results.average)
        like = f"{like_these([results])} ({percent_of(estimate.confidence)})"
        if results.is_approximate:
            figures.append((f"corrected average, these {results.cluster}s", f"{estimate.mean:.4f}"))
            like = f"corrected average, {like}"
        figures.append((like, ends))
    length = found.effective_length
    if length.measured:
        what = f"{approximate}effective length in {results.axis}, score {length.threshold:g}"
        figures.append((what, length.short[0]))
    return tuple(figures)


def _progress(results: Results) -> str:
    if results.is_complete:
        return ""
    if results.is_selected:
        return gaps(results)[0]
    return (
        f"not complete: {results.done_in_words}, so the run is still going on, or was stopped. All "
        "numbers are over what has been run"
    )


def _chance(results: Results) -> list[str]:
    return [] if results.chance is None else [f"a guess is right in {results.chance:.2f}"]


def _picture(results: Results) -> str:
    """The heatmap as a PNG file, as an address; empty if there is no cell to draw."""
    import tempfile

    from vniah.analysis.plot import save_heatmaps
    from vniah.analysis.report.escaping import data_uri

    if not results.cells:
        return ""
    with tempfile.TemporaryDirectory(prefix="vniah-report-") as folder:
        path = save_heatmaps([results], Path(folder, "heatmap.png"))
        return data_uri(path.read_bytes(), "image/png")


def _tables(runs: Sequence[Results]) -> list[TableSection]:
    """The tables that some of the results have."""
    found = []
    for kind, heading, caption in _TABLES:
        some = list(filter(_has_few_cells, runs)) if kind == "cells" else runs
        if kind == "applied":
            some = [results for results in runs if applied_rows(results)]
        if not some or (kind == "controls" and not any(results.controls for results in runs)):
            continue
        with suppress(ResultsError):  # no cell at all; samples that do not name one needle each
            tables = tuple(
                page_table(
                    layout,
                    f"{caption}: {layout.title}" if layout.title else caption,
                    # A control of several results has a row for each of them.
                    num_names=2 if kind == "controls" and len(runs) > 1 else 1,
                    turns=kind not in ("cells", "applied"),
                )
                for layout in layouts(some, kind, intervals=True)
            )
            found.append(TableSection(heading, tables, kind == "cells"))
    return found


def _has_few_cells(results: Results) -> bool:
    return 0 < len(results.cells) <= _MOST_CELLS_IN_TABLES


def _needle_sets(given: Any) -> list[NeedleSet]:
    some = [given] if isinstance(given, NeedleSet | str | Path) else list(given)
    return [one if isinstance(one, NeedleSet) else load_needles(one) for one in some]


def _title(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{len(labels)} results"


def _asset(name: str) -> str:
    return files(__package__).joinpath(_ASSETS, name).read_text(encoding="utf-8")


def _template() -> Any:
    """The template; whatever it inserts is visible text, escaped."""
    from jinja2 import Environment, StrictUndefined

    from vniah.analysis.report.escaping import isolated

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["isolated"] = isolated
    return environment.from_string(_asset("report.html.jinja"))


def _visible(value: Any) -> Any:
    is_markup = hasattr(value, "__html__")
    return visible_text(value) if isinstance(value, str) and not is_markup else value


def _version() -> str:
    from vniah import __version__

    return __version__
