"""Claim: fetching every layer's weights from host memory costs a pass little more than its copies.

Runs passes of several lengths through the random decoder of `benchmarks.forward_pass`, its layers
once resident and once offloaded (`vniah.forward.offload`), in turns in one process. Prints how long
the copies alone take, the bytes of weights on the device, and for every length the seconds of a
pass both ways (processor time on the CPU), their ratio, what is added, and whether the logits are
equal to the last bit.

On the CPU the copies go from memory to memory and run before a layer computes, not beside it, so
the ratio is an upper bound of what remains where they run beside it. On CUDA they come from pinned
memory on a stream of their own; ``--device cuda`` measures that.

    python -m benchmarks.offload [--tokens 256,1024,4096] [--device cpu] [--repeats 5]
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.forward_pass import NUM_ROWS, build_decoder, embeddings
from vniah.forward.costs import DecoderShape
from vniah.forward.offload import layer_on_device, move_all_but_layers, offload_layers, offloaded
from vniah.forward.prefill import answer_logits


def build_both(device: torch.device):
    """The same decoder twice: resident, and with its layers in host memory."""
    resident, fetched = build_decoder().to(device), build_decoder()
    move_all_but_layers(fetched, fetched.model.layers, device)
    offload_layers(fetched.model, device)
    return resident, fetched


def run(decoder, num_tokens: int, device: torch.device) -> torch.Tensor:
    """One pass, its logits on the CPU."""
    hidden = embeddings(0, num_tokens).to(device)
    positions = torch.arange(num_tokens, device=device)
    return answer_logits(decoder, hidden, positions, num_rows=NUM_ROWS).cpu()


def fetch_all(decoder, device: torch.device) -> None:
    """The copies of a pass and nothing else."""
    for index in range(len(decoder.model.layers)):
        with layer_on_device(decoder.model, index):
            pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Of the processor on the CPU, else by the clock."""
    now = time.process_time if device.type == "cpu" else time.perf_counter
    started = now()
    call()
    return now() - started


def main() -> None:
    """Measures every length both ways and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="256,1024,4096", help="a comma list")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    resident, fetched = build_both(device)
    fetch_all(fetched, device)
    copies = median(
        seconds_of(lambda: fetch_all(fetched, device), device) for _ in range(options.repeats)
    )
    layers = offloaded(fetched.model)
    rate = layers.host_bytes / copies
    print(f"the copies of a pass alone: {copies * 1e3:.1f} ms, {rate / 1e9:.1f} GB/s")
    weights = [DecoderShape.of(decoder).weight_bytes / 1e6 for decoder in (resident, fetched)]
    print(f"MB of weights on the device: resident {weights[0]:.1f}, offloaded {weights[1]:.1f}")
    print(f"  {'tokens':>8s}{'resident s':>12s}{'offloaded s':>13s}{'ratio':>8s}{'added ms':>10s}")
    for num_tokens in map(int, options.tokens.split(",")):
        equal = torch.equal(run(resident, num_tokens, device), run(fetched, num_tokens, device))
        pairs = [
            tuple(
                seconds_of(lambda d=decoder, n=num_tokens: run(d, n, device), device)
                for decoder in (resident, fetched)
            )
            for _ in range(options.repeats)
        ]
        one, other = (median(times) for times in zip(*pairs, strict=True))
        print(
            f"  {num_tokens:8,d}{one:12.3f}{other:13.3f}{other / one:8.2f}"
            f"{(other - one) * 1e3:10.1f}   logits equal to the last bit: {equal}"
        )


if __name__ == "__main__":
    main()
