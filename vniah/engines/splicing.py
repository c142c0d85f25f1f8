"""Sequences as rows that are spliced into one trunk, with a window behind what is spliced in.

The trunk is what every sequence has at its beginning where nothing is hidden in it: an opening, and
the plain haystack. See `vniah.forward.splices` for what is computed, and how far it is exact.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from vniah.embeddings.cache import FrameStore
from vniah.engines.alignment import Keys, Run, TokenKeys, runs_of
from vniah.engines.inputs import DecoderInputs, size_of_frame
from vniah.errors import ModelError
from vniah.forward.attention import Kernel
from vniah.forward.costs import DecoderShape, Flops
from vniah.forward.kinds.choosing import open_cache
from vniah.forward.kv_cache import KeyValueCache, Layout, Span
from vniah.forward.prefill import prefill
from vniah.forward.prefix_tree import Cost
from vniah.forward.splices import Seen, Shift, SplicedBranch, SplicedRows, SplicedSuffix
from vniah.protocol import HasDecoder, TokenSequence

T = TypeVar("T")


@dataclass(frozen=True)
class SplicedSequence:
    """A sequence, and which of its tokens are computed for it.

    Attributes:
        index: its number.
        runs: tokens whose states are the trunk's.
        gaps: tokens between two runs: what is spliced in, and its window behind it.
        suffix: the tokens behind all of that: question and answer.
        branch: equal for sequences into which the same is spliced at the same places.
    """

    index: int
    runs: tuple[Run, ...]
    gaps: tuple[Span, ...]
    suffix: Span
    branch: tuple[tuple[int, int, bytes], ...]

    @property
    def is_exact(self) -> bool:
        """Whether no token of a run stands behind something that the trunk does not have there."""
        first = self.gaps[0].start if self.gaps else self.suffix.start
        return all(run.stop <= first and run.start == run.trunk for run in self.runs)

    @property
    def num_own(self) -> int:
        """Tokens in its gaps."""
        return sum(gap.num_tokens for gap in self.gaps)

    @property
    def num_shared(self) -> int:
        """Tokens whose states are the trunk's."""
        return sum(run.num_tokens for run in self.runs)


@dataclass(frozen=True)
class Trunk:
    """What sequences have at their beginning where nothing is hidden in it.

    Attributes:
        sequence: begins with the trunk.
        num_tokens: of the trunk.
    """

    sequence: TokenSequence
    num_tokens: int


def splice(
    index: int, sequence: TokenSequence, trunk: Keys, *, keys: TokenKeys, window: int
) -> SplicedSequence:
    """How a sequence is spliced into a trunk.

    Args:
        index: its number.
        sequence: any; what it has in common with the trunk is found.
        trunk: the keys of opening and haystack.
        keys: knows both.
        window: tokens behind everything that is spliced in which are computed with it in sight.
    """
    own = keys.of(sequence.input_pieces)
    read = len(own) - len(sequence.answer_ids)
    found = runs_of(own[:read], trunk)
    behind = found[-1].stop if found else 0
    branch = tuple(
        (one.trunk_stop, other.trunk, own[one.stop : other.start].tobytes())
        for one, other in pairwise(found)
    )
    if found and found[0].start:
        branch = (0, found[0].trunk, own[: found[0].start].tobytes()), *branch
    runs = [run.without(window) if run.start or run.trunk else run for run in found]
    ends = [0, *(end for run in runs for end in (run.start, run.stop)), behind]
    gaps = [Span(ends[k], ends[k + 1]) for k in range(0, len(ends), 2)]
    return SplicedSequence(
        index,
        tuple(run for run in runs if run.num_tokens),
        tuple(gap for gap in gaps if gap.num_tokens),
        Span(behind, len(own)),
        branch,
    )


def _num_seen(one: SplicedSequence, rows: Span) -> int:
    """Tokens of the trunk that some rows of a sequence see."""
    return sum(run.num_tokens for run in one.runs if run.stop <= rows.start)


