"""Claims that only a GPU can show, in at most 8 minutes: one table.

    kernels   every attention kernel against the plain formula, and its speed
    prefill   432,000 tokens through Qwen2-7B's shape: the share of the rate of a large matrix
              product that is measured just before and after, and the peak of memory
    sharing   a grid by itself, by the tree and by one pass: time, operations, memory, and whether
              the logits are the same
    offload   layers that wait in host memory, against none
    decode    greedy decoding behind a long prompt

Weights and frames are random numbers; what they are decides nothing here but the logits. Where the
whole decoder would take too long, or too much memory, a section runs fewer of its layers, which are
all alike, and the table says what follows for all of them.

Each section is a process of its own with a time limit. What it found is written to a file at once,
and is not measured again when the script is started anew.
``--again SECTION`` measures one again. ``--tiny`` runs everything in seconds, with a tiny decoder,
to see that the script works; its numbers mean nothing.

    python -m benchmarks.on_gpu [--output on_gpu.json] [--again prefill] [--device cuda]
    python -m benchmarks.on_gpu --tiny --device cpu
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from benchmarks.long_forward import (
    HEAD_DIM,
    NUM_ROWS,
    Shape,
    build_decoder,
    matrix_rate,
    peak_gigabytes,
    run_pass,
    seconds_of,
    work,
)
from vniah.analysis.tables import format_columns
from vniah.engines.inputs import DecoderInputs
from vniah.engines.planning import make_plan
from vniah.engines.splicing import SplicedMap, Trunk
from vniah.errors import VniahError, first_line
from vniah.files import write_json
from vniah.forward.attention import Heads, Kernel, KeyBlock
from vniah.forward.costs import DecoderShape
from vniah.forward.devices import free_bytes
from vniah.forward.greedy import GreedyDecoder
from vniah.forward.kernels import (
    CPU_KERNEL,
    PLAIN_KERNEL,
    choose_kernel,
    try_installed,
    try_kernels,
)
from vniah.forward.offload import offload_layers, offloaded
from vniah.forward.prefill import CHUNK_SIZE, answer_logits
from vniah.forward.prefix_tree import Branch, kept_whole
from vniah.forward.runner import BranchRunner
from vniah.options import Decoding
from vniah.protocol import Frames, FrameSpan, TextSegment, TokenSequence
from vniah.schema import read_json

LIMITS = {"kernels": 60, "prefill": 210, "sharing": 100, "offload": 40, "decode": 60}
"""Seconds that each section may take, less than 8 minutes together."""

OPENING, QUESTION, ANSWER = 14, 30, (7, 8)
_EXPECTED = 0.5  # of the matrix rate, by which the size of what is measured is chosen
_SPARE = 7e9  # bytes besides the weights

Row = tuple[str, str, str]
"""What was measured, what was found, and the goal."""


@dataclass(frozen=True)
class Setting:
    """What is measured, on which device.

    Attributes:
        device: with its index.
        dtype: of weights and frames.
        shape: of the decoder.
        per_frame: tokens of a frame.
        num_tokens: of the long pass.
        num_prompt: tokens before what is decoded.
        num_steps: tokens that are decoded.
        offload_tokens: lengths of passes through layers that wait in host memory.
        matrix_size: rows and columns of the matrices that are multiplied.
        seconds: how long a section's largest measurement should take.
        lengths: numbers of frames of the grid are the first that are quick enough.
        num_needles: at each place of the grid.
    """

    device: torch.device
    dtype: torch.dtype
    shape: Shape
    per_frame: int
    num_tokens: int
    num_prompt: int
    num_steps: int
    offload_tokens: tuple[int, ...]
    matrix_size: int
    seconds: float
    lengths: tuple[range, ...]
    num_needles: int

    @property
    def heads(self) -> Heads:
        """Of its attention."""
        return Heads(self.shape.heads, self.shape.kv_heads, HEAD_DIM)

    @property
    def layer_bytes(self) -> int:
        """The weights of a layer: what a second layer multiplies a row by."""
        one, two = (replace(self.shape, layers=num).linear_flops(1, num_rows=1) for num in (1, 2))
        return (two - one) // 2 * self.dtype.itemsize

    @property
    def weight_bytes(self) -> int:
        """All weights, the embeddings of tokens and the head among them."""
        table = self.shape.vocabulary * self.shape.hidden * self.dtype.itemsize
        return self.shape.layers * self.layer_bytes + 2 * table

    def with_layers(self, num_layers: int) -> "Setting":
        """The same with so many layers."""
        return replace(self, shape=replace(self.shape, layers=num_layers))

    def rate(self) -> float:
        """FLOP/s of a large matrix product, now."""
        seconds = min(2.0, self.seconds / 50)
        return matrix_rate(self.device, self.dtype, seconds=seconds, size=self.matrix_size)

    def fits(self, more: float = 0) -> bool:
        """Whether the weights, a pass, and so many more bytes fit into the free memory."""
        return self.weight_bytes + more + _SPARE <= free_bytes(self.device) or not self.is_on_cuda

    @property
    def is_on_cuda(self) -> bool:
        """Whether it is a GPU whose memory can be asked for."""
        return self.device.type == "cuda"

    def decoder(self) -> Any:
        """A decoder of random weights; what earlier ones took is free again."""
        if self.is_on_cuda:
            torch.cuda.empty_cache()
        return build_decoder(self.shape, self.device, self.dtype)


def real(device: torch.device) -> Setting:
    """Qwen2-7B and the paper's haystack."""
    dtype = torch.bfloat16
    shape = Shape(3584, 28, 28, 4, 18944, 152_064)
    steps = (200, 150, 100, 75, 60, 50, 40, 30, 25, 20, 15, 10, 5)
    lengths = tuple(range(step, 15 * step + 1, step) for step in steps)
    return Setting(
        device, dtype, shape, 144, 432_000, 65_536, 32, (4096, 32_768), 8192, 140.0, lengths, 5
    )


