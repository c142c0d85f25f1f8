import os
import shutil
import struct
import zlib

import pytest
from PIL import Image
from videos import draw_number, read_number

from vniah.errors import HaystackError, InputError, VideoDamagedError
from vniah.haystacks import images
from vniah.haystacks.haystack import open_haystack


def save(folder, *names, start=0):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names, start):
        Image.fromarray(draw_number(number)).save(folder / name)
    return folder


def names_of(folder):
    return [path.name for path in open_haystack(folder).paths]


def numbers_of(source, **options):
    return [read_number(frame.image) for frame in open_haystack(source).frames(**options)]


# ---------------------------------------------------------------------------------- their order


@pytest.mark.parametrize(
    "names",
    [
        ["frame_0.png", "frame_1.png", "frame_2.png", "frame_10.png"],
        ["8.png", "9.png", "10.png", "100.png"],
        ["take2_f9_v1.png", "take2_f10_v1.png"],
        ["f9.jp2", "f10.jp2"],
        ["f-9.png", "f-10.png"],
    ],
)
def test_pictures_with_one_number_in_their_names_come_in_its_order(tmp_path, names):
    folder = save(tmp_path / "film", *names)
    assert names_of(folder) == names
    assert open_haystack(folder).identity()["order"] == "number"


@pytest.mark.parametrize(
    "names",
    [
        ["001.png", "002.png", "010.png"],
        ["a.png", "b.png"],
        ["frame_0.png", "frame_1.png", "frame_2.png"],
        ["cover.png", "frame_10.png", "frame_9.png"],
        ["a10.png", "a9.png", "b1.png"],
        ["1_10.png", "2_9.png"],
        ["f10.jpg", "f9.png"],
        ["f1.png"],
    ],
)
def test_other_pictures_come_in_plain_name_order(tmp_path, names):
    folder = save(tmp_path / "film", *names)
    assert names_of(folder) == sorted(names)
    assert set(open_haystack(folder).identity()) == {
        *("kind", "sha256", "sampling", "decoder", "keep_damaged")
    }


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["frame_9.jpg", "frame_10.JPG"], "frame_10.JPG comes before frame_9.jpg"),
        (["cover.png", "f1.png", "f2.png", "f10.png"], "f10.png comes before f2.png"),
        (["2024-9-30.png", "2024-10-1.png"], "2024-10-1.png comes before 2024-9-30.png"),
        (["t1.5.png", "t1.25.png"], "t1.5.png comes before t1.25.png"),
        (["scene1.9.png", "scene1.10.png"], "scene1.9.png comes before scene1.10.png"),
    ],
)
def test_an_order_that_may_not_be_meant_is_noted(tmp_path, names, note):
    (found,) = open_haystack(save(tmp_path / "film", *names)).notes
    assert f"film: {note}, as" in found and found.isprintable()


@pytest.mark.parametrize(
    "names",
    [
        ["f.9.png", "f.10.png"],
        ["t1.25.png", "t1.50.png"],
        ["a-1.png", "a1.png"],
        ["a10.png", "b9.png"],
        ["001_9.png", "002_8.png"],
        ["2024-09-30.png", "2024-10-01.png"],
    ],
)
def test_an_order_that_is_meant_is_not_worth_a_note(tmp_path, names):
    assert open_haystack(save(tmp_path / "film", *names)).notes == ()


def test_another_order_is_another_haystack(tmp_path):
    by_number = save(tmp_path / "a", "f1.png", "f9.png", "f10.png")
    by_name = save(tmp_path / "b", "f01.png", "f09.png", "f10.png")
    assert numbers_of(by_number) == numbers_of(by_name) == [0, 1, 2]
    assert open_haystack(by_number).identity() != open_haystack(by_name).identity()


# ----------------------------------------------------------------------------- what is a picture


@pytest.mark.parametrize(
    "suffix",
    [
        "png",
        "jpg",
        "jpeg",
        "jfif",
        "jp2",
        "ppm",
        "pgm",
        "bmp",
        "tif",
        "tiff",
        "webp",
        "avif",
        "gif",
        "tga",
        "qoi",
    ],
)
def test_what_pillow_reads_is_read(tmp_path, suffix):
    if suffix == "qoi" and "QOI" not in Image.SAVE:
        pytest.skip("this version of Pillow does not write it")
    name = f"a.{suffix.upper()}"
    picture = Image.fromarray(draw_number(77))
    (picture.convert("L") if suffix == "pgm" else picture).save(tmp_path / name)
    assert numbers_of(tmp_path) == [77]


@pytest.mark.parametrize("name", ["b.heic", "b.jxl", "b.svg", "b.CR2", "b.eps"])
def test_a_picture_that_is_not_read_here_is_named(tmp_path, name):
    save(tmp_path, "a.png")
    (tmp_path / name).write_bytes(b"some picture")
    with pytest.raises(HaystackError, match=rf"{name} is of a kind that is not read here"):
        open_haystack(tmp_path)


