"""Who answers the questions of a sweep, in units that processes can share out among them.

A model with a decoder answers by a tree of passes over all questions; any other model one question
after the other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, get_args

from torch import Tensor

from vniah.errors import InputError, ModelError
from vniah.forward.greedy import likeliest_token
from vniah.options import MAX_NEW_TOKENS, Decoding, Scorer
from vniah.protocol import AnyModel, EncodingModel, TokenSequence
from vniah.scoring import Score
from vniah.tasks.vniah import Question

Outcome = Score | str
"""A score, or why there is none."""


class Asker(Protocol):
    """Answers questions, one unit of work at a time."""

    def prepare(self, questions: Sequence[Question], is_wanted: Sequence[bool]) -> int:
        """Takes in all questions of the sweep, and which are still to be asked; once.

        Returns:
            The number of units.
        """

    def ask(self, unit: int) -> Iterator[tuple[Question, Outcome]]:
        """The answers of one unit."""

    def record(self) -> Mapping[str, Any]:
        """How it goes about it, for the manifest; after `prepare`."""


def choose_decoding(
    model: AnyModel, scorer: Scorer, max_new_tokens: int = MAX_NEW_TOKENS
) -> Decoding | None:
    """How a model's answers are generated; None for a chat model, and where nothing is.

    Args:
        model: an attribute ``stop_ids``, a tuple of token ids, says where its answers end.
        scorer: ``"generate"`` has it generate them.
        max_new_tokens: as `Decoding`.

    Raises:
        InputError: one of the arguments cannot be meant, or the model has no method ``decode``.
        ModelError: its ``stop_ids`` are none.
    """
    if scorer not in get_args(Scorer):
        raise InputError(f"scorer must be argmax or generate, got {scorer!r}")
    if scorer == "argmax" or not isinstance(model, EncodingModel):
        return None
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
    if not callable(getattr(model, "decode", None)):
        raise InputError(
            f"--scorer generate reads what a model writes, and {model.name} has no method "
            "decode(token_ids) that puts tokens into words; give it one, or use --scorer argmax"
        )
    stop_ids = getattr(model, "stop_ids", ())
    if not isinstance(stop_ids, tuple) or not all(type(token) is int for token in stop_ids):
        raise ModelError(f"stop_ids of {model.name} must be a tuple of token ids, got {stop_ids!r}")
    return Decoding(max_new_tokens, stop_ids)


def decode_by_passes(
    logits_of: Callable[[TokenSequence], Tensor],
    sequence: TokenSequence,
    decoding: Decoding,
    *,
    num_needed: int,
) -> tuple[int, ...]:
    """Greedy decoding by one whole forward pass for each token.

    Args:
        logits_of: gives ``[len(answer_ids), vocabulary]``, as `VisionLanguageModel.answer_logits`.
        sequence: its segments are the prompt; its answer is not looked at.
        decoding: when it ends.
        num_needed: tokens of the longest accepted answer.

    Raises:
        ModelError: the logits are no numbers.
    """
    tokens: list[int] = []
    never_read = sequence.answer_ids[0]  # a model reads all tokens of an answer but the last
    while not decoding.has_ended(tokens, num_needed):
        rows = logits_of(replace(sequence, answer_ids=(*tokens, never_read)))
        tokens.append(likeliest_token(rows[-1]))
    return tuple(tokens)
