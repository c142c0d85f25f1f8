"""What one run gave: its tables, its heatmaps, its exit code."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vniah.cli.display import (
    format_applied,
    format_controls,
    format_gaps,
    format_parts,
    format_table,
)
from vniah.cli.environment import load_plot
from vniah.cli.measures import format_measure
from vniah.cli.printing import comment, show, show_lines
from vniah.errors import counted
from vniah.files import slug
from vniah.results import MANIFEST_NAME, SAMPLES_NAME

if TYPE_CHECKING:
    from vniah.results import Results, SampleResult
    from vniah.sweep.progress import Bars
    from vniah.sweep.run import Sweep
    from vniah.tasks.controls import Control

HEATMAP_NAME = "heatmap.png"
DIFFERENCE_NAME = "difference.png"


@dataclass(frozen=True)
class Outcome:
    """What one sweep gave.

    Attributes:
        results: all of it.
        output: its folder.
        num_run: samples that this start ran; None if there was nothing to do.
        seconds: how long that took.
        controls: those of the sweep.
        baseline: what it is compared with; None for most.
    """

    results: "Results"
    output: Path
    num_run: int | None
    seconds: float
    controls: "Sequence[Control]"
    baseline: "Results | None" = None

    def show(self) -> int:
        """Prints the results and draws their heatmap; returns the exit code."""
        comment()
        if self.num_run is not None:
            comment(f"{counted(self.num_run, 'sample')} in {self.seconds:.0f} s")
        else:
            what = "what it takes" if self.results.is_selected else "every sample of this run"
            comment(f"nothing to do: {what} is there already")
        for note in self.results.manifest.get("notes", []):
            show(f"note: {note}")
        pictures = draw_heatmaps(self.results, self.output)
        pictures += draw_difference(self.results, self.output)
        code = show_results(self.results, pictures, controls=self.controls)
        if self.baseline is None:
            return code
        from vniah.analysis.compare import compare_early
        from vniah.cli.comparing import EXIT_CODES

        early = compare_early(self.baseline, self.results)
        show(early.summary())
        return code or EXIT_CODES[early.verdict]


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


def draw_difference(results: "Results", output: Path) -> list[Path]:
    """The path of the picture of what an intervention changed, drawn; empty without one."""
    from vniah.analysis.statistics.intervention import intervention_effect
    from vniah.results.applied import applied_results

    after = applied_results(results)
    if after is None or intervention_effect(results) is None:
        return []
    picture = output / DIFFERENCE_NAME
    return [cast("Path", load_plot().save_difference_map(results, after, picture))]


def heatmap_name(value: str) -> str:
    """The name of the picture of the score (``"correct"``), or of a measure."""
    path = Path(HEATMAP_NAME)
    return path.name if value == "correct" else f"{path.stem}-{slug(value)}{path.suffix}"


def measure(sweep: "Sweep", output: Path, bars: "Bars", *, overwrite: bool) -> Outcome:
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
    return Outcome(results, output, num_run, seconds, sweep.controls, sweep.baseline)


def failed_samples(results: "Results") -> "list[SampleResult]":
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
    from vniah.analysis.sentences import (
        format_agreement,
        format_attention,
        format_oddness,
        format_summary,
    )
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
    if failed := failed_samples(results):
        for line in _aboutfailed_samples(results, failed, again):
            show(line)
    if applied := format_applied(results):
        show_lines(applied)
        show()
    for line in format_summary(results):
        show(line)
    for line in format_agreement(results):
        show(line)
    if (attention := format_attention(results)) is not None:
        show(attention)
    for picture in pictures:
        show(f"{'difference' if picture.name == DIFFERENCE_NAME else 'heatmap'}: {picture}")
    return 0 if results.average is not None and not any(map(_counts, failed)) else 1


def _aboutfailed_samples(
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
