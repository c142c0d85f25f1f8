"""The choice of an attention kernel, with kernels that run on the CPU."""

import math
import re
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from decoder_models import DecoderStandIn, largest_difference, make_runner, run, sweep_of
from test_prefill import build_decoder

from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.errors import InputError
from vniah.forward import kernels
from vniah.forward.attention import Heads, KeyBlock, attend_plainly
from vniah.forward.kernels import (
    CPU_KERNEL,
    CUDA_KERNELS,
    CUDNN_KERNEL,
    PLAIN_KERNEL,
    Kernel,
    Trial,
    choose_kernel,
    fastest,
    find_kernel,
    in_pieces,
    share_heads,
    try_installed,
    try_kernels,
)
from vniah.options import ATTENTION_NAMES, NAMES_BY_DEVICE

CPU = torch.device("cpu")
HEADS = Heads(4, 2, 16)


def altered(change):
    """The CPU kernel with a fault: ``change(q, block, scale, out, lse) -> (out, lse)``."""

    def attend(q, block, /, *, scale):
        return change(q, block, scale, *CPU_KERNEL.function(q, block, scale=scale))

    return Kernel("altered", attend)


def without_sharing(q, block, /, *, scale):
    """A kernel that takes as many key heads as query heads, no fewer."""
    if q.shape[1] != block.k.shape[1]:
        raise RuntimeError("number of heads differs")
    return CPU_KERNEL.function(q, block, scale=scale)


def try_on_cpu(*candidates, seconds=(), dtype=torch.float32, heads=HEADS):
    """Trials with a timer that gives ``seconds`` one after another, 1.0 where none are given."""
    given = iter(seconds or [1.0] * len(candidates))
    return try_kernels(candidates, CPU, dtype, heads=heads, timer=lambda call: next(given))


