"""The effective visual context length, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt

from scipy.special import ndtri

from vniah.analysis.statistics.estimates import exact_branches, percent_of
from vniah.analysis.statistics.intervals import Interval, require_confidence
from vniah.analysis.statistics.lengths import effective_length, require_threshold
from vniah.analysis.statistics.means import FEW_NEEDLES, score_interval
from vniah.analysis.statistics.partial import LengthBounds, partial_lengths
from vniah.analysis.statistics.table import SampleIndex, SampleTable, index_samples
from vniah.analysis.statistics.verification import verify
from vniah.errors import counted
from vniah.results import Axis, CellScore, Results

_ROUNDING = 1e-9
_MOST_NAMED = 5  # lengths


@dataclass(frozen=True)
class EffectiveLength:
    """The largest length up to which a model finds the needle: at it, and at every shorter one that
    was measured, the score is at least the threshold.

    Attributes:
        threshold: the score that is enough, in [0, 1].
        num_frames: the length for these needles on this film; None if the score is too low at the
            shortest length. Samples that could not be run count as wrong.
        measured: the lengths that are complete, ascending; empty if there is none. Of an adaptive
            run, all lengths of its grid.
        low: the largest length of which it is shown that needles like these are found up to there;
            None if that is shown of no length.
        high: the largest length that is not shown to be too long for needles like these; None if
            the shortest is.
        has_interval: whether ``low`` and ``high`` are known; they are not for published tables,
            where samples name no needle, and from fewer than ten needles.
        num_needles: number of needles; 0 where samples name none.
        left_out: the lengths that are not complete yet, ascending; they are not in ``measured``.
        confidence: how often ``low`` and ``high`` are both right.
        axis: what lengths count, as in `Results`.
        tokens_per_frame: number of tokens that the model reads for a frame, if known.
        seconds_per_frame: seconds of video in a frame: 1 in a run; None in a published table, which
            does not say it.
        is_adaptive: whether only some lengths of the grid were measured, as an adaptive run chose
            them. Those between two that are good enough count as good enough, too.
        at_most: the largest length that an adaptive run leaves possible for these needles; None if
            the score is too low at the shortest length, and for other runs.
        with_errors: the lengths at which samples could not be run, ascending.
        num_errors: number of these samples.
        unit: what stands in the place of needles, as `Results.cluster`.
        is_approximate: whether ``num_frames`` is by approximate scores. ``low`` and ``high`` are by
            scores that exactly computed samples correct.
        num_verified: number of branches of an approximate run that were drawn and computed exactly.
    """

    threshold: float
    num_frames: int | None
    measured: tuple[int, ...]
    low: int | None = None
    high: int | None = None
    has_interval: bool = False
    num_needles: int = 0
    left_out: tuple[int, ...] = ()
    confidence: float = 0.95
    axis: Axis = "frames"
    tokens_per_frame: int | None = None
    seconds_per_frame: int | None = 1
    is_adaptive: bool = False
    at_most: int | None = None
    with_errors: tuple[int, ...] = ()
    num_errors: int = 0
    unit: str = "needle"
    is_approximate: bool = False
    num_verified: int = 0

    @property
    def seconds(self) -> int | None:
        """The length as seconds of video; None if there is none, or it is unknown."""
        if self.num_frames is None or self.seconds_per_frame is None or self.axis != "frames":
            return None
        return self.num_frames * self.seconds_per_frame

    @property
    def tokens(self) -> int | None:
        """The length as visual tokens of the haystack; None if there is none, or it is unknown."""
        if self.num_frames is None or self.axis == "tokens":
            return self.num_frames
        return None if self.tokens_per_frame is None else self.num_frames * self.tokens_per_frame

    @property
    def num_needed(self) -> int | None:
        """The fewest needles that can show it for needles like these, if none of them is missed.

        None if the threshold is 1: no number of needles shows that none is missed. Of an
        approximate run as many branches have to be computed exactly as well, all of them equal at
        each length: both unknown shares are added by squares (`corrected_part`).
        """
        if self.threshold == 1:
            return None
        square = float(ndtri((1 + self.confidence) / 2)) ** 2
        if self.is_approximate:
            return max(1, ceil(square * (sqrt(2) / (1 - self.threshold) - 1)))
        return max(1, ceil(self.threshold * square / (1 - self.threshold)))

    @property
    def text(self) -> str:
        """What it says, in one sentence."""
        what = "context" if self.axis == "tokens" else "visual context"
        name = f"effective {what} length (score at least {self.threshold:g} up to there)"
        if self.is_approximate:
            name = f"approximate {name}"
        left_out = f"; {self.without}" if self.without else ""
        if not self.measured:
            return f"{name}: not known, no length is complete{left_out}"
        text = f"{name}: with these {self.unit}s {self._point}"
        if self.has_interval:
            text += f"; with {self.unit}s like these {self._range}"
        elif self.num_needles:
            # Ten can show that a length is too long; that it is not too long takes more.
            needed = FEW_NEEDLES if self.num_frames is None else (self.num_needed or FEW_NEEDLES)
            text += f"; with {self.unit}s like these {self._not_known(max(FEW_NEEDLES, needed))}"
        errors = f"; {self.about_errors}" if self.about_errors else ""
        return text + left_out + errors

    @property
    def without(self) -> str:
        """Which lengths it leaves out, and why; empty if none."""
        if not self.left_out:
            return ""
        return f"without {self._lengths(self.left_out)}, where not all samples have been run"

    @property
    def about_errors(self) -> str:
        """How samples that could not be run count; empty if there are none."""
        if not self.num_errors:
            return ""
        samples = counted(self.num_errors, "sample")
        count = "counts" if self.num_errors == 1 else "count"
        return (
            f"{samples} at {self._lengths(self.with_errors)} could not be run and {count} as wrong"
        )

    @property
    def short(self) -> tuple[str, str]:
        """Both for a table, without a unit: for these needles, and for needles like these."""
        if not self.measured:
            return ".", "."
        shortest, longest = f"{self.measured[0]:,}", self.measured[-1]
        if self._is_range:
            point = f"{0 if self.num_frames is None else self.num_frames:,}-{self.at_most:,}"
        elif self.num_frames is None:
            point = f"< {shortest}"
        else:
            point = f"{'>= ' * (self.num_frames == longest)}{self.num_frames:,}"
        if not self.has_interval or (self.low is None and self.high == longest):
            return point, "."
        if self.high is None:
            return point, f"< {shortest}"
        if self.low is None:
            return point, f"<= {self.high:,}"
        if self.high == longest:
            return point, f">= {self.low:,}"
        return point, f"{self.low:,}" if self.low == self.high else f"{self.low:,}-{self.high:,}"

    @property
    def short_with_unit(self) -> str:
        """For these needles, with a unit where there is a length: ``">= 512 frames"``."""
        these = self.short[0]
        if these == ".":
            return these
        is_one = these.split()[-1] == "1"
        return f"{these} {self.axis.removesuffix('s') if is_one else self.axis}"

    @property
    def _is_range(self) -> bool:
        """Whether an adaptive run left open which of several lengths it is."""
        return self.is_adaptive and self.at_most is not None and self.at_most != self.num_frames

    @property
    def _point(self) -> str:
        if self._is_range:
            assert self.at_most is not None
            least = "at most" if self.num_frames is None else f"{self.num_frames:,} to"
            return f"{least} {self._spelled(self.at_most)}, as not all lengths were measured"
        if self.num_frames is None:
            return f"below {self._spelled(self.measured[0])}, the shortest measured"
        if self.num_frames == self.measured[-1]:
            return f"at least {self._spelled(self.num_frames)}, the longest measured"
        return self._spelled(self.num_frames)

    @property
    def _range(self) -> str:
        percent = percent_of(self.confidence)
        is_open = self.high == self.measured[-1]
        if self.high is None:
            return f"below {self._counted(self.measured[0])} ({percent})"
        if self.low is None and is_open:
            return self._not_known(self.num_needed or 0)
        if self.low is None:
            return f"at most {self._counted(self.high)} ({percent})"
        if is_open:
            return f"at least {self._counted(self.low)} ({percent})"
        if self.low == self.high:
            return f"the same ({percent})"
        return f"{self.low:,} to {self._counted(self.high)} ({percent})"

    def _not_known(self, needed: int) -> str:
        """That these needles are too few, and how many it takes at least."""
        if self.is_approximate:
            return self._not_verified(needed)
        is_more = needed > self.num_needles
        fewest = f", which takes {needed:,} {self.unit}s or more" if is_more else ""
        percent = percent_of(self.confidence)
        return f"not known from {counted(self.num_needles, self.unit)}{fewest} ({percent})"

    def _not_verified(self, needed: int) -> str:
        """The same of an approximate run, which takes exactly computed branches, too."""
        needles = counted(self.num_needles, self.unit)
        text = f"not known from {needles} and {exact_branches(self.num_verified)}"
        percent = percent_of(self.confidence)
        if not needed or self.threshold == 1:
            return f"{text} ({percent})"
        # Branches with one length each share the draws among the lengths.
        most = needed * len(self.measured)
        to = f" ({most:,} where every branch has one length)" * (most > needed)
        more = f"{needed:,} {self.unit}s or more and " * (self.num_needles < needed)
        return f"{text}, which takes {more}--verify {needed:,} or more{to} ({percent})"

    def _lengths(self, lengths: Sequence[int]) -> str:
        """Some lengths by name, or how many and from where to where: ``"128 and 256 frames"``."""
        if len(lengths) > _MOST_NAMED:
            return f"{len(lengths):,} lengths from {lengths[0]:,} to {self._counted(lengths[-1])}"
        first = ", ".join(f"{length:,}" for length in lengths[:-1])
        return f"{first} and {self._counted(lengths[-1])}" if first else self._counted(lengths[0])

    def _counted(self, num_frames: int) -> str:
        return counted(num_frames, self.axis.removesuffix("s"))

    def _spelled(self, num_frames: int) -> str:
        """The length in frames, and in seconds and in tokens where these are known."""
        if self.axis == "tokens":
            return self._counted(num_frames)
        seconds = self.seconds_per_frame if self.axis == "frames" else None
        tokens = self.tokens_per_frame
        others = [
            *([] if seconds is None else [f"{num_frames * seconds:,} s"]),
            *([] if tokens is None else [counted(num_frames * tokens, "token")]),
        ]
        return self._counted(num_frames) + (f" ({', '.join(others)})" if others else "")


def find_effective_length(
    results: Results,
    *,
    threshold: float = 0.9,
    confidence: float = 0.95,
    index: SampleIndex | None = None,
) -> EffectiveLength:
    """The effective visual context length of a run, and its interval for needles like these.

    The interval takes at least ten needles, as every claim about needles like these. It inverts
    tests of the lengths, by the intervals of their scores (`score_interval` over the needles), each
    end at an error of half of ``1 - confidence``. From the shortest length on, lengths belong below
    ``low`` as long as the lower end of their score's interval is at least the threshold. From the
    longest length back, they lie above ``high`` as long as the upper end is below it. As each goes
    in a fixed order and stops at the first test that does not reject, the errors of several tests
    do not add up. Source: P. H. Westfall and A. Krishen, "Optimally weighted, fixed sequence and
    gatekeeper multiple testing procedures", Journal of Statistical Planning and Inference 99
    (2001).

    Samples that could not be run count as wrong for ``low`` and as right for ``high``, so that both
    hold whatever they would have given. Lengths at which a planned sample has no line yet are left
    out; in an adaptive run its cells have bounds (`vniah.analysis.statistics.partial`).

    Args:
        results: a run, or a published table, which has no interval.
        threshold: the score that is enough, in [0, 1].
        confidence: how often both ends are right.
        index: the samples of the run, if it is there already.

    Raises:
        InputError: the threshold is not in [0, 1], or the confidence not between 0 and 1.
    """
    require_threshold(threshold)
    require_confidence(confidence)
    if results.is_adaptive:
        return _of_adaptive_run(results, threshold, confidence, index)
    pending = pending_lengths(results)
    cells = [found for found in results.cells if found.cell.num_frames not in pending]
    with_score = sorted({found.cell.num_frames for found in cells if _is_measured(found)})
    known = EffectiveLength(
        threshold,
        effective_length(cells, threshold=threshold),
        tuple(with_score),
        left_out=tuple(sorted(pending)),
        with_errors=tuple(sorted({one.cell.num_frames for one in cells if one.num_errors})),
        num_errors=sum(found.num_errors for found in cells),
        confidence=confidence,
        axis=results.axis,
        tokens_per_frame=results.tokens_per_frame,
        seconds_per_frame=1 if results.has_seconds or results.axis == "tokens" else None,
        unit=results.cluster,
        is_approximate=results.approximation is not None,
    )
    index = index or index_samples(results)
    least = index.table(lambda sample: bool(sample.correct))
    if not least.knows_needles or not with_score:
        return known
    known = replace(known, num_needles=len(least.needles))
    if known.is_approximate and (verified := verify(results, confidence)) is not None:
        known = replace(known, num_verified=verified.num_draws)
    if known.num_needles < FEW_NEEDLES:
        return known
    if known.is_approximate:
        corrected = _corrected_intervals(results, known, confidence)
        low, high = range_of_lengths(with_score, corrected, corrected, threshold=threshold)
        return replace(known, low=low, high=high, has_interval=True)

    def intervals(table: SampleTable) -> list[Interval]:
        values = (table.at_length(length).needle_values() for length in with_score)
        return [score_interval(value, confidence=confidence) for value in values]

    lowest = highest = intervals(least)
    if any(found.num_errors for found in cells):
        highest = intervals(index.table(lambda sample: sample.correct is not False))
    low, high = range_of_lengths(with_score, lowest, highest, threshold=threshold)
    return replace(known, low=low, high=high, has_interval=True)


def _corrected_intervals(
    results: Results, known: EffectiveLength, confidence: float
) -> list[Interval]:
    """The intervals of an approximate run's lengths; of one without exact samples all of [0, 1]."""
    found = verify(results, confidence)
    by_length = {} if found is None else found.corrected_by_length
    return [
        by_length[length].like
        if length in by_length and length not in known.with_errors
        else Interval(0.0, 1.0)
        for length in known.measured
    ]


