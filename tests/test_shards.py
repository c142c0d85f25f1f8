"""Shards of encoded frames: damage to a file is noticed whatever it is, and mended."""

import json
import shutil

import pytest
import torch
from caches import (
    MeanModel,
    as_earlier_version,
    filled_cache,
    flip_bit,
    numbers,
    only_shard,
)
from safetensors import safe_open
from safetensors.torch import save_file

import vniah.embeddings.cache
import vniah.embeddings.encode
import vniah.embeddings.shards
from vniah.embeddings.cache import EmbeddingCache
from vniah.embeddings.encode import encode_haystack, encode_needles
from vniah.embeddings.shards import read_header
from vniah.errors import CacheError
from vniah.haystacks.haystack import open_haystack
from vniah.needles import load_needles

pytestmark = pytest.mark.usefixtures("checked_once")

PARTS = (3, 2, 4)


def is_noticed(folder, shape=(2, 3)):
    """True if a cache in this folder gives none of its frames."""
    try:
        EmbeddingCache(folder, {"model": "m"}, shape).read(0, 3)
    except CacheError as error:
        assert "\n" not in str(error)
        return True
    return False


def parts_cache(folder):
    cache = EmbeddingCache(folder, {"model": "m"}, PARTS)
    if not cache.num_frames:
        frames = torch.arange(4 * 24).reshape(4, *PARTS).to(torch.bfloat16)
        cache.append(frames, [0.0] * 4, ["the film is damaged"])
    return cache


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path):
    filled_cache(tmp_path, 3)
    path = only_shard(tmp_path)
    whole = path.read_bytes()
    missed = []
    for position in range(len(whole)):
        flip_bit(path, position, bit=position % 8)
        if not is_noticed(tmp_path):
            missed.append(position)
        path.write_bytes(whole)
    assert missed == []
    assert not is_noticed(tmp_path)


@pytest.mark.parametrize("value", [0, 255])
def test_overwritten_ranges_are_noticed(tmp_path, value):
    filled_cache(tmp_path, 3)
    path = only_shard(tmp_path)
    whole = path.read_bytes()
    for start in range(0, len(whole), 16):
        broken = bytearray(whole)
        broken[start : start + 16] = bytes([value]) * len(broken[start : start + 16])
        if broken != whole:
            path.write_bytes(broken)
            assert is_noticed(tmp_path), start
        path.write_bytes(whole)


@pytest.mark.parametrize("more", [b"", b"\0", b"\0" * 4096])
def test_files_cut_or_with_something_appended_are_noticed(tmp_path, more):
    filled_cache(tmp_path, 3)
    path = only_shard(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7) if not more else [len(whole)]:
        path.write_bytes(whole[:length] + more)
        assert is_noticed(tmp_path), length


def test_swapped_shards_of_equal_shape_are_noticed(tmp_path):
    filled_cache(tmp_path, 4, 4)
    one, other = sorted(tmp_path.glob("*.safetensors"))
    one.rename(tmp_path / "kept")
    other.rename(one)
    (tmp_path / "kept").rename(other)
    assert filled_cache(tmp_path).num_frames == 0


def test_shard_of_another_model_is_refused(tmp_path):
    filled_cache(tmp_path / "a", 4, 4)
    filled_cache(tmp_path / "b", 4, 4, model="another")
    name = "frames-00000004-00000008.safetensors"
    shutil.copy(tmp_path / "b" / name, tmp_path / "a" / name)
    with pytest.raises(CacheError, match=r"was made with model = 'another', now it is 'm'"):
        filled_cache(tmp_path / "a")


def test_dtype_and_shape_in_the_header_are_covered(tmp_path):
    filled_cache(tmp_path, 3)
    path = only_shard(tmp_path)
    whole = path.read_bytes()
    for old, new in ((b'"F32"', b'"I32"'), (b"[3,2,3]", b"[3,3,2]"), (b"[3,2,3]", b"[9,2,1]")):
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        assert is_noticed(tmp_path)
    path.write_bytes(whole.replace(b"[3,2,3]", b"[3,3,2]"))
    assert is_noticed(tmp_path, (3, 2)), "also where the other shape is the one that is expected"


