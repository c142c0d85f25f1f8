"""What runs are made of has to be there before the first of them is measured, for hours or days."""

from collections.abc import Hashable

from vniah.cli.haystacks import require_named_haystack
from vniah.cli.inputs import needles_name, shows_text, task_options
from vniah.cli.sweeps.members import Member, Plan
from vniah.errors import InputError, VniahError


def require_material(plan: Plan) -> None:
    """Requires the tasks, needle sets and haystacks of all runs, and the folders of models.

    What many runs share is looked at once, and of films no more than their headers are read.

    Raises:
        VniahError: one of them cannot be had; the message names the file of the sweep and the run.
    """
    seen: set[Hashable] = set()
    for member in plan.members:
        try:
            _require_material(member, seen)
        except VniahError as error:
            if plan.config is None:
                raise
            raise InputError(f"{plan.config}, {member.name}: {error}") from error


def _require_material(member: Member, seen: set[Hashable]) -> None:
    from vniah.models.loading import require_folder
    from vniah.needles import load_needles
    from vniah.tasks import load_task
    from vniah.tasks.controls import choose_controls

    options = member.options
    require_folder(options.model)
    choose_controls(load_task(options.task, task_options(options)), options.controls)
    needles, haystack = needles_name(options), (member.film, shows_text(options))
    if needles not in seen:
        load_needles(needles)
    if haystack not in seen:
        require_named_haystack(options)
    seen |= {needles, haystack}
