"""Sweeps that share haystack states among all needles: approximate, and verified in every run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vniah.analysis.statistics.verification import verify
from vniah.errors import InputError
from vniah.options.approximation import Approximation
from vniah.results import Results, RunFolder
from vniah.results.manifests import VERIFICATION_KEY
from vniah.sweep.samples import hides_needles
from vniah.sweep.windows import WindowSearch
from vniah.tasks import Sample, Task
from vniah.tasks.base import is_of_text

if TYPE_CHECKING:
    from vniah.sweep.run import SweepOptions


def choose_approximation(options: "SweepOptions", task: Task) -> Approximation | None:
    """How far a sweep is approximate; None for an exact one.

    Args:
        options: of the sweep.
        task: its task; an attribute ``num_hops`` above 1 says that an answer takes several steps
            from needle to needle.

    Raises:
        InputError: an option does not go with the others, or with the task.
    """
    if options.share != "one-pass":
        for name, value in (("window", options.window), ("verify", options.verify)):
            if value is not None:
                raise InputError(
                    f"{name} is of runs that share haystack states among all needles: add --share "
                    f"one-pass, or leave out --{name} {value}"
                )
        return None
    found = Approximation.of(options.window, options.verify, is_text=is_of_text(task))
    if options.adaptive is not None or options.stop_early is not None:
        option = "--adaptive" if options.adaptive is not None else "--stop-early"
        raise InputError(
            f"{option} chooses samples by exact scores, and --share one-pass measures the whole "
            "grid approximately: leave out one of the two"
        )
    if found.window == 0 and getattr(task, "num_hops", 1) > 1:
        raise InputError(
            f"an answer of the task {task.name} takes more than one step from needle to needle, "
            "which is lost where no frame behind a needle sees it: give a --window of 1 or more"
        )
    return found


def require_can_approximate(samples: Sequence[Sample]) -> None:
    """Raises `InputError` for a task that hides nothing in a haystack."""
    if not hides_needles(samples):
        raise InputError(
            "--share one-pass shares haystack states among needles, and this task has none: leave "
            "it out"
        )


def record_verification(
    folder: RunFolder, results: Results, search: WindowSearch | None, *, leads: bool
) -> None:
    """Writes into the manifest of a run how far its approximate results agree with exact ones.

    Where they agree too seldom, it writes which window would have been enough.

    Args:
        folder: open.
        results: all results so far.
        search: finds that window; not used where it is known already. None where nothing is run.
        leads: whether this process writes the manifest.
    """
    found = verify(results)
    if not leads or found is None:
        return
    record = found.record()
    folder.record({VERIFICATION_KEY: record})  # kept if what follows is stopped
    if search is not None and "tried_windows" not in folder.manifest[VERIFICATION_KEY]:
        folder.record({VERIFICATION_KEY: {**record, **search.record(results)}})
