import json
from fractions import Fraction
from importlib.util import find_spec

import pytest
from PIL import Image
from videos import NTSC_FILM, at_rate, draw_number, read_number, write_streams, write_video

from vniah.cli import main
from vniah.errors import HaystackError, InputError
from vniah.haystacks.haystack import open_haystack
from vniah.haystacks.video.sampling import read_rate

PREVIEW = {"first": 1000, "size": (32, 24)}
POSTER = {"first": 1000, "size": (128, 96), "num_pictures": 1}
OTHER = {"first": 1000}
FILM = {}


def numbers_of(path, **options):
    return [read_number(frame.image) for frame in open_haystack(path, **options).frames()]


# -------------------------------------------------------------------- which stream is the film


@pytest.mark.parametrize(
    ("name", "streams", "film"),
    [
        ("film.mp4", [PREVIEW, FILM], 1),
        ("film.mp4", [FILM, PREVIEW], 0),
        ("film.mp4", [POSTER, FILM], 1),
        ("film.mkv", [POSTER, FILM], 1),  # Matroska marks the first stream as default
        ("film.mkv", [POSTER | {"codec": "mjpeg"}, FILM], 1),
        ("film.mov", [PREVIEW, POSTER, FILM, PREVIEW], 2),
        ("film.mkv", [OTHER, FILM | {"disposition": "default"}], 1),
        ("film.ts", [PREVIEW, FILM], 1),
        ("film.mp4", [FILM, OTHER], 0),
        ("film.mp4", [FILM, OTHER | {"size": (96, 72)}], 0),  # the first is marked as default
        ("film.mkv", [OTHER | {"size": (128, 96)}, PREVIEW, FILM | {"disposition": "default"}], 2),
    ],
)
def test_the_film_is_the_stream_that_players_choose(tmp_path, name, streams, film):
    path = write_streams(tmp_path / name, *streams)
    assert numbers_of(path) == [0, 5, 10, 15]
    haystack = open_haystack(path)
    assert haystack.streams == (film,)
    assert haystack.identity()["video_stream"] == f"index {film} of {len(streams)}"


def test_a_stream_can_be_named(tmp_path):
    path = write_streams(tmp_path / "film.mp4", FILM, OTHER)
    assert numbers_of(path, stream=1) == [1000, 1005, 1010, 1015]
    assert open_haystack(path, stream=1).identity()["video_stream"] == "index 1 of 2"
    assert open_haystack(path, stream=0).identity() == open_haystack(path).identity()


@pytest.mark.parametrize("stream", [-1, 2])
def test_a_stream_that_is_not_there_is_refused(tmp_path, stream):
    path = write_streams(tmp_path / "film.mp4", FILM, OTHER)
    with pytest.raises(InputError, match=rf"no video stream {stream}: it has 2, numbered from 0"):
        open_haystack(path, stream=stream)


@pytest.mark.parametrize("stream", [True, "0", 1.0])
def test_a_stream_is_named_by_a_whole_number(tmp_path, stream):
    path = write_streams(tmp_path / "film.mp4", FILM, OTHER)
    with pytest.raises(InputError, match="stream must be a whole number, got"):
        open_haystack(path, stream=stream)


def test_a_file_with_one_video_stream_keeps_its_identity(tmp_path):
    path = write_video(tmp_path / "film.mp4", [0, 1, 2], with_sound=True)
    expected = {"kind", "sha256", "sampling", "decoder", "keep_damaged"}
    assert set(open_haystack(path).identity()) == expected
    assert open_haystack(path, stream=0).identity() == open_haystack(path).identity()


def test_a_cover_picture_is_never_the_film(tmp_path):
    cover = POSTER | {"codec": "mjpeg", "disposition": "attached_pic"}
    path = write_streams(tmp_path / "film.mp4", FILM, cover)
    assert numbers_of(path) == [0, 5, 10, 15]
    assert "video_stream" not in open_haystack(path).identity()
    with pytest.raises(InputError, match=r"video stream 1 of .* is a cover picture"):
        open_haystack(path, stream=1)


def test_several_files_have_a_stream_each(tmp_path):
    paths = [
        write_streams(tmp_path / "a.mp4", PREVIEW, FILM),
        write_video(tmp_path / "b.mp4", [0, 1, 2]),
    ]
    assert numbers_of(paths) == [0, 5, 10, 15, 0, 1, 2]
    assert open_haystack(paths).identity()["video_stream"] == "index 1 of 2, index 0 of 1"


@pytest.mark.skipif(find_spec("decord") is None, reason="decord is not installed")
@pytest.mark.parametrize("streams", [[PREVIEW, FILM], [FILM, OTHER], [POSTER, FILM]])
def test_decord_is_refused_where_it_may_read_another_stream(tmp_path, streams):
    path = write_streams(tmp_path / "film.mp4", *streams)
    with pytest.raises(HaystackError, match=r"2 video streams, and decord .*pyav"):
        open_haystack(path, decoder="decord")


