"""The attention kernels that a CUDA device may have, and the choice of the fastest correct one.

q    queries           [B, Hq, Lq, D]
k v  keys and values   [B, Hk, Lk, D], Hq a multiple of Hk (grouped-query attention)
out  weighted values   [B, Hq, Lq, D]
lse  log-sum-exp       [B, Hq, Lq], fp32, natural logarithm

Which kernels are installed, which is fast, and what each accepts changes with the card, the release
and the shape. So none is trusted: each is tried on small blocks of awkward sizes and compared with
the plain formula on the CPU. One that is absent, raises an error or differs is dropped. Of the rest
the one that takes the least time for a block of realistic size is used. The choice is made once for
each device, dtype and number of heads.

Causal blocks are always square, so that top-left and bottom-right alignment are the same.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from importlib import import_module
from inspect import signature

import torch
from torch import Tensor

from vniah.errors import InputError, first_line
from vniah.forward.attention import (
    AttentionFunction,
    Heads,
    Kernel,
    KeyBlock,
    attend_plainly,
    merge,
)
from vniah.options import ANYWHERE, ATTENTION_NAMES, NAMES_BY_DEVICE

Timer = Callable[[Callable[[], object]], float]

# (B, Lq, Lk, is_causal): one row, rows and keys that fill no tile, many short sequences, few rows
# over many keys, and enough of both that `in_pieces` cuts them.
_CHECKED_BLOCKS = (
    (1, 1, 1, True),
    (1, 65, 65, True),
    (3, 7, 7, True),
    (1, 1, 300, False),
    (1, 37, 300, False),
    (1, 5, 4100, False),
    (1, 512, 6500, False),
)
_CHECKED_ROWS = 32
# A chunk of a long sequence with the keys of its early part; `in_pieces` cuts these in two.
_TIMED_BLOCK = (1, 2048, 49152, False)
_TIMED_REPEATS = 5

# A kernel that plans for each shape is used only for multiples of so many queries, whose shapes
# recur, and for no fewer keys than these.
_PLANNED_QUERIES = 512
_PLANNED_KEYS = 2048

# What kernels raise that cannot be used here, from a missing package to an unsupported shape.
# Running out of memory is a RuntimeError too, and so is torch's NotImplementedError.
_UNFIT = (ImportError, OSError, AttributeError, RuntimeError, TypeError, ValueError, AssertionError)


@dataclass(frozen=True)
class Trial:
    """The result of trying a kernel.

    Attributes:
        kernel: the kernel.
        seconds: its time for a block of realistic size; infinite if it cannot be used.
        fault: why it cannot be used, in one line; empty if it can.
    """

    kernel: Kernel
    seconds: float = math.inf
    fault: str = ""


def choose_kernel(device: torch.device, dtype: torch.dtype, heads: Heads) -> Kernel:
    """The fastest correct kernel of a device; on CUDA the first call takes some seconds.

    Args:
        device: the device of q, k and v, with its index.
        dtype: the dtype of q, k and v.
        heads: the number of heads and their size.
    """
    if device.type == "cpu":
        return CPU_KERNEL
    if device.type != "cuda":
        return PLAIN_KERNEL
    return fastest(try_installed(device, dtype, heads))


def find_kernel(name: str, device: torch.device, dtype: torch.dtype, heads: Heads) -> Kernel:
    """The kernel of one of `ATTENTION_NAMES`; for ``"auto"``, what `choose_kernel` gives.

    Args:
        name: the name of the kernel.
        device: as `choose_kernel`.
        dtype: as `choose_kernel`.
        heads: as `choose_kernel`.

    Raises:
        InputError: there is no such name, or the kernel does not run here, or not correctly.
    """
    if name not in ATTENTION_NAMES:
        raise InputError(f"attention must be one of {', '.join(ATTENTION_NAMES)}, got {name!r}")
    here = (*ANYWHERE, *NAMES_BY_DEVICE.get(device.type, ()))
    if name not in here:
        raise InputError(
            f"attention {name} does not run on {device}; there it may be {', '.join(here)}"
        )
    if name == "auto":
        return choose_kernel(device, dtype, heads)
    if name in _KERNELS_WITHOUT_TRIAL:
        return _KERNELS_WITHOUT_TRIAL[name]
    trial = try_installed(device, dtype, heads)[NAMES_BY_DEVICE[device.type].index(name)]
    if trial.fault:
        raise InputError(f"attention {name} cannot be used on {device}: {trial.fault}")
    return trial.kernel


@cache
def try_installed(device: torch.device, dtype: torch.dtype, heads: Heads) -> tuple[Trial, ...]:
    """Tries all CUDA kernels, also those that are not installed; arguments as `choose_kernel`."""
    with torch.cuda.device(device):
        trials = try_kernels(CUDA_KERNELS, device, dtype, heads=heads, timer=seconds_on_cuda)
        planned = in_pieces(CUDNN_KERNEL, rest=fastest(trials))
        return trials + try_kernels([planned], device, dtype, heads=heads, timer=seconds_on_cuda)


@torch.inference_mode()
def try_kernels(
    candidates: Iterable[Kernel],
    device: torch.device,
    dtype: torch.dtype,
    *,
    heads: Heads,
    timer: Timer,
) -> tuple[Trial, ...]:
    """Compares each candidate with the plain formula and, if it is correct, measures its time.

    Args:
        candidates: the kernels to try.
        device: the device on which they run.
        dtype: the dtype of q, k and v.
        heads: the number of heads and their size.
        timer: returns the seconds that a call takes.
    """
    q, block, scale = _random_inputs(device, dtype, heads, _TIMED_BLOCK)

    def trial(kernel: Kernel) -> Trial:
        try:
            if fault := _difference(kernel, device, dtype, heads):
                return Trial(kernel, fault=fault)
            return Trial(kernel, timer(lambda: kernel.function(q, block, scale=scale)))
        except _UNFIT as error:
            return Trial(kernel, fault=f"{type(error).__name__}: {first_line(error)}")

    return tuple(trial(kernel) for kernel in candidates)


def fastest(trials: Iterable[Trial]) -> Kernel:
    """The correct kernel that took the least time; the plain formula if none is correct."""
    right = [trial for trial in trials if not trial.fault]
    return min(right, key=lambda trial: trial.seconds).kernel if right else PLAIN_KERNEL


def seconds_on_cuda(call: Callable[[], object]) -> float:
    """The shortest of several calls on the current CUDA device, after one to warm up."""
    call()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    found: list[float] = []
    for _ in range(_TIMED_REPEATS):
        start.record()
        call()
        stop.record()
        stop.synchronize()
        found.append(start.elapsed_time(stop) / 1000)
    return min(found)


def _difference(kernel: Kernel, device: torch.device, dtype: torch.dtype, heads: Heads) -> str:
    """How the kernel differs from the plain formula; empty if it does not.

    The formula runs in fp32 on the CPU, since on the device it might run in TF32.
    """
    for checked in _CHECKED_BLOCKS:
        _, num_queries, num_keys, is_causal = checked
        q, block, scale = _random_inputs(device, dtype, heads, checked)
        out, lse = kernel.function(q, block, scale=scale)
        where = f"{num_queries} x {num_keys}{' causal' if is_causal else ''}"
        if out.shape != q.shape or lse.shape != q.shape[:-1] or lse.dtype != torch.float32:
            return f"out {[*out.shape]}, lse {[*lse.shape]} {lse.dtype} at {where}"
        step = 1 if is_causal else -(-num_queries // _CHECKED_ROWS)
        on_cpu = KeyBlock(block.k.cpu(), block.v.cpu(), is_causal=is_causal)
        expected, expected_lse = attend_plainly(q[:, :, ::step].cpu(), on_cpu, scale=scale)
        out_error = (out[:, :, ::step].cpu().float() - expected).abs() / (1 + expected.abs())
        lse_error = (lse[:, :, ::step].cpu() - expected_lse).abs()
        # Weights and result are rounded to dtype, the log-sum-exp is not. "not <=" catches NaN.
        if not out_error.max() <= max(4 * torch.finfo(dtype).eps, 2e-5):
            return f"out differs by {out_error.max():.1e} at {where}"
        if not lse_error.max() <= (2e-3 if dtype in (torch.float16, torch.bfloat16) else 1e-4):
            return f"lse differs by {lse_error.max():.1e} at {where}"
    return ""


def _random_inputs(
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    lengths: tuple[int, int, int, bool],
) -> tuple[Tensor, KeyBlock, float]:
    """``(q, block, scale)`` in the memory layouts of a pass, where no tensor is contiguous.

    The rows of a chunk come as [B, L, H, D], transposed; earlier keys are the beginning of a longer
    buffer [B, Hk, T, D]. The scale is not D ** -0.5, so that a kernel that ignores it differs.
    """
    num_heads, num_kv_heads, size = heads
    batch, num_queries, num_keys, is_causal = lengths
    generator = torch.Generator(device).manual_seed(num_queries * 100_000 + num_keys)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    def chunk(heads: int, length: int) -> Tensor:
        return normal(batch, length, heads, size).transpose(1, 2)

    q = chunk(num_heads, num_queries)
    if is_causal:
        k, v = (chunk(num_kv_heads, num_keys) for _ in "kv")
    else:
        k, v = (normal(batch, num_kv_heads, num_keys + 24, size)[:, :, :num_keys] for _ in "kv")
    return q, KeyBlock(k, v, is_causal=is_causal), 1.5 * float(size**-0.5)


def in_pieces(planned: Kernel, *, rest: Kernel) -> Kernel:
    """A kernel that plans for every new shape, called with few shapes; ``rest`` does all else.

    cuDNN builds a plan for each pair of lengths, which takes some tenths of a second; a pass has
    hundreds of pairs. So keys are cut into powers of two, longest first, and the results merged.
    Numbers of queries that are no multiple of 512 go to ``rest``.
    """

    def attend(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
        if block.is_causal or q.shape[2] % _PLANNED_QUERIES:
            return rest.function(q, block, scale=scale)
        parts = (
            (planned if stop - start >= _PLANNED_KEYS else rest).function(
                q, KeyBlock(block.k[:, :, start:stop], block.v[:, :, start:stop]), scale=scale
            )
            for start, stop in _pieces(block.k.shape[2])
        )
        return reduce(lambda one, other: merge(*one, *other), parts)

    return Kernel(f"{planned.name}, small blocks by {rest.name}", attend)


def _pieces(length: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges that cover the length: powers of two, then a rest too short for a plan."""
    start = 0
    while start < length:
        left = length - start
        stop = start + (1 << (left.bit_length() - 1) if left >= _PLANNED_KEYS else left)
        yield start, stop
        start = stop


