"""Needles drawn into frames of the haystack: the pixels, the caches, and what models are shown."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from caches import MeanModel, flip_bit
from PIL import Image

from vniah import Grid, run_sweep
from vniah.embeddings.encode import EncodedFrames
from vniah.embeddings.inventory import find_cached
from vniah.embeddings.shards import shard_path
from vniah.embeddings.shown import ShownPictures
from vniah.embeddings.sparse import SparseCache
from vniah.engines.base import Pictures
from vniah.errors import CacheError, InputError
from vniah.haystacks.haystack import open_haystack
from vniah.needles import Distractor, Needle, NeedleSet, load_needles
from vniah.needles.blending import blend
from vniah.protocol import FrameSegment, FrameSpan


def noise(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def changed_box(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the pixels that differ."""
    rows, columns = np.nonzero((before != after).any(-1))
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


# --- the pixels ---


@pytest.mark.parametrize(
    ("frame", "picture", "expected"),  # (height, width) each; two fifths of the frame at most
    [
        ((60, 80), (10, 10), (24, 24)),
        ((60, 80), (100, 100), (24, 24)),
        ((60, 80), (10, 40), (8, 32)),
        ((60, 80), (40, 10), (24, 6)),
        ((1, 1), (10, 10), (1, 1)),
        ((2, 500), (30, 10), (1, 1)),
    ],
)
def test_a_needle_takes_two_fifths_of_a_frame_in_its_own_shape(frame, picture, expected):
    background, needle = noise(0, *frame), Image.fromarray(noise(1, *picture))
    kept = background.copy()
    blended = blend(background, needle, needle_id="a", index=3)
    assert blended.shape == background.shape and blended.dtype == np.uint8
    assert np.array_equal(background, kept), "the frame itself stays as it is"
    top, bottom, left, right = changed_box(background, blended)
    assert (bottom - top, right - left) == pytest.approx(expected, abs=2)
    assert bottom - top <= expected[0] and right - left <= expected[1]


def test_the_place_depends_on_needle_and_frame_alone():
    frame, needle = noise(0), Image.fromarray(noise(1, 10, 10))

    def box(needle_id, index):
        drawn = blend(frame, needle, needle_id=needle_id, index=index)
        assert np.array_equal(drawn, blend(frame, needle, needle_id=needle_id, index=index))
        return changed_box(frame, drawn)

    boxes = {(name, index): box(name, index) for name in "ab" for index in range(20)}
    assert len(set(boxes.values())) > 30
    assert boxes["a", 0] == box("a", 0)


