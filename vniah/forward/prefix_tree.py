"""Common prefixes of many sequences, computed once: a radix tree over segments, as passes.

A sequence is a body, which others may share, and a tail, which holds every row that is read and is
its own. Bodies with equal leading segments share them. The tree is cut into branches, each one
forward pass that goes on from a prefix of the branch that it hangs from:

    o───o───o───o───o─<      trunk: o segments, < a leaf (what ends here), read in the same pass
        │       └───n───o─<─o─<      a branch with two leaves
        └───n───o─<─o─<

Which child a pass goes on with changes no cost, as every node is computed once; going on with the
heaviest keeps the branches of branches fewer than log2 of all tokens deep. What is short and hardly
shared is not worth a pass of its own and becomes a leaf.

Pure: no tensors, and nothing of what the segments are but that they compare by content. The idea is
prefix caching (Zheng et al. 2023, "SGLang", section 3), made exact over a list known beforehand.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

# Up to as many tokens are a leaf, if few of them are computed more than once for it.
MAX_LEAF_TOKENS = 512
_MAX_REPEATED_TOKENS = 128


@dataclass(frozen=True)
class Path:
    """One sequence, as the tree sees it.

    Attributes:
        body: segments that other sequences may share.
        tail: segments that are its own, at least one token.
    """

    body: tuple[Hashable, ...]
    tail: tuple[Hashable, ...]


@dataclass(frozen=True)
class Leaf:
    """What ends at one place of a branch: equal sequences, read by one group of rows.

    Attributes:
        start: tokens before its first.
        segments: everything behind the branch, at least one token.
        num_tokens: how many tokens that is.
        sequences: indices of the sequences that end in it.
    """

    start: int
    segments: tuple[Hashable, ...]
    num_tokens: int
    sequences: tuple[int, ...]

    @property
    def stop(self) -> int:
        """Length of its sequences, in tokens."""
        return self.start + self.num_tokens


@dataclass(frozen=True)
class Branch:
    """One forward pass.

    Attributes:
        start: tokens before its first; they are a prefix of the branch that it hangs from.
        segments: what it computes.
        num_tokens: how many tokens that is; 0 only where leaves share no prefix at all.
        leaves: what is read in it, by ``start``, all in ``[start, start + num_tokens]``.
        branches: passes that go on from a prefix of it, by ``start``.
        is_kept: whether it is kept to its end, for tokens that are decoded behind its leaves.
    """

    start: int
    segments: tuple[Hashable, ...]
    num_tokens: int
    leaves: tuple[Leaf, ...]
    branches: tuple["Branch", ...] = ()
    is_kept: bool = False

    @property
    def stop(self) -> int:
        """Tokens before what follows it."""
        return self.start + self.num_tokens

    @property
    def keeps_any(self) -> bool:
        """Whether something of it is read again."""
        return self.is_kept or bool(self.branches)

    @property
    def keep_until(self) -> int:
        """So many tokens are read again, by its branches or behind its leaves; 0 without any."""
        if self.is_kept:
            return self.stop
        return max((branch.start for branch in self.branches), default=0)

    @property
    def max_tokens(self) -> int:
        """The longest sequence that is read in it or behind it."""
        own = max((leaf.stop for leaf in self.leaves), default=self.stop)
        return max([own, *(branch.max_tokens for branch in self.branches)])

    @property
    def sequences(self) -> tuple[int, ...]:
        """Indices of all sequences that are read in it or behind it."""
        own = [index for leaf in self.leaves for index in leaf.sequences]
        return (*own, *(index for branch in self.branches for index in branch.sequences))

    def passes(self) -> Iterator["Branch"]:
        """Itself and everything behind it, parents first."""
        yield self
        for branch in self.branches:
            yield from branch.passes()


@dataclass(frozen=True)
class Cost:
    """What passes compute, exactly.

    Attributes:
        num_tokens: rows that go through the layers.
        num_pairs: query-key pairs under the causal mask, per head and layer.
    """

    num_tokens: int = 0
    num_pairs: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.num_tokens + other.num_tokens, self.num_pairs + other.num_pairs)

    @classmethod
    def of_rows(cls, start: int, num_tokens: int) -> "Cost":
        """Rows ``start`` to ``start + num_tokens - 1``, each of which sees itself and all before.

        >>> Cost.of_rows(10, 2)
        Cost(num_tokens=2, num_pairs=23)
        """
        return cls(num_tokens, num_tokens * start + num_tokens * (num_tokens + 1) // 2)


def cost_of(branches: Sequence[Branch]) -> Cost:
    """What some branches and everything behind them compute."""
    total = Cost()
    for root in branches:
        for branch in root.passes():
            total += Cost.of_rows(branch.start, branch.num_tokens)
            for leaf in branch.leaves:
                total += Cost.of_rows(leaf.start, leaf.num_tokens)
    return total


def kept_whole(branches: Sequence[Branch]) -> tuple[Branch, ...]:
    """The same passes, each kept to its end until its leaves are done."""
    return tuple(
        replace(branch, branches=kept_whole(branch.branches), is_kept=True) for branch in branches
    )


def by_themselves(
    paths: Sequence[Path],
    size: Callable[[Hashable], int],
    indices: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
) -> tuple[Branch, ...]:
    """A branch for every sequence, nothing shared.

    Args:
        paths: as `build_tree`.
        size: as `build_tree`.
        indices: as `build_tree`.
        groups: a number for each sequence. Those with equal numbers are one question with several
            answers, have one body, and make up one branch.
    """
    indices = indices or range(len(paths))
    bodies: dict[int, tuple[Hashable, ...]] = {}
    tails: dict[int, dict[tuple[Hashable, ...], list[int]]] = {}
    for index, path, group in zip(indices, paths, groups or indices, strict=True):
        assert bodies.setdefault(group, path.body) == path.body
        tails.setdefault(group, {}).setdefault(path.tail, []).append(index)
    branches = []
    for group, body in bodies.items():
        num_tokens = sum(map(size, body))
        leaves = tuple(
            Leaf(num_tokens, tail, sum(map(size, tail)), tuple(members))
            for tail, members in tails[group].items()
        )
        branches.append(Branch(0, body, num_tokens, leaves))
    return tuple(branches)


def build_tree(
    paths: Sequence[Path],
    size: Callable[[Hashable], int],
    indices: Sequence[int] | None = None,
    *,
    max_leaf_tokens: int = MAX_LEAF_TOKENS,
) -> tuple[Branch, ...]:
    """The branches that compute all sequences, each shared prefix once.

    Args:
        paths: the sequences, in any order, also equal ones.
        size: tokens of a segment.
        indices: what `Leaf.sequences` calls them; by default their places in ``paths``.
        max_leaf_tokens: what is longer behind a branch gets a pass of its own.

    Returns:
        One branch for every set of sequences with something in common, in order of appearance.
    """
    root = _Node((), 0, 0)
    for index, path in zip(indices or range(len(paths)), paths, strict=True):
        assert sum(map(size, path.tail)) >= 1, "a tail holds at least one token"
        _insert(root, tuple(s for s in path.body if size(s)), size).add_end(path.tail, index)
    for node in reversed(list(root.subtree())):
        node.sum_up(size, max_leaf_tokens)
    branches = [_branch(child, size) for child in root.children.values() if not child.is_leaf]
    leaves = root.leaves(size)
    return (*branches, Branch(0, (), 0, leaves)) if leaves else tuple(branches)


@dataclass(eq=False)
class _Node:
    """A node of the radix tree: the segments on the edge to it, and what follows.

    Attributes:
        segments: on its edge; empty for the root only.
        start: tokens before them.
        num_tokens: on its edge.
        children: by their first segment.
        ends: indices of the sequences whose body ends here, by their tails.
        weight: tokens on its edge and behind, each once.
        flat_tokens: the same, counted for each different sequence anew.
        num_ends: different sequences that end here or behind.
        is_leaf: whether it rides along with its parent's pass instead of having its own.
    """

    segments: tuple[Hashable, ...]
    start: int
    num_tokens: int
    children: dict[Hashable, "_Node"] = field(default_factory=dict)
    ends: dict[tuple[Hashable, ...], list[int]] = field(default_factory=dict)
    weight: int = 0
    flat_tokens: int = 0
    num_ends: int = 0
    is_leaf: bool = False

    @property
    def stop(self) -> int:
        return self.start + self.num_tokens

    def add_end(self, tail: tuple[Hashable, ...], index: int) -> None:
        self.ends.setdefault(tail, []).append(index)

    def subtree(self) -> Iterator["_Node"]:
        """Itself and all below, parents first; no recursion, as a trunk may be thousands deep."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children.values()

    def sum_up(self, size: Callable[[Hashable], int], max_leaf_tokens: int) -> None:
        """Fills in the counts, once all children have theirs."""
        in_tails = sum(size(segment) for tail in self.ends for segment in tail)
        children = self.children.values()
        self.num_ends = len(self.ends) + sum(child.num_ends for child in children)
        self.weight = self.num_tokens + in_tails + sum(child.weight for child in children)
        behind = in_tails + sum(child.flat_tokens for child in children)
        self.flat_tokens = self.num_tokens * self.num_ends + behind
        repeated = self.flat_tokens - self.weight
        self.is_leaf = self.flat_tokens <= max_leaf_tokens and repeated <= _MAX_REPEATED_TOKENS

    def leaves(self, size: Callable[[Hashable], int]) -> tuple[Leaf, ...]:
        """What is read at its end: the sequences that end here, and the children that are short."""
        found: list[Leaf] = []
        waiting: list[tuple[_Node, tuple[Hashable, ...]]] = [(self, ())]
        while waiting:
            node, before = waiting.pop()
            for tail, indices in node.ends.items():
                segments = (*before, *tail)
                found.append(Leaf(self.stop, segments, sum(map(size, segments)), tuple(indices)))
            for child in node.children.values():
                if child.is_leaf:
                    waiting.append((child, (*before, *child.segments)))
        return tuple(sorted(found, key=lambda leaf: leaf.sequences))


