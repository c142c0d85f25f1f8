"""A comparison as text, JSON, JUnit's XML and Markdown; also one of a run that is going on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from json import dumps
from typing import Any
from xml.etree import ElementTree

from vniah.analysis.compare.changes import CellChange, Finding, mean_scores
from vniah.analysis.compare.comparison import HEADING, Comparison
from vniah.analysis.compare.early import EarlyComparison
from vniah.analysis.compare.rules import Rules, cell_text
from vniah.analysis.markdown import escape_markdown
from vniah.errors import printable
from vniah.files import to_json
from vniah.grid import format_depth


def as_text(comparison: Comparison) -> str:
    """The table of changes, and the verdict in its last line."""
    lines = (*filter(None, [comparison.table()]), printable(comparison.summary()))
    return "\n".join(lines)


def as_json(comparison: Comparison) -> str:
    """One object: the verdict, each rule, and each compared cell."""
    before, after = mean_scores(comparison.changes)
    record: dict[str, Any] = {
        "passed": comparison.passed,
        "summary": comparison.summary(),
        "warning": comparison.warning or None,
        **({"approximate": True} if comparison.approximate else {}),
        "baseline": {"name": comparison.baseline, "average": before},
        "candidate": {"name": comparison.candidate, "average": after},
        "paired": comparison.is_paired,
        "num_left_out": comparison.num_left_out,
        "num_errors_as_wrong": comparison.num_forgiven,
        "rules": _rules(comparison.rules),
        "findings": _findings(comparison.findings),
        "cells": [_cell(change, comparison.axis) for change in comparison.changes],
    }
    return _in_ascii(record)


def as_junit(comparison: Comparison) -> str:
    """A test suite with a test case for each rule; a failure has the table of changes."""
    failed = [finding for finding in comparison.findings if not finding.passed]
    counts = {
        "tests": str(len(comparison.findings)),
        "failures": str(len(failed)),
        "errors": "0",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "vniah compare", **counts})
    names = _xml(f"{comparison.baseline} -> {comparison.candidate}")
    for finding in comparison.findings:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": names, "name": _case_name(finding.rule, finding.text)}
        )
        if not finding.passed:
            failure = ElementTree.SubElement(case, "failure", {"message": _xml(finding.text)})
            failure.text = _xml(f"{comparison.summary()}\n") + comparison.table()
    if comparison.warning:
        ElementTree.SubElement(suite, "system-err").text = _xml(comparison.warning)
    return _xml_text(root)


def as_markdown(comparison: Comparison) -> str:
    """A heading with the verdict, what came of each rule, and the table of changes."""
    verdict = "passed" if comparison.passed else "regression"
    before, after = mean_scores(comparison.changes)
    names = comparison.baseline, comparison.candidate
    lines = [
        f"### {verdict}: {' → '.join(map(escape_markdown, names))}",
        "",
        f"{'approximate ' * bool(comparison.approximate)}average {before:.4f} → {after:.4f}",
        "",
    ]
    for finding in comparison.findings:
        state = "passed" if finding.passed else "**failed**"
        lines.append(f"- `{finding.rule}` {state}: {escape_markdown(finding.text)}")
    if comparison.warning:
        lines += ["", f"Warning: {escape_markdown(comparison.warning)}"]
    if rows := comparison.rows():
        columns = (comparison.axis, *HEADING, "")
        lines += ["", f"| {' | '.join(columns)} |", f"|{'---:|' * len(columns)}"]
        lines += [f"| {' | '.join(row).replace('*', '**fails**')} |" for row in rows]
        lines += [f"\n{escape_markdown(line)}" for line in comparison.not_shown()]
    return "\n".join(lines)


def error_as_json(message: str) -> str:
    """One object for what could not be compared: ``passed`` is null."""
    return _in_ascii({"passed": None, "error": message})


def error_as_junit(message: str) -> str:
    """A test suite with one test case, which has an error and no failure."""
    counts = {"tests": "1", "failures": "0", "errors": "1"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "vniah compare", **counts})
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": "vniah compare", "name": "comparison"}
    )
    ElementTree.SubElement(case, "error", {"message": _xml(message)}).text = _xml(message)
    return _xml_text(root)


def error_as_markdown(message: str) -> str:
    """A heading, and why nothing is known."""
    return f"### not compared\n\n{escape_markdown(message)}"


ERROR_FORMATS: Mapping[str, Callable[[str], str]] = {
    "json": error_as_json,
    "junit": error_as_junit,
    "markdown": error_as_markdown,
}
"""What is printed in place of a comparison that cannot be made; as text there is only the error."""

FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "text": as_text,
    "json": as_json,
    "junit": as_junit,
    "markdown": as_markdown,
}
"""By the names of ``vniah compare --format``."""


def early_as_text(early: EarlyComparison) -> str:
    """The verdict of a run that is not complete, in one line."""
    return printable(early.summary())


def early_as_json(early: EarlyComparison) -> str:
    """One object: the verdict, what it is based on, and how much of the run there is."""
    test = early.test
    record: dict[str, Any] = {
        "verdict": early.verdict,
        "passed": {"passed": True, "regression": False}.get(early.verdict),
        "summary": early.summary(),
        "baseline": {"name": early.baseline},
        "candidate": {"name": early.candidate},
        "num_samples": early.num_done,
        "num_planned_samples": early.num_planned,
        "evidence": None if test is None else test.evidence,
        "num_looks": None if test is None else len(test.e_values),
        "findings": _findings(early.findings),
    }
    return _in_ascii(record)


def early_as_junit(early: EarlyComparison) -> str:
    """A test suite with one test case; where the verdict is not known yet, it is skipped."""
    failures, skipped = (str(int(early.verdict == one)) for one in ("regression", "undecided"))
    counts = {"tests": "1", "failures": failures, "errors": "0", "skipped": skipped}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "vniah compare", **counts})
    names = _xml(f"{early.baseline} -> {early.candidate}")
    case = ElementTree.SubElement(suite, "testcase", {"classname": names, "name": "stop-early"})
    kind = {"regression": "failure", "undecided": "skipped"}.get(early.verdict)
    if kind is not None:
        ElementTree.SubElement(case, kind, {"message": _xml(early.summary())})
    return _xml_text(root)


def early_as_markdown(early: EarlyComparison) -> str:
    """A heading with the verdict, and the sentence about it."""
    names = f"{escape_markdown(early.baseline)} → {escape_markdown(early.candidate)}"
    return f"### {early.verdict}: {names}\n\n{escape_markdown(early.summary())}"


EARLY_FORMATS: Mapping[str, Callable[[EarlyComparison], str]] = {
    "text": early_as_text,
    "json": early_as_json,
    "junit": early_as_junit,
    "markdown": early_as_markdown,
}
"""The same of a run that is not complete, for ``vniah compare --stop-early``."""


def _findings(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "rule": finding.rule,
            "passed": finding.passed,
            "text": finding.text,
            "cells": [cell_text(cell) for cell in finding.cells],
            "needles": list(finding.needles),
        }
        for finding in findings
    ]


def _in_ascii(record: Mapping[str, Any]) -> str:
    """JSON in ASCII: no terminal or stream can make it anything else than the same JSON."""
    text = to_json(record, indent=2).decode().replace("\x7f", "\\u007f")
    return "".join(
        sign if sign.isascii() and sign != "\x7f" else dumps(sign)[1:-1] for sign in text
    )


def _rules(rules: Rules) -> dict[str, Any]:
    found = asdict(rules)
    found["floors"] = {str(length): floor for length, floor in rules.floors.items()}
    found["keep_cells"] = [cell_text(cell) for cell in rules.keep_cells]
    if not rules.allow_approximate:
        del found["allow_approximate"]
    return found


def _cell(change: CellChange, axis: str) -> dict[str, Any]:
    return {
        f"num_{axis}": change.cell.num_frames,
        "depth": format_depth(change.cell.depth),
        "before": float(change.before),
        "num_before": change.num_before,
        "after": float(change.after),
        "num_after": change.num_after,
        "change": float(-change.drop),
        "p_value": change.p_value,
    }


def _case_name(rule: str, text: str) -> str:
    """The rule; of floors, of which there may be several, with the length that is meant."""
    return rule if rule != "floors" else _xml(f"{rule}: {text.partition(' is ')[0]}")


def _xml(text: str) -> str:
    """A text as XML can hold it: what cannot be seen is escaped."""
    return "\n".join(map(printable, text.split("\n")))


def _xml_text(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, "us-ascii", xml_declaration=True)
    return text.decode("ascii")