def random_block(num_queries, num_keys, *, is_causal=False, heads=HEADS):
    generator = torch.Generator().manual_seed(num_keys)
    num_heads, num_kv_heads, size = heads
    q = torch.randn(1, num_queries, num_heads, size, generator=generator).transpose(1, 2)
    k, v = torch.randn(2, 1, num_kv_heads, num_keys, size, generator=generator)
    return q, KeyBlock(k, v, is_causal=is_causal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("heads", [HEADS, (3, 1, 8), (2, 2, 128)])
def test_real_kernels_are_right_in_every_dtype(dtype, heads):
    candidates = (
        CPU_KERNEL,
        PLAIN_KERNEL,
        Kernel("heads shared", share_heads(without_sharing)),
        in_pieces(CPU_KERNEL, rest=PLAIN_KERNEL),
    )
    trials = try_on_cpu(*candidates, dtype=dtype, heads=heads)
    assert [trial.fault for trial in trials] == [""] * len(candidates)


def break_padding(q, block, scale, out, lse):
    """Right but for the last row of blocks that are no multiple of 64."""
    if q.shape[2] % 64 > 1:
        out[:, :, -1] = 0
    return out, lse


FAULTY = {
    "log-sum-exp of base 2": (
        lambda q, block, scale, out, lse: (out, lse / math.log(2)),
        "lse differs by",
    ),
    "log-sum-exp of unscaled scores": (
        lambda q, block, scale, out, lse: (out, CPU_KERNEL.function(q, block, scale=1.0)[1]),
        "lse differs",
    ),
    "log-sum-exp in half precision": (
        lambda q, block, scale, out, lse: (out, lse.half()),
        "torch.float16 at 1 x 1 causal",
    ),
    "log-sum-exp padded": (
        lambda q, block, scale, out, lse: (out, torch.nn.functional.pad(lse, (0, 31))),
        r"lse \[1, 4, 32\]",
    ),
    "scale ignored": (
        lambda q, block, scale, out, lse: CPU_KERNEL.function(q, block, scale=q.shape[-1] ** -0.5),
        "differs",
    ),
    "not causal": (
        lambda q, block, scale, out, lse: CPU_KERNEL.function(
            q, KeyBlock(block.k, block.v), scale=scale
        ),
        "out differs by .* at 65 x 65 causal",
    ),
    "last rows wrong": (break_padding, "out differs by .* at"),
    "not a number": (
        lambda q, block, scale, out, lse: (out * torch.nan, lse),
        "out differs by nan",
    ),
    "heads in another order": (
        lambda q, block, scale, out, lse: (out.flip(1), lse.flip(1)),
        "differs",
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_kernel_that_is_wrong_is_dropped(name):
    change, fault = FAULTY[name]
    (trial,) = try_on_cpu(altered(change))
    assert trial.seconds == math.inf
    assert re.search(fault, trial.fault), trial.fault


@pytest.mark.parametrize(
    "error",
    [
        ImportError("No module named 'flash_attn'"),
        NotImplementedError("no such kernel"),
        RuntimeError("head_dim 24\nis not supported"),
        TypeError("unexpected keyword"),
        ValueError("not enough values to unpack"),
        AttributeError("no attribute"),
        torch.OutOfMemoryError("out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_kernel_that_raises_is_dropped(error):
    def attend(q, block, /, *, scale):
        raise error

    trials = try_on_cpu(Kernel("raising", attend), CPU_KERNEL)
    assert trials[0].fault == f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert fastest(trials) == CPU_KERNEL


def test_kernel_that_raises_while_timed_is_dropped():
    def timer(call):
        raise torch.OutOfMemoryError("out of memory")

    (trial,) = try_kernels([CPU_KERNEL], CPU, torch.float32, heads=HEADS, timer=timer)
    assert trial.fault == "OutOfMemoryError: out of memory"


def test_error_of_another_kind_is_not_hidden():
    def attend(q, block, /, *, scale):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        try_on_cpu(Kernel("raising", attend))


@pytest.mark.parametrize(
    ("seconds", "expected"), [((3.0, 1.0), PLAIN_KERNEL), ((1.0, 3.0), CPU_KERNEL)]
)
def test_fastest_of_the_right_ones_is_taken(seconds, expected):
    wrong = altered(FAULTY["scale ignored"][0])
    trials = try_on_cpu(wrong, CPU_KERNEL, PLAIN_KERNEL, seconds=seconds)
    assert [trial.seconds for trial in trials] == [math.inf, *seconds]
    assert fastest(trials) == expected


def test_plain_formula_is_taken_where_none_is_right():
    assert fastest(try_on_cpu(altered(FAULTY["not causal"][0]))) == PLAIN_KERNEL
    assert fastest(()) == PLAIN_KERNEL


def test_timer_gets_a_call_of_the_kernel(monkeypatch):
    monkeypatch.setattr(kernels, "_TIMED_BLOCK", (2, 6, 40, False))
    shapes = []

    def timer(call):
        out, lse = call()
        shapes.append((out.shape, lse.shape))
        return 1.0

    try_kernels([CPU_KERNEL], CPU, torch.float32, heads=HEADS, timer=timer)
    assert shapes == [((2, 4, 6, 16), (2, 4, 6))]


@pytest.mark.parametrize("num_keys", [1, 2047, 2048, 2049, 6144, 6145, 9999])
def test_pieces_together_equal_the_whole(num_keys):
    q, block = random_block(512, num_keys)
    out, lse = in_pieces(CPU_KERNEL, rest=PLAIN_KERNEL).function(q, block, scale=0.25)
    expected_out, expected_lse = attend_plainly(q, block, scale=0.25)
    torch.testing.assert_close(out.float(), expected_out, rtol=0, atol=2e-6)
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=2e-5)


def test_planned_kernel_sees_powers_of_two_only():
    seen = []

    def attend(q, block, /, *, scale):
        assert not block.is_causal
        seen.append(block.k.shape[2])
        return CPU_KERNEL.function(q, block, scale=scale)

    kernel = in_pieces(Kernel("planned", attend), rest=CPU_KERNEL)
    assert kernel.name == "planned, small blocks by torch CPU flash"
    kernel.function(*random_block(512, 4096 + 2048 + 7), scale=0.25)
    assert seen == [4096, 2048]
    kernel.function(*random_block(1024, 2048), scale=0.25)
    assert seen == [4096, 2048, 2048]
    kernel.function(*random_block(513, 4096), scale=0.25)
    kernel.function(*random_block(512, 512, is_causal=True), scale=0.25)
    assert len(seen) == 3, "odd numbers of rows and causal blocks are not worth a plan"


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("heads", [(4, 4, 8), (4, 1, 8), (6, 2, 8)])
def test_shared_heads_equal_grouped_query_attention(heads, is_causal):
    q, block = random_block(9, 9, is_causal=is_causal, heads=heads)
    out, lse = share_heads(without_sharing)(q, block, scale=0.5)
    expected_out, expected_lse = attend_plainly(q, block, scale=0.5)
    torch.testing.assert_close(out, expected_out, rtol=0, atol=2e-6)
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=2e-5)


def test_keys_are_not_copied_where_heads_are_shared():
    def attend(q, block, /, *, scale):
        assert block.k.data_ptr() == keys.k.data_ptr()
        return CPU_KERNEL.function(q, block, scale=scale)

    q, keys = random_block(5, 12)
    share_heads(attend)(q, keys, scale=0.5)


@pytest.mark.parametrize(
    ("device", "name"), [("cpu", "torch CPU flash"), ("meta", "plain formula")]
)
def test_name_of_the_kernel_on_other_devices(device, name):
    assert choose_kernel(torch.device(device), torch.float32, HEADS).name == name


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", "cpu", CPU_KERNEL),
        ("auto", "mps", PLAIN_KERNEL),
        ("plain", "cpu", PLAIN_KERNEL),
        ("plain", "mps", PLAIN_KERNEL),
        ("plain", "cuda", PLAIN_KERNEL),
        ("flash-cpu", "cpu", CPU_KERNEL),
    ],
)
def test_kernel_is_found_by_its_name(name, device, expected):
    assert find_kernel(name, torch.device(device), torch.float32, HEADS) == expected


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("fast", "cpu", "attention must be one of auto, plain, flash-cpu, flash-3, .*, got 'fast'"),
        ("varlen", "cpu", "attention varlen does not run on cpu; .* auto, plain, flash-cpu$"),
        ("flash-cpu", "mps", "attention flash-cpu does not run on mps; .* auto, plain$"),
        ("flash-cpu", "cuda", "does not run on cuda; .* auto, plain, flash-3, .*, cudnn$"),
    ],
)
def test_kernel_that_is_not_there_is_refused_with_those_that_are(name, device, message):
    with pytest.raises(InputError, match=message):
        find_kernel(name, torch.device(device), torch.float32, HEADS)


