"""Where sentences are hidden in a text, and where it is cut so that a prompt has its length.

The first of them, the needle, stands at the depth of its cell; others stand where they are drawn.
All stand at ends of sentences of the haystack, as its text says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate
from math import floor
from operator import attrgetter, itemgetter

from vniah.errors import TaskError, counted
from vniah.grid import Cell
from vniah.haystacks.text import TokenText, UnreadText
from vniah.needles import Needle, NeedleSet
from vniah.protocol import HAYSTACK, TextSpan, needle_source
from vniah.tasks.drawing import draw

_WIDEST = 64  # characters from the nearest end of a token
_PARTS = 10**9
_LONG_SENTENCE = 64  # tokens that a needle may stand before its depth in any case
_MOST_LACKING = 16  # tokens that a text may be shorter than its label says


@dataclass(frozen=True)
class Hidden:
    """A sentence that is hidden beside the needle.

    Attributes:
        piece: the sentence with the line breaks around it: a span of a needle's source where a
            control without the needle leaves it out, else text.
        part: where it stands, a share of the haystack in [0, 1).
    """

    piece: TextSpan | str
    part: Fraction


@dataclass(frozen=True)
class Wording:
    """All of a prompt but its haystack.

    Attributes:
        opening: what stands before the haystack.
        needle: the sentence that stands at the depth of the cell.
        others: further sentences.
        closing: what stands behind the haystack.
        question: the end of the prompt.
    """

    opening: str
    needle: TextSpan
    others: tuple[Hidden, ...]
    closing: str
    question: str


@dataclass(frozen=True)
class Places:
    """Where sentences are inserted into the haystack, in characters.

    Attributes:
        needle: the needle.
        others: the others, in their order.
    """

    needle: int
    others: tuple[int, ...]

    @property
    def last(self) -> int:
        """The last of them; the haystack ends there or later."""
        return max(self.needle, *self.others, 0)

    def until(self, character: int) -> "Places":
        """The same, none of them behind a character."""
        return Places(
            min(self.needle, character), tuple(min(other, character) for other in self.others)
        )


@dataclass(frozen=True)
class Cut:
    """Where a haystack ends.

    Attributes:
        stop: the number of its characters that are shown.
        lacking: how many tokens the text then has too few.
    """

    stop: int
    lacking: int


def sentences_of(needle: Needle, *texts: str) -> tuple[TextSpan, ...]:
    """Sentences that belong to a needle, so that a control without the needle leaves them out."""
    source, body = needle_source(needle.needle_id), "".join(texts)
    stops = [*accumulate(map(len, texts))]
    return tuple(
        TextSpan(source, start, stop, body) for start, stop in zip((0, *stops), stops, strict=False)
    )


def drawn_part(*names: object) -> Fraction:
    """A share in [0, 1) that depends on nothing but these names."""
    return Fraction(draw(_PARTS, *names), _PARTS)


def require_text(haystack: object, positions: Sequence[object], task: str) -> TokenText:
    """The haystack, if it is text whose tokens are counted, and no positions are given.

    Raises:
        TaskError: otherwise.
    """
    if not isinstance(haystack, TokenText):
        raise TaskError(
            f"the task {task} hides text in a haystack of text, whose tokens the measured model "
            "counts; give a text and the model that reads it"
        )
    if positions:
        raise TaskError(
            f"the task {task} places needles by depth, since where a sentence ends depends on the "
            "text; leave out positions"
        )
    return haystack


def require_clean(haystack: TokenText, needles: NeedleSet, task: str) -> None:
    """Raises `TaskError` for needles that are no text, and for a haystack that has needles."""
    for needle in needles:
        if needle.text is None:
            raise TaskError(
                f"the needle {needle.needle_id} is a picture, and the task {task} hides text; give "
                "--needles numbers"
            )
        for what in (needle.text.strip(), needle.answer):
            if what in haystack.body:
                raise TaskError(
                    f"the haystack {haystack.name} holds {what!r} itself, which the needle "
                    f"{needle.needle_id} is to hide in it; give another text or other needles"
                )


def fit(haystack: TokenText, cell: Cell, wording: Wording) -> tuple[Places, Cut]:
    """Where sentences are inserted, and where the haystack is cut for a text of that length.

    All places are those in as many tokens of the haystack as the length leaves beside all else: so
    they depend on no depth but their own. Tokens merge and split where texts meet, and so a few
    more or fewer of the haystack are shown. What would then stand behind its end is moved before
    the sentence in front of it.

    In a text that nobody has read all are at its beginning, and none of it is shown.

    Raises:
        TaskError: there is no room for a haystack; the needle would not be near its depth, as no
            sentence ends there; or no cut comes near the length.
    """
    if isinstance(haystack, UnreadText):
        return Places(0, (0,) * len(wording.others)), Cut(0, 0)
    wanted = cell.num_frames

    def lacking(places: Places, stop: int) -> int:
        shown = pieces(haystack, stop, places, wording)
        return wanted - haystack.count("".join(map(str, (*shown, wording.question))))

    room = lacking(Places(0, (0,) * len(wording.others)), 0)
    if room > 0:
        places = Places(
            haystack.sentence_end(room, cell.depth),
            tuple(haystack.sentence_end(room, other.part) for other in wording.others),
        )
        _require_near(haystack, cell, room, places)
        while True:
            cut = _find_cut(haystack, room, places.last, partial(lacking, places))
            if cut is not None:
                _require_length(haystack, wanted, cut)
                return places, cut
            if not places.last:
                break
            places = places.until(haystack.sentence_end_before(places.last))
    others = [counted(len(wording.others), "further sentence")] if wording.others else []
    *parts, last = ("template", "question", "needle", *others)
    raise TaskError(
        f"{wanted:,} tokens have no room for a haystack: {', '.join(parts)} and {last} have "
        f"{wanted - room:,}; ask for more tokens"
    )


def _require_near(haystack: TokenText, cell: Cell, room: int, places: Places) -> None:
    """Raises `TaskError` where the needle would stand at less than half of its depth."""
    wanted, found = floor(cell.depth * room), haystack.tokens_before(places.needle)
    if wanted - found > _LONG_SENTENCE and 2 * found < wanted:
        raise TaskError(
            f"no sentence of the text {haystack.name} ends in its tokens {found + 1:,} to "
            f"{wanted:,}, so that no needle can stand at depth {float(cell.depth):g} of "
            f"{cell.num_frames:,} tokens; ask for more tokens, or give a text with sentences"
        )


def _require_length(haystack: TokenText, wanted: int, cut: Cut) -> None:
    """Raises `TaskError` for a text that is not as long as its label says."""
    if cut.lacking > _MOST_LACKING:
        raise TaskError(
            f"the text {haystack.name} cannot be cut so that a prompt has {wanted:,} tokens as "
            f"{haystack.model.name} reads it: the nearest has {wanted - cut.lacking:,}; give "
            "another text"
        )


def _find_cut(
    haystack: TokenText, length: int, least: int, lacking: Callable[[int], int]
) -> Cut | None:
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
            return Cut(stop, 0)
        length = max(1, length + found[stop])
    for distance in range(1, _WIDEST):
        for near in (stop - distance, stop + distance):
            if near >= least and near not in found:
                found[near] = lacking(near)
                if not found[near]:
                    return Cut(near, 0)
    short = [Cut(stop, missing) for stop, missing in found.items() if missing > 0]
    return min(short, key=attrgetter("lacking"), default=None)


def pieces(
    haystack: TokenText, stop: int, places: Places, wording: Wording
) -> tuple[TextSpan | str, ...]:
    """The text with the first characters of the haystack, as `Sample.text`."""
    hidden: list[tuple[int, TextSpan | str]] = [(places.needle, wording.needle)]
    hidden += zip(places.others, (other.piece for other in wording.others), strict=True)
    shown: list[TextSpan | str] = [wording.opening]
    start = 0
    for place, piece in sorted(hidden, key=itemgetter(0)):
        shown += _haystack(haystack, start, place)
        shown.append(piece)
        start = place
    shown += _haystack(haystack, start, stop)
    return (*shown, wording.closing)


def _haystack(haystack: TokenText, start: int, stop: int) -> tuple[TextSpan, ...]:
    return (TextSpan(HAYSTACK, start, stop, haystack.body),) if start < stop else ()
