"""The command ``vniah run``: one run, or all that its options or a file name."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.cli.inputs import (
    check_options,
    load_baseline,
    load_libraries,
    open_job,
    parse_grid,
    sweep_options,
)
from vniah.cli.outcomes import Outcome, measure
from vniah.cli.printing import comment, show
from vniah.cli.sweeps.material import require_material
from vniah.cli.sweeps.members import Member, Plan, plan_of_options
from vniah.cli.sweeps.session import Session
from vniah.cli.sweeps.summary import Summary
from vniah.errors import InputError, counted
from vniah.files import slug

if TYPE_CHECKING:
    from vniah.needles import NeedleSet
    from vniah.protocol import AnyModel
    from vniah.sweep.mesh import Mesh


def run(options: argparse.Namespace) -> int:
    """Measures the grid of each run, prints its table and draws its heatmap."""
    config = options.sweep
    if config is None:
        plan = plan_of_options(options)
    else:
        plan = config.plan(options.output or Path("results", slug(options.config.stem)))
    for member in plan.members:  # what is wrong here is said before anything is loaded
        check_options(member.options)
    _require_can_stop_early(plan)
    load_libraries()
    needles = require_material(plan)
    summary = Summary(plan)
    runs = run_members(plan, options, needles=needles, on_end=summary.add)
    if not runs.is_leader:
        return 0
    if plan.is_single:
        (outcome,) = runs.outcomes.values()
        return outcome.show()
    return summary.finish()


def _require_can_stop_early(plan: Plan) -> None:
    """Requires one run and a baseline with enough needles, before a model is loaded."""
    if not any(member.options.stop_early for member in plan.members):
        return
    if plan.is_single:
        from vniah.analysis.compare.early import require_can_stop_early

        (member,) = plan.members
        baseline = load_baseline(member.options)
        assert baseline is not None
        require_can_stop_early(baseline)
        return
    if plan.config is not None:
        raise InputError(
            f"{plan.config}: runs of a file are measured whole and compared afterwards, so they "
            "cannot be stopped early; remove stop-early (--stop-early), or give the options of one "
            "run on the command line, without --config"
        )
    raise InputError(
        f"--stop-early ends one run, and these are {len(plan.members)}: one for each RoPE; give "
        "one --rope-theta and one --rope-scaling"
    )


@dataclass(frozen=True)
class Runs:
    """What the members of a plan gave.

    Attributes:
        outcomes: of those that could be run, by their names; in the leading process only.
        failures: why others could not, likewise.
        is_leader: whether this process is the one that prints.
    """

    outcomes: Mapping[str, Outcome]
    failures: Mapping[str, str]
    is_leader: bool


def run_members(
    plan: Plan,
    options: argparse.Namespace,
    *,
    needles: "Mapping[str, NeedleSet] | None" = None,
    on_end: Callable[[Member, Outcome | str], None] = lambda member, found: None,
    check: Callable[[Member], None] = lambda member: None,
    is_brief: bool = False,
) -> Runs:
    """Runs all members of a plan.

    Args:
        plan: the runs.
        options: of the command.
        needles: sets that were read already, by their names.
        on_end: called in the leading process when a run has ended, with what it gave or why it
            failed.
        check: called when the model of a run is loaded; raises if it cannot be measured.
        is_brief: whether the tables of each run are left out.
    """
    from vniah.sweep.progress import Bars
    from vniah.sweep.run import Sweep

    outcomes: dict[str, Outcome] = {}
    with open_job(options) as mesh, Bars(mesh.is_leader and not options.quiet) as bars:

        def ended(member: Member, found: Outcome | str) -> None:
            if not isinstance(found, str):
                outcomes[member.name] = found
            on_end(member, found)

        session = Session(plan, mesh, ended, needles)

        def work(member: Member, model: "AnyModel", mesh: "Mesh") -> Outcome:
            check(member)
            grid, how = parse_grid(member.options), sweep_options(member.options)
            needles, haystack = session.needles_of(member), session.haystack_of(member, bars, mesh)
            sweep = Sweep(model, haystack, needles, grid, how, mesh=mesh)
            output = plan.folder_of(member) or sweep.default_output
            if mesh.is_leader:
                if outcomes and not is_brief:
                    show()
                is_named = plan.is_single or member.label == model.name
                name = model.name if is_named else f"{model.name}, {member.label},"
                if sweep.approximation is not None:
                    name = sweep.approximation.marked(name)
                if sweep.intervention is not None:
                    name = f"{name} without and with {sweep.intervention.name}"
                comment(
                    f"{name} on {haystack.name}: {counted(len(grid.cells), 'cell')} x "
                    f"{sweep.asked} -> {output}"
                )
            outcome = measure(sweep, output, bars, overwrite=options.overwrite)
            if mesh.is_leader and not plan.is_single and not is_brief:
                outcome.show()
            return outcome

        session.each(work)
    return Runs(outcomes, session.failures, mesh.is_leader)
