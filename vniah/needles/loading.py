"""Loads needle sets from folders and from the hub; every error names the line that is wrong.

A set comes from a folder in the Hugging Face *imagefolder* layout (``metadata.jsonl``), from a
folder in the layout published with V-NIAH (``dataset.json``), or from a dataset on the hub.
"""

import glob
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from vniah.errors import NeedleError, first_line
from vniah.files import embedded_dir
from vniah.needles.records import Needle, NeedleSet, require_id, require_texts
from vniah.paths import user_path

_EMBEDDED = {
    "cards": "60b4017f30cee999ad53ad033905fcb6f7f1644ded72f0d928c50cb8820803cd",
    "counterfactual": "49fdbc6d902da78733c77a17f9e9c17ddb9d946defce9a682b28667f67e414fc",
}
"""The sets that come with vniah, with the sha256 that identifies them (`NeedleSet.sha256`)."""

EMBEDDED_SETS = tuple(_EMBEDDED)

_METADATA_NAME = "metadata.jsonl"
_PUBLISHED_NAME = "dataset.json"
_HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load_needles(source: str | Path = "cards", *, split: str = "test") -> NeedleSet:
    """The needle set that `source` names.

    ```python
    load_needles()                          # "cards", which comes with vniah
    load_needles("path/to/my-needles")      # a folder with metadata.jsonl or dataset.json
    load_needles("lmms-lab/v_niah_needles") # a dataset on the Hugging Face hub
    ```

    The network is used only for a hub id.

    Args:
        source: the name of an embedded set (``cards``, ``counterfactual``); or a folder; or the
            hub id ``owner/name`` of a dataset with the columns image, question and answer.
        split: the split of a hub dataset; folders have none.

    Raises:
        NeedleError: there is no such set, or a needle in it is invalid; the message names its line.
        InputError: the text is empty, or can be no path.
    """
    folder = user_path(source, "a needle set")
    if source in EMBEDDED_SETS:  # a folder of that name is written ./cards
        folder = embedded_dir("needles", str(source))
        return _load_embedded(str(source), folder)
    if folder.is_dir():
        folder = folder.resolve()
        return NeedleSet(folder.name, str(folder), _read_folder(folder, is_embedded=False))
    if folder.is_file():
        raise NeedleError(f"needle set {str(source)!r} is a file; give the folder that it lies in.")
    if isinstance(source, str) and _HUB_ID_PATTERN.fullmatch(source):
        rows = _distinct(_hub_rows(source, split=split), where=source)
        return NeedleSet(source, source, tuple(map(_make_needle, rows)))
    raise NeedleError(
        f"there is no needle set {str(source)!r}; give a folder with {_METADATA_NAME}, "
        f"one of {', '.join(EMBEDDED_SETS)}, or a hub id such as lmms-lab/v_niah_needles."
    )


def _load_embedded(name: str, folder: Path) -> NeedleSet:
    """A set that comes with vniah, if it is the one that was released."""
    try:
        needles = NeedleSet(name, name, _read_folder(folder, is_embedded=True))
    except NeedleError as error:
        raise NeedleError(
            f"the needle set {name}, which comes with vniah, is damaged: {first_line(error)}. "
            "Install vniah again"
        ) from error
    if needles.sha256 != _EMBEDDED[name]:
        raise NeedleError(
            f"the needle set {name}, which comes with vniah, is damaged: its sha256 is "
            f"{needles.sha256}, expected {_EMBEDDED[name]}. Install vniah again"
        )
    return needles


@dataclass(frozen=True)
class _Row:
    """A needle whose picture is not decoded yet; messages about it begin with `where`."""

    where: str
    needle_id: str
    question: str
    answer: str
    choices: tuple[str, ...] | None
    accepted: tuple[str, ...]
    picture: Path | Image.Image


def _read_folder(folder: Path, *, is_embedded: bool) -> tuple[Needle, ...]:
    if (folder / _METADATA_NAME).is_file():
        rows = _distinct(_imagefolder_rows(folder), where=str(folder / _METADATA_NAME))
        if not is_embedded:  # those that come with vniah are tried by its tests
            _require_imagefolder(folder, rows)
    elif (folder / _PUBLISHED_NAME).is_file():
        rows = _distinct(_published_rows(folder), where=str(folder / _PUBLISHED_NAME))
    else:
        raise NeedleError(
            f"{str(folder)!r} is no needle set: it holds neither {_METADATA_NAME} (imagefolder "
            f"layout) nor {_PUBLISHED_NAME} (published layout)."
        )
    return tuple(map(_make_needle, rows))


