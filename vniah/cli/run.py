"""The command ``vniah run``: one run, or all that its options or a file name."""

import argparse
from typing import TYPE_CHECKING

from vniah.cli.inputs import (
    check_options,
    load_libraries,
    open_job,
    parse_grid,
    sweep_options,
)
from vniah.cli.outcomes import Outcome, measure
from vniah.cli.printing import comment, show
from vniah.cli.sweeps.members import Member, Plan, plan_of_options
from vniah.cli.sweeps.session import Session
from vniah.cli.sweeps.summary import finish
from vniah.errors import counted

if TYPE_CHECKING:
    from vniah.protocol import AnyModel


def run(options: argparse.Namespace) -> int:
    """Measures the grid of each run, prints its table and draws its heatmap."""
    return run_plan(plan_of_options(options), options)


def run_plan(plan: Plan, options: argparse.Namespace) -> int:
    """Runs all members of a plan, and returns the exit code.

    Args:
        plan: the runs.
        options: of the command.
    """
    for member in plan.members:  # what is wrong here is said before anything is loaded
        check_options(member.options)
    load_libraries()
    from vniah.sweep.progress import Bars
    from vniah.sweep.run import Sweep

    outcomes: dict[str, Outcome] = {}
    with open_job(options) as mesh, Bars(mesh.is_leader and not options.quiet) as bars:
        session = Session(plan, mesh)

        def work(member: Member, model: "AnyModel") -> None:
            grid, how = parse_grid(member.options), sweep_options(member.options)
            needles, haystack = session.needles_of(member), session.haystack_of(member, bars)
            sweep = Sweep(model, haystack, needles, grid, how, mesh=mesh)
            output = plan.folder_of(member) or sweep.default_output
            if mesh.is_leader:
                if outcomes:
                    show()
                name = model.name if plan.is_single else f"{model.name}, {member.label},"
                comment(
                    f"{name} on {haystack.name}: {counted(len(grid.cells), 'cell')} x "
                    f"{counted(len(needles), 'needle')} -> {output}"
                )
            outcome = measure(sweep, output, bars, overwrite=options.overwrite)
            outcomes[member.name] = outcome
            if mesh.is_leader and not plan.is_single:
                outcome.show()

        session.each(work)
    if not mesh.is_leader:
        return 0
    if plan.is_single:
        (outcome,) = outcomes.values()
        return outcome.show()
    return finish(plan, outcomes, session.failures)
