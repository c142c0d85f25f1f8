"""Claim: a ring of n processes gives what one gives, and each of them holds a part only.

Runs one sequence through the random decoder of `benchmarks.forward_pass` in one process, then in
rings of 1, 2 and 4, every rank a process of its own on the CPU with one thread, talking by gloo.
Three answers are read: one at the end, two at borders between ranks. Prints for every ring

    agreement      the largest logit difference to one process, and whether all argmax are equal
    bytes          what a rank sends in a layer, and whether that is the closed form: with t chunks
                   and r rows on a rank, c bytes of keys and values of a row, a rows that are read,
                   and Hq heads of size D, t (n - 1) r c + (n - 1) a Hq (D + 1) 4. The last layer
                   sends the second part only
    memory         peak of a rank above the weights, as a share of one process; measured as there
    time           of all ranks together and by the clock; the clock says nothing about speed-up
                   unless there is an idle core for every rank

Every chunk sends all keys and values round once more: larger chunks send less and take more memory.

    python -m benchmarks.ring [--tokens 16381] [--chunk 256] [--ranks 1,2,4]
"""

import argparse
import json
import os
import socket
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.forward_pass import (
    FP32,
    HEAD_DIM,
    HIDDEN,
    KEY_VALUE_BYTES,
    LAYERS,
    MMAP,
    NUM_ROWS,
    PeakMemory,
    build_decoder,
    embeddings,
)
from vniah.forward.kv_cache import Layout, Span
from vniah.forward.prefill import prefill
from vniah.forward.ring import Ring
from vniah.forward.suffixes import SuffixRows


def run_rank(rank: int, size: int, num_tokens: int, chunk_size: int, folder: str) -> None:
    """What one rank of a ring finds, as a file; a size of 0 is one process without a ring."""
    torch.set_num_threads(1)
    if not size:
        found = measure(None, num_tokens, chunk_size)
    else:
        os.environ["GLOO_SOCKET_IFNAME"] = socket.if_nameindex()[0][1]  # the loopback
        store = f"file://{folder}/store-{size}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
        try:
            found = measure(Ring(dist.group.WORLD), num_tokens, chunk_size)
        finally:
            dist.destroy_process_group()
    Path(folder, f"{size}-{rank}.json").write_text(json.dumps(found))


def measure(ring: Ring | None, num_tokens: int, chunk_size: int) -> dict[str, object]:
    """Peak bytes, bytes sent, seconds, and the logits of all answers."""
    decoder = build_decoder()
    # A short pass connects the ranks, loads the libraries and what these keep for themselves.
    run_pass(decoder, ring, 8 * chunk_size, chunk_size)
    peak = PeakMemory()
    sent = ring.bytes_sent if ring else 0
    wall, cpu = time.perf_counter(), time.process_time()
    logits = run_pass(decoder, ring, num_tokens, chunk_size)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "bytes": peak.read(),
        "sent": (ring.bytes_sent if ring else 0) - sent,
        "logits": [rows.tolist() for rows in logits],
    }


def run_pass(decoder, ring: Ring | None, num_tokens: int, chunk_size: int) -> list[torch.Tensor]:
    """Logits of some answers behind parts of one sequence, and behind all of it."""
    suffixes = [
        SuffixRows((Span(0, start),), embeddings(start, stop), torch.arange(start, stop), NUM_ROWS)
        for start, stop in answer_spans(num_tokens)
    ]
    hidden = own_rows(ring, num_tokens)
    positions = torch.arange(num_tokens)
    return prefill(decoder, hidden, positions, suffixes, chunk_size=chunk_size, ring=ring)


def answer_spans(num_tokens: int) -> list[tuple[int, int]]:
    """Where the answers begin and end; the first two lie at borders between ranks."""
    starts = (num_tokens // 4 - 1, num_tokens // 2 - 1, num_tokens)
    return [(start, start + NUM_ROWS) for start in starts]


def own_rows(ring: Ring | None, num_tokens: int) -> torch.Tensor:
    """The input embeddings of this rank, zeros for padding."""
    if ring is None:
        return embeddings(0, num_tokens)
    layout = ring.layout(0, num_tokens)
    hidden = torch.zeros(layout.num_rows(ring.rank), HIDDEN)
    for span, row in layout.located(ring.rank):
        inside = span.clip(0, num_tokens)
        hidden[row : row + inside.num_tokens] = embeddings(*inside)
    return hidden


def closed_form(layout: Layout, size: int, chunk_size: int) -> tuple[int, int]:
    """Bytes that a rank sends in a layer: keys and values, and parts of the answers."""
    chunks = sum(-(-span.num_tokens // chunk_size) for span in layout.spans[0])
    keys_values = chunks * (size - 1) * layout.num_rows(0) * KEY_VALUE_BYTES
    num_read = len(answer_spans(1)) * NUM_ROWS
    heads = HIDDEN // HEAD_DIM
    return keys_values, (size - 1) * num_read * heads * (HEAD_DIM + 1) * FP32


def run_ring(size: int, num_tokens: int, chunk_size: int, folder: str) -> list[dict]:
    """What every rank found."""
    ranks = max(1, size)
    mp.spawn(run_rank, (size, num_tokens, chunk_size, folder), nprocs=ranks)
    return [json.loads(Path(folder, f"{size}-{rank}.json").read_text()) for rank in range(ranks)]


def report(size: int, found: list[dict], alone: dict, num_tokens: int, chunk_size: int) -> None:
    """Prints what is claimed of a ring, against one process."""
    expected = torch.tensor(alone["logits"])
    logits = [torch.tensor(rank["logits"]) for rank in found]
    difference = max(float((rank - expected).abs().max()) for rank in logits)
    is_equal = all(torch.equal(rank.argmax(-1), expected.argmax(-1)) for rank in logits)
    ring = object.__new__(Ring)
    ring.size = size
    keys_values, answers = closed_form(ring.layout(0, num_tokens), size, chunk_size)
    total = (LAYERS - 1) * keys_values + LAYERS * answers
    sent = [rank["sent"] for rank in found]
    largest = max(rank["bytes"] for rank in found)
    cpu = sum(rank["cpu"] for rank in found)
    wall = max(rank["wall"] for rank in found)
    print(
        f"  ring of {size}: largest logit difference {difference:.1e}, argmax equal: {is_equal}\n"
        f"    a rank sends {(keys_values + answers) / 1e6:.2f} MB a layer, as counted: "
        f"{all(number == total for number in sent)}\n"
        f"    peak of a rank {largest / 1e6:.1f} MB, "
        f"{largest / alone['bytes']:.2f} of one process\n"
        f"    processor time of all ranks x{cpu / alone['cpu']:.2f}, by the clock "
        f"x{wall / alone['wall']:.2f}"
    )


def main() -> None:
    """Runs every ring and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16_381, help="one that does not divide")
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--ranks", default="1,2,4")
    options = parser.parse_args()
    os.environ |= MMAP  # of the processes that follow
    with tempfile.TemporaryDirectory() as folder:
        (alone,) = run_ring(0, options.tokens, options.chunk, folder)
        print(
            f"{options.tokens:,} tokens in chunks of {options.chunk}, {os.cpu_count()} cores; one "
            f"process: {alone['bytes'] / 1e6:.1f} MB above the weights, {alone['cpu']:.1f} s"
        )
        for size in map(int, options.ranks.split(",")):
            found = run_ring(size, options.tokens, options.chunk, folder)
            report(size, found, alone, options.tokens, options.chunk)


if __name__ == "__main__":
    main()
