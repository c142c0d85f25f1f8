"""``vniah cache``: what is listed, what is removed, and what stays."""

import os
import shutil
import time

import pytest
import torch
from caches import MeanModel, as_earlier_version, flip_bit, numbers
from safetensors.torch import save_file

import vniah.embeddings.encode
import vniah.haystacks.generated
from vniah.cli import main
from vniah.cli.display import scaled
from vniah.embeddings.encode import encode_haystack, encode_needles
from vniah.embeddings.inventory import find_cached
from vniah.haystacks.generated import Recipe, draw_parts
from vniah.haystacks.haystack import open_haystack
from vniah.models.contents import fingerprint
from vniah.models.packaged import packaged_folder
from vniah.needles import load_needles


@pytest.fixture
def encoded(image_folder, monkeypatch):
    """The folder of 40 encoded frames in three shards, in the default place."""
    monkeypatch.setattr(vniah.embeddings.encode, "_MAX_SHARD_FRAMES", 16)
    return encode_haystack(MeanModel(), open_haystack(image_folder), 40).directory


@pytest.fixture
def film(own_cache, monkeypatch):
    """A film of two parts, in the default place."""
    monkeypatch.setattr(vniah.haystacks.generated, "PART_SECONDS", 2)
    folder = own_cache / "haystacks" / "generated-v1-seed5"
    draw_parts(folder, Recipe(5), seconds=4, on_progress=None)
    return folder


def run(capsys, *arguments):
    assert main(["cache", *arguments]) == 0
    return capsys.readouterr().out


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def make_old(folder, days):
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - days * 86400,) * 2)


def test_list_shows_frames_needles_and_films(capsys, own_cache, encoded, film, needle_folder):
    encode_needles(MeanModel(), load_needles(needle_folder))
    out = run(capsys, "list")
    lines = out.splitlines()
    assert lines[0] == f"caches in {own_cache}"
    frames, needles, drawn = sorted(
        lines[3:6], key=lambda line: ("(film)" in line, "needles" in line)
    )
    assert frames.split()[:4] == ["mean", "images", frames.split()[2], "40"] and " yes " in frames
    assert frames.endswith(f"embeddings/{encoded.name}")
    assert "needles" in needles and " 3 " in needles
    assert drawn.startswith("(film)") and "generated, seed 5" in drawn
    assert lines[-1].endswith("in 3 folders")


def test_list_of_nothing(capsys, own_cache, tmp_path):
    assert run(capsys, "list") == f"nothing is cached in {own_cache}\n"
    assert main(["cache", "list", "--cache", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_list_tells_which_shards_carry_checksums(capsys, encoded):
    paths = sorted(encoded.glob("frames-*"))
    as_earlier_version(paths[0])
    assert "2 of 3 files" in run(capsys, "list")
    for path in paths[1:]:
        as_earlier_version(path)
    assert " no " in run(capsys, "list", "--verify")


def test_verify_finds_what_a_glance_does_not(capsys, encoded, film):
    assert run(capsys, "list", "--verify").count("verified") == 2
    flip_bit(sorted(encoded.glob("frames-*"))[1], -1)
    flip_bit(film / "part-001.mp4", -1)
    assert "damaged" not in run(capsys, "list")
    assert run(capsys, "list", "--verify").count("verified, 1 damaged") == 2


@pytest.mark.parametrize("position", [-1, 300, 9])
def test_prune_damaged_removes_what_is_damaged_alone(capsys, own_cache, encoded, film, position):
    path = sorted(encoded.glob("frames-*"))[1]
    shutil.copy(path, encoded / "frames-00000000-00000016.safetensors.damaged")
    flip_bit(path, position)
    flip_bit(film / "part-000.mp4", 1000)
    before = files_in(own_cache)
    out = run(capsys, "prune", "--damaged", "--dry-run")
    assert "would remove 2 files" in out and "would remove 1 file," in out
    assert files_in(own_cache) == before
    assert "removed 2 files" in run(capsys, "prune", "--damaged")
    gone = set(before) - set(files_in(own_cache))
    assert gone == {path.name, "frames-00000000-00000016.safetensors.damaged", "part-000.mp4"}
    assert run(capsys, "prune", "--damaged") == "freed 0 B\n"


def test_prune_all_leaves_what_vniah_did_not_write(capsys, own_cache, encoded, film):
    foreign = {
        encoded / "notes.txt": b"mine",
        encoded / "frames-1.safetensors": b"mine",
        encoded / "frames-00000016-00000020.safetensors.bak": b"mine",
        encoded / "photo.damaged": b"mine",
        film / "part-7.mp4": b"mine",
        film / "part-009.mp4": b"in no manifest",
        own_cache / "manifest.json": b"{}",
    }
    for path, content in foreign.items():
        path.write_bytes(content)
    another = encoded / "frames-00000100-00000103.safetensors"
    save_file({"frames": numbers(0, 3)}, another, {"by": "another program"})
    alone = own_cache / "alone" / "frames-00000000-00000003.safetensors"
    alone.parent.mkdir()
    alone.write_bytes(b"not readable as a shard")
    outside = own_cache.parent / f"{own_cache.name}-outside"
    shutil.copytree(encoded, outside)
    (own_cache / "link").symlink_to(outside)
    (encoded / ".frames-00000040-00000048.safetensors.01234567.vniah.tmp").write_bytes(b"half")
    assert "freed" in run(capsys, "prune", "--all")
    stays = [*(path.name for path in foreign), another.name, alone.name]
    assert files_in(own_cache) == sorted(stays)
    assert len(files_in(outside)) == 3 + 5, "links to other folders are not followed"


def test_prune_removes_folders_that_become_empty(capsys, own_cache, encoded, film):
    out = run(capsys, "prune", "--all")
    assert not encoded.exists() and not film.exists()
    assert "removed 3 files" in out and out.splitlines()[-1].startswith("freed ")
    assert list(find_cached(own_cache)) == []


def test_prune_older_than_goes_by_the_last_use(capsys, encoded, film, image_folder):
    make_old(encoded, 10)
    make_old(film, 3)
    assert run(capsys, "prune", "--older-than", "20") == "freed 0 B\n"
    encode_haystack(MeanModel(), open_haystack(image_folder), 30)  # is a use, and writes nothing
    run(capsys, "prune", "--older-than", "5")
    assert encoded.exists() and film.exists()
    make_old(encoded, 10)
    run(capsys, "prune", "--older-than", "5")
    assert not encoded.exists() and film.exists()
    run(capsys, "prune", "--older-than", "2.5")
    assert not film.exists()


def test_prune_looks_into_a_given_folder_alone(capsys, encoded, image_folder, tmp_path):
    own = tmp_path / "own"
    encode_haystack(MeanModel(), open_haystack(image_folder), 16, directory=own)
    assert "removed 1 file, " in run(capsys, "prune", "--all", "--cache", str(own))
    assert encoded.exists() and not own.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of the arguments --older-than --damaged --all is required"),
        (("--all", "--damaged"), "not allowed with argument"),
        (("--older-than", "-1"), "must be at least 0 days, got -1"),
        (("--older-than", "soon"), "must be one number"),
    ],
)
def test_invalid_arguments_are_one_line(capsys, encoded, arguments, message):
    assert main(["cache", "prune", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert encoded.exists()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (4_250_000, "4.25 MB")],
)
def test_bytes_have_three_digits_and_a_prefix(number, text):
    assert scaled(number, "B") == text


