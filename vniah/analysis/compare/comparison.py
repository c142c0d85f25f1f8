"""Compares a run with an earlier one, and says whether it holds the rules."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from vniah.analysis.compare.changes import CellChange, Finding, mean_scores
from vniah.analysis.compare.findings import changes_of, findings_of
from vniah.analysis.compare.pairing import about_approximate, pair_runs
from vniah.analysis.compare.rules import Rules, Thresholds, make_rules
from vniah.analysis.compare.significance import tests_of
from vniah.analysis.tables import format_columns
from vniah.errors import counted, printable, short_repr
from vniah.grid import format_depth
from vniah.results import Axis, Results

MOST_ROWS = 20
"""How many cells a table shows of each direction."""

HEADING = ("depth", "before", "n", "after", "n", "change", "p")
"""The columns of a table of changes, behind the number of frames or tokens."""


@dataclass(frozen=True)
class Comparison:
    """A candidate compared with a baseline.

    Attributes:
        baseline: the name of the baseline.
        candidate: the name of the candidate.
        rules: what was asked.
        findings: what came of each rule that was asked.
        changes: every cell of the baseline that has a score, by number of frames, then depth.
        axis: what `Cell.num_frames` counts, as in `Results`.
        is_paired: whether both have the same samples; else they have other needles.
        num_left_out: samples that are not compared, because the baseline could not run them.
        num_blank: cells that are not compared, because the baseline has only such samples there.
        num_forgiven: samples that only the candidate could not run, which count as wrong.
        num_apart: measured cells of the baseline that the candidate lacks, as one of the two is
            adaptive; None if none is.
        approximate: which of the two are approximate, in a sentence; empty if none is.
    """

    baseline: str
    candidate: str
    rules: Rules
    findings: tuple[Finding, ...]
    changes: tuple[CellChange, ...]
    axis: Axis = "frames"
    is_paired: bool = True
    num_left_out: int = 0
    num_blank: int = 0
    num_forgiven: int = 0
    num_apart: int | None = None
    approximate: str = ""

    def __repr__(self) -> str:
        runs = short_repr(f"{self.baseline} -> {self.candidate}")
        verdict = "passed" if self.passed else "regression"
        cells = f"{counted(len(self.changes), 'cell')}, {len(self.fallen):,} fell"
        return f"<Comparison {runs}: {verdict}, {cells}, {len(self.risen):,} rose>"

    @property
    def warning(self) -> str:
        """What the comparison leaves out, in one line; empty if nothing.

        That runs are approximate comes first.
        """
        parts = [self.approximate] if self.approximate else []
        if self.num_apart is not None:
            parts.append(
                f"of adaptive runs the {counted(len(self.changes), 'cell')} that both measured are "
                f"compared, which were chosen by their scores; {counted(self.num_apart, 'cell')} "
                "of the baseline are left out"
            )
        if self.num_left_out:
            blank = f" and with them {counted(self.num_blank, 'cell')}" if self.num_blank else ""
            runs = "both runs" if self.is_paired else "the baseline"
            parts.append(
                f"left out of {runs}: {counted(self.num_left_out, 'sample')}{blank}, which the "
                "baseline could not run; both averages are over the others. Run the baseline again "
                "to compare everything"
            )
        if self.num_forgiven:
            parts.append(
                f"{counted(self.num_forgiven, 'sample')} of the candidate could not be run and "
                "count as wrong"
            )
        if not self.is_paired:
            parts.append(
                "the two runs have other needles: they are compared as two sets of needles like "
                "these, which finds less than the same needles would"
            )
        return ". ".join(parts)

    @property
    def fallen(self) -> tuple[CellChange, ...]:
        """The cells whose score fell, the worst first."""
        fallen = (change for change in self.changes if change.drop > 0)
        return tuple(sorted(fallen, key=lambda change: (-change.drop, change.cell)))

    @property
    def risen(self) -> tuple[CellChange, ...]:
        """The cells whose score rose, the best first."""
        risen = (change for change in self.changes if change.drop < 0)
        return tuple(sorted(risen, key=lambda change: (change.drop, change.cell)))

    @property
    def passed(self) -> bool:
        """True if the candidate holds every rule."""
        return all(finding.passed for finding in self.findings)

    def summary(self) -> str:
        """One sentence: the verdict, what came of the rules, and both averages."""
        verdict = "passed" if self.passed else "regression"
        shown = [finding for finding in self.findings if finding.passed == self.passed]
        before, after = mean_scores(self.changes)
        whole = counted(len(self.changes) + self.num_blank, "cell")
        over = f" over {len(self.changes):,} of {whole}" * bool(self.num_blank)
        average = f"{'approximate ' * bool(self.approximate)}average"
        return (
            f"{verdict}: {'; '.join(finding.text for finding in shown)}, {average} {before:.4f} -> "
            f"{after:.4f}{over} ({self.baseline} -> {self.candidate})"
        )

    def table(self) -> str:
        """A table of the cells that fell and of those that rose; empty if none did.

        A star is behind the cells that break a rule. The last lines count what is not shown, and
        say by which test a cell has its star if not by its own.
        """
        rows = self.rows()
        if not rows:
            return ""
        return "\n".join((format_columns(((self.axis, *HEADING, ""), *rows)), *self.not_shown()))

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table as texts, at most 20 of each direction."""
        broken = {cell for finding in self.findings if not finding.passed for cell in finding.cells}
        return [
            (
                f"{change.cell.num_frames:,}",
                format_depth(change.cell.depth),
                f"{float(change.before):.3f}",
                _sample_count(change.num_before),
                f"{float(change.after):.3f}",
                _sample_count(change.num_after),
                f"{float(-change.drop):+.3f}",
                "." if change.p_value is None else f"{change.p_value:.2g}",
                "*" if change.cell in broken else "",
            )
            for change in (*self.fallen[:MOST_ROWS], *self.risen[:MOST_ROWS])
        ]

    def not_shown(self) -> list[str]:
        """How many cells of either direction the table leaves out, and notes, in a line each."""
        lines = [
            f"and {counted(len(changes) - MOST_ROWS, 'cell')} more that {did}"
            for changes, did in ((self.fallen, "fell"), (self.risen, "rose"))
            if len(changes) > MOST_ROWS
        ]
        return lines + [finding.note for finding in self.findings if finding.note]


