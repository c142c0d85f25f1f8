"""Results of `vniah perplexity`: how well a model predicts each token of some long documents.

A folder holds ``perplexity.json``, with everything that is needed to measure again, and a file for
each document, which is whole or not there. They are no run: no answer is right or wrong, and one
pass gives a number for each token. So they have a format of their own, beside that of runs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from vniah.errors import ResultsError, short_repr
from vniah.files import atomic_path, hash_settings, to_json, write_json
from vniah.options import PAGE_KINDS
from vniah.paths import user_path
from vniah.results.folders import require_no_export, require_writable
from vniah.results.manifests import (
    ENVIRONMENT_KEY,
    MANIFEST_NAME,
    NOTES_KEY,
    PERPLEXITY_NAME,
    ModelRecord,
    as_read_back,
    require_same_settings,
)
from vniah.results.sample_file import locked, writing_to
from vniah.schema import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT_VERSION = 1
_DOCUMENT = re.compile(r"document-([0-9]{4,9})\.json")

MOST_TOKENS = 10**7
"""Of one document."""

_MOST_BYTES = 2**28  # of the file of a document

_Count = Annotated[int, Meta(ge=0)]


class _ModelRecord(ModelRecord):
    trained_tokens: NotRequired[Annotated[int, Meta(ge=1)]]


class _HaystackRecord(TypedDict):
    name: str
    kind: NotRequired[str]


class _FramesRecord(TypedDict):
    """The frames of a video that every document follows."""

    count: Annotated[int, Meta(ge=1)]
    haystack: _HaystackRecord


class _Settings(TypedDict):
    """What is read of ``perplexity.json``; it has other fields."""

    format_version: int
    model: _ModelRecord
    haystack: _HaystackRecord
    num_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)]
    frames: NotRequired[_FramesRecord]
    notes: NotRequired[list[str]]
    environment: NotRequired[dict[str, Any]]


class _Document(TypedDict):
    """The content of the file of a document."""

    document: _Count
    settings: str
    start: _Count
    stop: _Count
    first: Annotated[int, Meta(ge=1)]
    nats: Annotated[list[Annotated[float, Meta(ge=0)]], Meta(min_length=1, max_length=MOST_TOKENS)]


@dataclass(frozen=True, eq=False)
class DocumentLosses:
    """How well the tokens of one document were predicted.

    Attributes:
        number: of the document, from 0.
        start: the first character of the text that it begins with.
        stop: the character after the last.
        first: position of the first token that counts: how many tokens the model reads before it.
        nats: ``[num_tokens]`` fp64, the negative log-likelihood of each token that counts, given
            all tokens before it.
    """

    number: int
    start: int
    stop: int
    first: int
    nats: "NDArray[np.float64]"


@dataclass(frozen=True, eq=False)
class PerplexityResults:
    """The losses of some documents.

    Attributes:
        path: the folder.
        manifest: the content of its ``perplexity.json``.
        documents: those that are done, by their numbers; each has the same positions.
    """

    path: Path
    manifest: Mapping[str, Any]
    documents: tuple[DocumentLosses, ...]

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.manifest["model"]["name"])

    @property
    def haystack_name(self) -> str:
        """Of the text."""
        return str(self.manifest["haystack"]["name"])

    @property
    def num_tokens(self) -> int:
        """How many tokens the model reads for each document, with those before the text."""
        return int(self.manifest["num_tokens"])

    @property
    def num_frames(self) -> int:
        """How many frames every document follows; 0 for text alone."""
        found = self.manifest.get("frames")
        return 0 if found is None else int(found["count"])

    @property
    def video_name(self) -> str | None:
        """Of what the frames are of; None for text alone."""
        found = self.manifest.get("frames")
        return None if found is None else str(found["haystack"]["name"])

    @property
    def frame_unit(self) -> Literal["frame", "page"]:
        """What one of the frames is called."""
        kind = self.manifest.get("frames", {}).get("haystack", {}).get("kind")
        return "page" if kind in PAGE_KINDS else "frame"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the frames, such as damage in a video."""
        return tuple(self.manifest.get(NOTES_KEY, ()))

    @property
    def trained_tokens(self) -> int | None:
        """The length that the model was trained for, as its configuration says, if it does."""
        found = self.manifest["model"].get("trained_tokens")
        return None if found is None else int(found)