def tiny(device: torch.device) -> Setting:
    """So small that all sections together take seconds on a CPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = Shape(256, 2, 2, 1, 256, 128)
    return Setting(device, dtype, shape, 4, 600, 200, 4, (64,), 128, 0.2, (range(4, 9, 4),), 2)


# --- what is measured ----------------------------------------------------------------------------


def measure_kernels(setting: Setting) -> Iterator[Row]:
    """Every kernel against the plain formula, and how long it takes for a block of a long pass."""
    device, dtype, heads = setting.device, setting.dtype, setting.heads
    if setting.is_on_cuda:
        chosen = choose_kernel(device, dtype, heads)
        trials = try_installed(device, dtype, heads)
    else:
        chosen = CPU_KERNEL
        trials = try_kernels(
            [CPU_KERNEL, PLAIN_KERNEL],
            *(device, dtype),
            heads=heads,
            timer=lambda call: seconds_of(call, device),
        )
    rate = setting.rate()
    yield "matrix product", f"{rate / 1e12:.4g} TFLOP/s", ""
    for trial in trials:
        if trial.fault:
            yield trial.kernel.name, f"not used: {trial.fault[:90]}", ""
        else:
            found = attention_rate(setting, trial.kernel)
            yield (
                trial.kernel.name,
                f"as the formula; {found / 1e12:.4g} TFLOP/s, {found / rate:.0%} of the products"
                + (", chosen" if trial.kernel.name == chosen.name else ""),
                "",
            )


@torch.inference_mode()
def attention_rate(setting: Setting, kernel: Kernel) -> float:
    """FLOP/s of a chunk's queries over the keys of half of the long pass."""
    heads, num_keys = setting.heads, setting.num_tokens // 2
    rows = min(CHUNK_SIZE, num_keys)
    like = torch.empty(0, device=setting.device, dtype=setting.dtype)
    q = like.new_empty(1, rows, heads.num_heads, HEAD_DIM).normal_().transpose(1, 2)
    k, v = like.new_empty(2, 1, heads.num_kv_heads, num_keys, HEAD_DIM).normal_()
    block, scale = KeyBlock(k, v), HEAD_DIM**-0.5

    def call() -> object:
        return kernel.function(q, block, scale=scale)

    call()
    seconds = min(seconds_of(call, setting.device) for _ in range(3))
    return 4 * heads.num_heads * HEAD_DIM * rows * num_keys / seconds


