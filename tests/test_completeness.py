"""Unusual files of which nothing is missing, beside damaged ones that look like them."""

import shutil
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest
from PIL import Image
from videos import (
    HEIGHT,
    WIDTH,
    at_rate,
    cut,
    draw_number,
    expected_numbers,
    overwrite,
    read_number,
    repack,
    set_edits,
    silence,
    write_video,
)

from vniah.errors import HaystackError, VideoDamagedError
from vniah.haystacks.video.mp4 import Mp4Layout
from vniah.haystacks.video.mpegts import find_joints
from vniah.haystacks.video.packets import index_video
from vniah.haystacks.video.pyav import VideoSource
from vniah.haystacks.video.timeline import demux

NO_B_FRAMES = {"preset": "veryfast", "bf": "0", "g": "50"}
CLOSED = {"preset": "veryfast", "bf": "2", "g": "50", "x264-params": "open-gop=0:scenecut=0"}


def open_source(path, *, keep_damaged=False):
    return VideoSource(index_video(path), "clock", keep_damaged)


def numbers_of(path, **options):
    return [read_number(frame.image) for frame in open_source(path, **options).frames()]


# ------------------------------------------------------------------------------- edit lists


@pytest.mark.parametrize(
    ("edits", "numbers"),
    [
        ([(2.6, 1), (2, 7), (2.8, 12.2)], [25, 50, 75, 185, 210, 315, 340, 365]),
        ([(2, 0), (3, 8)], [0, 25, 200, 225, 250]),
        ([(3, 8.2), (2, 0.4)], [205, 230, 255, 10, 35]),
        ([(2, 1), (2, 1)], [25, 50, 25, 50]),
        ([(1, None), (2, 0.4), (2, 8.2)], [10, 35, 205, 230]),
        ([(3, 1), (20, 13)], [25, 50, 75, 325, 350, 375]),  # longer than what there is
    ],
)
def test_an_edit_list_decides_what_is_shown(tmp_path, edits, numbers):
    path = write_video(
        tmp_path / "film.mp4", at_rate(25, 400), options=NO_B_FRAMES, ticks_per_second=12800
    )
    set_edits(path, edits)
    assert numbers_of(path) == numbers


def test_pictures_before_an_edit_are_decoded_and_not_shown(tmp_path):
    path = write_video(tmp_path / "film.mp4", at_rate(25, 400), ticks_per_second=12800)
    set_edits(path, [(2.6, 1.08), (2, 7.08), (2.8, 12.28)])  # 0.08 s: B-frames come later
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert sum(packet.is_discard for packet in packets) > 50
    times = [Fraction(pts) / 12800 for pts in index_video(path).pts]
    assert times[-1] - times[0] == Fraction("7.36")
    numbers = numbers_of(path)
    assert numbers[:3] == [25, 50, 75]
    assert numbers[-3:] == [315, 340, 365]


def test_an_edit_list_with_a_pause_in_it_is_refused(tmp_path):
    path = write_video(tmp_path / "film.mp4", at_rate(25, 400), options=NO_B_FRAMES)
    set_edits(path, [(2, 0), (1, None), (2, 8)])  # FFmpeg would show the first second again
    with pytest.raises(HaystackError, match=r"film\.mp4 has an edit list with a pause"):
        open_source(path)


def test_an_edited_film_with_missing_pictures_is_damaged(tmp_path):
    path = write_video(tmp_path / "film.mp4", at_rate(25, 400), options=NO_B_FRAMES)
    set_edits(path, [(2, 1), (3, 12)])
    with av.open(str(path)) as container:
        shown = [p for p in container.demux(video=0) if p.size and not p.is_discard]
        places = [(packet.pos, packet.size) for packet in shown]
    data = bytearray(path.read_bytes())
    for start, size in places[70:90]:
        data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(VideoDamagedError, match="is damaged"):
        numbers_of(path)


# ---------------------------------------------------------------------------- joined parts


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """Makes MPEG-TS parts of four seconds at 25 pictures per second, once per beginning."""

    @cache
    def make(start: Fraction = Fraction(0), num_pictures: int = 100, with_sound: bool = False):
        path = tmp_path_factory.mktemp("part") / "part.ts"
        times = at_rate(25, num_pictures, start=start)
        return write_video(path, times, options=CLOSED, noise=11, with_sound=with_sound)

    return make


def join(target, parts):
    with target.open("wb") as file:
        for path in parts:
            with path.open("rb") as source:
                shutil.copyfileobj(source, file)
    return target


