"""The haystack: the pictures among which the needle is hidden.

A haystack is a video file, several video files one after the other, a folder of images in the order
of their numbers or names, or a PDF. Videos are read at 1 frame per second and never looped. Who has
no video uses a generated film, which everybody can draw again.

    >>> haystack = open_haystack("film.mp4")
    >>> next(haystack.frames(start=60, stop=61)).image.shape
    (1080, 1920, 3)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vniah.errors import HaystackTooShortError, InputError, counted
from vniah.files import cache_dir, hash_file, hash_text
from vniah.haystacks.choices import (
    read_choices,
    require_choices_of_pages,
    require_known_choices,
)
from vniah.haystacks.frames import Frame, FrameSource
from vniah.haystacks.generated import Recipe, draw_film, draw_parts
from vniah.haystacks.paths import explained, hash_films, join_digests
from vniah.haystacks.pdf import (
    DEFAULT_DPI,
    PdfSource,
    is_pdf,
    page_sizes,
    renderer_name,
)
from vniah.haystacks.video.sampling import longva_schedule
from vniah.options import PAGE_KINDS, Decoder, Sampling
from vniah.paths import user_path

if TYPE_CHECKING:
    from vniah.haystacks.video.streams import VideoSummary

MOST_SECONDS = 1_000_000
"""The longest film that is drawn: eleven days."""

_FILES = {
    "video": "video file",
    "images": "image",
    "generated": "generated part",
    "pages": "page",
    "pdf": "PDF",
}

__all__ = [
    "Frame",
    "Haystack",
    "generated_haystack",
    "make_haystack",
    "open_haystack",
    "require_haystack",
]


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
        dpi: pixels per inch with which pages of a PDF are drawn; else None.
        renderer: what draws them, with its version; else empty.
        streams: for each video file the position of the film among its video streams, from 0.
        stream_choice: which of how many video streams are read; empty where there is no choice.
        assume_fps: pictures per second of bare streams, which hold no time stamps; else None.
        order: how the images of a folder are ordered: by ``name``, or by ``number`` where that is
            another order.
        notes: what a reader of the results should know, one line each.
    """

    name: str
    paths: tuple[Path, ...]
    kind: Literal["video", "images", "generated", "pages", "pdf"]
    sha256: str
    sampling: Sampling = "clock"
    decoder: Decoder = "pyav"
    keep_damaged: bool = False
    recipe: str = ""
    streams: tuple[int, ...] = ()
    stream_choice: str = ""
    assume_fps: Fraction | None = None
    order: Literal["name", "number"] = "name"
    notes: tuple[str, ...] = ()
    dpi: int | None = None
    renderer: str = ""

    def __post_init__(self) -> None:
        """Requires known choices, and for images none of those that only videos have."""
        require_known_choices(self.sampling, self.decoder, is_video=self._is_video)

    def __repr__(self) -> str:
        count = counted(len(self.paths), _FILES[self.kind])
        choices = [f"sampling {self.sampling}", self.decoder] if self._is_video else []
        if self.dpi is not None:
            choices = [f"{self.dpi} pixels per inch"]
        damage = ["damage kept"] if self.keep_damaged else []
        return f"<Haystack {self.name}: {', '.join([count, *choices, *damage])}>"

    @property
    def _is_video(self) -> bool:
        return self.kind in ("video", "generated")

    @property
    def unit(self) -> Literal["frame", "page"]:
        """What one of its pictures is called."""
        return "page" if self.kind in PAGE_KINDS else "frame"

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
        # Named only where they matter, so that the caches of older versions are found.
        of_some = {
            "recipe": self.recipe,
            "video_stream": self.stream_choice,
            "assume_fps": "" if self.assume_fps is None else str(self.assume_fps),
            "order": "" if self.order == "name" else self.order,
            "dpi": "" if self.dpi is None else str(self.dpi),
            "renderer": self.renderer,
        }
        return identity | {name: value for name, value in of_some.items() if value}

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
            on_damage: called with one line for each note of this haystack, before the first frame;
                if damage is kept, also with one line for each damaged file, before the last frame
                of that file.

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
        sources = self._sources(stop)
        if on_damage is not None:
            for note in self.notes:
                on_damage(note)
        for source in sources:
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
            units = f"{self.unit}s"
            what = f"{counted(num_frames, 'frame')} at 1 frame per second"
            if not self._is_video:
                what = (
                    counted(num_frames, "page")
                    if units == "pages"
                    else f"{counted(num_frames, 'frame')} as images"
                )
            raise HaystackTooShortError(
                f"the haystack {self.name} has {what}, but {stop} were asked for. Ask for fewer "
                f"{units}, or give a longer haystack: it is never looped."
            )
        return sources

    def _open_sources(self) -> Iterator[FrameSource]:
        if self.dpi is not None:
            yield PdfSource(self.paths[0], self.dpi)
            return
        if not self._is_video:
            from vniah.haystacks.images import ImageSource

            yield ImageSource(self.paths, self.keep_damaged)
            return
        from vniah.haystacks.video.decord import DecordSource
        from vniah.haystacks.video.packets import index_video
        from vniah.haystacks.video.pyav import VideoSource

        make = VideoSource if self.decoder == "pyav" else DecordSource
        for position, path in enumerate(self.paths):
            stream = self.streams[position] if self.streams else None
            index = index_video(path, stream, self.assume_fps)
            yield make(index, self.sampling, self.keep_damaged)


