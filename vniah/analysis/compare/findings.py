"""Each rule of a gate, held against two runs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb
from typing import TYPE_CHECKING

from vniah.analysis.compare.changes import CellChange
from vniah.analysis.compare.common import require_whole
from vniah.analysis.compare.pairing import Pair
from vniah.analysis.compare.rules import Rules, cell_text
from vniah.analysis.statistics.lengths import effective_length, exact_score, least_score
from vniah.errors import CannotCompareError, InputError, counted
from vniah.grid import Cell
from vniah.results import Results

if TYPE_CHECKING:
    from vniah.analysis.statistics.falls import FallTests


@dataclass(frozen=True)
class Finding:
    """What came of one rule.

    Attributes:
        rule: its name, as in `Rules`.
        passed: whether the candidate holds it.
        text: what was found, in a phrase.
        cells: the cells that break it.
    """

    rule: str
    passed: bool
    text: str
    cells: tuple[Cell, ...] = ()


def findings_of(
    rules: Rules, pair: Pair, changes: Sequence[CellChange], tests: "FallTests | None"
) -> Iterator[Finding]:
    """What comes of each rule that is asked.

    Args:
        rules: the rules.
        pair: the two runs.
        changes: every cell that is compared.
        tests: against a fall; None if no cell changed, or the needles are not known.

    Raises:
        CannotCompareError: a fall cannot be told from chance with so few needles.
        InputError: a rule names a cell or a length that was not measured.
    """
    if rules.significance is not None:
        yield _significance(rules.significance, pair, changes, tests)
    if rules.max_drop is not None:
        fallen = [change for change in changes if change.drop > _exact(rules.max_drop)]
        count = f"{len(fallen):,}" if fallen else "none"
        text = f"{count} of {counted(len(changes), 'cell')} fell by more than {rules.max_drop:g}"
        yield Finding("max_drop", not fallen, text, _cells(fallen))
    if rules.keep_cells:
        yield _kept(rules.keep_cells, changes)
    if rules.max_mean_drop is not None:
        drop = sum(change.drop for change in changes) / Fraction(len(changes))
        did = f"fell by {float(drop):.4f}" if drop > 0 else "did not fall"
        passed = drop <= _exact(rules.max_mean_drop)
        text = f"the average {did}, at most {rules.max_mean_drop:g} is accepted"
        yield Finding("max_mean_drop", passed, text)
    yield from _of_candidate(rules, pair.whole)


def _significance(
    level: float, pair: Pair, changes: Sequence[CellChange], tests: "FallTests | None"
) -> Finding:
    fallen = [change for change in changes if change.drop > 0]
    if not fallen:
        return Finding("significance", True, f"none of {counted(len(changes), 'cell')} fell")
    if tests is None or not tests.can_find(level):
        raise CannotCompareError(
            f"{len(fallen):,} of {counted(len(changes), 'cell')} fell, and whether that is chance "
            f"{_why_unknown(pair, tests, level)}. Give max_drop (--max-drop), the "
            "largest fall of a cell that is accepted, in its place"
        )
    from vniah.analysis.statistics.falls import NUM_TESTS

    each = level / NUM_TESTS
    broken = [change for change in fallen if tests.cells[change.cell].fall <= each]
    if tests.worst_cell <= each and not broken:
        worst = max(change.drop for change in fallen)
        broken = [change for change in fallen if change.drop == worst]
    passed = not tests.is_fall(level)
    how = "the same samples" if tests.is_paired else "other needles, not paired"
    least = min(test.fall for test in tests.cells.values())
    text = (
        f"{'no' if passed else 'a'} significant fall (average p = {tests.average:.2g}, largest "
        f"fall of a cell p = {tests.worst_cell:.2g}, cells one by one p = {least:.2g}; each "
        f"against {each:.2g}; {how}, {counted(tests.num_needles, 'needle')})"
    )
    return Finding("significance", passed, text, _cells(broken))


def _why_unknown(pair: Pair, tests: "FallTests | None", level: float) -> str:
    if not pair.before.manifest:
        return "cannot be known from a published table"
    if tests is None:
        return "cannot be known, because samples of this task share needles"
    return (
        f"cannot be known from {counted(tests.num_needles, 'needle')}: for a significance of "
        f"{level:g} it takes at least {_num_needed(level, is_paired=tests.is_paired)}"
    )


def _num_needed(level: float, *, is_paired: bool) -> int:
    from vniah.analysis.statistics.falls import NUM_TESTS

    num = 1
    while 1 / (2**num if is_paired else comb(2 * num, num)) > level / NUM_TESTS:
        num += 1
    return num


def _kept(cells: Sequence[Cell], changes: Sequence[CellChange]) -> Finding:
    known = {change.cell: change for change in changes}
    for cell in cells:
        if cell not in known:
            raise InputError(f"keep_cells names {cell_text(cell)}, which is not compared")
    fallen = [known[cell] for cell in dict.fromkeys(cells) if known[cell].drop > 0]
    names = ", ".join(cell_text(change.cell) for change in fallen) or "none"
    text = f"{names} of {counted(len(set(cells)), 'cell')} to keep fell"
    return Finding("keep_cells", not fallen, text, _cells(fallen))


def _of_candidate(rules: Rules, after: Results) -> Iterator[Finding]:
    """The rules that the baseline has no part in; errors count as wrong."""
    lengths: dict[int, list[Fraction]] = {}
    for found in after.cells:
        score = least_score(found)
        if score is not None:
            lengths.setdefault(found.cell.num_frames, []).append(score)
    if rules.min_mean is not None:
        require_whole(after, "min_mean")
        mean = _mean([score for scores in lengths.values() for score in scores])
        text = f"the average is {float(mean):.4f}, at least {rules.min_mean:g} is wanted"
        yield Finding("min_mean", mean >= _exact(rules.min_mean), text)
    for num_frames, floor in sorted(rules.floors.items()):
        yield _floor(num_frames, floor, lengths, after)
    if rules.min_effective_length is not None:
        length = _effective_length(after)
        shortest = f"below {min(lengths):,}"
        text = (
            f"the effective length is {shortest if length is None else f'{length:,}'} "
            f"{after.axis}, at least {rules.min_effective_length:,} are wanted"
        )
        yield Finding("min_effective_length", (length or 0) >= rules.min_effective_length, text)


def _effective_length(after: Results) -> int | None:
    """The effective length; of an adaptive run the least that it leaves possible."""
    if not after.is_adaptive:
        return effective_length(after.cells)
    from vniah.analysis.statistics.effective import find_effective_length

    return find_effective_length(after).num_frames


def _floor(
    num_frames: int, floor: float, lengths: Mapping[int, Collection[Fraction]], after: Results
) -> Finding:
    require_whole(after, "floors", num_frames)
    if num_frames not in lengths:
        measured = ", ".join(map(str, sorted(lengths)[:20]))
        raise InputError(
            f"floors names {num_frames} {after.axis}, which the candidate has no score at; it has "
            f"{measured}"
        )
    mean = _mean(lengths[num_frames])
    text = (
        f"the score at {num_frames:,} {after.axis} is {float(mean):.4f}, at least {floor:g} is "
        "wanted"
    )
    return Finding("floors", mean >= _exact(floor), text)


def mean_scores(changes: Sequence[CellChange]) -> tuple[float, float]:
    """The averages over the compared cells, before and after."""
    return (
        float(_mean([change.before for change in changes])),
        float(_mean([change.after for change in changes])),
    )


def changes_of(pair: Pair, tests: "FallTests | None") -> tuple[CellChange, ...]:
    """Every cell that is compared, with its p-value where it changed."""
    found = []
    for old, new in pair.cells:
        before, after = exact_score(old), exact_score(new)
        assert before is not None and after is not None
        p_value = None
        if tests is not None and before != after:
            test = tests.cells[old.cell]
            p_value = test.fall if after < before else test.rise
        found.append(CellChange(old.cell, before, after, old.num_samples, new.num_samples, p_value))
    return tuple(found)


def _mean(values: Collection[Fraction]) -> Fraction:
    return sum(values, Fraction()) / len(values)


def _exact(value: float) -> Fraction:
    return Fraction(str(value))


def _cells(changes: Sequence[CellChange]) -> tuple[Cell, ...]:
    return tuple(change.cell for change in changes)
