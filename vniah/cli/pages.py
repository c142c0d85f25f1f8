"""What the pages of a haystack decide: the size at which they are read, and their needles."""

import argparse
from pathlib import Path

from vniah.errors import InputError


def has_pages(options: argparse.Namespace) -> bool:
    """Whether the haystack of --haystack is a document: a PDF, or a folder that is read as one."""
    from vniah.haystacks.pdf import is_pdf

    haystack = getattr(options, "haystack", None)
    if not isinstance(haystack, list) or len(haystack) != 1:
        return False
    path = Path(haystack[0])
    return getattr(options, "images", None) == "grids" if path.is_dir() else is_pdf(path)


def page_size(options: argparse.Namespace) -> tuple[int, int] | None:
    """The size at which pages are read: that of --frame-size, else the size that most pages have.

    None for a haystack that has no pages.
    """
    from vniah.haystacks.pages import usual_page_size

    if not has_pages(options):
        return None
    given: tuple[int, int] | None = options.frame_size
    return given or usual_page_size(options.haystack, dpi=getattr(options, "dpi", None))


def frame_size(options: argparse.Namespace) -> tuple[int, int] | None:
    """The size to which a model scales pictures: --frame-size, or that of pages read as grids.

    Raises:
        InputError: pictures that are no pages are to be read as grids, and no size is given.
    """
    given: tuple[int, int] | None = options.frame_size
    if given is not None or getattr(options, "images", "frames") == "frames":
        return given
    found = page_size(options)
    if found is None:
        raise InputError(
            "--images grids brings all pictures to one size, which the pages of a folder of images "
            "or of a PDF have: give one of these, or a size, such as --frame-size 816x1056"
        )
    return found
