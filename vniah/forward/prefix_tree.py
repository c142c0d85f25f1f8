"""Common prefixes of many sequences, computed once: a radix tree over segments, run as passes.

A sequence has a body, which it may share with others, and a tail of its own, which holds every row
that is read. Sequences whose bodies begin with equal segments share these segments. The tree is cut
into branches. Each branch is one forward pass that continues a prefix of its parent branch:

    o───o───o───o───o─<      trunk: o is a segment, < a suffix, which the same pass reads
        │       └───n───o─<─o─<      a branch with two suffixes
        └───n───o─<─o─<

Every node is computed once, whichever child its pass continues with. A pass continues with its
heaviest child; then a chain of branches of branches is at most log2 of all tokens long. A child
that is short and hardly shared is not worth a pass of its own and becomes a suffix of its parent's
pass.

A segment may be divisible, such as a thousand frames in one. It is compared part by part and cut
where sequences part, so the tree is that of all parts, at the cost of the segments.

Nothing here uses tensors, or knows of segments more than that they compare by content. The idea is
prefix caching (Zheng et al. 2023, "SGLang", section 3), made exact over a list known beforehand.
"""

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from vniah.forward.segment_parts import SegmentParts, num_parts_of

# A child of up to so many tokens becomes a suffix, unless that computes more than so many twice.
MAX_SUFFIX_TOKENS = 512
_MAX_REPEATED_TOKENS = 128
_NUM_RANKED = 4  # segments by whose length sequences are put in order


@dataclass(frozen=True, slots=True)
class Path:
    """One sequence, as the tree sees it.

    Attributes:
        body: segments that other sequences may share.
        tail: segments that are its own, at least one token.
    """

    body: tuple[Hashable, ...]
    tail: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Suffix:
    """The last rows of equal sequences, after a prefix of a branch; the rows that are read.

    Attributes:
        start: number of tokens before it.
        segments: all segments after the prefix, at least one token.
        num_tokens: number of its tokens.
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


@dataclass(frozen=True, slots=True)
class Branch:
    """One forward pass.

    Attributes:
        start: number of tokens before it, a prefix of its parent branch.
        segments: the segments that it computes.
        num_tokens: number of their tokens; 0 only if its suffixes share no prefix.
        suffixes: the suffixes that it reads, by ``start``, in ``[start, start + num_tokens]``.
        branches: its child branches, which continue a prefix of it, by ``start``.
        is_kept: True if all its keys and values are kept, for tokens decoded after its suffixes.
    """

    start: int
    segments: tuple[Hashable, ...]
    num_tokens: int
    suffixes: tuple[Suffix, ...]
    branches: tuple["Branch", ...] = ()
    is_kept: bool = False

    @property
    def stop(self) -> int:
        """Number of tokens up to its end."""
        return self.start + self.num_tokens

    @property
    def keeps_any(self) -> bool:
        """True if later passes read some of its keys and values."""
        return self.is_kept or bool(self.branches)

    @property
    def keep_until(self) -> int:
        """Tokens whose keys and values are read again, counted from 0; 0 for none."""
        if self.is_kept:
            return self.stop
        return max((branch.start for branch in self.branches), default=0)

    @property
    def kept_ends(self) -> tuple[int, ...]:
        """The tokens before which later passes go on, ascending."""
        ends = {branch.start for branch in self.branches}
        if self.is_kept:
            ends |= {suffix.start for suffix in self.suffixes}
        return tuple(sorted(ends))

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest sequence that it or a descendant reads."""
        own = max((suffix.stop for suffix in self.suffixes), default=self.stop)
        return max([own, *(branch.max_tokens for branch in self.branches)])

    @property
    def sequences(self) -> tuple[int, ...]:
        """Indices of all sequences that it or a descendant reads."""
        own = [index for suffix in self.suffixes for index in suffix.sequences]
        return (*own, *(index for branch in self.branches for index in branch.sequences))

    def passes(self) -> Iterator["Branch"]:
        """The branch and all its descendants, parents first."""
        yield self
        for branch in self.branches:
            yield from branch.passes()


@dataclass(frozen=True, slots=True)
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
    """The cost of some branches and all their descendants."""
    own, in_suffixes = costs_of(branches)
    return own + in_suffixes


def costs_of(branches: Sequence[Branch]) -> tuple[Cost, Cost]:
    """The same in two parts: of the branches' own rows, and of their suffixes' rows."""
    passes = [branch for root in branches for branch in root.passes()]
    suffixes = [suffix for branch in passes for suffix in branch.suffixes]
    return _sum_up_rows(passes), _sum_up_rows(suffixes)


