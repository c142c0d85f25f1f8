"""Pictures of the needles of runs, small enough for a page."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from vniah.analysis.report.escaping import data_uri
from vniah.errors import VniahError, counted
from vniah.needles import NeedleSet, load_needles
from vniah.needles.loading import comes_with_vniah
from vniah.results import Results

_SIDES = (192, 128, 80, 48)
"""The longer side of a picture in pixels: the first of these with which all have room."""

MOST_BYTES = 4_000_000
"""Of all pictures of a report together."""


@dataclass(frozen=True)
class NeedlePicture:
    """A picture for the page.

    Attributes:
        needle_id: what it shows.
        element_id: of its element in the page.
        uri: the picture itself.
        size: width and height in pixels.
        description: what is said in its place to those who cannot see it.
    """

    needle_id: str
    element_id: str
    uri: str
    size: tuple[int, int]
    description: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of all runs.

    Attributes:
        sets: pictures by the names of the needle sets, each set once.
        by_run: for each run, the ids of elements by those of needles; empty where its needle set
            was not found.
        notes: sentences on what was not found or left out.
    """

    sets: Mapping[str, tuple[NeedlePicture, ...]]
    by_run: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]


def make_gallery(
    runs: Sequence[Results], labels: Sequence[str], given: Sequence[NeedleSet] = ()
) -> Gallery:
    """The pictures of the needles of runs, from sets whose hash is the one that a run recorded.

    Args:
        runs: the runs.
        labels: a name for each, for the notes.
        given: sets where their pictures may be; those that come with vniah are known.
    """
    notes = []
    found: dict[str, NeedleSet] = {}
    of_run: list[str | None] = []
    for results, label in zip(runs, labels, strict=True):
        if not results.manifest or not results.manifest["needles"]["ids"]:
            of_run.append(None)
            continue
        needles = _find(results, given)
        if needles is None:
            name = results.manifest["needles"].get("name", "")
            notes.append(
                f"{label}: no needle pictures, as the manifest names the needle set {name!r} and "
                "not where it lies; give its folder to the report: --needles FOLDER"
            )
        else:
            found.setdefault(needles.sha256, needles)
        of_run.append(None if needles is None else needles.sha256)
    pictures, left_out = _draw(found)
    if left_out:
        notes.append(
            f"{counted(left_out, 'needle picture')} left out, as all pictures of a report have at "
            f"most {MOST_BYTES // 1_000_000} MB; they are in the needle set"
        )
    elements = {
        sha256: {one.needle_id: one.element_id for one in some} for sha256, some in pictures.items()
    }
    by_run = tuple({} if sha256 is None else elements[sha256] for sha256 in of_run)
    names: dict[str, tuple[NeedlePicture, ...]] = {}
    for sha256, some in pictures.items():
        if not some:  # its needles are texts
            continue
        name = found[sha256].name
        names[name if name not in names else f"{name} ({sha256[:8]})"] = tuple(some)
    return Gallery(names, by_run, tuple(notes))


def _find(results: Results, given: Sequence[NeedleSet]) -> NeedleSet | None:
    """The needle set of a run, if it is one of the given or comes with vniah."""
    record = results.manifest["needles"]
    name, sha256 = record.get("name"), record.get("sha256")
    candidates = list(given)
    try:
        if comes_with_vniah(str(name)):
            candidates.append(load_needles(str(name)))
    except VniahError:  # damaged: a report is still of use without its pictures
        pass
    for needles in candidates:
        try:
            selected = needles.select(record["ids"])
        except VniahError:
            continue
        if selected.sha256 == sha256:
            return selected
    return None


def _draw(sets: Mapping[str, NeedleSet]) -> tuple[dict[str, list[NeedlePicture]], int]:
    """The pictures of sets, and how many had no room."""
    count = sum(len(needles.pictures) for needles in sets.values())
    for side in _SIDES:
        if side == _SIDES[-1] or count * side * side < MOST_BYTES:
            break
    left, left_out = MOST_BYTES, 0
    drawn: dict[str, list[NeedlePicture]] = {}
    for number, (sha256, needles) in enumerate(sets.items()):
        drawn[sha256] = []
        for place, (needle_id, picture) in enumerate(needles.pictures.items()):
            if picture.image is None:  # a needle of text
                continue
            uri, size = _thumbnail(picture.image, side)
            if len(uri) > left:
                left_out += 1
                continue
            left -= len(uri)
            what = f"the picture {needle_id}"
            if picture.locator:
                what += f": {picture.locator}"
            if picture.later_frames:
                what += f", the first of {picture.num_frames} frames"
            element_id = f"needle-{number}-{place}"
            drawn[sha256].append(NeedlePicture(needle_id, element_id, uri, size, what))
    return drawn, left_out


def _thumbnail(image: Image.Image, side: int) -> tuple[str, tuple[int, int]]:
    """A small copy as an address, PNG or JPEG, whichever is smaller; and its size."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = {"png": _encoded(small, "PNG"), "jpeg": _encoded(small, "JPEG")}
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return data_uri(encoded[kind], f"image/{kind}"), small.size


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, optimize=True, quality=85)
    return file.getvalue()