def test_a_link_to_nothing_is_named(tmp_path):
    save(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(HaystackError, match=r"b\.png is no file \(perhaps a link to nothing\)"):
        open_haystack(tmp_path)


def test_what_is_left_out_and_may_be_a_picture_is_noted_once(tmp_path):
    save(tmp_path, "a.png", "c.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "IMG_0001")
    shutil.copy(tmp_path / "a.png", tmp_path / ".hidden.png")
    for name in ("film.mp4", "Thumbs.db", "notes.txt", "._a.png", ".DS_Store", "data"):
        (tmp_path / name).write_bytes(b"no picture")
    notes = []
    assert numbers_of(tmp_path, on_damage=notes.append) == [0, 1]
    (note,) = notes
    assert note.endswith(": .hidden.png, IMG_0001, film.mp4 left out")


def test_ordinary_companions_of_pictures_are_not_worth_a_note(tmp_path):
    save(tmp_path, "a.png")
    for name in ("Thumbs.db", "notes.txt", "._a.png", ".DS_Store", "metadata.jsonl"):
        (tmp_path / name).write_bytes(b"no picture")
    assert open_haystack(tmp_path).notes == ()


# --------------------------------------------------------------------- several pictures in a file


@pytest.mark.parametrize("name", ["b.gif", "b.png", "b.apng", "b.webp", "b.avif", "b.tiff"])
@pytest.mark.parametrize("keep_damaged", [False, True])
def test_a_file_with_several_pictures_is_refused_by_name(tmp_path, name, keep_damaged):
    save(tmp_path, "a.png")
    first, *others = (Image.fromarray(draw_number(number)) for number in range(3))
    first.save(tmp_path / name, save_all=True, append_images=others)
    frames = open_haystack(tmp_path, keep_damaged=keep_damaged).frames()
    with pytest.raises(HaystackError, match=rf"{name} holds several pictures") as caught:
        list(frames)
    assert not isinstance(caught.value, VideoDamagedError)


def test_the_main_picture_of_a_camera_file_is_read(tmp_path):
    first, second = (Image.fromarray(draw_number(number)) for number in (5, 6))
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert numbers_of(tmp_path) == [5]


# ------------------------------------------------------------------------------------- too large


def write_png_header(path, width, height):
    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 1000), (178_000_001, 1)])
@pytest.mark.parametrize("keep_damaged", [False, True])
def test_a_picture_with_too_many_pixels_is_refused(tmp_path, size, keep_damaged):
    save(tmp_path, "a.png")
    write_png_header(tmp_path / "b.png", *size)
    with pytest.raises(HaystackError, match=r"b\.png has more than 178,000,000 pixels"):
        list(open_haystack(tmp_path, keep_damaged=keep_damaged).frames())


def test_a_huge_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    save(tmp_path, "a.png")
    with (tmp_path / "b.png").open("wb") as file:
        file.truncate(10**12)
    monkeypatch.setattr("vniah.haystacks.haystack.hash_file", pytest.fail)
    with pytest.raises(HaystackError, match=r"b\.png has 1,000,000,000,000 bytes, and at most 1,0"):
        open_haystack(tmp_path)


@pytest.mark.parametrize("at", range(3, 60, 7))
def test_a_damaged_picture_is_one_line(tmp_path, at):
    for name in ("a.png", "b.tiff", "c.gif", "d.jpg", "e.webp"):
        save(tmp_path, name)
        data = bytearray((tmp_path / name).read_bytes())
        data[at] ^= 0xFF
        (tmp_path / name).write_bytes(data)
        try:
            list(open_haystack(tmp_path).frames())
        except HaystackError as error:
            assert "\n" not in str(error)
        (tmp_path / name).unlink()


def test_a_program_is_not_run_to_read_a_picture(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")
    assert "EPS" not in images._formats()
    with pytest.raises(VideoDamagedError, match=r"a\.png cannot be read"):
        list(open_haystack(tmp_path).frames())


# ----------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("source", ["", "  ", ["film.mp4", ""], [""]])
def test_an_empty_path_is_refused(tmp_path, monkeypatch, source):
    monkeypatch.chdir(save(tmp_path, "a.png"))
    with pytest.raises(InputError, match="a haystack must not be empty"):
        open_haystack(source)


@pytest.mark.parametrize(
    "name",
    ["x" * 200_000, "x/" * 100_000, "x" * 300 + ".mp4", "a\0b", "~nobody-of-this-name/a.mp4"],
)
def test_a_path_that_no_system_has_is_one_short_line(name):
    with pytest.raises(InputError, match="a haystack ") as caught:
        open_haystack(name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("again", ["same", "dot", "symlink", "hardlink", "copy"])
def test_the_same_film_twice_is_refused(tmp_path, again):
    first, other = tmp_path / "a.gif", tmp_path / "b.gif"
    number = Image.fromarray(draw_number(1))
    number.save(first, save_all=True, append_images=[Image.fromarray(draw_number(2))], duration=500)
    second = {
        "same": lambda: first,
        "dot": lambda: tmp_path / "." / ".." / tmp_path.name / "a.gif",
        "symlink": lambda: other.symlink_to(first) or other,
        "hardlink": lambda: os.link(first, other) or other,
        "copy": lambda: shutil.copy(first, other),
    }[again]()
    with pytest.raises(InputError, match=r"are the same film\. A haystack is never looped"):
        open_haystack([first, second])
