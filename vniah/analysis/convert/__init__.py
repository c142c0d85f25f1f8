"""Results in the formats of other harnesses, so that their viewers and scripts can read them.

Every sample is carried over with its id, question, answer, prediction, scores and the task's own
fields. A sample that could not be run is an error there as well, and never a wrong answer. Controls
stand beside the test under names of their own, so that no mean mixes the two.
"""

from pathlib import Path
from typing import get_args

from vniah.analysis.convert.contents import require_samples
from vniah.analysis.convert.inspect_log import write_inspect_log
from vniah.analysis.convert.lmms_eval import write_lmms_eval
from vniah.errors import InputError, short_repr
from vniah.options import LogFormat
from vniah.paths import user_path
from vniah.results import AnyResults, one_result

__all__ = ["convert_results"]


def convert_results(results: AnyResults, to: LogFormat, *, output: str | Path) -> tuple[Path, ...]:
    """Writes a run as a log of Inspect, or as results of lmms-eval. The run itself is not changed.

    Args:
        results: a run, or its folder; it may still be going on.
        to: ``"inspect"`` or ``"lmms-eval"``.
        output: for Inspect a file with the suffix ``.eval`` or ``.json``; for lmms-eval a folder.

    Returns:
        The files that were written.

    Raises:
        InputError: the format is unknown, the suffix is of neither kind of log, or the results are
            a published table, which has no samples.
        ResultsError: the results cannot be read.
    """
    if to not in get_args(LogFormat):
        raise InputError(
            f"results can be converted to {' or '.join(get_args(LogFormat))}, got {short_repr(to)}"
        )
    target = user_path(output, "the output")
    found = one_result(results)
    require_samples(found)
    if to == "inspect":
        return (write_inspect_log(found, target),)
    return write_lmms_eval(found, target)