def measure_prefill(setting: Setting) -> Iterator[Row]:
    """The long pass; with fewer layers where all would take too long or too much memory."""
    rate, whole = setting.rate(), setting.shape.layers
    tokens = setting.num_tokens

    def expected(num_layers: int) -> float:
        shape = replace(setting.shape, layers=num_layers)
        return work(shape, 0, tokens, num_rows=NUM_ROWS).total / (_EXPECTED * rate)

    some = setting
    while some.shape.layers > 2 and not (
        some.fits() and expected(some.shape.layers) <= setting.seconds
    ):
        some = setting.with_layers(some.shape.layers - 1)
    found = run_pass(some.shape, tokens, setting.device, setting.dtype)
    rate = max(rate, setting.rate())
    layers = some.shape.layers
    reached = work(some.shape, 0, tokens, num_rows=NUM_ROWS).total / found.seconds
    of_all = work(setting.shape, 0, tokens, num_rows=NUM_ROWS).total / reached
    missing = (setting.weight_bytes - some.weight_bytes) / 1e9
    is_whole = layers == whole
    follows = "" if is_whole else f" with {layers} of {whole} layers, so for all of them"
    yield "matrix product", f"{rate / 1e12:.4g} TFLOP/s", ""
    yield (
        f"{tokens:,} tokens",
        f"{reached / rate:.0%} of the matrix product" + ("" if is_whole else f", {layers} layers"),
        "85 %, at least 60 %",
    )
    measured = f"{found.seconds:.3g} s" + follows
    yield "  time", measured if is_whole else f"{measured} {of_all:.3g} s", ""
    peak = f"{found.peak_gigabytes:.3g} GB" + follows
    yield (
        f"  peak memory, chunks of {found.chunk_size:,}",
        peak if is_whole else f"{peak} {found.peak_gigabytes + missing:.3g} GB",
        "at most 24 GB",
    )


def measure_sharing(setting: Setting) -> Iterator[Row]:
    """A grid in the paper's form: by itself, by the tree, and by one pass.

    What runs by itself takes equally long for each needle, so one of them is measured.
    """
    rate = setting.rate()
    few = setting.with_layers(min(4, setting.shape.layers))
    decoder = few.decoder()
    shape, model = DecoderShape.of(decoder), Model(decoder, few.per_frame)
    for lengths in few.lengths:
        sequences = grid_of(lengths, few.num_needles)
        plan = make_plan(model, sequences)
        if shape.flops_of(plan.branches).total / (_EXPECTED * rate) <= few.seconds / 5:
            break
    store = RandomStore(decoder.lm_head.weight, few.per_frame)
    trunk = Trunk(haystack_of(max(lengths)), OPENING + few.per_frame * max(lengths))
    spliced, whole = (
        SplicedMap(model, sequences, trunk, store, window=window * few.per_frame)
        for window in (1, max(lengths))
    )
    every = range(len(sequences))

    def by_branches(branches: Sequence[Branch]) -> dict[int, Tensor]:
        runner = BranchRunner(decoder, DecoderInputs(model, sequences, store), on_note=print)
        runner.choose(branches)
        found: dict[int, Tensor] = {}
        for root in branches:
            for reading in runner.run_all(root):
                assert reading.logits is not None, reading.error
                found |= dict.fromkeys(reading.sequences, reading.logits)
        return found

    def by_map(of: SplicedMap, indices: Sequence[int]) -> dict[int, Tensor]:
        return dict(of.run(indices, lambda index, logits: logits.cpu(), chunk_size=CHUNK_SIZE))

    of_one_needle = plan.alone[:: few.num_needles]
    by_branches(of_one_needle[:1])  # loads the kernels
    by_map(spliced, every[:1])
    alone = timed(lambda: by_branches(of_one_needle), setting.device)
    alone_seconds = alone.seconds * few.num_needles
    tree = timed(lambda: by_branches(plan.branches), setting.device)
    one = timed(lambda: by_map(spliced, every), setting.device)
    flops = [
        shape.flops_of(plan.alone).total,
        shape.flops_of(plan.branches).total,
        spliced.flops(shape, every).total,
    ]
    grid = f"{len(sequences)} samples of up to {max(lengths):,} frames, {few.shape.layers} layers"
    yield (
        grid,
        f"by itself {alone_seconds:.3g} s ({alone.seconds:.3g} s for one of {few.num_needles} "
        f"needles), {flops[0] / alone_seconds / rate:.0%} of the matrix product{alone.memory}",
        "",
    )
    yield (
        "  the tree",
        f"{alone_seconds / tree.seconds:.2f} times less time, {flops[0] / flops[1]:.2f} fewer "
        f"operations{tree.memory}; "
        + difference({index: tree.found[index] for index in alone.found}, alone.found),
        "logits equal but for rounding",
    )
    yield (
        "  one pass, window of 1 frame",
        f"{tree.seconds / one.seconds:.2f} times less time than the tree, "
        f"{flops[1] / flops[2]:.2f} fewer operations{one.memory}",
        "the time as the operations",
    )
    # The shortest haystack, of which all is computed with the needle in sight.
    short = [index for index in alone.found if length_of(sequences[index]) == lengths[0]]
    exact = by_map(whole, short)
    yield (
        "  one pass, whole window",
        difference(exact, {index: alone.found[index] for index in short}),
        "logits equal but for rounding",
    )


