"""Claim: an engine with a prefix cache does not have what the tree has, unless it is fed in order.

Counts the operations of the paper's grid (15 lengths x 6 depths x 5 needles, 144 tokens a frame) on
Qwen2-7B: every sample by itself; by an engine that keeps keys and values of past requests in blocks
of 16 tokens and throws away those that were used least recently (automatic prefix caching), with
requests in the order of the published loops and in the tree's order; by the tree; and by one pass
into which needles and questions are spliced. Nothing is run: it is a simulation of the cache, and
counting. The memory of keys and values stands beside each.

    python -m benchmarks.prefix_cache [--gigabytes 24,60,110]
"""

import argparse
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vniah.forward.attention import Heads
from vniah.forward.costs import DecoderShape
from vniah.forward.prefix_tree import Cost

BLOCK = 16
PER_FRAME, OPENING, QUESTION = 144, 14, 30
LENGTHS = range(200, 3001, 200)
DEPTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
NEEDLES = range(5)

HEADS = Heads(28, 4, 128)
LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 28, 3584, 18944, 152064
_QKV = HIDDEN * (HEADS.num_heads + 2 * HEADS.num_kv_heads) * HEADS.head_dim
_LAYER = _QKV + HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE
QWEN2_7B = DecoderShape(
    num_layers=LAYERS,
    hidden_size=HIDDEN,
    intermediate_size=INTERMEDIATE,
    num_heads=HEADS.num_heads,
    num_kv_heads=HEADS.num_kv_heads,
    head_dim=HEADS.head_dim,
    vocab_size=VOCABULARY,
    linear_weights=LAYERS * _LAYER,
    query_key_value_weights=LAYERS * _QKV,
    weight_bytes=2 * (LAYERS * _LAYER + 2 * HIDDEN * VOCABULARY),
    itemsize=2,
)
_TOKEN_BYTES = LAYERS * QWEN2_7B.key_value_bytes


@dataclass(frozen=True, order=True)
class Request:
    """A sample: a needle before a frame of a haystack of some length."""

    place: int
    needle: int
    length: int

    @property
    def num_prefix(self) -> int:
        """Tokens that it has in common with the plain haystack."""
        return OPENING + PER_FRAME * self.place

    @property
    def num_tokens(self) -> int:
        """All its tokens."""
        return OPENING + PER_FRAME * (self.length + 1) + QUESTION

    def blocks(self) -> list[tuple[int, int, int]]:
        """Its full blocks, each named by what is in it."""
        shared, known = self.num_prefix // BLOCK, self.num_tokens - QUESTION
        plain = [(-1, -1, number) for number in range(shared)]
        own = range(shared, known // BLOCK)
        return plain + [(self.place, self.needle, number) for number in own]


class PrefixCache:
    """Blocks of past requests; of those that are not needed the ends go first, then older ones."""

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        self._blocks: OrderedDict[tuple[int, int, int], None] = OrderedDict()

    def run(self, request: Request) -> int:
        """Tokens of the request that need not be computed."""
        blocks = request.blocks()
        num_known = next((n for n, b in enumerate(blocks) if b not in self._blocks), len(blocks))
        kept = blocks[: self._num_blocks]
        for block in reversed(kept):  # the first block is the last to be thrown away
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._num_blocks:
            self._blocks.popitem(last=False)
        return num_known * BLOCK


def requests() -> list[Request]:
    """The grid in the order of the published loops: lengths, depths, needles."""
    return [
        Request(int(depth * length + 1e-9), needle, length)
        for length in LENGTHS
        for depth in DEPTHS
        for needle in NEEDLES
    ]


def flops(rows: Iterable[tuple[int, int]]) -> int:
    """The operations of rows, each given by how many stand before and how many there are."""
    cost = sum((Cost.of_rows(*pair) for pair in rows), Cost())
    return QWEN2_7B.flops_of_rows(Cost(), cost).total


def cached(order: Sequence[Request], gigabytes: float) -> int:
    """The operations of requests one after another, with a cache."""
    cache = PrefixCache(int(gigabytes * 1e9 / (_TOKEN_BYTES * BLOCK)))
    return flops(
        (known, request.num_tokens - known)
        for request, known in ((request, cache.run(request)) for request in order)
    )


def spliced(order: Sequence[Request], window: int) -> int:
    """The operations of one pass over the haystack, with all else spliced in."""
    branches: dict[tuple[int, int], list[Request]] = {}
    for request in order:
        branches.setdefault((request.place, request.needle), []).append(request)
    rows = [(0, OPENING + PER_FRAME * max(LENGTHS))]
    for members in branches.values():
        longest = max(members)
        own = PER_FRAME * (1 + min(window, longest.length - longest.place))
        rows.append((longest.num_prefix, own))
        rows += [(one.num_tokens - QUESTION, QUESTION) for one in members]
    return flops(rows)


def tree(order: Sequence[Request]) -> int:
    """The operations of the tree: the haystack once, and behind each needle once."""
    return spliced(order, max(LENGTHS))


def main() -> None:
    """Prints one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", default="24,60,110", help="for keys and values")
    options = parser.parse_args()
    published = requests()
    alone = flops((0, request.num_tokens) for request in published)
    one_layer = (OPENING + PER_FRAME * max(LENGTHS)) * _TOKEN_BYTES / LAYERS / 1e9
    trunk = one_layer * LAYERS
    lines = [("every sample by itself", alone, one_layer)]
    for gigabytes in map(float, options.gigabytes.split(",")):
        for name, order in (("published", published), ("best", sorted(published))):
            lines.append((f"prefix cache, {name} order", cached(order, gigabytes), gigabytes))
    lines.append(("tree", tree(published), trunk + one_layer))
    lines += [
        (f"one pass, window of {window} frames (an approximation)", count, one_layer)
        for window, count in ((window, spliced(published, window)) for window in (1, 16))
    ]
    print(f"{len(published)} samples, Qwen2-7B; keys and values in bf16")
    for name, count, gigabytes in lines:
        print(f"  {name:48s} {count:.2e} operations, 1 / {alone / count:6.2f}  {gigabytes:6.1f} GB")


if __name__ == "__main__":
    main()
