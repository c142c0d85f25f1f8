"""Claim: each kind of layer runs chunk by chunk in the memory that it needs, and shares prefixes.

Random decoders of one width and depth, whose layers are full attention, a sliding window, latents,
or a gated delta rule with full attention in every fourth layer (as Qwen3.5). For each and for every
length it prints the most bytes that a pass takes besides the weights, by the closed form of
`vniah.forward.costs` (whose slope tests hold against what is allocated), what a pass stores for one
later pass, and seconds of the processor. Then for
one prefix with several continuations: seconds with the prefix shared and without, their ratio, and
the largest difference of the logits from the decoder's own forward.

    python -m benchmarks.layer_kinds [--tokens 2048,8192,16384] [--chunk-size 512]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from vniah.forward.costs import DecoderShape
from vniah.forward.kinds.choosing import open_cache
from vniah.forward.kv_cache import Layout, Span
from vniah.forward.prefill import prefill
from vniah.forward.prefix_tree import Branch, Suffix
from vniah.forward.suffixes import SuffixRows

NUM_ROWS = 4
_SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
_HEADS = {**_SIZES, "head_dim": 32}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("Qwen3", _HEADS),
    "window of 512": ("Mistral", {**_HEADS, "sliding_window": 512}),
    "latents": (
        "DeepseekV3",
        {
            **_SIZES,
            "num_key_value_heads": 8,
            "q_lora_rank": 64,
            "kv_lora_rank": 48,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "first_k_dense_replace": 8,
        },
    ),
    "gated delta": (
        "Qwen3_5",
        {
            **_HEADS,
            "linear_num_value_heads": 8,
            "linear_num_key_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
        },
    ),
}


def build(name: str) -> Any:
    """A random decoder."""
    prefix, sizes = DECODERS[name]
    config = getattr(transformers, f"{prefix}TextConfig", None)
    config = config or getattr(transformers, f"{prefix}Config")
    torch.manual_seed(0)
    decoder = getattr(transformers, f"{prefix}ForCausalLM")(config(**sizes))
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.05)
    return decoder.eval()


def positions_of(decoder: Any, num_tokens: int) -> Tensor:
    """0, 1, 2, ..., three rows for M-RoPE."""
    one = torch.arange(num_tokens)
    return one.expand(3, -1) if decoder.config.model_type == "qwen3_5_text" else one


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of the processor."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Measures all kinds and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="2048,8192,16384", help="a comma list")
    parser.add_argument("--chunk-size", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lengths = [int(number) for number in options.tokens.split(",")]
    print(f"{'layers':14s}{'tokens':>8s}{'closed form MB':>16s}{'stored MB':>11s}{'CPU s':>8s}")
    for name in DECODERS:
        decoder = build(name)
        shape = DecoderShape.of(decoder)
        for num_tokens in lengths:
            rows = torch.randn(num_tokens + NUM_ROWS, 256)
            taken = seconds_of(lambda d=decoder, r=rows: run_pass(d, r, options.chunk_size))
            later = Branch(num_tokens, (), NUM_ROWS, ())
            branch = Branch(0, (), num_tokens, (Suffix(num_tokens, (), NUM_ROWS, (0,)),), (later,))
            needed = shape.pass_bytes(branch, chunk_size=options.chunk_size) / 1e6
            stored = shape.stored_bytes(branch) / 1e6
            print(f"{name:14s}{num_tokens:8,d}{needed:16.1f}{stored:11.2f}{taken:8.2f}")
    print("\nfive continuations of one prefix of 2,048 tokens, 256 tokens each")
    print(f"{'layers':14s}{'apart s':>9s}{'shared s':>10s}{'ratio':>7s}{'difference':>12s}")
    for name in DECODERS:
        decoder = build(name)
        apart, shared, difference = share_prefix(decoder, options.chunk_size)
        print(f"{name:14s}{apart:9.2f}{shared:10.2f}{apart / shared:7.2f}{difference:12.1e}")


def run_pass(decoder: Any, rows: Tensor, chunk_size: int) -> Tensor:
    """One pass over all rows, of which the last are read."""
    start, positions = len(rows) - NUM_ROWS, positions_of(decoder, len(rows))
    suffix = SuffixRows((Span(0, start),), rows[start:], positions[..., start:], NUM_ROWS)
    (logits,) = prefill(
        decoder, rows[:start].clone(), positions[..., :start], [suffix], chunk_size=chunk_size
    )
    return logits


def share_prefix(decoder: Any, chunk_size: int) -> tuple[float, float, float]:
    """Seconds for five continuations apart and shared, and the largest difference of logits."""
    common, size, count = 2048, 256, 5
    generator = torch.Generator().manual_seed(1)
    prefix = torch.randn(common, 256, generator=generator)
    tails = torch.randn(count, size, 256, generator=generator)
    positions = positions_of(decoder, common + size)
    sequences = [torch.cat([prefix, tail]) for tail in tails]
    with torch.inference_mode():
        own = [decoder(inputs_embeds=rows[None], use_cache=False).logits[0] for rows in sequences]
    found: list[Tensor] = []

    def apart() -> None:
        for rows in sequences:
            run_pass(decoder, rows, chunk_size)

    def shared() -> None:
        like = decoder.lm_head.weight
        cache = open_cache(
            decoder.model,
            Layout.whole(0, common),
            ends=(common,),
            like=like,
            kv_location="device",
        )
        before = positions[..., :common]
        prefill(decoder, prefix.clone(), before, [], cache=cache, chunk_size=chunk_size)
        for tail in tails:
            start = common + size - NUM_ROWS
            inside = positions[..., common:start]
            suffix = SuffixRows(
                (Span(0, start),), tail[-NUM_ROWS:], positions[..., start:], NUM_ROWS
            )
            found.extend(
                prefill(
                    decoder,
                    tail[:-NUM_ROWS].clone(),
                    inside,
                    [suffix],
                    past=[cache],
                    chunk_size=chunk_size,
                )
            )

    one, other = seconds_of(apart), seconds_of(shared)
    differences = [
        float((logits - rows[-NUM_ROWS:]).abs().max())
        for logits, rows in zip(found, own, strict=True)
    ]
    return one, other, max(differences)


if __name__ == "__main__":
    main()
