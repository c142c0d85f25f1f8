"""MiniCPM-V 4.6: both of its rates of merging patches, and the tokens that its tokenizer names."""

import json

import numpy as np
import pytest
import torch
from families import build, pictures

from vniah.errors import ModelError
from vniah.models.loading import load_folder
from vniah.options import LoadOptions
from vniah.protocol import FrameSegment


@pytest.mark.parametrize(("mode", "num_tokens"), [("16x", 4), ("4x", 16)])
def test_tokens_follow_the_mode_of_the_configuration(mode, num_tokens, tmp_path):
    tiny = build("minicpmv4_6")
    tiny.model.config.downsample_mode = mode
    folder = tiny.save(tmp_path / "checkpoint")
    model = load_folder(folder, name="tiny", options=LoadOptions(frame_size=(112, 112)))
    shown = pictures(3, (112, 112))
    embeds = model.encode_frames([np.array(one) for one in shown])
    assert tuple(embeds.shape[1:]) == model.frame_shape == (num_tokens, 64)
    frames = [FrameSegment("haystack", index) for index in range(3)]
    sequence = model.compose(frames, "Which digit is red?", "It is 7")
    ids = [
        torch.tensor(segment.token_ids) if hasattr(segment, "token_ids") else model._frame_ids()
        for segment in sequence.inputs
    ]
    processed = tiny.image_processor(
        images=shown, max_slice_nums=1, downsample_mode=mode, return_tensors="pt"
    )
    with torch.inference_mode():
        own = tiny.model(
            input_ids=torch.cat(ids)[None],
            pixel_values_videos=processed["pixel_values"],
            target_sizes_videos=processed["target_sizes"],
        ).logits[0, -len(sequence.answer_ids) :]
    assert (model.answer_logits(sequence, embeds) - own).abs().max() < 1e-4
    spelled = "".join(model.spell(part.tolist()) for part in ids)
    assert "<image_id>" not in spelled and spelled.count("<image>") == 3


def test_frame_size_fits_the_patches_that_become_one_token(tmp_path):
    folder = build("minicpmv4_6").save(tmp_path / "checkpoint")
    assert load_folder(folder, name="tiny").frame_size == (112, 112)
    with pytest.raises(ModelError, match=r"of 56 pixels .* got 100x56; the nearest is 112x56"):
        load_folder(folder, name="tiny", options=LoadOptions(frame_size=(100, 56)))


def test_token_that_the_tokenizer_does_not_name_is_one_line(tmp_path):
    folder = build("minicpmv4_6").save(tmp_path / "checkpoint")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("image_start_token")
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="tiny names no image_start_token; its tokenizer_config"):
        load_folder(folder, name="tiny")