class SplicedMap:
    """The logits of many sequences from one pass over a trunk.

    Args:
        model: the model that composed all sequences.
        sequences: what is read.
        trunk: opening and haystack, at least as far as the longest sequence shows it.
        store: holds the encoded frames.
        window: as `splice`.
        groups: a number for each sequence; those with equal numbers have the same prompt, and are
            in the same part (`parts`). By default none have.
    """

    def __init__(
        self,
        model: HasDecoder,
        sequences: Sequence[TokenSequence],
        trunk: Trunk,
        store: FrameStore,
        *,
        window: int,
        groups: Sequence[int] | None = None,
    ) -> None:
        self._model = model
        self._groups = range(len(sequences)) if groups is None else groups
        self._sequences = sequences
        self._inputs = DecoderInputs(model, [*sequences, trunk.sequence], store)
        keys = TokenKeys(size_of_frame(model))
        self._pieces = trunk.sequence.input_pieces
        of_trunk = keys.of(self._pieces)[: trunk.num_tokens]
        self.spliced = [
            splice(index, sequence, of_trunk, keys=keys, window=window)
            for index, sequence in enumerate(sequences)
        ]
        self._positions = self._inputs.positions(len(sequences))

    @property
    def num_trunk(self) -> int:
        """Tokens of the trunk that any sequence shows."""
        return max((run.trunk_stop for one in self.spliced for run in one.runs), default=0)

    def branches(self, indices: Iterable[int]) -> list[list[SplicedSequence]]:
        """Sequences by what is spliced in, the longest first, and by where that stands."""
        found: dict[tuple[tuple[int, int, bytes], ...] | int, list[SplicedSequence]] = {}
        for index in indices:
            one = self.spliced[index]
            # Where nothing is shared only the candidate answers of one question are together.
            found.setdefault(one.branch or self._groups[index], []).append(one)
        for members in found.values():
            members.sort(key=lambda one: (one.num_own, one.suffix.start), reverse=True)
        return sorted(found.values(), key=lambda members: members[0].branch)

    def flops(self, shape: DecoderShape, indices: Iterable[int]) -> Flops:
        """The operations of the pass over the trunk, and of the rows of some sequences."""
        ending, read = Cost.of_rows(0, self.num_trunk), Cost()
        for members in self.branches(indices):
            longest = members[0]
            ending += Cost.of_rows(0, longest.num_own)
            for gap in longest.gaps:
                ending += Cost(0, gap.num_tokens * _num_seen(longest, gap))
            for one in members:
                num_read, seen = len(self._sequences[one.index].answer_ids), one.num_own
                num_other = one.suffix.num_tokens - num_read
                seen += _num_seen(one, one.suffix)
                ending += Cost.of_rows(seen, num_other)
                read += Cost.of_rows(seen + num_other, num_read)
        return shape.flops_of_rows(ending, read, num_repeated=read.num_tokens)

    def parts(self, indices: Iterable[int], max_rows: int) -> list[list[int]]:
        """Sequences in parts of up to so many rows, or of one branch with more."""
        parts: list[list[int]] = []
        num_rows = max_rows
        for members in self.branches(indices):
            size = members[0].num_own + sum(one.suffix.num_tokens for one in members)
            if num_rows + size > max_rows:
                parts.append([])
                num_rows = 0
            parts[-1] += [one.index for one in members]
            num_rows += size
        return parts

    def run(
        self,
        indices: Iterable[int],
        read: Callable[[int, Tensor], T],
        *,
        chunk_size: int,
        past: KeyValueCache | None = None,
        kernel: Kernel | None = None,
    ) -> Mapping[int, T]:
        """What is read of some sequences, by their numbers.

        Args:
            indices: of the sequences.
            read: called with the number of each and its logits, ``[rows, vocabulary]`` fp32.
            chunk_size: rows that go through a layer at once.
            past: the trunk's keys and values (`keep_trunk`); without, they are computed.
            kernel: computes the attention; by default the fastest that is right on the device.
        """
        num_trunk = 0 if past is not None else self.num_trunk
        branches = self.branches(indices)
        order = [one.index for members in branches for one in members]
        found: dict[int, T] = {}

        def take(number: int, logits: Tensor) -> None:
            found[order[number]] = read(order[number], logits)

        prefill(
            self._model.decoder,
            self._inputs.embed(self._pieces, 0, num_trunk),
            self._positions[..., :num_trunk],
            [],
            spliced=[self._branch(members) for members in branches],
            past=() if past is None else (past,),
            chunk_size=chunk_size,
            kernel=kernel,
            add_deepstack=self._add_deepstack,
            on_logits=take,
        )
        return found

    def keep_trunk(self, *, chunk_size: int, kernel: Kernel | None = None) -> KeyValueCache:
        """Runs the trunk alone, and keeps its keys and values of all layers."""
        cache = self._cache()
        prefill(
            self._model.decoder,
            self._inputs.embed(self._pieces, 0, self.num_trunk),
            self._positions[..., : self.num_trunk],
            [],
            cache=cache,
            chunk_size=chunk_size,
            kernel=kernel,
            add_deepstack=self._add_deepstack,
        )
        return cache

    def _add_deepstack(self, layer: int, hidden: Tensor) -> None:
        """Adds DeepStack features to the rows of the trunk, if any are computed, after a layer."""
        if layer < self._inputs.num_deepstack_layers and len(hidden):
            self._inputs.add_deepstack(layer, hidden, self._pieces, 0, len(hidden))

    def _cache(self) -> KeyValueCache:
        body, like = self._model.decoder.model, self._model.decoder.lm_head.weight
        layout = Layout.whole(0, self.num_trunk)
        return open_cache(body, layout, ends=(self.num_trunk,), like=like, kv_location="device")

    def _branch(self, members: Sequence[SplicedSequence]) -> SplicedBranch:
        longest = members[0]
        pieces = tuple(self._rows(longest, gap, gap) for gap in longest.gaps)
        suffixes = tuple(
            SplicedSuffix(
                self._rows(one, one.suffix, one.suffix),
                one.num_own,
                len(self._sequences[one.index].answer_ids),
            )
            for one in members
        )
        return SplicedBranch(pieces, suffixes)

    def _rows(self, one: SplicedSequence, rows: Span, before: Span) -> SplicedRows:
        """Some tokens of a sequence, which see the trunk in all runs before a place."""
        inputs, pieces = self._inputs, self._sequences[one.index].input_pieces
        positions = inputs.positions(one.index)
        hidden = inputs.embed(pieces, *rows)
        deepstack = None
        if num_layers := inputs.num_deepstack_layers:
            deepstack = hidden.new_zeros(num_layers, *hidden.shape)
            for layer, added in enumerate(deepstack):
                inputs.add_deepstack(layer, added, pieces, *rows)
        seen = tuple(
            Seen(Span(run.trunk, run.trunk_stop), self._shift(run, positions))
            for run in one.runs
            if run.stop <= before.start
        )
        return SplicedRows(hidden, positions[..., slice(*rows)].clone(), seen, deepstack)

    def _shift(self, run: Run, positions: Tensor) -> Shift:
        """How many positions farther on a run stands in a sequence than in the trunk.

        Raises:
            ModelError: not all of its tokens are moved equally far.
        """
        moved = positions[..., run.start : run.stop]
        moved = moved - self._positions[..., run.trunk : run.trunk_stop]
        first = moved[..., :1]
        if not torch.equal(moved, first.expand_as(moved)):
            raise ModelError(
                f"what is put into a sequence moves the positions of {self._model.name} behind it "
                "by different distances, so that haystack states cannot be shared by needles; "
                "share the tree"
            )
        found = tuple(int(number) for number in first.reshape(-1))
        return (found[0], found[1], found[2]) if len(found) == 3 else (found[0],)
