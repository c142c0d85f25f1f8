"""Reads a video at 1 frame per second through decord, in a process of its own.

decord has not been maintained since 2021. It decodes ahead without bound, even when no frame is
asked for (720p: 1.3 GB in 3 s). So its process is stopped (SIGSTOP) between two frames, and killed
when its reader is closed. Which picture is frame k is decided as with PyAV. What decord says about
the video is compared with that, and a video about which the two differ is refused. decord does not
notice damage *inside* a file.

Protocol of the child: it writes a JSON line with the number of pictures. Then it reads ordinals,
one a line, and answers each with a JSON line and the bytes of the picture. An error is a JSON line,
too. A stopped process does not notice that its input has ended. So on Linux the system is asked to
kill the child when its parent dies. On other systems, and if a thread other than the main one
started it, a child whose parent was killed stays behind.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vniah.errors import HaystackError, MissingDependencyError
from vniah.haystacks.frames import Frame, IndexedVideo

if TYPE_CHECKING:  # this process must not load PyAV and its FFmpeg
    from vniah.haystacks.video.streams import VideoSummary

_ANSWER_SECONDS = 120
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_WRONG_FORMATS = {"mpegts", "mpeg"}
"""decord shows wrong pictures of these formats, and gives no error."""


@dataclass(frozen=True)
class DecordSource(IndexedVideo):
    """One video as frames, read through decord.

    Raises:
        MissingDependencyError: decord is not installed.
        HaystackError: decord is known to misread this kind of file.
        VideoDamagedError: the packets show damage, and damage is not kept.
    """

    def __post_init__(self) -> None:
        """Requires a video that decord can read, before a process is started."""
        super().__post_init__()
        require_decord(self.index.path, self.index.summary)

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """The frames of [start, stop).

        Raises:
            HaystackError: decord fails, or sees another video than PyAV does.
        """
        index = self.index
        summary = "; ".join(index.damage)
        ordinals = index.schedule(self.sampling)[start:stop]
        with _Child.open(index.path) as child:
            self._compare_length(child.num_pictures)
            if summary and on_damage is not None:
                on_damage(f"{index.path.name}: {summary}")
            previous: tuple[int, NDArray[np.uint8]] | None = None
            for frame_index, ordinal in enumerate(ordinals, start):
                if previous is None or ordinal != previous[0]:  # twice may give the next one
                    seconds, image = child.read(ordinal)
                    self._compare_time(ordinal, seconds)
                    previous = (ordinal, image)
                pts_seconds = float(index.pts[ordinal] * index.time_base)
                yield Frame(index=frame_index, pts_seconds=pts_seconds, image=previous[1].copy())

    def _compare_length(self, num_pictures: int) -> None:
        if num_pictures != len(self.index.pts):
            raise HaystackError(
                f"{self.index.path}: decord finds {num_pictures} pictures where there are "
                f"{len(self.index.pts)}. Use --decoder pyav."
            )

    def _compare_time(self, ordinal: int, seconds: float) -> None:
        expected = self.index.seconds(self.index.pts[ordinal])
        if not abs(seconds - expected) < 0.002 + 1e-6 * abs(expected):  # decord counts in float32
            raise HaystackError(
                f"{self.index.path}: decord puts picture {ordinal} at {seconds:.3f} s where it is "
                f"at {expected:.3f} s. Use --decoder pyav."
            )


def require_decord(path: Path, summary: "VideoSummary") -> None:
    """Requires decord, which is not loaded, and a file that it reads as PyAV does.

    Raises:
        MissingDependencyError: decord is not installed.
        HaystackError: decord is known to misread this kind of file, or may read another stream.
    """
    if find_spec("decord") is None:
        raise MissingDependencyError("decord", extra="decord", purpose="--decoder decord")
    if summary.format_name in _WRONG_FORMATS:
        raise HaystackError(
            f"{path}: decord shows wrong pictures of MPEG streams ({summary.format_name}). "
            "Use --decoder pyav."
        )
    if summary.num_films > 1:
        raise HaystackError(
            f"{path} has {summary.num_films} video streams, and decord cannot be told which to "
            "read. Use --decoder pyav."
        )
    if not summary.has_clock:
        raise HaystackError(
            f"{path} is a bare stream ({summary.format_name}), and decord assumes a rate of its "
            "own. Use --decoder pyav."
        )


@dataclass
class _Child:
    """decord's process. It runs only while an answer is awaited, and is stopped in between."""

    path: Path
    process: "subprocess.Popen[bytes]"
    num_pictures: int = 0

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> "Iterator[_Child]":
        places = os.pathsep.join(place or os.getcwd() for place in sys.path)  # noqa: PTH109
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vniah.haystacks.video.decord",
                str(path.absolute()),
                _parent_to_die_with(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": places},
        ) as process:
            try:
                child = cls(path, process)
                child.num_pictures = int(child._await_answer()[0]["num_pictures"])
                yield child
            finally:
                process.kill()

    def read(self, ordinal: int) -> tuple[float, NDArray[np.uint8]]:
        """(seconds after the first picture as decord sees it, image [height, width, 3])."""
        assert self.process.stdin is not None
        self._signal("SIGCONT")
        self.process.stdin.write(b"%d\n" % ordinal)
        self.process.stdin.flush()
        header, pixels = self._await_answer()
        shape = header["shape"]
        if len(shape) != 3 or shape[2] != 3:
            raise HaystackError(
                f"{self.path}: decord gives pictures of shape {shape}, as it does for rotated "
                "videos. Use --decoder pyav."
            )
        return header["seconds"], np.frombuffer(pixels, dtype=np.uint8).reshape(shape)

    def _await_answer(self) -> tuple[dict[str, Any], bytearray]:
        assert self.process.stdout is not None
        timer = threading.Timer(_ANSWER_SECONDS, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
            header: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
            pixels = bytearray(header.get("num_bytes", 0))
            complete = bool(header) and _read_into(self.process.stdout, pixels)
        finally:
            timer.cancel()
        if not complete:
            raise HaystackError(
                f"{self.path}: decord's process ended without an answer (exit code "
                f"{self.process.wait()}). Use --decoder pyav."
            )
        if "error" in header:
            raise HaystackError(
                f"{self.path}: decord cannot read it: {header['error']}. Use --decoder pyav."
            )
        self._signal("SIGSTOP")
        return header, pixels

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):  # not on Windows; there decord reads ahead
            self.process.send_signal(getattr(signal, name))


