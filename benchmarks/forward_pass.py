"""Claim: the layer-by-layer walk needs a fraction of the memory of the plain forward pass.

Runs one sequence through a random Qwen2-shaped decoder in three ways, each in a process of its own:
all logits as the published script computes them, the same with `logits_to_keep`, and the walk.
Prints peak memory above weights and inputs, time, and whether all three agree.

    python -m benchmarks.forward_pass [--tokens 8192]
"""

import argparse
import json
import resource
import subprocess
import sys
import time

NUM_ROWS = 3
WAYS = ("all logits", "logits_to_keep", "walk")


def build_decoder():
    """A decoder of 8 layers with a vocabulary that is large beside its width, as real ones are."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=1 << 20,
    )
    decoder = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.08)
    return decoder


def measure(way: str, num_tokens: int) -> dict[str, object]:
    """Peak memory in MB above what was there, seconds, and the answer's logits."""
    import torch

    from vniah.forward.walk import answer_logits

    decoder = build_decoder()
    embeds = torch.randn(num_tokens, 256, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(num_tokens)
    answer_logits(decoder, embeds[:64].clone(), positions[:64], num_rows=1)  # loads the kernels
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with torch.inference_mode():
        if way == "walk":
            logits = answer_logits(decoder, embeds, positions, num_rows=NUM_ROWS)
        else:
            keep = {"logits_to_keep": NUM_ROWS} if way == "logits_to_keep" else {}
            output = decoder(inputs_embeds=embeds[None], use_cache=False, **keep)
            logits = output.logits[0, -NUM_ROWS:]
    return {
        "seconds": time.perf_counter() - started,
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "logits": logits.float().flatten().tolist(),
        "argmax": logits.argmax(-1).tolist(),
    }


def main() -> None:
    """Measures every way and prints ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.tokens)))
        return
    found = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.forward_pass", "--tokens", str(options.tokens)]
        done = subprocess.run([*command, "--way", way], capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout)
    walk = found["walk"]
    print(f"{options.tokens:,} tokens; times as much as the walk:")
    for way, result in found.items():
        difference = max(abs(a - b) for a, b in zip(result["logits"], walk["logits"], strict=True))
        print(
            f"  {way:15s} memory x{result['megabytes'] / walk['megabytes']:5.1f} "
            f"({result['megabytes']:6.0f} MB)  time x{result['seconds'] / walk['seconds']:4.2f}  "
            f"largest logit difference {difference:.1e}  "
            f"argmax equal: {result['argmax'] == walk['argmax']}"
        )


if __name__ == "__main__":
    main()
