"""The command ``vniah run``: a sweep, or one for each RoPE that is given."""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vniah.cli.display import (
    format_comparison,
    format_controls,
    format_gaps,
    format_parts,
    format_table,
)
from vniah.cli.environment import load_plot
from vniah.cli.inputs import (
    load_libraries,
    load_named_model,
    needles_name,
    open_job,
    open_named_haystack,
    parse_grid,
    task_options,
)
from vniah.cli.measures import format_measure
from vniah.cli.printing import comment, show, show_lines
from vniah.errors import InputError, counted
from vniah.files import hash_text, slug
from vniah.options.rope import RopeChoice, rope_choices
from vniah.results import MANIFEST_NAME, SAMPLES_NAME

if TYPE_CHECKING:
    from vniah.protocol import AnyModel
    from vniah.results import Results, SampleResult
    from vniah.sweep.progress import Bars
    from vniah.sweep.run import Sweep
    from vniah.tasks.controls import Control

HEATMAP_NAME = "heatmap.png"


def run(options: argparse.Namespace) -> int:
    """Measures a grid, prints the table and draws the heatmap, for each RoPE that is given."""
    grid, choices = parse_grid(options), rope_choices(options.rope_theta, options.rope_scaling)
    load_libraries()
    from vniah.needles import load_needles
    from vniah.sweep.progress import Bars
    from vniah.sweep.run import Sweep, SweepOptions

    is_one = len(choices) == 1
    how = SweepOptions(
        task=options.task,
        task_options=task_options(options),
        controls=options.controls,
        cache=options.cache,
        share=options.share,
        attention=options.attn,
        scorer=options.scorer,
        max_new_tokens=_max_new_tokens(options),
    )
    needles = load_needles(needles_name(options))
    outcomes: list[_Outcome] = []
    with open_job(options) as mesh, Bars(mesh.is_leader and not options.quiet) as bars:
        model = load_named_model(options, choices[0], mesh)
        if not is_one:  # a model that cannot have one of them is refused before anything runs
            for choice in choices:
                _override_rope(model, choice)
        if not mesh.is_leader:
            mesh.wait_for("haystack")
        haystack = open_named_haystack(options, grid.max_frames, bars)
        if mesh.is_leader:
            mesh.announce("haystack")
        for choice in choices:
            if not is_one:
                _override_rope(model, choice)
            sweep = Sweep(model, haystack, needles, grid, how, mesh=mesh)
            if options.output is None:
                output = sweep.default_output
            else:
                output = options.output if is_one else options.output / choice.folder_name
            if mesh.is_leader:
                name = model.name if is_one else f"{model.name}, {choice.label},"
                if outcomes:
                    show()
                cells = counted(len(grid.cells), "cell")
                comment(
                    f"{name} on {haystack.name}: {cells} x {counted(len(needles), 'needle')} -> "
                    f"{output}"
                )
            outcome = _measure(sweep, output, bars, overwrite=options.overwrite)
            outcomes.append(outcome)
            if mesh.is_leader and not is_one:
                outcome.show()
    if not mesh.is_leader:
        return 0
    if is_one:
        return outcomes[0].show()
    runs = [outcome.results for outcome in outcomes]
    return _compare_ropes(choices, runs, options.output, options.task)


def _override_rope(model: "AnyModel", choice: RopeChoice) -> None:
    """Gives a loaded model another RoPE.

    Raises:
        InputError: the model cannot be given one.
    """
    change: Any = getattr(model, "override_rope", None)
    if change is None:
        raise InputError(
            f"{model.name} has no override_rope(theta, scaling), which gives it another RoPE for "
            "the next run; give one value"
        )
    change(choice.theta, choice.scaling)


def _compare_ropes(
    choices: Sequence[RopeChoice], runs: Sequence["Results"], output: Path | None, task: str
) -> int:
    """Prints one line for each RoPE, and draws all their heatmaps in one picture.

    The picture goes into ``output``, or into a folder that is named after the runs.
    """
    if output is None:
        key = hash_text("\n".join(str(results.path) for results in runs))[:8]
        output = Path("results", f"{slug(runs[0].name)}-{task}-rope-{key}")
    picture = load_plot().save_heatmaps(runs, output / HEATMAP_NAME)
    show()
    show_lines(format_comparison([choice.label for choice in choices], runs))
    if len({tuple(cell.cell for cell in run.cells if cell.score is not None) for run in runs}) > 1:
        show("these averages are over different cells, so they cannot be compared")
    show()
    show(f"heatmap: {picture}")
    return 0 if all(results.average is not None and not _failed(results) for results in runs) else 1


