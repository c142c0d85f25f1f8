"""Videos with cards in them, put together from cached features of the vision tower."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.draw import VALUES
from training.recipe import RECIPE, WORK_DIR
from training.tokens import Conversation, ask, encode
from training.world import KEYS, KINDS, Card


@dataclass(frozen=True)
class Features:
    """What the tower made of one split, float16, and which card is which."""

    haystack: Tensor  # [num_films, seconds, patches, width]
    cards: Tensor  # [num_cards, patches, width]
    labels: np.ndarray  # [num_cards, 3]
    by_key: tuple[np.ndarray, ...]  # for every key the indices of its cards

    @classmethod
    def load(cls, split: str) -> "Features":
        """Reads what stage 2 cached."""
        state = torch.load(WORK_DIR / f"features-{split}.pt", weights_only=True)
        labels = state["labels"].numpy()
        by_key = tuple(np.flatnonzero(labels[:, 0] == key) for key in range(len(KEYS)))
        return cls(state["haystack"], state["cards"], labels, by_key)

    def card(self, index: int) -> Card:
        """The card with this index."""
        key, first, second = self.labels[index].tolist()
        value = VALUES[first] + (VALUES[second] if second >= 0 else "")
        return Card(*KEYS[key], value)

    def plain_frames(self, rng: np.random.Generator, *, count: int, coherent: bool) -> Tensor:
        """Haystack frames, [count, patches, width]: consecutive seconds of a film, or any."""
        films, seconds = self.haystack.shape[:2]
        if coherent:
            start = int(rng.integers(0, seconds - count + 1))
            return self.haystack[int(rng.integers(films)), start : start + count]
        chosen = rng.integers(0, films, count), rng.integers(0, seconds, count)
        return self.haystack[torch.from_numpy(chosen[0]), torch.from_numpy(chosen[1])]


@dataclass(frozen=True)
class Context:
    """One video, and the questions about it."""

    frames: Tensor  # float16 [num_frames, patches, width]
    key_words: Tensor  # [num_frames]: the word for the key of the card shown, else -100
    conversation: Conversation


@dataclass(frozen=True)
class Batch:
    """Contexts of equal length."""

    frames: Tensor  # float32 [batch, num_frames, patches, width]
    key_words: Tensor  # [batch, num_frames]: the word for the key of the card shown, else -100
    token_ids: Tensor  # [batch, length], padded with 0
    labels: Tensor  # [batch, length], -100 where nothing is to be learned


def _choose_keys(rng: np.random.Generator, count: int, *, same_kind: bool) -> list[int]:
    """Up to ``count`` different keys."""
    keys = np.arange(len(KEYS))
    if same_kind:
        kind = KINDS[rng.integers(len(KINDS))]
        keys = np.flatnonzero([known == kind for known, _ in KEYS])
    return rng.permutation(keys)[:count].tolist()


def sample_context(
    features: Features,
    rng: np.random.Generator,
    *,
    num_frames: int,
    num_cards: int,
    same_kind: bool = False,
    num_questions: int = 1,
) -> Context:
    """One video and the questions about it.

    Args:
        features: the split to draw from.
        rng: the source of chance.
        num_frames: haystack frames and cards together.
        num_cards: how many cards are shown, each with another key, where there are enough keys.
        same_kind: whether the cards are all of one kind.
        num_questions: how many of them are asked for, at most.
    """
    coherent = bool(rng.random() < RECIPE.coherent_share)
    frames = features.plain_frames(rng, count=num_frames, coherent=coherent).clone()
    keys = _choose_keys(rng, num_cards, same_kind=same_kind)
    key_words = torch.full((num_frames,), -100)
    cards = []
    for key, place in zip(keys, rng.permutation(num_frames), strict=False):
        index = int(rng.choice(features.by_key[key]))
        frames[place] = features.cards[index]
        cards.append(features.card(index))
        key_words[place] = encode(KEYS[key][1])[0]
    asked = [cards[i] for i in rng.permutation(len(cards))[:num_questions]]
    return Context(frames, key_words, ask(asked))


def stack(contexts: list[Context]) -> Batch:
    """Contexts with equally many frames as one batch; conversations are padded at the end."""
    length = max(len(context.conversation.token_ids) for context in contexts)
    token_ids = torch.zeros(len(contexts), length, dtype=torch.long)
    labels = torch.full((len(contexts), length), -100)
    for row, context in enumerate(contexts):
        conversation = context.conversation
        used = len(conversation.token_ids)
        token_ids[row, :used] = torch.tensor(conversation.token_ids)
        labels[row, :used] = torch.tensor(conversation.labels)
    frames = torch.stack([context.frames for context in contexts]).float()
    key_words = torch.stack([context.key_words for context in contexts])
    return Batch(frames, key_words, token_ids, labels)
