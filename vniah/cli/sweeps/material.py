"""What runs are made of has to be there before the first of them is measured, for hours or days."""

from collections.abc import Hashable
from typing import TYPE_CHECKING

from vniah.cli.haystacks import require_named_haystack
from vniah.cli.inputs import load_named_needles, needles_name, task_options, what_is_read
from vniah.cli.sweeps.members import Member, Plan
from vniah.errors import InputError, VniahError

if TYPE_CHECKING:
    from vniah.needles import NeedleSet


def require_material(plan: Plan) -> "dict[str, NeedleSet]":
    """Requires the tasks, needle sets and haystacks of all runs, and the folders of models.

    What many runs share is looked at once, and of films no more than their headers are read.

    Returns:
        The needle sets by their names, as they are read for it.

    Raises:
        VniahError: one of them cannot be had; the message names the file of the sweep and the run.
    """
    needles: dict[str, NeedleSet] = {}
    films: set[Hashable] = set()
    for member in plan.members:
        try:
            _require_material(member, needles, films)
        except VniahError as error:
            if plan.config is None:
                raise
            raise InputError(f"{plan.config}, {member.name}: {error}") from error
    return needles


def _require_material(
    member: Member, needles: "dict[str, NeedleSet]", films: set[Hashable]
) -> None:
    from vniah.models.loading import require_folder
    from vniah.tasks import load_task
    from vniah.tasks.controls import choose_controls

    options = member.options
    require_folder(options.model)
    choose_controls(load_task(options.task, task_options(options)), options.controls)
    if getattr(options, "apply", None) is not None:
        from vniah.engines.interventions import Intervention

        Intervention.of(options.apply)
    name, film = needles_name(options), (member.film, what_is_read(options))
    if name not in needles:
        needles[name] = load_named_needles(name)
    if film not in films:
        require_named_haystack(options)
    films.add(film)
