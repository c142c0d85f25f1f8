"""Tries a needle set with the datasets library, which defines the imagefolder layout."""

import glob
import os
import tempfile
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path

from vniah.errors import NeedleError, first_line
from vniah.needles.metadata import Row


def require_imagefolder(metadata: Path, rows: Sequence[Row]) -> None:
    """Raises `NeedleError` unless the datasets library reads the folder and all its pictures.

    The library's builder is called directly, because ``load_dataset("imagefolder")`` would report
    the download to the hub. Only the pictures are compared: Arrow turns an answer like 2024-05-01
    into a time, and older versions order the rows by file name. The builder's cache is deleted, so
    that a folder that has changed is read anew. Files are named one by one, because from patterns
    the library makes splits of names with "train" or "test" in them.

    Args:
        metadata: the file of metadata; its pictures lie beside it.
        rows: what vniah read from it.
    """
    import datasets
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    paths = [metadata, *dict.fromkeys(Path(str(row.pictures[0])) for row in rows)]
    showed_progress = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vniah-needles-") as cache_dir,
            warnings.catch_warnings(),
        ):
            # it reads the first rows of a CSV file and leaves closing it to Python
            warnings.simplefilter("ignore", ResourceWarning)
            files = {"test": [glob.escape(str(path)) for path in paths]}
            builder = ImageFolder(cache_dir=cache_dir, data_files=files)
            builder.download_and_prepare()
            found = builder.as_dataset(split="test").select_columns(["image"])
            pictures = list(found.cast_column("image", datasets.Image(decode=False))["image"])
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = first_line(error.__cause__ or error).rstrip(".")
        raise NeedleError(
            f"{str(metadata.parent)!r} is no imagefolder to datasets: {reason}."
        ) from error
    finally:
        if showed_progress:
            datasets.enable_progress_bars()
    read = {_plain(os.path.normpath(picture["path"])) for picture in pictures}
    if unread := [row for row in rows if _plain(str(row.pictures[0])) not in read]:
        raise NeedleError(
            f"{unread[0].where}: datasets {datasets.__version__} does not read "
            f"{str(unread[0].pictures[0])!r} as a picture; save it as PNG or JPEG."
        )


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", path)
