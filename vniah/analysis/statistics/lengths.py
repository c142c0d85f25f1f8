"""Exact scores of cells, and the effective length of a table of cells."""

from collections.abc import Iterable
from fractions import Fraction

from vniah.errors import InputError
from vniah.results import CellScore

_MAX_SAMPLES_PER_CELL = 1_000_000


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


def least_score(score: CellScore) -> Fraction | None:
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
    require_threshold(threshold)
    lengths: dict[int, list[Fraction]] = {}
    for cell_score in cells:
        score = least_score(cell_score)
        if score is not None:
            lengths.setdefault(cell_score.cell.num_frames, []).append(score)
    longest = None
    for num_frames, scores in sorted(lengths.items()):
        if sum(scores) / len(scores) < Fraction(str(threshold)):
            break
        longest = num_frames
    return longest


def require_threshold(threshold: float) -> None:
    """Raises `InputError` unless the threshold is in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold must be between 0 and 1, got {threshold}: write 0.9")
