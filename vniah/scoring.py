"""From answer logits to a score: is the argmax right at every position of the answer span?

Each position is conditioned on the right tokens before it, so "right everywhere" holds exactly when
greedy decoding would begin with this answer. Generated text, of a chat model or of greedy decoding
itself, is judged by the rules of `vniah.answers`.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vniah.answers import match_answer
from vniah.embeddings import FrameStore
from vniah.errors import ModelError
from vniah.forward.generation import Decoding
from vniah.forward.support import forget_longer_sequences
from vniah.forward.walk import answer_logits
from vniah.models.protocol import ChatModel, DecoderModel, EncodingModel, TokenSequence
from vniah.needles import Needle
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
    variant: str | None = None
    argmax_correct: bool | None = None
    greedy_correct: bool | None = None


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
    logits = read_logits(model, sequence, store)
    return score_answer(model, sequence, logits, seconds=time.perf_counter() - started)


def read_logits(model: EncodingModel, sequence: TokenSequence, store: FrameStore) -> Tensor:
    """Answer logits by one forward pass, ``[len(answer_ids), vocabulary]``; as `score_sequence`."""
    if isinstance(model, DecoderModel):
        return decoder_logits(model, sequence, store)
    logits = model.answer_logits(sequence, store.read(sequence.frames))
    refuse_logits(model, sequence, logits)
    return logits


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


def best_of(answers: Sequence[str], scores: Sequence[Score]) -> Score:
    """What a question with several accepted answers came to: the score of the best of them.

    Right if any is. The best one is that with the highest logprob, among the right ones if there
    are any; the first of equal ones.

    Args:
        answers: all that are accepted.
        scores: one for each, by its logits.
    """
    if len(answers) == 1:
        return scores[0]
    logprobs = [-math.inf if score.logprob is None else score.logprob for score in scores]
    best = max(range(len(answers)), key=lambda place: (scores[place].correct, logprobs[place]))
    seconds = sum(score.seconds for score in scores)
    return replace(scores[best], variant=answers[best], seconds=seconds)


def judge_tokens(
    model: EncodingModel,
    needle: Needle,
    score: Score,
    tokens: tuple[int, ...],
    *,
    accepted_ids: Sequence[tuple[int, ...]],
    decoding: Decoding,
) -> Score:
    """The score of a question whose answer was generated by greedy decoding.

    Args:
        model: puts the tokens into words.
        needle: whose answers are accepted.
        score: by the argmax, of `best_of`.
        tokens: what was generated.
        accepted_ids: the tokens of each accepted answer.
        decoding: says where text ends.

    Raises:
        ModelError: the model's ``decode`` gives no text.
    """
    words = model.decode(decoding.without_stop(tokens))  # type: ignore[union-attr]
    if not isinstance(words, str):
        raise ModelError(f"decode of {model.name} gave {type(words).__name__}, not text")
    return replace(
        score,
        prediction=words,
        predicted_ids=tokens,
        correct=match_answer(words, needle.answers, needle.choices) is not None,
        argmax_correct=score.correct,
        greedy_correct=any(tokens[: len(ids)] == ids for ids in accepted_ids),
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


def score_chat(model: ChatModel, frames: "Sequence[np.ndarray]", needle: Needle) -> Score:
    """Asks a chat model, and judges its words by `vniah.answers.match_answer`."""
    started = time.perf_counter()
    words = model.answer(frames, needle.question)
    if not isinstance(words, str):
        raise ModelError(f"answer of {model.name} gave {type(words).__name__}, not text")
    return score_words(words, needle, seconds=time.perf_counter() - started)


def score_words(
    words: str, needle: Needle, *, seconds: float, prompt_tokens: int | None = None
) -> Score:
    """Judges a model's words by `vniah.answers.match_answer`."""
    matched = match_answer(words, needle.answers, needle.choices)
    return Score(
        prediction=words,
        predicted_ids=(),
        correct=matched is not None,
        logprob=None,
        rank=None,
        margin=None,
        seconds=seconds,
        prompt_tokens=prompt_tokens,
        variant=matched if needle.accepted else None,
    )
