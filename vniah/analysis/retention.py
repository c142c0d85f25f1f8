"""Retention: accuracy against the time that has passed since the needle was shown.

Cells with equal needle and needle_index show the same frames up to their lengths, so all lengths
behind one needle are questions at different times in one forward pass (`--positions`). Any run of a
task whose samples record a ``needle_index`` has the curve: no sample is run for it.
"""

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from vniah.analysis.statistics.estimates import interval_of_samples
from vniah.analysis.statistics.table import UNKNOWN
from vniah.errors import ResultsError
from vniah.results import Results, SampleResult

if TYPE_CHECKING:
    import pandas as pd


def retention(results: Results, *, confidence: float = 0.95) -> "pd.DataFrame":
    """The accuracy of a run against the seconds of haystack behind the needle.

    There is a curve for each row of the map: each depth, or each position. The time since the
    needle is num_frames - needle_index: the haystack frames between the needle and the question,
    each a second at 1 FPS.

    Args:
        results: a run of a task whose samples have a ``needle_index``.
        confidence: of the intervals.

    Returns:
        A row for each curve and time, ordered by both: ``depth`` (a float) or ``position``,
        ``seconds`` since the needle, ``accuracy`` in [0, 1], ``low`` and ``high`` of the
        interval for needles like these: Wilson's, or over needles where a point has several samples
        of each, ``num_samples``, ``num_correct`` and ``num_errors``. Samples that could not be run
        are in ``num_errors`` only. A time at which none could be run has NaN for an accuracy. Cells
        of one row with the same time, such as all those of depth 1, are one point.

    Raises:
        ResultsError: no sample of the run has a ``needle_index``.
        InputError: the confidence is not between 0 and 1.
    """
    import pandas as pd

    groups: dict[tuple[Fraction, int], list[SampleResult]] = {}
    for sample in results.samples:
        index = sample.fields.get("needle_index")
        if sample.cell is not None and isinstance(index, int):
            key = results.row_of(sample.cell), sample.cell.num_frames - index
            groups.setdefault(key, []).append(sample)
    if not groups:
        raise ResultsError(
            f"no sample of {results.path} has a needle_index, so the time since the needle is not "
            "known: give a run of a task that shows one needle, such as vniah"
        )
    row_name = "position" if results.has_positions else "depth"
    rows = []
    for (row, seconds), samples in sorted(groups.items()):
        done = [sample for sample in samples if sample.correct is not None]
        scored = [bool(sample.correct) for sample in done]
        numbers: dict[str | None, int] = {None: UNKNOWN}
        needles = [numbers.setdefault(sample.needle_id, len(numbers)) for sample in done]
        interval = (
            interval_of_samples(np.array(needles), np.array(scored, float), confidence=confidence)
            if done
            else None
        )
        rows.append(
            {
                row_name: int(row) if results.has_positions else float(row),
                "seconds": seconds,
                "accuracy": sum(scored) / len(scored) if scored else float("nan"),
                "low": float("nan") if interval is None else interval.low,
                "high": float("nan") if interval is None else interval.high,
                "num_samples": len(scored),
                "num_correct": sum(scored),
                "num_errors": len(samples) - len(scored),
            }
        )
    return pd.DataFrame(rows)
