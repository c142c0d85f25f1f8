"""A haystack of many videos, of which samples show single pictures: a library.

All pictures of all videos stand one after the other, and each has a number, whatever is asked of
them. So two samples that show the same picture name it alike, and what is known of a picture, such
as its embedding, is kept by its video and its place there.
"""

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from vniah.errors import InputError, VideoDamagedError
from vniah.files import atomic_path, cache_dir
from vniah.haystacks.frames import Frame
from vniah.haystacks.hashes import hash_unchanged
from vniah.haystacks.paths import explained, join_digests

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"}
)
"""The names of video files end so."""


@dataclass(frozen=True)
class LibraryVideo:
    """A video of a library.

    Attributes:
        name: what the library calls it.
        path: its file.
        sha256: of the file.
        num_pictures: how many pictures it has, at least one.
        seconds: from the first picture until the last one leaves the screen.
        damage: what its packets show to be missing, where damage is kept.
    """

    name: str
    path: Path
    sha256: str
    num_pictures: int
    seconds: float
    damage: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, path: Path, *, keep_damaged: bool = False) -> "LibraryVideo":
        """The video in a file, which is read as a whole, but not decoded.

        Its hash is kept, and taken from there as long as the file does not change.

        Raises:
            HaystackError: it is no video.
            VideoDamagedError: it is damaged, and damage is not kept.
            OSError: it cannot be read.
        """
        from vniah.haystacks.video.packets import index_video

        index = index_video(path)
        if not keep_damaged:
            index.require_whole()
        num_pictures, seconds = len(index.pts), index.seconds(index.end)
        return cls(name, path, hash_unchanged(path), num_pictures, seconds, index.damage)

    def identity(self, *, keep_damaged: bool) -> dict[str, str]:
        """All that decides its pictures, as `vniah.haystacks.haystack.Haystack.identity`."""
        return {
            "kind": "video",
            "sha256": self.sha256,
            "sampling": "every picture",
            "decoder": "pyav",
            "keep_damaged": str(keep_damaged).lower(),
        }

    def pictures(
        self,
        ordinals: Sequence[int],
        *,
        keep_damaged: bool = False,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """Some pictures, by their ascending numbers in the video; those numbers are their indices.

        Raises:
            VideoDamagedError: a picture cannot be decoded, and damage is not kept; or the file is
                no longer the one that was opened.
        """
        from vniah.haystacks.video.packets import index_video
        from vniah.haystacks.video.pyav import VideoSource

        index = index_video(self.path)
        if len(index.pts) != self.num_pictures:
            raise VideoDamagedError(
                f"{self.path} has {len(index.pts):,} pictures, and had {self.num_pictures:,} when "
                "the run began. Put the file back, or begin anew."
            )
        source = VideoSource(index, "clock", keep_damaged)
        for frame in source.pictures(ordinals, on_damage=on_damage):
            yield replace(frame, index=ordinals[frame.index])


@dataclass(frozen=True)
class VideoLibrary:
    """Many videos as one haystack. Frame k is picture k of all their pictures, video by video.

    Attributes:
        name: shown to people and used in file names.
        videos: in order; at least one.
        keep_damaged: whether damaged videos are read as far as possible instead of refused.
        notes: what a reader of the results should know, one line each.
        origin: where the library is from, as far as the manifest of a run should say it, such as
            the name and the revision of a data set; it decides nothing.
    """

    name: str
    videos: tuple[LibraryVideo, ...] = field(repr=False)
    keep_damaged: bool = False
    notes: tuple[str, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def num_frames(self) -> int:
        """The number of pictures of all videos."""
        return self._ends[-1]

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        """For each video the number of the frame behind its last."""
        return tuple(accumulate(video.num_pictures for video in self.videos))

    def first_frame(self, number: int) -> int:
        """The number of the first frame of a video, which is named by its place among them."""
        return self._ends[number] - self.videos[number].num_pictures

    def locate(self, frame: int) -> tuple[int, int]:
        """The place of the video that holds a frame, and the number of the picture in it."""
        number = bisect_right(self._ends, frame)
        return number, frame - self.first_frame(number)

    def by_video(self, frames: Iterable[int]) -> Mapping[int, tuple[int, ...]]:
        """Frames as pictures of their videos, ascending and each once; both by their numbers."""
        found: dict[int, list[int]] = defaultdict(list)
        for frame in sorted({*frames}):
            number, ordinal = self.locate(frame)
            found[number].append(ordinal)
        return {number: tuple(ordinals) for number, ordinals in found.items()}

    def identity(self) -> dict[str, str]:
        """All that decides the pixels, as `vniah.haystacks.haystack.Haystack.identity`."""
        return {
            "kind": "videos",
            "sha256": join_digests([video.sha256 for video in self.videos]),
            "keep_damaged": str(self.keep_damaged).lower(),
        }

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """As `vniah.haystacks.haystack.Haystack.frames`."""
        last = self.num_frames if stop is None else stop
        if not 0 <= start <= last <= self.num_frames:
            raise InputError(
                f"frames need 0 <= start <= stop <= {self.num_frames}, got start={start}, "
                f"stop={stop}."
            )
        return self.frames_at(range(start, last), on_damage=on_damage)

    def frames_at(
        self, frames: Iterable[int], *, on_damage: Callable[[str], None] | None = None
    ) -> Iterator[Frame]:
        """Some frames, ascending and each once. Every video that is needed is decoded once.

        Args:
            frames: their numbers, in any order.
            on_damage: as `vniah.haystacks.haystack.Haystack.frames`.

        Raises:
            VideoDamagedError: a video is damaged, and damage is not kept.
        """
        if on_damage is not None:
            for note in self.notes:
                on_damage(note)
        for number, ordinals in self.by_video(frames).items():
            first = self.first_frame(number)
            pictures = self.videos[number].pictures(
                ordinals, keep_damaged=self.keep_damaged, on_damage=on_damage
            )
            for picture in pictures:
                yield replace(picture, index=first + picture.index)


STORED_VIDEOS = "videos"
"""The folder of the user's cache with videos that were stored inside of a data set."""


def store_video(content: bytes, suffix: str) -> Path:
    """A file in the user's cache that holds a video, which is named by its hash and written once.

    Args:
        content: the bytes of the video.
        suffix: of the name of the file.

    Raises:
        HaystackError: the cache cannot be written.
    """
    digest = hashlib.sha256(content).hexdigest()
    is_known = suffix.lower() in VIDEO_SUFFIXES
    path = cache_dir() / STORED_VIDEOS / f"{digest}{suffix.lower() if is_known else '.mp4'}"
    with explained("write", path):
        if not path.is_file() or hash_unchanged(path) != digest:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
    return path


def uniform_pictures(num_pictures: int, num_frames: int) -> tuple[int, ...]:
    """The numbers of pictures that are spread evenly over a video, the first and the last included.

    It is the rule of the published evaluations (LongVA in lmms-eval, ``load_video``):
    ``np.linspace(0, num_pictures - 1, num_frames, dtype=int)``. A video that has fewer pictures
    shows some of them several times, one after the other; a single frame is the first picture.

    Args:
        num_pictures: of the video, at least 1.
        num_frames: how many are shown, at least 1.

    >>> uniform_pictures(10, 4), uniform_pictures(2, 5)
    ((0, 3, 6, 9), (0, 0, 0, 0, 1))
    """
    return tuple(np.linspace(0, num_pictures - 1, num_frames, dtype=int).tolist())
