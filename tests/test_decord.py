import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from videos import NTSC_FILM, at_rate, cut, read_number, set_display_matrix, write_video

from vniah.errors import HaystackError, MissingDependencyError, VideoDamagedError
from vniah.haystacks.haystack import open_haystack

needs_decord = pytest.mark.skipif(find_spec("decord") is None, reason="decord is not installed")
FASTSTART = {"movflags": "faststart"}


def numbers_of(path, **options):
    haystack = open_haystack(path, decoder="decord", **options)
    return [read_number(frame.image) for frame in haystack.frames()]


@pytest.mark.skipif(find_spec("decord") is not None, reason="decord is installed")
def test_decord_that_is_not_installed_is_named_with_its_extra(tmp_path):
    path = write_video(tmp_path / "film.mp4", [0, 1, 2])
    with pytest.raises(MissingDependencyError, match=r"'decord'.*pip install 'vniah\[decord\]'"):
        open_haystack(path, decoder="decord")


@needs_decord
@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
@pytest.mark.parametrize(
    "times", [at_rate(NTSC_FILM, 150), [0, 0.5, 0.9, 4.2, 5.5, 9], [0, 2, 4, 6]]
)
def test_decord_gives_the_frames_of_pyav(tmp_path, name, times):
    path = write_video(tmp_path / name, times)
    ours = list(open_haystack(path).frames())
    theirs = list(open_haystack(path, decoder="decord").frames())
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert (our.index, our.pts_seconds) == (their.index, their.pts_seconds)
        assert read_number(our.image) == read_number(their.image)
        assert their.image.flags.writeable


@needs_decord
def test_decord_reads_a_part(tmp_path):
    path = write_video(tmp_path / "film.mp4", at_rate(NTSC_FILM, 150))
    haystack = open_haystack(path, decoder="decord", sampling="longva")
    frames = list(haystack.frames(start=2, stop=5))
    assert [frame.index for frame in frames] == [2, 3, 4]
    assert [read_number(frame.image) for frame in frames] == [48, 72, 96]


@needs_decord
def test_decord_is_not_used_on_transport_streams(tmp_path):
    path = write_video(tmp_path / "film.ts", at_rate(25, 100))
    with pytest.raises(HaystackError, match=r"wrong pictures of MPEG streams.*--decoder pyav"):
        open_haystack(path, decoder="decord")


@needs_decord
def test_decord_is_refused_where_it_sees_another_video(tmp_path):
    path = write_video(tmp_path / "film.mp4", at_rate(NTSC_FILM, 150, start=-3))
    with pytest.raises(HaystackError, match=r"decord finds \d+ pictures where there are \d+"):
        numbers_of(path)


@needs_decord
def test_decord_is_refused_on_rotated_video(tmp_path):
    path = write_video(tmp_path / "film.mp4", [0, 1, 2])
    set_display_matrix(path, (0, 1, -1, 0))
    with pytest.raises(HaystackError, match="--decoder pyav"):
        numbers_of(path)


@needs_decord
def test_a_truncated_video_is_refused_before_decord_sees_it(tmp_path):
    whole = write_video(tmp_path / "film.mp4", at_rate(25, 400), container_options=FASTSTART)
    path = cut(whole, 0.5, tmp_path / "cut.mp4")
    with pytest.raises(VideoDamagedError, match="is damaged"):
        numbers_of(path)


@needs_decord
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_consumer_stops_decord_and_closing_ends_it(tmp_path):
    def children():
        tasks = Path("/proc/self/task").glob("*/children")
        return {int(pid) for task in tasks for pid in task.read_text().split()}

    def cpu_ticks(pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    path = write_video(tmp_path / "film.mp4", at_rate(25, 2000))
    before = children()
    frames = open_haystack(path, decoder="decord").frames()
    next(frames)
    (pid,) = children() - before
    time.sleep(0.1)
    ticks = cpu_ticks(pid)
    time.sleep(0.5)
    assert cpu_ticks(pid) - ticks <= 1
    assert read_number(next(frames).image) == 25
    frames.close()
    assert pid not in children()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


READ_ONE = """
import sys, time
from vniah.haystacks.haystack import open_haystack
frames = open_haystack(sys.argv[1], decoder="decord").frames()
print(next(frames).index, flush=True)
time.sleep(600)
"""


@needs_decord
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_parent_leaves_no_stopped_decord_behind(tmp_path):
    def is_there(pid):
        try:  # one that has ended stays as Z until it is waited for
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    path = write_video(tmp_path / "film.mp4", at_rate(25, 2000))
    command = [sys.executable, "-c", READ_ONE, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        try:
            assert parent.stdout.readline() == b"0\n"
            (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            assert is_there(child)
        finally:
            parent.kill()
    deadline = time.monotonic() + 20
    while is_there(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    left_behind = is_there(child)
    if left_behind:
        os.kill(int(child), signal.SIGKILL)
    assert not left_behind


@needs_decord
@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that takes a thread for a process")
def test_decord_outlives_the_thread_that_started_it(tmp_path):
    path = write_video(tmp_path / "film.mp4", at_rate(25, 100))
    frames = open_haystack(path, decoder="decord").frames()
    numbers = []
    thread = threading.Thread(target=lambda: numbers.append(read_number(next(frames).image)))
    thread.start()
    thread.join()
    numbers.extend(read_number(frame.image) for frame in frames)
    assert numbers == [0, 25, 50, 75]


@needs_decord
@pytest.mark.skipif(sys.platform != "linux", reason="it does so on Linux")
def test_a_child_whose_parent_is_gone_ends_at_once(tmp_path):
    command = [
        sys.executable,
        "-m",
        "vniah.haystacks.video.decord",
        str(tmp_path / "film.mp4"),
        "1234567890",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")


@needs_decord
def test_pictures_of_decord_are_close_to_those_of_pyav(tmp_path):
    path = write_video(tmp_path / "film.mp4", [0, 1, 2, 3], noise=20)
    pairs = zip(
        open_haystack(path).frames(), open_haystack(path, decoder="decord").frames(), strict=True
    )
    for ours, theirs in pairs:
        assert np.abs(ours.image.astype(int) - theirs.image).mean() < 3
