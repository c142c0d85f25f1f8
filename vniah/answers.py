"""What a generated text says: which of the accepted answers it is, or none.

Whoever reads too much into a text invents right answers. So a text counts only where all of it is
the answer, and what can be read in two ways is wrong:

    a text for the answer "yellow"          a text for "B" of A. Cat, B. Dog, C. A fox
    Yellow   " yellow. "   **Yellow**       B   b.   (B)   Option B   Answer: B   The answer is (B).
    Answer: yellow   It is the yellow       dog   the dog   B. Dog   (B) dog   Dog (B)
    not: The flag is yellow.                not: B or C   Not B   B. Cat   A dog and a cat
    not: yellow or red   not yellow         not: I think it is (B), not (C)   B, because it barks

- Case does not count, nor white space, nor punctuation, quotes, brackets and emphasis around a
  word. Inside of a word everything counts, and so do signs: ``3.5`` is not ``35``, ``-5`` is not
  ``5``, and ``5%`` is not ``5``.
- The articles *an*, *the* and a small *a* do not count before another word. A capital *A* may be a
  letter: it is an article only where a text begins with it, and in an answer it always counts
  ("A positive").
- A text may begin with "Answer:", "The answer is", "It is" and the like, with four of them at most.
  A sentence of its own is no answer, for nobody can list all the ways to say "not": accept it as a
  variant of the answer, or ask for a single word or phrase.
- Of several options the text names one by its letter, by its words, or by both if they agree. A
  single "A" is the option; "A cat ..." is no letter, but words that begin with an article.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

_AROUND_WORDS = ".,;:!?…'\"`*_()[]{}“”‘’„«»。，：；！？（）"
_LETTERED_CHOICE = re.compile(r"\(?([A-Z])[.:)]\s")

_LEAD_IN = re.compile(
    r"[\s*_]*(?:"
    r"(?:(?:the|my)\s+)?(?:(?:correct|right|final|best)\s+)?(?:answer|option|choice)"
    r"(?:\s+is\b(?:[\s*_]*+:)?|[\s*_]*+[:：])"
    r"|it(?:\s+is\b|['’]s\b)"
    r"|(?:option|choice)\s+(?=[(\[*_]*(?-i:[A-Z])\b)"
    r")[\s*_]*(?=\S)",
    re.IGNORECASE,
)
# "The final answer is: **Answer:** Option B" has three; a model that runs on writes no end of them.
_MOST_LEAD_INS = 4
_BY_LETTER = re.compile(
    r"[\s*_`'\"]*[(\[（]?(?P<letter>[A-Za-z])(?P<mark>[)\]）.:：,*_`'\"]*)(?P<rest>\s.*|)",
    re.DOTALL,
)
_LETTER_BEHIND = re.compile(r"(?P<words>.*\S)\s*[(\[](?P<letter>[A-Z])[)\]]\W*", re.DOTALL)


def match_answer(
    text: str, answers: Sequence[str], choices: Sequence[str] | None = None
) -> str | None:
    """The accepted answer that a generated text is, by the rules above; None if it is none.

    Args:
        text: what a model wrote, all of it.
        answers: all that are accepted; the first of them names an option, if there are choices.
        choices: the options of a multiple-choice question.

    >>> match_answer("Answer: the yellow one.", ["yellow one", "yellow"])
    'yellow one'
    >>> match_answer("(B) dog", ["B"], ["Cat", "Dog"])
    'B'
    """
    readings = _readings(text)
    for answer in answers:
        if normalize(answer) in readings:
            return answer
    if choices is None:
        return None
    option = read_choice(text, choices)
    return answers[0] if option is not None and option == find_option(answers[0], choices) else None


def normalize(text: str) -> str:
    """A text without what does not count, by the rules above.

    >>> normalize(" The RED card. ")
    'red card'
    """
    return _fold(text, drops_articles=True)


def read_choice(text: str, choices: Sequence[str]) -> int | None:
    """The place of the one option that a generated text names; None where it is none or several."""
    found: set[int] = set()
    for reading in _without_lead_ins(text):
        options = _options_of(reading, choices)
        if options is None:
            return None
        found |= options
    return found.pop() if len(found) == 1 else None


def find_option(answer: str, choices: Sequence[str]) -> int | None:
    """The place of the option that a needle's answer is: one of them, its letter, or its words."""
    if answer in choices:
        return list(choices).index(answer)
    letters = choice_letters(choices)
    return letters.index(answer) if answer in letters else read_choice(answer, choices)


