"""The command ``vniah show``: a contact sheet of one sample, and its texts."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vniah.cli import values
from vniah.cli.environment import load_matplotlib
from vniah.cli.haystacks import (
    open_named,
    open_named_haystack,
    open_named_questions,
    open_named_text,
)
from vniah.cli.inputs import (
    load_libraries,
    load_named_model,
    load_named_needles,
    needles_name,
    only_rope,
    task_options,
)
from vniah.cli.printing import show, show_lines
from vniah.errors import InputError
from vniah.grid import Grid
from vniah.options import DEFAULT_MODEL
from vniah.results import MANIFEST_NAME, Results, load_results

if TYPE_CHECKING:
    from vniah.haystacks.frames import AnyHaystack
    from vniah.needles import NeedleSet
    from vniah.protocol import AnyModel
    from vniah.sweep.progress import Bars

DEFAULT_SHOWN_FRAMES, DEFAULT_SHOWN_DEPTHS = "32", "0.5"


def show_sample(options: argparse.Namespace) -> int:
    """Draws a sample and prints its texts."""
    run, sample_id = _named(options.names)
    only_rope(options)
    load_libraries()
    load_matplotlib()
    from vniah.haystacks.frames import unit_of
    from vniah.show.sample import file_name, show_sample
    from vniah.show.selection import narrowed, planned_id
    from vniah.sweep.progress import Bars
    from vniah.tasks import recorded

    results = None if run is None else recorded.require_run(load_results(run))
    if results is not None and (sample_id is not None or not _chooses(options)):
        sample_id = planned_id(results, sample_id)
    notes: list[str] = []
    grid = _grid(options, None if results is None else recorded.grid_of(results))
    if sample_id is not None:
        grid = narrowed(grid, sample_id)
    with Bars(not options.quiet) as bars:
        model = _load_model(options, results, notes)
        needles = _load_needles(options, results)
        haystack = _open_haystack(options, results, grid.max_frames, bars)
        bars.unit = unit_of(haystack)
        task, its_options = options.task, task_options(options)
        if results is not None and task is None:
            task, own = recorded.task_of(results)
            its_options = own | its_options
        shown = show_sample(
            model,
            haystack,
            needles,
            grid,
            sample_id,
            needle_id=options.needle,
            task=task or "vniah",
            task_options=its_options,
            controls=options.controls or "all",
            results=results,
            around=options.around,
            notes=notes,
            on_progress=lambda done, total: bars.show("read", done, total),
        )
    show_lines(shown.text)
    default = Path(file_name(shown.sample.sample_id))
    picture = shown.save(options.output or (default if run is None else Path(run) / default))
    show(f"picture: {picture}")
    return 0


def _named(names: Sequence[str]) -> tuple[str | None, str | None]:
    """The run and the sample that are named.

    Raises:
        InputError: there are more names than these two.
    """
    if len(names) > 2:
        raise InputError(
            f"show takes a run's folder and the id of one sample, got {len(names)} names"
        )
    if len(names) == 2:
        return names[0], names[1]
    if not names:
        return None, None
    is_run = Path(names[0], MANIFEST_NAME).is_file()
    return (names[0], None) if is_run else (None, names[0])


def _chooses(options: argparse.Namespace) -> bool:
    """True if options say which sample is meant."""
    return any(
        getattr(options, name) is not None
        for name in ("needle", "frames", "tokens", "depths", "positions")
    )


def _grid(options: argparse.Namespace, of_run: Grid | None) -> Grid:
    """The grid of the options; what they leave open is that of the run, or one small cell."""
    if of_run is None:
        of_run = Grid.parse(DEFAULT_SHOWN_FRAMES, DEFAULT_SHOWN_DEPTHS)
    lengths, unit = (
        (options.frames, "frames") if options.tokens is None else (options.tokens, "tokens")
    )
    frames = of_run if lengths is None else Grid.parse(lengths, "0", unit=unit)
    if options.positions is not None:
        rows = Grid.parse(str(10**6), positions=options.positions)
    else:
        rows = of_run if options.depths is None else Grid.parse("1", options.depths)
    return Grid.of(frames.frames, rows.depths, positions=rows.positions)


def _load_model(
    options: argparse.Namespace, results: Results | None, notes: list[str]
) -> "AnyModel | None":
    """The model of --model; by default that of the run, if it comes with vniah."""
    from vniah.models.loading import embedded_models
    from vniah.models.packaged import PACKAGED

    record = None if results is None else results.manifest["model"]
    if record is not None:
        _read_pictures_alike(options, record)
    if options.model is None:
        options.model = DEFAULT_MODEL if record is None else str(record["name"])
        if record is not None and options.model not in (*embedded_models(), *PACKAGED):
            if not options.no_model:
                notes.append(
                    f"the model {options.model} of the run is not loaded; give --model for its "
                    "prompt and its tokens"
                )
            return None
    if options.no_model:
        return None
    model = load_named_model(options, only_rope(options))
    if record is not None and record.get("revision") not in (None, str(model.revision)):
        notes.append(
            f"the run measured revision {record['revision']} of {record['name']}, and this is "
            f"{model.revision} of {model.name}"
        )
    return model


def _read_pictures_alike(options: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Has pictures read as grids where the run did, at its size; what is given is left alone."""
    if record.get("images") != "grids" or options.images == "grids":
        return
    options.images = "grids"
    if options.frame_size is None and isinstance(record.get("frame_size"), str):
        options.frame_size = values.size(record["frame_size"])


def _load_needles(options: argparse.Namespace, results: Results | None) -> "NeedleSet":
    from vniah.needles import load_needles
    from vniah.tasks.recorded import needles_of

    if results is None:
        return load_named_needles(needles_name(options))
    given = None if options.needles is None else load_needles(options.needles)
    return needles_of(results, given)


def _open_haystack(
    options: argparse.Namespace, results: Results | None, num_frames: int, bars: "Bars"
) -> "AnyHaystack":
    from vniah.tasks.recorded import haystack_of, questions_of, text_of

    if results is None:
        return open_named(options, num_frames, bars)
    if results.axis == "tokens":
        text = None if options.haystack is None else open_named_text(options, num_frames)
        return text_of(results, text, num_frames)
    if results.manifest["haystack"].get("kind") == "questions":
        asked = None if options.haystack is None else open_named_questions(options, bars)
        return questions_of(results, asked)
    given = None if options.haystack is None else open_named_haystack(options, num_frames, bars)
    return haystack_of(results, given, num_frames)
