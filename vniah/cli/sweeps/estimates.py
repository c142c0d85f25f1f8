"""What a sweep will take: ``vniah estimate --config``."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vniah.analysis.tables import format_columns
from vniah.cli.display import duration, scaled, way_out
from vniah.cli.inputs import (
    load_libraries,
    load_named_outline,
    open_job,
    parse_grid,
    require_can_apply,
    task_options,
    what_is_read,
)
from vniah.cli.printing import show, show_lines
from vniah.cli.sweeps.config import SweepConfig
from vniah.cli.sweeps.material import require_material
from vniah.cli.sweeps.members import Member
from vniah.cli.sweeps.session import Session
from vniah.cli.sweeps.summary import failure_lines

if TYPE_CHECKING:
    from vniah.grid import Grid
    from vniah.haystacks.frames import AnyHaystack
    from vniah.needles import NeedleSet
    from vniah.protocol import AnyModel
    from vniah.sweep.estimated import Estimate
    from vniah.sweep.mesh import Mesh
    from vniah.sweep.requests import RequestsEstimate

    AnyEstimate = Estimate | RequestsEstimate

_HEADING = ("run", "samples", "longest", "work", "at least", "memory", "free")


def estimate_run(
    model: "AnyModel",
    needles: "NeedleSet",
    grid: "Grid",
    options: argparse.Namespace,
    haystack: "AnyHaystack | None",
) -> "AnyEstimate":
    """What one run will take.

    Args:
        model: that is measured.
        needles: of the run.
        grid: of the run.
        options: of the run.
        haystack: its text or question set; None for a film, of which nothing has to be known.
    """
    from vniah.models.server.client import ServerModel
    from vniah.sweep.estimate import estimate
    from vniah.sweep.requests import estimate_requests

    asked: dict[str, Any] = {
        "haystack": haystack,
        "task": options.task,
        "task_options": task_options(options),
        "controls": options.controls,
    }
    applies = getattr(options, "apply", None) is not None
    if applies:
        require_can_apply(options)
    if isinstance(model, ServerModel):
        return estimate_requests(model, needles, grid, **asked)
    return estimate(
        model,
        needles,
        grid,
        **asked,
        num_ranks=options.context_parallel,
        attention=options.attn,
        share=options.share,
        window=options.window,
        verify=options.verify,
        applies=applies,
    )


def fits(found: "AnyEstimate") -> bool:
    """Whether the memory is enough, as far as it is this machine's."""
    from vniah.sweep.estimated import Estimate

    return not isinstance(found, Estimate) or found.largest.fits


def estimate_sweep(config: SweepConfig) -> int:
    """Prints one line for each run of a sweep, and what all take together; the exit code."""
    plan = config.plan(Path())
    load_libraries()
    from vniah.sweep.progress import Bars

    needles_of_runs = require_material(plan)
    found: dict[str, AnyEstimate] = {}
    of_the_command = config.of_the_command
    with open_job(of_the_command) as mesh, Bars(not of_the_command.quiet) as bars:
        session = Session(
            plan, mesh, lambda member, found: None, needles_of_runs, load=load_named_outline
        )

        def work(member: Member, model: "AnyModel", mesh: "Mesh") -> None:
            grid, needles = parse_grid(member.options), session.needles_of(member)
            is_film = what_is_read(member.options) == "frames"
            haystack = None if is_film else session.haystack_of(member, bars, mesh)
            found[member.name] = estimate_run(model, needles, grid, member.options, haystack)

        session.each(work)
    names = [member.name for member in plan.members]
    if found:
        _show({name: found[name] for name in names if name in found})
    for line in failure_lines(plan, session.failures):
        show(f"not known: {line}")
    if session.failures:
        return 2
    return 0 if all(map(fits, found.values())) else 1


def _show(found: "Mapping[str, AnyEstimate]") -> None:
    from vniah.sweep.estimated import Estimate

    here = {name: one for name, one in found.items() if isinstance(one, Estimate)}
    nums = {
        name: one.num_run if isinstance(one, Estimate) else one.num_samples
        for name, one in found.items()
    }
    rows = [(name, f"{nums[name]:,}", *_columns(one)) for name, one in found.items()]
    together = (
        f"{len(found):,} runs",
        f"{sum(nums.values()):,}",
        "",
        scaled(sum(one.work.flops.total for one in here.values()), "FLOP"),
        duration(sum(one.work.seconds for one in here.values())),
        "",
        "",
    )
    show_lines(format_columns((_HEADING, *rows, *([together] if len(found) > 1 else []))))
    show(
        "longest: tokens of a sample; memory: what is needed besides the weights. Loading models "
        "and encoding frames come on top"
    )
    for name, one in here.items():
        if not one.largest.fits:
            lengths = "tokens" if one.tokens_per_frame is None else "frames"
            show(f"{name} does not fit: {way_out(one, lengths)}")


def _columns(one: "AnyEstimate") -> tuple[str, ...]:
    """The columns of a run but its name and samples; a server says nothing of its work."""
    from vniah.sweep.estimated import Estimate

    if not isinstance(one, Estimate):
        longest = "-" if one.max_tokens is None else f"{one.max_tokens:,}"
        return (longest, "requests", "-", "-", "-")
    return (
        f"{one.max_tokens:,}",
        scaled(one.work.flops.total, "FLOP"),
        duration(one.work.seconds),
        scaled(one.largest.needed, "B"),
        scaled(max(0, one.largest.free), "B"),
    )
