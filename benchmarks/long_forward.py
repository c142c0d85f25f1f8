"""Claim: one card runs hours of video through a 7B decoder, near the rate of its matrix products.

Runs one sequence of 432,000 tokens (3,000 frames of 144) through a decoder of Qwen2-7B's shape with
random weights, and prints the time, the arithmetic done per second as a share of what a large
matrix product reaches on the same card in the same run, and the peak of memory in all. From the
rates found it projects the published grid (15 lengths x 6 depths x 5 needles), with every cell by
itself and with common prefixes computed once.

    python -m benchmarks.long_forward
    python -m benchmarks.long_forward --hidden 256 --layers 4 --tokens 4096 --device cpu
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vniah.forward.attention import Heads, Kernel, KeyBlock, attend
from vniah.forward.kernels import choose_kernel, try_installed
from vniah.forward.kv_cache import Span
from vniah.forward.prefix_tree import Path, by_themselves
from vniah.forward.runner import BranchRunner

NUM_ROWS = 4
HEAD_DIM = 128
TOKENS_PER_FRAME = 144
OPENING_TOKENS = 14
SUFFIX_TOKENS = 34  # the question and the answer
GRID_FRAMES = range(200, 3001, 200)
GRID_FIFTHS = range(6)  # depths 0, 0.2 ... 1
GRID_NEEDLES = 5


class RandomInputs:
    """One sequence of random embeddings, whose last rows are read.

    Segments are their own lengths.
    """

    num_deepstack_layers = 0

    def __init__(self, like: Tensor, num_tokens: int) -> None:
        self._like = like
        self._num_tokens = num_tokens

    def size(self, segment: int) -> int:
        """A segment is its own length."""
        return segment

    def embed(self, segments: Sequence[Any], start: int, stop: int) -> Tensor:
        """Other random numbers with every call."""
        shape = (stop - start, self._like.shape[1])
        return torch.randn(shape, device=self._like.device, dtype=self._like.dtype)

    def add_deepstack(self, *_: object) -> None:
        """There is nothing to add."""

    def token_ids(self, *_: object) -> None:
        """No layer asks for them."""

    def images(self, segments: Sequence[Any]) -> tuple[Span, ...]:
        """No rows see one another."""
        return ()

    def positions(self, index: int) -> Tensor:
        """One after the other."""
        return torch.arange(self._num_tokens, device=self._like.device)

    def positions_ahead(self, index: int, num_tokens: int) -> Tensor:
        """Nothing is decoded here."""
        raise NotImplementedError

    def num_answer_rows(self, index: int) -> int:
        """The rows that are read."""
        return NUM_ROWS


class LongPass:
    """One sequence of random embeddings as a pass, run as a sweep runs its own.

    Args:
        decoder: runs it.
        num_tokens: its length.
    """

    def __init__(self, decoder: Any, num_tokens: int) -> None:
        main = num_tokens - NUM_ROWS
        (self._branch,) = by_themselves([Path((main,), (NUM_ROWS,))], lambda size: size, [0])
        inputs = RandomInputs(decoder.lm_head.weight, num_tokens)
        self._runner = BranchRunner(decoder, inputs, on_note=print)

    def choose_chunk_size(self) -> int:
        """Rows at once, by what is free now."""
        return self._runner.choose([self._branch])[0]

    def run(self) -> Tensor:
        """Logits of the last rows."""
        (reading,) = self._runner.run_all(self._branch)
        assert reading.logits is not None, reading.error
        return reading.logits


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, and the arithmetic that the prefill does with them.

    A product of [m, k] and [k, n] counts as 2 m k n. In the last layer only the rows that are read
    go beyond their keys and values.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int

    def linear_flops(self, num_tokens: int, *, num_rows: int) -> int:
        """Projections, MLP and head of so many tokens, of which some rows are read."""
        keys_values = 2 * self.hidden * self.kv_heads * HEAD_DIM
        others = 2 * self.hidden * self.heads * HEAD_DIM + 3 * self.hidden * self.intermediate
        layer = keys_values + others
        full = num_tokens * (self.layers - 1) * layer
        last = num_tokens * keys_values + num_rows * (others + self.hidden * self.vocabulary)
        return 2 * (full + last)

    def attention_flops(self, num_earlier: int, num_tokens: int, *, num_rows: int) -> int:
        """Scores and weighted sums of tokens that see the earlier ones and each other, causal."""

        def pairs(count: int) -> int:
            # the last `count` of the tokens
            seen = num_earlier + num_tokens
            return count * seen - count * (count - 1) // 2

        full = (self.layers - 1) * pairs(num_tokens)
        return 4 * self.heads * HEAD_DIM * (full + pairs(num_rows))


@dataclass(frozen=True)
class Work:
    """Arithmetic in two kinds, which run at two rates."""

    linear: int = 0
    attention: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.linear + other.linear, self.attention + other.attention)

    @property
    def total(self) -> int:
        """Both kinds together."""
        return self.linear + self.attention


def work(shape: Shape, num_earlier: int, num_tokens: int, *, num_rows: int) -> Work:
    """That of so many tokens after others whose keys and values are there."""
    return Work(
        shape.linear_flops(num_tokens, num_rows=num_rows),
        shape.attention_flops(num_earlier, num_tokens, num_rows=num_rows),
    )


def grid_without_sharing(shape: Shape) -> Work:
    """Every cell of the published grid and every needle in a pass of its own."""
    passes = (
        work(shape, 0, _haystack_tokens(num_frames + 1) + SUFFIX_TOKENS, num_rows=NUM_ROWS)
        for num_frames in GRID_FRAMES
    )
    one_depth = sum(passes, Work())
    count = len(GRID_FIFTHS) * GRID_NEEDLES
    return Work(one_depth.linear * count, one_depth.attention * count)


def grid_with_sharing(shape: Shape) -> Work:
    """The haystack once; a branch for each needle and position; a suffix for each of its cells."""
    lengths: dict[int, set[int]] = {}
    for num_frames in GRID_FRAMES:
        for fifths in GRID_FIFTHS:
            lengths.setdefault(num_frames * fifths // 5, set()).add(num_frames)
    total = work(shape, 0, _haystack_tokens(max(lengths)), num_rows=0)
    for needle_index, frames in lengths.items():
        start = _haystack_tokens(needle_index)
        stop = _haystack_tokens(max(frames) + 1)
        parts = [work(shape, start, stop - start, num_rows=0)]
        parts += [
            work(shape, _haystack_tokens(num_frames + 1), SUFFIX_TOKENS, num_rows=NUM_ROWS)
            for num_frames in frames
        ]
        for part in parts:
            total += Work(part.linear * GRID_NEEDLES, part.attention * GRID_NEEDLES)
    return total


def _haystack_tokens(num_frames: int) -> int:
    return OPENING_TOKENS + num_frames * TOKENS_PER_FRAME


def build_decoder(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """A Qwen2 decoder with random weights, made on the device."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=1 << 20,
        tie_word_embeddings=False,
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            decoder = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(usual)
    assert decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    return decoder.eval().requires_grad_(False)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call, all its work on the device included."""
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(
    device: torch.device, dtype: torch.dtype, *, seconds: float = 2.0, size: int | None = None
) -> float:
    """FLOP/s of large square matrix products, over some seconds after as many warm-up ones."""
    size = size or (8192 if device.type == "cuda" else 1024)
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    out = torch.empty_like(left)

    def multiply(count: int) -> float:
        return seconds_of(lambda: [torch.mm(left, right, out=out) for _ in range(count)], device)

    multiply(3)
    count = max(3, round(seconds * 3 / multiply(3)))
    multiply(count // 4)
    return 2 * size**3 * count / multiply(count)


@torch.inference_mode()
def attention_rate(
    shape: Shape,
    num_tokens: int,
    chunk: int,
    kernel: Kernel,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """FLOP/s of one chunk's attention in the middle of the sequence, as the prefill calls it."""
    chunk = min(chunk, num_tokens // 2)
    earlier = num_tokens // 2
    q = torch.randn(1, chunk, shape.heads, HEAD_DIM, device=device, dtype=dtype).transpose(1, 2)
    k, v = torch.randn(2, 1, shape.kv_heads, earlier + chunk, HEAD_DIM, device=device, dtype=dtype)
    blocks = [
        KeyBlock(k[:, :, earlier:], v[:, :, earlier:], is_causal=True),
        KeyBlock(k[:, :, :earlier], v[:, :, :earlier]),
    ]

    def attend_some(count: int) -> float:
        return seconds_of(
            lambda: [attend(q, blocks, kernel=kernel, scale=HEAD_DIM**-0.5) for _ in range(count)],
            device,
        )

    attend_some(2)
    repeats = 10
    pairs = chunk * earlier + chunk * (chunk + 1) // 2
    return 4 * shape.heads * HEAD_DIM * pairs * repeats / attend_some(repeats)


def report_kernels(shape: Shape, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The kernel that is used; prints its name and, on CUDA, what became of the others."""
    heads = Heads(shape.heads, shape.kv_heads, HEAD_DIM)
    kernel = choose_kernel(device, dtype, heads)
    print(f"attention kernel: {kernel.name}", flush=True)
    if device.type == "cuda":
        for trial in try_installed(device, dtype, heads):
            found = trial.fault[:90] if trial.fault else f"{trial.seconds * 1e3:.2f} ms"
            print(f"  {trial.kernel.name}: {found}")
    return kernel


def peak_gigabytes(device: torch.device) -> float:
    """The most that was allocated so far; on the CPU the most that was resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@dataclass(frozen=True)
class Pass:
    """What one pass took."""

    chunk_size: int
    seconds: float
    peak_gigabytes: float
    weights_gigabytes: float


@torch.inference_mode()
def run_pass(shape: Shape, num_tokens: int, device: torch.device, dtype: torch.dtype) -> Pass:
    """The whole sequence through a decoder of random weights."""
    decoder = build_decoder(shape, device, dtype)
    weights = sum(p.numel() * p.element_size() for p in decoder.parameters())
    LongPass(decoder, 256 + NUM_ROWS).run()  # loads the libraries
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    long = LongPass(decoder, num_tokens)
    chunk_size = long.choose_chunk_size()
    print(f"chunks of {chunk_size} tokens, of {num_tokens:,}", flush=True)
    logits: list[Tensor] = []
    seconds = seconds_of(lambda: logits.append(long.run()), device)
    assert logits[0].isfinite().all()
    return Pass(chunk_size, seconds, peak_gigabytes(device), weights / 1e9)


def measure(shape: Shape, num_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
    """Runs the pass and prints all that is claimed."""
    kernel = report_kernels(shape, device, dtype)
    rate_before = matrix_rate(device, dtype)
    found = run_pass(shape, num_tokens, device, dtype)
    rate = max(rate_before, matrix_rate(device, dtype))
    attention = attention_rate(shape, num_tokens, found.chunk_size, kernel, device, dtype)

    done = work(shape, 0, num_tokens, num_rows=NUM_ROWS)
    achieved = done.total / found.seconds
    print(f"matrix products: {rate / 1e12:.2f} TFLOP/s ({rate_before / 1e12:.2f} before the pass)")
    print(
        f"{num_tokens:,} tokens in {found.seconds:.1f} s: {done.total / 1e15:.3g} PFLOP, "
        f"{achieved / 1e12:.2f} TFLOP/s, {achieved / rate:.0%} of the matrix products"
    )
    print(
        f"peak memory in all: {found.peak_gigabytes:.1f} GB, "
        f"of which weights {found.weights_gigabytes:.1f} GB"
    )
    linear_seconds = found.seconds - done.attention / attention
    if linear_seconds <= 0:
        print("attention, measured apart, is slower than the whole pass: nothing is projected")
        return
    linear = done.linear / linear_seconds
    print(f"attention {attention / 1e12:.2f}, all else {linear / 1e12:.2f} TFLOP/s")
    report_grid(shape, linear, attention)


def report_grid(shape: Shape, linear: float, attention: float) -> None:
    """Prints the published grid's time at these rates, with and without sharing."""
    hours = {}
    for name, grid in (
        ("every cell by itself", grid_without_sharing(shape)),
        ("prefixes shared", grid_with_sharing(shape)),
    ):
        hours[name] = (grid.linear / linear + grid.attention / attention) / 3600
        print(f"grid, projected, {name}: {grid.total / 1e18:.3g} EFLOP, {hours[name]:.2f} h")
    alone, shared = hours.values()
    print(f"  sharing saves x{alone / shared:.2f}")


def main() -> None:
    """Reads the arguments and measures."""
    on_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=432_000)
    parser.add_argument("--hidden", type=int, default=3584, help="a multiple of 128")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--device", default="cuda" if on_cuda else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"))
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda":
        # With its index, as a tensor's device has it.
        device = torch.empty(0, device=device).device
    is_whole = options.hidden == 3584
    heads = options.hidden // HEAD_DIM
    shape = Shape(
        hidden=options.hidden,
        layers=options.layers,
        heads=heads,
        kv_heads=4 if is_whole else max(1, heads // 7),
        intermediate=18944 if is_whole else 5 * options.hidden,
        vocabulary=152_064 if is_whole else 8192,
    )
    name = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}, {name}, {shape}")
    measure(shape, options.tokens, device, getattr(torch, name))


if __name__ == "__main__":
    main()
