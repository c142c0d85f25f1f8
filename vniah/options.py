"""The closed choices that users have, and options made of them; loads nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ANYWHERE = ("auto", "plain")
# On CUDA in the order in which `vniah.forward.kernels.try_installed` tries them.
NAMES_BY_DEVICE = {
    "cpu": ("flash-cpu",),
    "cuda": ("flash-3", "flash-2", "varlen", "flash", "efficient", "cudnn"),
}
ATTENTION_NAMES = (*ANYWHERE, *(name for names in NAMES_BY_DEVICE.values() for name in names))

DEFAULT_MODEL = "reference-long"

Offload = Literal["auto", "always", "never"]

LoadIn = Literal["8bit", "4bit"]

DTYPES = ("float32", "bfloat16", "float16")

Share = Literal["tree", "none"]

Scorer = Literal["argmax", "generate"]

MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Decoding:
    """When greedy decoding ends.

    Attributes:
        max_new_tokens: after as many tokens, or as many as the longest accepted answer has.
        stop_ids: after one of these.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    stop_ids: tuple[int, ...] = ()

    def has_ended(self, tokens: Sequence[int], num_needed: int) -> bool:
        """Whether nothing follows these tokens.

        Args:
            tokens: what was generated.
            num_needed: tokens of the longest accepted answer.
        """
        if tokens and tokens[-1] in self.stop_ids:
            return True
        return len(tokens) >= self.limit(num_needed)

    def limit(self, num_needed: int) -> int:
        """So many tokens at most; argument as of `has_ended`."""
        return max(self.max_new_tokens, num_needed)

    def without_stop(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens that are text: without the stop token at their end."""
        ends = bool(tokens) and tokens[-1] in self.stop_ids
        return tuple(tokens[:-1] if ends else tokens)


Sampling = Literal["clock", "longva"]
"""``clock``: frame k is on screen k seconds after the first picture. ``longva``: the published
``range(0, num_pictures, round(fps))``."""

Decoder = Literal["pyav", "decord"]
