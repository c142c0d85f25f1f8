import gc
import os
import sys
import time
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from videos import (
    NTSC_FILM,
    at_rate,
    cut,
    draw_number,
    expected_numbers,
    overwrite,
    read_number,
    repack,
    set_display_matrix,
    silence,
    write_video,
)

from vniah.errors import HaystackError, InputError, VideoDamagedError
from vniah.haystacks.video.packets import index_video
from vniah.haystacks.video.pyav import VideoSource

FASTSTART = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
NO_B_FRAMES = {"preset": "veryfast", "bf": "0"}
VARIABLE = [0, 0.5, 0.9, 1.0, 1.25, 4.2, 4.9, 5.5, 9.0, 9.1, 9.2]


def open_source(path, *, sampling="clock", keep_damaged=False):
    return VideoSource(index_video(path), sampling, keep_damaged)


def numbers_of(path, **options):
    return [read_number(frame.image) for frame in open_source(path, **options).frames()]


def read_all(path):
    """(times in seconds, numbers) of all pictures, decoded in the plainest way."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    times = [Fraction(picture.pts) * picture.time_base for picture in pictures]
    return times, [read_number(picture.to_ndarray(format="rgb24")) for picture in pictures]


def expected_of(path, *, last_seconds):
    """What the definition gives for the times that stand in the file itself."""
    times, numbers = read_all(path)
    return [numbers[i] for i in expected_numbers(times, last_seconds=last_seconds)]


def expected(times):
    times = [Fraction(time).limit_denominator(10**6) for time in times]
    return expected_numbers(times, last_seconds=times[-1] - times[-2])


# ------------------------------------------------------------------- frame k shows second k


@pytest.mark.parametrize(
    "name",
    ["film.mp4", "film.mkv", "film.mov", "film.ts", "film.flv", "film.avi", "film.m4v"],
)
@pytest.mark.parametrize("rate", [NTSC_FILM, Fraction(30), Fraction(10)])
def test_frame_k_shows_second_k_at_a_constant_rate(tmp_path, name, rate):
    if name.endswith("avi") and rate != 24:
        rate = Fraction(24)  # AVI has one rate for all, and the test video declares 24
    times = at_rate(rate, 5 * round(rate) + 3)
    assert numbers_of(write_video(tmp_path / name, times)) == expected(times)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
@pytest.mark.parametrize("with_sound", [False, True])
def test_frame_k_shows_second_k_at_a_variable_rate(tmp_path, name, with_sound):
    path = write_video(tmp_path / name, VARIABLE, with_sound=with_sound)
    assert numbers_of(path) == expected(VARIABLE)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_frame_k_shows_second_k_of_a_slide_show(tmp_path, name):
    path = write_video(tmp_path / name, [0, 2, 4, 6, 8], options=NO_B_FRAMES)
    assert numbers_of(path) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("mpeg4", "film.avi", {"bf": "2", "g": "12"}),
        ("mpeg2video", "film.ts", {"bf": "2"}),
        ("mpeg2video", "film.mpg", {"bf": "2"}),
        ("libvpx-vp9", "film.webm", {"deadline": "realtime", "cpu-used": "8"}),
        ("libx264", "film.mp4", {"preset": "veryfast", "bf": "3", "b-pyramid": "strict"}),
        ("libx264", "film.mp4", {"preset": "veryfast", "x264-params": "open-gop=1:keyint=10"}),
    ],
)
def test_frame_k_shows_second_k_with_other_codecs(tmp_path, codec, name, options):
    times = at_rate(24, 100)
    path = write_video(tmp_path / name, times, codec=codec, options=options, ticks_per_second=24)
    assert numbers_of(path) == expected(times)


@pytest.mark.parametrize(
    ("name", "options"),
    [("film.mp4", FASTSTART), ("film.mp4", FRAGMENTED), ("film.mkv", {"live": "1"})],
)
def test_frame_k_shows_second_k_whatever_the_layout(tmp_path, name, options):
    times = at_rate(NTSC_FILM, 150)
    path = write_video(tmp_path / name, times, container_options=options, with_sound=True)
    # a muxer that must not look ahead moves the first picture a little
    assert numbers_of(path) == expected_of(path, last_seconds=1 / NTSC_FILM)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
def test_the_clock_starts_with_the_first_picture_however_late(tmp_path, name):
    times = at_rate(NTSC_FILM, 100, start=1000)
    path = write_video(tmp_path / name, times)
    frames = list(open_source(path).frames())
    assert [read_number(frame.image) for frame in frames] == expected(times)
    # MPEG-TS adds a delay of its own
    assert frames[0].pts_seconds == pytest.approx(1000, abs=2)
    assert frames[2].pts_seconds - frames[0].pts_seconds == pytest.approx(47 / NTSC_FILM, abs=1e-3)


def test_what_an_edit_list_cuts_off_is_not_shown(tmp_path):
    times = at_rate(NTSC_FILM, 150, start=-3)  # MP4 writes a negative start as an edit list
    path = write_video(tmp_path / "film.mp4", times)
    assert av.open(str(path)).streams.video[0].frames == 150
    first = next(number for number, time in enumerate(times) if time >= 0)
    assert numbers_of(path) == [first + number for number in expected(times[first:])]


def test_frame_k_is_the_last_of_pictures_with_equal_times(tmp_path):
    # Matroska counts milliseconds, so that pictures 1 and 2 get the same time.
    path = write_video(tmp_path / "film.mkv", [0, 0.9999, 1.0001, 1.5, 2, 2.5])
    assert index_video(path).pts[1:3] == (1000, 1000)
    assert numbers_of(path) == [0, 2, 4]


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
def test_a_video_of_one_picture_has_one_frame(tmp_path, name):
    path = write_video(tmp_path / name, [0], last_seconds=Fraction(1, 25))
    assert numbers_of(path) == [0]


def test_a_recording_that_starts_between_keyframes_starts_with_the_first(tmp_path):
    times = at_rate(25, 150)
    whole = write_video(tmp_path / "whole.ts", times)
    with av.open(str(whole)) as container:
        second = [p.pos for p in container.demux(video=0) if p.size and p.is_keyframe][1]
    data = whole.read_bytes()
    tables = data[: 188 * 3]  # the service tables, which are repeated in a real broadcast
    start = (second // 3 // 188) * 188
    path = tmp_path / "film.ts"
    path.write_bytes(tables + data[start:])
    numbers = numbers_of(path)
    assert numbers == list(range(50, 150, 25))


def test_longva_takes_every_24th_picture_of_ntsc_film(tmp_path):
    path = write_video(tmp_path / "film.mp4", at_rate(NTSC_FILM, 150))
    assert numbers_of(path, sampling="longva") == list(range(0, 150, 24))


def test_longva_refuses_a_slide_show(tmp_path):
    path = write_video(tmp_path / "film.mp4", [0, 2, 4, 6], options=NO_B_FRAMES)
    with pytest.raises(InputError, match=r"0\.5 fps rounds to 0"):
        numbers_of(path, sampling="longva")


# ------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, 1)),  # turned clockwise when played
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 3)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    ],
)
def test_a_picture_comes_as_a_player_shows_it(tmp_path, matrix, upright):
    path = write_video(tmp_path / "film.mp4", [0, 1, 2, 3])
    plain = list(open_source(path).frames())[3].image
    assert read_number(plain) == 3
    set_display_matrix(path, matrix)
    shown = list(open_source(path).frames())[3].image
    assert shown.flags.c_contiguous
    np.testing.assert_array_equal(upright(shown), plain)


@pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="PyAV is older"
)
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotation_written_by_ffmpeg_is_undone(tmp_path, degrees):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height = 64, 48
        stream.set_display_rotation(degrees)
        picture = av.VideoFrame.from_ndarray(draw_number(0b0110_0000_1011))
        container.mux(stream.encode(picture))
        container.mux(stream.encode())
    frame = next(open_source(path).frames())
    # it is to be turned counterclockwise by so many degrees for display
    assert read_number(np.rot90(frame.image, -degrees // 90)) == 0b0110_0000_1011


def test_repeated_frames_do_not_share_memory(tmp_path):
    path = write_video(tmp_path / "film.mp4", [0, 2, 4])
    first, second, *_ = open_source(path).frames()
    first.image[:] = 0
    assert second.image.flags.writeable
    assert first.image is not second.image
    assert not np.shares_memory(first.image, second.image)


def test_skipping_what_nobody_wants_changes_no_bit(tmp_path):
    path = write_video(tmp_path / "film.mp4", at_rate(NTSC_FILM, 300), noise=20)
    skipping = [frame.image for frame in open_source(path).frames()]
    # keeping damage decodes everything, on one thread
    everything = [frame.image for frame in open_source(path, keep_damaged=True).frames()]
    assert len(skipping) == len(everything) == 13
    np.testing.assert_array_equal(skipping, everything)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 7), (12, None), (5, 5), (20, 30)])
def test_a_frame_does_not_depend_on_where_reading_starts(tmp_path, start, stop):
    path = write_video(tmp_path / "film.ts", at_rate(NTSC_FILM, 300), noise=20)
    source = open_source(path)
    whole = list(source.frames())
    part = list(source.frames(start=start, stop=stop))
    assert [frame.index for frame in part] == list(range(13))[start:stop]
    for frame in part:
        assert frame.pts_seconds == whole[frame.index].pts_seconds
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)


# --------------------------------------------------------------------------------- damage

LAYOUTS = {
    "mp4": ("film.mp4", FASTSTART),
    "mkv": ("film.mkv", None),
    "fragmented": ("film.mp4", FRAGMENTED),
    "ts": ("film.ts", None),
}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Makes twenty seconds at 23.976 pictures per second, once per layout."""

    @cache
    def make(layout: str, with_sound: bool = False) -> Path:
        name, options = LAYOUTS[layout]
        path = tmp_path_factory.mktemp(layout) / name
        times = at_rate(NTSC_FILM, 480)
        return write_video(path, times, container_options=options, with_sound=with_sound, noise=20)

    return make


