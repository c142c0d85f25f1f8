"""What stands at the end of a sweep: one table, one picture, and an index of all runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.cli.display import format_comparison
from vniah.cli.environment import load_plot
from vniah.cli.inputs import NO_NEEDLES, needles_name
from vniah.cli.outcomes import HEATMAP_NAME, Outcome, failed_samples
from vniah.cli.printing import show, show_lines
from vniah.cli.sweeps.index import Index
from vniah.cli.sweeps.members import Member, Plan
from vniah.cli.sweeps.session import in_short
from vniah.errors import InputError, counted
from vniah.files import atomic_path, hash_text, slug

if TYPE_CHECKING:
    from vniah.results import Results

TABLE_NAME = "summary.md"
REPORT_NAME = "report.html"

_MOST_PANELS = 60


class Summary:
    """What is printed and written about all runs of a plan.

    Args:
        plan: the runs.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._outcomes: dict[str, Outcome] = {}
        self._failures: dict[str, str] = {}
        self._index: Index | None = None
        if plan.is_isolated and plan.output is not None:
            self._index = Index(plan.output, plan.config)
            self._index.add(plan)

    def add(self, member: Member, found: Outcome | str) -> None:
        """Takes what a run gave, or why it failed."""
        if isinstance(found, str):
            self._failures[member.name] = found
        else:
            self._outcomes[member.name] = found
        if self._index is not None:
            if isinstance(found, str):
                self._index.has_failed(member, found)
            else:
                self._index.has_ended(member, found.results)
            self._index.write()

    def finish(self) -> int:
        """Prints one line for each run, draws their heatmaps in one picture; the exit code."""
        from vniah.analysis.statistics.intervention import intervention_effect

        done = [member for member in self._plan.members if member.name in self._outcomes]
        labels = [member.label for member in done]
        runs = [self._outcomes[member.name].results for member in done]
        show()
        if runs:
            show_lines(format_comparison(labels, runs))
            for label, run in zip(labels, runs, strict=True):
                if (effect := intervention_effect(run)) is not None:
                    show(f"{label} {effect.text}")
            if len({_cells_of(run) for run in runs}) > 1:
                show("these averages are over different cells, so they cannot be compared")
            if len({run.approximation for run in runs}) > 1:
                show(
                    "these averages are not equally exact, as their names say, so they cannot be "
                    "compared"
                )
        for line in failure_lines(self._plan, self._failures):
            show(f"not run: {line}")
        self._show_files(labels, runs)
        if self._failures:
            return 2
        is_whole = all(run.average is not None and not failed_samples(run) for run in runs)
        return 0 if is_whole else 1

    def _show_files(self, labels: Sequence[str], runs: "Sequence[Results]") -> None:
        plan, plot = self._plan, load_plot()
        output = plan.output or _default_folder(runs, plan.members[0].options.task)
        show()
        if self._index is not None:
            # Labels say what differs, which the names of the models may not.
            runs = [
                replace(run, name=run.named(label)) for run, label in zip(runs, labels, strict=True)
            ]
            show(f"index: {self._index.path}")
            if runs:
                show(f"table: {_write_table(runs, output / TABLE_NAME)}")
                show(f"report: {self._write_report(runs, output / REPORT_NAME)}")
        if len(runs) > _MOST_PANELS:
            many = counted(len(runs), "run")
            show(f"no common heatmap: {many} are too many for one picture; vniah plot draws some")
        elif runs:
            show(f"heatmap: {plot.save_heatmaps(runs, output / HEATMAP_NAME)}")

    def _write_report(self, runs: "Sequence[Results]", path: Path) -> Path | str:
        """The path of the report, or why there is none."""
        from vniah.analysis.report import save_report

        done = [member for member in self._plan.members if member.name in self._outcomes]
        needles = dict.fromkeys(needles_name(member.options) for member in done)
        try:
            return save_report(runs, path, needles=[n for n in needles if n != NO_NEEDLES])
        except InputError as error:  # too many for a page
            return f"none: {error}"


def failure_lines(plan: Plan, failures: Mapping[str, str]) -> list[str]:
    """Why some runs of a plan failed; those with one reason are one line."""
    found: dict[str, list[Member]] = {}
    for member in plan.members:
        if member.name in failures:
            found.setdefault(failures[member.name], []).append(member)
    return [f"{in_short(members)}: {reason}" for reason, members in found.items()]


def _cells_of(results: "Results") -> tuple[object, ...]:
    return tuple(found.cell for found in results.cells if found.score is not None)


def _write_table(runs: "Sequence[Results]", path: Path) -> Path:
    from vniah.analysis.table_formats import format_results

    text = format_results(runs, "lengths", "markdown")
    with atomic_path(path) as temporary:
        temporary.write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"))
    return path


def _default_folder(runs: "Sequence[Results]", task: str) -> Path:
    """The folder of the picture of runs that have folders named after their settings."""
    key = hash_text("\n".join(str(results.path) for results in runs))[:8]
    return Path("results", f"{slug(runs[0].name)}-{task}-rope-{key}")
