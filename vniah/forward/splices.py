"""Rows that are spliced into a long sequence, the trunk, whose own rows do not see them.

Many sequences may differ from the trunk only in that something stands in between, at some place.
Run exactly, the trunk's tokens behind it are computed anew for every place, because they attend to
it. Here they are computed once, without it. A *branch* is one way to splice something in: its own
rows are what is spliced in and, where it is given a window, some tokens of the trunk behind that,
which are computed with it in sight. At each layer, with the trunk's keys of that layer at hand,

    own rows of a branch     attend to the trunk before them, and to the branch's own rows up to
                             themselves
    rows of its suffixes     (question and answer) attend to the trunk before and behind the own
                             rows, to the own rows, and to themselves

in parts over disjoint keys, merged by their log-sum-exp. **This is an approximation**, unless the
window reaches the suffix. Nothing here measures how good it is.

Distances are those of the real sequence. Behind n spliced tokens every key would stand n
positions farther on. The trunk's keys stay where they are; instead the query meets *them* as if it
stood n positions earlier: rotations add up, so a query that is rotated already is rotated back by
the angles of n. That needs nothing of the layer, and holds for every RoPE with fixed frequencies.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from vniah.forward.kv_cache import Span

Shift = tuple[int] | tuple[int, int, int]


@dataclass(frozen=True)
class Seen:
    """Tokens of the trunk that some rows attend to.

    Attributes:
        span: the tokens.
        shift: how many positions farther on they stand for these rows than in the trunk: one
            number, or three for M-RoPE.
    """

    span: Span
    shift: Shift


@dataclass(frozen=True)
class SplicedRows:
    """Rows that follow one another, and all see the same tokens of the trunk.

    Attributes:
        hidden: input embeddings ``[n, H]``.
        position_ids: in the real sequence, ``[n]``, or ``[3, n]`` for M-RoPE.
        seen: of the trunk, ascending and disjoint.
        deepstack: what is added to the rows after each of the first layers, ``[layers, n, H]``.
    """

    hidden: Tensor
    position_ids: Tensor
    seen: tuple[Seen, ...]
    deepstack: Tensor | None = None


@dataclass(frozen=True)
class SplicedSuffix:
    """Question and answer behind a branch.

    Attributes:
        rows: its rows.
        num_own: how many of the branch's own rows they see: the first.
        num_rows: how many rows are read, at the end.
    """

    rows: SplicedRows
    num_own: int
    num_rows: int


@dataclass(frozen=True)
class SplicedBranch:
    """One way to splice rows into the trunk, and everything that is asked about it.

    Attributes:
        pieces: its own rows, in the order of their places; each row also sees all before itself.
        suffixes: in any order.
    """

    pieces: tuple[SplicedRows, ...]
    suffixes: tuple[SplicedSuffix, ...]

    @property
    def num_own(self) -> int:
        """The number of its own rows."""
        return sum(len(piece.hidden) for piece in self.pieces)

    @property
    def blocks(self) -> tuple[SplicedRows, ...]:
        """All its rows: its own, and those of its suffixes."""
        return (*self.pieces, *(suffix.rows for suffix in self.suffixes))

    @property
    def num_tokens(self) -> int:
        """The number of all its rows."""
        return sum(len(block.hidden) for block in self.blocks)

    @property
    def length(self) -> int:
        """Tokens of the longest sequence that it reads."""
        return max(
            sum(seen.span.num_tokens for seen in suffix.rows.seen)
            + suffix.num_own
            + len(suffix.rows.hidden)
            for suffix in self.suffixes
        )

    def fits(self, stop: int) -> bool:
        """Whether what its rows see of a trunk of ``stop`` tokens is ascending and disjoint."""
        own = self.num_own
        return all(
            one <= other
            for block in self.blocks
            for one, other in pairwise(
                [0, *(end for seen in block.seen for end in seen.span), stop]
            )
        ) and all(suffix.num_own <= own for suffix in self.suffixes)
