"""What a sweep will take: ``vniah estimate --config``."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.analysis.tables import format_columns
from vniah.cli.display import duration, scaled
from vniah.cli.inputs import load_libraries, open_job, parse_grid, task_options
from vniah.cli.printing import show, show_lines
from vniah.cli.sweeps.config import SweepConfig
from vniah.cli.sweeps.material import require_material
from vniah.cli.sweeps.members import Member
from vniah.cli.sweeps.session import Session
from vniah.cli.sweeps.summary import failure_lines

if TYPE_CHECKING:
    from vniah.grid import Grid
    from vniah.needles import NeedleSet
    from vniah.protocol import AnyModel
    from vniah.sweep.estimate import Estimate
    from vniah.sweep.mesh import Mesh

_HEADING = ("run", "samples", "longest", "work", "at least", "memory", "free")


def estimate_run(
    model: "AnyModel", needles: "NeedleSet", grid: "Grid", options: argparse.Namespace
) -> "Estimate":
    """What one run will take."""
    from vniah.sweep.estimate import estimate

    return estimate(
        model,
        needles,
        grid,
        task=options.task,
        task_options=task_options(options),
        controls=options.controls,
        num_ranks=options.context_parallel,
        attention=options.attn,
    )


def estimate_sweep(config: SweepConfig) -> int:
    """Prints one line for each run of a sweep, and what all take together; the exit code."""
    plan = config.plan(Path())
    load_libraries()
    needles_of_runs = require_material(plan)
    found: dict[str, Estimate] = {}
    with open_job(config.of_the_command) as mesh:
        session = Session(plan, mesh, lambda member, found: None, needles_of_runs)

        def work(member: Member, model: "AnyModel", mesh: "Mesh") -> None:
            grid, needles = parse_grid(member.options), session.needles_of(member)
            found[member.name] = estimate_run(model, needles, grid, member.options)

        session.each(work)
    names = [member.name for member in plan.members]
    if found:
        _show({name: found[name] for name in names if name in found})
    for line in failure_lines(plan, session.failures):
        show(f"not known: {line}")
    if session.failures:
        return 2
    return 0 if all(one.memory.fits for one in found.values()) else 1


def _show(found: "Mapping[str, Estimate]") -> None:
    rows = [
        (
            name,
            f"{one.num_samples:,}",
            f"{one.max_tokens:,}",
            scaled(one.shared.flops.total, "FLOP"),
            duration(one.shared.seconds),
            scaled(one.memory.needed, "B"),
            scaled(one.memory.free, "B"),
        )
        for name, one in found.items()
    ]
    together = (
        f"{len(found):,} runs",
        f"{sum(one.num_samples for one in found.values()):,}",
        "",
        scaled(sum(one.shared.flops.total for one in found.values()), "FLOP"),
        duration(sum(one.shared.seconds for one in found.values())),
        "",
        "",
    )
    show_lines(format_columns((_HEADING, *rows, *([together] if len(found) > 1 else []))))
    show(
        "longest: tokens of a sample; memory: what is needed besides the weights. Loading models "
        "and encoding frames come on top"
    )
    for name, one in found.items():
        if not one.memory.fits:
            show(f"{name} does not fit: measure fewer frames")
