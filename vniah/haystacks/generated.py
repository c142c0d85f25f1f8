"""Generated films on disk: drawn whole or not at all, with a manifest that says how to draw them.

A film is kept as one file, or in parts, so that it can be made longer without making it anew.
Every file is drawn under a name of this process alone and then renamed: several processes may draw
the same film at once, and one that is killed leaves nothing that is mistaken for whole.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vniah.files import atomic_path, hash_file

PART_SECONDS = 256

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
    manifest = folder / "manifest.json"
    known = _read_digests(manifest, recipe)
    missing = [
        part
        for part, path in enumerate(paths)
        if path.name not in known or not path.is_file() or known[path.name] != hash_file(path)
    ]
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
    return paths


def _shifted(on_progress: DrawProgress | None, before: int, total: int) -> DrawProgress | None:
    if on_progress is None:
        return None
    return lambda done, _: on_progress(before + done, total)


def _read_digests(manifest: Path, recipe: Recipe) -> dict[str, str]:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if content["recipe"] == json.loads(recipe.to_json()):
            return dict(content["sha256"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # parts that no manifest lists are drawn again
    return {}


def _write_manifest(path: Path, recipe: Recipe, digests: dict[str, str]) -> None:
    content: dict[str, Any] = {
        "generator": "vniah.synthetic",
        "recipe": asdict(recipe),
        "sha256": dict(sorted(digests.items())),
    }
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


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