def open_haystack(
    source: str | Path | Sequence[str | Path],
    *,
    sampling: Sampling = "clock",
    decoder: Decoder = "pyav",
    keep_damaged: bool = False,
    stream: int | None = None,
    assume_fps: int | str | Fraction | None = None,
    pages: bool = False,
    dpi: int | None = None,
) -> Haystack:
    """A haystack from your own videos, images or pages.

    Reads every byte once for the sha256, and decodes nothing.

    Args:
        source: a video file, a folder of images, a PDF, or several video files.
        sampling: how videos are sampled. ``clock``: frame k is the picture on screen k seconds
            after the first one; ``longva``: every round(fps)-th picture, as in the published runs.
        decoder: what decodes videos: ``pyav``, or ``decord`` in a process of its own.
        keep_damaged: read what can be decoded of a damaged source instead of refusing it.
        stream: which video stream of the files is read, counted from 0 among the video streams. By
            default it is chosen as players do (see `vniah.haystacks.video.streams`).
        assume_fps: pictures per second of bare streams such as ``.h264``, which hold no time
            stamps: a whole number, a `Fraction`, or a text such as ``24000/1001`` or ``23.976``.
        pages: whether the images of a folder are pages of a document: results count pages then.
        dpi: pixels per inch with which the pages of a PDF are drawn; by default 96.

    Raises:
        InputError: no source, the same film twice, an unknown choice, a sampling or stream that
            this video does not allow, or a choice for videos, folders or PDFs with another source.
        MissingDependencyError: the decoder is decord, or the source a PDF, and the package for it
            is not installed.
        HaystackError: a path is missing, unreadable, or neither a video nor a folder of images nor
            a PDF; or a video holds no time stamps, and no rate is given.
        VideoDamagedError: a video lacks the part without which it cannot be opened.
    """
    paths, rate = read_choices(source, sampling, decoder, stream, assume_fps)
    require_choices_of_pages(paths, keep_damaged=keep_damaged, pages=pages, dpi=dpi)
    if paths[0].is_dir():
        with explained("read", paths[0]):
            return _open_images(paths[0], keep_damaged, pages)
    if is_pdf(paths[0]):
        with explained("read", paths[0]):
            return _open_pdf(paths[0], DEFAULT_DPI if dpi is None else dpi)
    with explained("read", paths[0]):
        from vniah.haystacks.video.streams import describe_streams

        summaries = [_require_video(path, sampling, decoder, stream, rate) for path in paths]
        name = paths[0].name + (f"+{len(paths) - 1}" if len(paths) > 1 else "")
        return Haystack(
            name,
            paths,
            "video",
            hash_films(paths),
            sampling,
            decoder,
            keep_damaged,
            streams=tuple(summary.stream for summary in summaries),
            stream_choice=describe_streams(summaries),
            assume_fps=rate,
        )


def require_haystack(
    source: str | Path | Sequence[str | Path],
    *,
    sampling: Sampling = "clock",
    decoder: Decoder = "pyav",
    stream: int | None = None,
    assume_fps: int | str | Fraction | None = None,
    pages: bool = False,
    dpi: int | None = None,
) -> None:
    """Requires what `open_haystack` does, as far as names and the headers of videos tell it.

    The arguments and errors are those of `open_haystack`.
    """
    paths, rate = read_choices(source, sampling, decoder, stream, assume_fps)
    require_choices_of_pages(paths, pages=pages, dpi=dpi)
    with explained("read", paths[0]):
        if paths[0].is_dir():
            from vniah.haystacks.images import list_images

            list_images(paths[0])
            return
        if is_pdf(paths[0]):
            page_sizes(paths[0], DEFAULT_DPI if dpi is None else dpi)
            return
        for path in paths:
            _require_video(path, sampling, decoder, stream, rate)


def _open_pdf(path: Path, dpi: int) -> Haystack:
    page_sizes(path, dpi)  # raises if it cannot be read
    digest = hash_file(path)
    return Haystack(path.name, (path,), "pdf", digest, dpi=dpi, renderer=renderer_name())


def _open_images(folder: Path, keep_damaged: bool, pages: bool) -> Haystack:
    from vniah.haystacks.images import list_images

    listing = list_images(folder)
    return Haystack(
        folder.resolve().name or "images",
        listing.paths,
        "pages" if pages else "images",
        join_digests([hash_file(path) for path in listing.paths]),
        keep_damaged=keep_damaged,
        order=listing.order,
        notes=listing.notes,
    )


def _require_video(
    path: Path, sampling: Sampling, decoder: Decoder, stream: int | None, rate: Fraction | None
) -> "VideoSummary":
    from vniah.haystacks.video.streams import require_clock, summarize_video

    summary = summarize_video(path, stream)
    require_clock(path, summary, rate)
    if sampling == "longva":
        longva_schedule(1, average_rate=rate or summary.average_rate)
    if decoder == "decord":
        from vniah.haystacks.video.decord import require_decord

        require_decord(path, summary)
    return summary


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
        InputError: ``num_frames`` is less than 1, or more than a million.
        HaystackError: the cache cannot be written.
    """
    _require_seconds("num_frames", num_frames)
    recipe = Recipe(seed)
    name = f"generated-v{recipe.generator_version}-seed{seed}"
    folder = cache_dir() / "haystacks" / name
    with explained("write", folder):
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
    _require_seconds("seconds", seconds)
    with explained("write", path):
        draw_film(path, manifest, Recipe(seed, fps, size), seconds=seconds, on_progress=on_progress)
    return path


def _require_seconds(name: str, seconds: int) -> None:
    if seconds < 1:
        raise InputError(f"{name} must be at least 1, got {seconds}.")
    if seconds > MOST_SECONDS:
        raise InputError(
            f"{name} must be at most {MOST_SECONDS:,} for a generated film, got {seconds:,}."
        )