ALL = [0, 25, 50, 75]


def test_parts_of_which_each_starts_its_clock_anew_follow_one_another(tmp_path, part):
    path = join(tmp_path / "film.ts", [part()] * 3)
    frames = list(open_source(path).frames())
    assert [read_number(frame.image) for frame in frames] == ALL * 3
    seconds = [frame.pts_seconds - frames[0].pts_seconds for frame in frames]
    assert seconds == pytest.approx(range(12))


def test_many_short_parts_follow_one_another(tmp_path, part):
    path = join(tmp_path / "film.ts", [part(num_pictures=20)] * 12)
    expected = [at % 20 for at in range(0, 240, 25)]
    assert numbers_of(path) == expected


@pytest.mark.parametrize("with_sound", [False, True])
def test_parts_that_go_on_with_one_clock_follow_one_another(tmp_path, part, with_sound):
    parts = [part(Fraction(start), with_sound=with_sound) for start in (0, 4, 8)]
    path = join(tmp_path / "film.ts", parts)
    with av.open(str(path)) as container:  # counters start anew, and FFmpeg calls that corrupt
        assert any(packet.is_corrupt for packet in container.demux(video=0))
    assert numbers_of(path) == ALL * 3


@pytest.mark.parametrize("packet_size", [188, 192, 204])
def test_joined_parts_may_have_packets_of_any_size(tmp_path, part, packet_size):
    path = join(tmp_path / "joined.ts", [part(Fraction(0)), part(Fraction(4))])
    assert numbers_of(repack(path, packet_size, tmp_path / "film.ts")) == ALL * 2


def test_titles_of_a_dvd_follow_one_another(tmp_path):
    options = {"bf": "2", "g": "12"}
    title = write_video(
        tmp_path / "title.mpg",
        at_rate(25, 100),
        codec="mpeg2video",
        options=options,
        ticks_per_second=25,
    )
    assert numbers_of(join(tmp_path / "film.mpg", [title] * 2)) == ALL * 2


def test_segments_of_hls_are_a_film(tmp_path):
    folder = tmp_path / "hls"
    folder.mkdir()
    options = {"hls_time": "2", "hls_list_size": "0"}
    write_video(folder / "list.m3u8", at_rate(25, 300), container_options=options, with_sound=True)
    segments = sorted(folder.glob("*.ts"))
    assert len(segments) > 4
    assert numbers_of(join(tmp_path / "film.ts", segments)) == list(range(0, 300, 25))
    with pytest.raises(VideoDamagedError, match=r"is damaged: 1 gap, after \d\.\d s"):
        open_source(join(tmp_path / "gap.ts", [*segments[:2], *segments[3:]]))


@pytest.mark.parametrize("num_lost", range(1, 4))
def test_a_missing_part_is_noticed_where_counters_fit_by_chance(tmp_path, part, num_lost):
    path = join(tmp_path / "film.ts", [part(Fraction(0)), part(Fraction(4 + num_lost))])
    data = bytearray(path.read_bytes())
    for number, at in enumerate(places_of_video(data)):
        data[at + 3] = (data[at + 3] & 0xF0) | (number & 15)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert not any(packet.is_corrupt for packet in container.demux(video=0))
    with pytest.raises(VideoDamagedError, match=r"1 gap, after 4\.0 s"):
        open_source(path)


def test_a_part_that_is_missing_is_a_gap(tmp_path, part):
    path = join(tmp_path / "film.ts", [part(Fraction(0)), part(Fraction(8))])
    with pytest.raises(VideoDamagedError, match=r"1 gap, after 4\.0 s"):
        open_source(path)


def places_of_video(data):
    """Where the transport packets of the only stream of a part are."""
    return [at for at in range(0, len(data), 188) if data[at + 1] & 0x1F == 1 and not data[at + 2]]


# 16 lost packets are not noticed: the counter has 16 values.
@pytest.mark.parametrize(("first", "number"), [(41, 1), (90, 1), (42, 7), (35, 45), (20, 90)])
def test_packets_that_are_lost_are_damage_with_and_without_joints(tmp_path, part, first, number):
    data = part().read_bytes()
    places = places_of_video(data)
    path = tmp_path / "film.ts"
    for whole in (b"", data):
        path.write_bytes(whole + data[: places[first]] + data[places[first + number] :])
        with pytest.raises(VideoDamagedError, match="is damaged"):
            numbers_of(path)


