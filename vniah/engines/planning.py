"""Plans the passes that read token sequences: what they share, what is refused, and why."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from vniah.engines.inputs import (
    SequenceCheck,
    followed_by,
    positions_of,
    segment_size,
    size_of_frame,
)
from vniah.errors import ModelError, first_line
from vniah.forward.decoders import depends_on_length
from vniah.forward.prefix_tree import (
    MAX_SUFFIX_TOKENS,
    Branch,
    Cost,
    Path,
    build_tree,
    by_themselves,
    cost_of,
)
from vniah.forward.runner import SuffixLogits
from vniah.protocol import (
    FrameSpan,
    HasDecoder,
    Piece,
    TextSegment,
    TokenSequence,
)

_NUM_TEXTS = 1 << 12  # cut texts that `_halves` remembers


@dataclass(frozen=True)
class Plan:
    """How some sequences are run.

    Attributes:
        branches: the passes that start at the first token, each with the branches that continue it.
        refused: the sequences that cannot be run, by their number, and why.
        alone: the passes that would run every sequence by itself.
        note: why every sequence is run by itself although sharing was chosen; None where it is not.
    """

    branches: tuple[Branch, ...]
    refused: Mapping[int, str]
    alone: tuple[Branch, ...]
    note: str | None = None

    @property
    def cost(self) -> Cost:
        """The cost of the passes."""
        return cost_of(self.branches)

    @property
    def cost_alone(self) -> Cost:
        """What it would cost to run every sequence by itself."""
        return cost_of(self.alone)


def make_plan(
    model: HasDecoder,
    sequences: Sequence[TokenSequence],
    *,
    share: bool = True,
    max_suffix_tokens: int = MAX_SUFFIX_TOKENS,
    groups: Sequence[int] | None = None,
    num_last: Callable[[int], int] | None = None,
) -> Plan:
    """The passes that run some sequences.

    Sequences share their common prefixes, unless that would give wrong numbers: where the model
    says so (by an attribute ``shares_prefixes = False``), where RoPE depends on the length of the
    sequence, or where a token's position depends on the tokens after it.

    Args:
        model: the model that reads them.
        sequences: what the model composed; `Branch.sequences` are indices into it.
        share: False runs every sequence by itself.
        max_suffix_tokens: as `vniah.forward.prefix_tree.build_tree`.
        groups: a number for each sequence; sequences with equal numbers have the same prompt and
            different answers. Where nothing else is shared, they still share one pass if possible.
        num_last: how many tokens at the end of a sequence its suffix holds at least, by its index.
    """
    size = segment_size(model)
    refused: dict[int, str] = {}
    check = SequenceCheck(model)
    for index, sequence in enumerate(sequences):
        try:
            check.require_readable(sequence)
        except ModelError as error:
            refused[index] = first_line(error)
    indices = [index for index in range(len(sequences)) if index not in refused]
    paths = [path_of(sequences[index], num_last(index) if num_last else 0) for index in indices]
    why_not = _why_not_shared(model)
    note = why_not if share else None
    tree: tuple[Branch, ...] | None = None
    if share and note is None:
        tree = build_tree(paths, size, indices, max_suffix_tokens=max_suffix_tokens)
        if not _positions_agree(model, sequences, tree):
            note, tree = "position ids depend on what follows", None
    alone: tuple[Branch, ...] | None = None
    if groups is not None and why_not is None:
        alone = by_themselves(paths, size, indices, [groups[index] for index in indices])
        if not _positions_agree(model, sequences, alone):
            alone = None
    alone = alone or by_themselves(paths, size, indices)
    return Plan(alone if tree is None else tree, refused, alone, note)


def can_continue(model: HasDecoder, sequence: TokenSequence, num_tokens: int) -> bool:
    """Whether up to ``num_tokens`` may follow a prompt whose keys and values are stored.

    They may not where they would change the prompt's own keys and values; the reasons are those
    that rule out sharing in `make_plan`.
    """
    if _why_not_shared(model) is not None:
        return False
    num_prompt = sequence.with_answer((0,)).num_tokens(size_of_frame(model))
    ahead = positions_of(model, followed_by(sequence, num_tokens))[..., :num_prompt]
    return torch.equal(positions_of(model, sequence)[..., :num_prompt], ahead)


def path_of(sequence: TokenSequence, num_last: int = 0) -> Path:
    """A sequence, cut before the first row whose logits are read: the last row of the prompt.

    Args:
        sequence: is cut.
        num_last: how many tokens at its end come behind the cut at least, frames not among them.
    """
    body: list[Piece] = list(sequence.input_pieces)
    tail: list[Piece] = []
    missing = max(num_last, len(sequence.answer_ids))
    while missing > 0:
        last = body.pop()
        if isinstance(last, FrameSpan):
            num_before = last.num_parts() - 1
            body += last.cut(0, num_before)
            last = last.part(num_before)
        if isinstance(last, TextSegment):
            front, last = _halves(last.token_ids, missing)
            body += front
            missing -= len(last.token_ids)
        else:
            missing -= 1
        tail.insert(0, last)
    return Path(tuple(body), tuple(tail))


@lru_cache(maxsize=_NUM_TEXTS)
def _halves(
    token_ids: tuple[int, ...], num_last: int
) -> tuple[tuple[TextSegment, ...], TextSegment]:
    """A text without its last tokens, unless nothing remains of it, and the last tokens."""
    front = token_ids[:-num_last]
    return (TextSegment(front),) if front else (), TextSegment(token_ids[-num_last:])


def _why_not_shared(model: HasDecoder) -> str | None:
    if not getattr(model, "shares_prefixes", True):
        return f"{model.name} says that its prefixes cannot be shared"
    if depends_on_length(model.decoder.model):
        kind = model.decoder.model.rotary_emb.rope_type
        return f"RoPE of the kind {kind!r} depends on the length of the sequence"
    return None


def _positions_agree(
    model: HasDecoder, sequences: Sequence[TokenSequence], roots: Sequence[Branch]
) -> bool:
    """Whether all sequences have the same positions where they share tokens.

    A model with an attribute ``has_causal_positions = True`` is believed; every pass compares the
    positions that it reads once more.
    """
    if getattr(model, "has_causal_positions", False):
        return True
    for root in roots:
        for branch in root.passes():
            through: Tensor | None = None
            ends = [(suffix.start, suffix.sequences) for suffix in branch.suffixes]
            ends += [(child.start, child.sequences[:1]) for child in branch.branches]
            for start, members in sorted(ends, reverse=True):
                for index in members:
                    positions = positions_of(model, sequences[index])[..., :start]
                    if through is None:
                        through = positions
                    elif not torch.equal(positions, through[..., :start]):
                        return False
    return True


@dataclass(frozen=True)
class Batch:
    """What is run at a time: some roots of the tree, or one of the branches that continue a root.

    Attributes:
        roots: their numbers; several only where the candidates of one sample run by themselves.
        branch: the number of the branch; None for the suffixes of the roots themselves.
    """

    roots: tuple[int, ...]
    branch: int | None = None


class SampleSequences:
    """Samples, and the sequences of their candidates, both by number.

    Attributes:
        sequences: in the order of the samples, then of their candidates.
        owners: for each sequence, the number of its sample.
        members: for each sample, the numbers of its sequences.
        is_pending: for each sample, whether it is to be run.
    """

    def __init__(self) -> None:
        self.sequences: list[TokenSequence] = []
        self.owners: list[int] = []
        self.members: list[range] = []
        self.is_pending: Sequence[bool] = ()

    def add(self, sequences: Sequence[TokenSequence]) -> None:
        """Adds the next sample, by the sequences of its candidates."""
        self.owners += [len(self.members)] * len(sequences)
        self.members.append(range(len(self.sequences), len(self.sequences) + len(sequences)))
        self.sequences += sequences

    @property
    def groups(self) -> list[int] | None:
        """The ``groups`` of `make_plan`; None where every sample has one candidate."""
        return self.owners if len(self.owners) > len(self.members) else None

    def first(self, number: int) -> TokenSequence:
        """The sequence of a sample's first candidate."""
        return self.sequences[self.members[number][0]]

    def num_needed(self, number: int) -> int:
        """The number of tokens of a sample's longest candidate."""
        return max(len(self.sequences[index].answer_ids) for index in self.members[number])

    def is_read(self, index: int) -> bool:
        """Whether a sequence belongs to a sample that is to be run."""
        return self.is_pending[self.owners[index]]

    def gather(
        self, readings: Iterable[SuffixLogits]
    ) -> Iterator[tuple[int, Mapping[int, SuffixLogits]]]:
        """Each sample that is to be run, as soon as all of its sequences have been read."""
        found: dict[int, dict[int, SuffixLogits]] = {}
        for reading in readings:
            for index in filter(self.is_read, reading.sequences):
                number = self.owners[index]
                found.setdefault(number, {})[index] = reading
                if len(found[number]) == len(self.members[number]):
                    yield number, found.pop(number)
        assert not found, "all candidates of a sample are in one batch"

    def batches(self, roots: Sequence[Branch], cost: Callable[[Branch], int]) -> list[Batch]:
        """The batches with a sample that is to be run.

        Roots come in the given order, each followed by its branches, the most expensive first.
        """
        batches: list[Batch] = []
        place_of: dict[int, int] = {}  # by sample, the batch of candidates that run by themselves
        for number, root in enumerate(roots):
            own = [index for suffix in root.suffixes for index in suffix.sequences]
            if any(map(self.is_read, own)):
                owner = self.owners[own[0]]
                if len(root.sequences) == 1 and owner in place_of:
                    place = place_of[owner]
                    batches[place] = Batch((*batches[place].roots, number))
                else:
                    if len(root.sequences) == 1:
                        place_of[owner] = len(batches)
                    batches.append(Batch((number,)))
            branches = [
                (cost(child), branch)
                for branch, child in enumerate(root.branches)
                if any(map(self.is_read, child.sequences))
            ]
            branches.sort(key=lambda pair: pair[0], reverse=True)
            batches += [Batch((number,), branch) for _, branch in branches]
        return batches