def test_an_animated_avif_is_a_film_and_its_first_picture_alone_is_not(tmp_path):
    pictures = [Image.fromarray(draw_number(number)) for number in (7, 70, 700)]
    for picture, opacity in zip(pictures, (90, 120, 150), strict=True):
        picture.putalpha(opacity)  # becomes two more streams, which are gray
    path = tmp_path / "film.avif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000)
    assert numbers_of(path) == [7, 70, 700]


# ------------------------------------------------------------------------ streams without a clock

BARE = [
    ("film.h264", "libx264", {"preset": "veryfast", "bf": "3"}),
    ("film.obu", "libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}),
    ("film.mjpeg", "mjpeg", {"strict": "-1"}),
]


def write_bare(path, codec, options):
    written = path if path.suffix != ".renamed" else path.with_suffix(".h264")
    write_video(written, at_rate(10, 45), codec=codec, options=options)
    return written.replace(path)


@pytest.mark.parametrize(("name", "codec", "options"), [*BARE, ("film.renamed", *BARE[0][1:])])
def test_a_stream_without_a_clock_is_refused_or_read_at_a_given_rate(
    tmp_path, name, codec, options
):
    path = write_bare(tmp_path / name, codec, options)
    with pytest.raises(HaystackError, match=r"no pictures with time stamps: .*--assume-fps 25"):
        open_haystack(path)
    assert numbers_of(path, assume_fps=10) == [0, 10, 20, 30, 40]
    haystack = open_haystack(path, assume_fps="15/2")
    assert haystack.identity()["assume_fps"] == "15/2"
    frames = list(haystack.frames(start=2, stop=5))
    assert [read_number(frame.image) for frame in frames] == [15, 22, 30]
    assert [frame.pts_seconds for frame in frames] == pytest.approx([2, 22 / 7.5, 4])


def test_longva_uses_the_assumed_rate(tmp_path):
    path = write_bare(tmp_path / "film.h264", *BARE[0][1:])
    numbers = numbers_of(path, assume_fps=NTSC_FILM, sampling="longva")
    assert numbers == [0, 24]


@pytest.mark.parametrize("name", ["film.mp4", "film.y4m", "film.ivf"])
def test_a_rate_is_not_assumed_where_the_file_has_a_clock(tmp_path, name):
    codec = {"film.y4m": "rawvideo", "film.ivf": "libvpx"}.get(name, "libx264")
    path = write_video(tmp_path / name, at_rate(10, 30), codec=codec, options={})
    assert len(open_haystack(path).identity()) == 5
    with pytest.raises(InputError, match=r"has time stamps of its own\. Remove --assume-fps"):
        open_haystack(path, assume_fps=10)


@pytest.mark.skipif(find_spec("decord") is None, reason="decord is not installed")
def test_decord_does_not_read_a_stream_without_a_clock(tmp_path):
    path = write_bare(tmp_path / "film.h264", *BARE[0][1:])
    with pytest.raises(HaystackError, match="decord assumes a rate of its own"):
        open_haystack(path, decoder="decord", assume_fps=10)


def test_a_folder_of_images_has_neither_streams_nor_a_rate(tmp_path):
    Image.fromarray(draw_number(1)).save(tmp_path / "a.png")
    for options in ({"stream": 0}, {"assume_fps": 25}):
        with pytest.raises(InputError, match="for videos, not for a folder of images"):
            open_haystack(tmp_path, **options)


def test_a_rate_is_read_exactly():
    assert read_rate("24000/1001") == Fraction(24000, 1001)
    assert read_rate("23.976") == Fraction(23976, 1000)
    assert read_rate(25) == read_rate(Fraction(25)) == 25


@pytest.mark.parametrize(
    "value", ["", "0", "-5", "1e999999999", "1001", "1/0", "nan", "25 fps", 10**10, Fraction(0)]
)
def test_what_is_no_rate_is_refused(value):
    with pytest.raises(InputError, match="pictures per second must be a number such as 25"):
        read_rate(value)


# ------------------------------------------------------------------------------ the command line


@pytest.mark.usefixtures("quick_pictures")
def test_a_run_says_which_stream_it_read_and_at_which_rate(tmp_path, capsys):
    films = [
        (write_streams(tmp_path / "film.mp4", FILM, OTHER), ["--stream", "1"]),
        (write_bare(tmp_path / "film.h264", *BARE[0][1:]), ["--assume-fps", "24000/1001"]),
    ]
    recorded = []
    for film, options in films:
        output = tmp_path / film.suffix
        grid = ["--frames", "1", "--depths", "0", "--controls", "none", "--needles", "cards"]
        where = ["--output", str(output), "--cache", str(tmp_path / f"cache{film.suffix}")]
        assert main(["run", "--haystack", str(film), *options, *grid, *where]) == 0
        recorded.append(json.loads((output / "manifest.json").read_text())["haystack"])
    assert recorded[0]["video_stream"] == "index 1 of 2"
    assert recorded[1]["assume_fps"] == "24000/1001"


@pytest.mark.parametrize(
    "options", [["--stream", "0"], ["--assume-fps", "25"], ["--assume-fps", "1e999999999"]]
)
def test_options_of_videos_need_a_video(options, capsys):
    assert main(["run", *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "add --haystack" in error or "pictures per second must be a number" in error
