"""NIAH: a magic number hidden in a long text, and the question that only it answers.

Zhang et al. 2024, "Long Context Transfer from Language to Vision", section 9 and Figure 7: the
template, the needle's sentence, seven digits, and three or five distractors are those of the paper.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from operator import attrgetter
from typing import Any

from vniah.answers import match_answer, match_first_number
from vniah.errors import TaskError
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
    sentences_of,
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

_ANSWER = "Answer:"


@dataclass(frozen=True)
class _Distractors:
    """What is hidden beside a needle.

    Attributes:
        hidden: the sentences, each with its place.
        fields: what a sample's fields say of them.
    """

    hidden: tuple[Hidden, ...]
    fields: Mapping[str, list[str] | list[int]]


class TextNeedle:
    """The task ``niah``: every needle in every cell, alone or among distractors.

    **Context length.** ``num_tokens`` is the number of all tokens that the model reads before the
    answer: template, haystack, needle, distractors and question, as its tokenizer gives them for
    the whole text. The haystack is cut where that is reached, which may be inside a sentence, as in
    the published runs. Where tokens merge so that no cut gives exactly this number, the text is as
    few tokens shorter as possible; the field ``context_tokens`` has what it is.

    **Depth.** The needle stands at the last end of a sentence within that share of the tokens that
    the length leaves for the haystack, beside all else; at depth 1 no more than the rest of a
    sentence follows it. Sentences end where the text says so. (The published script looks for one
    tokenizer's ids of full stops.)

    **Distractors** are sentences of the needle's form about other cities, at hashed places that are
    the same at every depth. Their numbers differ from the needle's. Needles that are no numbers
    (`vniah.needles.associations`) have those of their set as distractors.

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
        "needle inserted behind the last sentence that ends within floor(depth x tokens that the "
        "length leaves for the haystack), none replaced; num_tokens counts all tokens before the "
        "answer"
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
        others = (*needles, *needles.unselected)
        for cell in grid.cells:
            for needle in needles:
                for number in self._counts:
                    yield _sample(text, cell, needle, _distractors(cell, needle, others, number))

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: right if the model gives the number.

        Of a text that was written its first number of seven digits is the answer, so that neither
        a sentence around it nor one behind it counts. If the answer is no number, the text may
        begin with the last words of the prompt.
        """
        lead = sample.question.rpartition(_ANSWER)[2].strip()
        judged = [_in_short(by_first_number(one, sample.candidates), lead) for one in readings]
        return score_accepted(sample.candidates, judged, sample.choices)


def _in_short(reading: Reading, lead: str) -> Reading:
    """A reading whose text is judged without a lead, with which models repeat the prompt."""
    said = reading.generated
    if said is None or said.rule is not match_answer or not lead:
        return reading
    start = re.compile(rf"\W*{re.escape(lead)}\W*", re.IGNORECASE)

    def match(text: str, answers: Sequence[str], choices: Sequence[str] | None) -> str | None:
        begins_so = start.match(text)
        return match_answer(text[begins_so.end() :] if begins_so else text, answers, choices)

    return replace(reading, generated=replace(said, rule=match))


def by_first_number(reading: Reading, answers: Sequence[str]) -> Reading:
    """A reading whose text is judged by its first number, where the answers are numbers.

    Another rule than that of every run, as `vniah.sweep.rescoring` asks for, stays as it is.
    """
    said = reading.generated
    if said is None or said.rule is not match_answer or not all(map(str.isdecimal, answers)):
        return reading
    return replace(reading, generated=replace(said, rule=match_first_number))


def _sample(haystack: TokenText, cell: Cell, needle: Needle, distractors: _Distractors) -> Sample:
    assert needle.text is not None, "samples() requires needles of text"
    hidden = distractors.hidden
    (own,) = sentences_of(needle, needle.text)
    wording = Wording(OPENING, own, hidden, CLOSING, needle.question)
    places, cut = fit(haystack, cell, wording)
    return Sample(
        sample_id=f"{cell.prefix}{needle.needle_id}/d{len(hidden)}",
        cell=cell,
        shown=(),
        text=pieces(haystack, cut.stop, places, wording),
        question=needle.question,
        candidates=needle.answers,
        choices=needle.choices,
        fields={
            "needle_id": needle.needle_id,
            "num_distractors": len(hidden),
            "context_tokens": cell.num_frames - cut.lacking,
            "haystack_tokens": haystack.tokens_before(cut.stop),
            "needle_token": haystack.tokens_before(places.needle),
            "needle_character": places.needle,
            **distractors.fields,
            "distractor_tokens": [haystack.tokens_before(place) for place in places.others],
        },
    )


def _distractors(cell: Cell, needle: Needle, others: Sequence[Needle], number: int) -> _Distractors:
    """The first distractors of a needle at one length; more of them begin with the same.

    Raises:
        TaskError: the needle's set has too few.
    """
    parts = [
        drawn_part("niah", "place", cell.num_frames, needle.needle_id, place)
        for place in range(number)
    ]
    if needle.answer.isdecimal():
        found = list(islice(_numbers(needle), number))
        texts = [needle_text(city, drawn) for city, drawn in found]
        fields: dict[str, list[str] | list[int]] = {
            "distractor_cities": [city for city, _ in found],
            "distractor_numbers": [drawn for _, drawn in found],
        }
    else:
        chosen = _of_the_set(needle, others)[:number]
        if len(chosen) < number:
            raise TaskError(
                f"{number} distractors are asked for, and the set of the needle "
                f"{needle.needle_id} has {len(chosen)} others; ask for fewer"
            )
        texts = [str(other.text) for other in chosen]
        fields = {"distractor_ids": [other.needle_id for other in chosen]}
    return _Distractors(tuple(map(Hidden, texts, parts)), fields)


def _numbers(needle: Needle) -> Iterator[tuple[str, int]]:
    """Cities with their numbers."""
    taken = {needle.answer}
    for city in shuffled(CITIES, "niah", needle.needle_id):
        drawn = (draw_number("niah", needle.needle_id, city, attempt) for attempt in count())
        found = next(number for number in drawn if str(number) not in taken)
        taken.add(str(found))
        yield city, found


def _of_the_set(needle: Needle, others: Sequence[Needle]) -> Sequence[Needle]:
    """The other needles of a set; the same in whatever order they come."""
    known = sorted(others, key=attrgetter("needle_id"))
    rest = [other for other in known if needle.answer not in other.answers]
    return shuffled(rest, "niah", "others", needle.needle_id)
