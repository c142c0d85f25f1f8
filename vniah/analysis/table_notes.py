"""What belongs below a table: over what its means are, and what has not been run."""

from collections import Counter

from vniah.analysis.labels import like_these, unit_notes
from vniah.analysis.statistics.verification import NOT_VERIFIED, OF_THE_WHOLE, verify
from vniah.errors import counted
from vniah.grid import Cell
from vniah.results import Results

_MAX_GAPS = 5

APPROXIMATE = "scores are approximate"
"""How `approximate_note` begins."""


def about(results: Results) -> list[str]:
    """In which unit a table was published, and what its average is over, if that is not all."""
    unit = unit_notes([results])
    if is_whole(results) or results.stopped_early:  # of which there is none to quote
        return unit
    if results.average is None:
        none = f"no average: none of {counted(results.num_planned_cells, 'cell')} has a score"
        return [*unit, none]
    approximate = "approximate " * results.is_approximate
    text = f"the {approximate}average {results.average:.4f} is over {average_over(results)}"
    return [*unit, text]


def approximate_note(results: Results) -> str:
    """That the scores of a run are approximate, and how far; empty for an exact one."""
    if (found := results.approximation) is None:
        return ""
    verified = verify(results)
    missing = OF_THE_WHOLE if results.part else NOT_VERIFIED
    agreement = missing if verified is None else verified.short
    return f"{APPROXIMATE} ({found.how}); {agreement}"


def corrected_note(results: Results, num_lengths: int, percent: str) -> str:
    """What the corrected means below a table of an approximate run are.

    Args:
        results: the run.
        num_lengths: how many of the lengths of the table have none.
        percent: the confidence of the intervals.
    """
    text = (
        "corrected, from, to: the mean that exactly computed samples correct, and its "
        f"{percent} interval for {like_these([results])}"
    )
    if num_lengths:
        text += f"; {counted(num_lengths, 'length')} without such samples "
        text += "has none" if num_lengths == 1 else "have none"
    return text


def average_over(results: Results) -> str:
    """What an average is over: the cells with a score, and those of them that lack samples."""
    lacking = [
        *(["could not be run"] if results.num_partial_cells else []),
        *(["have not been run yet"] if results.num_pending else []),
    ]
    if not lacking:
        return results.coverage
    num = sum(
        found.score is not None
        and (found.num_errors > 0 or results.pending_by_cell.get(found.cell, 0) > 0)
        for found in results.cells
    )
    if not num:  # nothing is lacking but whole cells
        return results.coverage
    return f"{results.coverage}, {num:,} of them without the samples that {' or '.join(lacking)}"


def gaps(results: Results) -> list[str]:
    """Lines that say where the means of the table are over less than was planned."""
    lines = [results.progress] if results.progress else []
    pending = results.pending_by_cell
    found_cells = {found.cell: found for found in results.cells}
    columns: dict[int, list[Cell]] = {}
    for cell in found_cells.keys() | pending.keys():
        columns.setdefault(cell.num_frames, []).append(cell)
    for count, column in sorted(columns.items()):
        measured = [found_cells[cell] for cell in column if cell in found_cells]
        num_errors = sum(found.num_errors for found in measured)
        num_pending = sum(pending.get(cell, 0) for cell in column)
        num_scored = sum(found.score is not None for found in measured)
        has = "has" if num_pending == 1 else "have"
        without = [
            *([f"{counted(num_errors, 'sample')} that could not be run"] if num_errors else []),
            *([f"{num_pending:,} that {has} not been run yet"] if num_pending else []),
        ]
        if without:
            lines.append(
                f"at {counted(count, results.axis.removesuffix('s'))} the mean is over "
                f"{num_scored} of {counted(len(column), 'cell')}, without {' and '.join(without)}"
            )
    lines += [
        f"the control {found.control} {_at(found.num_frames, results)}is without "
        f"{counted(found.num_errors, 'sample')} that could not be run"
        for found in results.controls
        if found.num_errors
    ]
    lines += _pending_controls(results)
    if results.is_adaptive:
        text = "the average is not that of the whole grid, and lengths with a dot have no mean"
        lines.insert(0, f"{adaptive_note(results)}: {text}")
    hidden = len(lines) - _MAX_GAPS
    return (
        lines
        if hidden <= 0
        else [*lines[:_MAX_GAPS], f"and so at {counted(hidden, 'other place')}"]
    )


def adaptive_note(results: Results) -> str:
    """Which cells an adaptive run measured."""
    measured, planned = len(results.cells), counted(results.num_planned_cells, "cell")
    ending = "" if results.is_finished else ", not finished"
    return f"measured {measured:,} of {planned}, chosen by their scores (adaptive{ending})"


def _pending_controls(results: Results) -> list[str]:
    """Lines on the controls of which not all samples have been run yet."""
    if results.is_adaptive:  # controls are run where the test is
        return []
    done = Counter(sample.control for sample in results.control_samples)
    return [
        f"the control {name} lacks {planned - done[name]:,} of {counted(planned, 'sample')}, which "
        f"{'has' if planned - done[name] == 1 else 'have'} not been run yet"
        for name, planned in results.num_planned_by_control.items()
        if done[name] < planned
    ]


def _at(num_frames: int | None, results: Results) -> str:
    return "" if num_frames is None else f"at {counted(num_frames, results.axis[:-1])} "


def is_whole(results: Results) -> bool:
    """Whether every planned cell has a score of all its samples."""
    is_scored = results.num_scored_cells == results.num_planned_cells
    return is_scored and not (results.num_partial_cells or results.num_pending)
