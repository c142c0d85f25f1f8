"""The tokenizer of the reference models, and what they read as token ids."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from training.world import (
    BRIGHTNESS,
    COLORS,
    DIGITS,
    KINDS,
    NOTHING,
    PLACES,
    QUESTIONS,
    SCENERY,
    SHAPES,
    TONES,
)

START, END, PAD, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|unk|>"
OPENING = f"{START}system\nYou are a helpful assistant.{END}\n{START}user\n"
BEFORE_ANSWER = f"{END}\n{START}assistant\n"
BEFORE_NEXT_QUESTION = f"{END}\n{START}user\n"
IGNORED = -100  # the label of a token that is not to be learned


def vocabulary() -> list[str]:
    """Special tokens, then every word in the order in which it first turns up."""
    said = " ".join(question.format(key=" ") for question in QUESTIONS.values())
    known = " ".join((*KINDS, SCENERY, *PLACES, *SHAPES, *COLORS, *DIGITS, *BRIGHTNESS, *TONES))
    text = f"system user assistant you are a helpful . {said} {NOTHING} {known}".lower()
    return list(dict.fromkeys([START, END, PAD, UNKNOWN, *text.split()]))


@lru_cache(maxsize=1)
def build_tokenizer() -> Tokenizer:
    """Whole lower-case words, single digits, single marks; digits are joined when decoding."""
    ids = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=True),
            decoders.Fuse(),
            decoders.Replace(Regex("(?<=[0-9]) (?=[0-9])"), ""),
        ]
    )
    special = [AddedToken(token, special=True, normalized=False) for token in (START, END, PAD)]
    tokenizer.add_special_tokens([*special, AddedToken(UNKNOWN, special=True, normalized=False)])
    return tokenizer


@lru_cache(maxsize=4096)
def encode(text: str) -> tuple[int, ...]:
    """The ids of one piece of text, without anything added."""
    return tuple(build_tokenizer().encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=4096)
def _caption_ids(words: tuple[str, ...]) -> tuple[int, ...]:
    return encode(" ".join(words))


def encode_captions(captions: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Captions as ids, int64 [n, 4]."""
    return np.array([_caption_ids(caption) for caption in captions], dtype=np.int64)
