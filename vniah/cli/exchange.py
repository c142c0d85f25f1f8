"""The commands ``vniah export`` and ``vniah import``."""

import argparse
from typing import TYPE_CHECKING

from vniah.cli.display import scaled
from vniah.cli.haystacks import open_named_haystack, open_named_questions, open_named_text
from vniah.cli.inputs import (
    load_libraries,
    load_named_needles,
    needles_name,
    parse_grid,
    task_options,
    what_is_read,
)
from vniah.cli.outcomes import draw_heatmaps, show_results
from vniah.cli.printing import comment, show
from vniah.errors import InputError, counted
from vniah.grid import Grid
from vniah.options import DEFAULT_QUANTIZER

if TYPE_CHECKING:
    from vniah.haystacks.haystack import Haystack
    from vniah.sweep.exchange.export import Export
    from vniah.tasks.vqa.opening import QuestionVideos

DEFAULT_NEEDLES = "counterfactual"


def export(options: argparse.Namespace) -> int:
    """Writes the samples of a grid as videos, or as texts, with questions."""
    grid, of_task, reads = parse_grid(options), task_options(options), what_is_read(options)
    if reads == "text":
        return _export_texts(options, grid)
    if options.tokenizer is not None:
        raise InputError(
            f"--tokenizer counts the tokens of texts, and the task {options.task} shows frames: "
            "leave it out, or give a task of text, --task niah"
        )
    load_libraries()
    from vniah.sweep.exchange.export import export_samples
    from vniah.sweep.progress import Bars

    is_film = reads == "frames"
    needles = load_named_needles(
        (options.needles or DEFAULT_NEEDLES) if is_film else needles_name(options)
    )
    with Bars(not options.quiet) as bars:
        haystack: Haystack | QuestionVideos
        if is_film:
            haystack = open_named_haystack(options, grid.max_frames, bars)
            _announce(options, haystack.name, grid, counted(len(needles), "needle"))
        else:
            haystack = open_named_questions(options, bars)
            _announce(options, haystack.name, grid, counted(len(haystack.questions), "question"))
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
    return _show_export(found, f" with {counted(found.num_videos, 'video')}")


def _export_texts(options: argparse.Namespace, grid: Grid) -> int:
    if options.frame_size is not None or options.quantizer != DEFAULT_QUANTIZER:
        raise InputError(
            f"--frame-size and --quantizer are for videos, and the task {options.task} shows text; "
            "leave them out"
        )
    if options.tokenizer is None:
        raise InputError(
            "the length of a text counts in tokens, and an export knows no model: give "
            "--tokenizer, a folder or a hub id with the tokenizer.json of the one that is to answer"
        )
    load_libraries()
    from vniah.models.tokenizers import open_counter
    from vniah.needles import load_needles
    from vniah.sweep.exchange.texts import export_texts

    needles, tokenizer = load_needles(needles_name(options)), open_counter(options.tokenizer)
    haystack = open_named_text(options, grid.max_frames)
    _announce(options, haystack.name, grid, counted(len(needles), "needle"))
    found = export_texts(
        haystack,
        needles,
        grid,
        tokenizer=tokenizer,
        output=options.output,
        task=options.task,
        task_options=task_options(options),
        controls=options.controls,
        overwrite=options.overwrite,
    )
    if not found.num_written:
        comment("nothing to do: every text of this export is there already")
    return _show_export(found, "")


def _announce(options: argparse.Namespace, haystack_name: str, grid: Grid, asked: str) -> None:
    """Says what is exported; ``asked`` is what is asked in each cell, in words."""
    comment(
        f"{options.task} on {haystack_name}: {counted(len(grid.cells), 'cell')} x {asked} -> "
        f"{options.output}"
    )


def _show_export(found: "Export", videos: str) -> int:
    for note in found.notes:
        show(f"note: {note}")
    show(
        f"export: {counted(found.num_samples, 'sample')}{videos}, "
        f"{scaled(found.num_bytes, 'B')}: {found.path}"
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
