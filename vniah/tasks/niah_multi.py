"""NIAH with several keys, several values, or several queries: is every number found?

After the tasks of these names of Hsieh et al. 2024, "RULER: What's the Real Context Size of Your
Long-Context Language Models?" (arXiv 2404.06654), section 3 and appendix B. The template, the
sentence and the question are those of RULER; keys are cities here, where RULER draws two words.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, get_args

from vniah.answers import match_answer, numbers_in
from vniah.errors import TaskError
from vniah.grid import Cell, Grid
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.text import TokenText
from vniah.needles import Needle, NeedleSet
from vniah.needles.numbers import CITY, draw_number, needle_text
from vniah.protocol import TextSpan
from vniah.scoring import Reading, Score, score_accepted
from vniah.tasks.base import Sample
from vniah.tasks.drawing import shuffled
from vniah.tasks.niah import CITIES
from vniah.tasks.parsing import Option, one_of, whole_numbers
from vniah.tasks.text_placement import (
    Hidden,
    Wording,
    drawn_part,
    fit,
    pieces,
    require_clean,
    require_text,
    sentences_of,
)

TextKind = Literal["multi-key", "multi-value", "multi-query"]
KINDS: tuple[TextKind, ...] = get_args(TextKind)

_MOST = 16  # numbers in one answer
_DIGITS = 7


@dataclass(frozen=True)
class _Fact:
    """A sentence that is hidden.

    Attributes:
        city: that it is about.
        number: of the city.
        is_asked: whether the answer has to name the number.
    """

    city: str
    number: str
    is_asked: bool

    @property
    def text(self) -> str:
        """The sentence, with the line breaks around it."""
        return f"\nOne of the special magic numbers for {self.city} is: {self.number}.\n"


class SeveralNumbers:
    """The task ``niah-multi``: sentences with magic numbers, of which one or all are asked for.

    | kind | hidden | asked for |
    |---|---|---|
    | ``multi-key`` | a number for each of several cities | that of one city |
    | ``multi-value`` | several numbers for one city | all of them |
    | ``multi-query`` | a number for each of several cities | all of them |

    Context length is that of `vniah.tasks.niah.TextNeedle`, and so is depth: that of the needle,
    which is asked for, or the first that is. The other sentences stand at hashed places that are
    the same at every depth.

    **Score.** What the model writes is judged, for how it lists numbers is not in the question.
    Right is an answer whose first numbers of seven digits, as many different ones as are asked for,
    are those. The measure ``share_found`` is the score of RULER: the share of them that the answer
    holds anywhere.

    Args:
        kind: which of `KINDS`, such as ``"multi-key,multi-value"``; by default all three.
        number: how many sentences are hidden: whole numbers from 2, such as ``"2,4,8"``; by default
            4, as in RULER.

    Raises:
        TaskError: an option is invalid.
    """

    name = "niah-multi"
    axes = ("num_tokens", "depth")
    controls = ("no-needle",)
    facets = ("kind", "num_hidden")
    measures = ("share_found",)
    labels: Mapping[str, str] = {
        "kind": "Kind",
        "num_hidden": "Sentences",
        "share_found": "Share of the numbers found",
    }
    insertion = (
        "the first sentence that is asked for inserted behind the last sentence that ends within "
        "floor(depth x tokens that the length leaves for the haystack), the others at hashed "
        "places; num_tokens counts all tokens before the answer"
    )
    answer_tokens = 128

    def __init__(self, kind: Option = None, number: Option | Sequence[int] = 4) -> None:
        given = [text.strip() for text in str(kind).split(",")] if kind is not None else KINDS
        chosen = {one_of(one, "kind", KINDS) for one in given}
        self._kinds = tuple(one for one in KINDS if one in chosen)
        self._numbers = whole_numbers(number, "number", at_least=2, at_most=_MOST)
        self.settings: Mapping[str, Any] = {
            "kind": list(self._kinds),
            "number": list(self._numbers),
        }

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: AnyHaystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: cell by cell, short texts first.

        Raises:
            TaskError: as `vniah.tasks.niah.TextNeedle.samples`; or the needles are no numbers.
        """
        text = require_text(haystack, grid.positions, self.name)
        require_clean(text, needles, self.name)
        for needle in needles:
            if not needle.answer.isdecimal() or needle.text != needle_text(
                CITY, int(needle.answer)
            ):
                raise TaskError(
                    f"the task {self.name} hides numbers of seven digits, and the needle "
                    f"{needle.needle_id} is none; give --needles numbers"
                )
        for cell in grid.cells:
            for needle in needles:
                for kind in self._kinds:
                    for number in self._numbers:
                        yield _sample(text, cell, needle, kind, number)

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`.

        Raises:
            TaskError: the model wrote nothing that could be judged.
        """
        said = readings[0].generated
        if said is None:
            raise TaskError(f"the task {self.name} judges what a model writes: --scorer generate")
        asked = numbers_in(sample.answer, num_digits=_DIGITS)
        found = tuple(dict.fromkeys(numbers_in(said.text, num_digits=_DIGITS)))
        # The numbers decide. A rule that somebody asks for has no say, and must not seem to.
        own = [replace(one, generated=replace(said, rule=match_answer)) for one in readings]
        return replace(
            score_accepted(sample.candidates, own),
            correct={*found[: len(asked)]} == {*asked},
            # How likely one way to list the numbers is says nothing of the others.
            logprob=None,
            rank=None,
            margin=None,
            argmax_correct=None,
            greedy_correct=None,
            measures={"share_found": sum(one in found for one in asked) / len(asked)},
        )


def _facts(needle: Needle, kind: TextKind, number: int) -> Iterator[_Fact]:
    """The sentences of a sample, the needle's first; more of them begin with the same."""
    cities = shuffled(CITIES, "niah-multi", needle.needle_id)
    yield _Fact(CITY, needle.answer, True)
    taken = {needle.answer}
    for place in range(1, number):
        city = CITY if kind == "multi-value" else cities[place]
        names = ("niah-multi", kind, needle.needle_id, place)
        drawn = (str(draw_number(*names, attempt)) for attempt in count())
        found = next(one for one in drawn if one not in taken)
        taken.add(found)
        yield _Fact(city, found, kind != "multi-key")


def _sample(haystack: TokenText, cell: Cell, needle: Needle, kind: TextKind, number: int) -> Sample:
    facts = list(_facts(needle, kind, number))
    asked = [fact for fact in facts if fact.is_asked]
    own, *others = sentences_of(needle, *(fact.text for fact in asked))
    further: list[TextSpan | str] = [*others]
    further += [fact.text for fact in facts if not fact.is_asked]
    names = ("niah-multi", "place", cell.num_frames, needle.needle_id, kind)
    hidden = [Hidden(piece, drawn_part(*names, place)) for place, piece in enumerate(further)]
    wording = _wording(dict.fromkeys(fact.city for fact in asked), len(asked), own, hidden)
    places, cut = fit(haystack, cell, wording)
    return Sample(
        sample_id=f"{cell.prefix}{needle.needle_id}/{kind}-{number}",
        cell=cell,
        shown=(),
        text=pieces(haystack, cut.stop, places, wording),
        question=wording.question,
        candidates=(_listed([fact.number for fact in asked]),),
        fields={
            "needle_id": needle.needle_id,
            "kind": kind,
            "num_hidden": number,
            "asked_numbers": [fact.number for fact in asked],
            "context_tokens": cell.num_frames - cut.lacking,
            "haystack_tokens": haystack.tokens_before(cut.stop),
            "needle_token": haystack.tokens_before(places.needle),
            "hidden_cities": [fact.city for fact in facts],
            "hidden_numbers": [fact.number for fact in facts],
            "hidden_tokens": [
                haystack.tokens_before(place) for place in (places.needle, *places.others)
            ],
        },
    )


def _wording(
    cities: Iterable[str], num_asked: int, needle: TextSpan, others: Sequence[Hidden]
) -> Wording:
    """The prompt of RULER, which speaks of one number or of several."""
    about, where = _listed([*cities]), "mentioned in the provided text"
    if num_asked == 1:
        opening = "A special magic number is hidden within the following text. Make sure to "
        opening += "memorize it. I will quiz you about the number afterwards.\n"
        thing = f"the special magic number for {about} {where}"
        question = f"What is {thing}? The{thing.removeprefix('the')} is"
    else:
        opening = "Some special magic numbers are hidden within the following text. Make sure to "
        opening += "memorize it. I will quiz you about the numbers afterwards.\n"
        thing = f"the special magic numbers for {about} {where}"
        question = f"What are all {thing}? The{thing.removeprefix('the')} are"
    return Wording(opening, needle, tuple(others), "\n", question)


def _listed(words: Sequence[str]) -> str:
    """As RULER lists what is asked for: ``"a"``, ``"a, and b"``, ``"a, b, and c"``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, and {words[-1]}"
