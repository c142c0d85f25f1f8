"""From token sequences to the passes that read them: what is shared, what is refused, and why."""

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
from vniah.forward.decoders import (
    depends_on_length,
)
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
    DecoderModel,
    FrameSpan,
    Piece,
    TextSegment,
    TokenSequence,
)

_NUM_TEXTS = 1 << 12  # texts whose halves are kept


@dataclass(frozen=True)
class Plan:
    """How some sequences are run.

    Attributes:
        branches: the passes, with what goes on from them.
        refused: sequences that cannot be run, and why.
        alone: the passes that would run every sequence by itself.
        note: why every sequence is run by itself although sharing was asked for; None where not.
    """

    branches: tuple[Branch, ...]
    refused: Mapping[int, str]
    alone: tuple[Branch, ...]
    note: str | None = None

    @property
    def cost(self) -> Cost:
        """What the passes compute."""
        return cost_of(self.branches)

    @property
    def cost_alone(self) -> Cost:
        """What one pass for every sequence would."""
        return cost_of(self.alone)


def make_plan(
    model: DecoderModel,
    sequences: Sequence[TokenSequence],
    *,
    share: bool = True,
    max_suffix_tokens: int = MAX_SUFFIX_TOKENS,
    groups: Sequence[int] | None = None,
) -> Plan:
    """The passes for some sequences.

    Sequences share what they begin with, unless that would give wrong numbers: where the model says
    so (an attribute ``shares_prefixes = False``), where RoPE depends on the length of the sequence,
    or where a token's position depends on what follows it.

    Args:
        model: what reads them.
        sequences: what `DecoderModel.compose` gave; `Branch.sequences` are their places here.
        share: False runs every sequence by itself.
        max_suffix_tokens: as `vniah.forward.prefix_tree.build_tree`.
        groups: a number for each sequence; those with equal numbers have one prompt and several
            answers. Where nothing else is shared, they still make up one pass, if they can.
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
    paths = [path_of(sequences[index]) for index in indices]
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


def can_go_on(model: DecoderModel, sequence: TokenSequence, num_tokens: int) -> bool:
    """Whether up to ``num_tokens`` may follow a prompt whose keys and values were kept.

    Not where they would change what the prompt's own tokens are: as for sharing (`make_plan`).
    """
    if _why_not_shared(model) is not None:
        return False
    num_prompt = sequence.with_answer((0,)).num_tokens(size_of_frame(model))
    ahead = positions_of(model, followed_by(sequence, num_tokens))[..., :num_prompt]
    return torch.equal(positions_of(model, sequence)[..., :num_prompt], ahead)


def path_of(sequence: TokenSequence) -> Path:
    """A sequence cut before the first row that is read: the last one before the answer."""
    body: list[Piece] = list(sequence.input_pieces)
    tail: list[Piece] = []
    missing = len(sequence.answer_ids)
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
    """A text without its last tokens, if that suffixes any, and the last ones."""
    front = token_ids[:-num_last]
    return (TextSegment(front),) if front else (), TextSegment(token_ids[-num_last:])


def _why_not_shared(model: DecoderModel) -> str | None:
    if not getattr(model, "shares_prefixes", True):
        return f"{model.name} says that its prefixes cannot be shared"
    if depends_on_length(model.decoder.model):
        kind = model.decoder.model.rotary_emb.rope_type
        return f"RoPE of the kind {kind!r} depends on the length of the sequence"
    return None


def _positions_agree(
    model: DecoderModel, sequences: Sequence[TokenSequence], roots: Sequence[Branch]
) -> bool:
    """Whether all sequences have the same positions where they share tokens.

    A model that says so itself is believed; every pass compares what it reads once more.
    """
    if getattr(model, "has_causal_positions", False):
        return True
    for root in roots:
        for branch in root.passes():
            through: Tensor | None = None
            hanging = [(suffix.start, suffix.sequences) for suffix in branch.suffixes]
            hanging += [(child.start, child.sequences[:1]) for child in branch.branches]
            for start, members in sorted(hanging, reverse=True):
                for index in members:
                    positions = positions_of(model, sequences[index])[..., :start]
                    if through is None:
                        through = positions
                    elif not torch.equal(positions, through[..., :start]):
                        return False
    return True


@dataclass(frozen=True)
class Batch:
    """Some roots of the tree, or one of the branches that go on from one.

    Attributes:
        roots: their numbers; several only where answers to one question run by themselves.
        branch: the number of the branch; None for what the roots themselves read.
    """

    roots: tuple[int, ...]
    branch: int | None = None


class SampleSequences:
    """The sequences of some questions, both by number.

    Attributes:
        sequences: in the order of questions, then of their answers.
        owners: the question of each sequence.
        members: the sequences of each question.
        is_wanted: for each question, whether its answers are wanted.
    """

    def __init__(self) -> None:
        self.sequences: list[TokenSequence] = []
        self.owners: list[int] = []
        self.members: list[range] = []
        self.is_wanted: Sequence[bool] = ()

    def add(self, sequences: Sequence[TokenSequence]) -> None:
        """Takes in the next question."""
        self.owners += [len(self.members)] * len(sequences)
        self.members.append(range(len(self.sequences), len(self.sequences) + len(sequences)))
        self.sequences += sequences

    @property
    def groups(self) -> list[int] | None:
        """As `vniah.engines.planning.make_plan` takes them; None where every question has one
        answer.
        """
        return self.owners if len(self.owners) > len(self.members) else None

    def first(self, number: int) -> TokenSequence:
        """The sequence of a question with its first answer."""
        return self.sequences[self.members[number][0]]

    def accepted_ids(self, number: int) -> list[tuple[int, ...]]:
        """The tokens of all answers to a question."""
        return [self.sequences[index].answer_ids for index in self.members[number]]

    def num_needed(self, number: int) -> int:
        """Tokens of the longest answer to a question."""
        return max(map(len, self.accepted_ids(number)))

    def wants(self, index: int) -> bool:
        """Whether a sequence belongs to a question whose answers are wanted."""
        return self.is_wanted[self.owners[index]]

    def gather(
        self, readings: Iterable[SuffixLogits]
    ) -> Iterator[tuple[int, Mapping[int, SuffixLogits]]]:
        """Questions whose answers are wanted, as soon as all of their sequences were read."""
        found: dict[int, dict[int, SuffixLogits]] = {}
        for reading in readings:
            for index in filter(self.wants, reading.sequences):
                number = self.owners[index]
                found.setdefault(number, {})[index] = reading
                if len(found[number]) == len(self.members[number]):
                    yield number, found.pop(number)
        assert not found, "all answers to a question are in one unit"

    def batches(self, roots: Sequence[Branch], cost: Callable[[Branch], int]) -> list[Batch]:
        """Roots, in their order, and branches, the dearest first, with something that is wanted."""
        batches: list[Batch] = []
        place_of: dict[int, int] = {}  # the unit of a question whose answers run by themselves
        for number, root in enumerate(roots):
            own = [index for suffix in root.suffixes for index in suffix.sequences]
            if any(map(self.wants, own)):
                owner = self.owners[own[0]]
                if len(root.sequences) == 1 and owner in place_of:
                    place = place_of[owner]
                    batches[place] = Batch((*batches[place].roots, number))
                else:
                    if len(root.sequences) == 1:
                        place_of[owner] = len(batches)
                    batches.append(Batch((number,)))
            behind = [
                (cost(child), branch)
                for branch, child in enumerate(root.branches)
                if any(map(self.wants, child.sequences))
            ]
            behind.sort(key=lambda pair: pair[0], reverse=True)
            batches += [Batch((number,), branch) for _, branch in behind]
        return batches
