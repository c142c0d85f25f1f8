"""Claim: without the vision tower a checkpoint is loaded in less time and memory.

Writes a random checkpoint in the original LLaVA layout: a tower of the width of CLIP-ViT-L/14-336,
by default with a quarter of its 24 layers, and the decoder of `benchmarks.forward_pass`. For each
way in turn, a process of its own loads it and reads a sequence with a frame encoded before.
Prints processor seconds, seconds and the peak of the memory, that of a process without a model
taken off, and whether the logits of both ways that give some are equal to the last bit.

    whole     everything is read, as for a run that lacks a frame
    language  all frames are in the cache, so the tower is not read
    encoder   `vniah encode`: the decoder is not read, and the frame is encoded

    python -m benchmarks.language_model_only [--tower-layers 6] [--repeats 3]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from benchmarks.forward_pass import build_decoder, status
from vniah.embeddings.cache import EmbeddingCache, FrameStore
from vniah.engines.inputs import decoder_logits
from vniah.models.loading import load_folder
from vniah.protocol import FrameSegment

WAYS = ("nothing", "whole", "language", "encoder")
TOWER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


def write_checkpoint(folder: Path, num_layers: int) -> None:
    """A random checkpoint in bfloat16, whose tokenizer knows a few words."""
    torch.manual_seed(0)
    tower_config = CLIPVisionConfig(**TOWER, num_hidden_layers=num_layers)
    decoder, tower = build_decoder(), CLIPVisionModel(tower_config)
    width = decoder.config.hidden_size
    projector = torch.nn.Linear(TOWER["hidden_size"], width)
    weights = dict(decoder.state_dict())
    weights |= {f"model.mm_projector.{k}": v for k, v in projector.state_dict().items()}
    prefix = "model.vision_tower.vision_tower.vision_model."
    weights |= {prefix + k.removeprefix("vision_model."): v for k, v in tower.state_dict().items()}
    weights = {
        k: (v.bfloat16() if v.is_floating_point() else v).contiguous().clone()
        for k, v in weights.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        **decoder.config.to_dict(),
        "model_type": "llava_qwen",
        "mm_vision_tower": "tower",
        "mm_projector_type": "linear",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tower_config.save_pretrained(folder / "tower")
    words = ["<unk>", "<|im_start|>", "<|im_end|>", "what", "?", "7"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    size = {"height": 336, "width": 336}
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 336},
        "crop_size": size,
    }
    (folder / "tower" / "preprocessor_config.json").write_text(json.dumps(preprocessing))


def run_one(way: str, folder: Path) -> None:
    """One way in this process; prints what it took, as JSON."""
    torch.set_num_threads(1)
    started, cpu = time.perf_counter(), time.process_time()
    logits: list[float] = []
    if way != "nothing":
        model = load_folder(folder, name="tiny", revision="1", has_decoder=way != "encoder")
        if way == "whole":
            model.read_encoder()
        cache = EmbeddingCache(folder / "cache", {"way": "all"}, model.frame_shape)
        if way == "encoder":
            frame = np.random.default_rng(0).integers(0, 256, (336, 336, 3), np.uint8)
            rows = model.encode_frames([frame]).cpu()
            if not cache.num_frames:
                cache.append(rows, [0.0], [])
        else:
            sequence = model.compose([FrameSegment("haystack", 0)], "what ?", "7")
            store = FrameStore({"haystack": (cache, 0)})
            logits = decoder_logits(model, sequence, store).flatten().tolist()
    took = {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - started}
    peak = status("VmHWM") / 1e6
    print(json.dumps({**took, "peak": peak, "logits": logits}))


def measure(way: str, folder: Path) -> dict:
    """One way in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--way", way, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures all ways and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tower-layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        run_one(options.way, options.folder)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_checkpoint(folder, options.tower_layers)
        size = (folder / "model.safetensors").stat().st_size / 1e6
        measure("encoder", folder)  # fills the cache
        print(f"checkpoint: {size:.0f} MB in bfloat16, read as float32")
        found = {way: [measure(way, folder) for _ in range(options.repeats)] for way in WAYS}
    empty = median(one["peak"] for one in found["nothing"])
    print(f"  {'way':10s}{'CPU s':>8s}{'s':>8s}{'peak MB':>10s}   above a process without a model")
    for way in WAYS[1:]:
        cpu, seconds, peak = (
            median(one[key] for one in found[way]) for key in ("cpu", "seconds", "peak")
        )
        print(f"  {way:10s}{cpu:8.2f}{seconds:8.2f}{peak - empty:10.0f}")
    logits = [one["logits"] for way in ("whole", "language") for one in found[way]]
    print(f"logits equal to the last bit: {all(one == logits[0] for one in logits)}")


if __name__ == "__main__":
    main()