def compare(
    baseline: Results | str | Path,
    candidate: Results | str | Path,
    *,
    rules: str | Path | None = None,
    **thresholds: Unpack[Thresholds],
) -> Comparison:
    """Compares a run with a baseline, or a published table with another one, cell by cell.

    Two runs may differ in the model and in how it was run, and the candidate may have more cells.
    What is asked must be the same: the task, the haystack with its sampling and decoder, the
    protocol, and the length at which generated answers are cut off. Samples that the baseline could
    not run are left out of both; `Comparison.warning` counts them. Runs that have no needle in
    common are compared as two sets of needles, which `Comparison.is_paired` says. An approximate
    run is compared with one that is approximate in the same way, and with others only by
    ``allow_approximate=True``; `Comparison.warning` says so.

    Args:
        baseline: the earlier results, or their path.
        candidate: the results to judge, or their path.
        rules: a file of rules in TOML.
        **thresholds: rules by name, such as ``max_drop=0.1``, as in
            `vniah.analysis.compare.Rules`; they replace those of the file. Without any rule the
            candidate may not be significantly worse: ``significance=0.005``.

    Warns:
        UserWarning: something is left out, counts as wrong, is not paired, or is approximate
            (`Comparison.warning`).

    Raises:
        InputError: a rule cannot be meant, or names what was not measured.
        CannotCompareError: one of the two cannot be read or is not complete; the candidate lacks a
            cell of the baseline, or has an error where the baseline has none; a fall cannot be told
            from chance with so few needles; or the two do not measure the same thing, and the
            message names the field and both values.
    """
    comparison = compare_by(baseline, candidate, make_rules(rules, thresholds))
    if comparison.warning:
        warnings.warn(comparison.warning, stacklevel=2)
    return comparison


def compare_by(
    baseline: Results | str | Path,
    candidate: Results | str | Path,
    asked: Rules,
    *,
    early_of: float | None = None,
) -> Comparison:
    """The same by rules that are made already, without a Python warning.

    For callers that show `Comparison.warning` themselves. ``early_of`` is the significance that was
    asked, where stopping early leaves that of the rules.
    """
    pair = pair_runs(baseline, candidate, asked)
    tests = tests_of(pair)
    changes = changes_of(pair, tests)
    return Comparison(
        pair.before.named(pair.before.name),
        pair.after.named(pair.after.name),
        asked,
        findings=tuple(findings_of(asked, pair, changes, tests, early_of)),
        changes=changes,
        axis=pair.before.axis,
        is_paired=pair.is_paired,
        num_left_out=pair.num_left_out,
        num_blank=pair.num_blank,
        num_forgiven=pair.num_forgiven,
        num_apart=pair.num_apart,
        approximate=about_approximate(pair.before, pair.after),
    )


def assert_no_regression(
    candidate: Results | str | Path,
    baseline: Results | str | Path,
    *,
    rules: str | Path | None = None,
    **thresholds: Unpack[Thresholds],
) -> None:
    """Raises an `AssertionError` with the table of changes if a run is worse than its baseline.

    For tests:

    >>> def test_the_model_still_finds_needles():
    ...     vniah.assert_no_regression("results/candidate", "results/baseline", max_drop=0.2)

    Args:
        candidate: the results to judge, or their path. It comes first, as in other assertions.
        baseline: the earlier results, or their path.
        rules: as in `vniah.compare`.
        **thresholds: as in `vniah.compare`.

    Warns:
        UserWarning: as in `vniah.compare`, also of a candidate that holds the rules.

    Raises:
        AssertionError: the candidate breaks a rule.
        InputError: as in `vniah.compare`.
        CannotCompareError: as in `vniah.compare`.
    """
    comparison = compare_by(baseline, candidate, make_rules(rules, thresholds))
    if not comparison.passed:
        warning = f"warning: {comparison.warning}" if comparison.warning else ""
        lines = (comparison.summary(), *comparison.table().splitlines(), warning)
        raise AssertionError("\n".join(map(printable, filter(None, lines))))
    if comparison.warning:
        warnings.warn(comparison.warning, stacklevel=2)


def _sample_count(number: int | None) -> str:
    return "?" if number is None else str(number)
