"""Leaves: short groups of rows that are read, each behind its own prefix of a pass.

Hundreds of them may hang from one pass. They go through each layer together, and attend in few
calls: equally long ones to themselves in one, and all to the keys that they have in common.

Hq and Hk heads of queries and of keys/values, D head size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from vniah.forward.attention import KeyBlock, attend_block, merge
from vniah.forward.kv_cache import LayerKeys
from vniah.forward.ring import Ring


@dataclass(frozen=True)
class LeafRows:
    """Rows that are read, at the end of a sequence.

    Attributes:
        start: tokens before the first of them.
        hidden: input embeddings ``[n, H]``.
        position_ids: ``[n]``, or ``[3, n]``.
        num_rows: so many rows are read, at their end.
        deep: what comes to the first of them behind each of the first layers, ``[layers, m, H]``.
    """

    start: int
    hidden: Tensor
    position_ids: Tensor
    num_rows: int
    deep: Tensor | None = None


@dataclass
class Rows:
    """Rows on their way through the layers, ``[n, H]``, and their RoPE: ``[2, 1, n, D]``."""

    hidden: Tensor
    angles: Tensor


@dataclass
class LeafGroup:
    """Some leaves whose rows go through the layers together."""

    leaves: Sequence[LeafRows]
    rows: Rows

    def deepen(self, layer: int) -> None:
        """Adds what comes to the rows behind a layer."""
        row = 0
        for leaf in self.leaves:
            if leaf.deep is not None and layer < len(leaf.deep):
                self.rows.hidden[row : row + leaf.deep.shape[1]] += leaf.deep[layer]
            row += len(leaf.hidden)

    def read(self, decoder: Any) -> Iterator[Tensor]:
        """Every leaf's logits."""
        stop = 0
        for leaf in self.leaves:
            stop += len(leaf.hidden)
            rows = self.rows.hidden[stop - leaf.num_rows : stop]
            yield decoder.lm_head(decoder.model.norm(rows)).float()


def leaf_groups(leaves: Sequence[LeafRows], angles: Tensor, most: int) -> Iterator[LeafGroup]:
    """Consecutive leaves with up to ``most`` rows together, or one with more."""
    first = row = 0
    while first < len(leaves):
        last, num_rows = first + 1, len(leaves[first].hidden)
        while last < len(leaves) and num_rows + len(leaves[last].hidden) <= most:
            num_rows += len(leaves[last].hidden)
            last += 1
        hidden = torch.cat([leaf.hidden for leaf in leaves[first:last]])
        yield LeafGroup(leaves[first:last], Rows(hidden, angles[:, :, row : row + num_rows]))
        first, row = last, row + num_rows


@dataclass
class LeafAttention:
    """Attention of many leaves, each to itself and to its own prefix of the pass.

    Leaves are in the order of their prefixes, so that the keys between two of their starts are
    seen by all leaves from the second on: one call for them together.
    """

    keys: LayerKeys
    leaves: Sequence[LeafRows]
    ring: Ring | None
    was_called: bool = False

    @property
    def rows(self) -> slice:
        """All rows of the group."""
        return slice(None)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """What the rows attend to, ``[1, Hq, n, D]`` in q's dtype; k and v are their own."""
        self.was_called = True
        out, lse = self._attend_themselves(q, k, v, scale)
        if self.ring is None:
            self._attend_prefixes(q, out, lse, scale)
        else:
            part = torch.zeros_like(out), torch.full_like(lse, -torch.inf)
            self._attend_prefixes(q, *part, scale)
            for other in self.ring.gather(*part):
                out, lse = merge(out, lse, *other)
        return out.to(q.dtype)

    def _attend_themselves(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Each leaf's rows to one another, equally long ones in one call: fp32 out and lse."""
        out = q.new_empty(q.shape, dtype=torch.float32)
        lse = q.new_empty(q.shape[:-1], dtype=torch.float32)
        row = 0
        for size, alike in groupby(len(leaf.hidden) for leaf in self.leaves):
            num_leaves = len(list(alike))
            rows = slice(row, row + num_leaves * size)
            shape = (num_leaves, size)
            block = KeyBlock(_split(k[:, :, rows], shape), _split(v[:, :, rows], shape), True)
            part, part_lse = attend_block(_split(q[:, :, rows], shape), block, scale=scale)
            out[0, :, rows] = part.transpose(0, 1).flatten(1, 2)
            lse[0, :, rows] = part_lse.transpose(0, 1).flatten(1, 2)
            row = rows.stop
        return out, lse

    def _attend_prefixes(self, q: Tensor, out: Tensor, lse: Tensor, scale: float) -> None:
        """Merges what the leaves see of the pass and of what goes before into ``out``, ``lse``."""
        done = row = 0
        for start, alike in groupby(self.leaves, key=lambda leaf: leaf.start):
            rows = slice(row, None)
            for k, v in self.keys.between(done, start):
                part = attend_block(q[:, :, rows], KeyBlock(k, v), scale=scale)
                out[:, :, rows], lse[:, :, rows] = merge(out[:, :, rows], lse[:, :, rows], *part)
            done, row = start, row + sum(len(leaf.hidden) for leaf in alike)


def _split(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """``[1, heads, leaves x rows, D]`` as ``[leaves, heads, rows, D]``."""
    return x[0].view(x.shape[1], *shape, x.shape[3]).transpose(0, 1)
