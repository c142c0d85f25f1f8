"""How exactly an adaptive sweep finds the effective length."""

import re
from dataclasses import dataclass
from fractions import Fraction

from vniah.errors import InputError, short_repr

_TEXT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(%?)")
_HOW = "write a share such as 10%, or a number of frames such as 32"


@dataclass(frozen=True)
class Precision:
    """The largest range of lengths in which the effective length may be left.

    Attributes:
        num_frames: the range in frames; 0 where it is a share.
        share: the range as a share of its lower end; 0 where it is in frames.

    Examples:
        >>> Precision.read("10%").is_enough(500, 550), Precision.read("32").is_enough(500, 550)
        (True, False)
    """

    num_frames: int = 0
    share: Fraction = Fraction(0)

    @classmethod
    def read(cls, text: str) -> "Precision":
        """The precision that a text names: ``"10%"``, or a number of frames.

        Raises:
            InputError: it is neither, a share of more than 100 %, or no whole number of frames.
        """
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise InputError(f"a precision cannot be {short_repr(text)}: {_HOW}")
        number = Fraction(match[1])
        if match[2]:
            if number > 100:
                raise InputError(f"a precision is at most 100%, got {short_repr(text)}")
            return cls(share=number / 100)
        if number.denominator != 1:
            raise InputError(f"a precision cannot be {short_repr(text)}: {_HOW}")
        return cls(num_frames=int(number))

    def is_enough(self, at_least: int, at_most: int) -> bool:
        """Whether a length between two lengths, both included, is known well enough."""
        return at_most - at_least <= max(Fraction(self.num_frames), self.share * at_least)

    def __str__(self) -> str:
        return f"{float(self.share * 100):g}%" if self.share else str(self.num_frames)


DEFAULT_PRECISION = Precision(share=Fraction(1, 4))
