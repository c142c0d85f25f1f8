"""Reads a video at 1 frame per second through PyAV, in a small and constant amount of memory.

A file is read twice. First its packets are listed (`vniah.haystacks.video.packets`). That gives the
time of every picture, whether the file is whole, and the number of frames, before anything is
decoded. Then the file is decoded, and only the pictures that are asked for are converted to RGB.
Nothing is decoded ahead of the consumer.

Limits: pictures keep the size in which they are stored, whatever their pixel aspect ratio. Damage
is found where the container or the decoder notices it; a few changed bytes may decode to a picture
with a blemish. A missing end is found if the file declares its length and lacks more than a second
or two of it (with sound, a hundredth of the film), or if fragmented MP4 ends inside a fragment.
MPEG-TS does not declare its length: there only a cut in the middle of a packet is found. A file
that was cut between two packets is taken for a shorter film, and so is a Matroska file of a live
recording. What counts as damage is described in `vniah.haystacks.video.completeness`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

from vniah.errors import VideoDamagedError, counted
from vniah.haystacks.frames import Frame, IndexedVideo
from vniah.haystacks.video.packets import VideoIndex, damaged_error
from vniah.haystacks.video.sampling import show_at
from vniah.haystacks.video.streams import open_video, require_size
from vniah.haystacks.video.timeline import Timeline

_COUNT_ON_SECONDS = 300
"""After damage that is refused, so much more is decoded, to say how much damage there is."""


@dataclass(frozen=True)
class VideoSource(IndexedVideo):
    """One video as frames, read through PyAV."""

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """The frames of [start, stop).

        Decoding always begins at the start of the file, so a frame does not depend on ``start``.
        Frames that were given before damage was found are undamaged.

        Raises:
            VideoDamagedError: a picture cannot be decoded, and damage is not kept; or no picture
                can be decoded.
        """
        ordinals = self.index.schedule(self.sampling)[start:stop]
        for picture in self.pictures(ordinals, on_damage=on_damage):
            yield replace(picture, index=start + picture.index)

    def pictures(
        self, ordinals: Sequence[int], *, on_damage: Callable[[str], None] | None = None
    ) -> Iterator[Frame]:
        """Some of all pictures, at whatever rate they are shown.

        Args:
            ordinals: their numbers in the order in which they are shown, from 0, ascending.
            on_damage: as `frames`.

        Yields:
            A frame for each ordinal, whose ``index`` is the place of the ordinal.

        Raises:
            VideoDamagedError: as `frames`.
        """
        index = self.index
        damage = _Damage(index)
        times = [index.pts[ordinal] for ordinal in ordinals]
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
            require_size(index.path, picture)
            seconds = float(pts * index.time_base)
            yield Frame(index=position, pts_seconds=seconds, image=_to_upright_rgb(picture))
        if damage.counts and not self.keep_damaged:
            raise damaged_error(index.path, damage.summary())
        if times and position < 0:
            raise VideoDamagedError(
                f"{index.path}: not one picture could be decoded. Copy or download it again."
            )

    def _pictures(
        self, wanted: Collection[int], damage: "_Damage"
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """(pts, picture) in the order shown; may lack what is neither wanted nor referred to."""
        index = self.index
        may_skip = index.is_exact and not index.in_order and not self.keep_damaged
        num_pictures = 0
        with open_video(index.path, index.summary.stream) as (container, stream):
            stream.thread_type = "AUTO"
            if self.keep_damaged:
                stream.codec_context.thread_count = 1  # else broken bytes may decode differently
            for packet in self._packets_and_end(container, stream):
                if may_skip and packet is not None:
                    skip = "DEFAULT" if packet.pts in wanted else "NONREF"
                    stream.codec_context.skip_frame = skip
                try:
                    pictures = stream.decode(packet)
                except av.error.FFmpegError:
                    at = packet.pts if packet else index.pts[-1]
                    if index.in_order:
                        at = index.pts[min(num_pictures, len(index.pts) - 1)]
                    damage.add("undecodable packet", at)
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
        with suppress(av.error.FFmpegError):  # noted in the index already
            yield from islice(Timeline(container, stream), self.index.num_packets)
        yield None


@dataclass
class _Damage:
    """What could not be decoded: how often, and when first."""

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
            parts.append(f"{counted(number, kind)}, {where} {self.firsts[kind]:.1f} s")
        return "; ".join(parts)


def _to_upright_rgb(picture: Any) -> NDArray[np.uint8]:
    image = picture.to_ndarray(format="rgb24")
    try:
        matrix = picture.side_data[SideDataType.DISPLAYMATRIX]
    except KeyError:
        return np.ascontiguousarray(image)
    except ValueError:  # the picture has side data that this version of PyAV does not know
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
