"""Sweeps that run each sample of the test once more, with an intervention (``--apply``)."""

from typing import TYPE_CHECKING

from vniah.engines.interventions import Intervention
from vniah.errors import InputError

if TYPE_CHECKING:
    from vniah.sweep.run import SweepOptions


def choose_intervention(options: "SweepOptions") -> Intervention | None:
    """What is applied in a sweep; None for most.

    Args:
        options: of the sweep.

    Raises:
        InputError: there is no such function, or an option does not go with it.
    """
    if options.apply is None:
        return None
    found = Intervention.of(options.apply)
    for option, is_given in (
        ("--adaptive", options.adaptive is not None),
        ("--stop-early", options.stop_early is not None),
    ):
        if is_given:
            raise InputError(
                f"{option} chooses samples by scores, and --apply {found.name} runs each of them "
                "without and with it: leave out one of the two"
            )
    return found
