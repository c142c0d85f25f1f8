"""The embedding cache: what is written, what is read, and what is refused."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from caches import SHAPE, MeanModel, filled_cache, numbers
from runs import files_up_to

from vniah.embeddings.cache import EmbeddingCache, FrameStore
from vniah.embeddings.encode import BATCH_SIZE, encode_haystack, encode_needles
from vniah.errors import CacheError, HaystackTooShortError, ModelError
from vniah.haystacks.haystack import open_haystack
from vniah.needles import load_needles
from vniah.protocol import FrameSegment


@pytest.fixture
def small_shards(monkeypatch):
    """One batch a shard, so that small haystacks have several."""
    import vniah.embeddings.encode

    monkeypatch.setattr(vniah.embeddings.encode, "_MAX_SHARD_FRAMES", BATCH_SIZE)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 10), (3, 4), (2, 9), (9, 10), (4, 6)])
def test_read_gives_the_frames_asked_for_across_shards(tmp_path, start, stop):
    filled_cache(tmp_path, 4, 1, 5)
    cache = filled_cache(tmp_path)
    assert cache.num_frames == 10
    assert torch.equal(cache.read(start, stop), numbers(start, stop))


@pytest.mark.parametrize(("start", "stop"), [(0, 11), (5, 4), (-1, 2), (10, 11), (3, 3)])
def test_read_outside_of_the_cache_is_refused(tmp_path, start, stop):
    with pytest.raises(CacheError, match=r"frames, got the range \["):
        filled_cache(tmp_path, 10).read(start, stop)


def test_cache_of_something_else_is_refused_by_the_field(tmp_path):
    filled_cache(tmp_path, 4, dtype="float32")
    with pytest.raises(CacheError, match=r"made with dtype = 'float32', now it is 'bfloat16'"):
        filled_cache(tmp_path, dtype="bfloat16")


def test_shard_of_another_shape_is_refused(tmp_path):
    filled_cache(tmp_path, 4)
    with pytest.raises(CacheError, match=r"holds a tensor of shape \(4, 2, 3\), expected \(4, 9\)"):
        EmbeddingCache(tmp_path, {"model": "m"}, (9,))


def test_append_when_the_disk_is_full_is_one_line_and_goes_on_later(tmp_path):
    cache = filled_cache(tmp_path, 2)
    frames = torch.ones(2, *SHAPE)
    with (
        pytest.raises(CacheError, match=r"frames-00000002-00000004.safetensors cannot be written"),
        files_up_to(100),
    ):
        cache.append(frames, [2.0, 3.0], [])
    assert cache.num_frames == 2 and len(list(tmp_path.iterdir())) == 1
    cache.append(frames, [2.0, 3.0], [])
    assert filled_cache(tmp_path).num_frames == 4


def test_frames_after_a_gap_do_not_count(tmp_path):
    cache = filled_cache(tmp_path, 4, 4, 4)
    next(cache.directory.glob("frames-00000004-*")).unlink()
    assert filled_cache(tmp_path).num_frames == 4


def test_unfinished_files_are_not_read(tmp_path):
    filled_cache(tmp_path, 4)
    (tmp_path / ".frames-00000004-00000008.safetensors.77.tmp").write_bytes(b"half")
    assert filled_cache(tmp_path).num_frames == 4


def test_store_reads_runs_in_any_order(tmp_path):
    haystack, needles = filled_cache(tmp_path / "h", 8, 8), filled_cache(tmp_path / "n", 3)
    store = FrameStore({"h": (haystack, 0), "n/a": (needles, 1), "n/b": (needles, 2)})
    segments = [
        *(FrameSegment("h", k) for k in range(6, 10)),
        FrameSegment("n/b", 0),
        FrameSegment("n/a", 0),
        FrameSegment("h", 3),
        FrameSegment("h", 2),
    ]
    read = store.read(segments)
    assert read[:, 0, 0].tolist() == [6, 7, 8, 9, 2, 1, 3, 2]
    assert [len(run) for run in store.read_runs(segments)] == [4, 1, 1, 1, 1]
    assert [len(run) for run in store.read_runs(segments[:4], most=3)] == [3, 1]


@pytest.mark.usefixtures("small_shards")
def test_encode_fills_the_cache_and_says_how_far_it_is(image_folder):
    model, seen = MeanModel(), []
    haystack = open_haystack(image_folder)
    cache = encode_haystack(
        model, haystack, 37, on_progress=lambda done, total: seen.append((done, total))
    )
    expected = torch.stack(
        [torch.tensor(frame.image.mean((0, 1))).float() for frame in haystack.frames(stop=37)]
    )
    assert cache.num_frames == 37
    assert torch.equal(cache.read(0, 37)[:, 0], expected)
    assert seen == [(16, 37), (32, 37), (37, 37)]
    assert model.batches == [BATCH_SIZE] * 3, "the tower sees whole batches only"


@pytest.mark.usefixtures("small_shards")
def test_encode_does_no_work_twice(image_folder):
    haystack = open_haystack(image_folder)
    encode_haystack(MeanModel(), haystack, 32)
    model = MeanModel()
    assert encode_haystack(model, haystack, 20).num_frames == 32
    assert model.batches == []


@pytest.mark.usefixtures("small_shards")
def test_stopped_encode_goes_on_and_ends_the_same(image_folder, tmp_path):
    haystack = open_haystack(image_folder)
    whole = encode_haystack(MeanModel(), haystack, 40, directory=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        encode_haystack(MeanModel(fail_after=1), haystack, 40, directory=tmp_path / "cut")
    model = MeanModel()
    cut = encode_haystack(model, haystack, 40, directory=tmp_path / "cut")
    assert len(model.batches) == 2
    assert torch.equal(cut.read(0, 40), whole.read(0, 40))


@pytest.mark.usefixtures("small_shards")
def test_longer_encode_writes_a_partial_shard_anew(image_folder):
    haystack = open_haystack(image_folder)
    short = encode_haystack(MeanModel(), haystack, 20)
    long = encode_haystack(MeanModel(), haystack, 40)
    assert long.directory == short.directory
    assert long.num_frames == 40
    assert torch.equal(long.read(0, 20), short.read(0, 20))
    sizes = [shard.last - shard.first for shard in long._chain]
    assert sizes == [16, 16, 8], "shards begin at whole batches, whatever was there before"


def test_too_short_haystack_leaves_no_half_cache(image_folder):
    with pytest.raises(HaystackTooShortError, match="40"):
        encode_haystack(MeanModel(), open_haystack(image_folder), 41)


def test_another_model_or_dtype_has_a_cache_of_its_own(image_folder):
    haystack = open_haystack(image_folder)
    first = encode_haystack(MeanModel(), haystack, 3)
    other = MeanModel()
    other.revision = "2"
    assert encode_haystack(other, haystack, 3).directory != first.directory
    other.revision, other.dtype = "1", torch.float16
    assert encode_haystack(other, haystack, 3).directory != first.directory


def test_preprocessing_and_class_are_part_of_the_identity(image_folder):
    class OtherModel(MeanModel):
        pass

    haystack = open_haystack(image_folder)
    changed = MeanModel()
    changed.encoding = {"preprocessing": "another"}
    folders = {
        encode_haystack(model, haystack, 3).directory
        for model in (MeanModel(), changed, OtherModel())
    }
    assert len(folders) == 3


def test_embeddings_that_are_no_numbers_are_refused(image_folder):
    model = MeanModel()
    model.encode_frames = lambda frames: torch.full((len(frames), *SHAPE), float("nan"))
    with pytest.raises(ModelError, match="gave NaN or infinity"):
        encode_haystack(model, open_haystack(image_folder), 3)


def test_given_folder_with_another_models_frames_is_refused(image_folder, tmp_path):
    haystack = open_haystack(image_folder)
    encode_haystack(MeanModel(), haystack, 3, directory=tmp_path)
    other = MeanModel()
    other.revision = "2"
    with pytest.raises(CacheError, match="made with revision = '1', now it is '2'"):
        encode_haystack(other, haystack, 3, directory=tmp_path)


def test_wrong_shape_from_a_model_is_refused(image_folder):
    model = MeanModel()
    model.frame_shape = (4, 3)
    with pytest.raises(ModelError, match=re.escape("its frame_shape (4, 3) makes that (16, 4, 3)")):
        encode_haystack(model, open_haystack(image_folder), 3)


def test_needles_are_encoded_in_their_order(needle_folder):
    needles = load_needles(needle_folder)
    cache = encode_needles(MeanModel(), needles)
    means = [np.asarray(needle.image).mean((0, 1)) for needle in needles]
    torch.testing.assert_close(
        cache.read(0, 3)[:, 0], torch.tensor(np.stack(means)).float(), rtol=1e-6, atol=0
    )


READ_A_LITTLE = """
import resource, sys
from pathlib import Path
from vniah.embeddings.cache import EmbeddingCache, FrameStore
from vniah.protocol import FrameSegment

cache = EmbeddingCache(Path(sys.argv[1]), {}, (256, 1024))
store = FrameStore({"h": (cache, 0)})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(len(run) for run in store.read_runs([FrameSegment("h", k) for k in range(20)]))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(cache.num_frames, total, (after - before) / 1024)
"""


@pytest.mark.slow
def test_reading_a_few_frames_does_not_load_the_rest(tmp_path):
    cache = EmbeddingCache(tmp_path, {}, (256, 1024))
    for _ in range(6):
        cache.append(torch.zeros(64, 256, 1024), [0.0] * 64, [])
    done = subprocess.run(
        [sys.executable, "-c", READ_A_LITTLE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    num_frames, num_read, megabytes = map(float, done.stdout.split())
    assert (num_frames, num_read) == (384, 20)
    assert megabytes < 90, "20 frames are 20 MB, a shard is 64 MB, the cache is 384 MB"