def test_cuda_kernel_is_taken_by_name_only_where_it_is_right(monkeypatch):
    tried = [Trial(kernel, 1.0) for kernel in (*CUDA_KERNELS, CUDNN_KERNEL)]
    tried[2] = Trial(CUDA_KERNELS[2], fault="lse differs by 1.0e+00 at 1 x 1 causal")
    monkeypatch.setattr(kernels, "try_installed", lambda *_, **__: tuple(tried))
    names, cuda = NAMES_BY_DEVICE["cuda"], torch.device("cuda", 0)
    assert len(names) == len(tried)
    for name, trial in zip(names, tried, strict=True):
        if name != "varlen":
            assert find_kernel(name, cuda, torch.float16, HEADS) is trial.kernel
    with pytest.raises(InputError, match=r"varlen cannot be used on cuda:0: lse differs by 1"):
        find_kernel("varlen", cuda, torch.float16, HEADS)


def test_names_are_told_apart():
    assert len(set(ATTENTION_NAMES)) == len(ATTENTION_NAMES) == 9


def counting(counts):
    """The plain formula, counting its calls."""

    def attend(q, block, /, *, scale):
        counts.append(q.shape)
        return attend_plainly(q, block, scale=scale)

    return Kernel("counting", attend)


def test_kernel_that_was_asked_for_computes_every_pass_and_is_named():
    model = DecoderStandIn(build_decoder("qwen2"))
    sequences, calls = sweep_of(model), []
    expected = run(model, sequences, chunk_size=16)
    found = run(model, sequences, chunk_size=16, kernel=counting(calls))
    assert make_runner(model, sequences, kernel=counting([])).kernel.name == "counting"
    assert len(calls) > 100
    assert 0 < largest_difference(found, expected) < 1e-4
    num_calls = len(calls)
    again = run(model, sequences, chunk_size=16)
    assert all(map(torch.equal, again, expected)) and len(calls) == num_calls
    assert make_runner(model, sequences).kernel == CPU_KERNEL


def test_kernel_for_a_model_is_found_by_its_decoder():
    model = DecoderStandIn(build_decoder("qwen2"))
    assert choose_engine(model, EngineOptions(attention="plain"))._kernel == PLAIN_KERNEL
    assert choose_engine(model)._kernel == CPU_KERNEL
    with pytest.raises(InputError, match="attention varlen does not run on cpu"):
        choose_engine(model, EngineOptions(attention="varlen"))


def test_kernel_for_a_model_without_a_decoder_is_refused():
    chat = SimpleNamespace(name="talker", revision="1", answer=lambda frames, question: "7")
    assert choose_engine(chat).decoding is None
    with pytest.raises(InputError, match="attention plain needs a model with a decoder; talker"):
        choose_engine(chat, EngineOptions(attention="plain"))


