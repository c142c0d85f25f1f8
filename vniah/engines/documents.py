"""Documents: the parts of a text of which perplexity by position is measured.

A document is a part of a text haystack. It begins where a sentence begins, and has a number of
tokens, as the model's tokenizer gives them for a text that begins there. Documents follow one
another and share no character. Each may follow the same frames of a video: it stands then where the
answer to a question about them would stand, and the tokens before it do not count.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from vniah.engines.inputs import compose_candidates, size_of_frame
from vniah.errors import HaystackTooShortError, InputError, ModelError, counted
from vniah.haystacks.text import TextHaystack, find_sentence_ends
from vniah.protocol import HAYSTACK, FrameSpan, LanguageModel, TextSegment, TokenSequence
from vniah.tasks.base import Sample

_MARGIN = 256  # tokens that are read beyond a document, so that its end changes none of its tokens
_SEARCHED = 20_000  # characters in which the next sentence is looked for
_ANSWER = "."  # compose_text gives tokens of an answer as well, which are not read
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Document:
    """What a model reads in one pass, and which of its tokens count.

    Attributes:
        number: from 0.
        start: its first character in the text.
        stop: the character after its last.
        sequence: the tokens that do not count, and those that do as its answer.
        first: how many tokens do not count; all of them come first.
    """

    number: int
    start: int
    stop: int
    sequence: TokenSequence
    first: int


def prompt_of_frames(model: LanguageModel, num_frames: int) -> TokenSequence:
    """The prompt of a question without words about the first frames of a haystack.

    A document stands in place of its answer, of which this has one token.

    Args:
        model: reads frames as well: a `vniah.protocol.DecoderModel`.
        num_frames: at least 1.

    Raises:
        InputError: the model reads only text.
        ModelError: it composes no such prompt.
    """
    asked = Sample(
        sample_id=f"{num_frames}/-/perplexity",
        cell=None,
        shown=(FrameSpan(HAYSTACK, 0, num_frames),),
        question="",
        candidates=(_ANSWER,),
        fields={"num_frames": num_frames},
    )
    (sequence,) = compose_candidates(model, asked)
    sequence = sequence.with_answer(sequence.answer_ids[:1])
    if (found := len(sequence.frames)) != num_frames:
        raise ModelError(
            f"compose of {model.name} gave a prompt with {counted(found, 'frame')} for "
            f"{num_frames:,}: every frame must be read once"
        )
    return sequence


def require_room(model: LanguageModel, prompt: TokenSequence, num_tokens: int) -> int:
    """The number of tokens of a prompt with frames, if it leaves room for a text.

    Args:
        model: composed the prompt.
        prompt: as `prompt_of_frames` gives it.
        num_tokens: the number of tokens of a document, with those of the prompt.

    Raises:
        InputError: no token of a text has room.
    """
    num_before = prompt.num_tokens(size_of_frame(model))
    if num_before >= num_tokens:
        raise InputError(
            f"{counted(len(prompt.frames), 'frame')} and the prompt around them take "
            f"{num_before:,} tokens as {model.name} reads them, so {num_tokens:,} tokens leave no "
            "room for a text; give more tokens or fewer frames"
        )
    return num_before


def cut_documents(
    model: LanguageModel,
    haystack: TextHaystack,
    num_tokens: int,
    *,
    prompt: TokenSequence | None = None,
) -> Iterator[Document]:
    """The documents of a text, one after the other, without end.

    All tokens of the text count. Those before it do not: the prompt, or what the tokenizer puts
    before every text. Where nothing is before it, the first token does not count either: nothing
    predicts it.

    Args:
        model: has the tokenizer.
        haystack: the text.
        num_tokens: the number of tokens of each, with those before the text.
        prompt: what each document follows, as `prompt_of_frames` gives it; then the tokenizer puts
            nothing before the text.

    Raises:
        HaystackTooShortError: when the text has no further document.
        InputError: so few tokens have none that counts.
        ModelError: the model composes something that is not the text.
    """
    num_before = 0 if prompt is None else require_room(model, prompt, num_tokens)
    start = 0
    for number in count():
        ids, ends = _read(model, haystack.body, start, num_tokens - num_before)
        num_marks = sum(end == 0 for end in ends)  # what the tokenizer puts before every text
        if prompt is None:
            skipped, num_read = max(1, num_marks), num_tokens
        else:  # the prompt takes their place
            skipped, num_read = num_marks, num_tokens - num_before + num_marks
        if len(ids) < num_read:
            those = "tokens" if prompt is None else "tokens of text"
            raise HaystackTooShortError(
                f"the text {haystack.name} has {counted(number, 'document')} of "
                f"{num_tokens - num_before:,} {those} as {model.name} reads it, and "
                f"{number + 1:,} are needed: ask for fewer or shorter ones, or give a longer text, "
                "as it is never looped"
            )
        if skipped >= num_read:
            raise InputError(
                f"a document of {counted(num_tokens, 'token')} has none that is predicted from one "
                f"before it: {model.name} needs at least {skipped + 1}"
            )
        counting = ids[skipped:num_read]
        if prompt is None:
            sequence, first = TokenSequence((TextSegment(ids[:skipped]),), counting), skipped
        else:
            sequence, first = prompt.with_answer(counting), num_before
        stop = start + ends[num_read - 1]
        yield Document(number, start, stop, sequence, first)
        start = _next_sentence(haystack.body, stop)


def _read(
    model: LanguageModel, body: str, start: int, num_tokens: int
) -> tuple[tuple[int, ...], list[int]]:
    """Ids of the tokens of a text from a character on, and for each the characters to its end.

    They are all that the text has, or more than are needed.
    """
    length = 4 * num_tokens
    while True:
        text = body[start : start + length]
        ends = list(model.token_ends(text))
        if len(ends) >= num_tokens + _MARGIN or start + length >= len(body):
            break
        length *= 2
    if not text:
        return (), []
    pieces = model.compose_text(text, _ANSWER).pieces
    ids = tuple(
        token for piece in pieces if isinstance(piece, TextSegment) for token in piece.token_ids
    )
    if len(ids) != len(ends):
        raise ModelError(
            f"compose_text of {model.name} gave {counted(len(ids), 'token')} for a text, and "
            f"token_ends {len(ends):,}: they must be about the same tokens"
        )
    return ids, ends


def _next_sentence(body: str, start: int) -> int:
    """Where the first sentence begins that begins behind a character; else where a word does."""
    part = body[start : start + _SEARCHED]
    ends = find_sentence_ends(part)
    place = start + (ends[0] if ends else 0)
    match = _SPACE.match(body, place)
    assert match is not None, "it matches nothing as well"
    return match.end()
