"""Samples as videos for others, and their answers as a run: both ways give the same map."""

import csv
import json
import shutil
from collections import namedtuple
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from runs import files_up_to
from videos import HEIGHT, WIDTH, draw_number, read_number

from vniah import compare, import_answers, load_results, run_sweep
from vniah import export_samples as export_all
from vniah.cli import main
from vniah.errors import InputError, ResultsError, RunMismatchError, TaskError
from vniah.files import TEMPORARY_SUFFIX
from vniah.grid import Cell, Grid
from vniah.haystacks.haystack import open_haystack
from vniah.needles import load_needles
from vniah.protocol import FrameSpan
from vniah.results import RunFolder
from vniah.results.sample_file import count_lines
from vniah.scoring import score_accepted
from vniah.sweep.exchange import export as export_module
from vniah.sweep.exchange.answers import Answer, read_answers
from vniah.sweep.exchange.records import in_readable_order, metadata_rows, video_name
from vniah.sweep.exchange.videos import PictureStore, VideoFormat, fit_picture
from vniah.sweep.replies import warn_of_unreadable
from vniah.tasks import Sample, haystack_frames, insert_needle

pytestmark = pytest.mark.usefixtures("quick_pictures")

# One control, so that what is shown is easily told from a row.
export_samples = partial(export_all, controls="no-needle")
REFERENCE_RUN = Path(__file__).resolve().parents[1] / "results" / "reference-long"
GRID = Grid.of([4, 9], ["0", "0.3", "1"])
FIRST_NEEDLE = 4000
ANSWERS = {"a": ("seven", ["7"], None), "b": ("Dog", [], ["Cat", "Dog"]), "c": ("red", [], None)}


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """A folder of pictures; picture k shows the number k."""
    folder = tmp_path_factory.mktemp("film")
    for number in range(9):
        Image.fromarray(draw_number(number)).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def needle_folder(tmp_path_factory) -> Path:
    """Three needles with numbers that no frame has; the last one is larger than the film."""
    folder = tmp_path_factory.mktemp("needles")
    rows = []
    for number, (name, (answer, accepted, choices)) in enumerate(ANSWERS.items(), FIRST_NEEDLE):
        picture = Image.fromarray(draw_number(number))
        if name == "c":
            picture = picture.resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST)
        picture.save(folder / f"{name}.png")
        row = {"file_name": f"{name}.png", "needle_id": name, "question": f"which {name}?"}
        rows.append(row | {"answer": answer, "accepted": accepted, "choices": choices})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def material(film, needle_folder):
    return open_haystack(film), load_needles(needle_folder)


