"""Claim: the layer-by-layer prefill needs a fraction of the memory of the plain forward pass.

Runs sequences of several lengths through a random Qwen2-shaped decoder, each way and each length in
a process of its own:

    all logits         the logits of all positions, as the published script computes them
    logits_to_keep     the same decoder, asked for the answer's logits only
    prefill               vniah, every cell by itself
    branch, memory     vniah, the second half of the sequence behind a trunk, the first half, whose
                       keys and values of all layers are kept in memory
    branch, disk       the same, with what is kept in a file

Prints peak memory, processor time, bytes for each further token, and whether all agree. Peak memory
is what is resident above the weights; the input embeddings, which all ways need and in which the
prefill works, are counted in, and of a branch its own. What is kept is counted apart. It is what
the operating system says, its high-water mark set back right before the pass: `ru_maxrss` cannot be
set back and would hide a pass behind whatever took more before it, such as the trunk. Tensors of
more than 256 kB are given back when they are freed (`MMAP`): what glibc keeps for later depends on
the order of things and differs by 15 MB from run to run. That costs all ways some time. Needs
Linux.

    python -m benchmarks.forward_pass [--tokens 4096,8192,16384,32768]
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

NUM_ROWS = 3
HIDDEN = 256
LAYERS = 8
KV_HEADS = 2
HEAD_DIM = 32
FP32 = 4
ALL, KEEP, WALK, IN_MEMORY, ON_DISK = (
    "all logits",
    "logits_to_keep",
    "prefill",
    "branch, memory",
    "branch, disk",
)
MMAP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18)}
KV_LOCATIONS = {IN_MEMORY: "device", ON_DISK: "disk"}
WAYS = (ALL, KEEP, WALK, *KV_LOCATIONS)

# What the claim says a token takes: its row between two layers, one layer's keys and values.
HIDDEN_BYTES = HIDDEN * FP32
KEY_VALUE_BYTES = 2 * KV_HEADS * HEAD_DIM * FP32
CLAIMED_BYTES = {
    WALK: HIDDEN_BYTES + KEY_VALUE_BYTES,
    # A branch has the rows of its own half, and keys and values of the whole sequence.
    IN_MEMORY: HIDDEN_BYTES / 2 + KEY_VALUE_BYTES,
    ON_DISK: HIDDEN_BYTES / 2 + KEY_VALUE_BYTES,
}


class PeakMemory:
    """How far the resident memory of this process rises from now on."""

    def __init__(self) -> None:
        settle()
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
        self._before = status("VmRSS")

    def read(self) -> int:
        """Bytes above what was there at the beginning."""
        return status("VmHWM") - self._before


def settle() -> None:
    """Gives freed memory back, so that using it again is seen."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def status(name: str) -> int:
    """A line of what the kernel says about this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def build_decoder():
    """A decoder of 8 layers with a vocabulary that is large beside its width, as real ones are."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // HEAD_DIM,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=1 << 20,
    )
    decoder = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.08)
    return decoder


def embeddings(start: int, stop: int):
    """The tokens ``start`` to ``stop - 1`` of one and the same sequence, ``[n, H]``."""
    import torch

    hidden = torch.empty(stop - start, HIDDEN)
    for row in range(len(hidden)):
        hidden[row].normal_(generator=torch.Generator().manual_seed(start + row))
    return hidden


def run_plain(decoder, hidden, *, keep: int):
    """The answer's logits by the decoder's own forward; 0 keeps all."""
    output = decoder(inputs_embeds=hidden[None], use_cache=False, logits_to_keep=keep)
    return output.logits[0, -NUM_ROWS:].clone()


def run_prefill(decoder, hidden, past=()):
    """The answer's logits by the prefill, which goes on from what is kept of the tokens before."""
    import torch

    from vniah.forward.kv_cache import Span
    from vniah.forward.prefill import prefill
    from vniah.forward.suffixes import SuffixRows

    start = past[-1].stop if past else 0
    positions = torch.arange(start, start + len(hidden))
    main = slice(0, len(hidden) - NUM_ROWS)
    answer = slice(main.stop, None)
    suffix = SuffixRows((Span(0, start + main.stop),), hidden[answer], positions[answer], NUM_ROWS)
    return prefill(decoder, hidden[main], positions[main], [suffix], past=past)[0]


def keep_trunk(decoder, num_tokens: int, place: str):
    """Runs a trunk; its keys and values of all layers."""
    import torch

    from vniah.forward.kinds.choosing import open_cache
    from vniah.forward.kv_cache import Layout
    from vniah.forward.prefill import prefill

    kept = open_cache(
        decoder.model,
        Layout.whole(0, num_tokens),
        ends=(num_tokens,),
        like=decoder.lm_head.weight,
        kv_location=place,
    )
    prefill(decoder, embeddings(0, num_tokens), torch.arange(num_tokens), [], cache=kept)
    return kept


