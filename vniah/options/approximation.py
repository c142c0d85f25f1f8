"""The settings of a run that shares haystack states among all needles, and is approximate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vniah.errors import InputError, counted

DEFAULT_WINDOW = 1
"""Frames behind a needle that are computed with it in sight."""

DEFAULT_TEXT_WINDOW = 32
"""Tokens of text behind a needle that are computed with it in sight."""

DEFAULT_VERIFIED = 12
"""Branches that are also run exactly."""

LEAST_AGREEMENT = 0.99
"""The share of exactly computed samples whose outcome is the approximate one, below which the
window is said to be too small."""

EXACT = "exact"
"""The name of the control that runs some branches exactly."""

WindowUnit = Literal["frames", "tokens"]


@dataclass(frozen=True)
class Approximation:
    """How far a run is approximate.

    Attributes:
        window: how many frames or tokens behind a needle are computed with it in sight. What
            follows is taken from the plain haystack.
        verify: number of branches, which are a needle at a position with all lengths behind it,
            that are drawn and also run exactly.
        unit: what ``window`` counts.
    """

    window: int = DEFAULT_WINDOW
    verify: int = DEFAULT_VERIFIED
    unit: WindowUnit = "frames"

    def __post_init__(self) -> None:
        if self.window < 0:
            raise InputError(f"the window must be 0 or more, got {self.window}")
        if self.verify < 1:
            raise InputError(
                "at least 1 branch is run exactly, so that the error of an approximate run is "
                f"known, got {self.verify}; {DEFAULT_VERIFIED} is the default"
            )

    @classmethod
    def of(cls, window: int | None, verify: int | None, *, is_text: bool) -> "Approximation":
        """With the defaults for what is not given.

        Raises:
            InputError: one of the numbers is too small.
        """
        default = DEFAULT_TEXT_WINDOW if is_text else DEFAULT_WINDOW
        return cls(
            default if window is None else window,
            DEFAULT_VERIFIED if verify is None else verify,
            "tokens" if is_text else "frames",
        )

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "share": "one-pass",
            "window": self.window,
            "window_unit": self.unit,
            "verify": self.verify,
        }

    @property
    def text(self) -> str:
        """For titles: ``"approximate: one pass, window of 1 frame"``."""
        return f"approximate: {self.how}"

    @property
    def how(self) -> str:
        """How it was computed, in words: ``"one pass, window of 1 frame"``."""
        return f"one pass, window of {counted(self.window, self.unit[:-1])}"

    def marked(self, name: str) -> str:
        """A name that says that what it names is approximate, and how far.

        >>> Approximation().marked("a-model")
        'a-model (approximate: one pass, window of 1 frame)'
        """
        return name if name.endswith(self._mark) else f"{name}{self._mark}"

    def unmarked(self, name: str) -> str:
        """The name before `marked`, for where it is cut or wrapped apart from its mark."""
        return name.removesuffix(self._mark)

    @property
    def _mark(self) -> str:
        return f" ({self.text})"


def approximation_in(record: Mapping[str, Any]) -> Approximation:
    """That of a manifest's section."""
    return Approximation(record["window"], record["verify"], record["window_unit"])
