"""The regression gate: is a run as good as an earlier one, cell by cell?"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from vniah.analysis.statistics import exact_score
from vniah.analysis.tables import format_columns
from vniah.errors import CannotCompareError, InputError, ResultsError, counted, short_repr
from vniah.grid import Cell, format_depth
from vniah.results import CellScore, Results, flatten, load_results

# Names that do not change what is measured: the sha256 identifies the haystack.
_LABELS = frozenset({"haystack.name"})

# Compared only if both manifests have it: runs of chat models do not.
_CUT_OFF = "scorer.max_new_tokens"


@dataclass(frozen=True)
class CellChange:
    """The scores of one cell in both runs.

    Attributes:
        cell: the cell.
        before: its score in the baseline, exact, in [0, 1].
        after: its score in the candidate, exact, in [0, 1].
        num_before: the number of samples behind `before`; None in a published table, where it is
            not known.
        num_after: the number of samples behind `after`; None in a published table.
    """

    cell: Cell
    before: Fraction
    after: Fraction
    num_before: int | None
    num_after: int | None

    @property
    def drop(self) -> Fraction:
        """How far the score fell; negative if it rose."""
        return self.before - self.after


@dataclass(frozen=True)
class Comparison:
    """A candidate compared with a baseline.

    Attributes:
        baseline: the name of the baseline.
        candidate: the name of the candidate.
        max_drop: the largest drop of a cell's score that is accepted, in [0, 1].
        changes: every cell of the baseline that has a score, by number of frames, then depth.
        axis: what `Cell.num_frames` counts, as in `Results`.
        num_left_out: samples that are not compared, because the baseline could not run them.
        num_blank: cells that are not compared, because the baseline has only such samples there.
    """

    baseline: str
    candidate: str
    max_drop: float
    changes: tuple[CellChange, ...]
    axis: Literal["frames", "tokens"] = "frames"
    num_left_out: int = 0
    num_blank: int = 0

    @property
    def warning(self) -> str:
        """What the comparison leaves out, in one sentence; empty if nothing."""
        if not self.num_left_out:
            return ""
        blank = f" and with them {counted(self.num_blank, 'cell')}" if self.num_blank else ""
        return (
            f"left out of both runs: {counted(self.num_left_out, 'sample')}{blank}, which the "
            "baseline could not run; both averages are over the others. Run the baseline again to "
            "compare everything"
        )

    @property
    def fallen(self) -> tuple[CellChange, ...]:
        """The cells whose score fell by more than `max_drop`, the worst first."""
        allowed = Fraction(str(self.max_drop))
        too_low = [change for change in self.changes if change.drop > allowed]
        return tuple(sorted(too_low, key=lambda change: (-change.drop, change.cell)))

    @property
    def passed(self) -> bool:
        """True if no cell fell by more than `max_drop`."""
        return not self.fallen

    def summary(self) -> str:
        """One sentence: the verdict, how many cells fell, and both averages."""
        fallen, num_cells = len(self.fallen), len(self.changes)
        total = counted(num_cells, "cell")
        before = sum(change.before for change in self.changes) / len(self.changes)
        after = sum(change.after for change in self.changes) / len(self.changes)
        verdict = (
            f"passed: none of {total} fell"
            if self.passed
            else f"regression: {fallen} of {total} fell"
        )
        whole = counted(num_cells + self.num_blank, "cell")
        over = f" over {num_cells:,} of {whole}" * bool(self.num_blank)
        return (
            f"{verdict} by more than {self.max_drop:g}, average {float(before):.4f} -> "
            f"{float(after):.4f}{over} ({self.baseline} -> {self.candidate})"
        )

    def table(self) -> str:
        """A table of the cells that fell by more than `max_drop`; empty if none did."""
        if self.passed:
            return ""
        rows: list[tuple[str, ...]] = [(self.axis, "depth", "before", "n", "after", "n", "change")]
        for change in self.fallen:
            rows.append(
                (
                    f"{change.cell.num_frames:,}",
                    format_depth(change.cell.depth),
                    f"{float(change.before):.3f}",
                    _sample_count(change.num_before),
                    f"{float(change.after):.3f}",
                    _sample_count(change.num_after),
                    f"{float(-change.drop):+.3f}",
                )
            )
        return format_columns(rows)


def compare(
    baseline: Results | str | Path, candidate: Results | str | Path, *, max_drop: float = 0.0
) -> Comparison:
    """Compares a run with a baseline, or a published table with another one, cell by cell.

    Two runs may differ in the model and in how it was run, and the candidate may have more cells.
    What is asked must be the same: the task, the haystack with its sampling and decoder, the
    protocol, the needles, and the length at which generated answers are cut off. Samples that the
    baseline could not run are left out of both; `Comparison.warning` counts them.

    Args:
        baseline: the earlier results, or their path.
        candidate: the results to judge, or their path.
        max_drop: the largest drop of a cell's score that is accepted, in [0, 1].

    Raises:
        InputError: ``max_drop`` is not in [0, 1].
        CannotCompareError: one of the two cannot be read or is not complete; the candidate lacks a
            cell of the baseline, or has an error where the baseline has none; or the two do not
            measure the same thing, and the message names the field and both values.
    """
    if not 0 <= max_drop <= 1:
        raise InputError(f"max_drop must be between 0 and 1, got {max_drop}: write 0.05 for 5 %")
    before, after = _load(baseline, "baseline"), _load(candidate, "candidate")
    _require_same_measure(before, after)
    for role, results in (("baseline", before), ("candidate", after)):
        _require_complete(role, results)
    pairs = tuple(_pair_cells(before, after))
    _require_same_samples(before, after)
    _require_no_new_errors(before, after)
    left_out = {sample.sample_id for sample in before.samples if sample.error is not None}
    if left_out:
        pairs = tuple(_pair_cells(_without(before, left_out), _without(after, left_out)))
    if not pairs:
        raise CannotCompareError(
            f"the baseline {before.path} has no cell with a score; run it again"
        )
    return Comparison(
        before.name,
        after.name,
        max_drop,
        changes=tuple(_cell_change(old, new) for old, new in pairs),
        axis=before.axis,
        num_left_out=len(left_out),
        num_blank=len(before.cells) - len(pairs),
    )


def _without(results: Results, left_out: Collection[str]) -> Results:
    """The results without some samples, so that both runs have the same ones in each cell."""
    return replace(
        results,
        samples=tuple(sample for sample in results.samples if sample.sample_id not in left_out),
    )


def _load(results: Results | str | Path, role: str) -> Results:
    if isinstance(results, Results):
        return results
    try:
        return load_results(results)
    except (ResultsError, OSError) as error:
        raise CannotCompareError(f"the {role} cannot be read: {error}") from error


def _require_same_measure(before: Results, after: Results) -> None:
    """Raises `CannotCompareError` that names the first field in which the two differ."""
    if bool(before.manifest) != bool(after.manifest):
        table = after if before.manifest else before
        raise CannotCompareError(
            f"{table.path} is a published table, which does not say on which haystack and needles "
            "it was measured: compare a run with a run, or a table with a table"
        )
    old, new = _measure(before), _measure(after)
    if not (old.get(_CUT_OFF) and new.get(_CUT_OFF)):
        old, new = ({k: v for k, v in m.items() if k != _CUT_OFF} for m in (old, new))
    for field in dict.fromkeys((*old, *new)):
        if old.get(field) != new.get(field):
            raise CannotCompareError(
                f"the runs differ in {field}: {short_repr(old.get(field))} in the baseline, "
                f"{short_repr(new.get(field))} in the candidate; run the candidate with the same"
            )


def _measure(results: Results) -> dict[str, Any]:
    """The fields of a run that have to be equal in both, by name."""
    if not results.manifest:
        return {"axis": results.axis}
    manifest = results.manifest
    needles = manifest.get("needles", {})
    fields = {
        "task": manifest.get("task"),
        **flatten({name: manifest.get(name, {}) for name in ("haystack", "protocol")}),
        **flatten({"task_details.settings": results.details.get("settings", {})}),
        "needles.sha256": needles.get("sha256"),
        "needles.declared_sha256": needles.get("declared_sha256"),
        "needles.ids": sorted(needles.get("ids", ())),
        _CUT_OFF: manifest.get("scorer", {}).get("max_new_tokens"),
    }
    return {name: value for name, value in fields.items() if name not in _LABELS}


def _require_complete(role: str, results: Results) -> None:
    if results.is_complete:
        return
    raise CannotCompareError(
        f"the {role} {results.path} is not complete: {results.num_done} of "
        f"{results.num_planned} samples; run it again to go on"
    )


def _pair_cells(before: Results, after: Results) -> Iterator[tuple[CellScore, CellScore]]:
    """Every cell of the baseline that has a score, with the same one of the candidate."""
    candidates = {score.cell: score for score in after.cells}
    for old in before.cells:
        if old.score is None:
            continue
        new = candidates.get(old.cell)
        if new is None or new.score is None:
            where = f"{old.cell.num_frames:,} {before.axis}, depth {format_depth(old.cell.depth)}"
            lack = "is not in" if new is None else "has only errors in"
            raise CannotCompareError(
                f"the cell of {where} {lack} the candidate {after.path}; "
                "run the candidate on every cell of the baseline"
            )
        yield old, new


def _require_same_samples(before: Results, after: Results) -> None:
    """Requires that the cells of the baseline have the same samples in both runs."""
    cells = {sample.cell for sample in before.samples}
    old = {sample.sample_id for sample in before.samples}
    new = {sample.sample_id for sample in after.samples if sample.cell in cells}
    if differing := sorted(old ^ new):
        where = "baseline" if differing[0] in old else "candidate"
        raise CannotCompareError(
            f"only the {where} has the sample {differing[0]}; run both with the same task and "
            "needles"
        )


def _require_no_new_errors(before: Results, after: Results) -> None:
    """Requires no errors but those of the baseline, because a mean leaves errors out."""
    run_before = {sample.sample_id for sample in before.samples if sample.error is None}
    for sample in after.samples:
        if sample.error is not None and sample.sample_id in run_before:
            raise CannotCompareError(
                f"the candidate {after.path} could not run the sample {sample.sample_id}, which "
                f"the baseline could: {sample.error}. Run it again to try once more"
            )


def _cell_change(old: CellScore, new: CellScore) -> CellChange:
    before, after = exact_score(old), exact_score(new)
    assert before is not None and after is not None
    return CellChange(old.cell, before, after, old.num_samples, new.num_samples)


def _sample_count(number: int | None) -> str:
    return "?" if number is None else str(number)
