"""The commands ``perplexity measure``, ``perplexity table`` and ``perplexity plot``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.cli.environment import load_plot
from vniah.cli.haystacks import (
    has_reading_options,
    open_named_haystack,
    require_named_haystack,
)
from vniah.cli.inputs import load_libraries, load_named_model
from vniah.cli.printing import comment, show, show_lines
from vniah.cli.sweeps.session import override_rope
from vniah.cli.tables import style_of, write_table
from vniah.errors import HaystackError, InputError, counted
from vniah.files import hash_text
from vniah.options.rope import RopeChoice, rope_choices
from vniah.results.folders import require_no_perplexity

if TYPE_CHECKING:
    from vniah.haystacks.text import TextHaystack
    from vniah.protocol import AnyModel
    from vniah.results.perplexity import PerplexityResults
    from vniah.sweep.perplexity import FramesBefore

PICTURE_NAME = "perplexity.png"

_VIDEO = "--video"


def measure_documents(options: argparse.Namespace) -> int:
    """Measures some documents with each RoPE, prints the table of their buckets, draws curves."""
    choices = rope_choices(options.rope_theta, options.rope_scaling)
    load_libraries()
    load_plot()  # what is lacking for the picture is said before a document is read
    from vniah.analysis.perplexity import require_bucket
    from vniah.sweep.perplexity import require_counts

    require_counts(options.tokens, options.documents)
    if options.bucket is not None:
        require_bucket(options.bucket, options.tokens)
    if len(choices) > 1:
        _require_several(choices, options.output)
    of_video = _options_of_video(options)
    haystack = _open_text(options)
    model = load_named_model(of_video, choices[0] if len(choices) == 1 else RopeChoice())
    frames = None if options.frames is None else _open_frames(of_video, model)
    comment(
        f"{model.name} on {haystack.name}: {counted(options.documents, 'document')} of "
        f"{options.tokens:,} tokens{'' if frames is None else _about_frames(frames)}"
    )
    if len(choices) == 1:
        results = [_measure(options, model, haystack, frames, options.output)]
    else:
        for choice in choices:  # what cannot be had is said before anything is measured
            override_rope(model, choice)
        results = []
        for choice in choices:
            override_rope(model, choice)
            comment(choice.label)
            output = None if options.output is None else options.output / choice.folder_name
            results.append(_measure(options, model, haystack, frames, output))
            show(f"results: {results[-1].path}")
    _show_measured(results, options)
    return 0


def _require_several(choices: Sequence[RopeChoice], output: Path | None) -> None:
    """Raises unless the curves of all RoPEs can be drawn, and have a folder for theirs."""
    from vniah.analysis.plot.lines import MOST_LINES

    if len(choices) > MOST_LINES:
        raise InputError(
            f"--rope-theta and --rope-scaling name {len(choices)} RoPEs, and one picture has at "
            f"most {MOST_LINES} curves; give fewer"
        )
    if output is not None:
        require_no_perplexity(output, "the results of several RoPEs need")


def _options_of_video(options: argparse.Namespace) -> argparse.Namespace:
    """The options with --video in place of --haystack, which here is the text.

    Raises:
        InputError: an option of a video is given without --frames.
        VniahError: there is no such video.
    """
    found = argparse.Namespace(**{**vars(options), "haystack": options.video})
    if options.frames is not None:
        require_named_haystack(found, option=_VIDEO)
    elif options.video is not None or options.cache is not None or has_reading_options(found):
        raise InputError(
            f"{_VIDEO}, --cache and the options of how a video is read are for documents that "
            "follow frames: add --frames N"
        )
    return found


def _open_text(options: argparse.Namespace) -> "TextHaystack":
    """The text of --haystack."""
    from vniah.haystacks.text import open_text

    needed = (options.tokens + 512) * options.documents
    try:
        return open_text(options.haystack, num_tokens=needed)
    except HaystackError as error:
        if options.frames is None:
            raise
        raise HaystackError(
            f"{error} --haystack is the text; the frames that it follows are those of {_VIDEO}."
        ) from error


def _open_frames(of_video: argparse.Namespace, model: "AnyModel") -> "FramesBefore":
    """The first frames of the video, after it is known that the model can read them."""
    from vniah.sweep.perplexity import FramesBefore, require_frames
    from vniah.sweep.progress import Bars

    require_frames(model, of_video.frames, of_video.tokens)
    with Bars(not of_video.quiet) as bars:
        video = open_named_haystack(of_video, of_video.frames, bars, option=_VIDEO)
    return FramesBefore(video, of_video.frames, of_video.cache)


def _about_frames(frames: "FramesBefore") -> str:
    from vniah.haystacks.frames import unit_of

    unit = unit_of(frames.haystack)
    return f", each after {counted(frames.num_frames, unit)} of {frames.haystack.name}"


def _measure(
    options: argparse.Namespace,
    model: "AnyModel",
    haystack: "TextHaystack",
    frames: "FramesBefore | None",
    output: Path | None,
) -> "PerplexityResults":
    from vniah.sweep.perplexity import measure_perplexity

    return measure_perplexity(
        model,
        haystack,
        num_tokens=options.tokens,
        num_documents=options.documents,
        frames=frames,
        output=output,
        overwrite=options.overwrite,
        attention=options.attn,
        progress=not options.quiet,
    )


def _show_measured(results: "Sequence[PerplexityResults]", options: argparse.Namespace) -> None:
    from vniah.analysis.perplexity_tables import format_perplexities

    show_lines(format_perplexities(results, "text", options.bucket))
    picture = _picture_of(results, options.output)
    load_plot().save_perplexity_curves(results, picture, bucket=options.bucket)
    if len(results) == 1:
        show(f"results: {results[0].path}")
    show(f"perplexity: {picture}")


def _picture_of(results: "Sequence[PerplexityResults]", output: Path | None) -> Path:
    """Where the curves of a command lie: beside what it measured."""
    if len(results) == 1:
        return results[0].path / PICTURE_NAME
    if output is not None:
        return output / PICTURE_NAME
    names = [one.path.name for one in results]
    return results[0].path.with_name(f"perplexity-{hash_text(' '.join(names))[:8]}.png")


def tabulate(options: argparse.Namespace) -> int:
    """Prints or writes a table of results."""
    style = options.format or style_of(options.output)
    from vniah.analysis.perplexity_tables import format_perplexities

    write_table(format_perplexities(_load(options), style, options.bucket), options.output)
    return 0


def draw(options: argparse.Namespace) -> int:
    """Draws the curves of results into one picture."""
    from vniah.analysis.perplexity import perplexity_labels, summarize_perplexity

    results = _load(options)
    output = options.output
    if output is None:
        given: list[Path] = options.results
        output = given[0] / PICTURE_NAME if len(given) == 1 else Path(PICTURE_NAME)
    picture = load_plot().save_perplexity_curves(
        results,
        output,
        bucket=options.bucket,
        training_tokens=options.training_length,
        width=options.width,
        caption=options.caption,
    )
    for name, found in zip(perplexity_labels(results), results, strict=True):
        for sentence in summarize_perplexity(found):
            show(f"{name}: {sentence}")
    show(f"perplexity: {picture}")
    return 0


def _load(options: argparse.Namespace) -> "list[PerplexityResults]":
    from vniah.results.perplexity import find_perplexity, load_perplexity

    return [load_perplexity(one) for path in options.results for one in find_perplexity(path)]
