"""Tables of results as Markdown, LaTeX, CSV and JSON.

Names of models, needles and files come from outside: whatever means something in Markdown or LaTeX
is escaped, and what cannot be seen is written as an escape.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vniah.analysis.labels import like_these, result_labels, these
from vniah.analysis.markdown import escape_markdown
from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.statistics.summary import Summary, summarize
from vniah.analysis.table_layouts import Layout, layouts
from vniah.analysis.table_rows import table_rows
from vniah.errors import printable
from vniah.files import to_json
from vniah.options import TableFormat, TableKind
from vniah.options.approximation import Approximation
from vniah.results import Results

_IN_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\symbol{34}",
    "[": "{[}",  # at the beginning of a row, it would be an option of the line break before
    "]": "{]}",
    "*": "{*}",  # likewise
}


def format_results(
    runs: Sequence[Results],
    kind: TableKind,
    style: TableFormat,
    *,
    intervals: bool | None = None,
    confidence: float = 0.95,
) -> str:
    """A table of some results as text in a format, without a line end.

    Args:
        runs: runs or published tables.
        kind: what has a row, as in `vniah.analysis.table_rows.table`.
        style: ``"text"`` for the terminal; ``"markdown"`` and ``"latex"`` with two digits;
            ``"csv"`` and ``"json"`` with all digits.
        intervals: whether scores have their intervals behind them in text, Markdown and LaTeX; by
            default not in text.
        confidence: of the intervals.

    Raises:
        ResultsError: none of the results has such rows.
        InputError: the kind is not known.
    """
    rows = table_rows(runs, kind, confidence=confidence)
    if style == "csv":
        return format_csv(rows)
    if style == "json":
        return format_json(runs, kind, rows, confidence=confidence)
    has_intervals = style != "text" if intervals is None else intervals
    found = layouts(runs, kind, intervals=has_intervals, confidence=confidence)
    if style == "markdown":
        return "\n\n".join(map(format_markdown, found))
    if style == "latex":
        about = _estimand(runs, kind, confidence if has_intervals else None)
        return _LATEX_HEAD + "\n\n".join(format_latex(layout, about) for layout in found)
    return "\n\n".join(_with_title(layout, is_several=len(found) > 1) for layout in found)


def format_markdown(layout: Layout) -> str:
    """A table of GitHub's Markdown, with its notes as a list below it."""
    heading, *body = ([escape_markdown(text) for text in row] for row in layout.rows)
    rule = ["---", *["---:"] * (len(heading) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (heading, rule, *body)]
    title = [f"**{escape_markdown(layout.title)}**", ""] if layout.title else []
    notes = ["", *(f"- {escape_markdown(note)}" for note in layout.notes)] if layout.notes else []
    return "\n".join((*title, *lines, *notes))


def _estimand(runs: Sequence[Results], kind: TableKind, confidence: float | None) -> str:
    """What the numbers of a table are, and what their intervals are for, in one line."""
    text = f"Scores of {' or '.join(dict.fromkeys(map(these, runs)))}"
    if all(run.is_approximate for run in runs):
        text = f"Approximate scores{text.removeprefix('Scores')}"
    elif any(run.is_approximate for run in runs):
        text += ", approximate where that is said"
    if kind == "applied":
        text = "Scores without and with an intervention, and their paired difference"
    if kind == "controls":
        text = "Share of right answers of each control"
    if confidence is None:
        return text
    like = "this needle at other places" if kind == "needles" else like_these(runs)
    return f"{text}; {percent_of(confidence)} intervals for {like}"


def format_latex(layout: Layout, about: str = "") -> str:
    r"""A ``tabular`` with the rules of the package booktabs, with title and notes as comments.

    Its first line is ``about``, which says what the numbers are, over the whole width.

    It is to be put into a ``table`` with a caption of one's own.
    """
    heading, *body = (" & ".join(map(escape_latex, row)) + r" \\" for row in layout.rows)
    num = len(layout.rows[0])
    over = rf"\multicolumn{{{num}}}{{l}}{{{escape_latex(about)}}} \\"
    lines = [rf"\begin{{tabular}}{{l{'r' * (num - 1)}}}", r"\toprule"]
    lines += [*([over, r"\midrule"] if about else []), heading]
    lines += [r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    title = [f"% {printable(layout.title)}"] if layout.title else []
    return "\n".join((*title, *lines, *(f"% {printable(note)}" for note in layout.notes)))


def format_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows with a heading; what is not known is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().removesuffix("\n")


def format_json(
    runs: Sequence[Results],
    kind: TableKind,
    rows: Iterable[dict[str, Any]],
    *,
    confidence: float = 0.95,
) -> str:
    """The rows, and what is said of each result, as JSON in ASCII; null is what is not known."""
    has_approximate = any(results.is_approximate for results in runs)
    content = {
        "kind": kind,
        "confidence": confidence,
        "results": [
            _record(label, results, confidence, has_approximate)
            for label, results in zip(result_labels(runs), runs, strict=True)
        ],
        "rows": list(rows),
    }
    return json_text(content)


def json_text(content: Mapping[str, Any]) -> str:
    """JSON in ASCII: the terminal would escape what it cannot show, and not as JSON does."""
    return re.sub(r"[^\n -~]", _json_escape, to_json(content, indent=2).decode())


def _record(
    label: str, results: Results, confidence: float, has_approximate: bool
) -> dict[str, Any]:
    summary = summarize(results, confidence=confidence)
    length, estimate = summary.effective_length, summary.needles_like_these
    interval = estimate.interval if estimate else None
    done = sum(found.num_errors + (found.num_samples or 0) for found in results.cells)
    planned = done + results.num_pending if results.manifest else None
    return {
        "result": label,
        "name": results.name,
        "path": str(results.path),
        "axis": results.axis,
        "unit": results.unit,
        "is_published_table": not results.manifest,
        **({"approximate": results.is_approximate} if has_approximate else {}),
        "average": results.average,
        **({} if results.approximation is None else _corrected(results.approximation, summary)),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "num_needles": estimate.num_needles if estimate else None,
        "num_cells": results.num_scored_cells,
        "num_planned_cells": results.num_planned_cells,
        "num_planned_samples": planned,
        "num_pending": results.num_pending if results.manifest else None,
        "num_cells_with_errors": sum(found.num_errors > 0 for found in results.cells),
        "effective_length": {
            "threshold": length.threshold,
            "num_frames": length.num_frames,
            **({"at_most": length.at_most} if length.is_adaptive else {}),
            "low": length.low,
            "high": length.high,
            "has_interval": length.has_interval,
            "num_left_out": len(length.left_out),
            "left_out": list(length.left_out),
            "longest": length.measured[-1] if length.measured else None,
        },
        "summary": list(summary.lines),
    }


def _corrected(approximation: Approximation, summary: Summary) -> dict[str, Any]:
    """How far a result is approximate, and what its exactly computed samples say."""
    estimate, verified = summary.needles_like_these, summary.verification
    return {
        "corrected_average": None if estimate is None else estimate.mean,
        "approximation": approximation.record(),
        "verification": None if verified is None else verified.record(),
    }


def escape_latex(text: str) -> str:
    r"""The text in one line, set by LaTeX as it stands: ``"a\_b \& c"``."""
    escaped = "".join(_IN_LATEX.get(character, character) for character in printable(text))
    return re.sub(r"([-',])(?=\1)", r"\1{}", escaped)  # two would be a dash, or a quotation mark


def _with_title(layout: Layout, *, is_several: bool) -> str:
    return f"{printable(layout.title)}\n{layout.text}" if is_several else layout.text


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[k : k + 4]}" for k in range(0, len(units), 4))


_LATEX_HEAD = r"""% Needs \usepackage{booktabs}.
% Names in other scripts need lualatex or xelatex, and a font that has them.
"""
