"""Each rule of a gate, held against two runs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from vniah.analysis.compare.changes import CellChange, Finding, cells_of, exact, mean_of
from vniah.analysis.compare.common import require_whole
from vniah.analysis.compare.pairing import Pair
from vniah.analysis.compare.rules import Rules, cell_text
from vniah.analysis.compare.significance import GateTests, significance_findings
from vniah.analysis.statistics.lengths import effective_length, exact_score, least_score
from vniah.errors import InputError, counted
from vniah.grid import Cell
from vniah.results import Results

_MOST_NAMED = 20  # cells


def findings_of(
    rules: Rules,
    pair: Pair,
    changes: Sequence[CellChange],
    tests: GateTests,
    early_of: float | None = None,
) -> Iterator[Finding]:
    """What comes of each rule that is asked; each says it where a run is approximate.

    Args:
        rules: the rules.
        pair: the two runs.
        changes: every cell that is compared.
        tests: against a fall.
        early_of: the significance that was asked, where stopping early leaves that of the rules.

    Raises:
        CannotCompareError: a fall cannot be told from chance with so few needles.
        InputError: a rule names a cell or a length that was not measured.
    """
    found = _findings_of(rules, pair, changes, tests, early_of)
    if pair.before.is_approximate or pair.after.is_approximate:
        found = (replace(one, text=f"by approximate scores {one.text}") for one in found)
    yield from found


def _findings_of(
    rules: Rules,
    pair: Pair,
    changes: Sequence[CellChange],
    tests: GateTests,
    early_of: float | None,
) -> Iterator[Finding]:
    if rules.significance is not None:
        yield from significance_findings(rules, pair, changes, tests, early_of)
    if rules.max_drop is not None:
        fallen = [change for change in changes if change.drop > exact(rules.max_drop)]
        count = f"{len(fallen):,}" if fallen else "none"
        one = "the only cell " + ("fell" if fallen else "did not fall")
        what = one if len(changes) == 1 else f"{count} of {len(changes):,} cells fell"
        text = f"{what} by more than {rules.max_drop:g}"
        yield Finding("max_drop", not fallen, text, cells_of(fallen))
    if rules.keep_cells:
        yield _kept(rules.keep_cells, changes)
    if rules.max_mean_drop is not None:
        drop = sum(change.drop for change in changes) / Fraction(len(changes))
        did = f"fell by {float(drop):.4f}" if drop > 0 else "did not fall"
        passed = drop <= exact(rules.max_mean_drop)
        text = f"the average {did}, at most {rules.max_mean_drop:g} is accepted"
        yield Finding("max_mean_drop", passed, text)
    yield from _of_candidate(rules, pair.whole)


def _kept(cells: Sequence[Cell], changes: Sequence[CellChange]) -> Finding:
    known = {change.cell: change for change in changes}
    for cell in cells:
        if cell not in known:
            there = [c for c in known if c.num_frames == cell.num_frames] or list(known)
            names = ", ".join(map(cell_text, there[:_MOST_NAMED]))
            more = f" and {len(there) - _MOST_NAMED:,} others" if len(there) > _MOST_NAMED else ""
            raise InputError(
                f"keep_cells (--keep-cell) names {cell_text(cell)}, which is not compared; there "
                f"are {names}{more}"
            )
    fallen = [known[cell] for cell in dict.fromkeys(cells) if known[cell].drop > 0]
    names = ", ".join(cell_text(change.cell) for change in fallen)
    text = f"{names} fell of {counted(len(set(cells)), 'cell')} to keep"
    if not fallen:
        text = f"no cell to keep fell ({', '.join(map(cell_text, dict.fromkeys(cells)))})"
    return Finding("keep_cells", not fallen, text, cells_of(fallen))


def _of_candidate(rules: Rules, after: Results) -> Iterator[Finding]:
    """The rules that the baseline has no part in; errors count as wrong."""
    lengths: dict[int, list[Fraction]] = {}
    for found in after.cells:
        score = least_score(found)
        if score is not None:
            lengths.setdefault(found.cell.num_frames, []).append(score)
    if rules.min_mean is not None:
        require_whole(after, "min_mean")
        mean = mean_of([score for scores in lengths.values() for score in scores])
        text = f"the average is {float(mean):.4f}, at least {rules.min_mean:g} is wanted"
        yield Finding("min_mean", mean >= exact(rules.min_mean), text)
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
    length = counted(num_frames, after.axis.removesuffix("s"))
    if num_frames not in lengths:
        measured = ", ".join(map(str, sorted(lengths)[:20]))
        raise InputError(
            f"floors (--floor) names {length}, which the candidate has no score at; it has "
            f"{measured}"
        )
    mean = mean_of(lengths[num_frames])
    text = f"the score at {length} is {float(mean):.4f}, at least {floor:g} is wanted"
    return Finding("floors", mean >= exact(floor), text)


def changes_of(pair: Pair, tests: GateTests) -> tuple[CellChange, ...]:
    """Every cell that is compared, with its p-value where it changed."""
    found = []
    for old, new in pair.cells:
        before, after = exact_score(old), exact_score(new)
        assert before is not None and after is not None
        p_value = None
        if tests.falls is not None and before != after:
            test = tests.falls.cells[old.cell]
            p_value = test.fall if after < before else test.rise
        found.append(CellChange(old.cell, before, after, old.num_samples, new.num_samples, p_value))
    return tuple(found)