@pytest.fixture(scope="module")
def exported(material, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "export"
    found = export_samples(*material, GRID, output=folder)
    rows = read_rows(folder)
    assert found.num_samples == len(rows) == 3 * 6 + 3 * 2, "cells, and the control no-needle"
    assert found.num_videos == 3 * 6 + 2, "controls of one length show the same frames"
    assert found.num_written == found.num_videos
    assert found.num_bytes == sum(path.stat().st_size for path in folder.glob("videos/*"))
    return folder


def read_rows(folder: Path) -> list[dict]:
    with (folder / "metadata.jsonl").open() as file:
        return list(map(json.loads, file))


def shown_numbers(row: dict) -> list[int]:
    """The definition: the haystack with the needle before frame floor(depth x num_frames)."""
    numbers = list(range(row["num_frames"]))
    if row["control"] is None:
        depth = Fraction(str(row["depth"]))
        needle = FIRST_NEEDLE + "abc".index(row["fields"]["needle_id"])
        numbers.insert(int(depth * row["num_frames"]), needle)
    return numbers


class Reader:
    """A chat model that reads numbers, and overlooks a needle among the last frames."""

    name, revision = "reader", "1"

    def answer(self, frames, question):
        numbers = [read_number(fit_picture(frame, (WIDTH, HEIGHT))) for frame in frames]
        found = [number for number in numbers[:-2] if number >= FIRST_NEEDLE]
        words = ("7", "It is dog.", "blue")  # accepted, an option in other words, wrong
        return words[found[0] - FIRST_NEEDLE] if found else "seven"  # right without seeing, for a


def answer_videos(folder: Path) -> dict[str, str]:
    """What a harness does: reads the metadata and the videos, and asks."""
    return {
        row["sample_id"]: Reader().answer(
            [frame.image for frame in open_haystack(folder / row["file_name"]).frames()],
            row["question"],
        )
        for row in read_rows(folder)
    }


@pytest.fixture(scope="module")
def texts(exported) -> dict[str, str]:
    return answer_videos(exported)


def write_answers(path: Path, texts: dict[str, str]) -> Path:
    lines = (json.dumps({"sample_id": i, "prediction": text}) for i, text in texts.items())
    path.write_text("\n".join(lines))
    return path


def records(results) -> list[dict]:
    """The lines but for what no two runs have in common."""
    everything = (*results.samples, *results.control_samples)
    return [sample.record() | {"seconds": None} for sample in everything]


def test_an_imported_run_is_the_run_itself(material, exported, texts, tmp_path):
    how = {"controls": "no-needle", "progress": False}
    own = run_sweep(Reader(), *material, GRID, output=tmp_path / "own", **how)
    answers = write_answers(tmp_path / "answers.jsonl", texts)
    arguments = {"export": exported, "model_name": "reader", "output": tmp_path / "imported"}
    imported = import_answers(answers, **arguments)
    assert imported.cells == own.cells
    assert {cell.score for cell in own.cells} == {2 / 3, 1 / 3}, "nothing is right everywhere"
    assert imported.controls == own.controls
    assert records(imported) == records(own)
    assert all(sample.seconds is None for sample in imported.samples), "nobody measured them"
    sections = own.manifest.keys() - {"model", "environment", "notes"}
    assert {name: imported.manifest[name] for name in sections} == {
        name: own.manifest[name] for name in sections
    }
    assert list(imported.manifest) == list(own.manifest)
    assert imported.manifest["model"]["name"] == "reader"
    assert compare(tmp_path / "own", tmp_path / "imported").passed
    assert import_answers(texts, **arguments).cells == own.cells, "again, and from Python"


@pytest.mark.parametrize("decoder", ["pyav", "decord", "plain"])
def test_frame_k_is_picture_k(exported, decoder):
    if decoder == "decord":
        pytest.importorskip("decord")
    for row in read_rows(exported)[2 : 5 if decoder == "decord" else None]:  # a process for each
        path = exported / row["file_name"]
        if decoder == "plain":
            with av.open(str(path)) as container:
                frames = list(container.decode(video=0))
            assert [frame.time for frame in frames] == list(range(row["num_seconds"]))
            assert all(frame.key_frame for frame in frames)
            images = [frame.to_ndarray(format="rgb24") for frame in frames]
        else:
            images = [frame.image for frame in open_haystack(path, decoder=decoder).frames()]
        assert list(map(read_number, images)) == shown_numbers(row)
        if row["needle_second"] is not None:
            assert read_number(images[row["needle_second"]]) >= FIRST_NEEDLE


def test_metadata_say_what_is_asked_and_shown(exported):
    rows = {row["sample_id"]: row for row in read_rows(exported)}
    row = rows["9/0.3/b"]
    assert (row["num_frames"], row["depth"]) == (9, 0.3)
    assert (row["num_seconds"], row["needle_second"]) == (10, 2)
    assert row["inserted"] == [{"needle_id": "b", "style": "frame", "second": 2, "seconds": 1}]
    assert (row["question"], row["options"], row["answer"]) == ("which b?", ["Cat", "Dog"], "Dog")
    assert (row["task"], row["control"]) == ("vniah", None)
    assert row["fields"] == {"needle_id": "b", "needle_index": 2, "num_frames": None}
    assert (rows["4/0/a"]["accepted"], rows["4/0/a"]["options"]) == (["seven", "7"], None)
    control = rows["9/-/a/no-needle"]
    assert (control["control"], control["needle_second"]) == ("no-needle", None)
    assert (control["depth"], control["inserted"]) == (None, [])


def test_a_frame_has_the_same_pixels_in_every_video(exported):
    """Where the needle stands changes nothing in the other pictures, not even a bit."""
    found: dict[int, bytes] = {}
    for row in read_rows(exported):
        frames = open_haystack(exported / row["file_name"]).frames()
        for number, frame in zip(shown_numbers(row), frames, strict=True):
            assert found.setdefault(number, frame.image.tobytes()) == frame.image.tobytes()
    assert len(found) == 9 + 3


def idr_pic_id(packet: bytes) -> int:
    """The number in the header of a keyframe's first slice (ITU-T H.264, 7.3.3)."""
    size, kind = int.from_bytes(packet[:4]), packet[4] & 31
    assert (kind, size) == (5, len(packet) - 4), "one slice, and nothing besides"
    bits = iter("".join(f"{byte:08b}" for byte in packet[5:25]))

    def exp_golomb() -> int:
        zeros = 0
        while next(bits) == "0":
            zeros += 1
        return (1 << zeros) - 1 + int("0" + "".join(next(bits) for _ in range(zeros)), 2)

    for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
        exp_golomb()
    assert [next(bits) for _ in range(4)] == ["0"] * 4, "frame_num"
    return exp_golomb()


def test_keyframes_in_a_row_have_other_numbers(exported):
    """H.264 demands it; a decoder may take two of the same number for one picture."""
    for row in read_rows(exported)[:8]:
        with av.open(str(exported / row["file_name"])) as container:
            packets = [bytes(p) for p in container.demux(video=0) if p.size]
        assert [idr_pic_id(packet) for packet in packets] == [
            position % 2 for position in range(row["num_seconds"])
        ]


@pytest.mark.parametrize("size", [(33, 47), (64, 48), (97, 95)])
def test_videos_of_any_size(size, tmp_path):
    """Sides are made even; a picture of another shape is whole, undistorted, in the middle."""
    video_format = VideoFormat.fitting(size, 4)
    even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert (video_format.width, video_format.height) == even
    plain = np.full((size[1], size[0], 3), 90, np.uint8)
    square = np.full((20, 20, 3), 200, np.uint8)
    with PictureStore.open(video_format, tmp_path) as store:
        store.write_video(tmp_path / "v.mp4", [store.add(plain), store.add(square)])
    first, second = (frame.image for frame in open_haystack(tmp_path / "v.mp4").frames())
    assert first.shape == (even[1], even[0], 3)
    assert np.abs(first.astype(int) - 90).max() <= 4, "no bar where a pixel was added"
    rows, columns = (second.mean(2) > 100).any(1), (second.mean(2) > 100).any(0)
    assert abs(rows.sum() - min(even)) <= 2
    assert abs(columns.sum() - min(even)) <= 2, "as high as wide"
    for line in (rows, columns):
        inside = np.flatnonzero(line)
        assert abs(inside[0] - (len(line) - 1 - inside[-1])) <= 2, "in the middle"


@pytest.mark.parametrize(
    ("size", "quantizer", "message"),
    [
        ((0, 4), 20, "1 to 16,384 pixels in both directions, got 0x4"),
        ((4, 20_000), 20, "got 4x20,000; choose another --frame-size"),
        ((4, 4), 0, "from 1 to 51, got 0"),
        ((4, 4), 52, "from 1 to 51, got 52"),
    ],
)
def test_invalid_video_formats(size, quantizer, message):
    with pytest.raises(InputError, match=message):
        VideoFormat.fitting(size, quantizer)


class Mixed:
    """A task of one's own: without a video, with options to choose from and fields of two types."""

    name, axes = "mixed", ("num_frames", "depth")

    def samples(self, grid, needles, haystack):
        for cell in grid.cells:
            for number, shown in enumerate(((), haystack_frames(cell.num_frames))):
                yield Sample(
                    f"{cell.prefix}{number}",
                    cell,
                    shown,
                    "which?",
                    ("yes", "no"),
                    answer="no",
                    fields={"mixed": (1, "one")[number], "numbers": (1, 2), "real": 0.5},
                )

    def score(self, sample, readings):
        return score_accepted(["no"], readings, sample.candidates)


def test_datasets_reads_the_folder(material, tmp_path):
    """Also samples without a video, which have no file name."""
    datasets = pytest.importorskip("datasets")
    export_all(*material, Grid.of([4], [1]), output=tmp_path / "e", task=Mixed())
    data = datasets.load_dataset(
        "videofolder", data_dir=str(tmp_path / "e"), split="train", cache_dir=str(tmp_path / "c")
    )
    table = data.cast_column("video", datasets.Video(decode=False)).to_list()
    rows = {row["sample_id"]: row for row in table}
    assert Path(rows["4/1/1"]["video"]["path"]).is_file()
    assert rows["4/1/0"]["video"] is None
    assert rows["4/1/0"]["num_seconds"] == 0
    assert rows["4/1/0"]["options"] == ["yes", "no"]
    assert rows["4/1/0"]["accepted"] == ["no"]
    assert {row["fields"]["mixed"] for row in table} == {"1", '"one"'}, "in one column, as JSON"
    assert rows["4/1/1"]["fields"]["numbers"] == [1, 2]


def test_an_own_task_is_imported_with_it(material, tmp_path):
    folder = tmp_path / "e"
    export_all(*material, Grid.of([3], [Fraction(1, 3)]), output=folder, task=Mixed())
    arguments = {"export": folder, "model_name": "m", "output": tmp_path / "run"}
    texts = {"3/1/3/0": "no", "3/1/3/1": "yes"}
    with pytest.raises(TaskError, match="'mixed' of the export was given as an object"):
        import_answers(texts, **arguments)
    with pytest.raises(TaskError, match=r"the task vniah with .* which is mixed with"):
        import_answers(texts, **arguments, task="vniah")
    results = import_answers(texts, **arguments, task=Mixed())
    assert results.average == 0.5
    assert [cell.cell.depth for cell in results.cells] == [Fraction(1, 3)], "exactly"
    assert [sample.fields["mixed"] for sample in results.samples] == [1, "one"], "as they were"


def test_a_task_that_scores_no_text_is_noticed(material, tmp_path, caplog):
    class Silent(Mixed):
        def score(self, sample, readings):
            raise ValueError("no logits")

    export_all(*material, Grid.of([4], [1]), output=tmp_path / "e", task=Silent())
    assert "2 samples cannot be scored from a written answer" in caplog.text
    assert "ValueError: no logits" in caplog.text


def test_first_rows_fill_every_column():
    """Arrow infers the type of a column from the first megabytes of the file."""
    rows = [{"a": 1, "b": None, "c": []}] * 3 + [{"a": 2, "b": None, "c": [{"d": None}]}]
    rows += [{"a": 3, "b": "x", "c": [{"d": 1}]}]
    assert [row["a"] for row in in_readable_order(rows)] == [1, 3, 1, 1, 2]


def test_what_a_killed_export_left_is_written_over_or_removed(film, needle_folder, tmp_path):
    """Half a video has a name that the next start takes for the same video."""
    sources = (open_haystack(film), load_needles(needle_folder), Grid.of([4], ["0"]))
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    for output in (whole, halved):
        export_samples(*sources, output=output, controls="none")
    videos = sorted((halved / "videos").glob("*.mp4"))
    half = halved / "videos" / f".{videos[0].name}{TEMPORARY_SUFFIX}"
    videos[0].rename(half)
    (halved / "metadata.jsonl").unlink()
    export_samples(*sources, output=halved, controls="none")
    assert not half.exists()
    assert [path.name for path in sorted((halved / "videos").iterdir())] == [
        path.name for path in sorted((whole / "videos").iterdir())
    ]
    half.write_bytes(b"half")
    export_samples(
        *sources[:2], Grid.of([9], ["0"]), output=halved, controls="none", overwrite=True
    )
    assert not half.exists()


def test_a_video_has_one_name_however_spans_are_cut():
    whole = (FrameSpan("haystack", 0, 9),)
    parts = (FrameSpan("haystack", 0, 4), FrameSpan("haystack", 4, 9))
    assert video_name(whole) == video_name(parts)
    assert video_name(whole) != video_name(haystack_frames(8))
    assert video_name(()) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (([], [4]), ([], [4])),
        (([], ["a"]), ([], ["a"])),
        ((None, 4), (None, 4)),
        ((4, "10%"), ("4", '"10%"')),
        (([4], ["a"]), ("[4]", '["a"]')),
    ],
)
def test_values_of_one_type_stay_and_of_several_become_text(values, expected):
    """Arrow has one type for a column, and empty lists fit any list."""
    shown = haystack_frames(4)
    samples = [
        Sample(f"4/0/{number}", GRID.cells[0], shown, "?", ("x",), fields={"it": value})
        for number, value in enumerate(values)
    ]
    rows = metadata_rows(samples, [("x",)] * len(samples), "t")
    assert tuple(row["fields"]["it"] for row in rows) == expected


