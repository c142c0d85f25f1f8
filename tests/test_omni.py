"""The thinkers of Qwen-Omni: without the audio tower, and out of the model that also speaks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import spoil_weights
from families import Tiny, build, pictures
from safetensors.torch import load_file, save_file

from vniah.errors import ModelError
from vniah.models.families import FAMILIES
from vniah.models.loading import load_folder
from vniah.options import LoadOptions
from vniah.protocol import FrameSegment

OMNI = [name for name in FAMILIES if "omni" in name]
THINKERS = [name for name in OMNI if name.endswith("thinker")]
QUESTION, ANSWER = "What digit is on the red card?", "It is 7"


def load(tiny: Tiny, folder: Path):
    options = LoadOptions(frame_size=tiny.frame_size)
    return load_folder(folder, name="tiny", options=options)


def logits_of(model, shown) -> torch.Tensor:
    frames = [FrameSegment("haystack", index) for index in range(len(shown))]
    sequence = model.compose(frames, QUESTION, ANSWER)
    return model.answer_logits(sequence, model.encode_frames([np.array(one) for one in shown]))


@pytest.mark.parametrize("model_type", OMNI)
def test_audio_tower_is_neither_read_nor_run(model_type, tmp_path):
    tiny = build(model_type)
    folder = tiny.save(tmp_path / "checkpoint")
    shown = pictures(3, tiny.frame_size)
    whole = logits_of(load(tiny, folder), shown)
    spoil_weights(folder, lambda name: "audio_tower" in name)
    model = load(tiny, folder)
    assert torch.equal(logits_of(model, shown), whole)
    assert model.encoder_is_read
    unread = {name for name, weight in model._model.named_parameters() if weight.is_meta}
    of_audio = {name for name, _ in model._model.named_parameters() if "audio_tower" in name}
    assert unread == of_audio and of_audio


@pytest.mark.parametrize("thinker", THINKERS)
def test_thinker_of_the_whole_model_is_the_thinker_alone(thinker, tmp_path):
    tiny, whole = build(thinker), build(thinker.removesuffix("_thinker"))
    alone = load(tiny, tiny.save(tmp_path / "alone"))
    inside = load(whole, whole.save(tmp_path / "inside"))
    shown = pictures(3, tiny.frame_size)
    assert torch.equal(logits_of(alone, shown), logits_of(inside, shown))
    assert inside.settings == alone.settings
    assert not any("talker" in name for name, _ in inside._model.named_parameters())


@pytest.mark.parametrize("thinker", THINKERS)
def test_weight_that_a_whole_model_lacks_is_named(thinker, tmp_path):
    whole = build(thinker.removesuffix("_thinker"))
    path = whole.save(tmp_path / "checkpoint") / "model.safetensors"
    weights = load_file(path)
    gone = "thinker.model.layers.2.self_attn.q_proj.weight"
    left = {name: weight for name, weight in weights.items() if name != gone}
    assert len(left) == len(weights) - 1
    save_file(left, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing keys: .*layers\.2\.self_attn\.q_proj"):
        load(whole, path.parent)


@pytest.mark.parametrize(("thinker", "seconds"), [(THINKERS[0], 25), (THINKERS[1], 13)])
def test_positions_grow_by_the_number_that_the_configuration_has_for_a_second(
    thinker, seconds, tmp_path
):
    tiny = build(thinker)
    model = load(tiny, tiny.save(tmp_path / "checkpoint"))
    frames = [FrameSegment("haystack", index) for index in range(40)]
    positions = model.position_ids(model.compose(frames, QUESTION, ANSWER))
    times = positions[0, (positions[0] != positions[1]) | (positions[0] != positions[2])].unique()
    assert torch.equal(times.diff(), torch.full((39,), seconds))
    assert positions[:, -1].min() > times.max()


@pytest.mark.parametrize("thinker", THINKERS)
def test_transformers_gives_frames_positions_of_text_without_a_mask(thinker, tmp_path):
    """Why `answer_logits` gives a mask, as the processor does; nothing is padded."""
    tiny = build(thinker)
    model = load(tiny, tiny.save(tmp_path / "checkpoint"))
    shown = pictures(3, tiny.frame_size)
    with_mask = logits_of(model, shown)
    own = model._own_arguments

    def without_mask(*args):
        return {key: value for key, value in own(*args).items() if key != "attention_mask"}

    model._own_arguments = without_mask
    assert (logits_of(model, shown) - with_mask).abs().max() > 0.1


@pytest.mark.parametrize("thinker", THINKERS)
def test_one_position_more_for_a_second_changes_the_logits(thinker, tmp_path):
    """So large are the weights of these tests that a small mistake shows."""
    tiny = build(thinker)
    model = load(tiny, tiny.save(tmp_path / "checkpoint"))
    shown = pictures(3, tiny.frame_size)
    right = logits_of(model, shown)
    model._model.config.position_id_per_seconds += 1
    assert (logits_of(model, shown) - right).abs().max() > 1e-2