def measure(way: str, num_tokens: int) -> dict[str, object]:
    """Peak and kept bytes, seconds, and the answer's logits."""
    import torch

    decoder = build_decoder()
    with torch.inference_mode():
        # Short passes load the libraries and what these keep for themselves.
        run_plain(decoder, embeddings(0, 512), keep=1)
        run_prefill(decoder, embeddings(256, 1024), [keep_trunk(decoder, 256, "device")])
        settle()
        past, before = [], status("RssAnon")
        if way in KV_LOCATIONS:
            past = [keep_trunk(decoder, num_tokens // 2, KV_LOCATIONS[way])]
            settle()
        unreclaimable = status("RssAnon") - before
        peak = PeakMemory()
        hidden = embeddings(past[0].stop if past else 0, num_tokens)
        started = time.process_time()
        if way in (ALL, KEEP):
            logits = run_plain(decoder, hidden, keep=0 if way == ALL else NUM_ROWS)
        else:
            logits = run_prefill(decoder, hidden, past)
    return {
        "seconds": time.process_time() - started,
        "bytes": peak.read(),
        "kept_bytes": sum(kept.store.num_bytes for kept in past),
        "unreclaimable_bytes": unreclaimable,
        "logits": logits.flatten().tolist(),
        "argmax": logits.argmax(-1).tolist(),
    }


def run_apart(way: str, num_tokens: int) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.forward_pass", "--tokens", str(num_tokens)]
    command += ["--way", way]
    environment = os.environ | MMAP
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    line = f"{num_tokens:,} tokens, {way}: {found['bytes'] / 1e6:.1f} MB, {found['seconds']:.1f} s"
    print(line, file=sys.stderr, flush=True)  # the tables come when all is done
    return found


def print_table(title: str, found: dict, key: str, unit: float) -> None:
    """One line for each length, with ratios to the prefill."""
    print(f"\n{title}")
    print(f"  {'tokens':>8s}" + "".join(f"{way:>20s}" for way in WAYS))
    for num_tokens, results in found.items():
        cells = (
            f"{results[way][key] / unit:9.1f} (x{results[way][key] / results[WALK][key]:5.2f})"
            for way in WAYS
        )
        print(f"  {num_tokens:8,d}" + "".join(f"{cell:>20s}" for cell in cells))


def print_slopes(found: dict) -> None:
    """Bytes for each further token, from the shortest to the longest."""
    shortest, *_, longest = found
    print(f"\nbytes for each further token, {shortest:,} to {longest:,}")
    for way in WAYS:
        rise = found[longest][way]["bytes"] - found[shortest][way]["bytes"]
        slope = rise / (longest - shortest)
        claimed = CLAIMED_BYTES.get(way)
        beside = ""
        if claimed:
            beside = f"   rows and one layer's K/V: {claimed:6,.0f}, x{slope / claimed:.2f}"
        print(f"  {way:15s} {slope:8,.0f}{beside}")


def print_kept(found: dict) -> None:
    """What the trunk's keys and values take, which no peak above contains."""
    print("\nkept for the branches, MB: in all, and of that in memory that only they can give back")
    for num_tokens, results in found.items():
        for way in KV_LOCATIONS:
            kept, held = results[way]["kept_bytes"], results[way]["unreclaimable_bytes"]
            print(f"  {num_tokens:8,d} {way:15s} {kept / 1e6:8.1f} {held / 1e6:8.1f}")


def print_agreement(found: dict) -> None:
    """The largest difference of two logits, over all lengths."""
    print("\nagainst all logits, over all lengths")
    for way in WAYS[1:]:
        pairs = [(results[ALL], results[way]) for results in found.values()]
        difference = max(
            abs(a - b)
            for one, other in pairs
            for a, b in zip(one["logits"], other["logits"], strict=True)
        )
        is_equal = all(one["argmax"] == other["argmax"] for one, other in pairs)
        print(f"  {way:15s} largest logit difference {difference:.1e}, argmax equal: {is_equal}")


def main() -> None:
    """Measures every way at every length and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="4096,8192,16384,32768", help="a comma list")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    lengths = sorted(int(number) for number in options.tokens.split(","))
    if options.way:
        print(json.dumps(measure(options.way, lengths[0])))
        return
    found = {n: {way: run_apart(way, n) for way in WAYS} for n in lengths}
    print_table(
        "peak MB above the weights, inputs counted in (times the prefill's)", found, "bytes", 1e6
    )
    print_table("processor seconds (times the prefill's)", found, "seconds", 1)
    print_kept(found)
    if len(found) > 1:
        print_slopes(found)
    print_agreement(found)


if __name__ == "__main__":
    main()