def _of_adaptive_run(
    results: Results, threshold: float, confidence: float, index: SampleIndex | None
) -> EffectiveLength:
    """The same of a run that measured some cells, whose other cells have bounds."""
    index = index or index_samples(results)
    lengths = partial_lengths(results, index=index)
    is_known = any(length.scores for length in lengths)
    num_needles = len(index.needles) if any(one.needles is not None for one in lengths) else 0
    has_interval = num_needles >= FEW_NEEDLES
    bounds = LengthBounds(lengths, threshold=threshold, confidence=confidence)
    found = bounds.find()
    return EffectiveLength(
        threshold,
        found.at_least,
        tuple(length.num_frames for length in lengths if is_known),
        low=found.low if has_interval else None,
        high=found.high if has_interval else None,
        has_interval=has_interval,
        num_needles=num_needles,
        confidence=confidence,
        axis=results.axis,
        tokens_per_frame=results.tokens_per_frame,
        seconds_per_frame=1 if results.has_seconds or results.axis == "tokens" else None,
        unit=results.cluster,
        is_adaptive=True,
        at_most=found.at_most,
        with_errors=tuple(sorted({one.cell.num_frames for one in results.cells if one.num_errors})),
        num_errors=sum(one.num_errors for one in results.cells),
    )


def range_of_lengths(
    lengths: Sequence[int],
    lowest: Sequence[Interval],
    highest: Sequence[Interval],
    *,
    threshold: float,
) -> tuple[int | None, int | None]:
    """The ends of an interval of the effective length (`find_effective_length`).

    Args:
        lengths: at least one, ascending.
        lowest: for each of them the interval of its score whose lower end counts.
        highest: the same whose upper end counts.
        threshold: the score that is enough.

    Returns:
        The largest length that is shown to be short enough, and the largest that is not shown to be
        too long; None for none.
    """
    low = high = None
    for length, interval in zip(lengths, lowest, strict=True):
        if interval.low < threshold - _ROUNDING:
            break
        low = length
    for length, interval in zip(reversed(lengths), reversed(highest), strict=True):
        if interval.high >= threshold - _ROUNDING:
            high = length
            break
    return low, high


def _is_measured(found: CellScore) -> bool:
    return found.score is not None or found.num_errors > 0


def pending_lengths(results: Results) -> set[int]:
    """The lengths at which a planned sample of the test has no line yet."""
    return {cell.num_frames for cell in results.pending_by_cell}
