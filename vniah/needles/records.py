"""Needles: a picture, a question and its answer under one id, and a sha256 that identifies them."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from vniah.answers import choice_letters, find_ambiguous, find_option, strip_invisible, visible
from vniah.errors import NeedleError, counted, quoted, short_repr
from vniah.files import hash_text

_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_ID = 200
_LONGEST_QUESTION = 100_000
_LONGEST_ANSWER = 10_000


@dataclass(frozen=True)
class Needle:
    """A picture, the question that only it answers, and the answer.

    Two needles are equal if their texts and the pixels of their pictures are.

    Args:
        needle_id: unique within a set; letters, digits, ``-``, ``_`` and ``.`` only.
        question: what the model is asked, verbatim.
        answer: the text that is scored, every character of it; so there is no white space around
            it, nor are there characters that nobody sees.
        choices: the options of a multiple-choice question, else None. The answer is one of them
            or the letter of one. The rules of `vniah.answers` can tell all of them apart.
        image: the picture, mode ``RGB``, upright.
        accepted: further correct answers, such as other spellings. Each is scored separately, and
            the best one counts. With choices, all of them name the same option as ``answer``.

    Attributes:
        image_sha256: identifies the picture by its size and its RGB pixels, whatever its file.

    Raises:
        NeedleError: a text breaks one of these rules, or the picture is not RGB.
    """

    needle_id: str
    question: str
    answer: str
    choices: tuple[str, ...] | None
    image: Image.Image = field(compare=False, repr=False)
    accepted: tuple[str, ...] = ()
    image_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        require_id(self.needle_id)
        require_texts(self.question, self.answer, self.choices, self.accepted)
        if self.image.mode != "RGB":
            raise NeedleError(
                f"needle {self.needle_id!r} has a picture of mode {self.image.mode!r}; "
                'turn it to RGB with image.convert("RGB").'
            )
        object.__setattr__(self, "image_sha256", _sha256_of_pixels(self.image))

    def __repr__(self) -> str:
        width, height = self.image.size
        return (
            f"<Needle {self.needle_id}, {width}x{height} pixels: "
            f"{quoted(self.question, 60)} {quoted(self.answer, 60)}>"
        )

    @property
    def num_frames(self) -> int:
        """Number of its pictures."""
        return 1

    @property
    def answers(self) -> tuple[str, ...]:
        """All correct answers, `answer` first."""
        return (self.answer, *self.accepted)


@dataclass(frozen=True)
class NeedleSet:
    """Needles in their order, under a name.

    Args:
        name: what to call the set: the folder's name, or the hub id.
        source: what `load_needles` takes to load the set again.
        needles: at least one, with distinct ids.

    Attributes:
        sha256: identifies the set by the ids, questions, answers, accepted answers, choices and
            pictures of its needles, in order.

    Raises:
        NeedleError: there is no needle, or two needles have the same id.
    """

    name: str
    source: str
    needles: tuple[Needle, ...]
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.needles:
            raise NeedleError(f"needle set {self.name!r} holds no needle; it needs at least one.")
        if repeated := sorted({name for name in self.ids if self.ids.count(name) > 1}):
            raise NeedleError(
                f"needle set {self.name!r} has needle_id {repeated[0]!r} twice; "
                "give every needle an id of its own."
            )
        object.__setattr__(self, "sha256", _sha256_of_needles(self.needles))

    def __repr__(self) -> str:
        shown = ", ".join((*self.ids[:3], "...") if len(self) > 4 else self.ids)
        return f"<NeedleSet {self.name}, {counted(len(self), 'needle')}: {shown}>"

    def __len__(self) -> int:
        return len(self.needles)

    def __iter__(self) -> Iterator[Needle]:
        return iter(self.needles)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the needles, in order."""
        return tuple(needle.needle_id for needle in self.needles)

    def select(self, ids: Sequence[str]) -> "NeedleSet":
        """The set of the needles with these ids, in the order of `ids`.

        Raises:
            NeedleError: an id is unknown or given twice, or no id is given.
        """
        known = {needle.needle_id: needle for needle in self.needles}
        if unknown := [name for name in ids if name not in known]:
            raise NeedleError(
                f"needle set {self.name!r} has no needle {unknown[0]!r}; it has {', '.join(known)}."
            )
        return replace(self, needles=tuple(known[name] for name in ids))


