"""Does a server read every frame that it is sent? The tokens of its prompts tell.

All frames that are sent have one size, so each costs the same number of tokens, and
``usage.prompt_tokens`` rises by it with every frame. A server that keeps the first 32 frames, one
that takes 32 evenly, and one that shrinks frames as they get more, all leave this line. They would
answer without a word, and a heatmap would show where their rule has put the needle.

The line is found from two short prompts, and the longest one has to lie on it. A second long one,
a few frames shorter, shows that even the last frames count: a server that keeps 32 of the 33 that
a cell of 32 shows has lost the needle at depth 1, and just one frame's tokens.

Models that merge 2 or 4 frames into a group step up once per group, so numbers of frames that are
compared differ by multiples of 4 where there is room.

What tokens cannot tell is a server that leaves out every second frame of every prompt, however
short, from a model that merges two frames: both have the same line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vniah.errors import InputError

_GROUP = 4

# Of the tokens that more frames should bring, as many have to come. Tokens per frame may rise with
# time stamps that get longer, and fall by nothing.
_LEAST_SHARE = 0.98
_LEAST_SHARE_AT_END = 0.8

# A sample is compared with the line of another question, so it is given two frames' tokens.
_SLACK_FRAMES = 2


@dataclass(frozen=True)
class TokenCount:
    """What a server said of one prompt.

    Attributes:
        num_frames: haystack frames in it; one more was shown.
        prompt_tokens: as its usage has it.
    """

    num_frames: int
    prompt_tokens: int


def short_lengths(lengths: Sequence[int]) -> tuple[int, int]:
    """Two numbers of frames that show what a frame costs, the second at most the largest given.

    They are near the shortest that is measured: below, some models cut pictures into more tiles.

    Args:
        lengths: numbers of frames that will be measured, at least one.

    Raises:
        InputError: there is none.
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
    """The number of frames that is asked to see whether the last of ``num_frames`` count."""
    return max(short, num_frames - _GROUP)


@dataclass(frozen=True)
class Growth:
    """How the tokens of the prompts grew.

    Attributes:
        short: two prompts of few frames, at the lengths of `short_lengths`.
        end: the longest that the server took and the one of `before_end`, in rising order; empty
            where the longest is one of the short ones.
        slack_tokens: by so many a prompt of the same length may be shorter: the question's.
    """

    short: tuple[TokenCount, TokenCount]
    end: tuple[TokenCount, ...] = ()
    slack_tokens: int = 0

    @property
    def tokens_per_frame(self) -> float:
        """Between the two short prompts."""
        first, second = self.short
        return (second.prompt_tokens - first.prompt_tokens) / (second.num_frames - first.num_frames)

    def complaint(self) -> str | None:
        """What is wrong, as a sentence; None where every frame counts."""
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
        """Tokens that ``longer`` has too few of, compared with ``shorter``; negative for enough."""
        expected = self.tokens_per_frame * (longer.num_frames - shorter.num_frames)
        return least_share * expected - (longer.prompt_tokens - shorter.prompt_tokens)

    def complaint_about(self, reading: TokenCount) -> str | None:
        """What is wrong with a prompt of the sweep; None where it has as many tokens as it should.

        Args:
            reading: of any length, with any question.
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