def flash_attention_package(*, flag, gives_lse=True, padding=0):
    """What the packages publish of themselves, [1, L, H, D] in and out, on the CPU kernel."""

    def compute(q, k, v, softmax_scale, causal):
        block = KeyBlock(k.transpose(1, 2), v.transpose(1, 2), is_causal=causal)
        out, lse = CPU_KERNEL.function(q.transpose(1, 2), block, scale=softmax_scale)
        return out.transpose(1, 2), torch.nn.functional.pad(lse, (0, padding))

    def with_flag(q, k, v, softmax_scale=None, causal=False, return_attn_probs=False):
        out, lse = compute(q, k, v, softmax_scale, causal)
        return (out, lse, *flag) if return_attn_probs else out

    def without_flag(q, k, v, softmax_scale=None, causal=False):
        out, lse = compute(q, k, v, softmax_scale, causal)
        return (out, lse) if gives_lse else out

    return SimpleNamespace(flash_attn_func=without_flag if flag is None else with_flag)


PACKAGES = {
    "3, newer": ("flash_attn_interface", {"flag": ()}, ""),
    "3, older": ("flash_attn_interface", {"flag": None}, ""),
    "3, between": ("flash_attn_interface", {"flag": None, "gives_lse": False}, "ValueError"),
    "2": ("flash_attn", {"flag": (None,)}, ""),
    "2, padded": ("flash_attn", {"flag": (None,), "padding": 5}, ""),
    "2, no such argument": ("flash_attn", {"flag": None}, "TypeError"),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_flash_attention_packages_are_called_as_they_publish(name, monkeypatch):
    module, surface, fault = PACKAGES[name]
    monkeypatch.setitem(sys.modules, module, flash_attention_package(**surface))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    (trial,) = try_on_cpu(CUDA_KERNELS[0 if module == "flash_attn_interface" else 1])
    assert trial.fault.startswith(fault) if fault else not trial.fault


def test_torch_varlen_is_called_with_packed_sequences(monkeypatch):
    varlen = pytest.importorskip("torch.nn.attention.varlen")

    def varlen_attn(q, k, v, q_starts, k_starts, max_q, max_k, **options):
        assert options["enable_gqa"] and options["return_aux"].lse
        outs, lses = [], []
        for (a, b), (c, d) in zip(
            pairwise(q_starts.tolist()), pairwise(k_starts.tolist()), strict=True
        ):
            assert (b - a, d - c) == (max_q, max_k)
            one_q, one_k, one_v = (x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d]))
            block = KeyBlock(one_k, one_v, is_causal=options["window_size"] == (-1, 0))
            out, lse = CPU_KERNEL.function(one_q, block, scale=options["scale"])
            outs.append(out[0].transpose(0, 1))
            lses.append(lse[0])
        return torch.cat(outs), torch.cat(lses, dim=1)

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    (trial,) = try_on_cpu(CUDA_KERNELS[2])
    assert not trial.fault


def test_flash_attention_3_is_for_hopper_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    (trial,) = try_on_cpu(CUDA_KERNELS[0])
    assert "compute capability 9.x only" in trial.fault


@pytest.mark.parametrize(
    "kernel", [*CUDA_KERNELS[3:], CUDNN_KERNEL], ids=lambda kernel: kernel.name
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_torch_kernels_are_called_as_their_schema_says(kernel, is_causal):
    q, block = random_block(37, 37, heads=(6, 2, 16))
    meta = KeyBlock(block.k.to("meta"), block.v.to("meta"), is_causal=is_causal)
    out, lse = kernel.function(q.to("meta"), meta, scale=0.5)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, q.shape[:-1], torch.float32)


@pytest.mark.parametrize("kernel", [*CUDA_KERNELS, CUDNN_KERNEL], ids=lambda kernel: kernel.name)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_kernel_without_cuda_is_dropped(kernel):
    (trial,) = try_on_cpu(kernel, dtype=torch.float16)
    assert trial.fault


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("heads", [(28, 4, 128), (4, 4, 64), (6, 2, 32)])
def test_cuda_kernels_are_right_or_dropped_for_a_reason(dtype, heads):
    device = torch.device("cuda", 0)
    trials = try_installed(device, dtype, Heads(*heads))
    wrong = [(trial.kernel.name, trial.fault) for trial in trials if " differs " in trial.fault]
    assert not wrong, "an installed kernel runs and gives something else"
    q, block = random_block(300, 5000, heads=heads)
    q, block = q.to(device, dtype), KeyBlock(block.k.to(device, dtype), block.v.to(device, dtype))
    out, lse = fastest(trials).function(q, block, scale=0.2)
    expected_out, expected_lse = attend_plainly(q.cpu(), _on_cpu(block), scale=0.2)
    tolerance = max(4 * torch.finfo(dtype).eps, 2e-5)
    torch.testing.assert_close(out.float().cpu(), expected_out, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse.cpu(), expected_lse, rtol=0, atol=2e-3)


def _on_cpu(block):
    return KeyBlock(block.k.cpu(), block.v.cpu(), is_causal=block.is_causal)
