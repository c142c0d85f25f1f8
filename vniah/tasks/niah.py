"""NIAH: a magic number hidden in a long text, and the question that only it answers.

Zhang et al. 2024, "Long Context Transfer from Language to Vision", section 9 and Figure 7: the
template, the needle's sentence, seven digits, and three or five distractors are those of the paper.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import count
from operator import attrgetter, itemgetter
from typing import Any

from vniah.answers import match_answer, match_first_number
from vniah.errors import TaskError
from vniah.grid import Cell, Grid
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.text import TokenText
from vniah.needles import Needle, NeedleSet
from vniah.needles.numbers import draw_number, needle_text
from vniah.protocol import HAYSTACK, TextSpan, needle_source
from vniah.scoring import Reading, Score, score_accepted
from vniah.tasks.base import Sample
from vniah.tasks.drawing import draw, shuffled
from vniah.tasks.parsing import Option, whole_numbers

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

_WIDEST = 64  # characters from the nearest end of a token
_PARTS = 10**9


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


@dataclass(frozen=True)
class _Places:
    """Where sentences are inserted into the haystack, in characters.

    Attributes:
        needle: the needle.
        others: the distractors, in their order.
    """

    needle: int
    others: tuple[int, ...]

    @property
    def last(self) -> int:
        """The last of them; the haystack ends there or later."""
        return max(self.needle, *self.others, 0)


@dataclass(frozen=True)
class _Cut:
    """Where a haystack ends.

    Attributes:
        stop: the number of its characters that are shown.
        lacking: how many tokens the text then has too few.
    """

    stop: int
    lacking: int


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
        if not isinstance(haystack, TokenText):
            raise TaskError(
                "the task niah hides text in a haystack of text, whose tokens the measured model "
                "counts; so far only vniah run does that, and neither show, export nor estimate"
            )
        if grid.positions:
            raise TaskError(
                "the task niah places needles by depth, since where a sentence ends depends on the "
                "text; leave out positions"
            )
        _require_clean(haystack, needles)
        for cell in grid.cells:
            for needle in needles:
                for number in self._counts:
                    yield _sample(haystack, cell, needle, number)

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


def _require_clean(haystack: TokenText, needles: NeedleSet) -> None:
    """Raises `TaskError` for needles that are no text, and for a haystack that has needles."""
    for needle in needles:
        if needle.text is None:
            raise TaskError(
                f"the needle {needle.needle_id} is a picture, and the task niah hides text; give "
                "--needles numbers"
            )
        for what in (needle.text.strip(), needle.answer):
            if what in haystack.body:
                raise TaskError(
                    f"the haystack {haystack.name} holds {what!r} itself, which the needle "
                    f"{needle.needle_id} is to hide in it; give another text or other needles"
                )


def _sample(haystack: TokenText, cell: Cell, needle: Needle, num_distractors: int) -> Sample:
    others = tuple(_distractors(cell.num_frames, needle, num_distractors))
    places, cut = _fit(haystack, cell, needle, others)
    return Sample(
        sample_id=f"{cell.prefix}{needle.needle_id}/d{num_distractors}",
        cell=cell,
        shown=(),
        text=_pieces(haystack, cut.stop, places, needle, others),
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
        part = draw(_PARTS, "niah", "place", num_tokens, needle.needle_id, place)
        yield _Distractor(city, found, Fraction(part, _PARTS))


def _fit(
    haystack: TokenText, cell: Cell, needle: Needle, others: Sequence[_Distractor]
) -> tuple[_Places, _Cut]:
    """Where sentences are inserted, and where the haystack is cut for a text of that length.

    Raises:
        TaskError: there is no room for a haystack.
    """
    wanted = cell.num_frames

    def lacking(places: _Places, stop: int) -> int:
        pieces = _pieces(haystack, stop, places, needle, others)
        return wanted - haystack.count("".join(map(str, (*pieces, needle.question))))

    length = room = lacking(_Places(0, (0,) * len(others)), 0)
    while length > 0:
        places = _Places(
            haystack.sentence_end(length, cell.depth),
            tuple(haystack.sentence_end(length, other.part) for other in others),
        )
        cut = _find_cut(haystack, length, places.last, partial(lacking, places))
        if cut is not None:
            return places, cut
        # Even a cut behind the last of them is too far: they are those of a shorter haystack.
        length = haystack.tokens_before(places.last) - 1
    raise TaskError(
        f"{wanted:,} tokens have no room for a haystack: template, question, needle and "
        f"{len(others)} distractors have {wanted - room:,}; ask for more tokens"
    )


def _find_cut(
    haystack: TokenText, length: int, least: int, lacking: Callable[[int], int]
) -> _Cut | None:
    """The cut after which the text lacks no token; None if the text is too long with any.

    Tokens may merge where texts meet, so the length is corrected by what the whole text lacks. One
    token more of the haystack may be two more of the text, so that no end of a token fits. Then it
    is cut inside of one; and if that does not fit either, the text lacks as few as possible.

    Args:
        haystack: the text.
        length: about how many tokens of it are shown.
        least: the first character at which it may be cut.
        lacking: how many tokens the text lacks if the haystack is cut at a character.
    """
    least = max(1, least)
    found: dict[int, int] = {}
    while (stop := max(least, haystack.characters(length))) not in found:
        found[stop] = lacking(stop)
        if not found[stop]:
            return _Cut(stop, 0)
        length = max(1, length + found[stop])
    for distance in range(1, _WIDEST):
        for near in (stop - distance, stop + distance):
            if near >= least and near not in found:
                found[near] = lacking(near)
                if not found[near]:
                    return _Cut(near, 0)
    short = [_Cut(stop, missing) for stop, missing in found.items() if missing > 0]
    return min(short, key=attrgetter("lacking"), default=None)


def _pieces(
    haystack: TokenText,
    stop: int,
    places: _Places,
    needle: Needle,
    others: Sequence[_Distractor],
) -> tuple[TextSpan | str, ...]:
    """The text with the first characters of the haystack, as `Sample.text`."""
    assert needle.text is not None, "samples() requires needles of text"
    own = TextSpan(needle_source(needle.needle_id), 0, len(needle.text), needle.text)
    hidden: list[tuple[int, TextSpan | str]] = [(places.needle, own)]
    for place, other in zip(places.others, others, strict=True):
        hidden.append((place, needle_text(other.city, other.number)))
    pieces: list[TextSpan | str] = [OPENING]
    start = 0
    for place, piece in sorted(hidden, key=itemgetter(0)):
        pieces += _haystack(haystack, start, place)
        pieces.append(piece)
        start = place
    pieces += _haystack(haystack, start, stop)
    return (*pieces, CLOSING)


def _haystack(haystack: TokenText, start: int, stop: int) -> tuple[TextSpan, ...]:
    return (TextSpan(HAYSTACK, start, stop, haystack.body),) if start < stop else ()
