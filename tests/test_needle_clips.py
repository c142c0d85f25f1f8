"""Clips: needles of several frames, from a list of pictures or a video, and how they are shown."""

import json
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from caches import MeanModel
from PIL import Image
from videos import at_rate, read_number, write_video

import vniah.needles.records
from vniah.embeddings.encode import EncodedFrames
from vniah.engines.base import Pictures
from vniah.errors import NeedleError, TaskError
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.needles import Needle, NeedleSet, load_needles
from vniah.protocol import FrameSegment, FrameSpan
from vniah.tasks.controls import plan_samples
from vniah.tasks.placement import NeedleLook, needle_spans
from vniah.tasks.vniah import VisualNeedle

ASKED = {"question": "q", "answer": "x"}


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def write_set(folder: Path, *records: dict[str, object], num_pictures: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(num_pictures):
        picture(seed).save(folder / f"{seed}.png")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def clip_record(name: str, *files: str) -> dict[str, object]:
    return {"needle_id": name, "file_name": list(files), **ASKED}


def clip(name: str, num_frames: int) -> Needle:
    frames = tuple(picture(seed) for seed in range(num_frames))
    return Needle(name, "q", "x", None, frames[0], later_frames=frames[1:])


def are_equal(frames: tuple[Image.Image, ...], seeds: list[int]) -> bool:
    return len(frames) == len(seeds) and all(
        np.array_equal(frame, picture(seed)) for frame, seed in zip(frames, seeds, strict=True)
    )


def test_a_list_of_pictures_is_a_clip(tmp_path):
    records = (clip_record("moving", "2.png", "0.png", "2.png"), clip_record("still", "1.png"))
    moving, still = load_needles(write_set(tmp_path, *records))
    assert moving.num_frames == 3 and are_equal(moving.frames, [2, 0, 2])
    assert moving.image is moving.frames[0]
    assert still.num_frames == 1 and are_equal(still.frames, [1])
    assert repr(moving) == "<Needle moving, 8x8 pixels, 3 frames: 'q' 'x'>"


def test_a_clip_of_one_picture_is_that_picture():
    assert clip("a", 1).image_sha256 == Needle("a", "q", "x", None, picture(0)).image_sha256


def test_the_sha256_covers_every_frame_of_a_clip_in_order():
    frames = [picture(0), picture(1), picture(2)]
    clips = [
        (0,),
        (0, 1),
        (0, 1, 2),
        (0, 2, 1),
        (1, 0, 2),
    ]
    made = [
        Needle("a", "q", "x", None, frames[first], later_frames=tuple(frames[k] for k in later))
        for first, *later in clips
    ]
    assert len({NeedleSet("n", "s", (needle,)).sha256 for needle in made}) == len(clips)
    assert made[2] != made[3] and made[1] == clip("a", 2)


def test_a_video_is_read_as_a_haystack_is(tmp_path):
    """At 12.5 pictures a second, which are not those of whole seconds."""
    times = at_rate(Fraction(25, 2), 45)
    write_video(tmp_path / "wave.mp4", times)
    record = {"needle_id": "wave", "file_name": "wave.mp4", **ASKED}
    (needle,) = load_needles(write_set(tmp_path, record))
    expected = [f.image for f in open_haystack(tmp_path / "wave.mp4").frames()]
    assert needle.num_frames == len(expected) == 4
    assert [read_number(np.asarray(frame)) for frame in needle.frames] == [0, 12, 25, 37]
    for frame, image in zip(needle.frames, expected, strict=True):
        assert np.array_equal(frame, image)


def test_clips_are_read_from_every_format(tmp_path, monkeypatch):
    files, seeds = ["3.png", "1.png"], [3, 1]
    write_set(tmp_path / "csv").joinpath("metadata.jsonl").unlink()
    (tmp_path / "csv" / "metadata.csv").write_text(
        'file_name,needle_id,question,answer\n"[""3.png"", ""1.png""]",a,q,x\n'
    )
    write_set(tmp_path / "table").joinpath("metadata.jsonl").unlink()
    table = pa.Table.from_pylist([clip_record("a", *files)])
    pq.write_table(table, tmp_path / "table" / "metadata.parquet")
    write_set(tmp_path / "published" / "images").joinpath("metadata.jsonl").unlink()
    (tmp_path / "published" / "dataset.json").write_text(
        json.dumps([{"path": files, "prompt": "q", "answer": "x"}])
    )
    for name in ("csv", "table", "published"):
        assert are_equal(load_needles(tmp_path / name).needles[0].frames, seeds), name
    images = [[picture(seed) for seed in seeds], [picture(0)]]
    hub = datasets.Dataset.from_dict({"image": images, "question": ["q"] * 2, "answer": ["x"] * 2})
    hub = hub.cast_column("image", datasets.Sequence(datasets.Image()))
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, *, split: hub)
    found = load_needles("owner/name")
    assert are_equal(found.needles[0].frames, seeds) and are_equal(found.needles[1].frames, [0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "line 1: 'file_name' is an empty list"),
        (["0.png", "no.png"], r"line 1: 'file_name': there is no picture 'no\.png'"),
        (["0.png", "bad.mp4"], r"line 1: .* 'bad\.mp4' in the list is a video; name it alone"),
        (["0.png", 3], r"line 1: file_name.* must be text, got 3"),
        ("bad.mp4", r"line 1: the video 'bad\.mp4' cannot be read: "),
        ("moving.gif", r"line 1: the picture 'moving\.gif' is animated.* A clip is a video, or a"),
    ],
)
def test_a_wrong_clip_is_one_line(tmp_path, files, message):
    write_set(tmp_path, {"needle_id": "a", "file_name": files, **ASKED})
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    picture(1).save(tmp_path / "moving.gif", save_all=True, append_images=[picture(2)])
    with pytest.raises(NeedleError, match=message) as caught:
        load_needles(tmp_path)
    assert "\n" not in str(caught.value)