@pytest.mark.parametrize("key", ["notes", "pts_seconds", "first_frame", "format_version", "model"])
def test_metadata_are_covered(tmp_path, key):
    filled_cache(tmp_path, 3)
    path = only_shard(tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata, tensor = file.metadata(), file.get_tensor("frames")
    save_file({"frames": tensor}, path, {**metadata, key: metadata[key] + " "})
    assert is_noticed(tmp_path)
    save_file({"frames": tensor}, path, {k: v for k, v in metadata.items() if k != key})
    assert is_noticed(tmp_path)


def test_file_that_vniah_did_not_write_is_refused_and_stays(tmp_path):
    path = tmp_path / "frames-00000000-00000003.safetensors"
    save_file({"frames": numbers(0, 3)}, path)
    with pytest.raises(CacheError, match="was not written by vniah"):
        filled_cache(tmp_path)
    assert path.exists()


def test_shard_of_a_later_format_is_refused_and_stays(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(vniah.embeddings.shards, "FORMAT_VERSION", "3")
        filled_cache(tmp_path, 3)
    with pytest.raises(CacheError, match="another version of vniah"):
        filled_cache(tmp_path)
    assert only_shard(tmp_path).exists()


@pytest.mark.parametrize("part", [0, 1, 2, None])
def test_only_what_is_read_is_verified(tmp_path, part):
    whole = parts_cache(tmp_path).read(0, 4)
    path = only_shard(tmp_path)
    flip_bit(path, -1)  # the last part of the last frame
    cache = parts_cache(tmp_path)
    expected = whole if part is None else whole[:, part]
    assert torch.equal(cache.read(0, 3, part=part), expected[:3])
    if part in (2, None):
        with pytest.raises(CacheError, match="frame 3 has other bytes than written"):
            cache.read(2, 4, part=part)
    else:
        assert torch.equal(cache.read(0, 4, part=part), expected)


def test_a_part_of_frames_without_parts_is_verified_with_its_frame(tmp_path):
    filled_cache(tmp_path, 4)
    assert filled_cache(tmp_path).read(1, 3, part=1).tolist() == [[1.0] * 3, [2.0] * 3]
    flip_bit(only_shard(tmp_path), -1)
    with pytest.raises(CacheError, match="frame 3 has other bytes"):
        filled_cache(tmp_path).read(3, 4, part=0)


def test_a_block_is_verified_once(tmp_path, monkeypatch):
    parts_cache(tmp_path)
    cache, verified, checksums = parts_cache(tmp_path), [], vniah.embeddings.shards._checksums
    monkeypatch.setattr(
        vniah.embeddings.shards,
        "_checksums",
        lambda frames, blocks: verified.append(blocks) or checksums(frames, blocks),
    )
    for _ in range(3):
        cache.read(0, 2, part=1)
        cache.read(0, 2)
        cache.read(1, 2)
    assert verified == [2, 6]


def test_a_file_changed_after_it_was_verified_is_verified_again(tmp_path):
    cache = filled_cache(tmp_path, 4)
    cache.read(0, 4)
    path = only_shard(tmp_path)
    time = path.stat().st_mtime_ns
    flip_bit(path, -1)
    assert path.stat().st_mtime_ns != time
    with pytest.raises(CacheError, match="frame 3 has other bytes"):
        cache.read(0, 4)


@pytest.fixture
def film(image_folder, monkeypatch):
    monkeypatch.setattr(vniah.embeddings.encode, "_MAX_SHARD_FRAMES", 16)
    return open_haystack(image_folder)


@pytest.mark.parametrize("damage", ["bit", "header", "cut", "gone"])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_damaged_shard_is_named_set_aside_and_encoded_again(
    film, caplog, tmp_path, damage, is_open
):
    cache = encode_haystack(MeanModel(), film, 40, directory=tmp_path)
    whole = cache.read(0, 40).clone()
    path = tmp_path / "frames-00000016-00000032.safetensors"
    model = MeanModel()
    if is_open:  # the damage happens in the middle of a run
        cache = encode_haystack(model, film, 40, directory=tmp_path)
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        flip_bit(path, -1 if damage == "bit" else 300)
    if not is_open:
        cache = encode_haystack(model, film, 40, directory=tmp_path)
    assert torch.equal(cache.read(0, 40), whole)
    assert model.batches == [16], "only its frames are encoded"
    assert torch.equal(encode_haystack(model, film, 40, directory=tmp_path).read(0, 40), whole)
    assert model.batches == [16]
    if damage == "gone" and not is_open:
        assert caplog.messages == []
        return
    (line,) = caplog.messages
    assert path.name in line and "encoded again" in line and "\n" not in line
    set_aside = [found.name for found in tmp_path.glob("*.damaged")]
    assert set_aside == ([] if damage == "gone" else [f"{path.name}.damaged"])


def test_at_most_one_damaged_file_is_kept(film, tmp_path):
    encode_haystack(MeanModel(), film, 40, directory=tmp_path)
    for path in sorted(tmp_path.glob("*.safetensors")):
        flip_bit(path, -1)
    cache = encode_haystack(MeanModel(), film, 40, directory=tmp_path)
    cache.read(0, 40)
    assert len(list(tmp_path.glob("*.damaged"))) == 1


def test_damaged_pictures_of_needles_are_encoded_again(needle_folder, tmp_path):
    needles = load_needles(needle_folder)
    whole = encode_needles(MeanModel(), needles, directory=tmp_path).read(0, 3).clone()
    flip_bit(only_shard(tmp_path), -9)
    assert torch.equal(encode_needles(MeanModel(), needles, directory=tmp_path).read(0, 3), whole)


def test_two_processes_that_meet_damage_both_go_on(film, tmp_path):
    """The second finds what the first has encoded, and leaves it alone."""
    whole = encode_haystack(MeanModel(), film, 40, directory=tmp_path).read(0, 40).clone()
    models = MeanModel(), MeanModel()
    one, other = (encode_haystack(model, film, 40, directory=tmp_path) for model in models)
    flip_bit(tmp_path / "frames-00000016-00000032.safetensors", -1)
    assert torch.equal(one.read(0, 40), whole)
    assert torch.equal(other.read(0, 40), whole)
    assert [len(model.batches) for model in models] == [1, 0]


def test_a_shard_replaced_while_damage_is_reported_is_not_set_aside(film, tmp_path):
    encode_haystack(MeanModel(), film, 16, directory=tmp_path)
    path = only_shard(tmp_path)
    good = path.read_bytes()
    flip_bit(path, -1)
    cache = encode_haystack(MeanModel(), film, 16, directory=tmp_path)
    (shard,) = cache._chain
    with pytest.raises(CacheError) as caught:
        shard.read(0, 16, None)
    path.unlink()
    path.write_bytes(good)  # by another process
    cache._repair(shard, caught.value)
    assert path.exists() and not list(tmp_path.glob("*.damaged"))


def test_damage_that_comes_back_ends_the_run(film, tmp_path, monkeypatch):
    encode_haystack(MeanModel(), film, 16, directory=tmp_path)
    flip_bit(only_shard(tmp_path), -1)
    cache = encode_haystack(MeanModel(), film, 16, directory=tmp_path)
    write = vniah.embeddings.cache.write_shard

    def write_badly(path, *args, **kwargs):
        write(path, *args, **kwargs)
        flip_bit(path, -1)

    monkeypatch.setattr(vniah.embeddings.cache, "write_shard", write_badly)
    with pytest.raises(CacheError, match="although it was encoded again just now"):
        cache.read(0, 16)


def test_a_damaged_shard_that_cannot_be_renamed_is_one_line(film, tmp_path, monkeypatch):
    encode_haystack(MeanModel(), film, 16, directory=tmp_path)
    path = only_shard(tmp_path)
    flip_bit(path, -1)
    cache = encode_haystack(MeanModel(), film, 16, directory=tmp_path)

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "replace", refuse)
    with pytest.raises(CacheError, match="cannot be renamed: Permission denied"):
        cache.read(0, 16)


def test_shards_of_the_earlier_format_are_used_and_say_so(film, tmp_path, caplog):
    whole = encode_haystack(MeanModel(), film, 40, directory=tmp_path).read(0, 40).clone()
    paths = sorted(tmp_path.glob("*.safetensors"))
    as_earlier_version(paths[0])
    as_earlier_version(paths[2], notes='["the film is damaged"]')
    model = MeanModel()
    cache = encode_haystack(model, film, 40, directory=tmp_path)
    assert model.batches == [] and caplog.messages == []
    assert torch.equal(cache.read(0, 40), whole)
    assert torch.equal(cache.read(3, 20, part=1), whole[3:20, 1])
    damaged, note = cache.notes()
    assert damaged == "the film is damaged"
    assert note.startswith("2 of 3 shards") and "carry no checksums" in note
    assert not read_header(paths[0]).checksums and read_header(paths[1]).checksums


def test_new_shards_of_an_earlier_cache_have_checksums(film, tmp_path):
    encode_haystack(MeanModel(), film, 16, directory=tmp_path)
    as_earlier_version(only_shard(tmp_path))
    cache = encode_haystack(MeanModel(), film, 32, directory=tmp_path)
    assert cache.notes()[0].startswith("1 of 2 shards")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"F32"', b'"I32"'),
        (b'"notes":"[]"', b'"notes":"[5"'),
        (b'"notes":"[]"', b'"notes":"{}"'),
        (b'"notes":"[]"', b'"notes":"[7]"'),
    ],
)
def test_what_can_be_seen_in_an_earlier_shard_is_encoded_again(film, tmp_path, old, new):
    whole = encode_haystack(MeanModel(), film, 16, directory=tmp_path).read(0, 16).clone()
    path = only_shard(tmp_path)
    as_earlier_version(path)
    content = path.read_bytes()
    assert content.count(old) == 1
    start = content.index(b"{")
    header = content[start : content.rindex(b"}") + 1].replace(old, new)
    padded = header.ljust(-(-len(header) // 8) * 8)
    length = int.from_bytes(content[:8], "little")
    path.write_bytes(len(padded).to_bytes(8, "little") + padded + content[8 + length :])
    model = MeanModel()
    assert torch.equal(encode_haystack(model, film, 16, directory=tmp_path).read(0, 16), whole)
    assert model.batches == [16]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000, ""])