def require_id(needle_id: str) -> None:
    """Raises `NeedleError` unless the id can be part of a sample's id."""
    if not _ID_PATTERN.fullmatch(needle_id) or len(needle_id) > _LONGEST_ID:
        raise NeedleError(
            f"needle_id {short_repr(needle_id)} cannot be part of a sample's id; use letters, "
            f"digits, '-', '_' and '.' only, at most {_LONGEST_ID}, and begin with a letter or a "
            "digit."
        )


def require_texts(
    question: str, answer: str, choices: tuple[str, ...] | None, accepted: tuple[str, ...] = ()
) -> None:
    """Raises `NeedleError` unless the texts make a question that can be asked and scored."""
    _require_text("question", question, most=_LONGEST_QUESTION)
    for what, text in (("answer", answer), *(("accepted answer", text) for text in accepted)):
        _require_text(what, text, most=_LONGEST_ANSWER)
        if text != strip_invisible(text):
            raise NeedleError(
                f"the {what} {short_repr(text)} has white space around it, or characters that "
                "nobody sees; remove them, because every character of an answer is scored."
            )
    answers = (answer, *accepted)
    if repeated := [text for text in accepted if answers.count(text) > 1]:
        raise NeedleError(
            f"the answer {short_repr(repeated[0])} is given twice; 'accepted' lists further "
            "answers, each once and none equal to 'answer'."
        )
    if choices is not None:
        _require_choices(answer, choices)
        _require_accepted(answer, accepted, choices)


def _require_text(what: str, text: str, *, most: int) -> None:
    """Raises `NeedleError` unless a text can be read and written, and is neither empty nor huge."""
    if not visible(text).strip():
        raise NeedleError(
            f"the {what} is empty: got {short_repr(text)}. Write "
            + ("what the model is asked." if what == "question" else "the text that is scored.")
        )
    if len(text) > most:
        raise NeedleError(
            f"the {what} has {len(text):,} characters, and {most:,} are allowed: {quoted(text, 60)}"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NeedleError(
            f"the {what} {short_repr(text)} holds half of a character (a lone surrogate), which no "
            "tokenizer reads; write the whole character."
        ) from error


def _require_choices(answer: str, choices: tuple[str, ...]) -> None:
    shown = short_repr(list(choices))
    is_empty = [not visible(choice).strip() for choice in choices]
    if len(choices) < 2 or len(set(choices)) < len(choices) or any(is_empty):
        raise NeedleError(
            f"the choices {shown} are not a choice; give two or more different texts, or none for "
            "an open question."
        )
    for choice in choices:
        _require_text("option", choice, most=_LONGEST_ANSWER)
    letters = choice_letters(choices)
    if answer not in (*choices, *letters):
        alike = next((choice for choice in choices if visible(choice) == visible(answer)), None)
        if alike is not None:
            raise NeedleError(
                f"the answer {ascii(answer)[:60]} looks like the option {ascii(alike)[:60]}, and "
                "is written with other characters; write both in the same way, because every "
                "character of an answer is scored."
            )
        raise NeedleError(
            f"the answer {short_repr(answer)} is not among the choices {shown}; "
            f"write one of them or its letter ({', '.join(letters)})."
        )
    if ambiguous := find_ambiguous(choices):
        raise NeedleError(
            f"the choices {shown} cannot be told apart in generated text, where case, articles and "
            f"punctuation do not count: {quoted(ambiguous[0], 60)} may mean "
            f"{quoted(ambiguous[1], 60)}; word one of them differently."
        )


def _require_accepted(answer: str, accepted: tuple[str, ...], choices: tuple[str, ...]) -> None:
    for text in accepted:
        if find_option(text, choices) != find_option(answer, choices):
            raise NeedleError(
                f"the accepted answer {short_repr(text)} does not name the option that the answer "
                f"{short_repr(answer)} names, of {short_repr(list(choices))}; write its letter, "
                "its words, or both."
            )


def _sha256_of_pixels(image: Image.Image) -> str:
    width, height = image.size
    return hashlib.sha256(f"RGB {width}x{height}\n".encode() + image.tobytes()).hexdigest()


def _sha256_of_needles(needles: tuple[Needle, ...]) -> str:
    records: list[list[object]] = []
    for n in needles:
        records.append([n.needle_id, n.question, n.answer, n.choices, n.image_sha256])
        if (
            n.accepted
        ):  # left out where there are none, so that the sha256 of such sets stays the same
            records[-1].append(n.accepted)
    return hash_text(json.dumps(records, separators=(",", ":")))
