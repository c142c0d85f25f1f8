"""The tokenizer of the reference model, and conversations as token ids."""

from dataclasses import dataclass
from functools import lru_cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from training.world import COLORS, DIGITS, PLACES, QUESTIONS, SHAPES, Card

START, END, PAD, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|unk|>"
OPENING = f"{START}system\nYou are a helpful assistant.{END}\n{START}user\n"
BEFORE_ANSWER = f"{END}\n{START}assistant\n"
BEFORE_NEXT_QUESTION = f"{END}\n{START}user\n"


def vocabulary() -> list[str]:
    """Special tokens, then every word in the order in which it first turns up."""
    known = " ".join(PLACES + SHAPES + COLORS + DIGITS)
    said = " ".join(question.format(key=" ") for question in QUESTIONS.values())
    text = f"system user assistant you are a helpful . {said} {known}".lower()
    words = text.replace("?", " ? ").replace(".", " . ").split()
    return list(dict.fromkeys([START, END, PAD, UNKNOWN, *words]))


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


@dataclass(frozen=True)
class Conversation:
    """What follows the frames: ids, and the same ids where they are to be learned, else -100."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]


def ask(cards: list[Card]) -> Conversation:
    """One question after the other, each with its answer, in the template of Qwen2."""
    token_ids: list[int] = []
    labels: list[int] = []
    for turn, card in enumerate(cards):
        question = (
            (encode(BEFORE_NEXT_QUESTION) if turn else ())
            + encode(card.question)
            + encode(BEFORE_ANSWER)
        )
        answer = encode(card.answer)
        token_ids += question + answer
        labels += (-100,) * len(question) + answer
    return Conversation(tuple(token_ids), tuple(labels))