def _sum_up_rows(items: Sequence[Branch | Suffix]) -> Cost:
    num_tokens = sum(item.num_tokens for item in items)
    num_pairs = sum(
        item.num_tokens * item.start + item.num_tokens * (item.num_tokens + 1) // 2
        for item in items
    )
    return Cost(num_tokens, num_pairs)


def kept_whole(branches: Sequence[Branch]) -> tuple[Branch, ...]:
    """The same branches, with all keys and values kept until their suffixes are decoded."""
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
        groups: a number for each sequence. Sequences with equal numbers are the candidate answers
            of one sample: they have one body and make up one branch.
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
        suffixes = tuple(
            Suffix(num_tokens, tail, sum(map(size, tail)), tuple(members))
            for tail, members in tails[group].items()
        )
        branches.append(Branch(0, body, num_tokens, suffixes))
    return tuple(branches)


def build_tree(
    paths: Sequence[Path],
    size: Callable[[Hashable], int],
    indices: Sequence[int] | None = None,
    *,
    max_suffix_tokens: int = MAX_SUFFIX_TOKENS,
) -> tuple[Branch, ...]:
    """The branches that compute all sequences, each shared prefix once.

    Args:
        paths: the sequences, in any order, also equal ones.
        size: tokens of a segment.
        indices: what `Suffix.sequences` calls them; by default their places in ``paths``.
        max_suffix_tokens: a child with more tokens gets a pass of its own.

    Returns:
        One branch for every set of sequences with something in common, in order of appearance.
    """
    tree = _Tree(size, max_suffix_tokens)
    # The tree does not depend on the order. With the longest first, fewer tracks are cut.
    for order in sorted(range(len(paths)), key=lambda order: _rank(paths[order].body)):
        path = paths[order]
        assert sum(map(size, path.tail)) >= 1, "a tail holds at least one token"
        tree.insert(SegmentParts(tuple(filter(size, path.body))), path.tail, order)
    root = tree.sum_up()
    names = indices or range(len(paths))
    branches = [_branch(child, size, names) for child in root.below if not child.is_suffix]
    suffixes = root.suffixes(size, names)
    return (*branches, Branch(0, (), 0, suffixes)) if suffixes else tuple(branches)


def _rank(segments: Sequence[Hashable]) -> tuple[int, ...]:
    """A sort key: sequences with many parts in their first segments first, then long ones."""
    return *(-num_parts_of(segment) for segment in segments[:_NUM_RANKED]), -len(segments)


_Ends = dict[tuple[Hashable, ...], list[int]]


@dataclass(eq=False, slots=True)
class _Track:
    """The rest of a sequence after the node where it parts from all sequences before it.

    Attributes:
        parts: its segments.
        base: the node where it begins; None for the root's track, which has no parts.
        nodes: the places where sequences end or part, in the order of the parts.
    """

    parts: SegmentParts
    base: "_Node | None"
    nodes: "list[_Node]" = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Node:
    """A node of the radix tree, with the edge that leads to it.

    Attributes:
        track: the track on which it lies.
        end: number of parts of the track up to it.
        tracks: the tracks that begin here, by their first part; None for none.
        ends: the sequences whose body ends here: by tail, their order of appearance; None for none.
        begin: number of parts of the track before its edge.
        num_tokens: tokens on its edge.
        stop: tokens from the root up to it.
        below: its children, in order of appearance.
        first: order of appearance of its first sequence.
        weight: tokens on its edge and below, each counted once.
        flat_tokens: the same, counted anew for each different sequence.
        num_ends: different sequences that end here or below.
        is_suffix: True if its parent's pass reads it as a suffix.
    """

    track: _Track
    end: int
    tracks: dict[Hashable, _Track] | None = None
    ends: _Ends | None = None
    begin: int = 0
    num_tokens: int = 0
    stop: int = 0
    below: "tuple[_Node, ...]" = ()
    first: int = 0
    weight: int = 0
    flat_tokens: int = 0
    num_ends: int = 0
    is_suffix: bool = False

    @property
    def segments(self) -> tuple[Hashable, ...]:
        """The segments on its edge."""
        return self.track.parts.cut(self.begin, self.end)

    def suffixes(self, size: Callable[[Hashable], int], names: Sequence[int]) -> tuple[Suffix, ...]:
        """The suffixes at its end: of the sequences that end here, and of the short children."""
        found: list[Suffix] = []
        waiting: list[tuple[_Node, tuple[Hashable, ...]]] = [(self, ())]
        while waiting:
            node, before = waiting.pop()
            for tail, orders in (node.ends or {}).items():
                segments = (*before, *tail)
                sequences = tuple(names[order] for order in sorted(orders))
                found.append(Suffix(self.stop, segments, sum(map(size, segments)), sequences))
            waiting += [
                (child, (*before, *child.segments)) for child in node.below if child.is_suffix
            ]
        return tuple(sorted(found, key=lambda suffix: suffix.sequences))


