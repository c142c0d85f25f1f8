"""From answer logits to a score: is the argmax right at every position of the answer span?

Each position is conditioned on the right tokens before it, so "right everywhere" holds exactly when
greedy decoding would begin with this answer.
"""

import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vniah.embeddings import FrameStore
from vniah.errors import ModelError
from vniah.forward.support import forget_longer_sequences
from vniah.forward.walk import answer_logits
from vniah.models.protocol import ChatModel, DecoderModel, EncodingModel, TokenSequence
from vniah.passes import Embedder, positions_of

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Score:
    """What one forward pass said of one answer; fields as in `vniah.results.Sample`."""

    prediction: str | None
    predicted_ids: tuple[int, ...]
    correct: bool
    logprob: float | None
    rank: int | None
    margin: float | None
    seconds: float
    prompt_tokens: int | None = None


def score_sequence(model: EncodingModel, sequence: TokenSequence, store: FrameStore) -> Score:
    """Runs one forward pass and scores the answer.

    Args:
        model: one of the first two levels of `vniah.models.protocol`.
        sequence: what the model composed.
        store: where its frames lie.

    Raises:
        ModelError: the model gave something that is no logits, or cannot be run exactly.
    """
    started = time.perf_counter()
    if isinstance(model, DecoderModel):
        logits = decoder_logits(model, sequence, store)
    else:
        logits = model.answer_logits(sequence, store.read(sequence.frames))
    return score_answer(model, sequence, logits, seconds=time.perf_counter() - started)


def score_answer(
    model: EncodingModel, sequence: TokenSequence, logits: Tensor, *, seconds: float
) -> Score:
    """Scores the logits of an answer.

    Args:
        model: puts the prediction into words, if it can.
        sequence: with the answer.
        logits: ``[len(answer_ids), vocabulary]``.
        seconds: how long they took.

    Raises:
        ModelError: they have another shape, or are no numbers.
    """
    refuse_logits(model, sequence, logits)
    score = score_logits(logits, sequence.answer_ids)
    decode = getattr(model, "decode", None)
    return Score(
        prediction=None if decode is None else decode(score.predicted_ids),
        predicted_ids=score.predicted_ids,
        correct=score.correct,
        logprob=score.logprob,
        rank=score.rank,
        margin=score.margin,
        seconds=seconds,
    )


def refuse_logits(model: EncodingModel, sequence: TokenSequence, logits: object) -> None:
    """Raises `ModelError` unless these are rows of logits, one for each token of the answer."""
    expected = len(sequence.answer_ids)
    if not isinstance(logits, Tensor):
        raise ModelError(f"answer_logits of {model.name} gave {type(logits).__name__}, no tensor")
    if logits.ndim != 2 or len(logits) != expected:
        raise ModelError(
            f"answer_logits of {model.name} gave shape {tuple(logits.shape)}; "
            f"expected ({expected}, vocabulary), one row for each answer token"
        )


@dataclass(frozen=True)
class LogitsScore:
    """The part of a `Score` that the logits alone decide."""

    predicted_ids: tuple[int, ...]
    correct: bool
    logprob: float
    rank: int
    margin: float


def score_logits(logits: Tensor, answer_ids: Sequence[int]) -> LogitsScore:
    """Scores rows of logits against the answer.

    Args:
        logits: ``[len(answer_ids), vocabulary]``.
        answer_ids: the right tokens.

    Raises:
        ModelError: a logit is not a number, or a token lies outside of the vocabulary.
    """
    logits = logits.detach().float().cpu()
    answer = torch.tensor(answer_ids)
    if int(answer.max()) >= logits.shape[1]:
        raise ModelError(
            f"the answer holds token {int(answer.max())}, the logits only {logits.shape[1]} tokens"
        )
    right = logits.gather(1, answer[:, None])
    # A model may mask tokens by minus infinity, but not the answer's.
    if not (torch.isfinite(right).all() and (logits < torch.inf).all()):
        raise ModelError("the model's logits hold NaN or infinity; try --dtype float32 or bfloat16")
    predicted = logits.argmax(-1)
    num_better = torch.where(predicted == answer, 0, (logits > right).sum(-1).clamp(min=1))
    others = logits.scatter(1, answer[:, None], -torch.inf)
    logprobs = right[:, 0] - logits.logsumexp(-1)
    return LogitsScore(
        predicted_ids=tuple(predicted.tolist()),
        correct=bool((predicted == answer).all()),
        logprob=float(logprobs.sum()),
        rank=int(num_better.max()) + 1,
        margin=float((right[:, 0] - others.max(-1).values).min()),
    )