def test_seconds_of_what_is_inserted():
    """A needle of several seconds, one drawn into frames, and two of which one is asked about."""
    cell = GRID.cells[0]
    clip = FrameSpan("needles/a", 0, 1)
    drawn = FrameSpan("blended/b", 2, 3), FrameSpan("blended/b/1", 2, 3)  # a clip
    shown = (FrameSpan("haystack", 0, 2), *drawn, clip, clip, FrameSpan("haystack", 2, 4))
    asked = {None: None, "a": 4, "b": 2, "c": None}
    samples = [
        Sample(f"4/0/{name}", cell, shown, "?", ("x",), fields={"needle_id": name} if name else {})
        for name in asked
    ]
    rows = list(metadata_rows(samples, [("x",)] * len(samples), "t"))
    assert [row["needle_second"] for row in rows] == list(asked.values())
    assert rows[0]["inserted"] == [
        {"needle_id": "b", "style": "blended", "second": 2, "seconds": 2},
        {"needle_id": "a", "style": "frame", "second": 4, "seconds": 2},
    ]
    alone = Sample("4/0/d", cell, insert_needle(4, 3, "a"), "?", ("x",))
    (row,) = metadata_rows([alone], [("x",)], "t")
    assert row["needle_second"] == 3, "there is only one"


