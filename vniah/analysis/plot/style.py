"""Colours and sizes of all pictures."""

from typing import Any

from matplotlib.colors import LinearSegmentedColormap

COLORS = ("#F0496E", "#EBB839", "#9ad5b3")
"""Of scores of 0, 0.5 and 1, as published."""

MEASURE_COLORS = ("#f3f0df", "#8fb9c9", "#3d6f9e", "#1d2f5a")
"""Of measures, from the smallest value to the largest."""

INK = "#333333"
FAINT = "#777777"
LABEL_SIZE = 10.0  # points
SMALL_SIZE = 8.0
COLORBAR: dict[str, Any] = {"pad": 0.02, "aspect": 22}


def score_colors() -> LinearSegmentedColormap:
    """The colours of scores from 0 to 1."""
    return LinearSegmentedColormap.from_list("vniah", COLORS)


def measure_colors() -> LinearSegmentedColormap:
    """The colours of measures, from small to large.

    They say nothing of good and bad: a large error is bad, a large margin is not.
    """
    return LinearSegmentedColormap.from_list("vniah-measure", MEASURE_COLORS)
