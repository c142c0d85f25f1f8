"""The command ``plot``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vniah.cli.environment import load_plot
from vniah.cli.measures import format_measure_average
from vniah.cli.outcomes import heatmap_name
from vniah.cli.printing import show
from vniah.errors import InputError, ResultsError, counted
from vniah.files import slug

if TYPE_CHECKING:
    from vniah.results import Results

_MOST_PANELS = 60

_TAKEN = {
    "heatmap": (
        *("--value", "--training-length", "--tokens-per-frame", "--by", "--groups"),
        *("--palette", "--annotate", "--second-axis", "--width", "--columns", "--no-caption"),
    ),
    "lengths": (
        *("--value", "--training-length", "--tokens-per-frame", "--by", "--groups"),
        *("--width", "--no-caption"),
    ),
    "difference": ("--width", "--no-caption", "--allow-approximate"),
    "controls": ("--palette", "--width", "--columns", "--no-caption"),
    "needles": ("--by", "--palette", "--annotate", "--width", "--columns", "--no-caption"),
    "retention": ("--by", "--width", "--columns", "--no-caption"),
    "attention": ("--by", "--cell", "--width", "--columns", "--no-caption"),
}
"""Options that some kinds of picture take, and others do not."""


def plot(options: argparse.Namespace) -> int:
    """Draws the heatmaps of runs or published tables, or other pictures of runs."""
    from vniah.analysis.labels import result_labels
    from vniah.results import load_results

    _require_taken(options)
    runs = [load_results(path) for path in options.results]
    output, first = options.output, runs[0].path
    if output is None:
        name = _file_name(options.kind, options.value)
        output = first / name if first.is_dir() and len(runs) == 1 else Path(name)
        by = [options.by] * (options.by is not None) + ["groups"] * options.groups
        output = output.with_stem("-".join((output.stem, *map(slug, by))))
    runs = [panel for run in runs for panel in _panels(run, options.by, options.groups)]
    picture = _save(options, runs, output)
    for results, name in zip(runs, result_labels(runs), strict=True):
        average, *sentences = _summary(results, options.value)
        show(f"{name}: {average}")
        for sentence in sentences:
            show(f"  {sentence}")
    show(f"{options.kind}: {picture}")
    return 0


def _file_name(kind: str, value: str) -> str:
    if kind == "heatmap":
        return heatmap_name(value)
    return f"{kind}.png" if value == "correct" else f"{kind}-{slug(value)}.png"


def _save(options: argparse.Namespace, runs: "list[Results]", output: Path) -> Path:
    """Draws the kind of picture that is asked for."""
    plots, kind = load_plot(), options.kind
    frame = {"width": options.width, "caption": options.caption}
    size = {**frame, "columns": options.columns}
    colors = {} if options.palette is None else {"palette": options.palette}
    what = {
        "value": options.value,
        "training_tokens": options.training_length,
        "tokens_per_frame": options.tokens_per_frame,
    }
    if kind == "difference":
        before, after = _halves(runs) or _exactly(2, runs, kind)
        allowed = options.allow_approximate
        picture = plots.save_difference_map(
            before, after, output, **frame, allow_approximate=allowed
        )
    elif kind == "controls":
        picture = plots.save_controls(*_exactly(1, runs, kind), output, **colors, **size)
    elif kind == "needles":
        picture = plots.save_needle_maps(runs, output, **colors, **size, annotate=options.annotate)
    elif kind == "retention":
        picture = plots.save_retention_curves(runs, output, **size)
    elif kind == "attention":
        picture = plots.save_attention_maps(runs, output, cell=options.cell, **size)
    elif kind == "lengths":
        picture = plots.save_length_curves(runs, output, **what, **frame)
    else:
        picture = plots.save_heatmaps(
            runs,
            output,
            **what,
            **colors,
            annotate=options.annotate,
            second_axis=options.second_axis,
            **size,
        )
    return cast("Path", picture)


def _halves(runs: "list[Results]") -> "list[Results] | None":
    """Of one run with an intervention, its samples without it and with it; else None."""
    from vniah.results.applied import applied_results

    after = applied_results(runs[0]) if len(runs) == 1 else None
    return None if after is None else [runs[0], after]


def _exactly(number: int, runs: "list[Results]", kind: str) -> "list[Results]":
    if len(runs) != number:
        raise InputError(
            f"a picture of the kind {kind} is of exactly {counted(number, 'result')}, got "
            f"{len(runs)}"
        )
    return runs


def _require_taken(options: argparse.Namespace) -> None:
    """Raises `InputError` if an option is given that this kind of picture does not take."""
    given = {
        "--value": options.value != "correct",
        "--training-length": options.training_length is not None,
        "--tokens-per-frame": options.tokens_per_frame is not None,
        "--by": options.by is not None,
        "--groups": options.groups,
        "--cell": options.cell is not None,
        "--palette": options.palette is not None,
        "--annotate": options.annotate,
        "--second-axis": options.second_axis is not None,
        "--width": options.width is not None,
        "--columns": options.columns is not None,
        "--no-caption": not options.caption,
        "--allow-approximate": options.allow_approximate,
    }
    for name, is_given in given.items():
        if is_given and name not in _TAKEN.get(options.kind, ()):
            kinds = ", ".join(kind for kind, names in _TAKEN.items() if name in names)
            raise InputError(
                f"{name} is for pictures of the kinds {kinds}; leave it out with --kind "
                f"{options.kind}"
            )


def _summary(results: "Results", value: str) -> list[str]:
    from vniah.analysis.sentences import format_summary

    if value == "correct":
        return format_summary(results)
    return [format_measure_average(results, results.measure(value))]


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
