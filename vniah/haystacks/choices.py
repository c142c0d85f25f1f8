"""Which choices go with which kind of haystack: videos, folders of images, PDFs."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import get_args

from vniah.errors import InputError, short_repr
from vniah.haystacks.paths import read_paths
from vniah.haystacks.pdf import is_pdf, require_dpi
from vniah.haystacks.video.sampling import read_rate
from vniah.options import Decoder, Sampling


def read_choices(
    source: str | Path | Sequence[str | Path],
    sampling: Sampling = "clock",
    decoder: Decoder = "pyav",
    stream: int | None = None,
    assume_fps: int | str | Fraction | None = None,
) -> tuple[tuple[Path, ...], Fraction | None]:
    """The paths of a haystack and the rate of bare streams, if they go with the other choices.

    The arguments and errors are those of `vniah.haystacks.haystack.open_haystack`.
    """
    paths = read_paths(source)
    is_video = not paths[0].is_dir() and not any(map(is_pdf, paths))
    require_known_choices(sampling, decoder, is_video=is_video)
    rate = None if assume_fps is None else read_rate(assume_fps)
    if stream is not None and type(stream) is not int:
        raise InputError(f"stream must be a whole number, got {short_repr(stream)}.")
    if not is_video and (stream is not None or rate is not None):
        raise InputError("stream and assume_fps are for videos, not for a folder of images.")
    return paths, rate


def require_choices_of_pages(
    paths: tuple[Path, ...],
    *,
    keep_damaged: bool = False,
    pages: bool = False,
    dpi: int | None = None,
) -> None:
    """Raises `InputError` unless these choices go with the paths."""
    found = [path for path in paths if is_pdf(path)] if not paths[0].is_dir() else []
    if found and len(paths) > 1:
        raise InputError(f"{found[0]} is a PDF among several paths. A haystack is one PDF, alone.")
    if dpi is not None:
        require_dpi(dpi)
        if not found:
            raise InputError(
                f"dpi is for the pages of a PDF, which {paths[0]} is not; leave it out."
            )
    if found and keep_damaged:
        raise InputError("keep_damaged is for videos and images; a PDF is read whole or refused.")
    if pages and not found and not paths[0].is_dir():
        raise InputError(f"pages is for a folder of images, and {paths[0]} is none; leave it out.")


def require_known_choices(sampling: str, decoder: str, *, is_video: bool) -> None:
    """Raises `InputError` for an unknown choice, or one that only videos have."""
    for field, given, choices in (
        ("sampling", sampling, get_args(Sampling)),
        ("decoder", decoder, get_args(Decoder)),
    ):
        if given not in choices:
            raise InputError(f"{field} must be one of {', '.join(choices)}, got {given!r}.")
        if given != choices[0] and not is_video:
            raise InputError(
                f"{field} {given!r} is for videos; every image of a folder is a frame. Leave it at "
                f"{choices[0]!r}."
            )