@dataclass(frozen=True)
class _Outcome:
    """What one sweep gave.

    Attributes:
        results: all of it.
        output: its folder.
        num_run: samples that this start ran; None if there was nothing to do.
        seconds: how long that took.
        controls: those of the sweep.
    """

    results: "Results"
    output: Path
    num_run: int | None
    seconds: float
    controls: "Sequence[Control]"

    def show(self) -> int:
        """Prints the results and draws their heatmap; returns the exit code."""
        comment()
        if self.num_run is not None:
            comment(f"{counted(self.num_run, 'sample')} in {self.seconds:.0f} s")
        else:
            comment("nothing to do: every sample of this run is there already")
        for note in self.results.manifest.get("notes", []):
            show(f"note: {note}")
        pictures = draw_heatmaps(self.results, self.output)
        return show_results(self.results, pictures, controls=self.controls)


def draw_heatmaps(results: "Results", output: Path) -> list[Path]:
    """The paths of the run's heatmaps: of the score, and of each measure of the task."""
    return [draw_heatmap(results, output, value) for value in ("correct", *results.measures)]


def draw_heatmap(results: "Results", output: Path, value: str = "correct") -> Path:
    """The path of a run's heatmap; draws it unless it is newer than manifest and samples."""
    picture = output / heatmap_name(value)
    written = [output / MANIFEST_NAME, output / SAMPLES_NAME]
    if picture.exists() and all(
        path.stat().st_mtime_ns < picture.stat().st_mtime_ns for path in written
    ):
        return picture
    return cast("Path", load_plot().save_heatmaps([results], picture, value=value))


def heatmap_name(value: str) -> str:
    """The name of the picture of the score (``"correct"``), or of a measure."""
    path = Path(HEATMAP_NAME)
    return path.name if value == "correct" else f"{path.stem}-{slug(value)}{path.suffix}"


def _measure(sweep: "Sweep", output: Path, bars: "Bars", *, overwrite: bool) -> _Outcome:
    """Runs one sweep and shows its progress bars."""
    started = time.perf_counter()
    num_done: list[int] = []

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage == "sweep":
            num_done.append(done)
        bars.show(stage, done, total)

    results = sweep.run(output, overwrite=overwrite, on_progress=on_progress)
    num_run = num_done[-1] - num_done[0] if num_done else None
    seconds = time.perf_counter() - started
    return _Outcome(results, output, num_run, seconds, sweep.controls)


def _max_new_tokens(options: argparse.Namespace) -> int | None:
    if options.max_new_tokens is None:
        return None
    if options.scorer != "generate":
        raise InputError("--max-new-tokens is for generated answers: add --scorer generate")
    return int(options.max_new_tokens)


def _failed(results: "Results") -> "list[SampleResult]":
    """The samples that could not be run, controls included."""
    everything = (*results.samples, *results.control_samples)
    return [sample for sample in everything if sample.error is not None]


def show_results(
    results: "Results",
    pictures: Sequence[Path],
    *,
    controls: "Sequence[Control]" = (),
    again: str = "the same command runs again only what has failed",
) -> int:
    """Prints the tables of a run and where its heatmaps are; returns the exit code.

    Args:
        results: the run.
        pictures: its heatmaps.
        controls: those of the run that are not vniah's own.
        again: what to do about samples that could not be run.
    """
    from vniah.analysis.sentences import format_agreement, format_oddness, format_summary
    from vniah.analysis.verdict import verdict

    show()
    show_lines(format_table(results))
    for line in format_gaps(results):
        show(line)
    show()
    for measure in results.measures:
        show_lines(format_measure(results, measure))
        show()
    if parts := format_parts(results):
        show_lines(parts)
        show()
    if results.controls:
        show_lines(format_controls(results))
        show()
        if (oddness := format_oddness(results)) is not None:
            show(oddness)
        if (found := verdict(results, controls)) is not None:
            for line in found.lines:
                show(line)
            show()
    if failed := _failed(results):
        for line in _about_failed(results, failed, again):
            show(line)
    for line in format_summary(results):
        show(line)
    for line in format_agreement(results):
        show(line)
    for picture in pictures:
        show(f"heatmap: {picture}")
    return 0 if results.average is not None and not any(map(_counts, failed)) else 1


def _about_failed(
    results: "Results", failed: "Sequence[SampleResult]", again: str
) -> Iterator[str]:
    """What became of the samples that could not be run, with the first error as an example.

    Where every sample of a run has the same error, running them again does not help.
    """
    error, num_all = failed[0].error, len(results.samples) + len(results.control_samples)
    if len(failed) == num_all > 1 and len({sample.error for sample in failed}) == 1:
        yield f"none of the {num_all:,} samples could be run, and all for one reason: {error}"
        return
    yield f"{counted(len(failed), 'sample')} could not be run; the first: {error}"
    yield f"that was {failed[0].sample_id}; {again}"


def _counts(sample: "SampleResult") -> bool:
    """Whether a sample that could not be run fails the run; not every model answers blindly."""
    return sample.control is None or sample.num_frames is not None
