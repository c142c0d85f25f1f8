"""What a context holds: which cards, where they stand, and the questions about them, as ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.tokens import BEFORE_ANSWER, BEFORE_NEXT_QUESTION, IGNORED, encode
from training.world import KEYS, KINDS, NOTHING, QUESTIONS, Card

_KINDS = np.array([KINDS.index(kind) for kind, _ in KEYS])


def choose_keys(
    rng: np.random.Generator, count: int, *, same_kind_share: float, kind: str = ""
) -> list[int]:
    """Up to ``count`` different keys, by chance all of one kind, or all of ``kind``."""
    keys = np.arange(len(KEYS))
    if kind or rng.random() < same_kind_share:
        chosen = KINDS.index(kind) if kind else int(rng.integers(len(KINDS)))
        keys = np.flatnonzero(chosen == _KINDS)
    return rng.permutation(keys)[:count].tolist()


def _ask_about(key: int) -> str:
    kind, word = KEYS[key]
    return QUESTIONS[kind].format(key=word)


def ask(
    cards: Sequence[Card],
    rng: np.random.Generator,
    *,
    questions: int,
    absent_share: float,
    two_hops_share: float = 0.0,
) -> tuple[list[int], list[int]]:
    """Questions with answers, in the template of Qwen2: ids, and labels where one is to learn.

    A card may be asked for more than once, so that nothing can be known by elimination. A question
    about a card that is not there is answered "nothing". ``two_hops_share`` of the questions are of
    two hops, where there are a sign and the card that it leads to.
    """
    pairs = [(sign, card) for sign in cards for card in cards if sign.leads_to(card)]
    keys = [card.key_index for card in cards]
    others = [key for key in range(len(KEYS)) if key not in keys]
    ids: list[int] = []
    labels: list[int] = []
    for turn in range(questions):
        if two_hops_share and pairs and rng.random() < two_hops_share:
            sign, card = pairs[rng.integers(len(pairs))]
            text, value = sign.question_of_two_hops, card.answer
        elif not cards or (others and rng.random() < absent_share):
            text, value = _ask_about(others[rng.integers(len(others))]), NOTHING
        else:
            card = cards[rng.integers(len(cards))]
            text, value = card.question, card.answer
        question = encode(BEFORE_NEXT_QUESTION) if turn else ()
        question += encode(text) + encode(BEFORE_ANSWER)
        answer = encode(value)
        ids += question + answer
        labels += (IGNORED,) * len(question) + answer
    return ids, labels


@dataclass(frozen=True)
class Tokens:
    """Token ids and labels of equal length, int64 [batch, length], padded at the end."""

    ids: Tensor
    labels: Tensor

    @classmethod
    def stack(cls, rows: Sequence[tuple[list[int], list[int]]]) -> "Tokens":
        """Rows of any lengths as one batch."""
        length = max(len(ids) for ids, _ in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORED)
        for number, (row, wanted) in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            labels[number, : len(row)] = torch.tensor(wanted)
        return cls(ids, labels)


@dataclass(frozen=True)
class Answers:
    """Logits of all tokens to be learned, those tokens, and the context each belongs to."""

    logits: Tensor  # [answers, vocabulary]
    wanted: Tensor  # [answers]
    context: Tensor  # [answers]

    @property
    def right(self) -> Tensor:
        """Whether the argmax is right, bool [answers]."""
        return self.logits.argmax(-1) == self.wanted

    def share(self) -> float:
        """The share of tokens that are right."""
        return float(self.right.float().mean())

    def contexts_right(self, count: int) -> int:
        """How many of ``count`` contexts have every token right."""
        return count - len(self.context[~self.right].unique())


def read_answers(model: torch.nn.Module, embeds: Tensor, labels: Tensor) -> Answers:
    """Reads ``embeds`` [batch, length, width]; ``labels`` belong to its last tokens."""
    hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    before, wanted = hidden[:, -labels.shape[1] : -1], labels[:, 1:]
    learned = wanted != IGNORED
    return Answers(model.lm_head(before[learned]), wanted[learned], learned.nonzero()[:, 0])