class _Tree:
    """A radix tree, made of tracks that begin at nodes of other tracks.

    Args:
        size: tokens of a segment.
        max_suffix_tokens: as `build_tree`.
    """

    def __init__(self, size: Callable[[Hashable], int], max_suffix_tokens: int) -> None:
        self._size = size
        self._max_suffix_tokens = max_suffix_tokens
        self._tracks = [_Track(SegmentParts(()), None)]  # every track comes after its base's
        self._root = self._node_at(self._tracks[0], 0)

    def insert(self, body: SegmentParts, tail: tuple[Hashable, ...], order: int) -> None:
        """Adds the sequence that appeared as number ``order``."""
        node, position = self._root, 0
        while position < len(body):
            part = body.part(position)
            track = node.tracks.get(part) if node.tracks else None
            if track is None:
                rest = SegmentParts(body.cut(position, len(body))) if position else body
                node.tracks = node.tracks or {}
                track = node.tracks[part] = _Track(rest, node)
                self._tracks.append(track)
                num_common = len(rest)
            else:
                num_common = track.parts.num_common(body, position)
            node = self._node_at(track, num_common)
            position += num_common
        node.ends = node.ends or {}
        node.ends.setdefault(tail, []).append(order)

    def _node_at(self, track: _Track, end: int) -> _Node:
        """The node after ``end`` parts of a track; made if it is not there."""
        place = bisect_left(track.nodes, end, key=attrgetter("end"))
        if place == len(track.nodes) or track.nodes[place].end != end:
            track.nodes.insert(place, _Node(track, end))
        return track.nodes[place]

    def sum_up(self) -> _Node:
        """The root, after the counts of all nodes are filled in."""
        for track in self._tracks:
            before, stop = 0, track.base.stop if track.base else 0
            for node in track.nodes:
                node.begin, before = before, node.end
                node.num_tokens = sum(map(self._size, node.segments))
                node.stop = stop = stop + node.num_tokens
        for track in reversed(self._tracks):
            following: list[_Node] = []
            for node in reversed(track.nodes):
                hanging = [track.nodes[0] for track in (node.tracks or {}).values()]
                self._sum_up_node(node, [*hanging, *following])
                following = [node]
        return self._root

    def _sum_up_node(self, node: _Node, below: list[_Node]) -> None:
        """Fills in the counts of a node whose children have theirs."""
        ends = node.ends or {}
        node.below = tuple(sorted(below, key=lambda child: child.first))
        firsts = [*map(min, ends.values()), *(child.first for child in below)]
        node.first = min(firsts, default=0)
        in_tails = sum(self._size(segment) for tail in ends for segment in tail)
        node.num_ends = len(ends) + sum(child.num_ends for child in below)
        node.weight = node.num_tokens + in_tails + sum(child.weight for child in below)
        in_children = sum(child.flat_tokens for child in below)
        node.flat_tokens = node.num_tokens * node.num_ends + in_tails + in_children
        is_short = node.flat_tokens <= self._max_suffix_tokens
        node.is_suffix = is_short and node.flat_tokens - node.weight <= _MAX_REPEATED_TOKENS


def _branch(node: _Node, size: Callable[[Hashable], int], names: Sequence[int]) -> Branch:
    """The pass that begins at a node and continues with the heaviest child while there is one.

    Recursion is over branches of branches only: each has at most half of its parent's weight.
    """
    start = node.stop - node.num_tokens
    segments: list[Hashable] = []
    suffixes: list[Suffix] = []
    branches: list[Branch] = []
    begin, following = node.begin, [node]
    while following:
        node = following[0]
        suffixes += node.suffixes(size, names)
        large = [child for child in node.below if not child.is_suffix]
        following = sorted(large, key=lambda child: child.weight, reverse=True)[:1]
        branches += [_branch(child, size, names) for child in large if child not in following]
        if not following or following[0].track is not node.track:
            segments += node.track.parts.cut(begin, node.end)
            begin = 0
    return Branch(start, tuple(segments), node.stop - start, tuple(suffixes), tuple(branches))
