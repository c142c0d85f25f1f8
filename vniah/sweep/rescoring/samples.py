"""The samples of a run as its task makes them: they hold the accepted answers and the options."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vniah.errors import InputError, short_repr
from vniah.haystacks.text import UnreadText
from vniah.needles import NeedleSet
from vniah.options.intervention import APPLIED
from vniah.results import Results
from vniah.results.folders import PLAN_NAME
from vniah.sweep.exchange.folder import read_export
from vniah.sweep.exchange.records import read_plan
from vniah.tasks import Sample, Task, load_task
from vniah.tasks.base import is_of_text
from vniah.tasks.controls import CONTROLS, plan_samples
from vniah.tasks.controls.applied import Applied
from vniah.tasks.parsing import Option
from vniah.tasks.recorded import grid_of, needles_of, task_of


def task_again(
    results: Results, task: str | Task | None, options: Mapping[str, Option] | None
) -> Task:
    """The task of a run, configured as it was.

    Args:
        results: the run.
        task: makes it again, where it does not come with vniah.
        options: its options, where the task is given.

    Raises:
        InputError: it does not come with vniah and is not given, or is another one.
        TaskError: it cannot be made.
    """
    if task is None:
        name, own = task_of(results)
        loaded = load_task(name, own)
    else:
        loaded = load_task(task, options)
    if loaded.name != results.manifest.get("task", "vniah"):
        raise InputError(
            f"the task {loaded.name} is not the one of {results.path}, which is "
            f"{results.manifest.get('task')}"
        )
    return loaded


def samples_again(
    results: Results, task: Task, needles: NeedleSet | None, export: Path | None
) -> tuple[Sample, ...]:
    """All samples of a run that has lines of them.

    Args:
        results: the run.
        task: of the run.
        needles: the needle set, where it does not come with vniah. It may accept further answers,
            but has to ask the same.
        export: of imported answers, the folder of the export, which has the samples as they were.

    Raises:
        InputError: a sample of the run is not among them, or asks something else.
        ResultsError: the export cannot be read.
        TaskError: the samples cannot be made without the haystack.
    """
    if export is not None:
        manifest = read_export(export)
        found = read_plan(export / PLAN_NAME, manifest["plan_sha256"])
        source = f"the export {export}"
    else:
        own = needles_of(results, needles, may_accept_more=True)
        controls = [name for name in results.manifest.get("controls", ()) if name in CONTROLS]
        chosen = ",".join(controls) or "none"
        text = UnreadText.named(f"the haystack of {results.name}") if is_of_text(task) else None
        more = (Applied(),) if APPLIED in results.manifest.get("controls", ()) else ()
        found = plan_samples(task, grid_of(results), own, text, chosen, more=more)
        source = f"the needle set {own.name}"
    _require_same(results, found, source)
    return found if not is_of_text(task) else _with_fields(results, found)


def _with_fields(results: Results, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """The samples with the fields of their lines, which say where in the text needles were."""
    lines = {one.sample_id: one for one in (*results.samples, *results.control_samples)}
    return tuple(
        replace(sample, fields={n: line.fields.get(n, v) for n, v in sample.fields.items()})
        if (line := lines.get(sample.sample_id)) is not None
        else sample
        for sample in samples
    )


def _require_same(results: Results, samples: tuple[Sample, ...], source: str) -> None:
    """Raises `InputError` unless each line asks what the sample of its id asks."""
    known = {sample.sample_id: sample for sample in samples}
    for line in (*results.samples, *results.control_samples):
        sample = known.get(line.sample_id)
        if sample is None:
            raise InputError(
                f"the sample {short_repr(line.sample_id)} of {results.path} cannot be made again "
                f"from {source}"
                + (
                    f", as the control {short_repr(line.control)} does not come with vniah"
                    if line.control is not None and line.control not in CONTROLS
                    else "; give the needles, or the export, of the run"
                )
            )
        for name in ("question", "answer"):
            before, now = getattr(line, name), getattr(sample, name)
            if before != now:
                raise InputError(
                    f"the {name} of {short_repr(line.sample_id)} is {short_repr(before)} in "
                    f"{results.path}, and {short_repr(now)} in {source}; give the needles, or the "
                    "export, of the run"
                )
