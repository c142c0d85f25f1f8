"""Files of generated films are those that were drawn, or are drawn again, or refused."""

import json

import pytest
from caches import flip_bit

import vniah.haystacks.generated as films
from vniah.errors import HaystackError
from vniah.files import hash_file
from vniah.haystacks.generated import Recipe, draw_parts, require_as_drawn
from vniah.haystacks.haystack import make_haystack, open_haystack


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A film of two parts of 2 s."""
    monkeypatch.setattr(films, "PART_SECONDS", 2)
    draw(tmp_path / "film")
    return tmp_path / "film"


def draw(folder):
    return draw_parts(folder, Recipe(3), seconds=4, on_progress=None)


@pytest.mark.parametrize("position", [0, 40, 2000, -1])
def test_a_part_with_a_flipped_bit_is_named_and_drawn_again(folder, caplog, position):
    part = folder / "part-001.mp4"
    whole = part.read_bytes()
    flip_bit(part, position)
    assert draw(folder)[1].read_bytes() == whole
    (line,) = caplog.messages
    assert str(part) in line and "drawn again" in line


def test_swapped_parts_are_drawn_again(folder, caplog):
    parts = [path.read_bytes() for path in draw(folder)]
    for path, content in zip(draw(folder), reversed(parts), strict=True):
        path.write_bytes(content)
    assert [path.read_bytes() for path in draw(folder)] == parts
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 5000,
        b'{"generator": "vniah.synthetic", "recipe": {}, "sha256": []}',
        b'{"generator": "vniah.synthetic", "recipe": {}, "sha256": {"part-000.mp4": 7}}',
        b'{"recipe": 1, "recipe": 2}',
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_with_a_damaged_manifest_the_film_is_drawn_again(folder, caplog, content):
    parts = [path.read_bytes() for path in draw(folder)]
    manifest = folder / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(content)
    assert [path.read_bytes() for path in draw(folder)] == parts
    assert manifest.read_bytes() == whole
    (line,) = caplog.messages
    assert str(manifest) in line and "\n" not in line and len(line) < 600


def test_every_bit_of_the_manifest_that_matters_is_noticed(folder, caplog):
    """Either the film is drawn again, or the manifest says the same as before."""
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_bytes())
    flip_bit(manifest, manifest.read_bytes().index(b"sha256") + 40)
    draw(folder)
    assert caplog.messages
    assert json.loads(manifest.read_bytes()) == content


@pytest.fixture
def made(tmp_path):
    return make_haystack(tmp_path / "made.mp4", seconds=2)


def test_a_made_film_is_the_one_that_its_manifest_describes(made):
    require_as_drawn(made, hash_file(made))
    flip_bit(made, -1)
    with pytest.raises(HaystackError, match=r"made.mp4 is not the film that made.json describes"):
        require_as_drawn(made, hash_file(made))


@pytest.mark.parametrize("position", [-1, 5000])
def test_a_damaged_made_film_is_refused_as_a_haystack(made, position):
    assert open_haystack(made).kind == "video"
    flip_bit(made, position)
    with pytest.raises(HaystackError, match="One of the two is damaged"):
        open_haystack(made)


@pytest.mark.parametrize("cut", [60, 200])
def test_a_made_film_with_a_damaged_manifest_is_refused(made, cut):
    manifest = made.with_suffix(".json")
    manifest.write_bytes(manifest.read_bytes()[:cut])
    with pytest.raises(HaystackError, match=r"made.json cannot be read as JSON.*remove made.json"):
        require_as_drawn(made, hash_file(made))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"generator": "another"}'])
def test_other_files_beside_a_video_do_not_matter(made, content):
    made.with_suffix(".json").write_bytes(content)
    require_as_drawn(made, "0" * 64)


def test_a_film_under_another_name_has_no_manifest(made):
    renamed = made.rename(made.with_name("other.mp4"))
    require_as_drawn(renamed, "0" * 64)
    made.with_suffix(".json").rename(renamed.with_suffix(".json"))
    require_as_drawn(renamed, "0" * 64)
