"""Retention: accuracy against the time that has passed since the needle was shown.

Cells with equal needle and needle_index show the same frames up to their lengths, so all lengths
behind one needle are questions at different times in one forward pass (`--positions`). Any run of a
task whose samples record a ``needle_index`` has the curve: no sample is run for it.
"""

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from vniah.analysis.statistics.estimates import interval_of_samples
from vniah.analysis.statistics.intervals import require_confidence
from vniah.analysis.statistics.table import index_samples, is_right
from vniah.errors import ResultsError
from vniah.results import Results

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
        ``seconds`` since the needle, ``accuracy`` in [0, 1] of these needles on this film, ``low``
        and ``high`` of the interval for needles like these: Wilson's, or over needles where a point
        has several samples of each; NaN if samples do not say which needle they are about,
        ``num_samples``, ``num_correct``, ``num_errors`` and ``num_pending``. Samples that could not
        be run are in ``num_errors`` only, those that have not been run yet in ``num_pending``. A
        time at which none could be run has NaN for an accuracy. Cells of one row with the same
        time, such as all those of depth 1, are one point, over ``num_lengths`` lengths. Of an
        approximate run there is no interval, and the column ``approximate`` says so.

    Raises:
        ResultsError: no sample of the run has a ``needle_index``.
        InputError: the confidence is not between 0 and 1.
    """
    import pandas as pd

    require_confidence(confidence)
    index = index_samples(results)
    knows_needles = index.table(is_right).knows_needles
    groups: dict[tuple[Fraction, int], list[int]] = {}
    for place, sample in enumerate(index.samples):
        needle_index = sample.fields.get("needle_index")
        if sample.cell is not None and isinstance(needle_index, int):
            key = results.row_of(sample.cell), sample.cell.num_frames - needle_index
            groups.setdefault(key, []).append(place)
    if not groups:
        raise ResultsError(
            f"no sample of {results.path} has a needle_index, so the time since the needle is not "
            "known: give a run of a task that shows one needle, such as vniah"
        )
    pending: Counter[tuple[Fraction, int]] = Counter()
    for cell, count in results.pending_by_cell.items():
        pending[results.row_of(cell), cell.num_frames - cell.needle_index] += count
        groups.setdefault((results.row_of(cell), cell.num_frames - cell.needle_index), [])
    row_name = "position" if results.has_positions else "depth"
    rows = []
    for (row, seconds), places in sorted(groups.items()):
        done = [place for place in places if index.samples[place].correct is not None]
        scored = np.array([bool(index.samples[place].correct) for place in done], np.float64)
        interval = (
            interval_of_samples(index.needle[done], scored, confidence=confidence)
            if done and knows_needles and not results.is_approximate
            else None
        )
        rows.append(
            {
                row_name: int(row) if results.has_positions else float(row),
                "seconds": seconds,
                "accuracy": float(scored.mean()) if done else float("nan"),
                "low": float("nan") if interval is None else interval.low,
                "high": float("nan") if interval is None else interval.high,
                "num_lengths": len({index.samples[place].num_frames for place in done}),
                "num_samples": len(done),
                "num_correct": int(scored.sum()),
                "num_errors": len(places) - len(done),
                "num_pending": pending[row, seconds],
                **({"approximate": True} if results.is_approximate else {}),
            }
        )
    return pd.DataFrame(rows)
