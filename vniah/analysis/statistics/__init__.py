"""Statistics of runs: intervals, the effective visual context length, tests.

A score is about one of two things. *These needles on this film* were measured: an argmax is the
same whenever it is repeated, so this score has no error of chance. *Needles like these* were not:
the needles of the run are a sample of them. What is drawn at random is a needle, not a sample of
the run, since all samples of one needle share what makes it easy or hard.

What is exported here loads neither numpy nor scipy; the other modules do.
"""

from vniah.analysis.statistics.intervals import Interval, wilson_interval
from vniah.analysis.statistics.lengths import effective_length, exact_score

__all__ = ["Interval", "effective_length", "exact_score", "wilson_interval"]