def test_needles_of_several_seconds_and_distractors(film, needle_folder, tmp_path):
    """What is drawn into frames, and pictures that are only distractors, are in the videos too."""
    folder = shutil.copytree(needle_folder, tmp_path / "set")
    Image.fromarray(draw_number(FIRST_NEEDLE + 9)).save(folder / "d.png")
    rows = list(map(json.loads, (folder / "metadata.jsonl").read_text().splitlines()))
    row = rows[0] | {"distractors": ["d"], "locator": "the first"}
    other = {"file_name": "d.png", "needle_id": "d", "role": "distractor", "locator": "the other"}
    (folder / "metadata.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(other)}\n")
    sources = (open_haystack(film), load_needles(folder), Grid.of([8], ["0.5"]))
    frames = {}
    for name, changes in (
        ("among", {"task": "vniah-d", "task_options": {"distractors": 1, "distance": 2}}),
        ("drawn", {"task_options": {"needle_style": "blended", "needle_frames": 2}}),
    ):
        export_samples(*sources, output=tmp_path / name, controls="none", **changes)
        (row,) = read_rows(tmp_path / name)
        video = open_haystack(tmp_path / name / row["file_name"])
        frames[name] = row, [frame.image for frame in video.frames()]
    row, images = frames["among"]
    assert sorted(one["needle_id"] for one in row["inserted"]) == ["a", "d"]
    for one in row["inserted"]:
        number = FIRST_NEEDLE + (9 if one["needle_id"] == "d" else 0)
        assert read_number(images[one["second"]]) == number
    row, images = frames["drawn"]
    drawn = {"needle_id": "a", "style": "blended", "second": 4, "seconds": 2}
    assert (row["inserted"], row["needle_second"]) == ([drawn], 4)
    assert [read_number(images[second]) for second in (0, 1, 2, 3, 6)] == [0, 1, 2, 3, 4]
    assert (images[4] == images[5]).all(), "one frame with the needle in it, for two seconds"
    assert not (images[4] == images[3]).all()


