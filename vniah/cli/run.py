"""The command ``vniah run``: a sweep, or one for each RoPE that is given."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.cli.display import (
    format_agreement,
    format_average,
    format_controls,
    format_table,
)
from vniah.cli.inputs import (
    load_named_model,
    needles_name,
    open_job,
    open_named_haystack,
    parse_grid,
)
from vniah.cli.ropes import (
    chosen_ropes,
    override_rope,
    print_ropes,
    require_ropes,
    rope_folder,
    shared_name,
)
from vniah.errors import InputError
from vniah.results import MANIFEST_NAME, SAMPLES_NAME

if TYPE_CHECKING:
    from vniah.results import Results
    from vniah.sweep.progress import Bars
    from vniah.sweep.run import Sweep


HEATMAP_NAME = "heatmap.png"


def run(options: argparse.Namespace) -> int:
    """Measures a grid, prints the table and draws the heatmap, for each RoPE that is given."""
    from vniah.needles import load_needles
    from vniah.sweep.progress import Bars
    from vniah.sweep.run import Sweep, SweepOptions

    grid, choices = parse_grid(options), chosen_ropes(options)
    is_one = len(choices) == 1
    how = SweepOptions(
        task=options.task,
        controls=options.controls,
        cache=options.cache,
        share=options.share,
        attention=options.attn,
        scorer=options.scorer,
        max_new_tokens=_max_new_tokens(options),
    )
    needles = load_needles(needles_name(options))
    outcomes: list[_Outcome] = []
    with open_job(options) as mesh, Bars(mesh.is_leader) as bars:
        say = print if mesh.is_leader else _say_nothing
        model = load_named_model(options, choices[0], mesh)
        require_ropes(model, choices)
        if not mesh.is_leader:
            mesh.wait_for("haystack")
        haystack = open_named_haystack(options, grid.max_frames, bars)
        if mesh.is_leader:
            mesh.announce("haystack")
        for choice in choices:
            if not is_one:
                override_rope(model, choice)
            sweep = Sweep(model, haystack, needles, grid, how, mesh=mesh)
            if options.output is None:
                output = sweep.default_output
            else:
                output = rope_folder(options.output, choice, is_one=is_one)
            if outcomes:
                say("")
            say(
                f"{model.name}{'' if is_one else f', {choice.label},'} on {haystack.name}: "
                f"{len(grid.cells)} cells x {len(needles)} needles -> {output}"
            )
            outcome = _measure(sweep, output, bars, overwrite=options.overwrite)
            outcomes.append(outcome)
            if mesh.is_leader and not is_one:
                outcome.show()
    if not mesh.is_leader:
        return 0
    if is_one:
        return outcomes[0].show()
    from vniah.analysis.plot import save_heatmaps

    runs = [outcome.results for outcome in outcomes]
    shared = shared_name(options.output, options.task, runs)
    return print_ropes(choices, runs, save_heatmaps(runs, shared / HEATMAP_NAME))


@dataclass(frozen=True)
class _Outcome:
    """A run that was made.

    Attributes:
        results: all of it.
        output: its folder.
        num_asked: samples that this start asked; None if there was nothing to do.
        seconds: how long that took.
    """

    results: "Results"
    output: Path
    num_asked: int | None
    seconds: float

    def show(self) -> int:
        """Prints it and draws its heatmap; the exit code."""
        print()
        if self.num_asked is not None:
            print(f"{self.num_asked} samples in {self.seconds:.0f} s")
        else:
            print("nothing to do: every sample of this run is there already")
        for note in self.results.manifest.get("notes", []):
            print(f"note: {note}")
        return _print_results(self.results, draw_heatmap(self.results, self.output))


def draw_heatmap(results: "Results", output: Path) -> Path:
    """The run's heatmap; it is drawn unless it is newer than manifest and samples."""
    picture = output / HEATMAP_NAME
    written = [output / MANIFEST_NAME, output / SAMPLES_NAME]
    if picture.exists() and all(
        path.stat().st_mtime_ns < picture.stat().st_mtime_ns for path in written
    ):
        return picture
    from vniah.analysis.plot import save_heatmaps

    return save_heatmaps([results], picture)


def _measure(sweep: "Sweep", output: Path, bars: "Bars", *, overwrite: bool) -> _Outcome:
    """One sweep, with its bars."""
    started = time.perf_counter()
    num_done: list[int] = []

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage == "sweep":
            num_done.append(done)
        bars.show(stage, done, total)

    results = sweep.run(output, overwrite=overwrite, on_progress=on_progress)
    num_run = num_done[-1] - num_done[0] if num_done else None
    return _Outcome(results, output, num_run, time.perf_counter() - started)


def _max_new_tokens(options: argparse.Namespace) -> int:
    from vniah.options import MAX_NEW_TOKENS

    if options.max_new_tokens is None:
        return MAX_NEW_TOKENS
    if options.scorer != "generate":
        raise InputError("--max-new-tokens is for generated answers: add --scorer generate")
    return int(options.max_new_tokens)


def _say_nothing(line: str) -> None:
    pass


def _print_results(results: "Results", picture: Path) -> int:
    print(f"\n{format_table(results)}\n")
    if results.controls:
        print(f"{format_controls(results)}\n")
    everything = (*results.samples, *results.control_samples)
    failed = [sample for sample in everything if sample.error is not None]
    if failed:
        print(f"{len(failed)} samples could not be run; the first: {failed[0].error}")
    print(format_average(results))
    for line in format_agreement(results):
        print(line)
    print(f"heatmap: {picture}")
    return 0 if results.average is not None else 1
