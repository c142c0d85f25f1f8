"""The haystack: the pictures among which the needle is hidden.

A haystack is a video file, several video files one after the other, or a folder of images in plain
name order. Videos are read at 1 frame per second and never looped. Who has no video uses a
generated film, which everybody can draw again.

    >>> haystack = open_haystack("film.mp4")
    >>> next(haystack.frames(start=60, stop=61)).image.shape
    (1080, 1920, 3)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vniah.errors import HaystackError, HaystackTooShortError, InputError
from vniah.files import cache_dir, hash_file, hash_text
from vniah.haystacks.frames import Frame, FrameSource
from vniah.haystacks.generated import Recipe, draw_film, draw_parts
from vniah.haystacks.video.sampling import longva_schedule
from vniah.options import Decoder, Sampling
from vniah.paths import user_path

__all__ = ["Frame", "Haystack", "generated_haystack", "make_haystack", "open_haystack"]


@dataclass(frozen=True)
class Haystack:
    """A source of frames. Made by `open_haystack` or `generated_haystack`.

    Attributes:
        name: shown to people and used in file names.
        paths: the files, in order.
        kind: what the files are.
        sha256: of one file, its sha256; of several files, the sha256 of the lines of their digests;
            of a generated film, the sha256 of its recipe.
        sampling: the rule that says which picture is frame k.
        decoder: the library that decodes videos.
        keep_damaged: whether a damaged source is read as far as possible instead of refused.
        recipe: the recipe of a generated film as JSON; else empty.
    """

    name: str
    paths: tuple[Path, ...]
    kind: Literal["video", "images", "generated"]
    sha256: str
    sampling: Sampling = "clock"
    decoder: Decoder = "pyav"
    keep_damaged: bool = False
    recipe: str = ""

    def __post_init__(self) -> None:
        """Requires known choices, and for images none of those that only videos have."""
        _require_known_choices(self.sampling, self.decoder, is_video=self.kind != "images")

    def __repr__(self) -> str:
        what = {"video": "video file", "images": "image", "generated": "generated part"}[self.kind]
        count = f"{len(self.paths):,} {what}{'' if len(self.paths) == 1 else 's'}"
        choices = [] if self.kind == "images" else [f"sampling {self.sampling}", self.decoder]
        damage = ["damage kept"] if self.keep_damaged else []
        return f"<Haystack {self.name}: {', '.join([count, *choices, *damage])}>"

    def identity(self) -> dict[str, str]:
        """Everything that decides the pixels: haystacks with equal identities have equal frames.

        The length of a generated film is not part of it: a longer one begins with the same frames.
        """
        identity = {
            "kind": self.kind,
            "sha256": self.sha256,
            "sampling": self.sampling,
            "decoder": self.decoder,
            "keep_damaged": str(self.keep_damaged).lower(),
        }
        return {**identity, "recipe": self.recipe} if self.recipe else identity

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """The frames of [start, stop), one at a time.

        The frames of several files are numbered on from file to file; the seconds are counted in
        each file anew. Frame k is the same whatever ``start`` is: every file that is needed is
        decoded from its beginning.

        Args:
            start: the first frame.
            stop: the frame after the last; by default all frames.
            on_damage: if damage is kept, called with one line for each damaged file, before the
                last frame of that file is given.

        Raises:
            InputError: not 0 <= start <= stop.
            HaystackTooShortError: there are fewer than ``stop`` frames.
            VideoDamagedError: a file is damaged, and damage is not kept.
            HaystackError: a file cannot be read.
        """
        if not 0 <= start <= (start if stop is None else stop):
            raise InputError(f"frames need 0 <= start <= stop, got start={start}, stop={stop}.")
        return self._frames(start, stop, on_damage)

    def _frames(
        self, start: int, stop: int | None, on_damage: Callable[[str], None] | None
    ) -> Iterator[Frame]:
        offset = 0
        for source in self._sources(stop):
            num_frames = source.num_frames
            first = max(0, start - offset)
            last = num_frames if stop is None else min(num_frames, stop - offset)
            if first < last:
                for frame in source.frames(start=first, stop=last, on_damage=on_damage):
                    yield Frame(offset + frame.index, frame.pts_seconds, frame.image)
            offset += num_frames

    def _sources(self, stop: int | None) -> list[FrameSource]:
        """The first files, as many as it takes to have ``stop`` frames."""
        sources: list[FrameSource] = []
        num_frames = 0
        for source in self._open_sources():
            sources.append(source)
            num_frames += source.num_frames
            if stop is not None and num_frames >= stop:
                return sources
        if stop is not None and num_frames < stop:
            what = "as images" if self.kind == "images" else "at 1 frame per second"
            raise HaystackTooShortError(
                f"the haystack {self.name} has {num_frames} frames {what}, but {stop} were asked "
                "for. Ask for fewer frames, or give a longer haystack: it is never looped."
            )
        return sources

    def _open_sources(self) -> Iterator[FrameSource]:
        if self.kind == "images":
            from vniah.haystacks.images import ImageSource

            yield ImageSource(self.paths, self.keep_damaged)
            return
        from vniah.haystacks.video.decord import DecordSource
        from vniah.haystacks.video.packets import index_video
        from vniah.haystacks.video.pyav import VideoSource

        make = VideoSource if self.decoder == "pyav" else DecordSource
        for path in self.paths:
            yield make(index_video(path), self.sampling, self.keep_damaged)


def open_haystack(
    source: str | Path | Sequence[str | Path],
    *,
    sampling: Sampling = "clock",
    decoder: Decoder = "pyav",
    keep_damaged: bool = False,
) -> Haystack:
    """A haystack from your own videos or images.

    Reads every byte once for the sha256, and decodes nothing.

    Args:
        source: a video file, a folder of images, or several video files.
        sampling: how videos are sampled. ``clock``: frame k is the picture on screen k seconds
            after the first one; ``longva``: every round(fps)-th picture, as in the published runs.
        decoder: what decodes videos: ``pyav``, or ``decord`` in a process of its own.
        keep_damaged: read what can be decoded of a damaged source instead of refusing it.

    Raises:
        InputError: no source, an unknown choice, a sampling that this video does not allow, or a
            choice for videos with a folder of images.
        MissingDependencyError: the decoder is decord, and it is not installed.
        HaystackError: a path is missing, unreadable, or neither a video nor a folder of images.
        VideoDamagedError: a video lacks the part without which it cannot be opened.
    """
    given = (source,) if isinstance(source, (str, Path)) else tuple(source)
    paths = tuple(user_path(path, "a haystack") for path in given)
    if not paths:
        raise InputError("a haystack needs a video file or a folder of images, got none.")
    for path in paths:
        _require_path(path, alone=len(paths) == 1)
    _require_known_choices(sampling, decoder, is_video=not paths[0].is_dir())
    with _explained("read", paths[0]):
        if paths[0].is_dir():
            from vniah.haystacks.images import list_images

            images = list_images(paths[0])
            name = paths[0].resolve().name or "images"
            digest = _hash_files(images)
            return Haystack(name, images, "images", digest, keep_damaged=keep_damaged)
        for path in paths:
            _require_video(path, sampling, decoder)
        name = paths[0].name + (f"+{len(paths) - 1}" if len(paths) > 1 else "")
        digest = _hash_files(paths)
        return Haystack(name, paths, "video", digest, sampling, decoder, keep_damaged)


def _require_path(path: Path, *, alone: bool) -> None:
    if path.is_dir():
        if not alone:
            raise InputError(
                f"{path} is a folder among several paths. A haystack is one folder of images, or "
                "video files."
            )
    elif not path.exists():
        raise HaystackError(f"there is no file {path}. Give a video file or a folder of images.")
    elif not path.is_file():
        raise HaystackError(f"{path} is neither a file nor a folder. Give a video file.")


def _require_known_choices(sampling: str, decoder: str, *, is_video: bool) -> None:
    for field, given, choices in (
        ("sampling", sampling, get_args(Sampling)),
        ("decoder", decoder, get_args(Decoder)),
    ):
        if given not in choices:
            raise InputError(f"{field} must be one of {', '.join(choices)}, got {given!r}.")
        if given != choices[0] and not is_video:
            raise InputError(
                f"{field} {given!r} is for videos; every image of a folder is a frame. Leave it at "
                f"{choices[0]!r}."
            )


def _require_video(path: Path, sampling: Sampling, decoder: Decoder) -> None:
    from vniah.haystacks.video.packets import summarize_video

    summary = summarize_video(path)
    if sampling == "longva":
        longva_schedule(1, average_rate=summary.average_rate)
    if decoder == "decord":
        from vniah.haystacks.video.decord import require_decord

        require_decord(path, summary.format_name)


@contextmanager
def _explained(verb: str, path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a HaystackError that names the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise HaystackError(
            f"cannot {verb} {where}: {error.strerror or error}. Check its permissions and the "
            "space on the disk."
        ) from error


def _hash_files(paths: Sequence[Path]) -> str:
    """The sha256 of one file; of several files, the sha256 of their digests, one on each line."""
    digests = [hash_file(path) for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hash_text("".join(f"{digest}\n" for digest in digests))


def generated_haystack(
    num_frames: int, *, seed: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> Haystack:
    """The film of `vniah.haystacks.synthetic`, drawn as far as needed and kept in the cache.

    A later call for more frames draws only the parts that are missing. Several processes may draw
    at once, and an unfinished part of a process that was killed is never taken for a whole one.

    Args:
        num_frames: the film has at least this many frames.
        seed: another seed gives another film.
        on_progress: called with (seconds drawn, seconds to draw), only if something is missing.

    Raises:
        InputError: ``num_frames`` is less than 1.
        HaystackError: the cache cannot be written.
    """
    if num_frames < 1:
        raise InputError(f"num_frames must be at least 1, got {num_frames}.")
    recipe = Recipe(seed)
    name = f"generated-v{recipe.generator_version}-seed{seed}"
    folder = cache_dir() / "haystacks" / name
    with _explained("write", folder):
        paths = draw_parts(folder, recipe, seconds=num_frames, on_progress=on_progress)
    text = recipe.to_json()
    return Haystack(name, paths, "generated", hash_text(text), recipe=text)


def make_haystack(
    path: Path,
    *,
    seconds: int,
    seed: int = 0,
    fps: int = 8,
    size: tuple[int, int] = (96, 96),
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draws a generated film into a file, and beside it a manifest from which to make it again.

    Args:
        path: an .mp4 file; the manifest has the same name with .json.
        seconds: the length of the film, and so its number of frames.
        seed: another seed gives another film.
        fps: pictures per second in the file.
        size: (width, height) in pixels.
        overwrite: replace files that exist.
        on_progress: called with (seconds drawn, seconds to draw).

    Raises:
        InputError: a number is out of range, the name does not end in .mp4, its folder does not
            exist, or a file exists and ``overwrite`` is False.
        HaystackError: a file cannot be written.
    """
    path = user_path(path, "a haystack")
    if path.suffix.lower() != ".mp4":
        raise InputError(f"a haystack is written as .mp4, got {path.name!r}. Name it FILM.mp4.")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} for {path.name}. Make it first.")
    manifest = path.with_suffix(".json")
    for existing in (path, manifest):
        if existing.exists() and not overwrite:
            raise InputError(f"{existing} exists. Choose another name, or pass --overwrite.")
    if seconds < 1:
        raise InputError(f"seconds must be at least 1, got {seconds}.")
    with _explained("write", path):
        draw_film(path, manifest, Recipe(seed, fps, size), seconds=seconds, on_progress=on_progress)
    return path
