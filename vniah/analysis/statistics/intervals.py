"""Confidence intervals of proportions."""

from dataclasses import dataclass
from functools import lru_cache

from vniah.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included.

    Attributes:
        low: the lower end; of a score in [0, 1], of a difference of scores in [-1, 1].
        high: the upper end.
    """

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends."""
        return (self.high - self.low) / 2

    def text(
        self, joiner: str = " to ", *, around: float | None = None, signed: bool = False
    ) -> str:
        """Both ends with two digits, or with as many as it takes, up to six.

        Args:
            joiner: what stands between the ends.
            around: a value in the interval that is written beside it, with more digits: the ends
                have as many as it takes for it to lie between them, and to tell them apart.
            signed: whether the ends have signs.
        """
        inside = around is not None and self.low <= around <= self.high
        low = high = ""
        for digits in range(2, 7):
            low, high = (f"{end:{'+' * signed}.{digits}f}" for end in (self.low, self.high))
            is_told = low != high or self.low == self.high
            if is_told and (around is None or not inside or float(low) <= around <= float(high)):
                break
        return f"{low}{joiner}{high}"

    def hull(self, other: "Interval") -> "Interval":
        """The smallest interval that holds both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))


def wilson_interval(
    num_correct: float, num_samples: float, *, confidence: float = 0.95
) -> Interval:
    """Wilson's score interval of a proportion; valid for few samples and near 0 and 1, too.

    With z the normal quantile of ``(1 + confidence) / 2``, it contains every p with
    ``|num_correct / num_samples - p| <= z * sqrt(p * (1 - p) / num_samples)``. The samples have to
    be independent of one another: those of one cell are, as each is of another needle.
    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22 (1927).

    Args:
        num_correct: the number of right samples; a sum of scores in [0, 1] need not be whole.
        num_samples: the number of samples.
        confidence: how often such an interval holds the proportion.

    Raises:
        InputError: there are no samples, or more correct ones than samples; or the confidence is
            not between 0 and 1.

    >>> interval = wilson_interval(9, 10)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.596, 0.982)
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be at least 1, got {num_samples}")
    if not 0 <= num_correct <= num_samples:
        raise InputError(
            f"num_correct must be between 0 and num_samples = {num_samples}, got {num_correct}"
        )
    require_confidence(confidence)
    return _wilson(num_correct, num_samples, confidence)


@lru_cache(maxsize=4096)
def _wilson(num_correct: float, num_samples: float, confidence: float) -> Interval:
    """The same; maps have many cells with the same score, and it takes half a millisecond."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(num_correct, num_samples, 1 - confidence, method="wilson")
    # Where no sample or every sample is correct, one end is exact: rounding must not move it.
    return Interval(
        low=0.0 if num_correct == 0 else max(0.0, float(low)),
        high=1.0 if num_correct == num_samples else min(1.0, float(high)),
    )


def require_confidence(confidence: float) -> None:
    """Raises `InputError` unless the confidence is between 0 and 1."""
    if not 0 < confidence < 1:
        raise InputError(
            f"confidence must be between 0 and 1, both excluded, got {confidence}: write 0.95"
        )
