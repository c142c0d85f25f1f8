"""Few kernel calls that give many rows their intervals of keys.

The keys are cut at the ends of all intervals. A binary tree over the blocks between the cuts (a
segment tree) covers each interval by few nodes, at most two of each size; each node is one call for
all rows that see the whole of it. So n intervals take fewer than 4 n calls together, whereas their
rows are read by about log2(n) calls each.
"""

from collections.abc import Iterator

from torch import Tensor

from vniah.forward.kv_cache import Span


def plan_calls(low: Tensor, high: Tensor) -> Iterator[tuple[Span, Tensor]]:
    """Spans of keys, each with the numbers of the intervals that it is a part of.

    Args:
        low: for each interval its first key, ``[E]`` int64 on the CPU.
        high: for each the key after its last; an interval may be empty.

    Yields:
        Spans and numbers, ``[e]`` int64 with e at least 1. Every interval is the union of its
        spans, which are disjoint.
    """
    wanted = (low < high).nonzero()[:, 0]
    cuts = sorted({*low[wanted].tolist(), *high[wanted].tolist()})
    nodes = [(0, len(cuts) - 1, wanted)]
    while nodes:
        left, right, numbers = nodes.pop()
        if left >= right:
            continue
        first, last = cuts[left], cuts[right]
        numbers = numbers[(low[numbers] < last) & (high[numbers] > first)]
        sees_all = (low[numbers] <= first) & (high[numbers] >= last)
        if sees_all.any():
            yield Span(first, last), numbers[sees_all]
        numbers = numbers[~sees_all]
        if len(numbers):  # so the node can be divided: its cuts are the ends of intervals
            middle = (left + right) // 2
            nodes += [(left, middle, numbers), (middle, right, numbers)]
