"""Statistics of a table of cells: exact scores, confidence intervals, the effective length."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from statistics import NormalDist

from vniah.errors import InputError
from vniah.results import CellScore

_MAX_SAMPLES_PER_CELL = 1_000_000


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a proportion, both ends included, within [0, 1]."""

    low: float
    high: float


def wilson_interval(num_correct: int, num_samples: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion; valid for few samples and near 0 and 1, too.

    With z the normal quantile of ``(1 + confidence) / 2``, it contains every p with
    ``|num_correct / num_samples - p| <= z * sqrt(p * (1 - p) / num_samples)``.
    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22 (1927).

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
    if not 0 < confidence < 1:
        raise InputError(
            f"confidence must be between 0 and 1, both excluded, got {confidence}: write 0.95"
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    proportion = num_correct / num_samples
    shrink = 1 + z**2 / num_samples
    center = (proportion + z**2 / (2 * num_samples)) / shrink
    spread = proportion * (1 - proportion) / num_samples + z**2 / (4 * num_samples**2)
    half_width = z * sqrt(spread) / shrink
    # Where no sample or every sample is correct, one end is exact: rounding must not move it.
    return Interval(
        low=0.0 if num_correct == 0 else max(0.0, center - half_width),
        high=1.0 if num_correct == num_samples else min(1.0, center + half_width),
    )


def exact_score(score: CellScore) -> Fraction | None:
    """The score of a cell as an exact fraction; None if it has no score.

    A published table holds rounded quotients: there it is the nearest fraction of at most a
    million samples, so that 0.8999999999999999 is 9/10 again.
    """
    if score.score is None:
        return None
    if score.num_correct is not None and score.num_samples:
        return Fraction(score.num_correct, score.num_samples)
    return Fraction(score.score).limit_denominator(_MAX_SAMPLES_PER_CELL)


def _least_score(score: CellScore) -> Fraction | None:
    """The score that a cell has at least, whatever its samples that could not be run had given."""
    if not score.num_errors:
        return exact_score(score)
    return Fraction(score.num_correct or 0, (score.num_samples or 0) + score.num_errors)


def effective_length(cells: Iterable[CellScore], *, threshold: float = 0.9) -> int | None:
    """The largest number of frames up to which the model finds the needle; None if there is none.

    At this length, and at every shorter one that was measured, the mean over depths is at least
    ``threshold``. Samples that could not be run count as wrong here, so that the length holds
    whatever they would have given. Cells without any sample are left out; a length that has only
    such cells counts as not measured. Scores are compared as exact fractions.

    Raises:
        InputError: the threshold is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold must be between 0 and 1, got {threshold}: write 0.9")
    lengths: dict[int, list[Fraction]] = {}
    for cell_score in cells:
        score = _least_score(cell_score)
        if score is not None:
            lengths.setdefault(cell_score.cell.num_frames, []).append(score)
    longest = None
    for num_frames, scores in sorted(lengths.items()):
        if sum(scores) / len(scores) < Fraction(str(threshold)):
            break
        longest = num_frames
    return longest
