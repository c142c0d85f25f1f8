"""Loads needle sets from folders and from the hub; every error names the line that is wrong.

A set comes from a folder in the Hugging Face *imagefolder* layout (``metadata.jsonl``,
``metadata.csv`` or ``metadata.parquet``), from a folder in the layout published with V-NIAH
(``dataset.json``), or from a dataset on the hub.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vniah.errors import NeedleError, first_line, hub_reason, quoted
from vniah.files import embedded_dir
from vniah.needles.associations import ASSOCIATIONS, association_needles
from vniah.needles.clips import read_frames
from vniah.needles.imagefolder import require_imagefolder
from vniah.needles.metadata import (
    METADATA_NAMES,
    PUBLISHED_NAME,
    NeedleRecord,
    Row,
    distinct_rows,
    imagefolder_rows,
    make_row,
    metadata_path,
    published_rows,
    with_numbers_as_text,
)
from vniah.needles.numbers import NUMBERS, read_numbers
from vniah.needles.pages import PAGES, read_pages
from vniah.needles.records import Distractor, Needle
from vniah.needles.sets import NeedleSet
from vniah.paths import user_path
from vniah.schema import require_type

_EMBEDDED = {
    "cards": (
        "60b4017f30cee999ad53ad033905fcb6f7f1644ded72f0d928c50cb8820803cd",
        "85f5a2e225410402587dc01309cc4b46de44acb1e2e0d0293e98f3ce538af835",
    ),
    "counterfactual": (
        "49fdbc6d902da78733c77a17f9e9c17ddb9d946defce9a682b28667f67e414fc",
        "ca85b0d17b008799df8566e6003576f95058551f2d32cc2ac7c4ccba97789961",
    ),
}
"""The sets that come with vniah, with the `NeedleSet.sha256` and `NeedleSet.declared_sha256` that
identify them."""

EMBEDDED_SETS = tuple(_EMBEDDED)

_HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def comes_with_vniah(name: str) -> bool:
    """True for the name of a set that `load_needles` finds on every machine, without a folder."""
    return name.partition(":")[0] in (*EMBEDDED_SETS, NUMBERS, ASSOCIATIONS, PAGES)


def load_needles(source: str | Path = "cards", *, split: str = "test") -> NeedleSet:
    """The needle set that `source` names.

    ```python
    load_needles()                          # "cards", which comes with vniah
    load_needles("path/to/my-needles")      # a folder with metadata.jsonl or dataset.json
    load_needles("lmms-lab/v_niah_needles") # a dataset on the Hugging Face hub
    load_needles("numbers:20")              # twenty magic numbers, needles of text
    load_needles("pages:5:0:794x1123")      # five pages of that size, with a number on each
    ```

    The network is used only for a hub id.

    Args:
        source: the name of an embedded set (``cards``, ``counterfactual``); or of needles of text:
            ``associations``, or ``numbers`` as `vniah.needles.numbers.read_numbers`; or of pages
            with numbers on them: ``pages`` as `vniah.needles.pages.read_pages`; or a folder;
            or the hub id ``owner/name`` of a dataset with the columns image, question and answer.
        split: the split of a hub dataset; folders have none.

    Raises:
        NeedleError: there is no such set, or a needle in it is invalid; the message names its line.
        InputError: the text is empty, or can be no path.
    """
    folder = user_path(source, "a needle set")
    if source in EMBEDDED_SETS:  # a folder of that name is written ./cards
        return _load_embedded(str(source))
    if (numbers := read_numbers(str(source))) is not None:
        return numbers
    if (pages := read_pages(str(source))) is not None:
        return pages
    if str(source) == ASSOCIATIONS:
        return association_needles()
    try:
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except OSError as error:  # longer than the system has paths
        raise NeedleError(
            f"there is no needle set {quoted(str(source), 100)}: {error.strerror}"
        ) from error
    if is_folder:
        folder = folder.resolve()
        return _make_set(folder.name, str(folder), _read_folder(folder, is_embedded=False))
    if is_file:
        raise NeedleError(f"needle set {str(source)!r} is a file; give the folder that it lies in.")
    if isinstance(source, str) and _HUB_ID_PATTERN.fullmatch(source):
        rows = distinct_rows(_hub_rows(source, split=split), where=source)
        return _make_set(source, source, rows)
    named = ", ".join((*EMBEDDED_SETS, NUMBERS, ASSOCIATIONS, PAGES))
    raise NeedleError(
        f"there is no needle set {quoted(str(source), 100)}; give a folder with "
        f"{METADATA_NAMES[0]}, one of {named}, or a hub id such as lmms-lab/v_niah_needles."
    )


def _load_embedded(name: str) -> NeedleSet:
    """A set that comes with vniah, if it is the one that was released."""
    try:
        folder = embedded_dir("needles", name)
        needles = _make_set(name, name, _read_folder(folder, is_embedded=True))
    except NeedleError as error:
        reason = first_line(error).rstrip(".")
        raise NeedleError(
            f"the needle set {name}, which comes with vniah, is damaged: {reason}. "
            "Install vniah again"
        ) from error
    names = ("its sha256", "the sha256 of its distractors and locators")
    found = (needles.sha256, needles.declared_sha256)
    for what, sha256, right in zip(names, found, _EMBEDDED[name], strict=True):
        if sha256 != right:
            raise NeedleError(
                f"the needle set {name}, which comes with vniah, is damaged: {what} is {sha256}, "
                f"expected {right}. Install vniah again"
            )
    return needles


def _make_set(name: str, source: str, rows: Sequence[Row]) -> NeedleSet:
    needles: list[Needle] = []
    distractors: list[Distractor] = []
    for row in rows:
        image, *later = read_frames(row.pictures, where=row.where)
        if row.is_distractor:
            distractors.append(Distractor(row.needle_id, image, tuple(later), row.locator))
        else:
            needles.append(
                Needle(
                    row.needle_id,
                    row.question,
                    row.answer,
                    row.choices,
                    image,
                    row.accepted,
                    tuple(later),
                    row.distractors,
                    row.locator,
                    row.bridge,
                )
            )
    return NeedleSet(name, source, tuple(needles), tuple(distractors))


def _read_folder(folder: Path, *, is_embedded: bool) -> Sequence[Row]:
    if metadata := metadata_path(folder):
        rows = distinct_rows(imagefolder_rows(metadata), where=str(metadata))
        # Those that come with vniah are tried by its tests.
        if not is_embedded and all(row.is_for_datasets for row in rows):
            require_imagefolder(metadata, rows)
    elif (folder / PUBLISHED_NAME).is_file():
        rows = distinct_rows(published_rows(folder), where=str(folder / PUBLISHED_NAME))
    else:
        raise NeedleError(
            f"{str(folder)!r} is no needle set: it holds neither {METADATA_NAMES[0]} (imagefolder "
            f"layout; or .csv, .parquet) nor {PUBLISHED_NAME} (published layout)."
        )
    return rows


def _hub_rows(hub_id: str, *, split: str) -> Iterator[Row]:
    import datasets

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # else every retry is a warning; the error says enough
    try:
        dataset = datasets.load_dataset(hub_id, split=split)
    except Exception as error:  # the client raises whatever proxies and settings run into
        raise NeedleError(
            f"there is no folder {hub_id!r}, and the split {split!r} of the dataset of this name "
            f"could not be read from the Hugging Face hub: {hub_reason(error)}."
        ) from error
    finally:
        logger.setLevel(level)
    needed = {"question": datasets.Value, "answer": datasets.Value}
    image = dataset.features.get("image")
    of_clips = getattr(image, "feature", None)  # a column of lists: one picture for each frame
    if not (
        isinstance(image if of_clips is None else of_clips, datasets.Image)
        and all(isinstance(dataset.features.get(key), kind) for key, kind in needed.items())
    ):
        raise NeedleError(
            f"the dataset {hub_id!r} is no needle set: it needs the columns image (pictures, or "
            f"lists of them), question and answer, and has {', '.join(dataset.column_names)}."
        )
    stored = datasets.Image(decode=False)
    dataset = dataset.cast_column("image", stored if of_clips is None else type(image)(stored))
    for index in range(len(dataset)):
        where = f"{hub_id} row {index}"
        record = with_numbers_as_text(dataset[index])
        require_type(record, NeedleRecord, NeedleError, where)
        images = [record["image"]] if of_clips is None else record["image"]
        pictures = tuple(_find_stored(image or {}, where=where) for image in images or [None])
        yield make_row(record, pictures, where=where, default_id=str(index))


def _find_stored(image: Mapping[str, Any], *, where: str) -> Path | bytes:
    """A picture as the datasets library stores it: in the table, in a file, or in an archive."""
    content, path = image.get("bytes"), image.get("path")
    if isinstance(content, bytes):
        return content
    if not isinstance(path, str):
        raise NeedleError(f"{where} has no picture; every needle needs one.")
    if Path(path).is_file():
        return Path(path)
    import fsspec  # type: ignore[import-untyped]

    try:
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except Exception as error:  # each kind of archive and server has errors of its own
        raise NeedleError(
            f"{where}: the picture {quoted(path, 100)} cannot be read: {first_line(error)}"
        ) from error