def share_heads(function: AttentionFunction) -> AttentionFunction:
    """Grouped-query attention by a kernel that needs as many key heads as query heads.

    Query heads that share keys become further rows of one head, so no key is copied:
    [B, Hk * G, Lq, D] -> [B, Hk, G * Lq, D]. A causal block, being small, has its keys repeated.
    """

    def attend(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
        num_kv_heads = block.k.shape[1]
        groups = q.shape[1] // num_kv_heads
        if groups == 1:
            return function(q, block, scale=scale)
        if block.is_causal:
            k, v = (x.repeat_interleave(groups, dim=1) for x in (block.k, block.v))
            return function(q, KeyBlock(k, v, is_causal=True), scale=scale)
        folded = q.reshape(q.shape[0], num_kv_heads, groups * q.shape[2], q.shape[3])
        out, lse = function(folded, block, scale=scale)
        return out.reshape(q.shape), lse.reshape(q.shape[:-1])

    return attend


def _cpu_flash(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
    """FlashAttention for the CPU as it comes with torch."""
    # Top-left causal, grouped-query attention and fp32 log-sum-exp, in every floating dtype.
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, block.k, block.v, 0.0, block.is_causal, scale=scale
    )
    return out, lse


def _flash_attention_3(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
    """The package `flash_attn_interface`, for Hopper."""
    # On another card its launch fails by ending the process, which cannot be caught.
    if torch.cuda.get_device_capability(q.device)[0] != 9:
        raise NotImplementedError("FlashAttention-3 is used on compute capability 9.x only")
    attend = import_module("flash_attn_interface").flash_attn_func
    # Older releases have no such argument and always return (out, lse).
    flags = {"return_attn_probs": True} if _takes_flag(attend) else {}
    return _by_package(partial(attend, **flags), q, block, scale)


@cache
def _takes_flag(function: Callable[..., object]) -> bool:
    return "return_attn_probs" in signature(function).parameters


def _flash_attention_2(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
    """The package `flash_attn`."""
    attend = import_module("flash_attn").flash_attn_func
    return _by_package(partial(attend, return_attn_probs=True), q, block, scale)


def _by_package(
    attend: Callable[..., Sequence[Tensor]], q: Tensor, block: KeyBlock, scale: float
) -> tuple[Tensor, Tensor]:
    """A call of the packages' interface, which has [B, L, H, D]."""
    q, k, v = (x.transpose(1, 2) for x in (q, block.k, block.v))
    out, lse, *_ = attend(q, k, v, softmax_scale=scale, causal=block.is_causal)
    # Older releases pad the log-sum-exp to whole tiles.
    return out.transpose(1, 2), lse[..., : q.shape[1]]


def _varlen(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
    """The public FlashAttention entry of torch."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    def packed(x: Tensor) -> tuple[Tensor, Tensor, int]:
        """``[B * L, H, D]``, where each sequence starts and the last ends, and L."""
        batch, _, length, _ = x.shape
        starts = torch.arange(0, batch * length + 1, length, device=x.device, dtype=torch.int32)
        return x.transpose(1, 2).flatten(0, 1), starts, length

    rows, q_starts, num_queries = packed(q)
    keys, k_starts, num_keys = packed(block.k)
    out, lse = varlen_attn(
        rows,
        keys,
        packed(block.v)[0],
        q_starts,
        k_starts,
        num_queries,
        num_keys,
        scale=scale,
        window_size=(-1, 0) if block.is_causal else (-1, -1),
        enable_gqa=True,
        return_aux=AuxRequest(lse=True),
    )
    out = out.unflatten(0, (-1, num_queries)).transpose(1, 2)
    return out, lse.float().unflatten(1, (-1, num_queries)).transpose(0, 1)


def _aten_flash(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
    """FlashAttention as it comes with torch."""
    found = torch.ops.aten._scaled_dot_product_flash_attention(
        q, block.k, block.v, 0.0, block.is_causal, False, scale=scale
    )
    return found[0], found[1][..., : q.shape[2]]


def _aten_efficient(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
    """The memory-efficient kernel of torch: also fp32, and older cards."""
    found = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, block.k, block.v, None, True, 0.0, block.is_causal, scale=scale
    )
    # The log-sum-exp is padded to a multiple of 32 rows.
    return found[0], found[1][..., : q.shape[2]]


def _aten_cudnn(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
    """cuDNN; the log-sum-exp comes as [B, H, Lq, 1]."""
    found = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, block.k, block.v, None, True, 0.0, block.is_causal, False, scale=scale
    )
    return found[0], found[1].reshape(q.shape[:-1])


PLAIN_KERNEL = Kernel("plain formula", attend_plainly)
CPU_KERNEL = Kernel("torch CPU flash", _cpu_flash)
CUDNN_KERNEL = Kernel("cuDNN", share_heads(_aten_cudnn))
# Without cuDNN, which is tried by way of `in_pieces`.
CUDA_KERNELS = (
    Kernel("FlashAttention-3", _flash_attention_3),
    Kernel("FlashAttention-2", _flash_attention_2),
    Kernel("torch varlen", _varlen),
    Kernel("torch flash", share_heads(_aten_flash)),
    Kernel("torch memory-efficient", share_heads(_aten_efficient)),
)
_KERNELS_WITHOUT_TRIAL = {"plain": PLAIN_KERNEL, "flash-cpu": CPU_KERNEL}