def _read_into(stream: IO[bytes], target: bytearray) -> bool:
    view = memoryview(target)
    while view:
        num_read = stream.readinto(view)  # type: ignore[attr-defined]
        if not num_read:
            return False
        view = view[num_read:]
    return True


def _parent_to_die_with() -> str:
    """The id of this process; empty in a thread, whose end Linux takes for the parent's."""
    return str(os.getpid()) if threading.current_thread() is threading.main_thread() else ""


def _die_with_parent(parent: str) -> None:
    """In the child: asks the system to kill it when its parent dies. Linux only."""
    if not parent or sys.platform != "linux":
        return
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # the parent died before that
        sys.exit(1)


def _serve(path: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """In the child: opens the video, and answers until its input ends."""
    import decord

    def answer(header: dict[str, Any], pixels: bytes = b"") -> None:
        answers.write(json.dumps(header).encode() + b"\n")
        answers.write(pixels)
        answers.flush()

    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        first = float(reader.get_frame_timestamp([0])[0][0])
        answer({"num_pictures": len(reader)})
        for line in requests:
            ordinal = int(line)
            image = np.ascontiguousarray(reader[ordinal].asnumpy(), dtype=np.uint8)
            seconds = float(reader.get_frame_timestamp([ordinal])[0][0]) - first
            header = {"shape": image.shape, "seconds": seconds, "num_bytes": image.nbytes}
            answer(header, image.tobytes())
    except (RuntimeError, ValueError, IndexError) as error:  # decord's own is a RuntimeError
        answer({"error": " ".join(str(error).split())[:200]})


if __name__ == "__main__":
    _die_with_parent(sys.argv[2])
    # decord and FFmpeg may print; only answers may go to what was standard output.
    answer_stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.argv[1], sys.stdin.buffer, answer_stream)
