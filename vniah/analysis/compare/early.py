"""Compares a run that is going on with a baseline: may it stop, because the verdict is known?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from vniah.analysis.compare.changes import Finding
from vniah.analysis.compare.comparison import Comparison, compare_by
from vniah.analysis.compare.findings import changes_of, findings_of
from vniah.analysis.compare.levels import EARLY_SHARE, left_by_early, why_too_few_to_stop
from vniah.analysis.compare.pairing import Pair, load, pair_runs, require_complete
from vniah.analysis.compare.rules import SIGNIFICANCE, Rules, Thresholds, make_rules
from vniah.analysis.compare.significance import GateTests, losses_of
from vniah.errors import CannotCompareError, counted, short_repr
from vniah.grid import Cell
from vniah.results import Results, SampleResult
from vniah.results.plan import planned_test_ids

if TYPE_CHECKING:
    from vniah.analysis.statistics.sequential import EarlyTest

Verdict = Literal["passed", "regression", "undecided"]


@dataclass(frozen=True)
class EarlyComparison:
    """What can be said of a run that need not be complete.

    Attributes:
        baseline: the name of the baseline.
        candidate: the name of the candidate.
        verdict: ``"undecided"`` where the samples that are missing may still change it.
        findings: what is known for certain, whatever the missing samples give; of an undecided run
            what is known so far.
        num_done: the samples of the test that have a score, of those that are planned.
        num_planned: the samples of the test that are planned.
        comparison: the whole comparison, if the run is complete; else None.
        test: the evidence of a fall so far; None without the rule ``significance``.
    """

    baseline: str
    candidate: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    num_done: int
    num_planned: int
    comparison: Comparison | None = None
    test: "EarlyTest | None" = None

    def __repr__(self) -> str:
        runs = short_repr(f"{self.baseline} -> {self.candidate}")
        done = f"{self.num_done:,} of {counted(self.num_planned, 'sample')}"
        return f"<EarlyComparison {runs}: {self.verdict} after {done}>"

    @property
    def is_decided(self) -> bool:
        """Whether no sample needs to be run any more."""
        return self.verdict != "undecided"

    def summary(self) -> str:
        """One sentence: the verdict, and what it is based on; without an average."""
        if self.comparison is not None:
            return self.comparison.summary()
        wanted = self.verdict != "regression"
        shown = [finding.text for finding in self.findings if finding.passed == wanted]
        texts = "; ".join(shown)
        done = f"{self.num_done:,} of {counted(self.num_planned, 'sample')}"
        if self.verdict == "undecided":
            return (
                f"undecided after {done}{texts and f': {texts}'}; go on "
                f"({self.baseline} -> {self.candidate})"
            )
        return (
            f"{self.verdict} after {done}: {texts} ({self.baseline} -> {self.candidate}). A run "
            "that is stopped here has no average to quote, for its scores decided when it stopped"
        )


def compare_early(
    baseline: Results | str | Path,
    candidate: Results | str | Path,
    *,
    rules: str | Path | None = None,
    **thresholds: Unpack[Thresholds],
) -> EarlyComparison:
    """Compares a run that may still be going on with a baseline; may be called again and again.

    The rule ``significance`` is about the average here: the cells of the baseline are looked at in
    up to ten parts (`vniah.analysis.statistics.sequential.parts_of`), each as soon as it is
    complete, and the evidence of a fall adds up. Stopping early has a quarter of the significance,
    and the tests of the complete run have the rest. Other rules are decided where the missing
    samples cannot change what comes of them, were they all right or all wrong. Samples that could
    not be run count as missing, for they are run again.

    Args:
        baseline: a complete run, or its path.
        candidate: the run to judge, on the same samples, or its path.
        rules: as in `vniah.compare`.
        **thresholds: as in `vniah.compare`.

    Raises:
        InputError: as in `vniah.compare`.
        CannotCompareError: as in `vniah.compare`, but the candidate need not be complete; or the
            two have other needles, or so few that nothing may be known of the complete run either.
    """
    asked = make_rules(rules, thresholds)
    before, after = load(baseline, "baseline"), load(candidate, "candidate")
    if after.is_finished:
        return _of_complete(before, after, asked)
    missing = set(planned_test_ids(after.manifest)) - {
        sample.sample_id for sample in after.samples if sample.error is None
    }
    best, worst = (_filled(before, after, missing, correct=right) for right in (True, False))
    pair = pair_runs(before, best, asked)
    if missing and not pair.is_paired:
        raise CannotCompareError(
            f"{after.path} has other needles than the baseline {before.path}: only runs with the "
            "same needles can be compared before they are complete"
        )
    num_planned = len(best.samples)
    open_ids = _open_ids(pair, missing)
    if not open_ids and (early := _of_what_is_compared(before, best, worst, asked)) is not None:
        return replace(early, num_done=num_planned - len(missing))
    broken = [finding for finding in _certain(asked, pair, "right") if not finding.passed]
    held = list(_certain(asked, pair_runs(before, worst, asked), "wrong"))
    verdict: Verdict = "regression" if broken else "undecided"
    findings, test = broken, None
    if asked.significance is not None:
        test = _test(pair, open_ids)
        num_failed = sum(sample.sample_id in open_ids for sample in after.samples)
        found = _of_significance(asked.significance, test, num_failed)
        # Were all missing samples right, the tests of these needles would find a fall at the end.
        final = left_by_early(asked.significance)
        lost = [
            replace(one, text=f"{one.text}, were all missing samples right")
            for one in losses_of(final, asked.significant_drop, pair)
            if not one.passed
        ]
        if lost:
            verdict, broken = "regression", [*broken, *lost]
        findings = [found, *broken]
        verdict = verdict if found.passed else "regression"
        if verdict == "undecided":
            _require_enough_needles(pair.before, asked.significance)
    elif not broken and all(finding.passed for finding in held):
        verdict, findings = "passed", held
    return EarlyComparison(
        before.named(before.name),
        after.named(after.name),
        verdict,
        tuple(findings),
        num_planned - len(missing),
        num_planned,
        test=test,
    )


def require_can_stop_early(baseline: Results) -> None:
    """Requires that the default gate judges any run like the baseline that may stop early.

    Raises:
        CannotCompareError: it is not complete, is a published table, or is approximate; it has too
            few needles, or its samples share them.
    """
    require_complete("baseline", baseline)
    if (found := baseline.approximation) is not None:
        raise CannotCompareError(
            f"the baseline {baseline.path} is approximate ({found.how}), and a run that may stop "
            "early is exact: give an exact baseline"
        )
    if not baseline.manifest:
        raise CannotCompareError(
            f"the baseline {baseline.path} is a published table, and a run that may stop early is "
            "compared sample by sample: give the folder of a run"
        )
    _require_enough_needles(baseline, SIGNIFICANCE)


def _require_enough_needles(baseline: Results, significance: float) -> None:
    why = why_too_few_to_stop(significance, _num_needles(baseline))
    if why is not None:
        raise CannotCompareError(why)


def _num_needles(baseline: Results) -> int:
    from vniah.analysis.statistics.table import sample_table

    table = sample_table(baseline)
    if not table.knows_needles:
        raise CannotCompareError(
            "samples of this task share needles, so it cannot be told early from chance whether it "
            "fell; give max_drop (--max-drop) in place of significance, or measure the whole run "
            "without --stop-early"
        )
    return len(table.needles)


def _of_complete(before: Results, after: Results, rules: Rules) -> EarlyComparison:
    significance = rules.significance
    if significance is not None:
        rules = replace(rules, significance=left_by_early(significance))
    comparison = compare_by(before, after, rules, early_of=significance)
    num = len(after.samples)
    return EarlyComparison(
        before.named(before.name),
        after.named(after.name),
        "passed" if comparison.passed else "regression",
        comparison.findings,
        num,
        num,
        comparison,
    )


def _of_what_is_compared(
    before: Results, best: Results, worst: Results, rules: Rules
) -> EarlyComparison | None:
    """The comparison where all that is compared is there: what is missing are controls, samples
    that the baseline could not run, and cells that it does not have. None if these can change what
    comes of the rules about the candidate alone, or if the two cannot be compared: that is said
    when the run is complete, so that nothing is left unmeasured for it.
    """
    try:
        found = _of_complete(before, best, rules)
    except CannotCompareError:
        return None
    is_about_candidate = (
        rules.min_mean is not None or rules.floors or rules.min_effective_length is not None
    )
    if is_about_candidate and _of_complete(before, worst, rules).verdict != found.verdict:
        return None
    return found


def _open_ids(pair: Pair, missing: set[str]) -> set[str]:
    """The missing samples that are compared: not those that the baseline could not run either."""
    cells = {old.cell for old, _ in pair.cells}
    return {
        sample.sample_id
        for sample in pair.after.samples
        if sample.sample_id in missing and sample.cell in cells
    }


def _filled(before: Results, after: Results, missing: set[str], *, correct: bool) -> Results:
    """The candidate as if it were complete, its missing samples all right or wrong; no controls."""
    known = {sample.sample_id: sample for sample in before.samples}
    at: Mapping[str, Cell] = {}
    if not missing <= known.keys() and after.grid is not None:
        at = {cell.prefix: cell for cell in after.grid.cells}

    def samples() -> Iterator[SampleResult]:
        yield from (sample for sample in after.samples if sample.sample_id not in missing)
        for sample_id in sorted(missing):
            if sample_id in known:
                yield replace(known[sample_id], correct=correct, error=None)
                continue
            places = ("/".join(sample_id.split("/", 3)[:number]) + "/" for number in (2, 3))
            cell = next(at[place] for place in places if place in at)
            yield SampleResult(sample_id, before.manifest["task"], cell, "", "", correct=correct)

    filled = tuple(samples())
    ids = " ".join(sample.sample_id for sample in filled)
    manifest = {**after.manifest, "controls": [], "sample_ids": ids}
    return replace(after, manifest=manifest, samples=filled, control_samples=())


def _certain(rules: Rules, pair: Pair, outcome: str) -> Iterator[Finding]:
    """What comes of all rules that right answers can only help, with one outcome of the missing."""
    others = replace(rules, significance=None)
    none = GateTests()
    for finding in findings_of(others, pair, changes_of(pair, none), none):
        text = f"{finding.text}, were all missing samples {outcome}"
        yield replace(finding, text=text)


def _test(pair: Pair, open_ids: set[str]) -> "EarlyTest":
    """The evidence so far.

    Args:
        pair: the runs, where what is missing of the candidate is filled.
        open_ids: the samples that are missing, and are compared.
    """
    from vniah.analysis.statistics.paired import paired_table
    from vniah.analysis.statistics.sequential import early_test, parts_of

    _num_needles(pair.before)
    cells = [old.cell for old, _ in pair.cells]
    is_whole = set(cells) - {one.cell for one in pair.after.samples if one.sample_id in open_ids}
    done = replace(
        pair.after, samples=tuple(one for one in pair.after.samples if one.cell in is_whole)
    )
    return early_test(paired_table(pair.before, done), parts_of(cells))


def _of_significance(level: float, test: "EarlyTest", num_failed: int) -> Finding:
    """What the evidence says; ``num_failed`` are open samples that the candidate could not run."""
    own = level * EARLY_SHARE
    is_fall = test.is_fall(own)
    text = (
        f"{'a' if is_fall else 'no'} significant fall of the average so far (evidence "
        f"{test.evidence:.3g}, {1 / own:.4g} is enough; {len(test.e_values)} of "
        f"{counted(test.num_looks, 'look')}, {counted(test.num_needles, 'needle')})"
    )
    if not is_fall and test.e_values and not test.can_find(own):
        text += ", which are too few needles to find one before the run is complete"
    if not is_fall and num_failed and len(test.e_values) < test.num_looks:
        text += (
            f"; {counted(num_failed, 'sample')} that the candidate could not run, and the baseline "
            "could, must be run again before later looks count"
        )
    return Finding("significance", not is_fall, text)