def test_an_export_that_was_stopped_goes_on(material, exported, tmp_path, monkeypatch):
    folder = tmp_path / "export"
    written = []
    write_video = PictureStore.write_video

    def write_three(self, path, pictures):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        write_video(self, path, pictures)

    monkeypatch.setattr(PictureStore, "write_video", write_three)
    with pytest.raises(KeyboardInterrupt):
        export_samples(*material, GRID, output=folder)
    assert not (folder / "metadata.jsonl").exists(), "it comes last"
    with pytest.raises(ResultsError, match="the export was stopped; the same command goes on"):
        import_answers({"4/0/a": "7"}, export=folder, model_name="m", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(PictureStore, "write_video", write_video)
    found = export_samples(*material, GRID, output=folder)
    assert found.num_written == found.num_videos - 3
    assert contents(folder) == contents(exported), "as if it had not been stopped"
    assert export_samples(*material, GRID, output=folder).num_written == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("export.json", ".lock")
    }


def test_another_grid_has_the_same_samples_in_its_cells(material, exported, tmp_path):
    folder = tmp_path / "smaller"
    export_samples(*material, Grid.of([9], ["0.3"]), output=folder, controls="none")
    whole = {row["sample_id"]: row for row in read_rows(exported)}
    for row in read_rows(folder):
        assert row["fields"].items() <= whole[row["sample_id"]]["fields"].items()
        assert {**whole[row["sample_id"]], "fields": None} == {**row, "fields": None}
    videos = {name: data for name, data in contents(folder).items() if name.endswith(".mp4")}
    assert len(videos) == 3
    assert videos.items() <= contents(exported).items(), "to the bit"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": 30}, "an export with video.quantizer = 20, this one has 30"),
        ({"frame_size": (32, 24)}, "an export with video.height = 48, this one has 24"),
        ({"controls": "none"}, "an export with controls = .*no-needle.*, this one has"),
    ],
)
def test_a_folder_with_another_export_is_refused(material, exported, changes, message):
    before = contents(exported)
    with pytest.raises(RunMismatchError, match=message):
        export_samples(*material, GRID, output=exported, **changes)
    assert contents(exported) == before