def measure_offload(setting: Setting) -> Iterator[Row]:
    """The same decoder, before and after its layers are put into host memory."""
    few = setting.with_layers(min(8, setting.shape.layers))
    decoder = few.decoder()
    inputs = {
        num: torch.randn(num, few.shape.hidden, device=setting.device, dtype=setting.dtype)
        for num in few.offload_tokens
    }

    def run(num_tokens: int) -> Tensor:
        positions = torch.arange(num_tokens, device=setting.device)
        hidden = inputs[num_tokens].clone()
        return answer_logits(decoder, hidden, positions, num_rows=NUM_ROWS).cpu()

    def measure() -> dict[int, Timed]:
        for num_tokens in inputs:
            run(num_tokens)
        return {num: timed(lambda num=num: {0: run(num)}, setting.device) for num in inputs}

    resident = measure()
    offload_layers(decoder.model, setting.device)
    if setting.is_on_cuda:
        torch.cuda.empty_cache()
    fetched, layers = measure(), offloaded(decoder.model)
    assert layers is not None
    for num_tokens, one in resident.items():
        other = fetched[num_tokens]
        is_equal = torch.equal(one.found[0], other.found[0])
        yield (
            f"{num_tokens:,} tokens, {few.shape.layers} layers",
            f"{other.seconds / one.seconds:.2f} times the time of resident ones{other.memory}"
            f"{one.memory and ' in place of' + one.memory[1:]}; weights are fetched at "
            f"{layers.host_bytes / other.seconds / 1e9:.3g} GB/s; logits equal to the last bit: "
            f"{is_equal}",
            "near 1.00 for long passes; True",
        )


def measure_decode(setting: Setting) -> Iterator[Row]:
    """Texts behind one haystack: one, and sixteen at a time."""
    num_frames = (setting.num_prompt - OPENING) // setting.per_frame
    some = setting
    while some.shape.layers > 2 and not some.fits(keys_values(some)):
        some = some.with_layers(some.shape.layers - 1)
    decoder = some.decoder()
    model, num_steps, num_texts = Model(decoder, some.per_frame), some.num_steps, 16
    sequences = [haystack_of(num_frames, question) for question in range(num_texts)]
    inputs = DecoderInputs(model, sequences, RandomStore(decoder.lm_head.weight, some.per_frame))
    found: dict[int, float] = {}

    class Measuring:
        """In place of the `GreedyDecoder`: decodes twice, and looks at the clock."""

        def decode(self, *args: Any, **options: Any) -> Any:
            for num in (1, num_texts):
                greedy = GreedyDecoder(
                    *(decoder, inputs),
                    is_wanted=lambda index, num=num: index < num,
                    decoding=Decoding(num_steps),
                )
                greedy.decode(*args, **options)
                found[num] = seconds_of(lambda g=greedy: g.decode(*args, **options), some.device)
            return (None,) * len(args[0].suffixes)

    (root,) = kept_whole(make_plan(model, sequences).branches)
    runner = BranchRunner(decoder, inputs, kv_location="device", on_note=print, greedy=Measuring())
    for _ in runner.run_all(root):
        pass
    read = some.weight_bytes + keys_values(some)
    layers = "" if some.shape.layers == setting.shape.layers else f", {some.shape.layers} layers"
    for num, seconds in found.items():
        step = seconds / num_steps
        yield (
            f"{num} text{'s' if num > 1 else ''} behind {root.num_tokens:,} tokens{layers}",
            f"{num / step:.4g} tokens/s, {1000 * step:.3g} ms a step; weights, keys and values at "
            f"{read / step / 1e9:.4g} GB/s",
            "",
        )


