"""Frames as parts of a message: one size, in order, and text that can still be read."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vniah.errors import InputError, ModelError
from vniah.models.server.messages import FrameFormat


def decode(text):
    picture = Image.open(io.BytesIO(base64.b64decode(text.removeprefix("data:image/jpeg;base64,"))))
    assert picture.format == "JPEG"
    return picture


@pytest.fixture
def page():
    """Small text in colours that differ little in brightness."""
    picture = Image.new("RGB", (448, 448), (120, 120, 120))
    draw = ImageDraw.Draw(picture)
    draw.fontmode = "1"  # every pixel is ink or ground
    for k in range(30):
        draw.text((5, 5 + 14 * k), f"line {k}: the word is {k * 37 % 91}", fill=(200, 60, 160))
    return np.array(picture)


def test_small_coloured_text_survives(page):
    """The colour of a letter's pixels stays far from that of the ground, everywhere."""
    seen = np.asarray(decode(FrameFormat().encode(page)), int)
    is_ink = page[..., 0] == 200
    contrast = seen[..., 0][is_ink] - 120
    assert is_ink.sum() > 5000
    assert np.mean(contrast > 50) > 0.98

    file = io.BytesIO()
    Image.fromarray(page).save(file, "JPEG", quality=75)
    usual = np.asarray(Image.open(file), int)[..., 0][is_ink] - 120
    assert np.mean(usual > 50) < 0.9, "as PIL writes it by itself the text is blurred"


@pytest.mark.parametrize("shape", [(30, 90), (90, 30), (8, 8), (448, 448), (1000, 1000)])
def test_every_picture_gets_the_same_size_with_bars_where_it_differs(shape):
    frame = np.full((*shape, 3), 200, np.uint8)
    seen = np.asarray(decode(FrameFormat(size=(64, 48)).encode(frame)))
    assert seen.shape == (48, 64, 3)
    assert abs(int(seen[24, 32, 0]) - 200) < 5
    bright = (seen[..., 0] > 100).mean()
    height, width = shape
    scale = min(48 / height, 64 / width)
    assert bright == pytest.approx(height * width * scale**2 / (48 * 64), abs=0.05)


def test_images_are_parts_in_order_before_the_question():
    form = FrameFormat()
    content = form.content(["data:image/jpeg;base64,AA", "data:image/jpeg;base64,BB"], "What?")
    assert content == [
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AA"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,BB"}},
        {"type": "text", "text": "What?"},
    ]
    assert form.extra_body == {}


def test_video_is_one_part_and_asks_for_every_frame():
    form = FrameFormat("video-jpeg", (8, 8))
    frames = [form.encode(np.full((8, 8, 3), level, np.uint8)) for level in (0, 250)]
    video, text = form.content(frames, "What?")
    start, _, data = video["video_url"]["url"].partition(",")
    assert (video["type"], start, text["text"]) == ("video_url", "data:video/jpeg;base64", "What?")
    assert [np.asarray(decode(item)).mean() > 128 for item in data.split(",")] == [False, True]
    assert form.extra_body == {
        "media_io_kwargs": {"video": {"num_frames": -1, "fps": 1, "do_sample_frames": False}}
    }


def test_question_without_frames_is_text_only():
    assert FrameFormat("video-jpeg").content([], "What?") == [{"type": "text", "text": "What?"}]


def test_settings_say_how_frames_are_sent():
    assert FrameFormat("video-jpeg", (640, 360)).settings() == {
        "frames_as": "video-jpeg",
        "frame_size": "640x360",
        "frame_encoding": "jpeg, quality 90, 4:4:4",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames_as": "mp4"}, "frames_as must be one of images, video-jpeg, got 'mp4'"),
        ({"size": (0, 10)}, "must be 1x1 to 8192x8192 pixels, got 0x10"),
        ({"size": (10, 9000)}, "got 10x9000"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        FrameFormat(**options)


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_what_is_no_picture_is_refused(frame):
    with pytest.raises(ModelError, match="must be RGB uint8"):
        FrameFormat().encode(frame)