class PerplexityFolder:
    """A folder that documents are written to; it goes on where it was stopped.

    The constructor only reads. In the block of `open`, in which no other process writes to the
    folder, documents can be added.

    Args:
        directory: need not exist yet.
        settings: everything that is needed to measure again. Only ``environment`` may differ from
            what the folder holds.
        overwrite: ignore what the folder holds; `open` removes it.

    Raises:
        RunMismatchError: the folder holds results with other settings; the message names the first.
        ResultsError: it cannot be written to, or holds something else.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.directory = directory
        self._settings = as_read_back({"format_version": FORMAT_VERSION, **settings})
        self._overwrite = overwrite
        self.documents: dict[int, DocumentLosses] = {}
        require_writable(directory, "perplexity")
        require_no_export(directory, "perplexity needs")
        if (directory / MANIFEST_NAME).exists():
            raise ResultsError(
                f"{directory} is the folder of a run, and perplexity needs one of its own; choose "
                "another --output"
            )
        if not overwrite:
            self._load()

    def _load(self) -> None:
        if (self.directory / PERPLEXITY_NAME).exists():
            earlier = load_perplexity(self.directory)
            require_same_settings(
                earlier.manifest,
                self._settings,
                self.directory,
                kind="a measurement of perplexity",
            )
            self._settings = dict(earlier.manifest)
            self.documents = {document.number: document for document in earlier.documents}
        elif found := _document_paths(self.directory):
            raise ResultsError(
                f"{self.directory} has {found[0][1].name} but no {PERPLEXITY_NAME}, so its "
                "settings are unknown: put that back, choose another --output or add --overwrite"
            )

    @contextmanager
    def open(
        self, check: Mapping[str, Any] | None = None, notes: Sequence[str] = ()
    ) -> Iterator[None]:
        """A block in which documents can be added; at its beginning the settings are on the disk.

        Args:
            check: how the forward pass agrees with the model's own; written with new settings.
            notes: what a reader should know of the frames; written likewise.

        Raises:
            ResultsError: another process writes to the folder.
        """
        with writing_to(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory):
            if self._overwrite:
                with writing_to(self.directory):
                    (self.directory / PERPLEXITY_NAME).unlink(missing_ok=True)
                    for _, path in _document_paths(self.directory):
                        path.unlink()
            else:
                self._load()  # what another process has written meanwhile
            if not (self.directory / PERPLEXITY_NAME).exists():
                if check is not None:
                    place = {**self._settings.get(ENVIRONMENT_KEY, {}), "check": dict(check)}
                    self._settings[ENVIRONMENT_KEY] = place
                if notes:
                    self._settings[NOTES_KEY] = list(notes)
                with writing_to(self.directory):
                    write_json(self.directory / PERPLEXITY_NAME, self._settings)
            yield

    def add(self, document: DocumentLosses) -> None:
        """Writes the file of a document, whole or not at all; only inside the block of `open`.

        Raises:
            ResultsError: the disk is full or cannot be written to.
        """
        content: _Document = {
            "document": document.number,
            "settings": _key_of(self._settings),
            "start": document.start,
            "stop": document.stop,
            "first": document.first,
            # Nine digits are all that a number in fp32 has.
            "nats": [float(f"{value:.9g}") for value in document.nats],
        }
        with writing_to(self.directory):
            path = self.directory / f"document-{document.number:04d}.json"
            with atomic_path(path, is_locked=True) as temporary:
                temporary.write_bytes(to_json(content) + b"\n")
        self.documents[document.number] = document

    def results(self) -> PerplexityResults:
        """All documents that the folder holds."""
        ordered = tuple(self.documents[number] for number in sorted(self.documents))
        return PerplexityResults(self.directory, self._settings, ordered)


def load_perplexity(path: str | Path) -> PerplexityResults:
    """The results in a folder; they may still be going on.

    Raises:
        ResultsError: it is no such folder, or a file in it cannot be read or belongs to another.
        InputError: the path cannot be one.
    """
    directory = user_path(path, "a result")
    if not (directory / PERPLEXITY_NAME).is_file():
        raise ResultsError(
            f"{directory} has no {PERPLEXITY_NAME}: it is not what vniah perplexity measure writes"
        )
    where = directory / PERPLEXITY_NAME
    try:
        settings = read_json(where, _Settings, ResultsError)
    except ResultsError as error:
        raise ResultsError(
            f"{error}; put the file back, or measure all documents again with --overwrite"
        ) from error
    if settings["format_version"] != FORMAT_VERSION:
        raise ResultsError(
            f"{where} has format_version {short_repr(settings['format_version'])}; this vniah "
            f"reads {FORMAT_VERSION}"
        )
    key = _key_of(settings)
    documents = [_read(place, number, key) for number, place in _document_paths(directory)]
    for other in documents[1:]:
        if (other.first, len(other.nats)) != (documents[0].first, len(documents[0].nats)):
            raise ResultsError(
                f"document {other.number} in {directory} has {len(other.nats):,} tokens from "
                f"position {other.first:,} on, and document {documents[0].number} "
                f"{len(documents[0].nats):,} from {documents[0].first:,} on: delete the file that "
                "is not of this folder, and measure it again"
            )
    return PerplexityResults(directory, dict(settings), tuple(documents))


def find_perplexity(path: str | Path) -> tuple[Path, ...]:
    """The folders of results that a path names: itself, or those that lie in it, by their names.

    `vniah perplexity measure` with several RoPEs writes one folder that holds those of all.

    Raises:
        ResultsError: it is a file, or it is no result and holds none.
        InputError: the path cannot be one.
    """
    directory = user_path(path, "a result")
    if directory.is_file():
        raise ResultsError(
            f"{directory} is a file; give the folder that vniah perplexity measure has written, or "
            "one that holds several such folders"
        )
    if (directory / PERPLEXITY_NAME).is_file() or not directory.is_dir():
        return (directory,)
    found = sorted(one.parent for one in directory.glob(f"*/{PERPLEXITY_NAME}") if one.is_file())
    return tuple(found) or (directory,)


def _read(path: Path, number: int, key: str) -> DocumentLosses:
    import numpy as np

    try:
        found = read_json(path, _Document, ResultsError, most_bytes=_MOST_BYTES)
    except ResultsError as error:
        raise ResultsError(f"{error}; delete the file, and measure the document again") from error
    if found["document"] != number or found["settings"] != key:
        raise ResultsError(
            f"{path} is of another folder or document; delete it, and measure it again"
        )
    nats = np.array(found["nats"], dtype=np.float64)
    return DocumentLosses(number, found["start"], found["stop"], found["first"], nats)


def _document_paths(directory: Path) -> list[tuple[int, Path]]:
    """The numbers of the documents in a folder, ascending, each with its file."""
    found = ((_DOCUMENT.fullmatch(path.name), path) for path in directory.glob("document-*.json"))
    return sorted((int(match[1]), path) for match, path in found if match is not None)


def _key_of(settings: Mapping[str, Any]) -> str:
    """What tells the documents of one folder from those of another."""
    free = (ENVIRONMENT_KEY, NOTES_KEY)
    own = {name: value for name, value in settings.items() if name not in free}
    return hash_settings(own)[:16]