def test_overwrite_discards_an_export_and_nothing_else(material, tmp_path):
    folder = tmp_path / "e"
    export_samples(*material, GRID, output=folder)
    small = Grid.of([4], [0])
    (folder / "notes.txt").write_text("mine")
    found = export_samples(*material, small, output=folder, overwrite=True)
    assert found.num_videos == len(list(folder.glob("videos/*"))) == 4
    assert (folder / "notes.txt").read_text() == "mine"
    for overwrite in (False, True):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "metadata.jsonl").write_text("{}")
        with pytest.raises(ResultsError, match=r"holds 'metadata.jsonl' and no export.json"):
            export_samples(*material, small, output=tmp_path / "other", overwrite=overwrite)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    material, tmp_path, monkeypatch
):
    usage = namedtuple("usage", "free")(20_000)
    monkeypatch.setattr(export_module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        ResultsError, match=r"20 videos, 0\.\d MB in all, do not fit .* 0\.0 MB left"
    ):
        export_samples(*material, GRID, output=tmp_path / "e", quantizer=1)
    assert not list((tmp_path / "e").rglob("*.mp4"))


@pytest.mark.parametrize(("limit", "num_pictures"), [(80_000, 10), (10_000, 1)])
def test_a_disk_that_is_full_meanwhile(tmp_path, limit, num_pictures):
    """Of the video, or of the encoded pictures before it."""
    rng = np.random.default_rng(0)
    path = tmp_path / "v.mp4"
    with (
        PictureStore.open(VideoFormat.fitting((64, 48), 20), tmp_path) as store,
        files_up_to(limit),
        pytest.raises(ResultsError, match=r"cannot be written to: .*choose another --output"),
    ):
        pictures = []
        for _ in range(10):
            pictures.append(store.add(rng.integers(0, 256, (48, 64, 3), np.uint8)))
        store.write_video(path, pictures * 3)
    assert len(pictures) == num_pictures
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"sample_id": "4/0/a"}'], "line 1: it has no prediction and no error"),
        (
            ['{"sample_id": "4/0/a", "prediction": null}'],
            "line 1: it has no prediction and no error",
        ),
        (['{"sample_id": "4/0/a", "prediction": 7}'], "line 1: prediction must be text or null"),
        (['{"prediction": "7"}'], "line 1: the field 'sample_id' is missing"),
        (["", "seven"], "line 2 cannot be read as JSON"),
        (["[]"], "line 1: the content must be an object"),
        ([], "holds no answer; it needs a line with sample_id and prediction"),
        (
            ['{"sample_id": "4/0/a", "prediction": "7", "response": "8"}'],
            "line 1: it has two texts, prediction '7' and response '8'",
        ),
        (
            ['{"sample_id": "4/0/a", "prediction": "7", "error": "late"}'],
            "line 1: it has both a text and an error",
        ),
        (
            ['{"sample_id": "4/0/a", "prediction": "7"}'] * 2,
            "line 2: it answers the sample '4/0/a', and so does line 1",
        ),
        (
            ['{"sample_id": "5/0/a", "prediction": "7"}', '{"sample_id": "4/0/a", "response": ""}'],
            "1 answer of 2 to samples that the export .* does not have, the first is '5/0/a'",
        ),
    ],
)
def test_invalid_answers_are_refused_in_one_line(exported, tmp_path, lines, message):
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))
    arguments = {"export": exported, "model_name": "m", "output": tmp_path / "run"}
    with pytest.raises(ResultsError, match=message) as raised:
        import_answers(tmp_path / "answers.jsonl", **arguments)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_answers_may_come_in_parts(exported, texts, tmp_path):
    run = tmp_path / "run"
    arguments = {"export": exported, "model_name": "m", "output": run}
    first = dict(list(texts.items())[:5])
    failed = next(reversed(texts))
    lines = [{"sample_id": i, "response": text, "seconds": 2.5} for i, text in first.items()]
    lines.append({"sample_id": failed, "error": "refused by a filter"})
    (tmp_path / "part.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    part = import_answers(tmp_path / "part.jsonl", **arguments)
    assert (part.num_done, part.num_planned, part.is_complete) == (6, 24, False)
    everything = (*part.samples, *part.control_samples)
    assert [sample.error for sample in everything if sample.error] == ["refused by a filter"]
    assert {sample.seconds for sample in everything if not sample.error} == {2.5}
    before = (run / "samples.jsonl").read_bytes()
    import_answers(tmp_path / "part.jsonl", **arguments)
    assert (run / "samples.jsonl").read_bytes().count(b"refused") == 1
    with pytest.raises(ResultsError, match=r"has .* for it; choose another --output, or start"):
        import_answers({**texts, next(iter(first)): "something else"}, **arguments)
    assert (run / "samples.jsonl").read_bytes() == before, "nothing of it was taken"
    with pytest.raises(RunMismatchError, match=r"model.name = 'm', this one has 'other'"):
        import_answers(texts, **{**arguments, "model_name": "other"})
    whole = import_answers(texts, **arguments)
    assert whole.is_complete
    assert not any(sample.error for sample in (*whole.samples, *whole.control_samples))
    assert count_lines(run / "samples.jsonl") == 24, "the error is gone"
    assert whole.cells == load_results(run).cells


def test_answers_in_a_table(exported, texts, tmp_path):
    path = tmp_path / "answers.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sample_id", "prediction", "error", "seconds", "prompt_tokens"])
        for number, (sample_id, text) in enumerate(texts.items()):
            table.writerow([sample_id, "" if number == 0 else text, "", "", number])
    arguments = {"export": exported, "model_name": "m", "output": tmp_path / "run"}
    found = import_answers(path, **arguments)
    by_id = {s.sample_id: s for s in (*found.samples, *found.control_samples)}
    for number, (sample_id, text) in enumerate(texts.items()):
        sample = by_id[sample_id]
        assert sample.prediction == ("" if number == 0 else text), "an empty answer is one, too"
        assert sample.prompt_tokens == number
    path.write_text("sample_id,prediction,seconds\n4/0/a,7,soon\n")
    with pytest.raises(ResultsError, match="line 2: seconds must be a number or null, got 'soon'"):
        import_answers(path, **arguments)
    path.write_text("sample_id,prediction\n4/0/a\n")
    with pytest.raises(ResultsError, match="line 2: it has another number of cells than the first"):
        import_answers(path, **arguments)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_every_separator(tmp_path, separator, end):
    path = tmp_path / "answers.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file, delimiter=separator, lineterminator=end)
        table.writerow(["sample_id ", "prediction", "seconds"])
        table.writerow(["4/0/a", f'a{separator} b, "c"', "2.5" if separator == "," else "2,5"])
    assert read_answers(path) == {"4/0/a": Answer(f'a{separator} b, "c"', seconds=2.5)}


