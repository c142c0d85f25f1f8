"""Reads a video at 1 frame per second through PyAV, in a small and constant amount of memory.

A file is gone through twice. First its packets are listed (`vniah.haystacks.video.packets`): what
time every picture has, whether the file is whole, and how many frames there are, before anything is
decoded. Then it is decoded, and only what is asked for is converted to RGB. Nothing runs ahead of
the consumer.

Limits: pictures come in the size they are stored in, whatever their pixel aspect ratio. Damage is
found where the container or the decoder notices it. A few changed bytes may decode to a picture
with a blemish. A missing end is found if it is longer than a second or two (with sound, than a
hundredth of the film; in fragmented MP4, than a twentieth of the file) and the file declares its
length. MPEG-TS does not: only a cut inside of a packet is found there, and one that was cut at the
seam of two packets is a shorter film, as is a Matroska file of a live recording.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

from vniah.errors import VideoDamagedError
from vniah.haystacks.frames import Frame, Sampling
from vniah.haystacks.video.packets import (
    VideoIndex,
    count,
    damaged_error,
    open_video,
    video_packets,
)
from vniah.haystacks.video.sampling import show_at

_COUNT_ON_SECONDS = 300
"""After damage that is refused, so much more of the video is looked at to say how much there is."""


@dataclass(frozen=True)
class VideoSource:
    """One video as frames, read through PyAV.

    Raises:
        VideoDamagedError: the packets show damage, and damage is not kept.
    """

    index: VideoIndex
    sampling: Sampling
    keep_damaged: bool = False

    def __post_init__(self) -> None:
        """Refuses what is known to be damaged."""
        if not self.keep_damaged:
            self.index.refuse_damage()

    @property
    def num_frames(self) -> int:
        """How many frames the packets promise."""
        return len(self.index.schedule(self.sampling))

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """The frames of [start, stop).

        Decoding always begins at the start of the file, so a frame does not depend on ``start``.
        Frames that were given before damage is met are sound.

        Args:
            start: the first frame to give.
            stop: the frame after the last.
            on_damage: if damage is kept, called with what was found before the last frame is given.

        Raises:
            VideoDamagedError: something does not decode, and damage is not kept; or nothing does.
        """
        index = self.index
        damage = _Damage(index)
        times = [index.pts[ordinal] for ordinal in index.schedule(self.sampling)[start:stop]]
        position = -1
        for position, pts, picture in show_at(self._pictures(set(times), damage), times):
            if index.is_exact and pts != times[position]:
                damage.add("missing picture", times[position])
            if damage.counts and not self.keep_damaged:
                if index.seconds(pts) > damage.first_seconds() + _COUNT_ON_SECONDS:
                    break
                continue
            if position == len(times) - 1 and damage.summary() and on_damage is not None:
                on_damage(f"{index.path.name}: {damage.summary()}")
            seconds = float(pts * index.time_base)
            yield Frame(index=start + position, pts_seconds=seconds, image=_to_upright_rgb(picture))
        if damage.counts and not self.keep_damaged:
            raise damaged_error(index.path, damage.summary())
        if times and position < 0:
            raise VideoDamagedError(
                f"{index.path}: not one picture could be decoded. Copy or download it again."
            )

    def _pictures(
        self, wanted: Collection[int], damage: "_Damage"
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """(pts, picture) as they are shown; what is neither wanted nor referred to is left out."""
        index = self.index
        may_skip = index.is_exact and not index.in_order and not self.keep_damaged
        num_pictures = 0
        with open_video(index.path) as (container, stream):
            stream.thread_type = "AUTO"
            if self.keep_damaged:
                stream.codec_context.thread_count = 1  # what is made of broken bytes depends on it
            for packet in self._packets_and_end(container, stream):
                if may_skip and packet is not None:
                    skip = "DEFAULT" if packet.pts in wanted else "NONREF"
                    stream.codec_context.skip_frame = skip
                try:
                    pictures = stream.decode(packet)
                except av.error.FFmpegError:
                    damage.add("undecodable packet", packet.pts if packet else index.pts[-1])
                    continue
                for picture in pictures:
                    pts = picture.pts
                    if index.in_order:
                        pts = index.pts[min(num_pictures, len(index.pts) - 1)]
                        num_pictures += 1
                    if picture.is_corrupt:
                        damage.add("damaged picture", pts)
                    if pts is not None:
                        yield pts, picture

    def _packets_and_end(self, container: Any, stream: Any) -> Iterator[Any]:
        with suppress(av.error.FFmpegError):  # the index has noted it
            yield from islice(video_packets(container, stream), self.index.num_packets)
        yield None


@dataclass
class _Damage:
    """What did not decode: how often, and when first."""

    index: VideoIndex
    counts: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, pts: int | None) -> None:
        self.counts[kind] += 1
        first = self.index.pts[0]
        self.firsts.setdefault(kind, self.index.seconds(max(first, first if pts is None else pts)))

    def first_seconds(self) -> float:
        return min(self.firsts.values())

    def summary(self) -> str:
        parts = list(self.index.damage)
        for kind, number in self.counts.items():
            where = "the first near" if number > 1 else "near"
            parts.append(f"{count(number, kind)}, {where} {self.firsts[kind]:.1f} s")
        return "; ".join(parts)


def _to_upright_rgb(picture: Any) -> NDArray[np.uint8]:
    image = picture.to_ndarray(format="rgb24")
    try:
        matrix = picture.side_data[SideDataType.DISPLAYMATRIX]
    except KeyError:
        return np.ascontiguousarray(image)
    except ValueError:  # it carries something that this version of PyAV has no name for
        return np.ascontiguousarray(np.rot90(image, round(picture.rotation / 90) % 4))
    return np.ascontiguousarray(_apply_display_matrix(image, np.frombuffer(matrix, np.int32)))


def _apply_display_matrix(image: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turns and mirrors: the pixel (x, y) goes to (a x + c y, b x + d y), y pointing downwards."""
    a, b, _, c, d = (int(value) for value in matrix[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.swapaxes(0, 1), c, b
    if a < 0:
        image = image[:, ::-1]
    return image[::-1] if d < 0 else image
