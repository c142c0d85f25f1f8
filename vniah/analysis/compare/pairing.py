"""Which samples of two runs are held against each other, and what cannot be compared."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vniah.analysis.compare.common import cells_in_common
from vniah.analysis.compare.rules import Rules
from vniah.errors import CannotCompareError, ResultsError, counted, quoted, short_repr
from vniah.grid import format_depth
from vniah.results import CellScore, Results, flatten, load_results

# Names that do not change what is measured: the sha256 identifies the haystack.
_LABELS = frozenset({"haystack.name"})

# Compared only if both manifests have it: runs of chat models do not.
_CUT_OFF = "scorer.max_new_tokens"


@dataclass(frozen=True)
class Pair:
    """Two runs with the same cells, made comparable.

    Attributes:
        before: the baseline, without the samples that are left out.
        after: the candidate, without those, and with the errors that are allowed as wrong answers.
        whole: the candidate as it was read.
        is_paired: whether both have the same samples; else they have other needles.
        cells: the scores of each cell of the baseline that has one, and of the candidate's.
        num_left_out: number of samples that the baseline could not run.
        num_blank: number of cells in which it could run none.
        num_forgiven: number of errors of the candidate that count as wrong.
        num_apart: number of measured cells of the baseline that only it has, as one of the two is
            adaptive; None if none is.
    """

    before: Results
    after: Results
    whole: Results
    is_paired: bool
    cells: tuple[tuple[CellScore, CellScore], ...]
    num_left_out: int
    num_blank: int
    num_forgiven: int
    num_apart: int | None = None


def pair_runs(
    baseline: Results | str | Path, candidate: Results | str | Path, rules: Rules
) -> Pair:
    """Reads both and requires that they measure the same.

    Raises:
        CannotCompareError: they do not, or one is not complete or has errors.
    """
    before, after = load(baseline, "baseline"), load(candidate, "candidate")
    whole = after
    is_paired = not has_other_needles(before, after, rules)
    require_same_measure(before, after, is_paired=is_paired, by_cell=rules.needs_same_samples)
    if not rules.allow_approximate:
        require_equally_exact(before, after)
    for role, results in (("baseline", before), ("candidate", after)):
        require_complete(role, results)
    has_adaptive = before.is_adaptive or after.is_adaptive
    before, after, num_apart = cells_in_common(before, after)
    forgiven = _new_errors(before, after, is_paired=is_paired)
    if len(forgiven) > rules.allowed_errors > 0:
        raise CannotCompareError(
            f"the candidate {after.path} could not run {counted(len(forgiven), 'sample')} that the "
            f"baseline could, and allowed_errors is {rules.allowed_errors}. Run it again to try "
            "once more"
        )
    if rules.allowed_errors:
        after = _as_wrong(after, forgiven)
    cells = tuple(_pair_cells(before, after))
    if is_paired:
        _require_same_samples(before, after)
    _require_no_new_errors(before, after, is_paired=is_paired)
    left_out = {sample.sample_id for sample in before.samples if sample.error is not None}
    num_cells = len(before.cells)
    if left_out:
        before = _without(before, left_out)
        after = _without(after, left_out) if is_paired else after
        cells = tuple(_pair_cells(before, after))
    if not cells:
        raise CannotCompareError(
            f"the baseline {before.path} has no cell with a score; run it again"
        )
    blank = num_cells - len(cells)
    num_forgiven = len(forgiven) if rules.allowed_errors else 0
    return Pair(
        before,
        after,
        whole,
        is_paired,
        cells,
        len(left_out),
        blank,
        num_forgiven,
        num_apart if has_adaptive else None,
    )


def has_other_needles(before: Results, after: Results, rules: Rules) -> bool:
    """Whether the needles differ, and none of them is the same, unless the rules allow it."""
    if rules.needs_same_samples or not (before.manifest and after.manifest):
        return False
    old, new = (results.manifest.get("needles", {}) for results in (before, after))
    if all(old.get(name) == new.get(name) for name in ("sha256", "declared_sha256")) and (
        sorted(old.get("ids", ())) == sorted(new.get("ids", ()))
    ):
        return False
    return rules.unpaired or not set(old.get("ids", ())) & set(new.get("ids", ()))


def _as_wrong(results: Results, errors: Collection[str]) -> Results:
    """The results with some samples that could not be run as wrong answers."""
    samples = (
        replace(sample, error=None, correct=False) if sample.sample_id in errors else sample
        for sample in results.samples
    )
    return replace(results, samples=tuple(samples))


def _new_errors(before: Results, after: Results, *, is_paired: bool) -> frozenset[str]:
    """Samples of the compared cells that the candidate could not run and the baseline could."""
    failed = [sample for sample in after.samples if sample.error is not None]
    if not failed:
        return frozenset()
    cells = {sample.cell for sample in before.samples}
    run_before = {sample.sample_id for sample in before.samples if sample.error is None}
    return frozenset(
        sample.sample_id
        for sample in failed
        if (sample.sample_id in run_before if is_paired else sample.cell in cells)
    )


def _without(results: Results, left_out: Collection[str]) -> Results:
    """The results without some samples, so that both runs have the same ones in each cell."""
    return replace(
        results,
        samples=tuple(sample for sample in results.samples if sample.sample_id not in left_out),
    )


def load(results: Results | str | Path, role: str) -> Results:
    """The results, or those of a path; ``role`` names them in a message.

    Raises:
        CannotCompareError: they cannot be read.
    """
    if isinstance(results, Results):
        return results
    try:
        return load_results(results)
    except ResultsError as error:
        raise CannotCompareError(f"the {role} cannot be read: {error}") from error
    except OSError as error:
        why = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
        raise CannotCompareError(f"the {role} cannot be read: {why}") from error


def require_same_measure(
    before: Results,
    after: Results,
    *,
    is_paired: bool,
    by_cell: bool = False,
    can_unpair: bool = True,
) -> None:
    """Raises `CannotCompareError` that names the first field in which the two differ.

    Args:
        before: the baseline.
        after: the candidate.
        is_paired: whether both have to have the same needles.
        by_cell: whether a rule holds single cells against each other, which takes the same needles.
        can_unpair: whether who asks can have runs with other needles compared.
    """
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
        is_of_needles = field.startswith("needles.")
        if old.get(field) != new.get(field) and (is_paired or not is_of_needles):
            hint = _other_needles_hint(by_cell) if is_of_needles and can_unpair else ""
            raise CannotCompareError(
                f"the runs differ in {field}: {_short(field, old.get(field))} in the baseline, "
                f"{_short(field, new.get(field))} in the candidate; run the candidate with the same"
                f"{hint}"
            )


def require_equally_exact(before: Results, after: Results) -> None:
    """Raises `CannotCompareError` if one is approximate and the other exact, or differently so."""
    if not (before.is_approximate or after.is_approximate):
        return
    ways = [None if run.approximation is None else run.approximation.how for run in (before, after)]
    if ways[0] == ways[1]:
        return
    old, new = ("exact" if way is None else f"approximate ({way})" for way in ways)
    raise CannotCompareError(
        f"the baseline {before.path} is {old}, and the candidate {after.path} is {new}: what "
        "differs may be the approximation and not the model. Run both in the same way, or give "
        "allow_approximate (--allow-approximate)"
    )


def about_approximate(before: Results, after: Results) -> str:
    """Which of two runs are approximate, and how far, in a sentence; empty if neither is."""
    one, other = before.approximation, after.approximation
    if one is None and other is None:
        return ""
    if one is not None and other is not None:
        if one.how == other.how:
            return f"both runs are approximate ({one.how}), and so is what is said of them"
        return f"both runs are approximate, the first by {one.how}, the second by {other.how}"
    found = one or other
    assert found is not None, "one of them is approximate"
    return (
        f"the {'first' if one is not None else 'second'} run is approximate ({found.how}) and the "
        "other exact, so what differs may be the approximation"
    )


def _other_needles_hint(by_cell: bool) -> str:
    if by_cell:
        return (
            ", as max_drop and keep_cells (--max-drop, --keep-cell) hold single cells against each "
            "other. Without these rules, unpaired (--unpaired) compares runs with other needles"
        )
    return ". Or give unpaired (--unpaired), which compares runs with other needles"


def _short(field: str, value: object) -> str:
    """A value for a message; of a hash the beginning tells enough."""
    if field.endswith("sha256") and isinstance(value, str):
        return quoted(value, 15)
    return short_repr(value)


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


def require_complete(role: str, results: Results) -> None:
    """Requires that every planned sample of a run was tried; ``role`` names it in the message.

    Raises:
        CannotCompareError: some are missing.
    """
    if results.is_finished:
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
            length = counted(old.cell.num_frames, before.axis.removesuffix("s"))
            where = f"{length}, depth {format_depth(old.cell.depth)}"
            lack = "is not in" if new is None else "has only errors in"
            raise CannotCompareError(
                f"the cell of {where} {lack} the candidate {after.path}; "
                "run the candidate on every cell of the baseline"
            )
        yield old, new


def _require_same_samples(before: Results, after: Results) -> None:
    """Requires that the cells of the baseline have the same samples in both runs."""
    if len(before.samples) == len(after.samples) and all(
        one.sample_id == other.sample_id
        for one, other in zip(before.samples, after.samples, strict=True)
    ):
        return
    cells = {sample.cell for sample in before.samples}
    old = {sample.sample_id for sample in before.samples}
    new = {sample.sample_id for sample in after.samples if sample.cell in cells}
    if differing := sorted(old ^ new):
        where = "baseline" if differing[0] in old else "candidate"
        raise CannotCompareError(
            f"only the {where} has the sample {differing[0]}; run both with the same task and "
            "needles"
        )


def _require_no_new_errors(before: Results, after: Results, *, is_paired: bool) -> None:
    """Requires no errors but those of the baseline, because a mean leaves errors out."""
    found = _new_errors(before, after, is_paired=is_paired)
    for sample in after.samples if found else ():
        if sample.sample_id in found:
            which = ", which the baseline could" if is_paired else ""
            raise CannotCompareError(
                f"the candidate {after.path} could not run the sample {sample.sample_id}{which}: "
                f"{sample.error}. Run it again to try once more"
            )
