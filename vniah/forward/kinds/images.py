"""Images that see themselves: every row of an image also sees the rows of the image after it.

A causal kernel gives rows all keys up to themselves. What is left of an image of m rows is

    rows 0 to m - 2 over the keys 1 to m - 1: row i sees the keys i, i + 1, ... of these

which is causal attention once rows and keys are turned round (`attend_later`). It is the same for
full and for sliding layers, where the later rows of an image are seen whatever the window (Gemma 3
Team 2025, arXiv 2503.19786; transformers makes its masks so). Images of one size go in one call.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from vniah.forward.attention import Kernel, PartialResult, attend_later
from vniah.forward.kv_cache import Span


def attend_in_images(
    found: tuple[Tensor, Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    images: Sequence[Span],
    *,
    kernel: Kernel,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Merges what the rows of images see of the rows after them into a causal result.

    Args:
        found: ``(out, lse)`` of all rows, ``[1, Hq, n, D]`` and ``[1, Hq, n]``.
        q: ``[1, Hq, n, D]``.
        k: keys of the same rows, ``[1, Hk, n, D]``.
        v: their values.
        images: where images begin and end among the rows.
        kernel: computes the attention.
        scale: factor on the scores.
    """
    firsts: dict[int, list[int]] = defaultdict(list)
    for image in images:
        if image.num_tokens > 1:
            firsts[image.num_tokens - 1].append(image.start)
    if not firsts:
        return found
    result = PartialResult(found[0].float(), found[1])
    for size, starts in firsts.items():
        rows = (torch.tensor(starts)[:, None] + torch.arange(size)).to(q.device)
        asking, keys, values = (
            x[0][:, rows + step].transpose(0, 1) for x, step in ((q, 0), (k, 1), (v, 1))
        )
        out, lse = attend_later(asking, keys, values, kernel=kernel, scale=scale)
        flat = rows.flatten()
        result.add(
            flat, out.transpose(0, 1).flatten(1, 2)[None], lse.transpose(0, 1).flatten(1, 2)[None]
        )
    return result.out, result.lse
