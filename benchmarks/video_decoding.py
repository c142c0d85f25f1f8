"""Claim: not decoding frames that nobody refers to and nobody wants gives the same pixels, sooner.

Draws a film at 24 frames per second, reads it at 1 FPS with and without the speed-up, interleaved,
and prints the ratio of CPU time and whether all pixels agree.

    python -m benchmarks.video_decoding [--seconds 60]
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av

from vniah.haystacks.synthetic import write_video
from vniah.haystacks.video.packets import index_video
from vniah.haystacks.video.pyav import VideoSource


def read_every_frame(path: Path) -> Iterator[bytes]:
    """The definition, spelt out: decode all, give the last frame with pts <= first pts + k."""
    k, shown, first = 0, None, None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            first = frame.pts if first is None else first
            while shown is not None and (frame.pts - first) * stream.time_base > k:
                yield shown.to_ndarray(format="rgb24").tobytes()
                k += 1
            shown = frame
        if (shown.pts + shown.duration - first) * stream.time_base > k:
            yield shown.to_ndarray(format="rgb24").tobytes()


def read_with_speed_up(path: Path) -> Iterator[bytes]:
    """What a sweep does."""
    for frame in VideoSource(index_video(path), "clock").frames():
        yield frame.image.tobytes()


def main() -> None:
    """Reads both ways, interleaved, and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    ways = {"every frame": read_every_frame, "speed-up": read_with_speed_up}
    cpu_seconds = {way: [] for way in ways}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_video(path, seed=3, seconds=options.seconds, fps=24, size=(640, 360))
        for way in [*ways] * 3:
            started = time.process_time()
            digest = hashlib.sha256()
            for pixels in ways[way](path):
                digest.update(pixels)
            cpu_seconds[way].append(time.process_time() - started)
            digests.add(digest.hexdigest())
    ratio = min(cpu_seconds["every frame"]) / min(cpu_seconds["speed-up"])
    print(
        f"{options.seconds} s of film at 24 frames per second: x{ratio:.2f} less CPU time, "
        f"all pixels equal: {len(digests) == 1}"
    )


if __name__ == "__main__":
    main()
