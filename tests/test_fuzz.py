"""Corrupted files of every kind end in one line: no traceback, no endless work, no wrong number.

Each test corrupts one value of JSON, or the bytes of a file, in many ways. The seeds are fixed, so
that a failure can be repeated: it is printed with the corrupted text.
"""

import io
import json
import random
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import PUBLISHED_DIR, make_grid, make_manifest, write_run
from videos import at_rate, write_video

from vniah import load_model
from vniah.cli import main
from vniah.errors import VniahError
from vniah.files import embedded_dir
from vniah.haystacks.haystack import open_haystack
from vniah.needles import load_needles

Steps = tuple[str | int, ...]

ODD_VALUES = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            0,
            -1,
            0.5,
            1e308,
            10**18,
            10**30,
            "",
            " ",
            "1e999999999",
            "1/0",
            "nan",
            "\ud800",
            "\x1b[31m",
            "\0",
            "~nouser/x",
            "a" * 200_000,
            [],
            {},
            [None],
            [[[]]],
            {"a": 1},
        ]
    ),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
)
FEW = settings(max_examples=60, derandomize=True, deadline=None, database=None)


def places(value: Any, here: Steps = ()) -> Iterator[Steps]:
    """The steps to every value inside a JSON value."""
    yield here
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*here, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*here, index))


@st.composite
def changed(draw: Callable[..., Any], text: str) -> str:
    """The text with one value of its JSON replaced, removed, renamed or given twice."""
    content = json.loads(text)
    steps = draw(st.sampled_from(list(places(content))))
    if not steps:
        return json.dumps(draw(ODD_VALUES))
    holder, last = content, steps[-1]
    for step in steps[:-1]:
        holder = holder[step]
    how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "twice"]))
    if how == "remove":
        del holder[last]
    elif how == "rename" and isinstance(holder, dict):
        holder[f"{last}x"] = holder.pop(last)
    elif how == "twice" and isinstance(last, str):
        key = json.dumps(last)
        return json.dumps(content).replace(f"{key}:", f"{key}: null, {key}:", 1)
    else:
        holder[last] = draw(ODD_VALUES)
    return json.dumps(content)


def corrupt(content: bytes, chance: random.Random) -> bytes:
    """The bytes with a bit flipped, a range zeroed, removed or repeated, or the end cut off."""
    at, length = chance.randrange(len(content)), chance.choice([1, 10, 1000])
    piece = content[at : at + length]
    middle = chance.choice(
        [
            bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 : at + length],
            bytes(len(piece)),
            b"",
            piece + piece,
            chance.randbytes(length),
        ]
    )
    end = b"" if chance.random() < 0.2 else content[at + length :]
    return content[:at] + middle + end


