"""The vision tower is read when the first frame is encoded, and the decoder never by `encode`."""

import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import spoil_weights
from needle_sets import numbered_needles

from vniah import Grid, run_sweep
from vniah.cli import main
from vniah.embeddings.encode import encode_haystack
from vniah.errors import ModelError
from vniah.haystacks.haystack import open_haystack
from vniah.models.deferred import ReadsEncoderLater
from vniah.models.llava.model import LlavaModel
from vniah.models.loading import load_folder, load_model

ENCODER = ("vision_tower", "mm_projector")


def load_as_before(folder: Path, **options) -> LlavaModel:
    """A model whose revision is not a hash over its files, as one of the hub."""
    model = load_folder(folder, name="tiny", revision="1", **options)
    assert isinstance(model, LlavaModel)
    return model


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


@pytest.fixture
def sweep(image_folder, tmp_path):
    """Runs a sweep that shows frames, needles, distractors, and both drawn into frames."""
    haystack, needles = open_haystack(image_folder), numbered_needles(2, distractors=2)

    def run(model, output: str, frames: str = "2,4"):
        return run_sweep(
            model,
            haystack,
            needles,
            Grid.parse(frames, "0,1"),
            task="vniah-d",
            task_options={"needle_style": "blended"},
            output=tmp_path / output,
            cache=tmp_path / "cache",
            controls="all",
            progress=False,
        )

    return run


def test_sweep_whose_pictures_are_cached_reads_no_tower(sweep, checkpoint, tmp_path):
    whole = load_as_before(checkpoint)
    expected = sweep(whole, "first")
    assert whole.encoder_is_read
    spoilt = copied(checkpoint, tmp_path / "spoilt")
    spoil_weights(spoilt, lambda name: any(part in name for part in ENCODER))
    alone = load_as_before(spoilt)
    found = sweep(alone, "second")
    assert not alone.encoder_is_read
    assert next(alone._projector.parameters()).is_meta
    assert all(weight.is_meta for weight in alone._reader.tower.module.parameters())
    assert found.num_done == found.num_planned
    for one, other in ((found.samples, expected.samples), controls_of(found, expected)):
        logprobs = [sample.logprob for sample in one]
        assert logprobs == [sample.logprob for sample in other]
        assert logprobs and None not in logprobs
    with pytest.raises(ModelError, match="numbers that are not finite"):
        sweep(alone, "third", frames="2,5")


def controls_of(*results):
    return [run.control_samples for run in results]


def test_one_missing_frame_has_the_tower_read_once(sweep, checkpoint, monkeypatch):
    sweep(load_as_before(checkpoint), "first")
    model, read = load_as_before(checkpoint), []
    whole = model._encoder._read
    monkeypatch.setattr(model._encoder, "_read", lambda: (read.append(1), whole()))
    assert not model.encoder_is_read
    sweep(model, "second", frames="2,20")
    assert model.encoder_is_read and read == [1]


def test_encode_reads_no_decoder(checkpoint, image_folder, tmp_path, capsys):
    folder = copied(checkpoint, tmp_path / "a" / "tiny")
    spoil_weights(folder, lambda name: not any(part in name for part in ENCODER))
    arguments = ["encode", "--model", str(folder), "--device", "cpu", "--dtype", "bfloat16"]
    arguments += ["--haystack", str(image_folder), "--frames", "12"]
    assert main(arguments) == 0
    model = load_model(folder, dtype="bfloat16", device="cpu")
    cache = encode_haystack(model, open_haystack(image_folder), 12)
    assert cache.num_frames == 12 and cache.read(11, 12).dtype == torch.bfloat16
    assert not model.encoder_is_read
    assert str(cache.directory) in capsys.readouterr().out
    assert main(arguments) == 0
    assert "nothing to do: 12 frames are already encoded" in capsys.readouterr().out


def test_files_that_changed_meanwhile_are_not_joined(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path / "checkpoint")
    model = load_as_before(folder)
    spoil_weights(folder, lambda name: name == "lm_head.weight")
    for _ in range(2):
        with pytest.raises(ModelError, match="have changed since the model was loaded"):
            model.read_encoder()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no .* weights"):
        model.read_encoder()


def test_tower_that_cannot_be_used_is_refused_every_time(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path / "checkpoint")
    spoil_weights(folder, lambda name: "mm_projector" in name)
    model = load_as_before(folder)
    assert isinstance(model, ReadsEncoderLater)
    for _ in range(2):
        with pytest.raises(ModelError, match="numbers that are not finite"):
            model.read_encoder()


def test_weights_read_in_inference_mode_are_ordinary(checkpoint):
    model = load_as_before(checkpoint)
    with torch.inference_mode():
        model.read_encoder()
    assert not any(weight.is_inference() for weight in model._reader.tower.module.parameters())