def _imagefolder_rows(folder: Path) -> Iterator[_Row]:
    lines = _read_text(folder / _METADATA_NAME).split("\n")  # splitlines() also cuts at U+2028
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{_METADATA_NAME} line {number}"
            record = _parse_json(line, where=where)
            picture = _picture_path(record, "file_name", where=where, pictures_dir=folder)
            yield _make_row(record, picture, where=where)


def _published_rows(folder: Path) -> Iterator[_Row]:
    records = _parse_json(_read_text(folder / _PUBLISHED_NAME), where=_PUBLISHED_NAME)
    if not isinstance(records, list):
        raise NeedleError(f"{_PUBLISHED_NAME} must hold a list of {{path, prompt, answer}}.")
    for index, record in enumerate(records):
        where = f"{_PUBLISHED_NAME} entry {index + 1}"
        picture = _picture_path(record, "path", where=where, pictures_dir=folder / "images")
        # The published hub dataset was made from such a list, in this order. So both give the
        # same ids.
        yield _make_row(record, picture, where=where, question_key="prompt", default_id=str(index))


def _hub_rows(hub_id: str, *, split: str) -> Iterator[_Row]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    # The bases of HfHubHTTPError are the errors of the HTTP client in use (requests or httpx).
    failures = (datasets.exceptions.DatasetsError, RuntimeError, *HfHubHTTPError.__bases__)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # else every retry is a warning; the error says enough
    try:
        dataset = datasets.load_dataset(hub_id, split=split)
    except (OSError, ValueError, *failures) as error:
        raise NeedleError(
            f"there is no folder {hub_id!r}, and the split {split!r} of the dataset of this name "
            f"could not be read from the Hugging Face hub: {_reason(error)}"
        ) from error
    finally:
        logger.setLevel(level)
    needed = {"image": datasets.Image, "question": datasets.Value, "answer": datasets.Value}
    if not all(isinstance(dataset.features.get(key), kind) for key, kind in needed.items()):
        raise NeedleError(
            f"the dataset {hub_id!r} is no needle set: it needs the columns image (pictures), "
            f"question and answer, and has {', '.join(dataset.column_names)}."
        )
    for index in range(len(dataset)):
        where = f"{hub_id} row {index}"
        try:
            record = dataset[index]
        except (OSError, SyntaxError, ValueError) as error:
            raise NeedleError(f"{where}: the picture cannot be read: {error}") from error
        if record["image"] is None:
            raise NeedleError(f"{where} has no picture; every needle needs one.")
        texts = {key: str(v) if type(v) is int else v for key, v in record.items()}
        texts.setdefault("needle_id", texts.get("id"))
        yield _make_row(texts, record["image"], where=where, default_id=str(index))