def keys_values(setting: Setting) -> int:
    """Bytes of the keys and values of all layers of what is decoded behind."""
    of_token = 2 * setting.shape.kv_heads * HEAD_DIM * setting.dtype.itemsize
    return setting.shape.layers * of_token * setting.num_prompt


MEASURES: dict[str, Callable[[Setting], Iterable[Row]]] = {
    "kernels": measure_kernels,
    "prefill": measure_prefill,
    "sharing": measure_sharing,
    "offload": measure_offload,
    "decode": measure_decode,
}

# --- a model of random weights, and its grid ------------------------------------------------------


class Model:
    """Reads an opening, frames and a question.

    Args:
        decoder: of the transformers library.
        per_frame: tokens of a frame.
    """

    name, revision, has_causal_positions = "random weights", "1", True

    def __init__(self, decoder: Any, per_frame: int) -> None:
        self.decoder = decoder
        self.frame_shape = (per_frame, decoder.config.hidden_size)

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """One after the other."""
        num_tokens = sequence.num_tokens(self.frame_shape[0])
        return torch.arange(num_tokens, device=self.decoder.lm_head.weight.device)


class RandomStore:
    """In place of encoded frames: the same frame is the same random numbers every time.

    Args:
        like: gives dtype, device and the size of a row.
        per_frame: tokens of a frame.
    """

    def __init__(self, like: Tensor, per_frame: int) -> None:
        self._frames = torch.randn(
            61, per_frame, like.shape[1], device=like.device, dtype=like.dtype
        )

    def read_runs(self, frames: Frames, **_: object) -> Iterator[Tensor]:
        """The frames of each span, some at a time, ``[n, per_frame, H]``."""
        for span in frames.spans:
            moved = 7 * (span.source != "haystack")
            numbers = torch.arange(span.start, span.stop, device=self._frames.device) + moved
            for some in numbers.split(len(self._frames)):
                yield self._frames[some % len(self._frames)]


def haystack_of(num_frames: int, question: int = 0) -> TokenSequence:
    """A sequence without a needle."""
    return sequence_of([FrameSpan("haystack", 0, num_frames)], question)


def sequence_of(frames: Sequence[FrameSpan], question: int = 0) -> TokenSequence:
    """An opening, frames, and one of some questions."""
    opening = TextSegment(tuple(range(OPENING)))
    asked = TextSegment((*range(10, 9 + QUESTION), question))
    return TokenSequence((opening, *frames, asked), ANSWER)