def test_clips_are_bounded_before_they_fill_the_memory(tmp_path, monkeypatch):
    folder = write_set(tmp_path, clip_record("a", "0.png", "1.png", "2.png"))
    monkeypatch.setattr(vniah.needles.records, "MOST_FRAMES", 2)
    with pytest.raises(
        NeedleError, match=r"line 1: the clip has more than 2 frames .* cut the clip"
    ):
        load_needles(folder)
    monkeypatch.setattr(vniah.needles.records, "MOST_FRAMES", 3)
    monkeypatch.setattr(vniah.needles.records, "MOST_CLIP_PIXELS", 100)
    with pytest.raises(NeedleError, match="line 1: the clip has more than 100 pixels in all"):
        load_needles(folder)


def shown_numbers(needle: Needle, frames: int | None) -> list[int]:
    spans = needle_spans(needle, 5, NeedleLook(frames))
    assert {span.source for span in spans} == {"needles/a"}
    return [index for span in spans for index in range(span.start, span.stop)]


@pytest.mark.parametrize(
    ("length", "frames", "expected"),
    [
        (1, None, [0]),
        (1, 3, [0, 0, 0]),
        (3, None, [0, 1, 2]),
        (3, 2, [0, 1]),
        (3, 1, [0]),
        (3, 7, [0, 1, 2, 0, 1, 2, 0]),
        (3, 6, [0, 1, 2, 0, 1, 2]),
    ],
)
def test_a_needle_is_shown_for_so_many_frames(length, frames, expected):
    assert shown_numbers(clip("a", length), frames) == expected
    blended = needle_spans(clip("a", length), 5, NeedleLook(frames, "blended"))
    sources = ["blended/a" + f"/{number}" * (number > 0) for number in expected]
    assert blended == tuple(FrameSpan(source, 4, 5) for source in sources)


def test_a_needle_before_the_first_frame_is_drawn_into_a_copy_of_it():
    look = NeedleLook(style="blended")
    assert needle_spans(clip("a", 1), 0, look) == (FrameSpan("blended/a", 0, 1),)
    assert needle_spans(clip("a", 1), 1, look) == (FrameSpan("blended/a", 0, 1),)


@pytest.fixture
def needles() -> NeedleSet:
    """A picture between two clips."""
    middle = Needle("b", "q", "x", None, picture(9))
    return NeedleSet("mixed", "mixed", (clip("a", 3), middle, clip("c", 2)))


def test_all_frames_of_all_needles_are_encoded_and_found(image_folder, needles):
    model, haystack = MeanModel(), open_haystack(image_folder)
    store = EncodedFrames.of(model, haystack, needles, 4).store
    assert sum(model.batches) == 2 * 16
    pictures = Pictures.of(haystack, needles, 4, lambda image: image, notes=[])
    for needle in needles:
        source = f"needles/{needle.needle_id}"
        for index, frame in enumerate(needle.frames):
            mean = torch.tensor(np.array(frame).mean((0, 1))).float()
            assert torch.equal(store.read([FrameSegment(source, index)])[0, 0], mean)
            (shown,) = pictures.show([FrameSpan(source, index, index + 1)])
            assert np.array_equal(shown, frame)


def test_samples_show_whole_clips_and_no_frame_that_there_is_not(needles):
    samples = plan_samples(VisualNeedle(), Grid.parse("8", "0.5"), needles, None, "none")
    assert [sum(span.num_frames for span in sample.shown) for sample in samples] == [11, 9, 10]

    class Beyond(VisualNeedle):
        def samples(self, *args):
            for sample in super().samples(*args):
                before, _, after = sample.shown
                yield type(sample)(
                    sample.sample_id,
                    sample.cell,
                    (before, FrameSpan("needles/a", 2, 4), after),
                    "q",
                    ("x",),
                )

    with pytest.raises(TaskError, match=r"frames 2 to 3 of 'needles/a', which has 3"):
        plan_samples(Beyond(), Grid.parse("8", "0.5"), needles, None, "none")


PAGE = Path(__file__).resolve().parent.parent / "docs" / "needles.md"


def blocks(kind: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return [part.split("```")[0] for part in text.split(f"```{kind}\n")[1:]]


def test_the_sets_on_the_page_can_be_loaded(tmp_path):
    """The pictures that they name are made here."""
    for number, text in enumerate([*blocks("json"), *blocks("jsonl")]):
        folder = write_set(tmp_path / str(number))
        for line, record in enumerate(map(json.loads, text.splitlines())):
            names = record["file_name"]
            for seed, name in enumerate([names] if isinstance(names, str) else names):
                if name.endswith(".mp4"):
                    write_video(folder / name, at_rate(5, 10))
                else:
                    picture(10 * line + seed).save(folder / name)
        (folder / "metadata.jsonl").write_text(text)
        assert len(load_needles(folder).pictures) == len(text.splitlines())


def test_the_program_on_the_page_runs(film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = blocks("python")
    exec(program, {})
    with Image.open(tmp_path / "blended.png") as drawn:
        assert drawn.size == (96, 96)
