"""Videos of one picture a second, made of pictures that are encoded once.

Every picture is a keyframe of H.264, encoded by a constant quantizer and apart from its neighbours.
So a frame of the haystack has the same pixels in all videos, wherever a needle is inserted, readers
can seek to any second, and a video is written by copying packets.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, TypedDict

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vniah.errors import InputError, first_line
from vniah.files import atomic_path
from vniah.haystacks.synthetic import without_avx512
from vniah.results.sample_file import writing_to

MOST_SIDE = 16_384
_BT601 = 5
"""The matrix by which readers turn the colours back, as FFmpeg numbers it (BT.470 BG)."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class VideoFormat:
    """How pictures are encoded: equal formats give equal pictures.

    Attributes:
        width: of all pictures, in pixels, even.
        height: likewise.
        quantizer: of H.264, from 1, almost without loss, to 51.
    """

    width: int
    height: int
    quantizer: int

    @classmethod
    def fitting(cls, size: tuple[int, int], quantizer: int) -> "VideoFormat":
        """The format for pictures of a size, made even: H.264 halves the colours.

        Args:
            size: (width, height) in pixels, each at least 1.
            quantizer: as the attribute.

        Raises:
            InputError: a number is out of range.
        """
        if min(size) < 1 or max(size) > MOST_SIDE:
            raise InputError(
                f"a video has 1 to {MOST_SIDE:,} pixels in both directions, got "
                f"{size[0]:,}x{size[1]:,}; choose another --frame-size"
            )
        if not 1 <= quantizer <= 51:
            raise InputError(f"the quantizer of H.264 must be from 1 to 51, got {quantizer}")
        width, height = (side + side % 2 for side in size)
        return cls(width, height, quantizer)

    def record(self) -> "VideoRecord":
        """For the manifest."""
        return VideoRecord(
            codec="H.264, keyframes only, yuv420p",
            frame_rate="1 FPS",
            width=self.width,
            height=self.height,
            quantizer=self.quantizer,
        )


class VideoRecord(TypedDict):
    """How videos are encoded, in the manifest of an export."""

    codec: str
    frame_rate: str
    width: int
    height: int
    quantizer: int


@dataclass(frozen=True)
class StoredPicture:
    """Where an encoded picture lies in the store.

    Attributes:
        offset: of its first form; the other one follows.
        sizes: of both forms, in bytes.
    """

    offset: int
    sizes: tuple[int, int]


class PictureStore:
    """Encodes pictures, keeps them in a file without a name, and writes videos of them.

    H.264 requires that two keyframes in a row differ in a number of their headers
    (``idr_pic_id``). So each picture is encoded twice, with 0 and with 1; a video takes one and
    the other in turns.

    Args:
        video_format: of all videos.
        file: an open file, where the packets are kept.
        folder: where it is, for messages.
    """

    def __init__(self, video_format: VideoFormat, file: IO[bytes], folder: Path) -> None:
        self._format = video_format
        self._file = file
        self._folder = folder
        self._end = 0
        self._num_encoded = 0
        self._encoder = _open_encoder(video_format)
        # What x264 puts before the very first picture belongs to none.
        blank = np.zeros((video_format.height, video_format.width, 3), dtype=np.uint8)
        for _ in range(2):
            self._encode(blank)

    @classmethod
    @contextmanager
    def open(cls, video_format: VideoFormat, folder: Path) -> "Iterator[PictureStore]":
        """A store whose file is in ``folder`` and is gone at the end."""
        with writing_to(folder):
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed below
        with file:
            yield cls(video_format, file, folder)

    def add(self, image: Pixels) -> StoredPicture:
        """Encodes a picture.

        Args:
            image: uint8 RGB [height, width, 3], of any size; see `fit_picture`.

        Raises:
            ResultsError: the disk is full or cannot be written to.
        """
        fitted = fit_picture(image, (self._format.width, self._format.height))
        packets = [self._encode(fitted) for _ in range(2)]
        stored = StoredPicture(self._end, (len(packets[0]), len(packets[1])))
        with writing_to(self._folder):
            self._file.seek(self._end)
            self._file.writelines(packets)
            self._file.flush()
        self._end += sum(stored.sizes)
        return stored

    def write_video(self, path: Path, pictures: Sequence[StoredPicture]) -> None:
        """Writes an MP4 file whose picture k is on screen from second k to k + 1.

        The file is whole or not there.

        Args:
            path: the file.
            pictures: of this store, at least one.

        Raises:
            ResultsError: the disk is full or cannot be written to.
        """
        with (
            writing_to(self._folder),
            atomic_path(path, is_locked=True) as unfinished,
            av.open(
                str(unfinished), "w", format="mp4", options={"movflags": "+faststart"}
            ) as container,
        ):
            stream: Any = container.add_stream("libx264", rate=1)
            _configure(stream.codec_context, self._format)
            stream.time_base = Fraction(1, 1)
            container.start_encoding()
            for second, content in enumerate(self._read(pictures)):
                packet = av.Packet(content)
                packet.stream = stream
                packet.time_base = Fraction(1, 1)
                packet.pts = packet.dts = second
                packet.duration = 1
                packet.is_keyframe = True
                container.mux(packet)

    def _read(self, pictures: Iterable[StoredPicture]) -> Iterator[bytes]:
        """The packets of pictures that follow one another, in one form and the other in turns."""
        for position, picture in enumerate(pictures):
            form = position % 2
            self._file.seek(picture.offset + form * picture.sizes[0])
            yield self._file.read(picture.sizes[form])

    def _encode(self, image: Pixels) -> bytes:
        frame: Any = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=_BT601)
        frame.pts, frame.time_base = self._num_encoded, Fraction(1, 1)
        self._num_encoded += 1
        (packet,) = self._encoder.encode(frame)
        return bytes(packet)