@pytest.mark.parametrize("layout", ["mp4", "mkv", "fragmented"])
@pytest.mark.parametrize(("at", "with_sound"), [(0.35, False), (0.6, True), (0.85, True)])
def test_a_truncated_video_is_refused_or_kept_as_far_as_it_goes(
    tmp_path, film, layout, at, with_sound
):
    whole = film(layout, with_sound)
    path = cut(whole, at, tmp_path / f"cut-{whole.name}")
    with pytest.raises(VideoDamagedError, match=r"cut-film.* is damaged: .*--keep-damaged"):
        open_source(path)
    notes = []
    frames = open_source(path, keep_damaged=True).frames(on_damage=notes.append)
    numbers = [read_number(frame.image) for frame in frames]
    assert len(notes) == 1
    sound = expected_of(whole, last_seconds=1 / NTSC_FILM)
    assert len(sound) * (at - 0.15) < len(numbers) < len(sound)
    # the very last picture may itself be cut
    assert numbers[:-1] == sound[: len(numbers) - 1]


def test_a_truncated_video_says_how_much_there_is(tmp_path, film):
    path = cut(film("mkv"), 0.5, tmp_path / "cut.mkv")
    with pytest.raises(VideoDamagedError, match=r"it holds (9|10)\.\d s of the declared 20\.0 s"):
        open_source(path)


