"""What stands at the end of a sweep: one table, one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.cli.display import format_comparison
from vniah.cli.environment import load_plot
from vniah.cli.outcomes import HEATMAP_NAME, Outcome, failed_samples
from vniah.cli.printing import show, show_lines
from vniah.cli.sweeps.members import Plan
from vniah.files import hash_text, slug

if TYPE_CHECKING:
    from vniah.results import Results


def finish(plan: Plan, outcomes: Mapping[str, Outcome], failures: Mapping[str, str]) -> int:
    """Prints one line for each run, draws all heatmaps in one picture, and returns the exit code.

    Args:
        plan: the runs.
        outcomes: what those gave that could be run, by their names.
        failures: why others could not, likewise.
    """
    done = [member for member in plan.members if member.name in outcomes]
    runs = [outcomes[member.name].results for member in done]
    output = plan.output or _default_folder(runs, plan.members[0].options.task)
    picture = load_plot().save_heatmaps(runs, output / HEATMAP_NAME)
    show()
    show_lines(format_comparison([member.label for member in done], runs))
    if len({tuple(cell.cell for cell in run.cells if cell.score is not None) for run in runs}) > 1:
        show("these averages are over different cells, so they cannot be compared")
    show()
    show(f"heatmap: {picture}")
    is_whole = all(run.average is not None and not failed_samples(run) for run in runs)
    return 0 if is_whole else 1


def _default_folder(runs: "Sequence[Results]", task: str) -> Path:
    """The folder of the picture of runs that have folders named after their settings."""
    key = hash_text("\n".join(str(results.path) for results in runs))[:8]
    return Path("results", f"{slug(runs[0].name)}-{task}-rope-{key}")