def size_of_video(pictures: Iterable[StoredPicture]) -> int:
    """About how many bytes the video of some pictures has."""
    total = 1024
    for position, picture in enumerate(pictures):
        total += picture.sizes[position % 2] + _BYTES_OF_INDEX
    return total


_BYTES_OF_INDEX = 8
"""Of each picture in the index of an MP4 file."""


def fit_picture(image: Pixels, size: tuple[int, int]) -> Pixels:
    """The whole picture in a frame of another size, undistorted, in the middle of black bars.

    Where a side lacks one pixel to be even, the last row or column is repeated instead.

    Args:
        image: uint8 RGB [height, width, 3].
        size: (width, height) of the frame, both even.

    Returns:
        uint8 RGB [size[1], size[0], 3].
    """
    height, width = image.shape[:2]
    lacking = size[0] - width, size[1] - height
    if lacking == (0, 0):
        return np.ascontiguousarray(image)
    if max(lacking) <= 1 and min(lacking) >= 0:
        return np.pad(image, ((0, lacking[1]), (0, lacking[0]), (0, 0)), mode="edge")
    return np.array(ImageOps.pad(Image.fromarray(image), size, Image.Resampling.LANCZOS))


def _open_encoder(video_format: VideoFormat) -> Any:
    encoder: Any = av.CodecContext.create("libx264", "w")
    _configure(encoder, video_format)
    encoder.time_base = encoder.framerate = Fraction(1, 1)
    encoder.flags |= av.codec.context.Flags.global_header
    try:
        encoder.open()
    except av.error.FFmpegError as error:
        raise InputError(
            f"no video of {video_format.width}x{video_format.height} pixels can be encoded: "
            f"{first_line(error)}; choose another --frame-size"
        ) from error
    return encoder


def _configure(encoder: Any, video_format: VideoFormat) -> None:
    encoder.width, encoder.height = video_format.width, video_format.height
    encoder.pix_fmt = "yuv420p"
    encoder.colorspace = encoder.color_primaries = _BT601
    encoder.color_trc = 6  # SMPTE 170M, the curve of BT.601
    encoder.color_range = 1  # 16 to 235
    encoder.options = {
        "preset": "veryfast",
        "tune": "zerolatency",  # a packet comes out for each picture that goes in
        "qp": str(video_format.quantizer),
        "g": "1",
        "bf": "0",
        "threads": "1",  # the same bytes on any number of cores
        **without_avx512(),
    }