def _require_imagefolder(folder: Path, rows: Sequence[_Row]) -> None:
    """Raises `NeedleError` unless the datasets library reads the folder and all its pictures.

    The library's builder is called directly, because ``load_dataset("imagefolder")`` would report
    the download to the hub. Only the pictures are compared: Arrow turns an answer like 2024-05-01
    into a time, and older versions order the rows by file name. The builder's cache is deleted, so
    that a folder that has changed is read anew. Files are named one by one, because from patterns
    the library makes splits of names with "train" or "test" in them.
    """
    import datasets
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    paths = [folder / _METADATA_NAME, *dict.fromkeys(Path(str(row.picture)) for row in rows)]
    showed_progress = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory(prefix="vniah-needles-") as cache_dir:
            files = {"test": [glob.escape(str(path)) for path in paths]}
            builder = ImageFolder(cache_dir=cache_dir, data_files=files)
            builder.download_and_prepare()
            found = builder.as_dataset(split="test").select_columns(["image"])
            pictures = list(found.cast_column("image", datasets.Image(decode=False))["image"])
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = _reason(error.__cause__ or error)
        raise NeedleError(f"{str(folder)!r} is no imagefolder to datasets: {reason}") from error
    finally:
        if showed_progress:
            datasets.enable_progress_bars()
    read = {os.path.normpath(picture["path"]) for picture in pictures}
    if unread := [row for row in rows if str(row.picture) not in read]:
        raise NeedleError(
            f"{unread[0].where}: datasets {datasets.__version__} does not read "
            f"{str(unread[0].picture)!r} as a picture; save it as PNG or JPEG."
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise NeedleError(f"{str(path)!r} cannot be read as UTF-8 text: {error}.") from error


def _parse_json(text: str, *, where: str) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise NeedleError(f"{where} is not JSON: {error}.") from error


def _text_of(record: object, key: str, *, where: str, default: str | None = None) -> str:
    if not isinstance(record, dict):
        raise NeedleError(f"{where} must be an object in braces, got {json.dumps(record)[:60]}.")
    value = default if record.get(key) is None else record[key]
    if value is None:
        raise NeedleError(f"{where} has no {key!r}; every needle needs one.")
    if not isinstance(value, str):
        raise NeedleError(f"{where}: {key!r} must be text, got {value!r}; put it in quotes.")
    return value


def _texts_of(record: object, key: str, *, where: str) -> tuple[str, ...]:
    given = record.get(key) if isinstance(record, dict) else None
    given = [] if given is None else given
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise NeedleError(f"{where}: {key!r} must be a list of texts or null, got {given!r}.")
    return tuple(text.strip() for text in given)


def _make_row(
    record: object,
    picture: Path | Image.Image,
    *,
    where: str,
    question_key: str = "question",
    default_id: str | None = None,
) -> _Row:
    """The record with valid texts. White space around answers and choices is removed."""
    needle_id = _text_of(record, "needle_id", where=where, default=default_id)
    question = _text_of(record, question_key, where=where)
    answer = _text_of(record, "answer", where=where).strip()
    choices = _texts_of(record, "choices", where=where) or None
    accepted = _texts_of(record, "accepted", where=where)
    try:
        require_id(needle_id)
        require_texts(question, answer, choices, accepted)
    except NeedleError as error:
        raise NeedleError(f"{where}: {error}") from error
    return _Row(where, needle_id, question, answer, choices, accepted, picture)


def _distinct(rows: Iterable[_Row], *, where: str) -> list[_Row]:
    """The rows as a list. Raises `NeedleError` if there is none, or if two have the same id."""
    first: dict[str, _Row] = {}
    for row in rows:
        if row.needle_id in first:
            raise NeedleError(
                f"{row.where}: needle_id {row.needle_id!r} is taken by "
                f"{first[row.needle_id].where}; give every needle an id of its own."
            )
        first[row.needle_id] = row
    if not first:
        raise NeedleError(f"{where!r} has no rows; a needle set needs at least one needle.")
    return list(first.values())


def _picture_path(record: object, key: str, *, where: str, pictures_dir: Path) -> Path:
    name = _text_of(record, key, where=where)
    path = Path(os.path.normpath(pictures_dir / name))
    if not path.is_relative_to(pictures_dir):
        raise NeedleError(f"{where}: {key!r} must stay inside {str(pictures_dir)!r}, got {name!r}.")
    if not path.is_file():
        raise NeedleError(f"{where}: there is no picture {name!r} in {str(pictures_dir)!r}.")
    return path


def _open_picture(row: _Row) -> Image.Image:
    assert isinstance(row.picture, Path)
    try:
        with Image.open(row.picture) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NeedleError(
            f"{row.where}: the picture {row.picture.name!r} cannot be read: {_reason(error)}"
        ) from error


def _make_needle(row: _Row) -> Needle:
    image = row.picture if isinstance(row.picture, Image.Image) else _open_picture(row)
    if image.mode.startswith(("I", "F")):
        raise NeedleError(
            f"{row.where}: the picture has pixels of mode {image.mode!r}, which clip in RGB; "
            "save it with 8 bits a channel."
        )
    if image.mode == "P":  # directly to RGB, Pillow warns about some transparent palettes
        image = image.convert("RGBA")
    rgb = image.convert("RGB")
    return Needle(row.needle_id, row.question, row.answer, row.choices, rgb, row.accepted)


def _reason(error: BaseException) -> str:
    """The error's first line as the end of a sentence."""
    return first_line(error).rstrip(".") + "."
