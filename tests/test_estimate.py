"""What is said before a run against what is measured."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_prefill import allocated_bytes, build_decoder, store_for
from torch.utils.flop_counter import FlopCounterMode

from vniah.cli.display import format_estimate
from vniah.errors import InputError
from vniah.forward.costs import DecoderShape
from vniah.forward.kernels import CPU_KERNEL
from vniah.forward.kv_cache import KeyValueCache
from vniah.forward.memory import fit_chunk_size, fit_kv_location
from vniah.forward.offload import offloaded
from vniah.forward.prefix_tree import Branch, Suffix
from vniah.forward.runner import BranchRunner
from vniah.grid import Grid
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.protocol import Frames, segments
from vniah.sweep.estimate import estimate
from vniah.sweep.throughput import Rates, measure_rates

SHAPES = {
    "feed-forward is widest": ("qwen2", {"intermediate_size": 1024}),
    "attention is widest": ("qwen3", {"head_dim": 128, "intermediate_size": 300}),
    "many heads": ("llama", {"num_attention_heads": 16, "intermediate_size": 256}),
}
RATES = Rates(linear=1e9, attention=1e9)


def wide_decoder(family, dtype, **changes):
    decoder = build_decoder(family, hidden_size=256, **changes)
    for part in (decoder.model.layers, decoder.model.norm, decoder.lm_head):
        part.to(dtype)
    return decoder


def branch_of(start: int, num_tokens: int, num_suffixes: int) -> Branch:
    """A pass with suffixes of 33 tokens all along it."""
    suffixes = tuple(
        Suffix(start + num_tokens * (k + 1) // num_suffixes, (33,), 33, (k,))
        for k in range(num_suffixes)
    )
    return Branch(start, (num_tokens,), num_tokens, suffixes)


class Zeros:
    """Sequences of zeros, of which the last two rows are read; segments are their own lengths."""

    num_deepstack_layers = 0

    def __init__(self, like, num_tokens):
        self.like, self.num_tokens = like, num_tokens

    def size(self, segment):
        return segment

    def embed(self, segments, start, stop):
        return self.like.new_zeros(stop - start, self.like.shape[1])

    def token_ids(self, segments, start, stop):
        return None

    def images(self, segments):
        return ()

    def positions(self, index):
        return torch.arange(self.num_tokens)

    def num_answer_rows(self, index):
        return 2


def runner_of(decoder, *, chunk_size=None, num_tokens=7000) -> BranchRunner:
    inputs = Zeros(decoder.lm_head.weight, num_tokens)
    return BranchRunner(decoder, inputs, chunk_size=chunk_size, kv_location="device")


def past_of(decoder, num_tokens: int) -> list[KeyValueCache]:
    if not num_tokens:
        return []
    return [store_for(decoder, num_tokens)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("past", "num_tokens", "chunk_size", "num_suffixes"),
    [
        (0, 900, 256, 1),
        (0, 4000, 512, 3),
        (0, 300, 512, 1),  # one chunk, nothing to merge
        (3000, 900, 256, 8),
        (500, 60, 256, 30),  # most rows are the suffixes'
    ],
)
def test_memory_of_a_pass_is_what_it_allocates(
    shape, dtype, past, num_tokens, chunk_size, num_suffixes, tmp_path
):
    family, changes = SHAPES[shape]
    decoder = wide_decoder(family, dtype, num_hidden_layers=2, **changes)
    earlier = past_of(decoder, past)
    runner = runner_of(decoder, chunk_size=chunk_size, num_tokens=past + num_tokens + 33)
    branch = branch_of(past, num_tokens, num_suffixes)
    runner.run(branch_of(past, 8, 1), earlier)  # what is allocated once
    peak = allocated_bytes(lambda: runner.run(branch, earlier), tmp_path / "trace.json")
    said = runner.shape.pass_bytes(branch, chunk_size=chunk_size, num_read=2 * num_suffixes)
    assert said == pytest.approx(peak, rel=0.15)


def test_operations_are_those_that_torch_counts():
    decoder = build_decoder("qwen3")
    branch = replace(branch_of(0, 200, 2), branches=())
    with FlopCounterMode(display=False) as counter:
        runner_of(decoder, chunk_size=64).run(branch)
    counts = counter.get_flop_counts()["Global"]
    counted = counts[torch.ops.aten.mm] + counts.get(torch.ops.aten.addmm, 0)
    shape, head = DecoderShape.of(decoder), 2 * 2 * 2 * 64 * 97  # two rows of both suffixes
    flops = shape.flops_of([branch])
    assert flops.linear + head == counted
    # the last layer's rows end after q, k, v; without that it would be all of it
    skipped = (shape.linear_weights - shape.query_key_value_weights) // shape.num_layers
    assert 2 * shape.linear_weights * 266 - flops.linear == 2 * 200 * skipped
    main = sum(k + 1 for k in range(200))
    suffixes = sum(start + k + 1 for start in (100, 200) for k in range(33))
    pairs = (shape.num_layers - 1) * main + shape.num_layers * suffixes
    assert flops.attention == 4 * shape.num_heads * shape.head_dim * pairs


def test_ring_divides_main_rows_and_computes_their_keys_twice():
    shape = DecoderShape.of(build_decoder("qwen2"))
    trunk = Branch(0, (4000,), 4000, ())
    one, four = shape.flops_of([trunk]), shape.flops_of([trunk], num_ranks=4)
    assert four.attention == one.attention // 4
    twice = shape.query_key_value_weights * 2 // 3
    assert four.linear == one.linear // 4 + 2 * twice * 1000
    alone = shape.pass_parts(trunk, chunk_size=256)
    shared = shape.pass_parts(trunk, chunk_size=256, num_ranks=4)
    assert shared.keys_values == alone.keys_values // 4 * 3 // 2
    assert shared.hidden < alone.hidden / 3


def test_tile_and_place_are_those_that_the_runner_chooses():
    decoder = build_decoder("qwen2")
    root = replace(branch_of(0, 3000, 2), branches=(branch_of(1000, 500, 1),))
    runner, device = runner_of(decoder), torch.device("cpu")
    size = fit_chunk_size(runner.shape, [root], device, free=10**12)
    assert runner.choose([root]) == (size, "device")
    assert fit_chunk_size(runner.shape, [root], device, free=0) == 256
    kept = runner.shape.kept_bytes([root])
    assert kept == runner.shape.store_bytes(1000)
    assert fit_kv_location(kept, device, left=kept) == "device"
    assert fit_kv_location(kept, device, left=kept - 1) == "disk"
    assert fit_kv_location(kept, torch.device("cuda"), left=kept - 1) == "host"


@pytest.fixture
def model(checkpoint):
    return load_model(str(checkpoint), device="cpu")


def test_estimate_of_a_grid(model, needle_folder):
    needles = load_needles(str(needle_folder))
    found = estimate(model, needles, Grid.parse("40:200:40", "0:1:0.5"), rates=RATES)
    assert found.num_samples == 5 * 3 * 3 + 5 * 3 + 3
    assert found.tokens_per_frame == model.frame_shape[0]
    assert found.alone.num_passes == 63 > found.shared.num_passes
    assert found.alone.num_tokens > 1.5 * found.shared.num_tokens
    assert found.shared.seconds == pytest.approx(found.shared.flops.total / 1e9)
    assert found.memory.fits and found.memory.kv_location == "device"
    assert found.memory.store > 0
    assert list(found.max_frames) == [1, 2, 4, 8]
    assert 200 < found.max_frames[1] < found.max_frames[2] < found.max_frames[8]


def test_nothing_is_shared_where_the_model_says_so(model, needle_folder):
    model.shares_prefixes = False
    found = estimate(model, load_needles(str(needle_folder)), Grid.parse("4,9", "0"), rates=RATES)
    assert found.shared == found.alone
    assert found.notes[0].startswith("nothing is shared: ")


@pytest.mark.usefixtures("short_measurements")
def test_rates_are_measured(model):
    rates = measure_rates(model, CPU_KERNEL, num_tokens=100)
    assert rates.linear > 1e6 and rates.attention > 1e6


def test_layers_in_the_host_are_no_weights_on_the_device(model, checkpoint, needle_folder):
    needles, grid = load_needles(str(needle_folder)), Grid.parse("4,9", "0")
    other = load_model(str(checkpoint), device="cpu", offload="always")
    resident = estimate(model, needles, grid, rates=RATES)
    fetched = estimate(other, needles, grid, rates=replace(RATES, fetching=1e3))
    layers = offloaded(other.decoder.model)
    assert resident.memory.host_weights == 0
    assert fetched.memory.host_weights == layers.host_bytes
    in_layers = sum(p.nbytes for p in model.decoder.model.layers.parameters())
    on_device = resident.memory.weights - in_layers + layers.device_bytes
    assert fetched.memory.weights == on_device
    # slow copies take longer than what goes on beside them, fast ones do not
    assert fetched.shared.seconds == fetched.shared.num_passes * layers.host_bytes / 1e3
    assert fetched.shared.seconds > resident.shared.seconds
    soon = estimate(other, needles, grid, rates=replace(RATES, fetching=1e15))
    assert soon.shared == resident.shared
    text = format_estimate(fetched)
    assert "of its layers, in host memory" in text and "at 1 kB/s, while it computes" in text
    assert "host memory" not in format_estimate(resident)


def test_kernel_that_does_not_run_here_is_refused(model, needle_folder):
    with pytest.raises(InputError, match="attention cudnn does not run on cpu"):
        estimate(model, load_needles(str(needle_folder)), Grid.parse("4", "0"), attention="cudnn")


def test_model_without_a_decoder_is_refused(needle_folder):
    chat = SimpleNamespace(name="talker", revision="1", answer=lambda frames, question: "7")
    with pytest.raises(InputError, match="talker has no decoder that vniah runs"):
        estimate(chat, load_needles(str(needle_folder)), Grid.parse("4", "0"))


def test_no_rank_is_refused(model, needle_folder):
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        estimate(model, load_needles(str(needle_folder)), Grid.parse("4", "0"), num_ranks=0)


@pytest.mark.parametrize("needles", ["cards", "counterfactual"])
def test_planning_takes_no_look_at_single_frames(needles, monkeypatch):
    """Nine cells of up to 200,000 frames, two days of video."""

    def refuse(*_):
        raise AssertionError("frame by frame")

    monkeypatch.setattr(Frames, "__iter__", refuse)
    monkeypatch.setattr(segments, "_segments_of", refuse)
    grid = Grid.parse("50000,100000,200000", "0,0.5,1")
    model, cards = load_model("reference-long"), load_needles(needles)
    found = estimate(model, cards, grid, rates=RATES)
    per_frame = model.frame_shape[0]
    assert found.num_samples >= (9 + 3 + 1) * len(cards), "needles in cells, and controls"
    assert found.max_tokens > 200_000 * per_frame
    assert found.one_pass.work.num_tokens < found.shared.num_tokens < found.alone.num_tokens