def test_a_needle_is_moved_towards_what_it_covers_and_stays_legible():
    """A white letter on black keeps most of its contrast, over dark and over bright frames."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[10:30, 10:30] = 255
    means = []
    for level in (10, 240):
        frame = np.full((60, 80, 3), level, np.uint8)
        drawn = blend(frame, Image.fromarray(pixels), needle_id="a", index=0)
        rows, columns = np.nonzero((drawn != frame).any(-1))
        inside = drawn[rows.min() : rows.max(), columns.min() : columns.max()].astype(float)
        assert np.ptp(inside) > 150
        means.append(inside.mean())
    assert means[0] < means[1]


def test_colours_of_cards_can_still_be_told():
    """The middle of a blended card is nearest to its own colour, over every frame of a film."""
    from vniah.haystacks.synthetic import draw_frame
    from vniah.haystacks.textures import NAMED_COLORS

    card = Image.new("RGB", (96, 96), NAMED_COLORS["red"])
    for index in range(0, 40, 5):
        frame = draw_frame(seed=0, milliseconds=1000 * index)
        drawn = blend(frame, card, needle_id="red", index=index)
        top, bottom, left, right = changed_box(frame, drawn)
        middle = drawn[(top + bottom) // 2, (left + right) // 2].astype(float)
        distances = {n: np.linalg.norm(middle - rgb) for n, rgb in NAMED_COLORS.items()}
        assert min(distances, key=distances.__getitem__) == "red", index


# --- what samples show ---


@pytest.fixture
def needles() -> NeedleSet:
    """A needle with a distractor, a clip, one that is not selected, and one never shown."""
    images = [Image.fromarray(noise(seed, 12, 12)) for seed in range(6)]
    made = (
        Needle("a", "q", "x", None, images[0], distractors=("d",)),
        Needle("b", "q", "x", None, images[1], later_frames=(images[2],)),
        Needle("c", "q", "x", None, images[3]),
    )
    distractors = (Distractor("d", images[4]), Distractor("e", images[5]))
    return NeedleSet("mixed", "mixed", made, distractors).select(["b", "a"])


SHOWN = (
    FrameSpan("haystack", 0, 12),
    FrameSpan("blended/a", 3, 5),
    FrameSpan("needles/a", 0, 1),
    FrameSpan("blended/a", 9, 10),
    FrameSpan("blended/b/1", 3, 4),
    FrameSpan("blended/d", 0, 1),
    FrameSpan("needles/d", 0, 1),
    FrameSpan("needles/c", 0, 1),
)


def expected_picture(haystack, needles, source: str, index: int) -> np.ndarray:
    """The slow way: one picture, from nothing but its name."""
    frame = next(haystack.frames(start=index, stop=index + 1)).image
    if source == "haystack":
        return frame
    kind, name, *number = source.split("/")
    if kind == "needles":
        return np.array(needles.pictures[name].frames[index])
    image = needles.pictures[name].frames[int(number[0]) if number else 0]
    return blend(frame, image, needle_id=name, index=index)


def all_frames():
    return [(span.source, k) for span in SHOWN for k in range(span.start, span.stop)]


def test_chat_models_are_shown_what_samples_name(image_folder, needles):
    haystack = open_haystack(image_folder)
    pictures = Pictures.of(haystack, needles, 12, lambda image: image, notes=[], shown=SHOWN)
    shown = pictures.show(SHOWN)
    assert len(shown) == len(all_frames()) == 20
    for found, (source, index) in zip(shown, all_frames(), strict=True):
        assert np.array_equal(found, expected_picture(haystack, needles, source, index))


def require_right(store, haystack, needles):
    for source, index in all_frames():
        image = expected_picture(haystack, needles, source, index)
        mean = torch.tensor(image.mean((0, 1))).float()
        assert torch.equal(store.read([FrameSegment(source, index)])[0, 0], mean), (source, index)


def encoded(model, haystack, needles, shown=SHOWN, **options):
    return EncodedFrames.of(model, haystack, needles, 12, shown=shown, **options).store


@pytest.mark.parametrize("with_cache", [False, True])
def test_models_are_given_what_samples_name(image_folder, needles, tmp_path, with_cache):
    haystack, cache = open_haystack(image_folder), tmp_path / "cache" if with_cache else None
    require_right(encoded(MeanModel(), haystack, needles, cache=cache), haystack, needles)


def test_blended_frames_are_encoded_once_and_kept_for_other_grids(image_folder, needles):
    haystack, first, second, third = open_haystack(image_folder), *(MeanModel() for _ in range(3))
    encoded(first, haystack, needles)
    assert first.batches.count(1) == 5
    require_right(encoded(second, haystack, needles), haystack, needles)
    assert second.batches == []
    more = (*SHOWN, FrameSpan("blended/a", 3, 8))
    encoded(third, haystack, needles, more)
    assert third.batches == [1, 1, 1], "5, 6 and 7"


def test_an_interrupted_encode_goes_on(image_folder, needles):
    haystack, stopped, last = open_haystack(image_folder), MeanModel(fail_after=3), MeanModel()
    with pytest.raises(KeyboardInterrupt):
        encoded(stopped, haystack, needles)
    assert stopped.batches == [16, 1, 1]
    require_right(encoded(last, haystack, needles), haystack, needles)
    assert last.batches.count(1) == 3


def test_progress_counts_blended_frames_with_the_others(image_folder, needles):
    haystack, seen = open_haystack(image_folder), []
    report = lambda *step: seen.append(step)  # noqa: E731
    encoded(MeanModel(), haystack, needles, on_progress=report)
    assert {total for _, total in seen} == {12 + 5}
    assert seen[0] == (12, 17) and seen[-1] == (17, 17) and seen == sorted(seen)


def test_the_haystack_is_read_once_for_all_blended_frames(image_folder, needles, monkeypatch):
    haystack, reads = open_haystack(image_folder), []
    read = type(haystack).frames

    def frames(self, **options):
        reads.append((options.get("start", 0), options["stop"]))
        return read(self, **options)

    monkeypatch.setattr(type(haystack), "frames", frames)
    encoded(MeanModel(), haystack, needles)
    assert reads == [(0, 12), (0, 10)]


def test_another_picture_or_haystack_or_needle_is_never_served_from_the_cache(
    image_folder, needles, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    Image.fromarray(noise(77, 32, 32)).save(other / "003.png")
    first, haystack = needles.needles[1], open_haystack(image_folder)
    redrawn = replace(first, image=Image.fromarray(noise(50, 12, 12)))
    changed = replace(needles, needles=(needles.needles[0], redrawn))
    cache = tmp_path / "cache"
    require_right(encoded(MeanModel(), haystack, needles, cache=cache / "1"), haystack, needles)
    for film, those in ((haystack, changed), (open_haystack(other), needles)):
        require_right(encoded(MeanModel(), film, those), film, those)


def blended_folders(cache):
    return [found for found in find_cached(cache) if "drawn" in found.source]


def test_a_damaged_blended_frame_is_encoded_again(image_folder, needles, tmp_path, caplog):
    haystack, model = open_haystack(image_folder), MeanModel()
    encoded(MeanModel(), haystack, needles, cache=tmp_path)
    store = encoded(model, haystack, needles, cache=tmp_path)
    paths = [path for found in blended_folders(tmp_path) for path in found.files]
    assert len(paths) == 5
    for path in paths:
        flip_bit(path, -1)
    require_right(store, haystack, needles)
    assert model.batches == [1] * 5
    assert sum("is damaged" in line for line in caplog.messages) == 5
    for path in paths:
        flip_bit(path, 40)  # its header: noticed when the next run begins
    require_right(encoded(model, haystack, needles, cache=tmp_path), haystack, needles)
    assert model.batches == [1] * 10


def test_a_frame_that_stays_damaged_is_one_line(tmp_path):
    cache = SparseCache(tmp_path, {"model": "m"}, (2, 3))
    cache.write(7, torch.ones(2, 3), 0.0)
    assert cache.missing([6, 7]) == [6]
    flip_bit(shard_path(tmp_path, 7, 8), -1)
    cache.refill = lambda indices: None
    with pytest.raises(CacheError, match="although it was encoded again just now"):
        cache.read(7, 8)
    cache.refill = None
    with pytest.raises(CacheError, match="the next run encodes it again"):
        cache.read(7, 8)


def test_parts_of_sparse_frames_are_read_alone(tmp_path):
    frame = torch.arange(24.0).reshape(3, 2, 4)
    cache = SparseCache(tmp_path, {"model": "m"}, (3, 2, 4))
    cache.write(2, frame, 0.0)
    assert torch.equal(cache.read(2, 3)[0], frame)
    assert torch.equal(cache.read(2, 3, part=1)[0], frame[1])


def test_a_folder_of_another_model_is_refused(tmp_path):
    SparseCache(tmp_path, {"model": "m"}, (2, 3)).write(7, torch.ones(2, 3), 0.0)
    with pytest.raises(CacheError, match="was made with model = 'm', now it is 'other'"):
        SparseCache(tmp_path, {"model": "other"}, (2, 3)).missing([7])


def test_the_inventory_names_blended_frames(image_folder, needles, tmp_path):
    encoded(MeanModel(), open_haystack(image_folder), needles, cache=tmp_path)
    found = blended_folders(tmp_path)
    assert sorted(one.num_frames for one in found) == [1, 1, 3]
    assert sum(one.source.startswith("a drawn into images ") for one in found) == 1


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (FrameSpan("needles/nobody", 0, 1), "shows 'needles/nobody', which is neither"),
        (FrameSpan("blended/a/1", 0, 1), "shows 'blended/a/1', which is neither"),
        (FrameSpan("needles/b", 0, 3), "shows frame 2 of 'needles/b', which has 2 frames"),
    ],
)
def test_what_there_is_not_is_refused(needles, span, message):
    with pytest.raises(InputError, match=message):
        ShownPictures.of([span], needles)


class SeesMeans(MeanModel):
    """Its logits are the mean colour of the frame that is shown next to last."""

    def answer_logits(self, sequence, embeds):
        return embeds[-2, 0, :2][None]


class ChatsAboutMeans:
    """Says the mean colour of the picture that is shown next to last."""

    name, revision = "chats", "1"

    def answer(self, frames, question):
        return f"{frames[-2].mean():.6f}"


@pytest.mark.parametrize("model", [SeesMeans(), ChatsAboutMeans()], ids=["embeddings", "chat"])
def test_a_run_in_the_blended_style_shows_the_same_in_every_grid(
    model, image_folder, needle_folder, tmp_path
):
    haystack, needles = open_haystack(image_folder), load_needles(needle_folder).select(["a"])

    def sweep(name, frames, **options):
        results = run_sweep(
            model,
            haystack,
            needles,
            Grid.parse(frames, positions="3,7"),
            output=tmp_path / name,
            task_options=options,
            controls="none",
            progress=False,
        )
        return {
            (s.num_frames, s.fields["needle_index"]): (s.logprob, s.prediction)
            for s in results.samples
        }

    plain, blended = sweep("plain", "4,8"), sweep("one", "4,8", needle_style="blended")
    assert plain.keys() == blended.keys() == {(4, 3), (8, 3), (8, 7)}
    assert {place for place in plain if plain[place] != blended[place]} == {(4, 3), (8, 7)}
    other = sweep("two", "8,12", needle_style="blended")
    shared = blended.keys() & other.keys()
    assert len(shared) == 2 and all(blended[place] == other[place] for place in shared)
    image = expected_picture(haystack, needles, "blended/a", 6)  # of 8 frames the last but one
    if isinstance(model, SeesMeans):
        logits = torch.tensor(image.mean((0, 1))).float()[:2]
        right = float(torch.log_softmax(logits, -1)[1])
        assert other[8, 7][0] == pytest.approx(right, abs=1e-4)
    else:
        assert other[8, 7][1] == f"{image.mean():.6f}"