def test_a_truncated_transport_stream_is_shorter(tmp_path, film):
    path = cut(film("ts"), 0.5, tmp_path / "cut.ts")
    numbers = numbers_of(path, keep_damaged=True)
    assert 8 <= len(numbers) <= 12
    assert numbers[:-1] == expected(at_rate(NTSC_FILM, 480))[: len(numbers) - 1]


@pytest.mark.parametrize("packet_size", [188, 192, 204])
@pytest.mark.parametrize("rest", [1, 4, 5, 100, -1])
def test_a_transport_stream_that_ends_inside_a_packet_is_damaged(tmp_path, film, packet_size, rest):
    path = repack(film("ts"), packet_size, tmp_path / "film.ts")
    data = path.read_bytes()
    rest %= packet_size
    path.write_bytes(data[: len(data) // packet_size // 2 * packet_size + rest])
    message = (
        rf"film\.ts is damaged: .*packet is cut: {rest} of {packet_size} bytes.*--keep-damaged"
    )
    with pytest.raises(VideoDamagedError, match=message):
        open_source(path)
    notes = []
    frames = list(open_source(path, keep_damaged=True).frames(on_damage=notes.append))
    assert 8 <= len(frames) <= 12
    assert len(notes) == 1
    assert f"{rest} of {packet_size} bytes" in notes[0]


@pytest.mark.parametrize("packet_size", [188, 192, 204])
@pytest.mark.parametrize("num_missing", [0, 71])
def test_a_transport_stream_may_start_inside_a_packet(tmp_path, film, packet_size, num_missing):
    path = repack(film("ts"), packet_size, tmp_path / "film.ts")
    data = path.read_bytes()
    # the service tables come again, as they do in a real broadcast
    path.write_bytes(data[num_missing : 3 * packet_size] + data)
    assert index_video(path).damage == ()


def test_an_mp4_file_without_its_end_says_so(tmp_path):
    path = cut(write_video(tmp_path / "film.mp4", at_rate(25, 100)), 0.5, tmp_path / "cut.mp4")
    with pytest.raises(VideoDamagedError, match=r"index \(moov\): its end is probably missing"):
        index_video(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_bytes_overwritten_in_the_middle_are_noticed(tmp_path, film, layout, at):
    whole = film(layout)
    sound = expected(at_rate(NTSC_FILM, 480))
    path = overwrite(whole, at, 6000, tmp_path / f"bad-{whole.name}")
    given = []
    with pytest.raises(VideoDamagedError, match=r"is damaged: .*\d\.\d s.*--keep-damaged"):
        given.extend(open_source(path).frames())
    # what was given before is sound
    assert [read_number(frame.image) for frame in given] == sound[: len(given)]
    notes = []
    kept = list(open_source(path, keep_damaged=True).frames(on_damage=notes.append))
    assert len(notes) == 1
    before = int(len(sound) * at) - 3
    assert [read_number(frame.image) for frame in kept[:before]] == sound[:before]


@pytest.mark.parametrize("packet_size", [188, 192, 204])
@pytest.mark.parametrize("num_lost", [16, 32])
def test_overwritten_packets_are_noticed_where_all_counters_fit(
    tmp_path, film, packet_size, num_lost
):
    path = repack(film("ts"), packet_size, tmp_path / "film.ts")
    pids = [data[1] << 8 & 0x1F00 | data[2] for data in batched_bytes(film("ts"), 188)]
    video = max(set(pids), key=pids.count)
    # a counter has 4 bits: after 16 packets of its stream it is where it was
    start = len(pids) // 2
    pictures = [k for k in range(start, len(pids)) if pids[k] == video]
    stop = pictures[num_lost]
    data = bytearray(path.read_bytes())
    data[start * packet_size : stop * packet_size] = bytes((stop - start) * packet_size)
    path.write_bytes(data)
    message = r"film\.ts is damaged: 1 incomplete packet, at \d+\.\d s.*--keep-damaged"
    with pytest.raises(VideoDamagedError, match=message):
        open_source(path)
    # what only pads the end is no damage
    path = repack(film("ts"), packet_size, tmp_path / "film.ts")
    path.write_bytes(path.read_bytes() + bytes(40 * packet_size))
    assert index_video(path).damage == ()


def batched_bytes(path: Path, size: int) -> list[bytes]:
    data = path.read_bytes()
    return [data[start : start + size] for start in range(0, len(data), size)]


def test_undecodable_packets_are_counted_and_placed(tmp_path):
    path = write_video(tmp_path / "film.mp4", at_rate(25, 300), noise=20)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    for number in (180, 181, 183):
        start = packets[number].pos
        data[start : start + packets[number].size] = b"\xff" * packets[number].size
    path.write_bytes(data)
    with pytest.raises(VideoDamagedError, match=r"\d+ undecodable packets, the first near 7\.\d s"):
        list(open_source(path).frames())


def test_what_is_kept_of_a_damaged_video_is_always_the_same(tmp_path):
    whole = write_video(tmp_path / "film.mp4", at_rate(25, 300), noise=20)
    path = overwrite(whole, 0.4, 3000, tmp_path / "bad.mp4")
    source = open_source(path, keep_damaged=True)
    first = np.stack([frame.image for frame in source.frames()])
    for _ in range(3):
        np.testing.assert_array_equal([frame.image for frame in source.frames()], first)
    np.testing.assert_array_equal([f.image for f in source.frames(start=8)], first[8:])


# ------------------------------------------------------------------------- what is no video


def write_text(path: Path) -> None:
    path.write_text("The needle is in the haystack.\n" * 100)


def write_playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n")


def write_sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        for index in range(20):
            container.mux(stream.encode(silence(index)))
        container.mux(stream.encode())


def write_picture(path: Path) -> None:
    from PIL import Image

    with path.open("wb") as file:
        Image.new("RGB", (64, 48)).save(file, "PNG")


def write_bare_stream(path: Path) -> None:
    write_video(path.with_suffix(".h264"), at_rate(25, 50))
    path.with_suffix(".h264").replace(path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("film.mp4", Path.touch, r"film.mp4 is empty \(0 bytes\)"),
        ("film.mp4", write_text, "film.mp4 cannot be read as a video"),
        ("notes.txt", write_text, "notes.txt (cannot be read as a video|is no video)"),
        ("film.m3u8", write_playlist, "film.m3u8 (cannot be read as a video|is no video)"),
        ("film.mp4", write_sound_only, "film.mp4 has no video stream, only audio"),
        ("film.png", write_picture, "film.png is no video but a file of the kind 'png_pipe'"),
        ("film.h264", write_bare_stream, "has no pictures with time stamps"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(HaystackError, match=message) as caught:
        index_video(tmp_path / name)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------- memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_consumer_does_not_make_the_decoder_grow(tmp_path):
    def resident_mb():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    path = tmp_path / "film.mp4"
    width, height, num_pictures = 640, 360, 400
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height = width, height
        stream.options = {"preset": "ultrafast"}
        for number in range(num_pictures):
            gray = np.full((height * 3 // 2, width), number % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="yuv420p")))
        container.mux(stream.encode())
    decoded_mb = width * height * 1.5 * num_pictures / 1e6
    assert decoded_mb > 130

    list(open_source(path).frames(stop=2))  # what is loaded once
    gc.collect()
    before = resident_mb()
    growth = []
    for frame in open_source(path).frames():
        if frame.index in (2, 12):
            cpu = time.process_time()
            time.sleep(0.3)
            assert time.process_time() - cpu < 0.1  # nobody decodes meanwhile
        growth.append(resident_mb() - before)
        del frame
    assert len(growth) == 20
    assert max(growth) < 50