# --- fetched models ------------------------------------------------------------------------------


@pytest.fixture
def model(own_cache):
    """A folder as `vniah.models.packaged.fetch` makes it, with weights of 2 kB."""
    folder = packaged_folder("smollm2")
    folder.mkdir(parents=True)
    save_file({"w": torch.zeros(500)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "FINGERPRINT").write_text(fingerprint(folder) + "\n")
    return folder


def test_list_shows_fetched_models(capsys, own_cache, encoded, model):
    lines = run(capsys, "list").splitlines()
    (line,) = (line for line in lines if line.startswith("smollm2"))
    assert "(the model itself)" in line and line.endswith(f"models/{model.name}")
    assert " yes " in line and lines[-1].endswith("in 2 folders")
    assert " verified " in run(capsys, "list", "--verify").split("smollm2")[1]
    flip_bit(model / "model.safetensors", -1)
    assert " damaged " in run(capsys, "list", "--verify").split("smollm2")[1]


@pytest.mark.parametrize("which", [["--all"], ["--older-than", "30"]])
def test_prune_keeps_fetched_models_unless_told(which, capsys, own_cache, encoded, model):
    for folder in (encoded, model):
        make_old(folder, 40)
    out = run(capsys, "prune", *which)
    assert "kept the model smollm2, 2." in out and "add --models to remove it" in out
    assert model.is_dir() and not encoded.exists()
    assert "would remove the model smollm2" in run(capsys, "prune", *which, "--models", "--dry-run")
    assert model.is_dir()
    out = run(capsys, "prune", *which, "--models")
    assert "removed the model smollm2, 2." in out and files_in(own_cache) == []
    assert run(capsys, "list") == f"nothing is cached in {own_cache}\n"


def test_prune_by_age_leaves_models_that_were_read_since(capsys, model):
    out = run(capsys, "prune", "--older-than", "30", "--models")
    assert "smollm2" not in out and model.is_dir()


def test_prune_removes_damaged_models_and_stopped_downloads(capsys, own_cache, model):
    stopped, running = model.with_name(".smollm2-abc"), model.with_name(".smollm2-xyz")
    for folder in (stopped, running):
        folder.mkdir()
        (folder / "wheel").write_bytes(b"1234")
    os.utime(stopped, (time.time() - 7200,) * 2)
    assert "(a download that was stopped)" in run(capsys, "list")
    out = run(capsys, "prune", "--damaged")
    assert "removed a stopped download of the model smollm2, 4 B" in out
    assert model.is_dir() and running.is_dir() and not stopped.exists()
    (model / "config.json").write_text("{}")
    assert "removed the model smollm2" in run(capsys, "prune", "--damaged")
    assert not model.exists() and running.is_dir()


def test_folders_that_look_like_models_are_left_alone(capsys, own_cache, tmp_path):
    for name in ("smollm2-mine", "smollm2-0123456789abcdef", "other-0123456789abcdef"):
        (own_cache / "models" / name).mkdir(parents=True)
    (tmp_path / "FINGERPRINT").write_text("0")
    (own_cache / "models" / "smollm2-fedcba9876543210").symlink_to(tmp_path)
    assert run(capsys, "list").startswith("nothing is cached")
    run(capsys, "prune", "--all", "--models")
    assert len(list((own_cache / "models").iterdir())) == 4 and (tmp_path / "FINGERPRINT").is_file()
