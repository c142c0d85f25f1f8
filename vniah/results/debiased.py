"""The accuracy over all variants of a question, such as all orders of its options.

A control whose samples have the fields ``variant_of`` (the ``sample_id`` of the sample that it
varies) and ``num_variants`` (how many there are, the sample itself included) puts one question in
several ways. A guess is right in one of them, or in as many as there are right options, so their
mean is free of what the model prefers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, TypeVar

from vniah.grid import Cell
from vniah.results.chance import num_right_options
from vniah.results.samples import SampleResult

K = TypeVar("K", int, Cell)


class _Scored(Protocol):
    """What is read of the result of a sample."""

    @property
    def sample_id(self) -> str: ...
    @property
    def correct(self) -> bool | None: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


R = TypeVar("R", bound=_Scored)


@dataclass(frozen=True)
class DebiasedScore:
    """The mean over all variants of some samples.

    Attributes:
        score: the mean, in [0, 1].
        chance: what guessing gives, in (0, 1): the mean over samples of the number of right options
            over that of variants.
        num_samples: number of samples of the test that it is over; of each of them all variants
            have a score. Others, and those without variants, are left out.
    """

    score: float
    chance: float
    num_samples: int


@dataclass(frozen=True)
class DebiasedSample:
    """A sample of the test with all of its variants.

    Attributes:
        cell: its cell.
        num_correct: how many of the variants are right, the sample itself included.
        num_variants: how many there are.
        num_right: in how many a guess is right: the number of right options.
    """

    cell: Cell | None
    num_correct: int
    num_variants: int
    num_right: int = 1


def complete_variants(samples: Iterable[R], control_samples: Iterable[R]) -> list[tuple[R, ...]]:
    """The samples of the test of which all variants have a score, each followed by its variants."""
    variants: dict[str, list[R]] = {}
    for result in control_samples:
        original = result.fields.get("variant_of")
        if isinstance(original, str) and result.correct is not None:
            variants.setdefault(original, []).append(result)
    found: list[tuple[R, ...]] = []
    for sample in samples:
        others = variants.get(sample.sample_id, ())
        num_variants = others[0].fields.get("num_variants") if others else None
        if sample.correct is not None and num_variants == len(others) + 1:
            found.append((sample, *others))
    return found


def debiased_samples(
    samples: Iterable[SampleResult], control_samples: Iterable[SampleResult]
) -> tuple[DebiasedSample, ...]:
    """The samples of the test of which all variants have a score."""
    return tuple(
        DebiasedSample(
            group[0].cell,
            sum(bool(one.correct) for one in group),
            len(group),
            num_right_options(group[0].fields),
        )
        for group in complete_variants(samples, control_samples)
    )


def mean_of(samples: Sequence[DebiasedSample]) -> DebiasedScore:
    """The score of some samples, at least one; all with the same weight."""
    scores = [Fraction(one.num_correct, one.num_variants) for one in samples]
    chances = [Fraction(one.num_right, one.num_variants) for one in samples]
    num = len(samples)
    return DebiasedScore(float(sum(scores) / num), float(sum(chances) / num), num)


def by_cell(samples: Iterable[DebiasedSample]) -> Mapping[Cell, DebiasedScore]:
    """The score of each cell, ordered by frames, then by depth."""
    return _means(samples, key=lambda cell: cell)


def by_length(samples: Iterable[DebiasedSample]) -> Mapping[int, DebiasedScore]:
    """The score at each number of frames, ascending."""
    return _means(samples, key=lambda cell: cell.num_frames)


def _means(samples: Iterable[DebiasedSample], key: Callable[[Cell], K]) -> dict[K, DebiasedScore]:
    """The score of all samples with a cell that have the same key, ascending by key."""
    groups: dict[K, list[DebiasedSample]] = {}
    for one in samples:
        if one.cell is not None:
            groups.setdefault(key(one.cell), []).append(one)
    return {name: mean_of(groups[name]) for name in sorted(groups)}
