"""What these needles lost between two runs on the same samples.

Argmax is deterministic, so a sample that was right and is wrong is a fact about these needles on
this film. The tests say only whether as many samples would rise as fell if each that differs were
as likely to do either: no other needle is meant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING

import numpy as np

from vniah.analysis.statistics.paired import adjust_holm, mcnemar_p_values, paired_table
from vniah.analysis.statistics.table import SampleTable, sample_table
from vniah.results import Results

if TYPE_CHECKING:
    from vniah.analysis.statistics.table import Floats, Mask

LEAST_DROP = 0.1
"""How far the average of these needles has to fall for a fall of it, by default."""


@dataclass(frozen=True)
class NeedleChange:
    """What one needle lost, or gained, over all its places.

    Attributes:
        needle: its name.
        num_samples: the number of its samples that both runs have a score of.
        num_right_before: how many of these the baseline has right.
        num_right_after: how many the candidate has right.
        p_value: of the exact sign test against a change in this direction, corrected by Holm's
            procedure for all needles.
    """

    needle: str
    num_samples: int
    num_right_before: int
    num_right_after: int
    p_value: float

    @property
    def num_lost(self) -> int:
        """How many more of its samples one run has right than the other."""
        return abs(self.num_right_before - self.num_right_after)

    @property
    def is_half(self) -> bool:
        """Whether that is at least half of its samples.

        Between checkpoints of the same quality needles that are found at few places are now found
        at more and now at fewer; half of such a score is no loss yet.
        """
        return 2 * self.num_lost >= self.num_samples


@dataclass(frozen=True)
class LossTests:
    """Tests against a loss of these needles, whatever others like them would have done.

    Attributes:
        drop: how far the mean over the cells fell, in [-1, 1].
        p_value: of the exact McNemar test of all samples against a fall.
        num_right_before: the number of samples that the baseline has right.
        fallen: the needles of which fewer samples are right than before.
        risen: the needles of which more are.
        knows_needles: whether the samples say which needle they are about; else both are empty.
    """

    drop: float
    p_value: float
    num_right_before: int
    fallen: tuple[NeedleChange, ...]
    risen: tuple[NeedleChange, ...]
    knows_needles: bool

    def lost(self, level: float) -> tuple[NeedleChange, ...]:
        """The needles of which fewer samples are right, by at least half of them, significantly."""
        return _half(self.fallen, level)

    def gained(self, level: float) -> tuple[NeedleChange, ...]:
        """The needles of which more samples are right, by at least half of them, significantly."""
        return _half(self.risen, level)

    def are_more_lost(self, level: float) -> bool:
        """Whether more needles are lost than gained."""
        return len(self.lost(level)) > len(self.gained(level))

    def is_drop(self, level: float, least_drop: float = LEAST_DROP) -> bool:
        """Whether the average fell by more than this, significantly."""
        return self.drop > least_drop + 1e-9 and self.p_value <= level

    def can_find_drop(self, level: float) -> bool:
        """Whether a fall of the average could be significant at all, if everything were lost."""
        return self.num_right_before >= -log2(level)


def loss_tests(before: Results, after: Results) -> LossTests:
    """Tests what the needles of two runs on the same samples lost.

    What only one of the runs has is left out; there must be a sample that both have.
    """
    changes = paired_table(before, after)
    paired = {sample.sample_id for sample in before.samples if sample.correct is not None}
    later = sample_table(
        after, lambda sample: sample.correct if sample.sample_id in paired else None
    )
    return losses_of(changes, later.values)


def losses_of(changes: SampleTable, right_after: "Floats") -> LossTests:
    """The same of a table of pairs.

    Args:
        changes: pairs, whose values are -1 (fallen), 0 and 1 (risen).
        right_after: ``[num_samples]``, 1.0 for each that the candidate has right, else 0.0.
    """
    values = changes.values
    right_before = right_after - values
    num_fallen, num_risen = int((values < 0).sum()), int((values > 0).sum())
    by_needle = _by_needle(changes, right_after) if changes.knows_needles else ((), ())
    return LossTests(
        -changes.mean,
        float(mcnemar_p_values(num_fallen, num_risen, alternative="less")),
        round(float(right_before.sum())),
        *by_needle,
        changes.knows_needles,
    )


def _by_needle(
    changes: SampleTable, right_after: "Floats"
) -> tuple[tuple[NeedleChange, ...], tuple[NeedleChange, ...]]:
    """The needles that fell, and those that rose."""
    values = changes.values
    size, old, new, down, up = (
        np.bincount(changes.needle, weights, len(changes.needles)).round().astype(int)
        for weights in (
            *(np.ones(len(values)), right_after - values, right_after),
            *(values < 0, values > 0),
        )
    )

    def where(has_changed: "Mask", p_values: "Floats") -> tuple[NeedleChange, ...]:
        adjusted = adjust_holm(p_values)
        return tuple(
            NeedleChange(
                changes.needles[k], int(size[k]), int(old[k]), int(new[k]), float(adjusted[k])
            )
            for k in np.flatnonzero(has_changed)
        )

    return (
        where(new < old, mcnemar_p_values(down, up, alternative="less")),
        where(new > old, mcnemar_p_values(down, up, alternative="greater")),
    )


def _half(changes: Sequence[NeedleChange], level: float) -> tuple[NeedleChange, ...]:
    found = (change for change in changes if change.is_half and change.p_value <= level)
    return tuple(sorted(found, key=lambda change: (-change.num_lost, change.needle)))
