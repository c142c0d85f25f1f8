"""The commands except ``run``. Each function prints, and returns the exit code."""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from vniah.cli.display import format_average, format_estimate, format_families
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
from vniah.cli.printing import comment, show, show_lines, tell
from vniah.cli.run import HEATMAP_NAME
from vniah.errors import InputError, ResultsError
from vniah.files import slug
from vniah.grid import Grid
from vniah.options.rope import RopeChoice, rope_choices

if TYPE_CHECKING:
    from vniah.needles import NeedleSet
    from vniah.protocol import AnyModel
    from vniah.results import Results
    from vniah.sweep.mesh import Mesh

_MOST_PANELS = 60


def encode(options: argparse.Namespace) -> int:
    """Fills the embedding cache."""
    num_frames, rope = Grid.parse(options.frames, "0").max_frames, _only_rope(options)
    load_libraries()
    from vniah.embeddings.encode import encode_haystack
    from vniah.engines.choosing import require_encoder
    from vniah.sweep.progress import Bars

    with Bars(not options.quiet) as bars:
        model = require_encoder(load_named_model(options, rope))
        haystack = open_named_haystack(options, num_frames, bars)
        started, encoded = time.perf_counter(), [0]

        def on_progress(done: int, total: int) -> None:
            encoded.append(done)
            bars.show("encode", done, total)

        cache = encode_haystack(
            model, haystack, num_frames, directory=options.cache, on_progress=on_progress
        )
        seconds = time.perf_counter() - started
    if len(encoded) == 1:
        comment(f"nothing to do: {cache.num_frames:,} frames are already encoded")
    else:
        comment(f"{cache.num_frames:,} frames encoded, {_rate(encoded, seconds)}")
    for note in cache.notes():
        show(f"note: {note}")
    show(f"cache: {cache.directory}")
    return 0


def _only_rope(options: argparse.Namespace) -> RopeChoice:
    """The RoPE of a command that takes only one.

    Raises:
        InputError: several are given.
    """
    choices = rope_choices(options.rope_theta, options.rope_scaling)
    if len(choices) > 1:
        raise InputError(
            f"--rope-theta and --rope-scaling name {len(choices)} RoPEs, and only run takes "
            "several; give one value"
        )
    return choices[0]


def _rate(encoded: Sequence[int], seconds: float) -> str:
    """Frames per second of this start, without those that were encoded before."""
    from vniah.embeddings.batches import BATCH_SIZE

    num_frames = encoded[-1] - max(0, encoded[1] - BATCH_SIZE)
    return f"{num_frames / seconds:.1f} frames/s"


def check(options: argparse.Namespace) -> int:
    """Says what a model lacks, then compares vniah's forward pass with the model's own."""
    rope = _only_rope(options)
    load_libraries()
    from vniah.checks.model import check_model
    from vniah.models.server.client import is_server
    from vniah.needles import load_needles

    needles = load_needles(needles_name(options))
    with open_job(options) as mesh:
        model = load_named_model(options, rope, mesh, load_any=True)
        # Requests to a server may be billed, so only its token counts are checked, once per length.
        if not is_server(options.model) and not _conforms(model, needles, mesh):
            return 1
        if not mesh.is_leader:
            mesh.wait_for("encoded")
        report = check_model(
            model,
            needles,
            group=mesh.context_group,
            attention=options.attn,
            cache=options.cache,
            on_prepared=lambda: mesh.announce("encoded") if mesh.is_leader else None,
        )
    if mesh.is_leader:
        for line in report.lines:
            show(line)
    return 0 if report.passed else 1


def models(options: argparse.Namespace) -> int:
    """Prints the table of model families."""
    from vniah.models.families import FAMILIES
    from vniah.models.loading import embedded_models

    width = shutil.get_terminal_size().columns
    show_lines(format_families(FAMILIES.values(), width=width))
    show_lines(
        "\nsharing: which samples share computation. ring: if --context-parallel works.\n"
        "The tests compare the logits of llava_* with the rules of the original package,\n"
        "written again, and those of all others with their own forward pass on pixels.\n"
    )
    embedded = f"embedded: {', '.join(embedded_models())}"
    show_lines(fill(embedded, width, break_on_hyphens=False))
    show("any other: package.module:factory")
    return 0


