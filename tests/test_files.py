"""Files are whole or not there, and what is stored under a hash or a name is found again."""

import errno
import os
from pathlib import Path

import pytest

from vniah.embeddings import batches
from vniah.errors import ResultsError
from vniah.files import atomic_path, hash_file, hash_settings, hash_text, slug, what_to_do
from vniah.haystacks.generated import Recipe
from vniah.results.sample_file import writing_to


def test_atomic_path_renames_what_was_written(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent and not path.exists()
    assert [(found.name, found.read_text()) for found in path.parent.iterdir()] == [
        ("a.txt", "whole")
    ]


def test_atomic_path_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise ZeroDivisionError
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as one, atomic_path(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the block that ended last
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_who_holds_the_lock_replaces_what_a_killed_process_left(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path, is_locked=True) as temporary:
        pass_on = temporary
        temporary.write_text("first")
    pass_on.write_text("half of the sec")
    with atomic_path(path, is_locked=True) as temporary:
        temporary.write_text("second")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [
        ("a.txt", "second")
    ]


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="only POSIX flushes folders")
def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    path, flushed = tmp_path / "a.txt", []

    def fsync(descriptor: int) -> None:
        kept = Path(f"/proc/self/fd/{descriptor}").resolve()
        flushed.append((kept == tmp_path, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
    assert flushed == [(False, False), (True, True)]


# Caches and run folders of earlier versions are found by these, so the values never change.


def test_hash_of_a_file_is_that_of_sha256sum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_file(tmp_path / "a") == hash_text("abc") == known


def test_hash_of_settings_does_not_depend_on_their_order():
    settings = {"model": "LongVA 7B", "grid": {"frames": [8, 16]}, "name": "Nadel 针"}
    assert hash_settings(settings)[:12] == "f2df3b2f2bc5"
    assert hash_settings(dict(reversed(settings.items()))) == hash_settings(settings)


def test_hash_of_a_recipe():
    assert hash_text(Recipe(7, 8, (96, 96), generator_version=1).to_json())[:12] == "8fbfc25698c3"


def test_folder_of_an_embedding_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VNIAH_CACHE", str(tmp_path))
    identity = {"model": "m", "dtype": "float32"}
    found = batches._folder(identity, "lmms-lab/LongVA-7B-film (1).mp4")
    assert found == tmp_path / "embeddings" / "lmms-lab_LongVA-7B-film_1_.mp4-22a7564d1885"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lmms-lab/LongVA-7B", "lmms-lab_LongVA-7B"),
        ("my film (1).mp4", "my_film_1_.mp4"),
        ("Größe_针.v2", "Größe_针.v2"),
        ("../..", ".._.."),
    ],
)
def test_slug(text, name):
    assert slug(text) == name


@pytest.mark.parametrize(
    ("number", "is_full"),
    [
        *((number, False) for number in (errno.ENOTDIR, errno.EACCES, errno.EROFS, errno.ENOENT)),
        *((number, False) for number in (errno.ENAMETOOLONG, errno.EIO)),
        *((number, True) for number in (errno.ENOSPC, errno.EDQUOT)),
    ],
)
@pytest.mark.parametrize("holds", ["nothing", "a lock", "a file"])
def test_what_to_do_where_a_folder_cannot_be_written_to(tmp_path, number, is_full, holds):
    folder = tmp_path / "run"
    if holds != "nothing":
        folder.mkdir()
        (folder / (".lock" if holds == "a lock" else "samples.jsonl")).touch()
    error = OSError(number, os.strerror(number), str(folder))
    with pytest.raises(ResultsError) as raised, writing_to(folder):
        raise error
    text = str(raised.value)
    assert text.startswith(f"{folder} cannot be written to: {os.strerror(number)}")
    assert ("What was written is kept" in text) is (holds == "a file")
    assert ("free some space" in text) is is_full
    assert ("choose another --output" in text) is (holds != "a file")
    of_library = RuntimeError(f"I/O error: ... (os error {number})")
    assert what_to_do(of_library, folder, other="--output") == what_to_do(
        error, folder, other="--output"
    )
