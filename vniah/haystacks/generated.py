"""Generated films on disk: drawn whole or not at all, with a manifest that says how to draw them.

A film is kept as one file, or in parts, so that it can be made longer without making it anew.
Every file is drawn under a name of this process alone and then renamed: several processes may draw
the same film at once, and one that is killed leaves nothing that is mistaken for whole.

The manifest gives the sha256 of every file. A part that has other bytes is drawn again before it is
used; a film that somebody made as a file is refused.
"""

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from vniah.errors import HaystackError
from vniah.files import hash_file, write_json
from vniah.schema import parse_json, read_json

PART_SECONDS = 256
MANIFEST_NAME = "manifest.json"

_GENERATOR: Literal["vniah.synthetic"] = "vniah.synthetic"
_MOST_MANIFEST_BYTES = 2**20

_LOG = logging.getLogger("vniah")

DrawProgress = Callable[[int, int], None]


def _current_version() -> int:
    from vniah.haystacks.synthetic import GENERATOR_VERSION

    return GENERATOR_VERSION


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the pictures of a generated film: equal recipes, equal pictures.

    Attributes:
        seed: another seed gives another film.
        fps: pictures per second in the file.
        size: (width, height) in pixels.
        generator_version: the version of `vniah.haystacks.synthetic`.
    """

    seed: int
    fps: int = 8
    size: tuple[int, int] = (96, 96)
    generator_version: int = field(default_factory=_current_version)

    def to_json(self) -> str:
        """The recipe as JSON on one line, with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)


class FilmManifest(TypedDict):
    """How a film was made, and the sha256 of its files by their names."""

    generator: Literal["vniah.synthetic"]
    recipe: dict[str, Any]
    sha256: dict[str, str]


def read_manifest(path: Path) -> FilmManifest:
    """The manifest of a generated film.

    Raises:
        HaystackError: it is missing, or not such a manifest.
    """
    return read_json(path, FilmManifest, HaystackError, most_bytes=_MOST_MANIFEST_BYTES)


def require_as_drawn(path: Path, sha256: str) -> None:
    """Raises if a manifest of `make_haystack` lies beside a video, and gives another sha256.

    Args:
        path: a video file.
        sha256: of its bytes.

    Raises:
        HaystackError: the video or its manifest is damaged.
    """
    beside = path.with_suffix(".json")
    try:
        with beside.open("rb") as file:
            text = file.read(_MOST_MANIFEST_BYTES)
    except (OSError, ValueError):
        return
    if f'"{_GENERATOR}"'.encode() not in text:
        return  # some other JSON
    again = f"Make the film again (vniah haystack make --overwrite), or remove {beside.name}."
    try:
        expected = parse_json(text, FilmManifest, HaystackError, str(beside))["sha256"]
    except HaystackError as error:
        raise HaystackError(f"{error}. {again}") from error
    if expected.get(path.name, sha256) != sha256:
        raise HaystackError(
            f"{path} is not the film that {beside.name} describes: its sha256 is {sha256}, "
            f"expected {expected[path.name]}. One of the two is damaged. {again}"
        )


def draw_film(
    path: Path, manifest: Path, recipe: Recipe, *, seconds: int, on_progress: DrawProgress | None
) -> None:
    """Draws a film into one file.

    Args:
        path: the .mp4 file; an older one is replaced.
        manifest: the JSON file that will say how the film was made.
        recipe: what to draw.
        seconds: the length of the film.
        on_progress: called with (seconds drawn, seconds to draw).
    """
    digest = _draw(path, recipe, seconds=seconds, start_seconds=0, on_progress=on_progress)
    _write_manifest(manifest, recipe, {path.name: digest})


def draw_parts(
    folder: Path, recipe: Recipe, *, seconds: int, on_progress: DrawProgress | None
) -> tuple[Path, ...]:
    """The parts, of 256 s each, that hold the first ``seconds``; draws those that are missing.

    A part counts as present if its bytes have the sha256 that the folder's manifest gives.

    Args:
        folder: where the parts are.
        recipe: what to draw.
        seconds: the length that is needed.
        on_progress: called with (seconds drawn, seconds to draw), only if something is missing.
    """
    paths = tuple(folder / f"part-{part:03d}.mp4" for part in range(-(-seconds // PART_SECONDS)))
    manifest = folder / MANIFEST_NAME
    known = _read_digests(manifest, recipe, on_damage=_LOG.warning)
    missing = [part for part, path in enumerate(paths) if not _is_whole(path, known)]
    for done, part in enumerate(missing):
        digest = _draw(
            paths[part],
            recipe,
            seconds=PART_SECONDS,
            start_seconds=part * PART_SECONDS,
            on_progress=_shifted(on_progress, done * PART_SECONDS, len(missing) * PART_SECONDS),
        )
        # Another process may have added parts meanwhile. If its entry is lost here, that part is
        # drawn again.
        _write_manifest(
            manifest, recipe, {**_read_digests(manifest, recipe), paths[part].name: digest}
        )
    with suppress(OSError):  # it may be read-only
        os.utime(folder)  # by which `vniah cache` tells when it was used
    return paths


def _is_whole(path: Path, known: dict[str, str]) -> bool:
    if path.name not in known or not path.is_file():
        return False
    if known[path.name] == hash_file(path):
        return True
    _LOG.warning(f"{path} is damaged: its sha256 is not the one in its manifest; it is drawn again")
    return False


def _shifted(on_progress: DrawProgress | None, before: int, total: int) -> DrawProgress | None:
    if on_progress is None:
        return None
    return lambda done, _: on_progress(before + done, total)


def _read_digests(
    manifest: Path, recipe: Recipe, *, on_damage: Callable[[str], None] = lambda line: None
) -> dict[str, str]:
    """The sha256 of the parts that are there; parts that no manifest lists are drawn again."""
    if not manifest.exists():
        return {}
    try:
        content = read_manifest(manifest)
    except HaystackError as error:
        on_damage(f"{error}; the generated film is drawn again")
        return {}
    if content["recipe"] != json.loads(recipe.to_json()):
        on_damage(f"{manifest} gives another recipe; the generated film is drawn again")
        return {}
    return content["sha256"]


def _write_manifest(path: Path, recipe: Recipe, digests: dict[str, str]) -> None:
    content = FilmManifest(
        generator=_GENERATOR, recipe=asdict(recipe), sha256=dict(sorted(digests.items()))
    )
    write_json(path, content)


def _draw(
    path: Path,
    recipe: Recipe,
    *,
    seconds: int,
    start_seconds: int,
    on_progress: DrawProgress | None,
) -> str:
    from vniah.haystacks.synthetic import write_video

    write_video(
        path,
        seed=recipe.seed,
        seconds=seconds,
        fps=recipe.fps,
        size=recipe.size,
        start_seconds=start_seconds,
        on_progress=on_progress,
    )
    return hash_file(path)
