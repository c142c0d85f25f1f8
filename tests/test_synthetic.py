import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from vniah.errors import InputError
from vniah.haystacks.synthetic import (
    GENERATOR_VERSION,
    SHAPES,
    draw_frame,
    draw_frames,
    shape_mask,
    write_video,
)
from vniah.haystacks.textures import NAMED_COLORS

# Change these only together with GENERATOR_VERSION: they are what "same seed, same film" means.
PINNED = {
    (0, 0, (96, 96)): "96c7ff61c4a2797de3b2bf1b58eadc498abeb949a0e43a3fd0a50fa6d5c3537a",
    (1, 3600, (96, 96)): "dab6564649358d981aeed4930d61f67f3bacb67a246ee89fa58458cfc5462287",
    (7, 11, (160, 90)): "94e7a5cf86b94059fb9955ea273406c4c5615d32d2296caf02205387a22a4db7",
}


def sha256(frames: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest()


def draw(**options: object) -> list[np.ndarray]:
    return list(draw_frames(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("where", "expected"), PINNED.items())
def test_drawn_pixels_are_pinned(where: tuple[int, int, tuple[int, int]], expected: str) -> None:
    seed, start, size = where
    frames = draw(seed=seed, seconds=24, fps=2, size=size, start_seconds=start)
    assert GENERATOR_VERSION == 1
    assert sha256(frames) == expected


def test_a_second_looks_the_same_wherever_drawing_starts() -> None:
    whole = draw(seed=3, seconds=40, fps=4)
    part = draw(seed=3, seconds=9, fps=4, start_seconds=21)
    np.testing.assert_array_equal(part, whole[21 * 4 : 30 * 4])


@pytest.mark.parametrize("fps", [1, 3, 8, 24])
def test_full_seconds_look_the_same_at_every_rate(fps: int) -> None:
    frames = draw(seed=5, seconds=6, fps=fps)
    assert len(frames) == 6 * fps
    for second, frame in enumerate(frames[::fps]):
        alone = draw_frame(seed=5, milliseconds=1000 * second)
        np.testing.assert_array_equal(frame, alone)


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (128, 72), (66, 130)])
def test_frames_have_the_size_that_was_asked_for(size: tuple[int, int]) -> None:
    frames = draw(seed=1, seconds=40, fps=1, size=size)
    assert {frame.shape for frame in frames} == {(size[1], size[0], 3)}
    assert {frame.dtype for frame in frames} == {np.dtype(np.uint8)}


def test_seeds_make_different_films() -> None:
    assert sha256(draw(seed=0, seconds=2)) != sha256(draw(seed=1, seconds=2))


def test_the_film_cuts_every_few_seconds_and_moves_between_cuts() -> None:
    frames = np.stack(draw(seed=2, seconds=80, fps=8)).astype(np.int16)
    change = abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert 80 / 6 <= (change > 40).sum() <= 80 / 2
    assert (change > 0).mean() > 0.95


def test_card_colors_are_common_in_the_film() -> None:
    frames = draw(seed=4, seconds=600, fps=1, size=(32, 32))
    pixels = np.stack(frames).reshape(-1, 3).astype(np.int16)
    for color in NAMED_COLORS.values():
        close = (abs(pixels - np.array(color)).max(1) <= 20).mean()
        assert close > 0.002, color


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fill_their_box(shape: str) -> None:
    mask = shape_mask(shape, 20)
    assert mask.shape == (41, 41)
    assert mask[20, 20]
    assert 0.2 < mask.mean() < 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, "seconds must be at least 1, got 0"),
        ({"seconds": 1, "fps": 0}, "fps must be at least 1, got 0"),
        ({"seconds": 1, "size": (30, 96)}, "size must be at least 32x32, got 30x96"),
        ({"seconds": 1, "size": (97, 96)}, "size must be even in both directions, got 97x96"),
        ({"seconds": 1, "start_seconds": -1}, "start_seconds must not be negative, got -1"),
    ],
)
def test_bad_numbers_are_refused_by_the_call(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_frames(seed=0, **options)  # type: ignore[arg-type]


def test_a_bad_number_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seconds"):
        write_video(tmp_path / "film.mp4", seed=0, seconds=-3)
    assert list(tmp_path.iterdir()) == []


def test_written_video_decodes_to_the_drawn_frames(tmp_path: Path) -> None:
    path, told = tmp_path / "new" / "film.mp4", []
    write_video(path, seed=6, seconds=10, fps=6, on_progress=lambda *both: told.append(both))
    assert told == [(second, 10) for second in range(1, 11)]
    assert [file.name for file in path.parent.iterdir()] == ["film.mp4"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.format.name) == ("h264", "yuv420p")
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    drawn = draw(seed=6, seconds=10, fps=6)
    assert len(decoded) == 60
    difference = abs(np.stack(decoded).astype(int) - np.stack(drawn).astype(int)).mean((1, 2, 3))
    assert difference.max() < 30
    assert difference.mean() < 15


def test_written_video_has_frames_that_refer_to_later_ones(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", seed=0, seconds=4)
    with av.open(str(tmp_path / "film.mp4")) as container:
        kinds = {frame.pict_type for frame in container.decode(video=0)}
    assert kinds == {PictureType.I, PictureType.P, PictureType.B}


def test_the_same_video_is_written_twice(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, seed=8, seconds=3)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
