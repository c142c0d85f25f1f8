"""What a notebook shows of the things that are passed around: one short line each."""

from dataclasses import replace

import pytest
from families import build
from PIL import Image
from runs import make_run

import vniah
from vniah.analysis.compare import compare, compare_early
from vniah.haystacks.haystack import Haystack
from vniah.models.server.client import open_server
from vniah.needles import Needle


def test_repr_of_comparisons_is_one_short_line():
    grid = {"frames": "1:100:1", "depths": "0:1:0.1", "num_needles": 1}
    before = make_run(**grid)
    after = make_run(**grid, outcome=lambda c, k: c.depth > 0)
    runs = "<Comparison 'tiny -> tiny': regression, 1,100 cells, 100 fell, 0 rose>"
    assert repr(compare(before, after, max_drop=0.1)) == runs
    early = compare_early(before, after, max_drop=0.1)
    assert repr(early) == (
        "<EarlyComparison 'tiny -> tiny': regression after 1,100 of 1,100 samples>"
    )
    hostile = replace(early, baseline="a\nb\u202e" * 100, num_planned=1, num_done=0)
    assert len(repr(hostile)) < 200 and repr(hostile).isprintable()


def test_repr_of_needles():
    cards = vniah.load_needles("cards")
    assert (
        repr(cards) == "<NeedleSet cards, 10 needles: card-red-7, card-blue-3, card-yellow-9, ...>"
    )
    assert repr(cards.select(["card-red-7"])) == "<NeedleSet cards, 1 needle: card-red-7>"
    assert repr(next(iter(cards))) == (
        "<Needle card-red-7, 96x96 pixels: 'Read the digit on the card colored red' '7'>"
    )


def test_repr_of_a_needle_cuts_long_texts():
    image = Image.new("RGB", (640, 480))
    needle = Needle("a", "Why? " * 50, "because " * 50 + "so", None, image)
    assert repr(needle).startswith("<Needle a, 640x480 pixels: 'Why? Why?")
    assert len(repr(needle)) < 160


def test_repr_of_a_haystack(tmp_path):
    for k in range(1200):
        (tmp_path / f"{k:04d}.png").touch()
    images = vniah.open_haystack(tmp_path)
    assert repr(images) == f"<Haystack {tmp_path.name}: 1,200 images>"
    film = Haystack("film.mp4", (tmp_path / "film.mp4",), "video", "0" * 64)
    assert repr(film) == "<Haystack film.mp4: 1 video file, sampling clock, pyav>"
    films = replace(film, name="film.mp4+1", paths=film.paths * 2, keep_damaged=True)
    assert repr(films) == (
        "<Haystack film.mp4+1: 2 video files, sampling clock, pyav, damage kept>"
    )


@pytest.mark.parametrize(
    ("grid", "shown"),
    [
        (vniah.Grid.parse("32,256", "0,1"), "<Grid frames 32, 256 (2) x depths 0, 1 (2)>"),
        (
            vniah.Grid.parse("200:3000:200", "0:1:0.2"),
            "<Grid frames 200, 400, ..., 3000 (15) x depths 0, 0.2, ..., 1 (6)>",
        ),
        (
            vniah.Grid.parse("100", positions="0:100:1"),
            "<Grid frames 100 (1) x positions 0, 1, ..., 100 (101)>",
        ),
    ],
)
def test_repr_of_a_grid(grid, shown):
    assert repr(grid) == shown


def test_repr_of_models(tmp_path):
    model = vniah.load_model("reference-long")
    assert repr(model) == "<LlavaModel reference-long, float32 on cpu, 4 tokens a frame>"
    qwen = vniah.load_model(str(build("qwen2_vl").save(tmp_path / "qwen")), frame_size=(56, 28))
    assert repr(qwen) == "<Qwen2VL qwen, float32 on cpu, 2 tokens a frame>"
    server = open_server("openai:http://127.0.0.1:9/v1#Qwen/Qwen3-VL-8B-Instruct")
    assert repr(server) == "<ServerModel Qwen/Qwen3-VL-8B-Instruct at http://127.0.0.1:9/v1>"