@pytest.mark.parametrize("num_lost", [10, 27, 70])
def test_a_part_that_lost_its_end_is_damage(tmp_path, part, num_lost):
    data, more = part(Fraction(0)).read_bytes(), part(Fraction(4)).read_bytes()
    places = places_of_video(data)
    num_lost += (len(places) - num_lost) % 16 == 0  # else the counter goes on by chance
    path = tmp_path / "film.ts"
    path.write_bytes(data[: places[-num_lost]] + more)
    with pytest.raises(VideoDamagedError, match=r"is damaged: 1 (gap|incomplete packet)"):
        open_source(path)


def test_the_joints_of_a_long_file_are_found(tmp_path, part, monkeypatch):
    monkeypatch.setattr("vniah.haystacks.video.mpegts._CHUNK_PACKETS", 50)
    whole = part(Fraction(0))
    path = join(tmp_path / "film.ts", [whole, part(Fraction(4)), part(Fraction(8))])
    with av.open(str(path)) as container:
        joints = find_joints(path, container.streams.video[0].id)
    assert len(joints) == 2
    assert whole.stat().st_size <= joints[0] < whole.stat().st_size + 10 * 188


# ------------------------------------------------------------------- sound, boxes, animations


@pytest.mark.parametrize(
    "name", ["film.mkv", "film.webm", "film.mp4", "film.ts", "film.flv", "film.nut", "film.wmv"]
)
def test_sound_may_go_on_after_the_last_picture(tmp_path, name):
    path = tmp_path / name
    codec = {"film.webm": "libvpx", "film.wmv": "wmv2"}.get(name, "libx264")
    sound_codec = {"film.webm": "libopus", "film.wmv": "mp2"}.get(name, "aac")
    rate = 8000 if sound_codec == "aac" else 48000
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream(sound_codec, rate=rate)
        sound.layout = "mono"
        for number in range(30):
            picture = av.VideoFrame.from_ndarray(draw_number(number))
            picture.pts, picture.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        size = sound.codec_context.frame_size or 1024
        for index in range(20 * rate // size):
            quiet = np.zeros((1, size), np.float32)
            frame = av.AudioFrame.from_ndarray(quiet, "fltp", "mono")
            frame.sample_rate, frame.pts = rate, index * size
            if sound.format.name != "fltp":
                (frame,) = av.AudioResampler(sound.format.name, "mono", rate).resample(frame)
                frame.pts = index * size
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert numbers_of(path) == [0, 10, 20]


def test_a_film_with_longer_sound_that_is_cut_is_damaged(tmp_path):
    path = tmp_path / "film.flv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=8000)
        for number in range(100):
            picture = av.VideoFrame.from_ndarray(draw_number(number))
            picture.pts, picture.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(picture))
            container.mux(sound.encode(silence(number)))
        container.mux([*stream.encode(), *sound.encode()])
    assert len(numbers_of(path)) == 10
    with pytest.raises(VideoDamagedError, match="declared"):
        open_source(cut(path, 0.5, tmp_path / "cut.flv"))


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.parametrize("movflags", ["", "+dash", "+dash+global_sidx", "+skip_trailer"])
def test_fragments_are_whole_or_cut(tmp_path, movflags):
    path = write_video(
        tmp_path / "film.mp4",
        at_rate(25, 200),
        options=NO_B_FRAMES,
        container_options={"movflags": FRAGMENTED["movflags"] + movflags},
    )
    whole = path.read_bytes()
    assert len(numbers_of(path)) == 8
    layout = Mp4Layout.read(path)
    assert (layout.has_fragments, layout.cut) == (True, "")
    # what some programs add at the end is no picture
    for added in (bytes(3000), (6000).to_bytes(4) + b"uuid" + b"x" * 5992):
        path.write_bytes(whole + added)
        assert len(numbers_of(path)) == 8
    path.write_bytes(whole[: layout.end_of_pictures - 10])
    with pytest.raises(VideoDamagedError, match=r"the file ends inside its last part \(mdat\)"):
        open_source(path)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_fragment_that_is_missing_is_a_gap(tmp_path, lost):
    path = write_video(
        tmp_path / "film.mp4",
        at_rate(25, 200),
        options=NO_B_FRAMES,
        container_options={"movflags": FRAGMENTED["movflags"] + "+skip_trailer"},
    )
    data = path.read_bytes()
    starts = [at - 4 for at in range(len(data)) if data[at : at + 4] == b"moof"]
    assert len(starts) > 3
    path.write_bytes(data[: starts[lost]] + data[starts[lost + 1] :])
    with pytest.raises(VideoDamagedError, match=r"1 gap, after \d\.\d s"):
        open_source(path)


