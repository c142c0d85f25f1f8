"""Checks by the number of prompt tokens whether a server reads every frame that it is sent.

All frames have one size, so each costs the same number of tokens, and ``usage.prompt_tokens`` grows
linearly with the number of frames. It does not for a server that keeps the first 32 frames, one
that selects 32 evenly, or one that shrinks frames when there are many. Such a server would answer
without a warning, and a heatmap would show the effect of its rule.

Two short prompts give the line, and the longest prompt has to lie on it. A second long prompt, a
few frames shorter, shows that even the last frames count: a server that keeps 32 of the 33 frames
of a cell with 32 haystack frames loses the needle at depth 1, but only one frame's tokens.

For models that merge 2 or 4 frames into a group, the tokens grow once per group. So the numbers of
frames that are compared differ by multiples of 4 where possible.

Tokens cannot distinguish a server that leaves out every second frame of every prompt, however
short, from a model that merges two frames: both give the same line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vniah.errors import InputError

_GROUP = 4

# The least share of the expected additional tokens. Tokens per frame may rise with longer time
# stamps, but nothing lowers them.
_LEAST_SHARE = 0.98
_LEAST_SHARE_AT_END = 0.8

# A sample has another question than the prompts of the line, so two frames' tokens may be missing.
_SLACK_FRAMES = 2


@dataclass(frozen=True)
class TokenCount:
    """The tokens of one prompt, as a server counted them.

    Attributes:
        num_frames: haystack frames in it; one more frame was shown.
        prompt_tokens: its ``usage.prompt_tokens``.
    """

    num_frames: int
    prompt_tokens: int


def short_lengths(lengths: Sequence[int]) -> tuple[int, int]:
    """Two numbers of frames that show how many tokens a frame costs.

    The second is at most the largest given number. Both are near the shortest measured length:
    with fewer frames some models cut pictures into more tiles.

    Args:
        lengths: numbers of frames that will be measured, at least one.

    Raises:
        InputError: ``lengths`` is empty.
    """
    if not lengths:
        raise InputError("at least one number of frames is needed, got none")
    longest = max(lengths)
    if longest < 4:
        return max(0, longest - 2), longest
    short = min(max(min(lengths), 4), longest // 2)
    if short < 4:
        return 1, 3
    if short < 2 * _GROUP:
        return 2, short - short % 2
    half = short // 2
    return half - half % _GROUP, short - short % _GROUP


def before_end(num_frames: int, *, short: int) -> int:
    """The number of frames of the prompt that shows whether the last of ``num_frames`` count."""
    return max(short, num_frames - _GROUP)


@dataclass(frozen=True)
class Growth:
    """How the number of prompt tokens grew with the number of frames.

    Attributes:
        short: two prompts of few frames, at the lengths of `short_lengths`.
        end: the prompt of the length `before_end`, and the longest that the server accepted; empty
            where the longest is one of the short ones.
        slack_tokens: a prompt of the same length may have this many tokens fewer, as its question
            may be shorter.
    """

    short: tuple[TokenCount, TokenCount]
    end: tuple[TokenCount, ...] = ()
    slack_tokens: int = 0

    @property
    def tokens_per_frame(self) -> float:
        """The tokens of one frame, by the two short prompts."""
        first, second = self.short
        return (second.prompt_tokens - first.prompt_tokens) / (second.num_frames - first.num_frames)

    def complaint(self) -> str | None:
        """What is wrong, in one sentence; None where every frame counts."""
        first, second = self.short
        if self.tokens_per_frame < 1:
            return (
                f"prompt_tokens is {first.prompt_tokens:,} for {first.num_frames:,} frames and "
                f"{second.prompt_tokens:,} for {second.num_frames:,}: the server does not read "
                "frames, or does not count them"
            )
        if not self.end:
            return None
        before, last = self.end
        rounding = (_GROUP - 1) * self.tokens_per_frame
        from_short = self._missing(second, last, least_share=_LEAST_SHARE)
        at_end = self._missing(before, last, least_share=_LEAST_SHARE_AT_END)
        if from_short <= rounding and at_end <= 0:
            return None
        numbers = ", ".join(
            f"{reading.prompt_tokens:,} for {reading.num_frames:,}"
            for reading in sorted({first, second, before, last}, key=lambda r: r.num_frames)
        )
        return (
            f"the server drops frames, or shrinks them as they get more: prompt_tokens is {numbers}"
            f" frames, and does not grow by {self.tokens_per_frame:,.0f} with each"
        )

    def _missing(self, shorter: TokenCount, longer: TokenCount, *, least_share: float) -> float:
        """The number of tokens that ``longer`` lacks, compared with ``shorter``; else negative."""
        expected = self.tokens_per_frame * (longer.num_frames - shorter.num_frames)
        return least_share * expected - (longer.prompt_tokens - shorter.prompt_tokens)

    def complaint_about(self, reading: TokenCount) -> str | None:
        """What is wrong with a prompt of the sweep; None where it has as many tokens as expected.

        Args:
            reading: its tokens; it may have any length and any question.
        """
        second = self.short[1]
        expected = self.tokens_per_frame * (reading.num_frames - second.num_frames)
        allowed = (
            (1 - _LEAST_SHARE) * abs(expected)
            + _SLACK_FRAMES * self.tokens_per_frame
            + self.slack_tokens
        )
        if reading.prompt_tokens >= second.prompt_tokens + expected - allowed:
            return None
        return (
            f"the server drops frames: prompt_tokens is {reading.prompt_tokens:,} for "
            f"{reading.num_frames:,} frames, about {second.prompt_tokens + expected:,.0f} are "
            "expected"
        )
