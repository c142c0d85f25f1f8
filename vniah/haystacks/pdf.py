"""The pages of a PDF as frames, drawn by PDFium at a stated number of pixels per inch.

PDFium comes with the package pypdfium2 (``pip install 'vniah[pdf]'``). Scripts and forms inside a
PDF are not run or filled in. A page has the same pixels with the same version of PDFium, which is
part of the haystack's identity.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vniah.errors import HaystackError, InputError, MissingDependencyError, first_line
from vniah.haystacks.frames import MOST_PIXELS, Frame

DEFAULT_DPI = 96
"""At which A4 has 794 x 1123 pixels, and a letter of 10 points is 13 pixels high."""

_MOST_DPI = 2400
_POINTS = 72  # of an inch
_BEGINS = b"%PDF-"
_WITHIN = 1024  # bytes at the beginning, in which readers look for it


def is_pdf(path: Path) -> bool:
    """True for a file that is called .pdf or begins like one."""
    if path.suffix.lower() == ".pdf":
        return True
    try:
        with path.open("rb") as file:
            return _BEGINS in file.read(_WITHIN)
    except OSError:  # whoever reads it says what is wrong
        return False


def require_dpi(dpi: int) -> int:
    """The number of pixels per inch, if pages can be drawn with it; raises `InputError`."""
    if type(dpi) is not int or not 1 <= dpi <= _MOST_DPI:
        raise InputError(
            f"dpi must be a whole number of pixels per inch from 1 to {_MOST_DPI:,}, got {dpi!r}."
        )
    return dpi


def renderer_name() -> str:
    """What draws the pages, with its version.

    Raises:
        MissingDependencyError: pypdfium2 is not installed.
    """
    pdfium = _import_pdfium(Path("a PDF"))
    return f"pdfium {pdfium.PDFIUM_INFO.build}"


def page_sizes(path: Path, dpi: int) -> list[tuple[int, int]]:
    """Width and height of all pages in pixels, without drawing them.

    Raises:
        HaystackError: it cannot be read, has no pages, or one that is too large.
        MissingDependencyError: pypdfium2 is not installed.
    """
    with _opened(path) as document:
        sizes = []
        for index in range(len(document)):
            width, height = (
                math.ceil(points * dpi / _POINTS) for points in document.get_page_size(index)
            )
            if width < 1 or height < 1 or width * height > MOST_PIXELS:
                raise HaystackError(
                    f"page {index + 1} of {path} has {width:,} x {height:,} pixels at {dpi} pixels "
                    f"per inch, and a page has 1 to {MOST_PIXELS:,}. Choose other pixels per inch "
                    "(--dpi)."
                )
            sizes.append((width, height))
    return sizes


@dataclass(frozen=True)
class PdfSource:
    """The pages of a PDF: page k, counted from 0, is frame k.

    Attributes:
        path: the file.
        dpi: pixels per inch.
    """

    path: Path
    dpi: int

    @property
    def num_frames(self) -> int:
        """The number of pages."""
        return len(page_sizes(self.path, self.dpi))

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """The pages of [start, stop), drawn one by one on white.

        Raises:
            HaystackError: the file or a page of it cannot be read.
        """
        sizes = page_sizes(self.path, self.dpi)
        with _opened(self.path) as document:
            for index in range(len(sizes))[start:stop]:
                yield Frame(index, float(index), _draw(self.path, document, index, self.dpi))


def _draw(path: Path, document: Any, index: int, dpi: int) -> np.ndarray:
    """A page as RGB uint8 ``[height, width, 3]``."""
    import pypdfium2

    try:
        page = document[index]
        try:
            bitmap = page.render(scale=dpi / _POINTS, rev_byteorder=True, may_draw_forms=False)
            pixels = np.array(bitmap.to_numpy()[..., :3])
            bitmap.close()
        finally:
            page.close()
    except (pypdfium2.PdfiumError, ValueError, MemoryError) as error:
        raise HaystackError(
            f"page {index + 1} of {path} cannot be drawn: {first_line(error)}. Save the PDF again, "
            "or without this page."
        ) from error
    return pixels


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    pdfium = _import_pdfium(path)
    try:
        document = pdfium.PdfDocument(path)
    except (pdfium.PdfiumError, OSError) as error:
        raise HaystackError(
            f"{path} cannot be read as a PDF: {first_line(error).rstrip('.')}. Give one that opens "
            "without a password, or a folder with pictures of its pages."
        ) from error
    try:
        if len(document) < 1:
            raise HaystackError(f"{path} has no pages. Give a PDF that has some.")
        yield document
    finally:
        document.close()


def _import_pdfium(path: Path) -> Any:
    if find_spec("pypdfium2") is None:
        raise MissingDependencyError("pypdfium2", extra="pdf", purpose=f"reading {path}")
    import pypdfium2

    return pypdfium2