def test_transparency_is_not_a_gap(tmp_path):
    path = tmp_path / "film.webm"
    times = [0, 0.1, 0.2, 0.9, 1.0, 2.5, 2.6, 4.0, 4.1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuva420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"auto-alt-ref": "0", "deadline": "realtime", "cpu-used": "8"}
        rng = np.random.default_rng(0)
        for number, time in enumerate(times):
            alpha = rng.integers(0, 256, (HEIGHT, WIDTH, 1), np.uint8)
            image = np.concatenate([draw_number(number), alpha], axis=2)
            picture = av.VideoFrame.from_ndarray(image, format="rgba").reformat(format="yuva420p")
            picture.pts, picture.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    assert index_video(path).damage == ()
    expected = expected_numbers([Fraction(str(t)) for t in times], last_seconds=Fraction(1, 10))
    assert numbers_of(path) == expected


@pytest.mark.parametrize("name", ["film.gif", "film.png", "film.avif"])
def test_an_animation_is_a_film_unless_it_is_cut(tmp_path, name):
    pictures = [Image.fromarray(draw_number(number)) for number in range(12)]
    path = tmp_path / name
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=500)
    assert numbers_of(path) == [0, 2, 4, 6, 8, 10]
    for at in (0.6, 0.99):
        with pytest.raises(VideoDamagedError):
            numbers_of(cut(path, at, tmp_path / f"cut-{name}"))


def test_a_recording_that_starts_with_an_open_group_starts_with_its_keyframe(tmp_path):
    options = {"preset": "veryfast", "x264-params": "open-gop=1:keyint=25:bframes=3:scenecut=0"}
    whole = write_video(tmp_path / "whole.ts", at_rate(25, 150), options=options)
    with av.open(str(whole)) as container:
        keyframes = [p.pos for p in container.demux(video=0) if p.size and p.is_keyframe]
    path = tmp_path / "film.ts"
    path.write_bytes(whole.read_bytes()[: 188 * 3] + whole.read_bytes()[keyframes[2] :])
    source = open_source(path)
    numbers = [read_number(frame.image) for frame in source.frames()]
    assert len(numbers) == 4
    assert np.diff(numbers).tolist() == [25, 25, 25]


def test_noise_in_a_joined_film_is_damage(tmp_path, part):
    path = join(tmp_path / "joined.ts", [part(Fraction(0)), part(Fraction(4))])
    for at in (0.2, 0.49, 0.7):
        with pytest.raises(VideoDamagedError, match="is damaged"):
            numbers_of(overwrite(path, at, 3000, tmp_path / "film.ts"))


def test_a_film_with_huge_pictures_is_refused(tmp_path):
    path = tmp_path / "film.gif"
    picture = Image.fromarray(draw_number(1))
    picture.save(path, save_all=True, append_images=[Image.fromarray(draw_number(2))])
    data = bytearray(path.read_bytes())
    data[6:10] = 2 * (14_000).to_bytes(2, "little")  # width and height
    path.write_bytes(data)
    with pytest.raises(HaystackError, match=r"pictures of 14000 x 14000 pixels, and at most 178,0"):
        numbers_of(path)


def test_streams_that_appear_while_a_file_is_read_are_no_error(tmp_path):
    path = tmp_path / "film.flv"
    write_video(path, at_rate(10, 60), options=NO_B_FRAMES)
    data = path.read_bytes()
    body = b"\xaf\x01" + bytes(20)  # sound, which neither the header nor the beginning has
    tag = b"\x08" + len(body).to_bytes(3) + bytes(7) + body
    tags = (tag + len(tag).to_bytes(4)) * 3
    path.write_bytes(data + tags)
    assert numbers_of(path) == [0, 10, 20, 30, 40, 50]


def test_an_error_of_pyav_after_the_last_packet_is_the_end():
    class Container:  # PyAV reads memory of others where streams appeared, so it fails by chance
        def demux(self, *streams):
            yield from streams
            raise IndexError("list index out of range")

    assert list(demux(Container(), 1, 2)) == [1, 2]


def test_an_edit_list_that_is_cut_has_no_pause(tmp_path):
    track = b"trak vide elst"
    for end in range(9, len(track) + 1):
        path = tmp_path / f"{end}.mp4"
        path.write_bytes((8 + end).to_bytes(4) + b"moov" + track[:end])
        assert not Mp4Layout.read(path).has_pause
