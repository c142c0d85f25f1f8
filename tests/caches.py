"""Small embedding caches, and what can happen to their files."""

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vniah.embeddings.cache import EmbeddingCache
from vniah.embeddings.shards import WITHOUT_CHECKSUMS
from vniah.protocol import TextSegment, TokenSequence

SHAPE = (2, 3)


class MeanModel:
    """Encodes a frame as its mean colour, and remembers what it was asked."""

    name, revision, frame_shape = "mean", "1", SHAPE

    def __init__(self, *, fail_after: int | None = None):
        self.batches = []
        self.fail_after = fail_after

    def encode_frames(self, frames):
        if self.fail_after is not None and len(self.batches) >= self.fail_after:
            raise KeyboardInterrupt
        self.batches.append(len(frames))
        means = torch.tensor(np.stack([frame.mean((0, 1)) for frame in frames])).float()
        return means[:, None].repeat(1, 2, 1)

    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((0,)), *frames), (1,))

    def answer_logits(self, sequence, embeds):
        return torch.zeros(1, 2)


def numbers(start: int, stop: int) -> torch.Tensor:
    return torch.arange(start, stop).float()[:, None, None].expand(-1, *SHAPE).clone()


def filled_cache(folder, *sizes, **identity) -> EmbeddingCache:
    cache = EmbeddingCache(folder, {"model": "m", **identity}, SHAPE)
    for size in sizes:
        start = cache.num_frames
        cache.append(numbers(start, start + size), [float(k) for k in range(size)], [])
    return cache


def only_shard(folder: Path) -> Path:
    (path,) = folder.glob("frames-*.safetensors")
    return path


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def as_earlier_version(path: Path, **changes: str) -> None:
    """Writes a shard again as version 0.1 wrote it, without checksums."""
    with safe_open(path, framework="pt") as file:
        metadata, tensor = file.metadata(), file.get_tensor("frames").clone()
    kept = {key: text for key, text in metadata.items() if not key.startswith("xxh3")}
    del kept["first_frame"]
    save_file({"frames": tensor}, path, {**kept, "format_version": WITHOUT_CHECKSUMS, **changes})