@pytest.mark.parametrize(
    ("first_line", "message"),
    [
        ("id;prediction", "has no column 'sample_id': its first line names 'id', 'prediction';"),
        ("4/0/a,7", "its first line names '4/0/a', '7'; the columns must be sample_id"),
        ("sample_id;prediction;prediction", "has two columns 'prediction'; remove one"),
        ("", "has no column 'sample_id'"),
    ],
)
def test_tables_without_their_columns(tmp_path, first_line, message):
    path = tmp_path / "answers.csv"
    path.write_text(f"{first_line}\n1;2\n")
    with pytest.raises(ResultsError, match=message):
        read_answers(path)


def test_a_run_and_an_export_have_folders_of_their_own(material, exported, texts, tmp_path):
    before = sorted(exported.rglob("*"))
    for output in (exported, exported / "videos", exported / "videos" / "new", exported / "run"):
        with pytest.raises(ResultsError, match=r"export.*choose another --output"):
            import_answers(texts, export=exported, model_name="m", output=output)
        with pytest.raises(ResultsError, match=r"choose another --output"):
            RunFolder(output, load_results(REFERENCE_RUN).manifest)
    with pytest.raises(ResultsError, match="holds the export"):
        import_answers(texts, export=exported, model_name="m", output=exported.parent)
    for output in (exported / "videos" / "new", exported / "inner"):
        with pytest.raises(ResultsError, match="which is the folder of an export"):
            export_samples(*material, GRID, output=output)
    assert sorted(exported.rglob("*")) == before, "nothing was written"
    beside = exported / ".." / "run"
    import_answers(texts, export=exported, model_name="m", output=beside)
    with pytest.raises(ResultsError, match="which is the folder of a run"):
        export_samples(*material, GRID, output=beside / "inner")