def _insert(root: _Node, segments: tuple[Hashable, ...], size: Callable[[Hashable], int]) -> _Node:
    """The node at which ``segments`` end, made where it is not there."""
    node, position = root, 0
    while position < len(segments):
        child = node.children.get(segments[position])
        if child is None:
            rest = segments[position:]
            child = node.children[rest[0]] = _Node(rest, node.stop, sum(map(size, rest)))
            return child
        shared = _common_length(child.segments, segments, position)
        if shared < len(child.segments):
            child = _split(node, child, shared, size)
        node, position = child, position + shared
    return node


def _split(parent: _Node, child: _Node, shared: int, size: Callable[[Hashable], int]) -> _Node:
    """A node between the two, which takes the first ``shared`` segments of the child's edge."""
    front = child.segments[:shared]
    middle = _Node(front, parent.stop, sum(map(size, front)))
    child.segments = child.segments[shared:]
    child.start += middle.num_tokens
    child.num_tokens -= middle.num_tokens
    middle.children[child.segments[0]] = child
    parent.children[front[0]] = middle
    return middle


def _common_length(edge: Sequence[Hashable], segments: Sequence[Hashable], position: int) -> int:
    """How many segments of the edge are those of the sequence from ``position`` on."""
    most = min(len(edge), len(segments) - position)
    for index in range(most):
        one, other = edge[index], segments[position + index]
        if one is not other and one != other:
            return index
    return most


def _branch(node: _Node, size: Callable[[Hashable], int]) -> Branch:
    """The pass that begins with a node and goes on with the heaviest child as long as there is one.

    Recursion is over branches of branches only: each holds at most half of its parent's weight.
    """
    start = node.start
    segments: list[Hashable] = []
    leaves: list[Leaf] = []
    branches: list[Branch] = []
    following: _Node | None = node
    while following is not None:
        node, following = following, None
        segments += node.segments
        leaves += node.leaves(size)
        large = [child for child in node.children.values() if not child.is_leaf]
        if large:
            following = max(large, key=lambda child: child.weight)
            branches += [_branch(child, size) for child in large if child is not following]
    return Branch(start, tuple(segments), node.stop - start, tuple(leaves), tuple(branches))
