"""Claim: verifying encoded frames by checksums adds at most 3 % to what a sweep spends on reading.

Fills two embedding caches with the same random frames, one with checksums and one in the format of
earlier versions, without. Plans a grid, and reads from both, in turns in one process, exactly the
frames that the passes of the plan read, in pieces of 16 frames that are copied into a buffer, as a
pass does it. A cache is opened anew each time, so every run verifies every frame once, when it is
first read. Prints the fewest seconds of the processor and by the clock, and their ratio; and, since
other work on the machine can disturb a ratio by more than 3 %, what verifying alone took.

The same for every frame read just once, which no sweep does: there a frame is verified for each
time that it is copied, and that costs much more. The files are in the page cache of the system;
reading them from a disk takes longer, with and without checksums.

    python -m benchmarks.checksums [--frames 32:512:32] [--depths 0:1:0.2] [--needles cards]
                                   [--shape 144,896] [--repeats 5]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vniah import Grid, load_model, load_needles
from vniah.embeddings.cache import EmbeddingCache, FrameStore
from vniah.embeddings.shards import WITHOUT_CHECKSUMS, Shard
from vniah.engines.inputs import compose_candidates
from vniah.engines.planning import SampleSequences, make_plan
from vniah.protocol import HAYSTACK, Frames, FrameSegment, FrameSpan
from vniah.tasks.controls import plan_samples
from vniah.tasks.vniah import VisualNeedle

FRAMES_AT_ONCE = 16
IDENTITY = {"model": "random"}


def main() -> None:
    """Reads for a sweep, and once, in both ways."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--frames", default="32:512:32")
    parser.add_argument("--depths", default="0:1:0.2")
    parser.add_argument("--needles", default="cards")
    parser.add_argument("--shape", default="144,896", help="of one encoded frame, bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid = Grid.parse(options.frames, options.depths)
    shape = tuple(map(int, options.shape.split(",")))
    for_sweep = reads_of_sweep(grid, options.needles)
    once = [Frames.of([FrameSpan(HAYSTACK, 0, grid.max_frames)])]
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, name) for name in ("without", "with")]
        for folder in folders:
            fill(folder, grid.max_frames, shape, has_checksums=folder.name == "with")
        for name, reads in (("a sweep", for_sweep), ("once", once)):
            compare(name, reads, folders, shape, grid.max_frames, options.repeats)


def reads_of_sweep(grid: Grid, needles: str) -> list[Frames]:
    """The frames of the haystack that each pass of a sweep reads."""
    model, asked = load_model("reference-long", device="cpu"), SampleSequences()
    for sample in plan_samples(VisualNeedle(), grid, load_needles(needles), None):
        asked.add(compose_candidates(model, sample))
    plan = make_plan(model, asked.sequences, groups=asked.groups)
    reads = []
    for root in plan.branches:
        for one in root.passes():
            pieces = [p for p in one.segments if isinstance(p, FrameSpan | FrameSegment)]
            spans = [span for span in Frames.of(pieces).spans if span.source == HAYSTACK]
            if spans:
                reads.append(Frames.of(spans))
    return reads


def fill(folder: Path, num_frames: int, shape: tuple[int, ...], *, has_checksums: bool) -> None:
    """A cache of random frames in shards of at most 64 MB."""
    cache = EmbeddingCache(folder, IDENTITY, shape)
    per_shard = max(16, min(256, 2**26 // (4 * torch.Size(shape).numel()) // 16 * 16))
    generator = torch.Generator().manual_seed(0)
    for start in range(0, num_frames, per_shard):
        count = min(per_shard, num_frames - start)
        frames = torch.randn(count, *shape, generator=generator).to(torch.bfloat16)
        cache.append(frames, [float(start + index) for index in range(count)], [])
    for path in list(folder.glob("*.safetensors")):  # both are written in the same way
        with safe_open(path, framework="pt") as file:
            metadata, tensor = file.metadata(), file.get_tensor("frames").clone()
        if not has_checksums:
            # Other keys of the same length: the tensor begins at the same byte.
            metadata = {key.replace("xxh3", "none"): text for key, text in metadata.items()}
            metadata["format_version"] = WITHOUT_CHECKSUMS
        path.unlink()
        save_file({"frames": tensor}, path, metadata)


def compare(
    name: str,
    reads: Sequence[Frames],
    folders: Sequence[Path],
    shape: tuple[int, ...],
    num_frames: int,
    repeats: int,
) -> None:
    """Reads in both ways in turns, and prints what the fastest took, and the ratio."""
    times: list[list[tuple[float, float]]] = [[] for _ in folders]
    for folder in folders:
        measure(reads[:1], folder, shape)  # into the page cache
    for _ in range(repeats):
        for folder, found in zip(folders, times, strict=True):
            found.append(measure(reads, folder, shape))
    cpu, wall = ([min(one[i] for one in found) for found in times] for i in (0, 1))
    per_frame = sum(map(len, reads)) / num_frames
    gigabytes = sum(map(len, reads)) * 2 * torch.Size(shape).numel() / 1e9
    print(f"{name}: {len(reads)} passes read a frame {per_frame:.0f} times, {gigabytes:.2f} GB")
    for folder, one, other in zip(folders, cpu, wall, strict=True):
        print(f"  {folder.name:8s} checksums: cpu {one:7.3f} s, clock {other:7.3f} s")
    print(f"  with : without   cpu x{cpu[1] / cpu[0]:.3f}, clock x{wall[1] / wall[0]:.3f}")
    verifying = min(seconds_of_verifying(reads, folders[1], shape) for _ in range(repeats))
    print(f"  verifying alone: cpu {verifying:.3f} s, {verifying / cpu[0]:.2%} of without")


def measure(reads: Sequence[Frames], folder: Path, shape: tuple[int, ...]) -> tuple[float, float]:
    """Seconds of the processor and by the clock, to open a cache and read from it."""
    buffer = torch.empty(FRAMES_AT_ONCE, *shape, dtype=torch.bfloat16)
    cpu, wall = time.process_time(), time.perf_counter()
    store = FrameStore({HAYSTACK: (EmbeddingCache(folder, IDENTITY, shape), 0)})
    for frames in reads:
        for run in store.read_runs(frames, most=FRAMES_AT_ONCE):
            buffer[: len(run)].copy_(run)
    return time.process_time() - cpu, time.perf_counter() - wall


def seconds_of_verifying(reads: Sequence[Frames], folder: Path, shape: tuple[int, ...]) -> float:
    """Seconds of the processor that go to `Shard._verify`; headers are not counted."""
    verify, spent = Shard._verify, [0.0]

    def timed(*arguments) -> None:
        started = time.process_time()
        verify(*arguments)
        spent[0] += time.process_time() - started

    with patch.object(Shard, "_verify", timed):
        measure(reads, folder, shape)
    return spent[0]


if __name__ == "__main__":
    main()