def grid_of(lengths: Sequence[int], num_needles: int) -> list[TokenSequence]:
    """Some needles at six depths of each length; the needles of a place follow one another."""
    sequences = []
    for num_frames in lengths:
        for place in (num_frames * fifths // 5 for fifths in range(6)):
            before = [FrameSpan("haystack", 0, place)] if place else []
            after = [FrameSpan("haystack", place, num_frames)] if place < num_frames else []
            sequences += [
                sequence_of([*before, FrameSpan("needle", number, number + 1), *after])
                for number in range(num_needles)
            ]
    return sequences


def length_of(sequence: TokenSequence) -> int:
    """Frames of the haystack that a sequence shows."""
    return sum(s.num_frames for s in sequence.frames.spans if s.source == "haystack")


@dataclass(frozen=True)
class Timed:
    """What a call returned, and what it took.

    Attributes:
        found: logits by number.
        seconds: by the clock.
        memory: the peak, in words; empty on the CPU, which knows none of a single call.
    """

    found: dict[int, Tensor]
    seconds: float
    memory: str


def timed(call: Callable[[], dict[int, Tensor]], device: torch.device) -> Timed:
    """Calls once; on CUDA the peak of memory is that of the call, with all that is there."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    found: list[dict[int, Tensor]] = []
    seconds = seconds_of(lambda: found.append(call()), device)
    memory = f", {peak_gigabytes(device):.3g} GB" if device.type == "cuda" else ""
    return Timed(found[0], seconds, memory)


def difference(one: dict[int, Tensor], other: dict[int, Tensor]) -> str:
    """The largest difference of two logits beside the largest logit."""
    assert one.keys() == other.keys()
    largest = max(float((one[key] - other[key]).abs().max()) for key in one)
    scale = max(float(logits.abs().max()) for logits in other.values())
    return f"logits of up to {scale:.3g} differ by at most {largest:.1e}"


# --- the file of what was found, and the table ----------------------------------------------------


class Found(TypedDict):
    """The file: the machine, and rows by section."""

    machine: str
    sections: dict[str, list[Row]]


def machine_of(setting: Setting) -> str:
    """What rows of one file have in common."""
    device = setting.device
    name = torch.cuda.get_device_name(device) if setting.is_on_cuda else "CPU"
    return (
        f"{name}, torch {torch.__version__}, {str(setting.dtype).removeprefix('torch.')}, "
        f"{setting.shape.layers} layers of width {setting.shape.hidden}"
    )


def read_found(path: Path, machine: str) -> Found:
    """What was found earlier on the same machine; ends the script for what it cannot go on with."""
    if not path.is_file():
        return {"machine": machine, "sections": {}}
    try:
        found = read_json(path, Found, VniahError)
    except VniahError as error:
        raise SystemExit(first_line(error)) from error
    if found["machine"] != machine:
        raise SystemExit(
            f"{path} is of {found['machine']}, not of {machine}: name another --output"
        )
    return found


def measure_section(name: str, setting: Setting) -> list[Row]:
    """The rows of a section; where memory runs out, those until then."""
    rows: list[Row] = []
    try:
        for row in MEASURES[name](setting):
            rows.append(row)
    except torch.OutOfMemoryError as error:
        rows.append((name, f"out of memory: {first_line(error)[:90]}", ""))
    return rows


def run_apart(name: str, arguments: Sequence[str], *, limit: float) -> None:
    """A section in a process of its own, which writes the file; raises where it fails."""
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--section", name, *arguments]
    subprocess.run(command, check=True, timeout=limit)


def measure_missing(path: Path, setting: Setting, *, is_apart: bool) -> Found:
    """Measures the sections that a file lacks, each in a process of its own or all in this one."""
    machine, shared = machine_of(setting), ["--output", str(path), "--device", str(setting.device)]
    for name, limit in LIMITS.items():
        found = read_found(path, machine)
        if name in found["sections"]:
            continue
        print(f"{name}: at most {limit} s", flush=True)
        if not is_apart:
            found["sections"][name] = measure_section(name, setting)
            write_json(path, found)
            continue
        try:
            run_apart(name, shared, limit=limit)
        except subprocess.SubprocessError as error:  # it is not in the file, and is tried again
            print(f"{name} failed: {first_line(error)}", flush=True)
    return read_found(path, machine)


def print_table(found: Found, took: float) -> None:
    """All rows, section by section."""
    rows = [
        (section if number == 0 else "", *row)
        for section in MEASURES
        for number, row in enumerate(found["sections"].get(section, []))
    ]
    print(f"{found['machine']}; {took:.0f} s")
    print(format_columns([("", "measured", "found", "goal"), *rows], justify=str.ljust))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what the file lacks, and prints the table."""
    on_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("on_gpu.json"))
    parser.add_argument("--device", default="cuda" if on_cuda else "cpu")
    parser.add_argument("--again", choices=MEASURES, help="a section to measure again")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--section", choices=MEASURES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda":
        device = torch.empty(0, device=device).device  # with its index, as a tensor's device has it
        torch.cuda.set_device(device)
    elif not options.tiny:
        parser.error("the whole decoder takes a GPU; --tiny runs on a CPU")
    setting = tiny(device) if options.tiny else real(device)
    found, started = read_found(options.output, machine_of(setting)), time.perf_counter()
    if options.section is not None:
        found["sections"][options.section] = measure_section(options.section, setting)
        write_json(options.output, found)
        return
    found["sections"].pop(options.again, None)
    write_json(options.output, found)
    found = measure_missing(options.output, setting, is_apart=not options.tiny)
    print_table(found, time.perf_counter() - started)


if __name__ == "__main__":
    main()
