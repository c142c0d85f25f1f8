"""Exact attention over key blocks that are never in one place, merged by their log-sum-exp.

q    queries           [1, Hq, Lq, D]
k v  keys and values   [1, Hk, Lk, D], Hq a multiple of Hk (grouped-query attention)
out  weighted values   [1, Hq, Lq, D]
lse  log-sum-exp       [1, Hq, Lq], fp32: log of the softmax's denominator

Two partial results over disjoint keys make one: with w = exp(lse2) / (exp(lse1) + exp(lse2)),

    out = (1 - w) out1 + w out2 = out1 - sigmoid(lse2 - lse1) (out1 - out2)
    lse = log(exp(lse1) + exp(lse2)) = lse1 - logsigmoid(lse1 - lse2)

The right-hand forms never exponentiate a large number (Milakov and Gimelshein 2018, "Online
normalizer calculation for softmax"; the merge of ring attention, Liu et al. 2023).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor

_MATH_BLOCK = 4096


@dataclass(frozen=True)
class KeyBlock:
    """Some keys and their values.

    Attributes:
        k: ``[1, Hk, Lk, D]``.
        v: ``[1, Hk, Lk, D]``.
        is_causal: query i sees keys 0..i only; needs as many keys as queries.
    """

    k: Tensor
    v: Tensor
    is_causal: bool = False


def attend(q: Tensor, blocks: Iterable[KeyBlock], *, scale: float) -> Tensor:
    """Attention of ``q`` over all the blocks together, ``[1, Hq, Lq, D]`` in q's dtype.

    Args:
        q: ``[1, Hq, Lq, D]``.
        blocks: disjoint sets of keys; at least one.
        scale: factor on the scores, usually D ** -0.5.
    """
    out = lse = None
    for block in blocks:
        part, part_lse = attend_block(q, block, scale=scale)
        if out is None or lse is None:
            out, lse = part, part_lse
        else:
            out, lse = merge(out, lse, part, part_lse)
    assert out is not None, "attend needs at least one block of keys"
    return out.to(q.dtype)


def merge(out1: Tensor, lse1: Tensor, out2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """Two partial attentions over disjoint keys as one, in fp32: ``(out, lse)``."""
    out1, out2 = out1.float(), out2.float()
    weight2 = torch.sigmoid(lse2 - lse1).unsqueeze(-1)
    return out1 - weight2 * (out1 - out2), lse1 - F.logsigmoid(lse1 - lse2)


def attend_block(q: Tensor, block: KeyBlock, *, scale: float) -> tuple[Tensor, Tensor]:
    """Attention over one block by the fastest kernel that also gives the log-sum-exp.

    Returns:
        ``(out, lse)``; lse is fp32.
    """
    assert not block.is_causal or q.shape[2] == block.k.shape[2], "causal needs a square block"
    if q.device.type == "cpu":
        # top-left causal, grouped-query attention and fp32 log-sum-exp, in every floating dtype
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, block.k, block.v, 0.0, block.is_causal, scale=scale
        )
        return out, lse
    if q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16) and _has_varlen():
        return _attend_varlen(q, block, scale)
    return attend_block_plainly(q, block, scale=scale)


@cache
def _has_varlen() -> bool:
    """Whether this torch has the kernel with all that is needed of it."""
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn
    except ImportError:
        return False
    needed = {"scale", "window_size", "enable_gqa", "return_aux"}
    return AuxRequest is not None and needed <= signature(varlen_attn).parameters.keys()


def _attend_varlen(q: Tensor, block: KeyBlock, scale: float) -> tuple[Tensor, Tensor]:
    """The public FlashAttention entry of torch for CUDA, half precision only."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    num_queries, num_keys = q.shape[2], block.k.shape[2]

    def offsets(length: int) -> Tensor:
        return torch.tensor([0, length], device=q.device, dtype=torch.int32)

    out, lse = varlen_attn(
        q[0].transpose(0, 1),
        block.k[0].transpose(0, 1),
        block.v[0].transpose(0, 1),
        offsets(num_queries),
        offsets(num_keys),
        num_queries,
        num_keys,
        scale=scale,
        window_size=(-1, 0) if block.is_causal else (-1, -1),
        enable_gqa=True,
        return_aux=AuxRequest(lse=True),
    )
    return out.transpose(0, 1)[None], lse.float()[None]


def attend_block_plainly(q: Tensor, block: KeyBlock, *, scale: float) -> tuple[Tensor, Tensor]:
    """The reference: the formula in fp32, for any device, holding few scores at a time."""
    groups = q.shape[1] // block.k.shape[1]
    num_queries, num_keys = q.shape[2], block.k.shape[2]
    rows = torch.arange(num_queries, device=q.device)[:, None]
    out = q.new_zeros(q.shape, dtype=torch.float32)
    lse = q.new_full(q.shape[:-1], -torch.inf, dtype=torch.float32)
    for start in range(0, num_keys, _MATH_BLOCK):
        keys = slice(start, min(start + _MATH_BLOCK, num_keys))
        k = block.k[:, :, keys].float().repeat_interleave(groups, dim=1)
        v = block.v[:, :, keys].float().repeat_interleave(groups, dim=1)
        scores = q.float() @ k.transpose(-1, -2) * scale
        if block.is_causal:
            columns = torch.arange(keys.start, keys.stop, device=q.device)[None]
            scores = scores.masked_fill(columns > rows, -torch.inf)
        part_lse = scores.logsumexp(-1)
        total = torch.logaddexp(lse, part_lse)
        weights = torch.exp(scores - total.unsqueeze(-1))
        out = out * torch.exp(lse - total).unsqueeze(-1) + weights @ v
        lse = total
    return out, lse