def outcome(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command of vniah."""
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(str(stop.code))
    return code, output.getvalue(), errors.getvalue()


def require_one_line(code: int, errors: str) -> None:
    """A command either works or says in one printable line why it does not."""
    assert code in (0, 1, 2)
    if code == 2:
        assert errors.startswith("vniah: error: ") and errors.endswith("\n")
        assert errors[:-1].isprintable() and len(errors) < 3000, errors[:3000]


GRID = make_grid("8,16", "0,0.3,1")
RUN_MANIFEST = json.dumps(
    {
        **make_manifest(GRID, num_needles=2),
        "model": {
            "name": "tiny",
            "revision": "1",
            "class": "plug.in:Model",
            "dtype": "float32",
            "tokens_per_frame": 4,
            "rope_theta": 10000.0,
            "rope_scaling": '{"factor":2.0,"rope_type":"linear"}',
            "max_position_embeddings": 4096,
        },
        "scorer": {
            "name": "generate",
            "decoding": "greedy",
            "max_new_tokens": 4,
            "stop_ids": [1, 2],
        },
        "notes": ["a note"],
        "environment": {"device": "cpu", "threads": 1, "packages": {"torch": "2.13.0"}},
    }
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of two needles, whose files the tests replace."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    write_run(folder, "8,16", "0,0.3,1", num_needles=2, outcome=lambda cell, k: k == 0)
    return folder


@pytest.fixture
def restored(run_folder: Path) -> Iterator[Path]:
    """The folder of the run, put back as it was when the test ends."""
    contents = {path: path.read_bytes() for path in run_folder.iterdir()}
    yield run_folder
    for path, content in contents.items():
        path.write_bytes(content)


def test_manifests(restored: Path, tmp_path: Path):
    good = write_run(tmp_path / "good", "8,16", "0,0.3,1", num_needles=2)

    @FEW
    @given(changed(RUN_MANIFEST))
    def try_one(text: str) -> None:
        (restored / "manifest.json").write_text(text)
        code, _, errors = outcome("compare", good, restored)
        require_one_line(code, errors)

    try_one()


def test_manifests_of_pictures(restored: Path, tmp_path: Path):
    @settings(FEW, max_examples=8)
    @given(changed(RUN_MANIFEST))
    def try_one(text: str) -> None:
        (restored / "manifest.json").write_text(text)
        code, _, errors = outcome("plot", restored, "--output", tmp_path / "heatmap.png")
        require_one_line(code, errors)

    try_one()


def test_lines_of_samples(restored: Path, tmp_path: Path):
    good = write_run(tmp_path / "good", "8,16", "0,0.3,1", num_needles=2)
    path = restored / "samples.jsonl"
    lines = path.read_text().splitlines()

    @FEW
    @given(st.integers(0, len(lines) - 1), st.data())
    def try_one(number: int, data: st.DataObject) -> None:
        new = data.draw(changed(lines[number]))
        path.write_text("\n".join([*lines[:number], new, *lines[number + 1 :]]) + "\n")
        code, _, errors = outcome("compare", good, restored)
        require_one_line(code, errors)

    try_one()


def test_published_tables(tmp_path: Path):
    good = next(PUBLISHED_DIR.rglob("*.json"))
    bad = tmp_path / "all_accuracies.json"

    @FEW
    @given(changed(json.dumps(json.loads(good.read_text())[:6])))
    def try_one(text: str) -> None:
        bad.write_text(text)
        code, _, errors = outcome("compare", good, bad)
        require_one_line(code, errors)

    try_one()


def test_needle_metadata(tmp_path: Path):
    picture = tmp_path / "card.png"
    picture.write_bytes((embedded_dir("needles", "cards") / "card-red-7.png").read_bytes())
    record = {
        "file_name": "card.png",
        "needle_id": "red-7",
        "question": "Which number is on the red card?",
        "answer": "7",
        "choices": ["6", "7"],
        "accepted": ["B"],
    }

    @FEW
    @given(changed(json.dumps(record)))
    def try_one(line: str) -> None:
        (tmp_path / "metadata.jsonl").write_text(line + "\n")
        with suppress(VniahError):
            assert len(load_needles(tmp_path)) == 1

    try_one()


def test_pictures(tmp_path: Path):
    """A damaged picture among others is an error, or it is read with the size that it had."""
    Image.effect_noise((40, 40), 50).convert("RGB").save(tmp_path / "a.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "b.png")
    whole = (tmp_path / "a.png").read_bytes()
    chance = random.Random(1)
    for _ in range(60):
        (tmp_path / "a.png").write_bytes(corrupt(whole, chance))
        with suppress(VniahError):
            assert len(list(open_haystack(tmp_path).frames())) == 2


def test_videos(tmp_path: Path):
    whole = write_video(tmp_path / "film.mp4", at_rate(2, 12)).read_bytes()
    chance = random.Random(1)
    for _ in range(60):
        (tmp_path / "film.mp4").write_bytes(corrupt(whole, chance))
        with suppress(VniahError):
            assert list(open_haystack(tmp_path / "film.mp4").frames())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in the LLaVA layout."""
    folder = tmp_path_factory.mktemp("fuzz") / "checkpoint"
    write_checkpoint(folder, num_shards=2)
    return folder


def test_json_of_checkpoints(checkpoint: Path):
    contents = {path: path.read_text() for path in sorted(checkpoint.rglob("*.json"))}

    @settings(FEW, max_examples=40)
    @given(st.sampled_from(list(contents)), st.data())
    def try_one(path: Path, data: st.DataObject) -> None:
        path.write_text(data.draw(changed(contents[path])))
        try:
            with suppress(VniahError):
                load_model(checkpoint)
        finally:
            path.write_text(contents[path])

    try_one()


def test_bytes_of_checkpoints(checkpoint: Path):
    contents = {path: path.read_bytes() for path in sorted(checkpoint.rglob("*.*"))}
    chance = random.Random(1)
    for _ in range(40):
        path = chance.choice(list(contents))
        path.write_bytes(corrupt(contents[path], chance))
        with suppress(VniahError):
            load_model(checkpoint)
        path.write_bytes(contents[path])
