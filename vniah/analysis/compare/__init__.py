"""The regression gate: is a run as good as an earlier one?"""

from vniah.analysis.compare.changes import CellChange, Finding
from vniah.analysis.compare.comparison import Comparison, assert_no_regression, compare
from vniah.analysis.compare.early import EarlyComparison, compare_early
from vniah.analysis.compare.rules import Rules

__all__ = [
    "CellChange",
    "Comparison",
    "EarlyComparison",
    "Finding",
    "Rules",
    "assert_no_regression",
    "compare",
    "compare_early",
]
