"""The default gate: is there a significant fall, of needles like these or of these needles?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from vniah.analysis.compare.changes import CellChange, Finding, cells_of, mean_scores
from vniah.analysis.compare.common import inside
from vniah.analysis.compare.levels import (
    level_of_each,
    share_of_early,
    what_it_takes,
    why_too_few_to_stop,
)
from vniah.analysis.compare.pairing import Pair
from vniah.analysis.compare.rules import SIGNIFICANT_DROP, Rules
from vniah.errors import CannotCompareError, counted
from vniah.results import Results

if TYPE_CHECKING:
    from vniah.analysis.statistics.falls import FallTests
    from vniah.analysis.statistics.losses import LossTests, NeedleChange

_MOST_NAMED = 5


@dataclass(frozen=True)
class GateTests:
    """All tests of two runs.

    Attributes:
        falls: for needles like these; None if nothing changed or the needles are not known.
        losses: for these needles; None if nothing changed, or the runs have other needles.
    """

    falls: "FallTests | None" = None
    losses: "LossTests | None" = None

    def is_fall(self, significance: float, significant_drop: float = SIGNIFICANT_DROP) -> bool:
        """Whether one of the tests finds a fall, with a false alarm at most this often."""
        each = level_of_each(significance, is_paired=self.losses is not None)
        if self.falls is not None and self.falls.is_fall(each):
            return True
        losses = self.losses
        return losses is not None and (
            losses.are_more_lost(each) or losses.is_drop(each, significant_drop)
        )


def tests_of(pair: Pair) -> GateTests:
    """The tests, if there is anything to be tested; numpy and scipy are loaded only then."""
    if not pair.before.manifest or not _has_changed(pair):
        return GateTests()
    from vniah.analysis.statistics.falls import fall_tests
    from vniah.analysis.statistics.losses import loss_tests

    before, after = _compared(pair)
    return GateTests(
        fall_tests(before, after, is_paired=pair.is_paired),
        loss_tests(before, after) if pair.is_paired else None,
    )


def significance_findings(
    rules: Rules,
    pair: Pair,
    changes: Sequence[CellChange],
    tests: GateTests,
    early_of: float | None = None,
) -> Iterator[Finding]:
    """What the tests found; of what these needles lost only where they have the same samples.

    Args:
        rules: with a significance.
        pair: the runs.
        changes: every cell that is compared.
        tests: against a fall.
        early_of: the significance that was asked, where stopping early leaves that of the rules.

    Raises:
        CannotCompareError: a fall cannot be told from chance with so few needles.
    """
    assert rules.significance is not None
    each = level_of_each(rules.significance, is_paired=pair.is_paired)
    of_these = []
    if tests.losses is not None:
        of_these = list(_of_these(tests.losses, each, rules.significant_drop))
    try:
        like_these = _like_these(rules.significance, pair, changes, tests.falls, early_of)
        found = [like_these, *of_these]
    except CannotCompareError:
        # What these needles lost is known, whatever others would have done.
        if failed := [finding for finding in of_these if not finding.passed]:
            yield from failed
            return
        raise
    if all(finding.passed for finding in found):
        _require_no_unproven_collapse(rules.significant_drop, each, changes, tests, early_of)
    yield from found


def losses_of(significance: float, significant_drop: float, pair: Pair) -> Iterator[Finding]:
    """What two runs of the same samples say of these needles alone.

    Args:
        significance: that of all tests, of which these have their share.
        significant_drop: as in `Rules`.
        pair: the runs.
    """
    if not pair.is_paired or not _has_changed(pair):
        return
    from vniah.analysis.statistics.losses import loss_tests

    before, after = _compared(pair)
    each = level_of_each(significance, is_paired=True)
    yield from _of_these(loss_tests(before, after), each, significant_drop)


def _of_these(losses: "LossTests", each: float, significant_drop: float) -> Iterator[Finding]:
    if losses.knows_needles:
        yield _needles_lost(losses, each)
    yield _average(losses, each, significant_drop)


def _compared(pair: Pair) -> tuple[Results, Results]:
    """Both runs with the samples of the compared cells only."""
    cells = {old.cell for old, _ in pair.cells}
    return inside(pair.before, cells), inside(pair.after, cells)


def _like_these(
    significance: float,
    pair: Pair,
    changes: Sequence[CellChange],
    tests: "FallTests | None",
    early_of: float | None,
) -> Finding:
    fallen = [change for change in changes if change.drop > 0]
    each = level_of_each(significance, is_paired=pair.is_paired)
    if not fallen:
        of = f"none of {len(changes):,} cells" if len(changes) > 1 else "the only cell"
        return Finding(
            "significance", True, f"{of} fell" if len(changes) > 1 else f"{of} did not fall"
        )
    if tests is None or not tests.can_find(each):
        raise CannotCompareError(
            f"{len(fallen):,} of {counted(len(changes), 'cell')} fell, and whether that is chance "
            f"{_why_unknown(pair, tests, significance, early_of)}. Give max_drop (--max-drop), the "
            "largest fall of a cell that is accepted, in its place"
        )
    broken = [change for change in fallen if tests.cells[change.cell].fall <= each]
    note = ""
    if tests.worst_cell <= each and not broken:
        worst = max(change.drop for change in fallen)
        broken = [change for change in fallen if change.drop == worst]
        note = (
            "what is marked is so by the test of the largest fall of a cell (p = "
            f"{tests.worst_cell:.2g}); the column p is of each cell alone, corrected for their "
            "number"
        )
    passed = not tests.is_fall(each)
    how = "the same samples" if tests.is_paired else "other needles, not paired"
    least = min(test.fall for test in tests.cells.values())
    text = (
        f"{'no' if passed else 'a'} significant fall (average p = {tests.average:.2g}, largest "
        f"fall of a cell p = {tests.worst_cell:.2g}, cells one by one p = {least:.2g}; each "
        f"against {each:.2g}; {how}, {counted(tests.num_needles, 'needle')})"
    )
    return Finding("significance", passed, text, cells_of(broken), note=note)


def _needles_lost(losses: "LossTests", each: float) -> Finding:
    lost, gained = losses.lost(each), losses.gained(each)
    passed = not losses.are_more_lost(each)
    if not lost:
        return Finding("needles_lost", True, "no needle is lost")
    text = f"{counted(len(lost), 'needle')} lost: {_named(lost)}"
    if gained:
        text += f"; {len(gained):,} gained: {_named(gained)}"
    return Finding("needles_lost", passed, text, needles=tuple(one.needle for one in lost))


def _named(changes: "Sequence[NeedleChange]") -> str:
    names = [
        f"{one.needle} (right {one.num_right_before:,} -> {one.num_right_after:,} "
        f"of {one.num_samples:,})"
        for one in changes[:_MOST_NAMED]
    ]
    hidden = len(changes) - _MOST_NAMED
    return ", ".join(names) + (f" and {hidden:,} more" if hidden > 0 else "")


def _average(losses: "LossTests", each: float, least_drop: float) -> Finding:
    name = "average_of_these_needles"
    if losses.drop <= 1e-9:
        return Finding(name, True, "the average of these needles did not fall")
    text = f"the average of these needles fell by {losses.drop:.4f}"
    if losses.drop <= least_drop + 1e-9:
        return Finding(name, True, f"{text}, which is not more than {least_drop:g}")
    tested = f"p = {losses.p_value:.2g}, against {each:.2g}"
    if losses.is_drop(each, least_drop):
        return Finding(name, False, f"{text}, which is more than {least_drop:g} ({tested})")
    return Finding(name, True, f"{text}, which may be chance ({tested})")


def _require_no_unproven_collapse(
    least_drop: float,
    each: float,
    changes: Sequence[CellChange],
    tests: GateTests,
    early_of: float | None,
) -> None:
    """Requires that a large fall, if no test found it, could have been found."""
    before, after = mean_scores(changes)
    if before - after <= least_drop + 1e-9:
        return
    if tests.losses is not None:
        can_find, p_value = tests.losses.can_find_drop(each), tests.losses.p_value
    else:
        assert tests.falls is not None
        can_find, p_value = tests.falls.least_average <= each, tests.falls.average
    if can_find and 2 * after > before:
        return
    num = tests.falls.num_needles if tests.falls is not None else 0
    level = f"{each:.2g}" + ("" if early_of is None else f", as {share_of_early(early_of)}")
    raise CannotCompareError(
        f"the average fell from {before:.4f} to {after:.4f}, and whether that is chance cannot be "
        f"told from {counted(num, 'needle')} (p = {p_value:.2g}, against {level}); it takes "
        f"about {_num_for(p_value, each, num):,} like these. Give max_mean_drop "
        "(--max-mean-drop), the largest fall of the average that is accepted, in its place"
    )


def _num_for(p_value: float, each: float, num: int) -> int:
    """How many needles make a fall as large as this one significant, about."""
    from scipy.special import ndtri

    seen = float(-ndtri(min(p_value, 0.4)))
    return max(num + 1, ceil(num * (float(-ndtri(each)) / seen) ** 2))


def _why_unknown(
    pair: Pair, tests: "FallTests | None", significance: float, early_of: float | None
) -> str:
    if not pair.before.manifest:
        return "cannot be known from a published table"
    if tests is None:
        return "cannot be known, because samples of this task share needles"
    if early_of is not None and tests.is_paired:
        known = why_too_few_to_stop(early_of, tests.num_needles)
    else:
        known = what_it_takes(significance, is_paired=tests.is_paired, early_of=early_of)
    return f"cannot be known from {counted(tests.num_needles, 'needle')}: {known}"


def _has_changed(pair: Pair) -> bool:
    """Whether the scores of a cell differ, or on the same samples any answer."""
    if any(old.score != new.score for old, new in pair.cells):
        return True
    if not pair.is_paired:
        return False
    earlier = {sample.sample_id: sample.correct for sample in pair.before.samples}
    return any(earlier.get(one.sample_id) not in (None, one.correct) for one in pair.after.samples)
