"""The command ``vniah rescore``."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vniah.cli.inputs import load_libraries
from vniah.cli.printing import comment, show, tell
from vniah.errors import InputError, counted, quoted

if TYPE_CHECKING:
    from vniah.sweep.rescoring.rescoring import Change, Rescoring

_MOST_IN_A_TEXT = 60

_KINDS = ((True, "became right"), (False, "became wrong"), (None, "cannot be judged"))


def rescore(options: argparse.Namespace) -> int:
    """Judges the answers of a run anew, and says what changed."""
    if options.task is None and options.task_option:
        raise InputError("--task-option is for the task of --task: add it")
    load_libraries()
    from vniah.sweep.rescoring.rescoring import rescore

    found = rescore(
        options.result,
        output=options.output,
        answer_rules=options.answer_rules,
        accept=_accepted(options.accept),
        needles=options.needles,
        task=options.task,
        task_options=dict(options.task_option),
        export=options.export,
        overwrite=options.overwrite,
    )
    comment(f"{found.earlier.short_name}, judged by: {found.criterion}")
    _show_changes(found, is_control=False, most=options.list)
    if found.results.control_samples:
        _show_changes(found, is_control=True, most=options.list)
    if found.num_errors:
        show(f"{counted(found.num_errors, 'sample')} without a score, left out of all means")
    before, after = (
        "none" if one.average is None else f"{one.average:.4f}"
        for one in (found.earlier, found.results)
    )
    name = f"{'approximate ' * found.results.is_approximate}average"
    show(f"{name}: {before} before, {after} now, over {found.results.coverage}")
    if not found.results.is_complete:
        tell(
            f"warning: the new run has lines for {found.results.num_done:,} of "
            f"{counted(found.results.num_planned or 0, 'sample')}, as the others have no outcome "
            f"in {found.earlier.path} yet"
        )
    show(f"results: {found.results.path}")
    return 0


def _accepted(given: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for answer, text in given:
        found.setdefault(answer, []).append(text)
    return found


def _show_changes(found: "Rescoring", *, is_control: bool, most: int) -> None:
    """How many outcomes changed in each direction, and some of them."""
    lines = found.results.control_samples if is_control else found.results.samples
    changes = {kind: found.to(kind, is_control=is_control) for kind, _ in _KINDS}
    counts = [
        f"{len(changes[kind]):,} {words}"
        for kind, words in _KINDS
        if changes[kind] or kind is not None
    ]
    num_same = len(lines) - sum(map(len, changes.values()))
    what = "controls" if is_control else "samples"
    show(f"{what}: {', '.join(counts)}, {num_same:,} as before")
    for kind, words in _KINDS:
        for change in changes[kind][:most]:
            show(f"  {words}: {_in_words(change)}")
        if more := len(changes[kind][most:]):
            show(f"  {words}: {more:,} more")


def _in_words(change: "Change") -> str:
    line = change.after
    said = "none" if line.prediction is None else quoted(line.prediction, _MOST_IN_A_TEXT)
    asked = f"{line.sample_id}, answer {quoted(line.answer, _MOST_IN_A_TEXT)}, prediction {said}"
    return asked if line.error is None else f"{asked}: {line.error}"
