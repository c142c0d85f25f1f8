"""Rules for the texts of needles: ids, questions, answers, options and locators."""

import re

from vniah.answers import choice_letters, find_ambiguous, find_option, strip_invisible, visible
from vniah.errors import NeedleError, quoted, short_repr

_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_ID = 200
_LONGEST_QUESTION = 100_000
_LONGEST_ANSWER = 10_000
_LONGEST_LOCATOR = 1_000
_SCORED = "the text that is scored"
_MEANINGS = {
    "question": "what the model is asked",
    "locator": "a phrase that names what is shown",
}


def require_id(needle_id: str) -> None:
    """Raises `NeedleError` unless the id can be part of a sample's id."""
    if not _ID_PATTERN.fullmatch(needle_id) or len(needle_id) > _LONGEST_ID:
        raise NeedleError(
            f"needle_id {short_repr(needle_id)} cannot be part of a sample's id; use ASCII "
            f"letters (a to z, A to Z), digits (0 to 9), '-', '_' and '.' only, at most "
            f"{_LONGEST_ID}, and begin with a letter or a digit."
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
            f"the {what} is empty: got {short_repr(text)}. Write {_MEANINGS.get(what, _SCORED)}."
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


def require_distractors(needle_id: str, distractors: tuple[str, ...]) -> None:
    """Raises `NeedleError` unless these can be the ids of a needle's distractors."""
    for name in distractors:
        require_id(name)
        if name == needle_id:
            raise NeedleError(
                f"the needle {needle_id!r} names itself as a distractor; name other pictures."
            )
        if distractors.count(name) > 1:
            raise NeedleError(
                f"the needle {needle_id!r} names the distractor {name!r} twice; name each once."
            )


def require_locator(locator: str | None) -> None:
    """Raises `NeedleError` unless a phrase can stand inside a question."""
    if locator is None:
        return
    _require_text("locator", locator, most=_LONGEST_LOCATOR)
    if locator != strip_invisible(locator) or not locator.isprintable():
        raise NeedleError(
            f"the locator {short_repr(locator)} must be one phrase, such as 'the red card', "
            "without line breaks, white space around it, or characters that nobody sees."
        )
