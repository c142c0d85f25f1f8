import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jobs import start
from PIL import Image
from videos import at_rate, cut, draw_number, read_number, write_video

from vniah.errors import HaystackError, HaystackTooShortError, InputError, VideoDamagedError
from vniah.haystacks import generated as films
from vniah.haystacks.generated import Recipe, draw_parts
from vniah.haystacks.haystack import Haystack, generated_haystack, make_haystack, open_haystack


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos, of 3 and of 5 frames; each starts with the number 0."""
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_video(folder / "a.mp4", at_rate(10, 30)),
        write_video(folder / "b.mkv", at_rate(8, 40)),
    ]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(["1.png", "10.png", "2.png", "b.PNG", "c.bmp"]):
        Image.fromarray(draw_number(number)).save(folder / name)
    (folder / ".hidden.png").write_text("no image")
    (folder / "notes.txt").write_text("no image")
    (folder / "sub.png").mkdir()
    return folder


def numbers_of(haystack: Haystack, **interval):
    return [read_number(frame.image) for frame in haystack.frames(**interval)]


# ---------------------------------------------------------------------------------- videos


def test_several_files_follow_one_another_each_with_its_clock(videos):
    haystack = open_haystack(videos)
    frames = list(haystack.frames())
    assert [frame.index for frame in frames] == list(range(8))
    assert [read_number(frame.image) for frame in frames] == [0, 10, 20, 0, 8, 16, 24, 32]
    assert [frame.pts_seconds for frame in frames] == pytest.approx([0, 1, 2, 0, 1, 2, 3, 4])
    assert haystack.name == "a.mp4+1"


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 2), (1, 3), (2, 5), (3, 8), (4, 6), (4, 4), (7, None), (0, 8)]
)
def test_a_part_of_several_files_is_that_part(videos, start, stop):
    haystack = open_haystack(videos)
    whole = list(haystack.frames())
    part = list(haystack.frames(start=start, stop=stop))
    assert [frame.index for frame in part] == list(range(8))[start:stop]
    for frame in part:
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)


def test_a_haystack_that_is_too_short_says_by_how_much_before_anything_is_read(videos):
    frames = open_haystack(videos).frames(stop=9)
    with pytest.raises(HaystackTooShortError, match=r"a\.mp4\+1 has 8 frames .* but 9 were asked"):
        next(frames)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, -1)])
def test_an_interval_that_is_none_is_refused_at_once(videos, start, stop):
    with pytest.raises(InputError, match="0 <= start <= stop, got start="):
        open_haystack(videos[0]).frames(start=start, stop=stop)


def test_the_sha256_is_that_of_the_bytes(videos):
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in videos]
    assert open_haystack(str(videos[0])).sha256 == digests[0]
    assert open_haystack([videos[0]]).sha256 == digests[0]
    lines = "".join(f"{digest}\n" for digest in digests)
    assert open_haystack(videos).sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert open_haystack(videos[::-1]).sha256 != open_haystack(videos).sha256


def test_the_identity_names_all_that_decides_the_pixels(videos):
    plain = open_haystack(videos[0])
    assert plain.identity() == {
        "kind": "video",
        "sha256": plain.sha256,
        "sampling": "clock",
        "decoder": "pyav",
        "keep_damaged": "false",
    }
    assert open_haystack(videos[0], sampling="longva").identity()["sampling"] == "longva"
    assert open_haystack(videos[0], keep_damaged=True).identity()["keep_damaged"] == "true"


def test_a_copy_under_another_name_has_the_same_identity(videos, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(videos[0].read_bytes())
    assert open_haystack(copy).identity() == open_haystack(videos[0]).identity()


def test_damage_is_noted_before_the_last_frame_is_given(videos, tmp_path):
    whole = write_video(tmp_path / "film.mkv", at_rate(25, 250), noise=20)
    path = cut(whole, 0.6, tmp_path / "cut.mkv")
    with pytest.raises(VideoDamagedError, match="declared"):
        next(open_haystack([videos[0], path]).frames())
    notes = []
    haystack = open_haystack([videos[0], path], keep_damaged=True)
    frames = haystack.frames(stop=6, on_damage=notes.append)
    for _ in range(6):
        next(frames)
    assert len(notes) == 1
    assert notes[0].startswith("cut.mkv: it holds ")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing.mp4", HaystackError, r"there is no file .*missing\.mp4"),
        ([], InputError, "needs a video file or a folder of images, got none"),
        (["a.mp4", "."], InputError, "is a folder among several paths"),
        ("empty", HaystackError, r"holds no images \(\.bmp"),
        ("empty.mp4", HaystackError, r"empty\.mp4 is empty"),
        ("text.mp4", HaystackError, r"text\.mp4 cannot be read as a video"),
        ("/dev/null", HaystackError, "is neither a file nor a folder"),
    ],
)
def test_what_is_no_haystack_is_refused_in_one_line(tmp_path, videos, source, error, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video " * 1000)
    (tmp_path / "a.mp4").write_bytes(videos[0].read_bytes())
    given = [tmp_path / s for s in source] if isinstance(source, list) else tmp_path / source
    with pytest.raises(error, match=message) as caught:
        open_haystack(given)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read_says_so(tmp_path, videos):
    path = tmp_path / "film.mp4"
    path.write_bytes(videos[0].read_bytes())
    path.chmod(0)
    with pytest.raises(HaystackError, match="Permission denied"):
        open_haystack(path)


@pytest.mark.parametrize("options", [{"sampling": "fps"}, {"decoder": "opencv"}])
def test_an_unknown_choice_is_refused(videos, options):
    ((field, value),) = options.items()
    with pytest.raises(InputError, match=f"{field} must be one of .*, got '{value}'"):
        open_haystack(videos[0], **options)


def test_longva_on_a_slide_show_is_refused_on_opening(tmp_path):
    path = write_video(tmp_path / "film.mp4", [0, 4, 8], options={"bf": "0"})
    with pytest.raises(InputError, match="rounds to 0"):
        open_haystack(path, sampling="longva")


# ---------------------------------------------------------------------------------- images


def test_a_folder_of_images_comes_in_plain_name_order(images):
    haystack = open_haystack(images)
    assert (haystack.kind, haystack.name) == ("images", "images")
    assert [path.name for path in haystack.paths] == ["1.png", "10.png", "2.png", "b.PNG", "c.bmp"]
    frames = list(haystack.frames(start=1, stop=4))
    assert [read_number(frame.image) for frame in frames] == [1, 2, 3]
    assert [frame.index for frame in frames] == [1, 2, 3]


def test_too_few_images_are_counted(images):
    with pytest.raises(HaystackTooShortError, match="images has 5 frames as images, but 6"):
        next(open_haystack(images).frames(stop=6))


def test_images_are_turned_upright_and_made_rgb(tmp_path):
    upright = Image.fromarray(draw_number(77))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    upright.rotate(90, expand=True).save(tmp_path / "a.png", exif=exif)
    upright.convert("L").save(tmp_path / "b.png")
    upright.convert("RGBA").save(tmp_path / "c.png")
    upright.convert("P").save(tmp_path / "d.png")
    assert numbers_of(open_haystack(tmp_path)) == [77] * 4


def test_an_unreadable_image_is_refused_or_replaced_by_its_neighbour(images):
    (images / "10.png").write_bytes((images / "10.png").read_bytes()[:60])
    (images / "1.png").write_text("no image")
    with pytest.raises(VideoDamagedError, match=r"1\.png cannot be read: .*--keep-damaged"):
        list(open_haystack(images).frames())
    notes = []
    haystack = open_haystack(images, keep_damaged=True)
    assert numbers_of(haystack, on_damage=notes.append) == [2, 2, 2, 3, 4]
    order, unreadable = notes
    assert "10.png comes before 2.png" in order
    assert unreadable == "2 unreadable images, the first is 1.png"
    assert numbers_of(haystack, start=1, stop=2) == [2]


@pytest.mark.parametrize(
    ("name", "mode"), [("2.png", "I;16"), ("2.tif", "I"), ("2.tif", "F"), ("2.tif", "I;16")]
)
@pytest.mark.parametrize("keep_damaged", [False, True])
def test_an_image_that_rgb_would_clip_is_refused(images, name, mode, keep_damaged):
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    (images / "2.png").unlink()
    Image.fromarray(np.full((48, 64), 3000, kind)).save(images / name)
    frames = open_haystack(images, keep_damaged=keep_damaged).frames()
    message = r"2\.(png|tif) has pixels of mode '(I|I;16|F)', which clip in RGB\. Save it with 8"
    with pytest.raises(HaystackError, match=message) as caught:
        list(frames)
    assert not isinstance(caught.value, VideoDamagedError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "longva"}, "sampling 'longva' is for videos; .* Leave it at 'clock'"),
        ({"decoder": "decord"}, "decoder 'decord' is for videos; .* Leave it at 'pyav'"),
        ({"sampling": "fps"}, "sampling must be one of clock, longva, got 'fps'"),
        ({"decoder": "opencv"}, "decoder must be one of pyav, decord, got 'opencv'"),
    ],
)
def test_what_is_for_videos_is_refused_for_images(images, options, message):
    with pytest.raises(InputError, match=message):
        open_haystack(images, **options)
    with pytest.raises(InputError, match=message):
        replace(open_haystack(images), **options)


# ------------------------------------------------------------------------------- generated


@pytest.fixture
def short_parts(monkeypatch):
    """Parts of 4 s, so that a test draws seconds and not minutes."""
    monkeypatch.setattr(films, "PART_SECONDS", 4)


def test_the_generated_film_grows_and_stays_the_same(short_parts, own_cache):
    progress = []
    first = generated_haystack(3, on_progress=lambda *done: progress.append(done))
    assert progress == [(second, 4) for second in range(1, 5)]
    images = [frame.image for frame in first.frames(stop=3)]
    written = first.paths[0].stat().st_mtime_ns

    progress.clear()
    longer = generated_haystack(11, on_progress=lambda *done: progress.append(done))
    assert progress[-1] == (8, 8)
    assert len(longer.paths) == 3
    assert longer.identity() == first.identity()
    assert longer.paths[0].stat().st_mtime_ns == written
    np.testing.assert_array_equal([frame.image for frame in longer.frames(stop=3)], images)
    indices = [frame.index for frame in longer.frames(start=2, stop=11)]
    assert indices == list(range(2, 11))

    progress.clear()
    generated_haystack(12, on_progress=lambda *done: progress.append(done))
    assert progress == []
    assert sorted(path.name for path in first.paths[0].parent.iterdir()) == [
        "manifest.json", "part-000.mp4", "part-001.mp4", "part-002.mp4"
    ]  # fmt: skip


def test_the_parts_show_one_film(short_parts, tmp_path):
    in_parts = generated_haystack(8)
    in_one = open_haystack(make_haystack(tmp_path / "film.mp4", seconds=8))
    for ours, theirs in zip(in_parts.frames(), in_one.frames(), strict=True):
        difference = np.abs(ours.image.astype(int) - theirs.image)
        assert difference.mean() < 8  # the same scene, compressed twice


def test_another_seed_is_another_haystack(short_parts):
    first, second = generated_haystack(1), generated_haystack(1, seed=1)
    assert first.sha256 != second.sha256
    assert first.paths != second.paths
    assert json.loads(first.identity()["recipe"])["seed"] == 0


def test_a_generated_haystack_does_not_give_more_than_was_drawn(short_parts):
    with pytest.raises(HaystackTooShortError, match=r"has 4 frames .* but 5 were asked for"):
        next(generated_haystack(2).frames(stop=5))


@pytest.mark.parametrize("break_it", [lambda path: path.write_bytes(b"half"), Path.unlink])
def test_a_broken_part_is_drawn_again(short_parts, break_it):
    haystack = generated_haystack(6)
    whole = haystack.paths[1].read_bytes()
    break_it(haystack.paths[1])
    assert generated_haystack(6).paths[1].read_bytes() == whole


def test_a_broken_manifest_is_written_anew(short_parts):
    haystack = generated_haystack(2)
    manifest = haystack.paths[0].with_name("manifest.json")
    whole = manifest.read_text()
    manifest.write_text(whole[:40])
    generated_haystack(2)
    assert manifest.read_text() == whole
    recipe = json.loads(whole)["recipe"]
    assert recipe == {"seed": 0, "fps": 8, "size": [96, 96], "generator_version": 1}
    digest = hashlib.sha256(haystack.paths[0].read_bytes()).hexdigest()
    assert json.loads(whole)["sha256"] == {"part-000.mp4": digest}


def draw_in_short_parts(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vniah.haystacks.generated.PART_SECONDS", 4)
        draw_parts(folder, Recipe(0), seconds=16, on_progress=None)


def check_parts(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for number in range(4):
        path = folder / f"part-{number:03d}.mp4"
        assert numbers_are_frames(path)
        assert manifest["sha256"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


def numbers_are_frames(path):
    return len(list(open_haystack(path).frames())) == 4


@pytest.mark.distributed
def test_two_processes_may_draw_the_same_film_at_once(short_parts, tmp_path):
    folder = tmp_path / "film"
    processes = [start(draw_in_short_parts, folder) for _ in range(2)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    draw_parts(folder, Recipe(0), seconds=16, on_progress=None)
    check_parts(folder)


@pytest.mark.distributed
def test_drawing_goes_on_after_a_kill(short_parts, tmp_path):
    folder = tmp_path / "film"
    process = start(draw_in_short_parts, folder)
    deadline = time.monotonic() + 120
    while not list(folder.glob("part-*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join(60)
    draw_parts(folder, Recipe(0), seconds=16, on_progress=None)
    check_parts(folder)


def test_what_killed_processes_left_behind_goes_after_a_day(short_parts, own_cache):
    folder = generated_haystack(1).paths[0].parent
    old, new = (folder / f".part-001.mp4.{owner}.vniah.tmp" for owner in ("01234567", "89abcdef"))
    for path, age in ((old, 2 * 24 * 3600), (new, 60)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    generated_haystack(5)
    assert not old.exists()
    assert new.exists()


def test_a_generated_haystack_can_be_read_as_published(short_parts):
    haystack = replace(generated_haystack(4), sampling="longva")
    assert len(list(haystack.frames())) == 4
    assert haystack.identity()["sampling"] == "longva"


@pytest.mark.parametrize("num_frames", [10**6 + 1, 10**100])
def test_a_film_of_years_is_refused_before_it_is_drawn(num_frames):
    with pytest.raises(InputError, match=r"num_frames must be at most 1,000,000 for a generated"):
        generated_haystack(num_frames)


def test_no_frames_at_all_are_refused():
    with pytest.raises(InputError, match="num_frames must be at least 1, got 0"):
        generated_haystack(0)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VNIAH_CACHE", str(tmp_path / "file"))
    with pytest.raises(HaystackError, match=r"cannot write .*file"):
        generated_haystack(1)


# ------------------------------------------------------------------------------------ make


def test_make_haystack_writes_a_video_and_its_manifest(tmp_path):
    path = tmp_path / "film.mp4"
    progress = []
    made = make_haystack(
        path, seconds=2, seed=3, fps=4, size=(64, 48), on_progress=lambda *d: progress.append(d)
    )
    assert made == path
    assert progress == [(1, 2), (2, 2)]
    assert [frame.image.shape for frame in open_haystack(path).frames()] == [(48, 64, 3)] * 2
    manifest = json.loads((tmp_path / "film.json").read_text())
    assert manifest["recipe"] == {"seed": 3, "fps": 4, "size": [64, 48], "generator_version": 1}
    assert manifest["sha256"]["film.mp4"] == open_haystack(path).sha256
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["film.json", "film.mp4"]


def test_make_haystack_replaces_only_when_told(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"film\.mp4 exists.*--overwrite"):
        make_haystack(path, seconds=1)
    assert path.read_text() == "precious"
    make_haystack(path, seconds=1, overwrite=True)
    assert len(list(open_haystack(path).frames())) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("film.avi", {}, r"written as \.mp4, got 'film\.avi'"),
        ("film", {}, r"written as \.mp4, got 'film'"),
        ("no/film.mp4", {}, "there is no folder .*no for film.mp4"),
        ("film.mp4", {"seconds": 0}, "seconds must be at least 1, got 0"),
        ("film.mp4", {"seconds": 10**9}, "seconds must be at most 1,000,000"),
        ("film.mp4", {"fps": 0}, "fps"),
        ("film.mp4", {"size": (63, 48)}, "size"),
    ],
)
def test_make_haystack_refuses_what_cannot_be_meant_and_leaves_nothing(
    tmp_path, name, options, message
):
    with pytest.raises(InputError, match=message):
        make_haystack(tmp_path / name, **{"seconds": 1, **options})
    assert list(tmp_path.iterdir()) == []