def test_an_export_below_a_file(material, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match=r"file is a file; the output of an export must be"):
        export_samples(*material, GRID, output=tmp_path / "file" / "e1")


@pytest.mark.parametrize(
    ("right", "choices", "texts", "message"),
    [
        (["Blue", "Red"], None, ["zzz"], "all 20 replies are 'zzz', which is right nowhere"),
        (["Blue", "Red"], None, ["Green", "zzz"], None),
        (["Blue", "Red"], None, ["Red"], None),
        (["Blue"], None, ["zzz"], None),
        (["7", "8"], None, ["zzz", "no"], "only 0 of 20 replies could be read as an answer"),
        (["7", "8", "Blue"], None, ["zzz", "no"], "only 0 of 14 replies to questions for options"),
        (["A", "B"], ["Cat", "Dog"], ["zzz"], "only 0 of 20 replies could be read as an answer"),
    ],
)
def test_replies_that_are_no_answers(right, choices, texts, message):
    samples, results, run = [], [], load_results(REFERENCE_RUN)
    for k in range(20):
        answer = right[k % len(right)]
        sample = Sample(
            f"4/0/{k}", Cell(4, Fraction(0)), (FrameSpan("haystack", 0, 4),), f"q{k}",
            (answer,), choices=choices and tuple(choices),
        )  # fmt: skip
        samples.append(sample)
        text = texts[k % len(texts)]
        result = replace(
            run.samples[0], sample_id=sample.sample_id, prediction=text,
            answer=answer, correct=text == answer,
        )  # fmt: skip
        results.append(result)
    found = warn_of_unreadable(samples, replace(run, samples=results))
    assert found is None if message is None else message in found


def test_an_export_that_was_changed_is_not_imported(material, tmp_path):
    folder = tmp_path / "e"
    small = Grid.of([4], [0])
    export_samples(*material, small, output=folder, controls="none")
    arguments = {"export": folder, "model_name": "m", "output": tmp_path / "run"}
    plan = (folder / "plan.jsonl").read_text()
    (folder / "plan.jsonl").write_text(plan.replace("seven", "eight"))
    with pytest.raises(ResultsError, match="was changed since it was exported"):
        import_answers({"4/0/a": "eight"}, **arguments)
    with pytest.raises(ResultsError, match=r"has no export.json: it is not the folder of an"):
        import_answers({"4/0/a": "7"}, **{**arguments, "export": tmp_path})
    (folder / "plan.jsonl").write_text(plan)
    with pytest.raises(InputError, match="the name of the model must be 1 to 1,000 characters"):
        import_answers({"4/0/a": "7"}, **{**arguments, "model_name": " "})
    assert not (tmp_path / "run").exists()


def test_the_commands(film, needle_folder, texts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = ("--frames", "4,9", "--depths", "0,0.3,1", "--controls", "no-needle")
    export = ["export", "--haystack", str(film), "--needles", str(needle_folder), *grid]
    assert main([*export, "--output", "e"]) == 0
    assert "export: 24 samples with 20 videos" in capsys.readouterr().out
    assert main([*export, "--output", "e"]) == 0
    assert "nothing to do: every video of this export is there already" in capsys.readouterr().out
    few = dict(list(texts.items())[:20])
    write_answers(tmp_path / "few.jsonl", few)
    command = ["import", "few.jsonl", "--export", "e", "--model-name", "m", "--output", "run"]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "not complete: 4 of 24 samples have no answer yet" in said
    assert main(["import", str(write_answers(tmp_path / "all.jsonl", texts)), *command[2:]]) == 0
    said = capsys.readouterr().out
    assert "average: 0.5" in said
    assert Path("run/heatmap.png").is_file()
    assert main(["compare", "run", "run"]) == 0
    assert main(["import", "none.jsonl", *command[2:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vniah: error: none.jsonl cannot be read: No such file")
    assert error.count("\n") == 1
