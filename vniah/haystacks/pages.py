"""The size of the pages of a haystack, which may have several."""

from collections.abc import Sequence
from pathlib import Path

from vniah.errors import HaystackError
from vniah.haystacks.choices import read_choices, require_choices_of_pages
from vniah.haystacks.images import image_sizes, list_images
from vniah.haystacks.paths import explained
from vniah.haystacks.pdf import DEFAULT_DPI, is_pdf, page_sizes


def usual_page_size(
    source: str | Path | Sequence[str | Path], *, dpi: int | None = None
) -> tuple[int, int] | None:
    """Width and height in pixels that most pages have, and of equally many the first page.

    No picture is decoded, and no page is drawn.

    Args:
        source: as `vniah.haystacks.haystack.open_haystack` takes it.
        dpi: pixels per inch with which the pages of a PDF are drawn; by default 96.

    Returns:
        None for videos, which have no pages.

    Raises:
        InputError: ``dpi`` is invalid, or for a source without pages.
        HaystackError: the source cannot be read.
        MissingDependencyError: it is a PDF, and pypdfium2 is not installed.
    """
    paths, _ = read_choices(source)
    require_choices_of_pages(paths, dpi=dpi)
    with explained("read", paths[0]):
        if paths[0].is_dir():
            sizes = image_sizes(list_images(paths[0]).paths)
            if not sizes:
                raise HaystackError(
                    f"not one of the images in {paths[0]} can be read. Copy them again."
                )
        elif is_pdf(paths[0]):
            sizes = page_sizes(paths[0], DEFAULT_DPI if dpi is None else dpi)
        else:
            return None
    return max(dict.fromkeys(sizes), key=sizes.count)
