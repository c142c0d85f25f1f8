"""Engines that answer one sample after the other: models with a forward pass of their own, and chat
models.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vniah.embeddings.cache import FrameStore
from vniah.engines.base import Outcome, decode_by_passes
from vniah.engines.inputs import Material, decoder_logits
from vniah.errors import ModelError, first_line
from vniah.forward.runner import is_out_of_memory
from vniah.haystacks.haystack import Haystack
from vniah.needles import Needle
from vniah.options import Decoding
from vniah.protocol import ChatModel, DecoderModel, EncodingModel, TokenSequence
from vniah.scoring import Score, best_of, judge_tokens, refuse_logits, score_answer, score_words
from vniah.tasks.vniah import Question

if TYPE_CHECKING:
    import numpy as np


class SingleAsker:
    """Asks one question after the other; each is a unit.

    Args:
        ask: answers one.
    """

    def __init__(self, ask: Callable[[Question], Score]) -> None:
        self._ask = ask
        self._questions: Sequence[Question] = ()

    def prepare(self, questions: Sequence[Question], is_wanted: Sequence[bool]) -> int:
        """As `Asker.prepare`."""
        self._questions = list(compress(questions, is_wanted))
        return len(self._questions)

    def ask(self, unit: int) -> Iterator[tuple[Question, Outcome]]:
        """As `Asker.ask`."""
        question = self._questions[unit]
        try:
            yield question, self._ask(question)
        except ModelError as error:
            yield question, first_line(error)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            yield question, f"out of memory: {first_line(error)}"

    def record(self) -> Mapping[str, Any]:
        """As `Asker.record`."""
        return {"share": "none"}


def ask_model(
    model: EncodingModel, material: Material, decoding: Decoding | None = None
) -> SingleAsker:
    """Has a model of the first level run its own forward pass for every answer.

    Args:
        model: which one.
        material: what the questions are made of.
        decoding: has it also generate an answer, by a forward pass for each token.
    """

    def ask(question: Question) -> Score:
        needle = question.needle
        sequences = material.compose_all(model, question)
        scores = [score_sequence(model, sequence, material.store) for sequence in sequences]
        score = best_of(needle.answers, scores)
        if decoding is None:
            return score
        accepted_ids = [sequence.answer_ids for sequence in sequences]
        started = time.perf_counter()
        tokens = decode_by_passes(
            lambda sequence: read_logits(model, sequence, material.store),
            sequences[0],
            decoding,
            num_needed=max(map(len, accepted_ids)),
        )
        score = replace(score, seconds=score.seconds + time.perf_counter() - started)
        return judge_tokens(
            model, needle, score, tokens, accepted_ids=accepted_ids, decoding=decoding
        )

    return SingleAsker(ask)


def ask_chat(
    model: ChatModel, haystack: Haystack, num_frames: int
) -> tuple[SingleAsker, Sequence[str]]:
    """Shows pictures to a chat model; all frames are read into memory once.

    Returns:
        The asker, and remarks on the haystack.
    """
    notes: list[str] = []
    images = [f.image for f in haystack.frames(stop=num_frames, on_damage=notes.append)]

    def ask(question: Question) -> Score:
        needle, index = question.needle, question.cell.needle_index
        picture = np.array(needle.image)
        shown = [*images[:index], picture, *images[index : question.cell.num_frames]]
        return score_chat(model, shown, needle)

    return SingleAsker(ask), notes


def score_sequence(model: EncodingModel, sequence: TokenSequence, store: FrameStore) -> Score:
    """Runs one forward pass and scores the answer.

    Args:
        model: one of the first two levels of `vniah.protocol`.
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


def score_chat(model: ChatModel, frames: "Sequence[np.ndarray]", needle: Needle) -> Score:
    """Asks a chat model, and judges its words by `vniah.answers.match_answer`."""
    started = time.perf_counter()
    words = model.answer(frames, needle.question)
    if not isinstance(words, str):
        raise ModelError(f"answer of {model.name} gave {type(words).__name__}, not text")
    return score_words(words, needle, seconds=time.perf_counter() - started)
