"""Models and needle sets that come with vniah are those that were released, or are refused."""

import shutil
from pathlib import Path

import pytest

import vniah.models.loading
import vniah.needles.loading
from vniah import load_model, load_needles
from vniah.errors import ModelError, NeedleError
from vniah.files import embedded_dir
from vniah.models.loading import embedded_models

MODEL = "reference-short"


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A copy of a model and a needle set, from which vniah reads what comes with it."""
    for kind, name in (("models", MODEL), ("needles", "cards")):
        shutil.copytree(embedded_dir(kind, name), tmp_path / kind / name)
    for module in (vniah.models.loading, vniah.needles.loading):
        monkeypatch.setattr(module, "embedded_dir", lambda *parts: tmp_path.joinpath(*parts))
    return tmp_path


def test_every_model_in_the_folder_has_a_known_hash():
    folders = {path.parent.name for path in embedded_dir("models").glob("*/config.json")}
    assert folders == set(embedded_models())


def test_whole_copies_are_read(data):
    (data / "models" / MODEL / "README.md").write_text("a text that decides nothing")
    assert load_model(MODEL).name == MODEL
    assert load_needles("cards").name == "cards"


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("model.safetensors", -1),
        ("model.safetensors", 3000),
        ("config.json", 40),
        ("tokenizer.json", 500),
        ("vision_tower/preprocessor_config.json", -3),
    ],
)
def test_model_with_one_flipped_bit_is_refused(data, name, position):
    flip_bit(data / "models" / MODEL / name, position)
    with pytest.raises(ModelError, match=f"{MODEL}, which comes with vniah, is damaged") as caught:
        load_model(MODEL)
    assert "Install vniah again" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_model_that_lacks_a_file_is_refused(data, name):
    (data / "models" / MODEL / name).unlink()
    with pytest.raises(ModelError, match=r"is damaged: .* Install vniah again"):
        load_model(MODEL)


def test_model_with_another_models_weights_is_refused(data):
    other = embedded_dir("models", "reference-short-large-base")
    shutil.copy(other / "model.safetensors", data / "models" / MODEL / "model.safetensors")
    with pytest.raises(ModelError, match=r"is damaged: the hash of the files"):
        load_model(MODEL)


@pytest.mark.parametrize(
    ("old", "new"), [("e", "a"), ('"answer"', '"answers"'), ("{", ""), (".png", ".jpg")]
)
def test_needle_set_with_another_text_is_refused(data, old, new):
    path = data / "needles" / "cards" / "metadata.jsonl"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(NeedleError, match=r"cards, which comes with vniah, is damaged: .* again"):
        load_needles("cards")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"the card colored red"', '"the card colored wed"'),
        ('["card-orange-2", "card-purple-4"', '["card-purple-4", "card-orange-2"'),
        ('"locator"', '"locater"'),
    ],
)
def test_needle_set_with_other_distractors_or_locators_is_refused(data, old, new):
    path = data / "needles" / "cards" / "metadata.jsonl"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(NeedleError, match=r"the sha256 of its distractors and locators is"):
        load_needles("cards")


def test_needle_set_with_another_distractor_is_refused(data):
    folder = data / "needles" / "cards"
    shutil.copy(folder / "card-cyan-1.png", folder / "card-white-8.png")
    with pytest.raises(NeedleError, match=r"the sha256 of its distractors and locators is"):
        load_needles("cards")


def test_needle_set_with_another_picture_is_refused(data):
    folder = data / "needles" / "cards"
    shutil.copy(folder / "sign-star-blue.png", folder / "card-red-7.png")
    with pytest.raises(NeedleError, match=r"is damaged: its sha256 is"):
        load_needles("cards")


def test_needle_set_with_a_cut_picture_is_refused(data):
    picture = next((data / "needles" / "cards").glob("**/*.png"))
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(NeedleError, match=r"is damaged: .* again"):
        load_needles("cards")
