"""The control ``exact``: branches of an approximate run that are also run exactly.

A run that shares haystack states among all needles (``share`` is ``"one-pass"``) is approximate
where something follows a needle. So some branches are drawn and run exactly, too: a branch is a
needle at a position, with all lengths of the haystack behind it, which one pass runs together.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Any, TypeVar

from vniah.errors import counted
from vniah.needles import NeedleSet
from vniah.options.approximation import EXACT, LEAST_AGREEMENT
from vniah.protocol import HAYSTACK, FrameSpan, TextSpan
from vniah.tasks.base import JSONValue, Sample
from vniah.tasks.controls.base import Finding, Row


@dataclass(frozen=True)
class Agreement:
    """How far approximate results agree with exact ones of the same samples.

    Attributes:
        num_pairs: number of samples that have both; at least 1.
        num_equal: number of these with the same outcome.
        mean_difference: the mean distance of the answers' log-probabilities, in nats; None where
            they are not known.
        max_difference: the largest.
    """

    num_pairs: int
    num_equal: int
    mean_difference: float | None
    max_difference: float | None

    @property
    def share(self) -> float:
        """The share of samples with the same outcome."""
        return self.num_equal / self.num_pairs

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "samples": self.num_pairs,
            "equal": self.num_equal,
            "mean_difference": self.mean_difference,
            "max_difference": self.max_difference,
        }

    def text(self, where: str = "") -> str:
        """How many outcomes are equal, and how far log-probabilities are apart, in a sentence.

        Args:
            where: the samples are, such as ``" in 12 branches"``.
        """
        text = (
            f"{self.num_equal:,} of {counted(self.num_pairs, 'exactly computed sample')}{where} "
            f"{'has' if self.num_pairs == 1 else 'have'} the approximate outcome"
        )
        if self.mean_difference is not None:
            text += (
                f"; log-probabilities differ by {self.mean_difference:.2g} on average, at most by "
                f"{self.max_difference:.2g}"
            )
        return text


class Exact:
    """Copies of the samples of some branches, which an approximate run computes exactly.

    Branches are drawn by `draw_groups`, so that all samples have the same chance to be among them.
    What is drawn depends on the ids of the run's samples alone: a model's checkpoints are verified
    at the same branches. The field ``num_draws`` of a copy says how often its branch was drawn, and
    ``branch`` is the id of the branch's first sample.

    Args:
        num_branches: how many are drawn; one may be drawn twice.
    """

    name = EXACT

    def __init__(self, num_branches: int) -> None:
        self._num_branches = num_branches

    def samples(self, samples: Sequence[Sample], needles: NeedleSet) -> Iterator[Sample]:
        """As `vniah.tasks.controls.base.Control.samples`."""
        by_needle: dict[Hashable, dict[Hashable, list[int]]] = {}
        for number, sample in enumerate(samples):
            needle = sample.fields.get("needle_id", sample.question)
            branches = by_needle.setdefault(str(needle), {})
            branches.setdefault((str(needle), *branch_of(sample)), []).append(number)
        groups = [list(found.values()) for found in by_needle.values()]
        sizes = [[len(members) for members in branches] for branches in groups]
        seed = Random("\n".join(sample.sample_id for sample in samples))
        drawn = draw_groups(sizes, self._num_branches, seed)
        chosen: dict[int, tuple[int, int]] = {}
        for among, places in zip(groups, drawn, strict=True):
            for place, count in Counter(places).items():
                chosen |= dict.fromkeys(among[place], (count, among[place][0]))
        for number, (count, first) in sorted(chosen.items()):
            sample = samples[number]
            drawn_as: dict[str, JSONValue] = {
                "branch": samples[first].sample_id,
                "num_draws": count,
            }
            yield replace(
                sample,
                sample_id=f"{sample.sample_id}/{self.name}",
                control=self.name,
                fields={**sample.fields, **drawn_as},
            )

    def finding(
        self, tests: Sequence[Row], own: Sequence[Row], others: Mapping[str, Sequence[Row]]
    ) -> Finding | None:
        """As `vniah.tasks.controls.base.Control.finding`.

        "Too small a window" if fewer than 99 % of the samples have the same outcome.
        """
        pairs = exact_pairs(tests, own)
        if not pairs:
            return None
        found = agreement_of(pairs)
        return Finding(
            found.text(),
            None
            if found.share >= LEAST_AGREEMENT
            else f"the approximation agrees in {found.share:.2f} only, the window is too small",
        )


def is_exact_copy(sample: Sample) -> bool:
    """Whether a sample is to be run exactly in a run that is approximate."""
    return sample.control == EXACT


def branch_of(sample: Sample) -> tuple[Hashable, ...]:
    """What a sample shows up to the last thing that is put into its haystack.

    Samples with equal ones are prefixes of one another as far as their haystack goes.
    """
    shown: tuple[FrameSpan | TextSpan | str, ...] = sample.shown
    if sample.text is not None:
        shown = sample.text
        while shown and isinstance(shown[-1], str):  # what follows the haystack of every sample
            shown = shown[:-1]
    last = shown[-1] if shown else None
    if last is None or isinstance(last, str) or last.source != HAYSTACK:
        return (*map(_key, shown), None)
    return (*map(_key, shown[:-1]), last.start)


def _key(piece: FrameSpan | TextSpan | str) -> Hashable:
    return piece if isinstance(piece, str) else (piece.source, piece.start, piece.stop)


R = TypeVar("R", bound=Row)


def exact_pairs(tests: Iterable[R], copies: Iterable[R]) -> list[tuple[R, R]]:
    """Results of samples, and those of their exact copies, where both have a score."""
    by_id = {row.sample_id: row for row in tests}
    found = [(by_id.get(row.sample_id.removesuffix(f"/{EXACT}")), row) for row in copies]
    return [
        (one, other)
        for one, other in found
        if one is not None and one.correct is not None and other.correct is not None
    ]


def agreement_of(pairs: Sequence[tuple[Row, Row]]) -> Agreement:
    """How far the first results of some pairs agree with the second; there is at least one."""
    differences = [
        abs(one.logprob - copy.logprob)
        for one, copy in pairs
        if one.logprob is not None and copy.logprob is not None
    ]
    return Agreement(
        len(pairs),
        sum(one.correct == copy.correct for one, copy in pairs),
        fmean(differences) if differences else None,
        max(differences, default=None),
    )


def draw_groups(sizes: Sequence[Sequence[int]], num_draws: int, random: Random) -> list[list[int]]:
    """Groups of samples to compute exactly, as their results are to stand for all.

    Draws go round all needles in a random order, so that no needle has two more than another. Each
    is independent of the others, and takes a group of its needle with a probability proportional to
    the group's samples; so a group may be drawn twice.

    Args:
        sizes: for each needle, the number of samples of each of its groups.
        num_draws: how many are drawn.
        random: draws them.

    Returns:
        For each needle the numbers of its groups, one for each draw.
    """
    order = list(range(len(sizes)))
    random.shuffle(order)
    found: list[list[int]] = [[] for _ in sizes]
    for draw in range(num_draws):
        needle = order[draw % len(order)]
        found[needle] += random.choices(range(len(sizes[needle])), weights=sizes[needle])
    return found