def _conforms(model: "AnyModel", needles: "NeedleSet", mesh: "Mesh") -> bool:
    """True if the model has no fatal fault; the leader examines it and prints what it finds."""
    from vniah.checks.conformance import examine

    if mesh.is_leader:
        found = examine(model, needles)
        for line in found.lines:
            show(line)
        mesh.count("not conforming", not found.passed)
        mesh.announce("examined")
    mesh.wait_for("examined")
    return mesh.count("not conforming") == 0


def estimate(options: argparse.Namespace) -> int:
    """Prints the memory, operations and time that a run will take."""
    grid, rope = parse_grid(options), _only_rope(options)
    load_libraries()
    from vniah.needles import load_needles
    from vniah.sweep.estimate import estimate

    needles = load_needles(needles_name(options))
    found = estimate(
        load_named_model(options, rope),
        needles,
        grid,
        task=options.task,
        task_options=task_options(options),
        controls=options.controls,
        num_ranks=options.context_parallel,
        attention=options.attn,
    )
    show_lines(format_estimate(found))
    return 0 if found.memory.fits else 1


def plot(options: argparse.Namespace) -> int:
    """Draws the heatmaps of runs or published tables."""
    from vniah.analysis.labels import rope_remarks
    from vniah.results import load_results

    runs = [load_results(path) for path in options.results]
    output, first = options.output, runs[0].path
    if output is None:
        output = first / HEATMAP_NAME if first.is_dir() and len(runs) == 1 else Path(HEATMAP_NAME)
        by = [options.by] * (options.by is not None) + ["groups"] * options.groups
        output = output.with_stem("-".join((output.stem, *map(slug, by))))
    runs = [panel for run in runs for panel in _panels(run, options.by, options.groups)]
    picture = load_plot().save_heatmaps(
        runs,
        output,
        training_tokens=options.training_length,
        tokens_per_frame=options.tokens_per_frame,
    )
    for results, remark in zip(runs, rope_remarks(runs), strict=True):
        name = ", ".join(filter(None, (results.name, results.part, remark)))
        show(f"{name}: {format_average(results)}")
    show(f"heatmap: {picture}")
    return 0


def _panels(run: "Results", by: str | None, groups: bool) -> "list[Results]":
    """What is drawn of one run: all of it, or one part for each value of the field ``by``.

    Raises:
        ResultsError: no sample has the field, it has too many values, or there are no groups.
    """
    from vniah.results import facet_results, group_results

    parts = [run] if by is None else list(facet_results(run, by).values())
    if len(parts) > _MOST_PANELS:
        raise ResultsError(
            f"{by} has {len(parts):,} values in {run.path}, and one picture shows at most "
            f"{_MOST_PANELS}; choose another field"
        )
    if not groups:
        return parts
    panels = []
    for part in parts:
        if (whole := group_results(part)) is None:
            raise ResultsError(f"the samples of {run.path} have no groups; leave out --groups")
        panels += [part, whole]
    return panels


def compare(options: argparse.Namespace) -> int:
    """Prints whether a candidate's scores fell below those of a baseline."""
    from vniah.analysis.compare import compare

    comparison = compare(options.baseline, options.candidate, max_drop=options.max_drop)
    if comparison.warning:
        tell(f"warning: {comparison.warning}")
    if comparison.fallen:
        show_lines(comparison.table())
    show(comparison.summary())
    return 0 if comparison.passed else 1


def make_haystack(options: argparse.Namespace) -> int:
    """Writes a generated haystack video."""
    from vniah.haystacks.haystack import make_haystack
    from vniah.sweep.progress import Bars

    with Bars(not options.quiet) as bars:
        path = make_haystack(
            options.path,
            seconds=options.seconds,
            seed=options.seed,
            fps=options.fps,
            size=options.size,
            overwrite=options.overwrite,
            on_progress=lambda done, total: bars.show("draw", done, total),
        )
    show(f"haystack: {path}")
    return 0
