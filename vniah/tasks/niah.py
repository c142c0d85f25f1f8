"""NIAH: a magic number hidden in a long text, and the question that only it answers.

Zhang et al. 2024, "Long Context Transfer from Language to Vision", section 9 and Figure 7: the
template, the needle's sentence, seven digits, and three or five distractors are those of the paper.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from typing import Any

from vniah.answers import match_answer, match_first_number
from vniah.grid import Cell, Grid
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.text import TokenText
from vniah.needles import Needle, NeedleSet
from vniah.needles.numbers import draw_number, needle_text
from vniah.scoring import Reading, Score, score_accepted
from vniah.tasks.base import Sample
from vniah.tasks.drawing import shuffled
from vniah.tasks.parsing import Option, whole_numbers
from vniah.tasks.text_placement import (
    Hidden,
    Wording,
    drawn_part,
    fit,
    pieces,
    require_clean,
    require_text,
    sentence_of,
)

OPENING = "This is a very long story book: <book> "
CLOSING = " </book>.\n"
"""What stands before and behind the text, with a haystack and needles between them."""

CITIES = (
    *("Amsterdam", "Athens", "Auckland", "Bangkok", "Barcelona", "Berlin", "Bogota", "Boston"),
    *("Brussels", "Budapest", "Cairo", "Calgary", "Chicago", "Copenhagen", "Dakar", "Delhi"),
    *("Denver", "Dublin", "Edinburgh", "Florence", "Geneva", "Hanoi", "Helsinki", "Istanbul"),
    *("Jakarta", "Kyoto", "Lagos", "Lima", "Lisbon", "London", "Madrid", "Manila", "Melbourne"),
    *("Montreal", "Mumbai", "Munich", "Nairobi", "Oslo", "Paris", "Prague", "Quito", "Rome"),
    *("Santiago", "Seattle", "Seoul", "Stockholm", "Tokyo", "Toronto", "Vienna", "Warsaw"),
)
"""The cities of distractors; the city that is asked for is none of them."""


@dataclass(frozen=True)
class _Distractor:
    """A sentence like the needle's, about another city.

    Attributes:
        city: that city.
        number: its number.
        part: where it stands, a share of the haystack in [0, 1).
    """

    city: str
    number: int
    part: Fraction


class TextNeedle:
    """The task ``niah``: every needle in every cell, alone or among distractors.

    **Context length.** ``num_tokens`` is the number of all tokens that the model reads before the
    answer: template, haystack, needle, distractors and question, as its tokenizer gives them for
    the whole text. The haystack is cut where that is reached, which may be inside a sentence, as in
    the published runs. Where tokens merge so that no cut gives exactly this number, the text is as
    few tokens shorter as possible; the field ``context_tokens`` has what it is.

    **Depth.** The needle stands at the last end of a sentence within that share of the haystack's
    tokens; at depth 1 no more than the rest of a sentence follows it. Sentences end where the text
    says so. (The published script looks for one tokenizer's ids of full stops.)

    **Distractors** are sentences of the needle's form about other cities, at hashed places that are
    the same at every depth. Their numbers differ from the needle's.

    Args:
        distractors: how many there are: whole numbers, such as ``"0,3,5"``; by default 0.

    Raises:
        TaskError: the option is invalid.
    """

    name = "niah"
    axes = ("num_tokens", "depth")
    controls = ("no-needle",)
    facets = ("num_distractors",)
    labels: Mapping[str, str] = {"num_distractors": "Distractors"}
    insertion = (
        "needle inserted behind the last sentence that ends within floor(depth x tokens of the "
        "haystack), none replaced; num_tokens counts all tokens before the answer"
    )

    def __init__(self, distractors: Option | Sequence[int] = None) -> None:
        given = "0" if distractors is None else distractors
        self._counts = whole_numbers(given, "distractors", at_most=len(CITIES))
        self.settings: Mapping[str, Any] = {"distractors": list(self._counts)}

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: AnyHaystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: cell by cell, short texts first.

        Raises:
            TaskError: haystack or needles are pictures, positions are given, or a context is too
                short for what has to be in it.
        """
        text = require_text(haystack, grid.positions, self.name)
        require_clean(text, needles, self.name)
        for cell in grid.cells:
            for needle in needles:
                for number in self._counts:
                    yield _sample(text, cell, needle, number)

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the model gives the number.

        Of a text that was written its first number of seven digits is the answer, so that neither
        a sentence around it nor one behind it counts.
        """
        judged = [by_first_number(reading, sample.candidates) for reading in readings]
        return score_accepted(sample.candidates, judged, sample.choices)


def by_first_number(reading: Reading, answers: Sequence[str]) -> Reading:
    """A reading whose text is judged by its first number, where the answers are numbers.

    Another rule than that of every run, as `vniah.sweep.rescoring` asks for, stays as it is.
    """
    said = reading.generated
    if said is None or said.rule is not match_answer or not all(map(str.isdecimal, answers)):
        return reading
    return replace(reading, generated=replace(said, rule=match_first_number))


def _sample(haystack: TokenText, cell: Cell, needle: Needle, num_distractors: int) -> Sample:
    others = tuple(_distractors(cell.num_frames, needle, num_distractors))
    assert needle.text is not None, "samples() requires needles of text"
    wording = Wording(
        OPENING,
        sentence_of(needle, needle.text),
        tuple(Hidden(needle_text(other.city, other.number), other.part) for other in others),
        CLOSING,
        needle.question,
    )
    places, cut = fit(haystack, cell, wording)
    return Sample(
        sample_id=f"{cell.prefix}{needle.needle_id}/d{num_distractors}",
        cell=cell,
        shown=(),
        text=pieces(haystack, cut.stop, places, wording),
        question=needle.question,
        candidates=needle.answers,
        choices=needle.choices,
        fields={
            "needle_id": needle.needle_id,
            "num_distractors": num_distractors,
            "context_tokens": cell.num_frames - cut.lacking,
            "haystack_tokens": haystack.tokens_before(cut.stop),
            "needle_token": haystack.tokens_before(places.needle),
            "needle_character": places.needle,
            "distractor_cities": [other.city for other in others],
            "distractor_numbers": [other.number for other in others],
            "distractor_tokens": [haystack.tokens_before(place) for place in places.others],
        },
    )


def _distractors(num_tokens: int, needle: Needle, number: int) -> Iterator[_Distractor]:
    """The first distractors of a needle at one length; more of them begin with the same."""
    cities = shuffled(CITIES, "niah", needle.needle_id)
    taken = {needle.answer}
    for place, city in enumerate(cities[:number]):
        drawn = (draw_number("niah", needle.needle_id, city, attempt) for attempt in count())
        found = next(number for number in drawn if str(number) not in taken)
        taken.add(str(found))
        part = drawn_part("niah", "place", num_tokens, needle.needle_id, place)
        yield _Distractor(city, found, part)
