"""The commands ``vniah export`` and ``vniah import``."""

import argparse

from vniah.cli.display import scaled
from vniah.cli.haystacks import open_named_haystack
from vniah.cli.inputs import load_libraries, parse_grid, task_options
from vniah.cli.outcomes import draw_heatmaps, show_results
from vniah.cli.printing import comment, show
from vniah.errors import counted


def export(options: argparse.Namespace) -> int:
    """Writes the samples of a grid as videos with questions."""
    grid, of_task = parse_grid(options), task_options(options)
    load_libraries()
    from vniah.needles import load_needles
    from vniah.sweep.exchange.export import export_samples
    from vniah.sweep.progress import Bars

    needles = load_needles(options.needles)
    with Bars(not options.quiet) as bars:
        haystack = open_named_haystack(options, grid.max_frames, bars)
        comment(
            f"{options.task} on {haystack.name}: {counted(len(grid.cells), 'cell')} x "
            f"{counted(len(needles), 'needle')} -> {options.output}"
        )
        found = export_samples(
            haystack,
            needles,
            grid,
            output=options.output,
            task=options.task,
            task_options=of_task,
            controls=options.controls,
            frame_size=options.frame_size,
            quantizer=options.quantizer,
            overwrite=options.overwrite,
            on_progress=bars.show,
        )
    if not found.num_written:
        comment("nothing to do: every video of this export is there already")
    for note in found.notes:
        show(f"note: {note}")
    show(
        f"export: {counted(found.num_samples, 'sample')} with {counted(found.num_videos, 'video')}"
        f", {scaled(found.num_bytes, 'B')}: {found.path}"
    )
    return 0


def import_answers(options: argparse.Namespace) -> int:
    """Makes a run of answers to an export, prints its table and draws its heatmap."""
    load_libraries()
    from vniah.sweep.exchange.importing import controls_of, import_answers

    results = import_answers(
        options.answers,
        export=options.export,
        model_name=options.model_name,
        output=options.output,
        revision=options.model_revision,
        overwrite=options.overwrite,
    )
    for note in results.manifest.get("notes", []):
        show(f"note: {note}")
    code = show_results(
        results,
        draw_heatmaps(results, options.output),
        controls=controls_of(options.export),
        again="import answers to such samples, and only these are added",
    )
    if not results.is_complete:
        lacking = (results.num_planned or 0) - (results.num_done or 0)
        show(
            f"not complete: {lacking:,} of {counted(results.num_planned or 0, 'sample')} have no "
            "answer yet; import them into the same folder when they are there"
        )
        code = 1
    return code
