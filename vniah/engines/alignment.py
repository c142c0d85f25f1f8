"""What a token sequence has in common with another one, although something was put in between.

A sequence that shows a haystack with a needle in it consists of *runs* of the plain haystack's
tokens, and of tokens of its own. Where text was tokenized as a whole, some tokens of the haystack
differ beside a needle, too: they are tokens of its own, and those that they replace are left out.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vniah.protocol import FrameSpan, Piece

Keys = NDArray[np.int64]

# Tokens of the haystack that differ beside a needle, at most; and the shortest run behind one.
_MAX_REPLACED = 32
_MIN_RUN = 8
# How far a run is looked for where tokens were replaced; a whole sequence where none were.
_MAX_OWN = 4096
_FRAMES_OF_SOURCE = 1 << 40
_BLOCK = 1 << 15  # tokens that are compared at once, as most often an answer is near
_MAX_RUNS = 256
"""Of a sequence that is cut more often, such as one with its frames out of order, the rest is its
own."""


class Run(NamedTuple):
    """Tokens that two sequences have in common.

    Attributes:
        start: the first of them in the sequence.
        trunk: the same in the trunk.
        num_tokens: how many there are.
    """

    start: int
    trunk: int
    num_tokens: int

    @property
    def stop(self) -> int:
        """The token after the last of them in the sequence."""
        return self.start + self.num_tokens

    @property
    def trunk_stop(self) -> int:
        """The same in the trunk."""
        return self.trunk + self.num_tokens

    def without(self, num_tokens: int) -> "Run":
        """The same without its first tokens; it may become empty."""
        cut = min(num_tokens, self.num_tokens)
        return Run(self.start + cut, self.trunk + cut, self.num_tokens - cut)


class TokenKeys:
    """A number for every token: equal ones are equal for the model, wherever they stand.

    Args:
        tokens_per_frame: rows of a frame.
    """

    def __init__(self, tokens_per_frame: int) -> None:
        self._per_frame = tokens_per_frame
        self._rows: dict[str, Keys] = {}  # by source, the keys of its frames, as far as any is seen

    def of(self, pieces: Sequence[Piece]) -> Keys:
        """The keys of all tokens of a sequence, ``[T]``."""
        return np.concatenate([np.zeros(0, np.int64), *map(self._of_piece, pieces)])

    def _of_piece(self, piece: Piece) -> Keys:
        if not isinstance(piece, FrameSpan):
            return np.array(piece.token_ids, np.int64)
        rows = self._rows_of(piece.source, piece.stop)[piece.start * self._per_frame :]
        rows = rows[: piece.num_frames * self._per_frame]
        if not piece.has_text:
            return rows
        before, after = (
            np.tile(np.array(text, np.int64), (piece.num_frames, 1))
            for text in (piece.before, piece.after)
        )
        return np.concatenate([before, rows.reshape(piece.num_frames, -1), after], 1).reshape(-1)

    def _rows_of(self, source: str, num_frames: int) -> Keys:
        """The keys of at least the first frames of a source."""
        known = self._rows.setdefault(source, np.zeros(0, np.int64))
        num_rows = num_frames * self._per_frame
        if len(known) < num_rows:
            first = -1 - list(self._rows).index(source) * _FRAMES_OF_SOURCE
            last = first - max(num_rows, 2 * len(known))
            known = np.arange(first, last, -1, dtype=np.int64)
            self._rows[source] = known
        return known


def runs_of(keys: Keys, trunk: Keys) -> tuple[Run, ...]:
    """The runs of a sequence, in order; a first run that is not empty begins at 0 in both.

    >>> runs_of(np.array([1, 2, 3, 9, *range(4, 15), 7]), np.arange(1, 20))
    (Run(start=0, trunk=0, num_tokens=3), Run(start=4, trunk=3, num_tokens=11))
    """
    found: list[Run] = []
    start = at = 0
    while start < len(keys) and at < len(trunk) and len(found) < _MAX_RUNS:
        num = _num_common(keys[start:], trunk[at:])
        if num:
            found.append(Run(start, at, num))
        following = _next_run(keys, trunk, start + num, at + num)
        if following is None:
            break
        start, at = following
    return tuple(found)


def _num_common(one: Keys, other: Keys) -> int:
    """How many tokens from the first on are equal."""
    num = min(len(one), len(other))
    for start in range(0, num, _BLOCK):
        stop = min(num, start + _BLOCK)
        differs = one[start:stop] != other[start:stop]
        if differs.any():
            return start + int(differs.argmax())
    return num


def _next_run(keys: Keys, trunk: Keys, start: int, at: int) -> tuple[int, int] | None:
    """Where the next run begins in both: the place with the fewest tokens before it."""
    best: tuple[int, int] | None = None
    for replaced in range(min(_MAX_REPLACED, len(trunk) - at - _MIN_RUN) + 1):
        if best is not None and replaced >= sum(best) - start - at:
            break  # no place has fewer tokens before it
        wanted = trunk[at + replaced : at + replaced + _MIN_RUN]
        stop = len(keys) if not replaced else min(len(keys), start + _MAX_OWN)
        if best is not None:
            stop = min(stop, best[0] + _MIN_RUN)
        for place in _places_of(wanted[0], keys, start, stop):
            if best is not None and place - start + replaced >= sum(best) - start - at:
                break
            if np.array_equal(keys[place : place + _MIN_RUN], wanted):
                best = place, at + replaced
                break
    return best


def _places_of(key: np.int64, keys: Keys, start: int, stop: int) -> Iterator[int]:
    """Where a key stands between two places, in order."""
    for first in range(start, stop, _BLOCK):
        found = np.flatnonzero(keys[first : min(stop, first + _BLOCK)] == key)
        yield from map(int, found + first)
