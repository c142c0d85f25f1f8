"""Qwen3.5: checkpoints hold a head that predicts several tokens, which no logits depend on."""

import numpy as np
import torch
from families import build, pictures
from safetensors.torch import load_file, save_file

from vniah.models.loading import load_folder
from vniah.options import LoadOptions
from vniah.protocol import FrameSegment


def test_head_for_several_tokens_is_left_aside(tmp_path):
    """As published: ``mtp`` weights beside the model's own, for speculative decoding."""
    tiny = build("qwen3_5")
    options = LoadOptions(frame_size=tiny.frame_size)
    folder = tiny.save(tmp_path / "checkpoint")
    frame = np.array(pictures(1, tiny.frame_size)[0])

    def logits():
        model = load_folder(folder, name="tiny", options=options)
        sequence = model.compose([FrameSegment("haystack", 0)], "Which?", "Red")
        return model.answer_logits(sequence, model.encode_frames([frame]))

    without = logits()
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights |= {
        "mtp.fc.weight": torch.ones(4, 4),
        "mtp.layers.0.self_attn.q_proj.weight": torch.ones(4, 4),
        "mtp.norm.weight": torch.ones(4),
    }
    save_file(weights, path, metadata={"format": "pt"})
    assert torch.equal(logits(), without)