def decoder_logits(model: DecoderModel, sequence: TokenSequence, store: FrameStore) -> Tensor:
    """Answer logits of one sequence by the walk, ``[len(answer_ids), vocabulary]``."""
    positions = positions_of(model, sequence)
    embedder = Embedder(model, store)
    hidden = embedder(sequence.inputs, 0, positions.shape[-1])
    num_rows, deep = len(sequence.answer_ids), embedder.deep(sequence.inputs)
    return answer_logits(model.decoder, hidden, positions, num_rows=num_rows, deep=deep)


@torch.inference_mode()
def plain_logits(model: DecoderModel, sequence: TokenSequence, store: FrameStore) -> Tensor:
    """Answer logits by the decoder's own forward, ``[len(answer_ids), vocabulary]`` fp32 on CPU."""
    positions = positions_of(model, sequence)
    forget_longer_sequences(model.decoder.model)
    num_tokens, num_rows = positions.shape[-1], len(sequence.answer_ids)
    embedder = Embedder(model, store)
    hidden = embedder(sequence.inputs, 0, num_tokens)
    inputs: dict[str, Any] = {
        "inputs_embeds": hidden[None],
        "position_ids": positions[None] if positions.ndim == 1 else positions[:, None],
        # without it transformers takes gaps in the positions for packed sequences
        "attention_mask": torch.ones(1, num_tokens, device=hidden.device, dtype=torch.long),
        "use_cache": False,
    }
    deep = embedder.deep(sequence.inputs)
    if deep is not None:
        is_frame = embedder.is_frame(sequence.inputs)
        inputs["visual_pos_masks"] = is_frame[None]
        inputs["deepstack_visual_embeds"] = [rows[is_frame] for rows in deep]
    if callable(model.decoder):
        if "logits_to_keep" in signature(model.decoder.forward).parameters:
            inputs["logits_to_keep"] = num_rows
        logits = model.decoder(**inputs).logits[0, -num_rows:]
    else:  # two parts that make up one
        rows = model.decoder.model(**inputs).last_hidden_state[0, -num_rows:]
        logits = model.decoder.lm_head(rows)
    moved: Tensor = logits.float().cpu()
    return moved


def score_chat(
    model: ChatModel, frames: "Sequence[np.ndarray]", question: str, answer: str
) -> Score:
    """Asks a chat model, and compares its words with the answer.

    Right means equal after `normalize`.
    """
    started = time.perf_counter()
    words = model.answer(frames, question)
    if not isinstance(words, str):
        raise ModelError(f"answer of {model.name} gave {type(words).__name__}, not text")
    return score_words(words, answer, seconds=time.perf_counter() - started)


def score_words(
    words: str, answer: str, *, seconds: float, prompt_tokens: int | None = None
) -> Score:
    """Compares a model's words with the answer: right means equal after `normalize`."""
    return Score(
        prediction=words,
        predicted_ids=(),
        correct=normalize(words) == normalize(answer),
        logprob=None,
        rank=None,
        margin=None,
        seconds=seconds,
        prompt_tokens=prompt_tokens,
    )


def normalize(text: str) -> str:
    """Lower case, without white space or punctuation around it: ``" B. "`` is ``"b"``."""
    return text.casefold().strip(string.whitespace + string.punctuation)
