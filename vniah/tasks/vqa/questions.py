"""A question about a video with its options, and how the tables of others write it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from vniah.errors import short_repr

MOST_OPTIONS = 26
"""The options have the letters A to Z."""

AnswerForm = Literal["letter", "index", "words", "any"]
"""How a table names the right option: ``letter``, such as B; ``index``, from 0; ``words``, those of
the option; ``any``, its words or its letter."""

_LETTERED = re.compile(r"\(?([A-Z])[.:)]\s*(.*)", re.DOTALL)
_ANY_LETTER = re.compile(r"[(\[]?([A-Za-z])[.:)\]]\s")
"""A letter before an option, also in a form that is not taken off."""

Text = str | int | float


class RowRecord(TypedDict):
    """What is read of a row, by the names that the published tables give it; the rest is left."""

    question: Text
    video: NotRequired[Text | None]
    videoID: NotRequired[Text | None]
    video_name: NotRequired[Text | None]
    options: NotRequired[list[Text] | None]
    candidates: NotRequired[list[Text] | None]
    answer: NotRequired[Text | list[Text] | None]
    duration: NotRequired[Text | None]
    question_id: NotRequired[Text | None]
    qid: NotRequired[Text | None]
    question_type: NotRequired[Text | None]
    task_type: NotRequired[Text | None]
    type: NotRequired[Text | None]
    a0: NotRequired[Text | None]
    a1: NotRequired[Text | None]
    a2: NotRequired[Text | None]
    a3: NotRequired[Text | None]
    a4: NotRequired[Text | None]


@dataclass(frozen=True)
class Layout:
    """The columns of a published table.

    Attributes:
        name: of the benchmark.
        marks: columns by which it is known.
        video: the column that names the video.
        options: the column that lists the options, or one column for each.
        answer: how the right option is named.
        question_type: the column with the type of the question.
        question_id: the column with its id, if there is one.
        is_id_of_video: whether an id is unique among the questions about one video only.
        lists_options: whether the question ends with its options, each with its letter in a line.
    """

    name: str
    marks: frozenset[str]
    video: str = "video"
    options: str | tuple[str, ...] = "options"
    answer: AnswerForm = "any"
    question_type: str = "question_type"
    question_id: str | None = "question_id"
    is_id_of_video: bool = False
    lists_options: bool = False


LAYOUTS = (
    Layout(
        "NExT-QA",
        frozenset({"video", "qid", "a0", "a1"}),
        options=("a0", "a1", "a2", "a3", "a4"),
        answer="index",
        question_type="type",
        question_id="qid",
        is_id_of_video=True,
    ),
    Layout(
        "MLVU",
        frozenset({"video", "candidates"}),
        options="candidates",
        answer="words",
        question_id=None,
    ),
    Layout(
        "MLVU of lmms-eval",
        frozenset({"video_name", "candidates"}),
        video="video_name",
        options="candidates",
        answer="letter",
        question_type="task_type",
        question_id=None,
        lists_options=True,
    ),
    Layout(
        "Video-MME",
        frozenset({"videoID", "options"}),
        video="videoID",
        answer="letter",
        question_type="task_type",
    ),
    Layout("plain", frozenset({"video", "options"})),
)
"""The layouts that are read; the first whose columns a table has is that of the table."""


VIDEO_COLUMNS = frozenset(layout.video for layout in LAYOUTS)
"""The columns that name videos."""


@dataclass(frozen=True)
class QuestionRow:
    """A question as a table has it.

    Attributes:
        where: the table and the row, for messages.
        table: name of the table, without its suffix.
        question_id: unique among its set; without white space and ``/``.
        video: the name of the video, as the table writes it.
        question: without its options.
        options: their words, without letters; from 2 to 26.
        right: the places of the right options, ascending; at least one, and not all of them.
        duration: the class or the seconds that the table gives; None if it gives neither.
        question_type: as the table names it; None if it does not.
    """

    where: str
    table: str
    question_id: str
    video: str
    question: str
    options: tuple[str, ...]
    right: tuple[int, ...]
    duration: str | float | None = None
    question_type: str | None = None


def find_layout(columns: Mapping[str, Any]) -> Layout | None:
    """The layout of a table with these columns; None if it is not known."""
    return next((layout for layout in LAYOUTS if layout.marks <= columns.keys()), None)


def read_row(
    record: RowRecord, layout: Layout, *, where: str, table: str, default_id: str
) -> QuestionRow:
    """The question in a row.

    Args:
        record: the row.
        layout: of its table.
        where: names the row in messages.
        table: name of the table, without its suffix.
        default_id: the id where the table gives none.

    Raises:
        ValueError: it is not a question with options of which at least one is right; the message
            says why, and does not name the row.
    """
    cells: Mapping[str, Any] = record
    video, question = _text(cells.get(layout.video)), _text(cells["question"])
    if not video:
        raise ValueError(f"names no video in the column {layout.video!r}")
    if not question:
        raise ValueError("has an empty question")
    options = read_options(_given_options(cells, layout.options))
    if layout.lists_options:
        question = without_options(question, options)
    named = None if layout.question_id is None else cells.get(layout.question_id)
    own = default_id if named is None else _text(named)
    return QuestionRow(
        where,
        table,
        _as_id(f"{video}-{own}" if layout.is_id_of_video else own),
        video,
        question,
        options,
        read_right(cells.get("answer"), options, layout.answer),
        _read_duration(cells.get("duration")),
        _text(cells.get(layout.question_type)) or None,
    )


def read_options(given: Sequence[Text]) -> tuple[str, ...]:
    """The words of options, without letters: ``("A. Cat", "B. Dog")`` are ``("Cat", "Dog")``.

    Letters are taken off only where all options have them, in the order of the alphabet.

    Raises:
        ValueError: there are fewer than 2 or more than 26, one is empty, or one begins with the
            letter of another place, so that this letter as an answer may mean either.
    """
    texts = [" ".join(_text(option).split()) for option in given]
    if not 2 <= len(texts) <= MOST_OPTIONS:
        raise ValueError(f"has {len(texts)} options, and must have 2 to {MOST_OPTIONS}")
    matches = [_LETTERED.fullmatch(text) for text in texts]
    letters = [match[1] for match in matches if match]
    if letters == [letter_of(place) for place in range(len(texts))]:
        texts = [match[2] for match in matches if match]
    else:
        _require_own_letters(texts)
    if not all(texts):
        raise ValueError(f"has an empty option, the one with the letter {_first_empty(texts)}")
    return tuple(texts)


def without_options(question: str, options: Sequence[str]) -> str:
    """A question without the lines at its end that list its options, if it has such lines.

    Args:
        question: with ``(A) Cat`` in a line, and ``(B) Dog`` in the next.
        options: their words, without letters.

    Raises:
        ValueError: the lines list other options.
    """
    lines = [line for line in question.splitlines() if line.strip()]
    listed = lines[-len(options) :]
    matches = [_LETTERED.fullmatch(line.strip()) for line in listed]
    letters = [match[1] for match in matches if match]
    if letters != [letter_of(place) for place in range(len(options))]:
        return question
    words = [" ".join(match[2].split()) for match in matches if match]
    if words != list(options):
        raise ValueError("lists other options in its question than in the column of its options")
    rest = "\n".join(lines[: -len(options)]).strip()
    if not rest:
        raise ValueError("has an empty question")
    return rest


def read_right(given: Any, options: Sequence[str], form: AnswerForm) -> tuple[int, ...]:
    """The places of the right options.

    Args:
        given: the answer as a table has it; a list names several options.
        options: their words.
        form: how an option is named.

    Raises:
        ValueError: the answer is none of the options, may be two of them, or is every one.
    """
    answers = given if isinstance(given, list) else [given]
    if not answers or any(answer is None or _text(answer) == "" for answer in answers):
        raise ValueError("has no answer")
    places = sorted({place for answer in answers for place in _places(answer, options, form)})
    words = {options[place] for place in places}
    places = [place for place, option in enumerate(options) if option in words]
    if len(places) == len(options):
        raise ValueError("calls every one of its options right, so that nothing is asked")
    return tuple(places)


def letter_of(place: int) -> str:
    """The letter of an option: A, B, C and so on."""
    return chr(ord("A") + place)


def _given_options(cells: Mapping[str, Any], columns: str | tuple[str, ...]) -> list[Text]:
    """The options of a row, each at its place: an empty cell counts unless all after it are empty.

    A table with a column for each option leaves the last ones empty where a question has fewer. An
    empty one before another is kept, as an answer by number counts it.
    """
    if isinstance(columns, str):
        return list(cells.get(columns) or ())
    texts: list[Text] = [_text(cells.get(name)) for name in columns]
    while texts and not texts[-1]:
        texts.pop()
    return texts


def _require_own_letters(texts: Sequence[str]) -> None:
    """Requires that no option begins with the letter of another place."""
    letters = [letter_of(place) for place in range(len(texts))]
    for own, text in zip(letters, texts, strict=True):
        found = _ANY_LETTER.match(text)
        if found and found[1].upper() in letters and found[1].upper() != own:
            raise ValueError(
                f"has the option {short_repr(text)} at the place of the letter {own}, so that the "
                f"answer {found[1].upper()} may mean either; put the letters A, B, C and so on "
                "before all options, in this order"
            )


def _places(answer: Text, options: Sequence[str], form: AnswerForm) -> list[int]:
    text = " ".join(_text(answer).split())
    if form == "index":
        if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) >= len(options):
            raise ValueError(
                f"has the answer {short_repr(answer)}, and must have the number of an option, from "
                f"0 to {len(options) - 1}"
            )
        return [int(text)]
    by_words = [place for place, option in enumerate(options) if option == text]
    letters = [letter_of(place) for place in range(len(options))]
    letter = re.fullmatch(r"\(?([A-Z])[.:)]?", text)
    by_letter = [letters.index(letter[1])] if letter and letter[1] in letters else []
    if form == "words":
        by_letter = []
    if form == "any" and by_words and by_letter and by_words != by_letter:
        raise ValueError(
            f"has the answer {short_repr(answer)}, which is the letter of one option and the words "
            "of another"
        )
    if form == "letter":
        by_words = [] if by_letter else by_words
    found = by_letter or by_words
    if not found:
        lettered = _LETTERED.fullmatch(text)  # "B. Dog", of options without letters by now
        if lettered and (lettered[1], lettered[2]) in zip(letters, options, strict=True):
            return [letters.index(lettered[1])]
        raise ValueError(
            f"has the answer {short_repr(answer)}, which is none of its {len(options)} options"
        )
    return found


def _read_duration(value: Text | None) -> str | float | None:
    """A class as text, or a number of seconds, which CSV has as text as well."""
    text = " ".join(_text(value).split())
    return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,20})?", text) else text or None


def _text(value: Any) -> str:
    """A cell as text: numbers as they are written, whole ones without a point."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _as_id(text: str) -> str:
    return re.sub(r"[\s/]+", "_", text) or "_"


def _first_empty(texts: Sequence[str]) -> str:
    return letter_of(texts.index(""))
