"""The questions of a sweep as sequences, one for each accepted answer, and as units of work.

All answers to a question have its whole prompt in common. So they hang from one place of a pass,
and where nothing can be shared, their passes are one unit: whoever reads one of them reads all.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vniah.errors import ModelError
from vniah.forward.branches import Reading
from vniah.forward.prefix_tree import Branch
from vniah.models.protocol import EncodingModel, FrameSegment, TokenSequence
from vniah.needles import Needle


def compose_answers(
    model: EncodingModel, shown: Sequence[FrameSegment], needle: Needle
) -> tuple[TokenSequence, ...]:
    """What the model reads for a needle's question, with each of its accepted answers.

    Raises:
        ModelError: what the model composed is no sequence, or its prompt depends on the answer.
    """
    sequences: list[TokenSequence] = []
    for answer in needle.answers:
        sequence: object = model.compose(shown, needle.question, answer)
        if not isinstance(sequence, TokenSequence):
            raise ModelError(
                f"compose of {model.name} gave {type(sequence).__name__}, not a TokenSequence"
            )
        if sequences and sequence.segments != sequences[0].segments:
            raise ModelError(
                f"compose of {model.name} gave another prompt for the answer {answer!r} than for "
                f"{needle.answer!r}; a prompt must not depend on the answer"
            )
        sequences.append(sequence)
    return tuple(sequences)


@dataclass(frozen=True)
class Unit:
    """Some roots of the tree, or one of the branches that go on from one.

    Attributes:
        roots: their numbers; several only where answers to one question run by themselves.
        branch: the number of the branch; None for what the roots themselves read.
    """

    roots: tuple[int, ...]
    branch: int | None = None


class AskedSequences:
    """The sequences of some questions, both by number.

    Attributes:
        sequences: in the order of questions, then of their answers.
        owners: the question of each sequence.
        members: the sequences of each question.
        is_asked: for each question, whether its answers are wanted.
    """

    def __init__(self) -> None:
        self.sequences: list[TokenSequence] = []
        self.owners: list[int] = []
        self.members: list[range] = []
        self.is_asked: Sequence[bool] = ()

    def add(self, sequences: Sequence[TokenSequence]) -> None:
        """Takes in the next question."""
        self.owners += [len(self.members)] * len(sequences)
        self.members.append(range(len(self.sequences), len(self.sequences) + len(sequences)))
        self.sequences += sequences

    @property
    def groups(self) -> list[int] | None:
        """As `vniah.passes.make_plan` takes them; None where every question has one answer."""
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

    def is_wanted(self, index: int) -> bool:
        """Whether a sequence belongs to a question whose answers are wanted."""
        return self.is_asked[self.owners[index]]

    def gather(self, readings: Iterable[Reading]) -> Iterator[tuple[int, Mapping[int, Reading]]]:
        """Questions whose answers are wanted, as soon as all of their sequences were read."""
        found: dict[int, dict[int, Reading]] = {}
        for reading in readings:
            for index in filter(self.is_wanted, reading.sequences):
                number = self.owners[index]
                found.setdefault(number, {})[index] = reading
                if len(found[number]) == len(self.members[number]):
                    yield number, found.pop(number)
        assert not found, "all answers to a question are in one unit"

    def units(self, roots: Sequence[Branch], cost: Callable[[Branch], int]) -> list[Unit]:
        """Roots, in their order, and branches, the dearest first, with something that is wanted."""
        units: list[Unit] = []
        place_of: dict[int, int] = {}  # the unit of a question whose answers run by themselves
        for number, root in enumerate(roots):
            own = [index for leaf in root.leaves for index in leaf.sequences]
            if any(map(self.is_wanted, own)):
                owner = self.owners[own[0]]
                if len(root.sequences) == 1 and owner in place_of:
                    place = place_of[owner]
                    units[place] = Unit((*units[place].roots, number))
                else:
                    if len(root.sequences) == 1:
                        place_of[owner] = len(units)
                    units.append(Unit((number,)))
            behind = [
                (cost(child), branch)
                for branch, child in enumerate(root.branches)
                if any(map(self.is_wanted, child.sequences))
            ]
            behind.sort(key=lambda pair: pair[0], reverse=True)
            units += [Unit((number,), branch) for _, branch in behind]
        return units
