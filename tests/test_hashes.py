"""Hashes of large files that are kept: a file that may have changed is read again."""

import hashlib
import os
import shutil
import time

import pytest

from vniah.embeddings.inventory import find_cached, remove
from vniah.haystacks import hashes
from vniah.haystacks.hashes import hash_unchanged


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the files that are read for their hashes."""
    names: list[str] = []
    plain = hashes.hash_file

    def hash_file(path):
        names.append(path.name)
        return plain(path)

    monkeypatch.setattr(hashes, "hash_file", hash_file)
    return names


@pytest.fixture
def settled(monkeypatch) -> None:
    """Time has passed since files were written, and none is too young to be believed."""
    monkeypatch.setattr(hashes, "_SETTLED_SECONDS", -1)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(tmp_path, read):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    assert [hash_unchanged(path) for _ in range(3)] == [sha256(b"one")] * 3
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    assert hash_unchanged(tmp_path / "link.mp4") == sha256(b"one")
    assert read == ["a.mp4"]


def written(path):
    path.write_bytes(b"two")


def written_with_its_old_time(path):
    before = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced_with_its_old_time(path):
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def moved_from_elsewhere(path):
    other = path.with_name("other")
    other.write_bytes(b"two")
    shutil.move(path, path.with_name("gone"))
    shutil.move(other, path)


CHANGES = (written, written_with_its_old_time, replaced_with_its_old_time, moved_from_elsewhere)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_of_the_same_size_is_noticed(change, tmp_path, read):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    assert hash_unchanged(path) == sha256(b"one")
    time.sleep(0.005)  # a tick of the file system's clock
    change(path)
    assert hash_unchanged(path) == sha256(b"two")
    assert read == ["a.mp4", "a.mp4"]


def test_a_file_that_was_just_written_is_read_each_time(tmp_path, read, own_cache):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    assert hash_unchanged(path) == hash_unchanged(path) == sha256(b"one")
    assert read == ["a.mp4"] * 2 and not (own_cache / "hashes").exists()


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch, own_cache):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    plain = hashes.hash_file

    def hash_file(given):
        found = plain(given)
        given.write_bytes(b"longer")
        return found

    monkeypatch.setattr(hashes, "hash_file", hash_file)
    hash_unchanged(path)
    assert not (own_cache / "hashes").exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"path": 1}', b"\xff" * 99])
def test_what_is_kept_may_be_damaged(content, tmp_path, own_cache):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    hash_unchanged(path)
    (kept,) = (own_cache / "hashes").iterdir()
    kept.write_bytes(content)
    assert hash_unchanged(path) == sha256(b"one")


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_keeps_nothing(tmp_path, own_cache):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    (own_cache / "hashes").write_text("no folder")
    assert hash_unchanged(path) == sha256(b"one")


@pytest.mark.usefixtures("settled")
def test_what_is_kept_is_listed_and_can_be_removed(tmp_path, own_cache):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    hash_unchanged(path)
    (found,) = find_cached(own_cache)
    assert (found.source, found.model, len(found.files)) == ("hashes of videos", None, 1)
    assert remove(found.everything, found.path) > 0 and not found.path.exists()
