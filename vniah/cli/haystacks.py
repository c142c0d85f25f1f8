"""Opens the haystack that a command's options name, or only looks whether it is there."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vniah.cli.inputs import what_is_read
from vniah.errors import InputError

if TYPE_CHECKING:
    from vniah.haystacks.frames import AnyHaystack
    from vniah.haystacks.haystack import Haystack
    from vniah.haystacks.text import TextHaystack
    from vniah.sweep.progress import Bars
    from vniah.tasks.vqa.opening import QuestionVideos


def open_named(options: argparse.Namespace, num_frames: int, bars: "Bars") -> "AnyHaystack":
    """What the task of --task reads, of --haystack: a film, a text, or a question set.

    Args:
        options: of the command.
        num_frames: so many frames, or tokens, are needed.
        bars: show how far films are drawn and videos read.
    """
    reads = what_is_read(options)
    if reads == "text":
        return open_named_text(options, num_frames)
    if reads == "questions":
        return open_named_questions(options, bars)
    return open_named_haystack(options, num_frames, bars)


def open_named_text(options: argparse.Namespace, num_tokens: int) -> "TextHaystack":
    """The text of --haystack; by default generated prose of at least so many tokens."""
    from vniah.haystacks.text import open_text

    _require_choices_of_text(options)
    source = None if options.haystack is None else options.haystack[0]
    return open_text(source, num_tokens=num_tokens)


def open_named_haystack(
    options: argparse.Namespace, num_frames: int, bars: "Bars", *, option: str = "--haystack"
) -> "Haystack":
    """The haystack of --haystack; by default a generated video with ``num_frames`` seconds.

    Args:
        options: of the command.
        num_frames: the number of frames that are needed.
        bars: show what is drawn.
        option: what the command calls its --haystack, for messages.
    """
    from vniah.haystacks.haystack import generated_haystack, open_haystack

    if options.haystack is None:
        _require_choices_of_generated(options, option)
        return generated_haystack(
            num_frames, on_progress=lambda done, total: bars.show("draw", done, total)
        )
    haystack = open_haystack(
        options.haystack,
        keep_damaged=options.keep_damaged,
        **_video_choices(options),
        **_page_choices(options),
    )
    bars.unit = haystack.unit
    return haystack


def open_named_questions(options: argparse.Namespace, bars: "Bars") -> "QuestionVideos":
    """The question set of --haystack; by default the drawn one."""
    from vniah.tasks.vqa.drawn import drawn_questions
    from vniah.tasks.vqa.opening import open_questions

    _require_choices_of_questions(options)
    if options.haystack is None:
        return drawn_questions(on_progress=lambda done, total: bars.show("draw", done, total))
    source, videos = _questions_and_videos(options)
    return open_questions(
        source,
        videos=videos,
        keep_damaged=options.keep_damaged,
        on_opened=lambda done, total: bars.show("open", done, total),
    )


def _questions_and_videos(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """The questions of --haystack, and the folder with their videos where it is given."""
    source, *videos = options.haystack
    return source, videos[0] if videos else None


def require_named_haystack(options: argparse.Namespace, *, option: str = "--haystack") -> None:
    """Requires the film, text or question set of --haystack to be there; reads no more of it than
    headers and tables.

    Args:
        options: of the command.
        option: as `open_named_haystack`.

    Raises:
        VniahError: one of the functions above would refuse it.
    """
    reads = what_is_read(options)
    if reads == "questions":
        from vniah.tasks.vqa.opening import require_questions

        _require_choices_of_questions(options)
        if options.haystack is not None:
            source, videos = _questions_and_videos(options)
            require_questions(source, videos=videos, keep_damaged=options.keep_damaged)
    elif reads == "text":
        from vniah.haystacks.text import require_text

        _require_choices_of_text(options)
        if options.haystack is not None:
            require_text(options.haystack[0])
    elif options.haystack is None:
        _require_choices_of_generated(options, option)
    else:
        from vniah.haystacks.haystack import require_haystack

        require_haystack(options.haystack, **_video_choices(options), **_page_choices(options))


def _video_choices(options: argparse.Namespace) -> dict[str, Any]:
    names = ("sampling", "decoder", "stream", "assume_fps")
    return {name: getattr(options, name) for name in names}


def _page_choices(options: argparse.Namespace) -> dict[str, Any]:
    """A folder of images counts as pages where they are read as images, and not as frames."""
    is_folder = len(options.haystack) == 1 and Path(options.haystack[0]).is_dir()
    reads_grids = getattr(options, "images", None) == "grids"
    return {"pages": is_folder and reads_grids, "dpi": options.dpi}


def has_reading_options(options: argparse.Namespace) -> bool:
    """Whether an option is given that says how a video, images or a PDF are read."""
    usual = {"sampling": "clock", "decoder": "pyav", "stream": None, "assume_fps": None}
    is_changed = options.keep_damaged or options.dpi is not None
    return is_changed or _video_choices(options) != usual


def _require_choices_of_generated(options: argparse.Namespace, option: str) -> None:
    if has_reading_options(options):
        raise InputError(
            "--sampling, --decoder, --stream, --assume-fps, --dpi and --keep-damaged are for your "
            f"own videos and pages: add {option}"
        )


def _require_choices_of_questions(options: argparse.Namespace) -> None:
    usual = {"sampling": "clock", "decoder": "pyav", "stream": None, "assume_fps": None}
    if _video_choices(options) != usual:
        raise InputError(
            "--sampling, --decoder, --stream and --assume-fps are for a film, and the task "
            f"{options.task} takes pictures evenly from each video; leave them out"
        )
    if options.haystack is None and options.keep_damaged:
        raise InputError("--keep-damaged is for a question set of your own: add --haystack")
    if options.haystack is not None and len(options.haystack) > 2:
        raise InputError(
            "a question set is one folder, one table or one data set, and after it the folder that "
            f"holds the videos, if they lie elsewhere; got {len(options.haystack)} paths"
        )


def _require_choices_of_text(options: argparse.Namespace) -> None:
    if has_reading_options(options):
        raise InputError(
            "--sampling, --decoder, --stream, --assume-fps, --dpi and --keep-damaged are for "
            f"videos and pages, and the task {options.task} shows text; leave them out"
        )
    if options.haystack is not None and len(options.haystack) > 1:
        raise InputError("a text haystack is one folder or file, one data set, or pydoc; give one")
