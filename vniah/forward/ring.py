"""Ring attention: one forward pass over several processes (Liu et al. 2023, arXiv 2310.01889).

Every rank holds two sections of the sequence, one early and one late, so that all ranks have the
same work under the causal mask (zigzag). For 2 ranks, with the sections s in order of tokens:

    s0 s1 s2 s3        rank 0: s0 s3        rank 1: s1 s2

In every layer the ranks first compute their own keys and values. Then, for each chunk of queries,
these go round in pieces: while a rank attends to the piece it holds, it sends it on and receives
the next. Partial results merge by their log-sum-exp in fp32. A rank never holds more than its share
of the layer's keys and values, and two pieces, each a quarter of that.

The rows that are read are on every rank: each attends to the keys that it holds, and the parts are
gathered. So no border between ranks ever cuts an answer.

n ranks, Hq and Hk heads of queries and of keys/values, D head size.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vniah.forward.attention import Kernel, KeyBlock, attend_block, merge
from vniah.forward.kv_cache import LayerKeyValues, Layout, Span

Zigzag = Callable[..., Tensor]

_PIECES_PER_SPAN = 2


class Ring:
    """The processes that run one pass together.

    Args:
        group: their process group; all of them call the same functions in the same order.
        zigzag: the function that `find_zigzag` returns. It computes passes without a past. It takes
            all queries of a rank at once, and so as much memory as another hidden buffer.
    """

    def __init__(self, group: dist.ProcessGroup, *, zigzag: Zigzag | None = None) -> None:
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.bytes_sent = 0
        self._group = group
        self._next = dist.get_global_rank(group, (self.rank + 1) % self.size)
        self._previous = dist.get_global_rank(group, (self.rank - 1) % self.size)
        self._zigzag = zigzag

    def layout(self, start: int, stop: int) -> Layout:
        """Which tokens each rank computes: two sections each, all of one size.

        The last sections may reach beyond ``stop``. Those ``-length % (2 n)`` rows are padding, to
        which no token before ``stop`` ever attends.
        """
        size = -(-(stop - start) // (2 * self.size))
        sections = [
            Span(start + index * size, start + (index + 1) * size) for index in range(2 * self.size)
        ]
        return Layout(tuple((sections[r], sections[-1 - r]) for r in range(self.size)))

    def takes_whole(self, keys: LayerKeyValues) -> bool:
        """True if `attend_whole` computes this pass, with the queries of all rows in one call."""
        return self._zigzag is not None and not keys.has_past

    def attend_whole(self, q: Tensor, keys: LayerKeyValues, *, scale: float) -> None:
        """Attention of all rows of this rank by ring_flash_attn; the result replaces the queries.

        Groups of heads run one after the other. The same bytes are sent, and the memory of its
        accumulators is divided by the number of groups.

        Args:
            q: ``[1, Hq, rows, D]``; overwritten by the result.
            keys: keys and values that this rank holds.
            scale: factor on the scores.
        """
        assert self._zigzag is not None
        groups = keys.k.shape[1]
        for head, part in enumerate(q.chunk(groups, dim=1)):
            k, v = keys.k[:, head : head + 1], keys.v[:, head : head + 1]
            out = self._zigzag(
                *(x.transpose(1, 2).contiguous() for x in (part, k, v)),
                softmax_scale=scale,
                causal=True,
                group=self._group,
            )
            part.copy_(out.transpose(1, 2))
        self.bytes_sent += (keys.k.nbytes + keys.v.nbytes) * (self.size - 1)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        start: int,
        keys: LayerKeyValues,
        *,
        kernel: Kernel,
        scale: float,
    ) -> Tensor:
        """Attention of a chunk that begins at token ``start``, ``[1, Hq, chunk, D]`` in q's dtype.

        Args:
            q: ``[1, Hq, chunk, D]``.
            k: the chunk's own keys, ``[1, Hk, chunk, D]``.
            v: the chunk's own values.
            start: tokens before it.
            keys: keys and values that this rank holds.
            kernel: computes the attention over each block of keys.
            scale: factor on the scores.
        """
        own = KeyBlock(k, v, is_causal=True)
        out, lse = attend_block(q, own, kernel=kernel, scale=scale)
        for piece in range(_PIECES_PER_SPAN * len(keys.layout.spans[0])):
            for span, held_k, held_v in self._go_round(piece, keys):
                num_before = span.clip(0, start).num_tokens
                if num_before:
                    block = KeyBlock(held_k[:, :, :num_before], held_v[:, :, :num_before])
                    part = attend_block(q, block, kernel=kernel, scale=scale)
                    out, lse = merge(out, lse, *part)
        return out.to(q.dtype)

    def smallest(self, number: int) -> int:
        """The smallest of the numbers that the ranks pass to this call."""
        numbers: list[int] = [0] * self.size
        dist.all_gather_object(numbers, number, group=self._group)
        return min(numbers)

    def agree(self, chosen: Sequence[int | None]) -> list[int | None]:
        """What the first rank has chosen, on every rank."""
        shared = [list(chosen)]
        first = dist.get_global_rank(self._group, 0)
        dist.broadcast_object_list(shared, src=first, group=self._group)
        return shared[0]

    def gather(self, out: Tensor, lse: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of all ranks, in the order of ranks.

        Args:
            out: ``[1, Hq, n, D]`` fp32.
            lse: ``[1, Hq, n]`` fp32; minus infinity where a rank has no keys to attend to.
        """
        packed = torch.cat([out, lse[..., None]], dim=-1).contiguous()
        parts = [torch.empty_like(packed) for _ in range(self.size)]
        dist.all_gather(parts, packed, group=self._group)
        self.bytes_sent += packed.nbytes * (self.size - 1)
        for part in parts:
            yield part[..., :-1], part[..., -1]

    def _go_round(self, piece: int, keys: LayerKeyValues) -> Iterator[tuple[Span, Tensor, Tensor]]:
        """One piece of every rank, its own first: tokens, keys and values ``[1, Hk, n, D]``.

        While the caller computes with a piece, the piece is sent to the next rank.
        """
        span = _piece(keys.layout, self.rank, piece)
        held = keys.packed(span)
        for step in range(self.size):
            if step == self.size - 1:
                yield span, held[0], held[1]
                return
            following = _piece(keys.layout, (self.rank - step - 1) % self.size, piece)
            shape = (2, *keys.k.shape[:2], following.num_tokens, keys.k.shape[3])
            received = keys.k.new_empty(shape)
            requests = self._exchange(held, received)
            yield span, held[0], held[1]
            for request in requests:
                request.wait()
            span, held = following, received

    def _exchange(self, held: Tensor, received: Tensor) -> list[dist.Work]:
        """Begins to send to the next rank and to receive from the previous; skips empty tensors."""
        operations = []
        if held.numel():
            operations.append(dist.P2POp(dist.isend, held, self._next, self._group))
            self.bytes_sent += held.nbytes
        if received.numel():
            operations.append(dist.P2POp(dist.irecv, received, self._previous, self._group))
        return dist.batch_isend_irecv(operations) if operations else []


def _piece(layout: Layout, rank: int, index: int) -> Span:
    """One piece of the tokens of a rank; pieces of one index are sent round at the same time."""
    span = layout.spans[rank][index // _PIECES_PER_SPAN]
    size = -(-span.num_tokens // _PIECES_PER_SPAN)
    first = span.start + index % _PIECES_PER_SPAN * size
    return span.clip(first, first + size)


@cache
def find_zigzag() -> Zigzag | None:
    """`zigzag_ring_flash_attn_func` of ring_flash_attn, if that and flash-attn are installed.

    Only its module is imported: the package's own ``__init__`` also imports an adapter for older
    versions of transformers, which fails under version 5.
    """
    name = "ring_flash_attn"
    spec = find_spec(name)
    if spec is None or find_spec("flash_attn") is None:
        return None
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or ())
    earlier = sys.modules.get(name)
    sys.modules[name] = package
    try:
        module: Any = importlib.import_module(f"{name}.zigzag_ring_flash_attn")
    except ImportError:
        return None
    finally:
        del sys.modules[name]
        if earlier is not None:
            sys.modules[name] = earlier
    return module.zigzag_ring_flash_attn_func  # type: ignore[no-any-return]
