"""Makes tiny videos through PyAV: picture i shows the number i as black and white blocks."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

HEIGHT, WIDTH, BLOCK = 48, 64, 16
NTSC_FILM = Fraction(24000, 1001)
H264 = {"preset": "veryfast", "crf": "23", "g": "50", "bf": "3"}


def draw_number(number: int) -> np.ndarray:
    rows, columns = HEIGHT // BLOCK, WIDTH // BLOCK
    bits = np.array([(number >> bit) & 1 for bit in range(rows * columns)], dtype=np.uint8)
    picture = np.kron(bits.reshape(rows, columns) * 220 + 16, np.ones((BLOCK, BLOCK), np.uint8))
    return np.repeat(picture[:, :, None], 3, axis=2)


def read_number(image: np.ndarray) -> int:
    assert image.shape == (HEIGHT, WIDTH, 3), image.shape
    assert image.dtype == np.uint8
    blocks = image.mean(axis=2).reshape(HEIGHT // BLOCK, BLOCK, WIDTH // BLOCK, BLOCK)
    middles = blocks[:, 4:12, :, 4:12].mean(axis=(1, 3)).ravel()
    return sum(1 << bit for bit, value in enumerate(middles) if value > 128)


def at_rate(rate: Fraction | int, num_pictures: int, *, start: int = 0) -> list[Fraction]:
    """The times of pictures at a constant rate, in seconds."""
    return [start + Fraction(i) / rate for i in range(num_pictures)]


def expected_numbers(times: Sequence[Fraction], *, last_seconds: Fraction) -> list[int]:
    """The definition: frame k is the last picture at or before k seconds after the first."""
    numbers = []
    while times[0] + len(numbers) < times[-1] + last_seconds:
        numbers.append(bisect_right(times, times[0] + len(numbers)) - 1)
    return numbers


def write_video(
    path: Path,
    times: Sequence[Fraction | float],
    *,
    last_seconds: Fraction | float | None = None,
    codec: str = "libx264",
    options: Mapping[str, str] = H264,
    container_options: Mapping[str, str] | None = None,
    with_sound: bool = False,
    ticks_per_second: int = 90000,
    noise: int = 0,
) -> Path:
    """Writes picture i at ``times[i]`` seconds; every picture lasts until the next."""
    if last_seconds is None:
        last_seconds = times[-1] - times[-2]
    tick = Fraction(1, ticks_per_second)
    pts = [round(Fraction(time) / tick) for time in times]
    last_duration = round(Fraction(last_seconds) / tick)
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = tick
        stream.codec_context.thread_count = 1
        stream.options = dict(options)
        sound = container.add_stream("aac", rate=8000) if with_sound else None
        num_sounds = 0

        def mux(packets):
            for packet in packets:
                if packet.pts == pts[-1]:
                    packet.duration = last_duration
                container.mux(packet)

        for number, time in enumerate(pts):
            while (
                sound is not None and num_sounds * 1024 * ticks_per_second <= (time - pts[0]) * 8000
            ):
                container.mux(sound.encode(silence(num_sounds)))
                num_sounds += 1
            image = draw_number(number).astype(int)
            image += rng.integers(-noise, noise + 1, image.shape)
            picture = av.VideoFrame.from_ndarray(np.clip(image, 0, 255).astype(np.uint8))
            picture.pts, picture.time_base = time, tick
            mux(stream.encode(picture))
        mux(stream.encode())
        if sound is not None:
            container.mux(sound.encode())
    return path


def silence(index: int) -> av.AudioFrame:
    """The piece of sound from ``index`` x 0.128 s on."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts = 8000, index * 1024
    return frame


def overwrite(path: Path, at: float, num_bytes: int, target: Path) -> Path:
    """A copy with noise from ``at``, a fraction of the file, on."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    noise = np.random.default_rng(0).bytes(num_bytes)
    data[start : start + num_bytes] = noise
    target.write_bytes(data[: path.stat().st_size])
    return target


def cut(path: Path, at: float, target: Path) -> Path:
    """A copy of the first part of a file."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * at)])
    return target


