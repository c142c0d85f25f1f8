"""Attention in blocks against the formula in double precision."""

from itertools import pairwise

import pytest
import torch

from vniah.forward.attention import KeyBlock, attend, attend_block, merge
from vniah.forward.kernels import CPU_KERNEL, PLAIN_KERNEL


def exact(q, k, v, *, scale, is_causal=False):
    """The formula in fp64: ``(out, lse)``."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q.double() @ k.transpose(-1, -2) * scale
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def random_qkv(num_queries, num_keys, *, heads=4, kv_heads=2, size=16, factor=1.0):
    generator = torch.Generator().manual_seed(num_queries * 1000 + num_keys)
    q = torch.randn(1, heads, num_queries, size, generator=generator) * factor
    k = torch.randn(1, kv_heads, num_keys, size, generator=generator) * factor
    v = torch.randn(1, kv_heads, num_keys, size, generator=generator)
    return q, k, v


@pytest.mark.parametrize("kernel", [CPU_KERNEL, PLAIN_KERNEL], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize(
    ("num_queries", "num_keys", "is_causal"),
    [(1, 1, False), (1, 1, True), (7, 7, True), (5, 33, False), (65, 65, True), (3, 5000, False)],
)
def test_block_equals_the_formula(kernel, num_queries, num_keys, is_causal):
    q, k, v = random_qkv(num_queries, num_keys)
    out, lse = attend_block(q, KeyBlock(k, v, is_causal=is_causal), kernel=kernel, scale=0.25)
    expected_out, expected_lse = exact(q, k, v, scale=0.25, is_causal=is_causal)
    torch.testing.assert_close(out.double(), expected_out, rtol=0, atol=2e-6)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=0, atol=2e-5)
    assert lse.dtype == torch.float32


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("splits", [(10,), (1, 9), (3, 3, 4), (1,) * 10])
def test_blocks_together_equal_one(kv_heads, splits):
    q, k, v = random_qkv(6, sum(splits), kv_heads=kv_heads)
    borders = [sum(splits[:i]) for i in range(len(splits) + 1)]
    blocks = [KeyBlock(k[:, :, a:b], v[:, :, a:b]) for a, b in pairwise(borders)]
    out, lse = attend(q, blocks, kernel=CPU_KERNEL, scale=0.25)
    expected, expected_lse = exact(q, k, v, scale=0.25)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=0, atol=2e-5)


def test_merge_is_exact_where_scores_are_huge():
    q, k, v = random_qkv(4, 12, factor=30.0)
    parts = [
        attend_block(q, KeyBlock(k[:, :, s], v[:, :, s]), kernel=CPU_KERNEL, scale=1.0)
        for s in (slice(0, 5), slice(5, 12))
    ]
    out, lse = merge(*parts[0], *parts[1])
    expected_out, expected_lse = exact(q, k, v, scale=1.0)
    assert expected_lse.abs().max() > 1000, "the scores should overflow a plain exponential"
    torch.testing.assert_close(out.double(), expected_out, rtol=0, atol=1e-4)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-6, atol=0)


def test_results_of_half_precision_are_merged_in_fp32():
    q, k, v = (x.bfloat16() for x in random_qkv(4, 9))
    blocks = [KeyBlock(k[:, :, :4], v[:, :, :4]), KeyBlock(k[:, :, 4:], v[:, :, 4:])]
    out, lse = attend(q, blocks, kernel=CPU_KERNEL, scale=0.25)
    expected, _ = exact(q, k, v, scale=0.25)
    assert out.dtype == lse.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-2)


def test_causal_block_that_is_not_square_is_an_error():
    q, k, v = random_qkv(3, 4)
    with pytest.raises(AssertionError, match="square"):
        attend_block(q, KeyBlock(k, v, is_causal=True), kernel=CPU_KERNEL, scale=1.0)
