"""What a run says, in numbers and in sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vniah.analysis.statistics.depth import DepthEffect, depth_effects
from vniah.analysis.statistics.effective import EffectiveLength, find_effective_length
from vniah.analysis.statistics.estimates import (
    NeedleEstimate,
    estimate_of,
    estimate_table,
    length_estimates,
)
from vniah.analysis.statistics.intervention import InterventionEffect, intervention_effect
from vniah.analysis.statistics.margins import MarginTrend, margin_trend
from vniah.analysis.statistics.partial import partial_lengths
from vniah.analysis.statistics.table import index_samples, sample_table
from vniah.analysis.statistics.verification import (
    NOT_VERIFIED,
    OF_THE_WHOLE,
    Verification,
    corrected_estimates,
    verify,
)
from vniah.results import AnyResults, Results, one_result
from vniah.results.once import once

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Summary:
    """What a run says; controls are not in it.

    Attributes:
        these_needles: the average over the cells: the score of these needles on this film, at the
            places that were measured. It has no interval, as the same run gives it again. None if
            no sample could be run.
        needles_like_these: what that says about needles like these; None if no sample could be run,
            or for a published table or an adaptive run, whose cells were chosen by their scores.
        at_other_depths: the same needles at other depths: the depths, or positions, are taken as a
            sample in place of the needles. None likewise.
        by_length: the same as ``needles_like_these`` at each number of frames; of an adaptive run
            at those that were measured at all depths.
        effective_length: the effective visual context length.
        depth_effects: the effects of depth on the score, tested.
        margin: how sure the model is where all answers are right; None if there is no such length,
            or nothing to tell it by.
        progress: how much of the test was run, in words; empty if nothing is pending.
        verification: of an approximate run, what its exactly computed samples say. Then what is
            said about needles like these, and the interval of the effective length, are of means
            that these samples correct; nothing is said of what has none, of depths and of margins.
        is_part: whether it is of a part of a run (`Results.part`).
        effect: what the intervention of the run changes; None if it applied nothing.
    """

    these_needles: float | None
    needles_like_these: NeedleEstimate | None
    at_other_depths: NeedleEstimate | None
    by_length: Mapping[int, NeedleEstimate]
    effective_length: EffectiveLength
    depth_effects: tuple[DepthEffect, ...]
    margin: MarginTrend | None
    progress: str = ""
    verification: Verification | None = None
    is_part: bool = False
    effect: InterventionEffect | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """What it says besides the average: one sentence a line."""
        lines = [f"{self.progress}; all that is said here is of these"] if self.progress else []
        if self.verification is not None:
            lines += self.verification.lines
            found = self.needles_like_these
            if found is not None and not found.is_narrow:
                lines[-1] += f"; {found.too_few}"
        elif self.needles_like_these is not None:
            lines.append(self.needles_like_these.text)
        elif self.effective_length.is_approximate and self.these_needles is not None:
            lines.append(
                f"scores are approximate; {OF_THE_WHOLE}"
                if self.is_part
                else f"scores are approximate, and {NOT_VERIFIED}: how far they are right is not "
                "known"
            )
        if self.these_needles is not None:
            lines.append(self.effective_length.text)
        lines += [effect.text for effect in self.depth_effects if effect.is_significant]
        if self.margin is not None:
            lines.append(self.margin.text)
        if self.effect is not None:
            lines.append(self.effect.text)
        return tuple(lines)

    def to_pandas(self) -> "pd.DataFrame":
        """A row for the run, whose ``num_frames`` is missing, and one for each number of frames.

        Of an approximate run the score is the corrected one, and the columns ``approximate`` and
        ``corrected`` are true.
        The columns are ``num_frames``, ``these_needles`` (the score), ``low`` and ``high`` (of the
        interval for needles like these; NaN where it is not known), ``num_needles`` and
        ``is_narrow`` (whether these needles are enough for a claim).
        """
        import pandas as pd

        rows = [(None, self.needles_like_these), *self.by_length.items()]
        found = [(length, one) for length, one in rows if one is not None]
        intervals = [one.interval for _, one in found]
        nan, is_approximate = float("nan"), self.effective_length.is_approximate
        return pd.DataFrame(
            {
                "num_frames": pd.array([length for length, _ in found], dtype="Int64"),
                "these_needles": [one.mean for _, one in found],
                "low": [nan if interval is None else interval.low for interval in intervals],
                "high": [nan if interval is None else interval.high for interval in intervals],
                "num_needles": [one.num_needles for _, one in found],
                "is_narrow": [one.is_narrow for _, one in found],
                **dict.fromkeys(("approximate", "corrected") if is_approximate else (), True),
            }
        )


def summarize(
    results: AnyResults,
    *,
    threshold: float = 0.9,
    half_width: float = 0.1,
    confidence: float = 0.95,
) -> Summary:
    """What a run says about its needles, and about needles like these.

    Args:
        results: a run, also one that is not complete, or a published table, which has no
            intervals; or the path of one.
        threshold: the score that the effective visual context length asks for.
        half_width: the half-width of an interval that is narrow enough for a claim.
        confidence: of all intervals.

    Raises:
        ResultsError: there are no results at the path.
        InputError: one of the numbers is not between 0 and 1.
    """
    return _summary(one_result(results), threshold, half_width, confidence)


@once
def _summary(results: Results, threshold: float, half_width: float, confidence: float) -> Summary:
    index, table = index_samples(results), sample_table(results)
    effective = find_effective_length(
        results, threshold=threshold, confidence=confidence, index=index
    )
    by_length = length_estimates(table, confidence=confidence, half_width=half_width)
    if results.is_adaptive:  # scores decided which cells were measured
        lengths = partial_lengths(results, index=index)
        whole = {length.num_frames for length in lengths if length.is_whole}
        by_length = {length: one for length, one in by_length.items() if length in whole}
        return Summary(
            results.average, None, None, by_length, effective, (), None, results.progress
        )
    if results.stopped_early:
        return Summary(results.average, None, None, {}, effective, (), None, results.progress)
    if results.approximation is not None:
        return _approximate_summary(results, effective, half_width, confidence)
    like_these = other_depths = None
    if len(table.values):
        like_these = estimate_table(table, confidence=confidence, half_width=half_width)
        rows = table.row_values(results.row_of)
        other_depths = estimate_of(rows, confidence=confidence, half_width=half_width)
    return Summary(
        results.average,
        like_these,
        other_depths,
        by_length,
        effective,
        depth_effects(table, confidence=confidence),
        margin_trend(results, confidence=confidence, index=index),
        results.progress,
        effect=intervention_effect(results, confidence),
    )


def _approximate_summary(
    results: Results, effective: EffectiveLength, half_width: float, confidence: float
) -> Summary:
    """Of an approximate run: means that its exactly computed samples correct."""
    found = verify(results, confidence)
    like_these, by_length = corrected_estimates(
        results, confidence=confidence, half_width=half_width
    )
    return Summary(
        results.average,
        like_these,
        None,
        by_length,
        effective,
        (),
        None,
        results.progress,
        found,
        is_part=bool(results.part),
    )
