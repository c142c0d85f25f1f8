"""Documents, and how well a model predicts their tokens: for perplexity by position.

A document is a part of a text haystack. It begins where a sentence begins, and has a number of
tokens, as the model's tokenizer gives them for a text that begins there. Documents follow one
another and share no character.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vniah.embeddings.cache import FrameStore
from vniah.engines.agreement import RoundingLimit, plain_logits
from vniah.engines.inputs import DecoderInputs
from vniah.errors import CheckError, HaystackTooShortError, InputError, ModelError, counted
from vniah.forward.attention import Kernel
from vniah.forward.devices import give_back_unused
from vniah.forward.losses import token_losses
from vniah.forward.memory import MAX_CHUNK_SIZE, MEMORY_ERRORS, MIN_CHUNK_SIZE, is_out_of_memory
from vniah.haystacks.text import TextHaystack, find_sentence_ends
from vniah.protocol import LanguageModel, TextSegment, TokenSequence

_MARGIN = 256  # tokens that are read beyond a document, so that its end changes none of its tokens
_SEARCHED = 20_000  # characters in which the next sentence is looked for
_ANSWER = "."  # compose_text gives tokens of an answer as well, which are not read
_SPACE = re.compile(r"\s*")
_TRIAL_TOKENS = 256
_TRIAL_CHUNK = 100  # so that results of several chunks are merged


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


def cut_documents(
    model: LanguageModel, haystack: TextHaystack, num_tokens: int
) -> Iterator[Document]:
    """The documents of a text, one after the other, without end.

    All tokens count but those that the tokenizer puts before every text, and the first of all:
    nothing predicts it.

    Args:
        model: has the tokenizer.
        haystack: the text.
        num_tokens: the number of tokens of each, with those that the tokenizer puts before it.

    Raises:
        HaystackTooShortError: when the text has no further document.
        InputError: so few tokens have none that counts.
        ModelError: the model composes something that is not the text.
    """
    start = 0
    for number in count():
        ids, ends = _read(model, haystack.body, start, num_tokens)
        if len(ids) < num_tokens:
            raise HaystackTooShortError(
                f"the text {haystack.name} has {counted(number, 'document')} of {num_tokens:,} "
                f"tokens as {model.name} reads it, and {number + 1:,} are needed: ask for fewer or "
                "shorter ones, or give a longer text, as it is never looped"
            )
        first = max(1, sum(end == 0 for end in ends))
        if first >= num_tokens:
            raise InputError(
                f"a document of {counted(num_tokens, 'token')} has none that is predicted from one "
                f"before it: {model.name} needs at least {first + 1}"
            )
        sequence = TokenSequence((TextSegment(ids[:first]),), ids[first:num_tokens])
        stop = start + ends[num_tokens - 1]
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


def document_losses(
    model: LanguageModel,
    sequence: TokenSequence,
    *,
    chunk_size: int | None = None,
    kernel: Kernel | None = None,
) -> Tensor:
    """The negative log-likelihood of each token of a sequence's answer, ``[num_answer_ids]`` fp32.

    Where memory runs out, smaller chunks go through a layer at once, which does not change it.

    Args:
        model: its decoder predicts the tokens.
        sequence: the answer is what counts. All of it is read, the last token too.
        chunk_size: rows that go through a layer at once; by default as many as are fast.
        kernel: computes the attention; by default the fastest that is right on the device.

    Raises:
        ModelError: the decoder cannot be run, or a pass does not fit into the memory.
    """
    whole = _read_to_the_end(sequence)
    inputs = DecoderInputs(model, [whole], FrameStore({}))
    device = model.decoder.lm_head.weight.device
    chunk_size = chunk_size or MAX_CHUNK_SIZE.get(device.type, MAX_CHUNK_SIZE["cpu"])
    while True:
        positions = inputs.positions(0)
        num_tokens = positions.shape[-1]
        try:
            hidden = inputs.embed(whole.input_pieces, 0, num_tokens)
            targets = torch.tensor(sequence.answer_ids)
            return token_losses(
                model.decoder, hidden, positions, targets, chunk_size=chunk_size, kernel=kernel
            )
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            if chunk_size <= MIN_CHUNK_SIZE:
                raise ModelError(
                    f"a pass over {num_tokens:,} tokens does not fit into the memory of {device}; "
                    "measure shorter documents"
                ) from error
        chunk_size //= 2
        give_back_unused(device)


def _read_to_the_end(sequence: TokenSequence) -> TokenSequence:
    """The same with one more token in its answer: a pass reads all but the last."""
    return sequence.with_answer((*sequence.answer_ids, sequence.answer_ids[-1]))


def check_losses(
    model: LanguageModel, document: Document, *, kernel: Kernel | None = None
) -> dict[str, float]:
    """Compares the losses of the first tokens of a document with those of the model's own forward.

    Args:
        model: as `document_losses`.
        document: at most its first 256 tokens are read.
        kernel: as `document_losses`.

    Returns:
        How they differ, for the settings of a result.

    Raises:
        CheckError: by more than rounding explains.
    """
    ids = document.sequence.answer_ids[: max(1, _TRIAL_TOKENS - document.first)]
    trial, store = document.sequence.with_answer(ids), FrameStore({})
    found = document_losses(model, trial, chunk_size=_TRIAL_CHUNK, kernel=kernel)
    logits = plain_logits(model, _read_to_the_end(trial), store)
    plain = cross_entropy(logits[:-1], torch.tensor(ids), reduction="none")
    limit = RoundingLimit.of(model, [_read_to_the_end(trial)], store, [logits])
    # A loss is the difference of two numbers, each as exact as a logit.
    largest = 2 * float(logits.abs().max())
    difference = found - plain
    most, rms = float(difference.abs().max()), float(difference.square().mean().sqrt())
    if not (most <= limit.of_max * largest and rms <= limit.of_rms * largest):
        raise CheckError(
            f"{model.name} gives other losses in vniah's forward pass than in its own: they differ "
            f"by {rms:.1e} nats ({limit.of_rms * largest:.1e} allowed), at most by {most:.1e} "
            f"({limit.of_max * largest:.1e} allowed), over {counted(len(ids), 'token')}"
        )
    return {
        "tokens": len(ids),
        "max_difference": float(f"{most:.3g}"),
        "rms_difference": float(f"{rms:.3g}"),
        "nats": float(f"{float(plain.mean()):.6g}"),
    }