def repack(path: Path, packet_size: int, target: Path) -> Path:
    """A copy of MPEG-TS with a time before every packet (192), or a checksum after it (204)."""
    data = path.read_bytes()
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    before, after = {188: (b"", b""), 192: (bytes(4), b""), 204: (b"", bytes(16))}[packet_size]
    target.write_bytes(b"".join(before + packet + after for packet in packets))
    return target


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes (a, b, c, d) into the header of an MP4 file: how a player turns and mirrors it."""
    a, b, c, d = (value * 65536 for value in matrix)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)


def write_streams(path: Path, *streams: Mapping[str, object], seconds: int = 4) -> Path:
    """Writes several video streams with pictures of their own into one file.

    Each stream may give ``first``, its first number (picture i shows the number ``first`` + i);
    ``size``, (width, height); ``num_pictures``, by default ``seconds`` at 5 pictures a second;
    ``codec`` and ``disposition``.
    """
    with av.open(str(path), "w") as container:
        made = []
        for choices in streams:
            codec = str(choices.get("codec", "libx264"))
            stream = container.add_stream(codec, rate=5)
            stream.width, stream.height = choices.get("size", (WIDTH, HEIGHT))
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.thread_count = 1
            if codec == "libx264":
                stream.options = {"preset": "veryfast", "bf": "0"}
            if "disposition" in choices:
                stream.disposition = Disposition[str(choices["disposition"])]
            made.append((stream, choices))
        for number in range(5 * seconds):
            for stream, choices in made:
                if number < choices.get("num_pictures", 5 * seconds):
                    image = draw_number(choices.get("first", 0) + number)
                    picture = av.VideoFrame.from_ndarray(image)
                    picture = picture.reformat(stream.width, stream.height, stream.pix_fmt)
                    picture.pts, picture.time_base = number, Fraction(1, 5)
                    container.mux(stream.encode(picture))
        for stream, _ in made:
            container.mux(stream.encode())
    return path


def set_edits(path: Path, edits: Sequence[tuple[float, float | None]]) -> None:
    """Gives an MP4 file an edit list: (length, where it starts) in seconds; None shows nothing."""
    data = path.read_bytes()
    moov, size = _find_box(data, b"moov", 0, len(data))
    assert moov + size == len(data), "the index has to be at the end"
    trak, trak_size = _find_box(data, b"trak", moov + 8, moov + size)
    mdhd = data.index(b"mdhd")
    movie_ticks = int.from_bytes(data[data.index(b"mvhd") + 16 :][:4])
    media_ticks = int.from_bytes(data[mdhd + 16 : mdhd + 20])
    entries = b"".join(
        round(length * movie_ticks).to_bytes(4)
        + (-1 if start is None else round(start * media_ticks)).to_bytes(4, signed=True)
        + (1 << 16).to_bytes(4)
        for length, start in edits
    )
    table = bytes(4) + len(edits).to_bytes(4) + entries
    edts = _box(b"edts", _box(b"elst", table))
    track, at = b"", trak + 8
    while at < trak + trak_size:
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        track += edts * (kind == b"mdia")
        track += data[at : at + length] * (kind != b"edts")
        at += length
    rest = data[moov + 8 : trak], data[trak + trak_size :]
    path.write_bytes(data[:moov] + _box(b"moov", rest[0] + _box(b"trak", track) + rest[1]))


def _box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + kind + content


def _find_box(data: bytes, kind: bytes, start: int, stop: int) -> tuple[int, int]:
    while start < stop:
        size = int.from_bytes(data[start : start + 4])
        if data[start + 4 : start + 8] == kind:
            return start, size
        start += size
    raise AssertionError(f"no box {kind!r}")