def choice_letters(choices: Sequence[str]) -> tuple[str, ...]:
    """The letter of each option: its own, if all begin with one, else A, B, C, ... (up to Z)."""
    own = [match[1] for match in map(_LETTERED_CHOICE.match, choices) if match]
    if len(own) == len(choices):
        return tuple(own)
    return tuple(chr(ord("A") + index) for index in range(min(len(choices), 26)))


def _readings(text: str) -> set[str]:
    """All that a text may be once what does not count is gone: with and without what leads in."""
    found = set()
    for reading in _without_lead_ins(text):
        article = re.sub(r"^\s*A(?=\s)", "a", reading)
        found |= {normalize(reading), normalize(article), _fold(reading, drops_articles=False)}
    return found


def _without_lead_ins(text: str) -> Iterator[str]:
    """The text, and what is left of it each time that "Answer:" or the like is taken away."""
    yield text
    for _ in range(_MOST_LEAD_INS):
        match = _LEAD_IN.match(text)
        if match is None:
            return
        text = text[match.end() :]
        yield text


def _options_of(text: str, choices: Sequence[str]) -> set[int] | None:
    """Places of the options that a text can be; None if its letter and its words contradict."""
    letters = choice_letters(choices)
    words_of = [_words_of(choice, letters, choices) for choice in choices]
    found = {index for index, words in enumerate(words_of) if words & _readings(text)}
    if match := _BY_LETTER.fullmatch(text):
        option = _index_of(match["letter"], letters)
        words = _readings(match["rest"])
        if not match["rest"].strip():
            found |= set() if option is None else {option}
        elif option is not None and words_of[option] & words:
            found.add(option)
        elif match["mark"]:
            return None
    if match := _LETTER_BEHIND.fullmatch(text):
        option = _index_of(match["letter"], letters)
        if option is not None and words_of[option] & _readings(match["words"]):
            found.add(option)
    return found


def _words_of(choice: str, letters: Sequence[str], choices: Sequence[str]) -> set[str]:
    """An option as it may be said, without a letter of its own."""
    match = _LETTERED_CHOICE.match(choice)
    is_lettered = all(map(_LETTERED_CHOICE.match, choices))
    return _readings(choice[match.end() :] if match and is_lettered else choice)


def _index_of(letter: str, letters: Sequence[str]) -> int | None:
    """Where a letter, small or capital, stands among those of the options."""
    return letters.index(letter.upper()) if letter.upper() in letters else None


def _fold(text: str, *, drops_articles: bool) -> str:
    """Small letters, single spaces, no punctuation around words; the text itself if no word is."""
    written = unicodedata.normalize("NFC", text).replace("’", "'").split()
    last = max((index for index, word in enumerate(written) if _bare(word)), default=-1)
    words = []
    for index, word in enumerate(written):
        is_article = word == "a" or word.casefold() in ("an", "the")
        if drops_articles and is_article and index < last:
            continue
        words.append(_bare(word.casefold()))
    return " ".join(filter(None, words)) or " ".join(written).casefold()


def _bare(word: str) -> str:
    """A word without punctuation around it; a point before a digit stays: ``.5``."""
    bare = word.strip(_AROUND_WORDS)
    before = word[: word.find(bare)] if bare else ""
    return f".{bare}" if before.endswith(".") and bare[0].isdigit() else bare
