"""Exact attention over blocks of keys that are never in one tensor, merged by log-sum-exp.

q    queries           [B, Hq, Lq, D]
k v  keys and values   [B, Hk, Lk, D], Hq a multiple of Hk (grouped-query attention)
out  weighted values   [B, Hq, Lq, D]
lse  log-sum-exp       [B, Hq, Lq], fp32: log of the softmax's denominator

Two partial results over disjoint keys give one: with w = exp(lse2) / (exp(lse1) + exp(lse2)),

    out = (1 - w) out1 + w out2 = out1 - sigmoid(lse2 - lse1) (out1 - out2)
    lse = log(exp(lse1) + exp(lse2))

The forms on the right never exponentiate a large number. If lse1 is minus infinity, for no keys
yet, they give the second result (Milakov and Gimelshein 2018, "Online normalizer calculation for
softmax"; the merge of ring attention, Liu et al. 2023).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_MATH_BLOCK = 4096


@dataclass(frozen=True)
class KeyBlock:
    """Some keys and their values.

    Attributes:
        k: ``[B, Hk, Lk, D]``.
        v: ``[B, Hk, Lk, D]``.
        is_causal: True if query i attends to the keys 0 to i only; then Lk is Lq.
    """

    k: Tensor
    v: Tensor
    is_causal: bool = False


class KeysValuesDone(Exception):
    """Not an error: ends a layer's call once the keys and values of its rows are kept."""


class Heads(NamedTuple):
    """The sizes of a decoder's attention.

    Attributes:
        num_heads: Hq.
        num_kv_heads: Hk.
        head_dim: D.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int


class AttentionFunction(Protocol):
    """Computes attention over one block of keys."""

    def __call__(self, q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
        """``(out, lse)``, with the shapes at the top of this module; lse is fp32."""


@dataclass(frozen=True)
class Kernel:
    """A way to compute attention over one block of keys.

    Attributes:
        name: as the manifest of a run states it.
        function: computes the attention.
    """

    name: str
    function: AttentionFunction


@dataclass
class PartialResult:
    """What some rows have attended to so far; parts over disjoint keys are merged into it.

    Attributes:
        out: ``[B, Hq, n, D]`` fp32; zeros until the first part.
        lse: ``[B, Hq, n]`` fp32; minus infinity until then.
    """

    out: Tensor
    lse: Tensor

    @classmethod
    def none(cls, q: Tensor) -> "PartialResult":
        """Of rows with the queries ``[B, Hq, n, D]``, which have attended to nothing yet."""
        lse = q.new_full(q.shape[:-1], -torch.inf, dtype=torch.float32)
        return cls(torch.zeros_like(q, dtype=torch.float32), lse)

    def add(self, rows: slice | Tensor, out: Tensor, lse: Tensor) -> None:
        """Merges a part of some of the rows, none of which is there twice."""
        merged = merge(self.out[:, :, rows], self.lse[:, :, rows], out, lse)
        self.out[:, :, rows], self.lse[:, :, rows] = merged


def attend(
    q: Tensor, blocks: Iterable[KeyBlock], *, kernel: Kernel, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of ``q`` over all the blocks together: out ``[B, Hq, Lq, D]``, and lse.

    Args:
        q: ``[B, Hq, Lq, D]``.
        blocks: disjoint sets of keys; at least one.
        kernel: computes the attention over each block.
        scale: factor on the scores, usually D ** -0.5.
    """
    out = lse = None
    for block in blocks:
        part, part_lse = attend_block(q, block, kernel=kernel, scale=scale)
        if out is None or lse is None:
            out, lse = part, part_lse
        else:
            out, lse = merge(out, lse, part, part_lse)
    assert out is not None and lse is not None, "attend needs at least one block of keys"
    return out, lse


def merge(out1: Tensor, lse1: Tensor, out2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """Merges two partial results over disjoint keys, in fp32: ``(out, lse)``."""
    out1, out2 = out1.float(), out2.float()
    weight2 = torch.sigmoid(lse2 - lse1).unsqueeze(-1)
    return out1 - weight2 * (out1 - out2), torch.logaddexp(lse1, lse2)


def attend_block(
    q: Tensor, block: KeyBlock, *, kernel: Kernel, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of ``q`` over one block of keys, by a kernel.

    Returns:
        ``(out, lse)``; lse is fp32.
    """
    assert not block.is_causal or q.shape[2] == block.k.shape[2], "causal needs a square block"
    return kernel.function(q, block, scale=scale)


def attend_later(
    q: Tensor, k: Tensor, v: Tensor, *, kernel: Kernel, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of row i to the keys i, i + 1, ... of a square block: ``(out, lse)``.

    It is causal attention after the order of rows and of keys is turned round.
    """
    block = KeyBlock(k.flip(2), v.flip(2), is_causal=True)
    out, lse = attend_block(q.flip(2), block, kernel=kernel, scale=scale)
    return out.flip(2), lse.flip(2)


def attend_plainly(q: Tensor, block: KeyBlock, /, *, scale: float) -> tuple[Tensor, Tensor]:
    """The reference: the formula in fp32, on any device, holding few scores at a time."""
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