def test_long_metadata_are_cut_in_messages(tmp_path, value):
    filled_cache(tmp_path, 3)
    path = only_shard(tmp_path)
    as_earlier_version(path, model=value)
    with pytest.raises(CacheError, match="was made with model =") as caught:
        filled_cache(tmp_path)
    assert len(str(caught.value)) < 600
    assert path.exists(), "it may be the cache of another model"


def test_identity_with_a_lone_surrogate_can_be_stored(tmp_path):
    filled_cache(tmp_path, 3, name="caf\udce9")
    assert filled_cache(tmp_path, name="caf\udce9").num_frames == 3
    with pytest.raises(CacheError, match="made with name"):
        filled_cache(tmp_path, name="caf")


def test_header_holds_one_checksum_for_each_part_of_a_frame(tmp_path):
    parts_cache(tmp_path)
    header = read_header(only_shard(tmp_path))
    assert (len(header.checksums), header.parts_of_frame) == (12, 3)
    assert header.notes == ("the film is damaged",)
    assert json.loads(header.metadata["pts_seconds"]) == [0.0] * 4


def test_a_run_on_a_damaged_cache_gives_the_same_numbers(
    image_folder, needle_folder, tmp_path, caplog
):
    from vniah import Grid, load_model, run_sweep

    model, needles = load_model("reference-short", device="cpu"), load_needles(needle_folder)
    haystack, cache = open_haystack(image_folder), tmp_path / "cache"

    def logprobs(name):
        grid, output = Grid.parse("6", "0,1"), tmp_path / name
        results = run_sweep(
            model, haystack, needles, grid, output=output, cache=cache, progress=False
        )
        return [sample.logprob for sample in results.samples]

    whole = logprobs("whole")
    for path in cache.rglob("frames-*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-2000:] = bytes(2000)  # a page of zeros
        path.write_bytes(content)
    caplog.clear()
    assert logprobs("mended") == whole
    damaged = [line for line in caplog.messages if "is damaged" in line]
    assert len(damaged) == 2, "the frames and the needles"
