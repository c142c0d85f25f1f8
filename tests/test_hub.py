"""Checkpoints of the hub are what was downloaded; nothing is fetched here."""

import hashlib
from pathlib import Path

import pytest
from caches import flip_bit

from vniah import load_model
from vniah.errors import ModelError
from vniah.files import embedded_dir, hash_file


@pytest.fixture
def snapshot(tmp_path, monkeypatch) -> Path:
    """A repository as the hub's client keeps it: blobs by their hash, and links to them."""
    source, blobs = embedded_dir("models", "reference-short"), tmp_path / "blobs"
    folder = tmp_path / "snapshots" / ("c0ffee" * 7)[:40]
    blobs.mkdir()
    for path in source.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            of_git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            name = hash_file(path) if path.suffix == ".safetensors" else of_git
            (blobs / name).write_bytes(content)
            link = folder / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blobs / name)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    return folder


def test_whole_snapshot_is_loaded(snapshot):
    assert load_model("someone/model").revision == snapshot.name


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "vision_tower/config.json"]
)
@pytest.mark.parametrize("position", [50, -1])
def test_snapshot_with_a_flipped_bit_is_refused(snapshot, name, position):
    flip_bit(snapshot / name, position)
    with pytest.raises(
        ModelError, match=r"is damaged: .* Delete .*blobs.* downloaded anew"
    ) as found:
        load_model("someone/model")
    assert name in str(found.value) and "\n" not in str(found.value)


def test_cut_weights_are_refused(snapshot):
    weights = snapshot / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        load_model("someone/model")


def test_files_without_a_known_hash_are_taken_as_they_are(snapshot):
    """Where the system makes no links, the client keeps copies."""
    for link in [path for path in snapshot.rglob("*") if path.is_file()]:
        content = link.read_bytes()
        link.unlink()
        link.write_bytes(content)
    assert load_model("someone/model").name == "someone/model"


@pytest.mark.parametrize("name", ["a/b..c", "a/b--c", "a/b.", "ü/x", f"a/{'b' * 100}"])
def test_a_name_that_no_repository_can_have_is_one_line(name):
    with pytest.raises(
        ModelError, match="is no folder here, and the hub does not give it"
    ) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)
