"""``vniah check --one-pass``: how agreement and cost of one pass change with its window."""

import argparse
from typing import TYPE_CHECKING

from vniah.analysis.tables import format_columns
from vniah.cli.environment import load_plot
from vniah.cli.haystacks import open_named_haystack, open_named_text
from vniah.cli.inputs import (
    load_named_needles,
    needles_name,
    parse_grid,
    shows_text,
    task_options,
    what_is_read,
)
from vniah.cli.printing import show, show_lines
from vniah.errors import InputError
from vniah.options import DEFAULT_DEPTHS
from vniah.options.approximation import DEFAULT_VERIFIED

if TYPE_CHECKING:
    from vniah.protocol import AnyModel

DEFAULT_FRAMES, DEFAULT_TOKENS = "16,64,256", "256,1024"
"""Lengths that are tried if none are given: of frames, or of text."""


def require_one_pass(options: argparse.Namespace) -> None:
    """Raises `InputError` for options of --one-pass where it is not given, or cannot be run."""
    if options.one_pass:
        if options.context_parallel > 1:
            raise InputError(
                "--one-pass holds the states of the haystack in one process: leave out "
                f"--context-parallel {options.context_parallel}"
            )
        if what_is_read(options) == "questions":
            raise InputError(
                f"--one-pass shares the states of a haystack among needles, and the task "
                f"{options.task} hides none: give another --task"
            )
        return
    for name, default in options.of_one_pass.items():
        if getattr(options, name) != default:
            raise InputError(
                f"--{name.replace('_', '-')} is for the check of one pass over a haystack: add "
                "--one-pass, or leave it out"
            )


def check_windows(options: argparse.Namespace, model: "AnyModel") -> bool:
    """Prints the table of windows, and draws it; returns whether the whole window is exact."""
    plot = None if options.output is None else load_plot()  # what it lacks is said at once
    from vniah.engines.inputs import reads_only_text
    from vniah.sweep.progress import Bars
    from vniah.sweep.windows import measure_windows

    if options.task is None:
        is_text = options.tokens is not None or reads_only_text(model)
        options.task = "niah" if is_text else "vniah"
        if is_text and options.frames is None and options.tokens is None:
            options.tokens = DEFAULT_TOKENS
    options.frames = options.frames or DEFAULT_FRAMES
    options.depths = options.depths or DEFAULT_DEPTHS
    is_text, grid = shows_text(options), parse_grid(options)
    needles = load_named_needles(needles_name(options))
    with Bars(not options.quiet) as bars:
        found = measure_windows(
            model,
            open_named_text(options, grid.max_frames)
            if is_text
            else open_named_haystack(options, grid.max_frames, bars),
            needles,
            grid,
            windows=options.windows,
            verify=DEFAULT_VERIFIED if options.verify is None else options.verify,
            task=options.task,
            task_options=task_options(options),
            attention=options.attn,
            cache=options.cache,
            on_progress=bars.show,
        )
    show()
    for line in found.about:
        show(line)
    show_lines(format_columns(found.rows))
    for line in found.verdict:
        show(line)
    if plot is not None:
        show(f"windows: {plot.save_window_curve(found, options.output)}")
    return found.is_exact
