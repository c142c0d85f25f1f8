"""Suffixes: short groups of rows that are read, each of which sees its own part of a pass.

A suffix is the end of a sequence: its question and answer. Hundreds of them may belong to one pass.
They go through each layer together, and attend in few kernel calls: suffixes of one length attend
to themselves in one call, and all suffixes that see the same span of keys attend to it in one call.

    keys of the pass   0 ......... 40 ......... 70 ......... 100
    suffix a           |-----------|                              spans (0, 40)
    suffix b           |-----------------------------------------| spans (0, 100)
    suffix c           |-----------|             |---------------| spans (0, 40), (70, 100)
    calls               a, b, c      b            b, c

n rows, H hidden size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vniah.forward.decoders import logits_of
from vniah.forward.kv_cache import Span
from vniah.forward.layer_inputs import LayerInputs, joined_ids
from vniah.forward.rotation import Angles, rows_of


class Watched(NamedTuple):
    """What is to be known of the attention of some rows (`vniah.forward.watching`).

    Attributes:
        groups: spans of tokens, counted from the beginning of the sequence. The attention mass of
            each group is computed by itself; the spans of a group are disjoint.
        num_rows: in how many rows at the end of the sequence.
    """

    groups: tuple[tuple[Span, ...], ...] = ()
    num_rows: int = 0


WATCHES_NOTHING = Watched()


@dataclass(frozen=True)
class SuffixRows:
    """The rows of one suffix.

    Attributes:
        spans: the tokens of the pass and of its past that all rows attend to, ascending and
            disjoint. Besides, every row attends to the rows of the suffix up to itself.
        hidden: input embeddings ``[n, H]``.
        position_ids: ``[n]``, or ``[3, n]`` for M-RoPE.
        num_rows: how many rows are read, at the end of the suffix.
        deepstack: what is added to the first m rows after each of the first layers,
            ``[layers, m, H]``.
        images: where images begin and end among the rows, if the rows of an image see one another.
        token_ids: ``[n]``, where the decoder's layers get something of them
            (`vniah.forward.layer_inputs`).
        watched: tokens of which somebody wants to know the attention mass, and in which rows.
    """

    spans: tuple[Span, ...]
    hidden: Tensor
    position_ids: Tensor
    num_rows: int
    deepstack: Tensor | None = None
    images: tuple[Span, ...] = ()
    token_ids: Tensor | None = None
    watched: Watched = WATCHES_NOTHING

    @property
    def start(self) -> int:
        """The number of tokens before the rows, which see all of these.

        Only layers with full attention take rows that see the tokens with gaps in between.
        """
        assert len(self.spans) <= 1 and not any(span.start for span in self.spans)
        return self.stop

    @property
    def stop(self) -> int:
        """One more than the last token before the rows that they see."""
        return self.spans[-1].stop if self.spans else 0

    @property
    def length(self) -> int:
        """Tokens that the last row attends to: those of the spans, and the suffix itself."""
        return sum(span.num_tokens for span in self.spans) + len(self.hidden)

    def fits(self, stop: int) -> bool:
        """Whether its spans are ascending, disjoint, and end at ``stop`` at the latest."""
        borders = [0, *(border for span in self.spans for border in span), stop]
        return all(one <= other for one, other in pairwise(borders))


@dataclass
class Rows:
    """Rows on their way through the layers.

    Attributes:
        hidden: ``[n, H]``.
        angles: of RoPE, by kind of layer (`vniah.forward.rotation`).
        position_ids: ``[n]``, or ``[3, n]`` for M-RoPE.
        inputs: what single layers get besides the rows, if they get anything.
    """

    hidden: Tensor
    angles: Angles
    position_ids: Tensor
    inputs: LayerInputs | None = None

    def arguments(self, index: int, layer_type: str, part: slice | Tensor) -> dict[str, Any]:
        """What a layer gets besides some of the rows: ``[n]`` of them, or ``[B, n]``."""
        is_batch = isinstance(part, Tensor) and part.ndim == 2
        positions = self.position_ids[..., part]
        if not is_batch:
            positions = positions[..., None, :]
        found: dict[str, Any] = {"position_ids": positions}
        if layer_type in self.angles:
            angles = self.angles[layer_type][:, :, part]
            if is_batch:
                angles = angles[:, 0]
            found["position_embeddings"] = tuple(angles) if len(angles) == 2 else angles[0]
        if self.inputs is not None:
            own = self.inputs.for_layer(index, part)
            found["per_layer_input"] = own if is_batch else own[None]
        return found


@dataclass
class SuffixGroup:
    """Some suffixes whose rows go through the layers together.

    Attributes:
        suffixes: in the order of their rows.
        rows: of all of them.
        shared: spans of keys, and which of the rows attend to all of a span (`shared_spans`).
    """

    suffixes: Sequence[SuffixRows]
    rows: Rows
    shared: Sequence[tuple[Span, slice | Tensor]]

    @classmethod
    def of(cls, suffixes: Sequence[SuffixRows], angles: Angles) -> "SuffixGroup":
        """A group of its own copies of the rows, which have these angles."""
        hidden = torch.cat([suffix.hidden for suffix in suffixes])
        positions = torch.cat([suffix.position_ids for suffix in suffixes], -1).to(hidden.device)
        firsts = list(accumulate((len(suffix.hidden) for suffix in suffixes), initial=0))
        shared = [
            (span, _rows_of(viewers, firsts, hidden.device))
            for span, viewers in shared_spans([suffix.spans for suffix in suffixes])
        ]
        return cls(suffixes, Rows(hidden, angles, positions), shared)

    @property
    def firsts(self) -> list[int]:
        """The first row of each suffix."""
        sizes = [len(suffix.hidden) for suffix in self.suffixes]
        return list(accumulate(sizes, initial=0))[:-1]

    @property
    def images(self) -> tuple[Span, ...]:
        """Where images begin and end among the rows."""
        return tuple(
            Span(first + image.start, first + image.stop)
            for first, suffix in zip(self.firsts, self.suffixes, strict=True)
            for image in suffix.images
        )

    def add_deepstack(self, layer: int) -> None:
        """Adds what DeepStack adds to the rows after a layer."""
        row = 0
        for suffix in self.suffixes:
            added = suffix.deepstack
            if added is not None and layer < len(added):
                self.rows.hidden[row : row + added.shape[1]] += added[layer]
            row += len(suffix.hidden)

    def read(self, decoder: Any) -> Iterator[Tensor]:
        """The logits of every suffix, ``[num_rows, vocabulary]`` fp32."""
        stop = 0
        for suffix in self.suffixes:
            stop += len(suffix.hidden)
            rows = self.rows.hidden[stop - suffix.num_rows : stop]
            yield logits_of(decoder, rows)


def suffix_groups(
    suffixes: Sequence[SuffixRows], body: Any, angles: Angles, max_rows: int
) -> Iterator[SuffixGroup]:
    """Consecutive suffixes with up to ``max_rows`` rows together, or one with more.

    Args:
        suffixes: all suffixes of a pass.
        body: the decoder's stack of layers.
        angles: of RoPE, of all their rows.
        max_rows: the most rows of a group.
    """
    first = row = 0
    while first < len(suffixes):
        last, num_rows = first + 1, len(suffixes[first].hidden)
        while last < len(suffixes) and num_rows + len(suffixes[last].hidden) <= max_rows:
            num_rows += len(suffixes[last].hidden)
            last += 1
        members = suffixes[first:last]
        group = SuffixGroup.of(members, rows_of(angles, slice(row, row + num_rows)))
        ids = joined_ids([suffix.token_ids for suffix in members])
        group.rows.inputs = LayerInputs.of(body, group.rows.hidden, ids)
        yield group
        first, row = last, row + num_rows


def shared_spans(seen: Sequence[Sequence[Span]]) -> Iterator[tuple[Span, tuple[int, ...]]]:
    """Splits spans of keys into disjoint ones, each with the numbers of all suffixes that see it.

    >>> list(shared_spans([[Span(0, 4)], [Span(0, 9)], [Span(0, 4), Span(7, 9)]]))
    ... # doctest: +NORMALIZE_WHITESPACE
    [(Span(start=0, stop=4), (0, 1, 2)), (Span(start=4, stop=7), (1,)),
     (Span(start=7, stop=9), (1, 2))]

    Args:
        seen: for each suffix the spans that it sees, ascending and disjoint.
    """
    changes: dict[int, list[int]] = {}
    for number, spans in enumerate(seen):
        for border in (border for span in spans if span.num_tokens for border in span):
            changes.setdefault(border, []).append(number)
    viewers: set[int] = set()
    begun: int | None = None
    for border in sorted(changes):
        before = tuple(sorted(viewers))
        for number in changes[border]:  # twice where one of its spans ends and the next begins
            viewers ^= {number}
        if viewers == set(before):
            continue
        if before and begun is not None:
            yield Span(begun, border), before
        begun = border


def _rows_of(viewers: Sequence[int], firsts: Sequence[int], device: torch.device) -> slice | Tensor:
    """The rows of some suffixes: a slice where they follow one another, else their numbers."""
    first, last = viewers[0], viewers[-1]
    if last - first + 1 == len(viewers):
        return slice(firsts[first], firsts[last + 1])
    rows = [torch.arange(firsts[number], firsts[number + 1]) for number in viewers]
    return torch.cat(rows).to(device)
